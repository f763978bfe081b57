"""Newton's method for collocated problems."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.sparse.linalg import splu

from mackeyglass.collocation import Problem, Solution, linearise
from mackeyglass.errors import ContinuationError


@dataclass(frozen=True, eq=False)
class Converged:
    """A solution, how many iterations led to it, and the last Jacobian, at a point a negligible correction away.

    `tangent` is the null vector of that Jacobian whose product with the further row is 1; empty where there was no row.
    """

    solution: Solution
    iterations: int
    jacobian: sparse.csc_array
    tangent: Float[np.ndarray, "unknowns"]


def solve(
    problem: Problem,
    start: Solution,
    free: Sequence[str] = (),
    *,
    reference: Solution | None = None,
    row: Float[np.ndarray, "unknowns"] | None = None,
    level: float = 0.0,
    tolerance: float = 1e-9,
    max_iterations: int = 12,
) -> Converged:
    """Solution near `start`.

    Parameters
    ----------
    free
        Parameters that are unknowns too.
    reference
        What fixes phases; by default `start`.
    row, level
        A further equation ``row @ solution.vector(free) = level``, for a problem with one unknown more than equations.
    tolerance
        Bound on the last correction, relative to the largest unknown. As the method converges quadratically, the error
        is about its square, or rounding.

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
        if row is None:
            right = value[:, None]
        else:
            right = np.stack([np.append(value, row @ vector - level), _unit(jacobian)], axis=1)
        solved = solve_linear(jacobian if row is None else _bordered(jacobian, row), right)
        correction = -solved[:, 0]
        size = np.abs(correction).max() / (1 + np.abs(vector).max())
        period = solution.values.size  # its position
        if not np.isfinite(size) or vector[period] + correction[period] <= 0:
            break
        solution = solution.updated(vector + correction, free)
        if size <= tolerance:
            return Converged(solution, iteration, jacobian, solved[:, -1] if row is not None else np.empty(0))
    raise ContinuationError(
        f"Newton's method did not converge in {max_iterations} iterations (last correction {size:.1e}) near "
        f"{_where(start)}; start closer to a solution, take smaller steps or a finer mesh"
    )


def null_vector(jacobian: sparse.csc_array, along: Float[np.ndarray, "unknowns"]) -> Float[np.ndarray, "unknowns"]:
    """Null vector of a Jacobian with one row less than columns; its product with `along` is 1."""
    return solve_linear(_bordered(jacobian, along), _unit(jacobian))


def _unit(jacobian: sparse.csc_array) -> Float[np.ndarray, "unknowns"]:
    """Right-hand side of a null vector of the Jacobian with one row more."""
    return np.append(np.zeros(size_of(jacobian)[0]), 1.0)


def solve_linear(
    matrix: sparse.csc_array, right: Float[np.ndarray, "equations *columns"]
) -> Float[np.ndarray, "equations *columns"]:
    """Solution of a sparse linear system; NaN where it is singular."""
    rows, columns = size_of(matrix)
    if rows != columns:
        raise ValueError(f"{rows} equations for {columns} unknowns: free as many parameters as the problem determines")
    try:
        return splu(matrix).solve(right)
    except RuntimeError:  # exactly singular
        return np.full_like(right, np.nan)


def size_of(matrix: sparse.csc_array) -> tuple[int, int]:
    """Rows and columns."""
    return cast(tuple[int, int], matrix.shape)


def _bordered(jacobian: sparse.csc_array, row: np.ndarray) -> sparse.csc_array:
    """The matrix with one row more, without scipy's slower general stacking."""
    rows, columns = size_of(jacobian)
    ends = jacobian.indptr[1:]
    data = np.insert(jacobian.data, ends, row)
    indices = np.insert(jacobian.indices, ends, rows)
    pointers = jacobian.indptr + np.arange(columns + 1)
    return sparse.csc_array((data, indices, pointers), shape=(rows + 1, columns))


def _where(solution: Solution) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in solution.parameters.items()) + f", T={solution.period:g}"
