"""Newton's method for collocated problems."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import sparse

from mackeyglass.collocation import Factorisation, Problem, Solution, linearise
from mackeyglass.errors import ContinuationError


def solve(
    problem: Problem,
    start: Solution,
    free: Sequence[str] = (),
    *,
    reference: Solution | None = None,
    rows: Float[np.ndarray, "rows unknowns"] | None = None,
    levels: Float[np.ndarray, "rows"] | None = None,
    tolerance: float = 1e-9,
    max_iterations: int = 12,
) -> tuple[Solution, int]:
    """Solution near `start`, and the number of iterations.

    Parameters
    ----------
    free
        Parameters that are unknowns too.
    reference
        What fixes phases; by default `start`.
    rows, levels
        Further linear equations ``rows @ solution.vector(free) = levels``, as many as make the system square.
    tolerance
        Bound on the last correction, relative to the largest unknown. As the method converges quadratically, the error is
        about its square, or rounding.

    Raises
    ------
    ContinuationError
        If an iterate is not finite or the corrections do not become small.
    """
    reference = start if reference is None else reference
    solution, size = start, np.inf
    for iteration in range(1, max_iterations + 1):
        value, jacobian = linearise(problem, solution, free, reference)
        vector = solution.vector(free)
        if rows is not None:
            assert levels is not None
            value = np.concatenate([value, rows @ vector - levels])
            jacobian = sparse.vstack([jacobian, sparse.coo_array(rows)], format="csr")
        correction = -_solve(jacobian, value)
        size = np.abs(correction).max() / (1 + np.abs(vector).max())
        if not np.isfinite(size) or vector[solution.values.size] + correction[solution.values.size] <= 0:
            break
        solution = solution.updated(vector + correction, free)
        if size <= tolerance:
            return solution, iteration
    raise ContinuationError(
        f"Newton's method did not converge in {max_iterations} iterations (last correction {size:.1e}) near "
        f"{_where(start)}; start closer to a solution, take smaller steps or a finer mesh"
    )


def null_vector(
    problem: Problem, solution: Solution, free: Sequence[str], along: Float[np.ndarray, "unknowns"]
) -> Float[np.ndarray, "unknowns"]:
    """Tangent of a curve of solutions: the null vector of the Jacobian, not normalised, with a positive product with `along`."""
    _, jacobian = linearise(problem, solution, free, solution)
    square = sparse.vstack([jacobian, sparse.coo_array(along[None])], format="csr")
    return _solve(square, np.append(np.zeros(jacobian.shape[0]), 1.0))


def _solve(matrix: sparse.csr_array, right: np.ndarray) -> np.ndarray:
    rows, columns = matrix.shape
    if rows != columns:
        raise ValueError(f"{rows} equations for {columns} unknowns: free as many parameters as the problem determines")
    with np.errstate(all="ignore"):
        try:
            return Factorisation(matrix).solve(right)
        except RuntimeError:  # exactly singular
            return np.full(columns, np.nan)


def _where(solution: Solution) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in solution.parameters.items()) + f", T={solution.period:g}"
