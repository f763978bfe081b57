"""Newton's method for collocated problems."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.sparse.linalg import splu

from mackeyglass.collocation import Problem, Solution, linearise, residual
from mackeyglass.errors import ContinuationError

MOST = 12  # Jacobians
TOLERANCE = 1e-9  # of the last correction, relative to the largest unknown
NEGLIGIBLE = 1e-14  # the correction that would follow it
KEPT = 1e-4  # correction below which a Jacobian serves on
CONTRACTION = 1e-2  # of corrections while it does; where they shrink less a new one is made
DIFFERENCE = 1e-7  # for a derivative along the curve
ACCURACY = 1e-6  # of a tangent, relative to it


@dataclass(frozen=True, eq=False)
class Converged:
    """A solution.

    `iterations` is about how many Jacobians it would have taken if none had served twice. `tangent` is the null vector
    whose product with the further row is 1, to 1e-6 or so; empty where there was no row.
    """

    solution: Solution
    iterations: int
    tangent: Float[np.ndarray, "unknowns"]


def solve(
    problem: Problem,
    start: Solution,
    free: Sequence[str] = (),
    *,
    reference: Solution | None = None,
    row: Float[np.ndarray, "unknowns"] | None = None,
    level: float = 0.0,
) -> Converged:
    """Solution near `start`, to rounding.

    Parameters
    ----------
    free
        Parameters that are unknowns too.
    reference
        What fixes phases; by default `start`.
    row, level
        A further equation ``row @ solution.vector(free) = level``, for a problem with one unknown more than equations.

    Raises
    ------
    ContinuationError
        If an iterate is not finite or the corrections do not become small.
    """
    reference = start if reference is None else reference
    solution, size, iterations = start, np.inf, 1
    for _ in range(MOST):
        value, jacobian = linearise(problem, solution, free, reference)
        inverse = factorised(jacobian if row is None else _bordered(jacobian, row))
        for kept in itertools.count():
            vector, before = solution.vector(free), size
            correction = -inverse(value if row is None else np.append(value, row @ vector - level))
            size = float(np.abs(correction).max() / (1 + np.abs(vector).max()))
            period = start.values.size  # its position
            if not np.isfinite(size) or vector[period] + correction[period] <= 0:
                raise _failure(start, size)
            solution = solution.updated(vector + correction, free)
            contraction = size / before if kept else 0.0
            if size <= TOLERANCE and size * contraction <= NEGLIGIBLE:
                tangent = np.empty(0) if row is None else inverse(_unit(jacobian))
                if kept and row is not None:
                    tangent = _renewed(problem, solution, free, reference, row, inverse, tangent)
                return Converged(solution, iterations, tangent)
            if not kept:
                iterations += int(size > TOLERANCE)
            if size > KEPT or contraction > CONTRACTION:
                break
            if kept == 1:
                iterations += _large(size, size / before**2)
            value = residual(problem, solution, reference)
    raise _failure(start, size)


def _renewed(
    problem: Problem,
    solution: Solution,
    free: Sequence[str],
    reference: Solution,
    row: Float[np.ndarray, "unknowns"],
    inverse: Callable[[np.ndarray], np.ndarray],
    tangent: Float[np.ndarray, "unknowns"],
) -> Float[np.ndarray, "unknowns"]:
    """The null vector at a solution, from that of an older Jacobian and the derivative of the equations along it."""
    vector, before = solution.vector(free), np.abs(tangent).max()
    for _ in range(3):
        step = DIFFERENCE * (1 + np.abs(vector).max()) / np.abs(tangent).max()
        ahead = solution.updated(vector + step * tangent, free)
        change = inverse(np.append(residual(problem, ahead, reference) / step, 0.0))
        tangent, size = tangent - change, np.abs(change).max()
        if size * (size / before) <= ACCURACY * np.abs(tangent).max():  # the next change, as changes shrink linearly
            return tangent
        before = size
    return null_vector(linearise(problem, solution, free, reference)[1], row)


def _large(size: float, curvature: float) -> int:
    """How many corrections exceed `TOLERANCE` from one on, each being `curvature` times the square of that before."""
    return 1 + _large(curvature * size**2, curvature) if size > TOLERANCE else 0


def _failure(start: Solution, size: float) -> ContinuationError:
    where = ", ".join(f"{name}={value:g}" for name, value in start.parameters.items())
    return ContinuationError(
        f"Newton's method did not converge in {MOST} iterations (last correction {size:.1e}) near {where}, "
        f"T={start.period:g}; start closer to a solution, take smaller steps or a finer mesh"
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
    return factorised(matrix)(right)


def factorised(matrix: sparse.csc_array) -> Callable[[np.ndarray], np.ndarray]:
    """What solves a sparse linear system for right-hand sides ``(equations, *columns)``; NaN where it is singular."""
    rows, columns = size_of(matrix)
    if rows != columns:
        raise ValueError(f"{rows} equations for {columns} unknowns: free as many parameters as the problem determines")
    try:
        if np.isfinite(matrix.data).all():
            return splu(matrix).solve
    except RuntimeError:  # exactly singular
        pass
    return lambda right: np.full_like(right, np.nan)


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
