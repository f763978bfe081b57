"""Newton's method for collocated problems."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.sparse.linalg import splu

from mackeyglass.collocation import (
    CollocatedEquation,
    Condition,
    Problem,
    Solution,
    derivative_along,
    linearise,
    residual,
)
from mackeyglass.errors import ContinuationError

MOST = 12  # Jacobians
TOLERANCE = 1e-9  # of the last correction, relative to the largest unknown
NEGLIGIBLE = 1e-14  # the correction that would follow it
KEPT = 1e-4  # correction below which a Jacobian serves on
CONTRACTION = 1e-2  # of corrections while it does; where they shrink less a new one is made
ACCURACY = 1e-6  # of a tangent, relative to it


@dataclass(frozen=True, eq=False)
class Converged:
    """A solution.

    `iterations` is about how many Jacobians it would have taken if none had served twice. Where there was a further
    row, `tangent` is the null vector whose product with it is 1, to 1e-6 or so, and `collocated` has the derivatives at
    the solution.
    """

    solution: Solution
    iterations: int
    tangent: Float[np.ndarray, "unknowns"] = field(default_factory=lambda: np.empty(0))
    collocated: CollocatedEquation | None = None


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
        If an iterate is not finite or the corrections do not become small, or if there is no unique tangent.
    """
    reference = start if reference is None else reference
    solution, size, iterations = start, np.inf, 1
    for _ in range(MOST):
        value, jacobian = linearise(problem, solution, free, reference, row)
        inverse = factorised(jacobian)
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
                if row is None:
                    return Converged(solution, iterations)
                collocated = CollocatedEquation.of(problem, solution, free)
                conditions = problem.conditions(solution, reference)
                tangent = _corrected(problem, collocated, conditions, inverse, inverse(_last(jacobian)))
                if tangent is None:
                    tangent = tangent_of(linearise(problem, solution, free, reference, row, collocated)[1])
                if not np.isfinite(tangent).all():
                    raise ContinuationError(f"the curve has no unique tangent at {_where(solution)}")
                return Converged(solution, iterations, tangent, collocated)
            if not kept:
                iterations += int(size > TOLERANCE)
            if size > KEPT or contraction > CONTRACTION:
                break
            if kept == 1:
                iterations += _large(size, size / before**2)
            value = residual(problem, solution, reference)
    raise _failure(start, size)


def _corrected(
    problem: Problem,
    collocated: CollocatedEquation,
    conditions: Sequence[Condition],
    inverse: Callable[[np.ndarray], np.ndarray],
    tangent: Float[np.ndarray, "unknowns"],
) -> Float[np.ndarray, "unknowns"] | None:
    """The tangent at a solution, from that of an older Jacobian; None if three corrections are not enough."""
    before = np.abs(tangent).max()
    for _ in range(3):
        change = inverse(np.append(derivative_along(problem, collocated, conditions, tangent), 0.0))
        tangent, size = tangent - change, np.abs(change).max()
        if size * (size / before) <= ACCURACY * np.abs(tangent).max():  # the next change, as changes shrink linearly
            return tangent
        before = size
    return None


def _large(size: float, curvature: float) -> int:
    """How many corrections exceed `TOLERANCE` from one on, each being `curvature` times the square of that before."""
    return 1 + _large(curvature * size**2, curvature) if size > TOLERANCE else 0


def _where(solution: Solution) -> str:
    parameters = ", ".join(f"{name}={value:g}" for name, value in solution.parameters.items())
    return f"{parameters}, T={solution.period:g}"


def _failure(start: Solution, size: float) -> ContinuationError:
    return ContinuationError(
        f"Newton's method did not converge in {MOST} iterations (last correction {size:.1e}) near {_where(start)}; "
        "start closer to a solution, take smaller steps or a finer mesh"
    )


def tangent_of(matrix: sparse.csc_array) -> Float[np.ndarray, "unknowns"]:
    """Null vector of all rows but the last one, whose product with it is 1; NaN where there is no unique one."""
    return solve_linear(matrix, _last(matrix))


def _last(matrix: sparse.csc_array) -> Float[np.ndarray, "equations"]:
    """Right-hand side that is 1 in the last equation, otherwise 0."""
    right = np.zeros(size_of(matrix)[0])
    right[-1] = 1.0
    return right


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
