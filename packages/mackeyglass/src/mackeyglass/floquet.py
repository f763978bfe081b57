"""Floquet multipliers of periodic orbits of delay equations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float
from scipy import linalg

from mackeyglass.collocation import Block, CollocatedEquation, Solution
from mackeyglass.defining_systems import OrbitProblem
from mackeyglass.equation import DDE
from mackeyglass.errors import ContinuationError


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Floquet multipliers, of which one is 1 in theory.

    `values` are those other than the trivial one, largest modulus first; `trivial` is that one as computed: how far it
    is from 1 tells how accurate the orbit is.
    """

    values: Complex[np.ndarray, "count"]
    trivial: complex

    @property
    def real(self) -> Float[np.ndarray, "real"]:
        """The real ones of `values`."""
        return np.real(self.values[np.abs(np.imag(self.values)) < 1e-9])

    @property
    def pairs(self) -> Complex[np.ndarray, "pairs"]:
        """One of each pair of complex ones of `values`, with a positive imaginary part."""
        return self.values[np.imag(self.values) >= 1e-9]

    @property
    def defect(self) -> float:
        """|μ − 1| of the trivial multiplier."""
        return abs(self.trivial - 1)

    @property
    def unstable(self) -> int:
        """How many lie outside the unit circle."""
        return int((np.abs(self.values) > 1).sum())


def floquet_multipliers(system: DDE, orbit: Solution, count: int | None = None) -> Multipliers:
    """Multipliers of an orbit: eigenvalues of the map that takes perturbed histories over one period.

    Histories live on the mesh of the orbit, repeated backwards over the longest delay. The trivial multiplier is told
    from others near 1 by the overlap of its eigenvector with x'.

    Parameters
    ----------
    orbit
        A solution of `OrbitProblem`.
    count
        How many to return besides the trivial one; by default all that the mesh resolves or does not.

    Raises
    ------
    ContinuationError
        If the orbit or derivatives of the equation on it are not finite, or perturbations overflow within a period.
    """
    return multipliers_of(orbit, CollocatedEquation.of(OrbitProblem(system), orbit).blocks, count)


def multipliers_of(orbit: Solution, blocks: Sequence[Block], count: int | None = None) -> Multipliers:
    """`floquet_multipliers` where derivatives of the equation along the orbit are known."""
    try:
        return _multipliers_of(orbit, blocks, count)
    except np.linalg.LinAlgError as error:
        raise ContinuationError(
            f"no Floquet multipliers were found ({error}): the orbit or the derivatives of the equation are not "
            "finite, or perturbations overflow within a period; look at the orbit's values, or begin on a finer mesh"
        ) from error


def _multipliers_of(orbit: Solution, blocks: Sequence[Block], count: int | None) -> Multipliers:
    monodromy, history = monodromy_matrix(orbit, blocks)
    values = np.linalg.eigvals(monodromy).astype(complex)
    near = np.abs(values - 1) < max(0.1, 2 * np.abs(values - 1).min())
    trivial = int(np.argmax(near))
    if near.sum() > 1:
        values, vectors = (part.astype(complex) for part in np.linalg.eig(monodromy))  # real where all are
        flow = history.slope(orbit)
        overlap = np.abs(vectors.conj().T @ flow) / np.linalg.norm(flow)
        near = np.abs(values - 1) < max(0.1, 2 * np.abs(values - 1).min())
        trivial = int(np.argmax(np.where(near, overlap, -1.0)))
    others = np.delete(values, trivial)
    if abs(np.imag(values[trivial])) > 0:
        # so near to a fold the double multiplier 1 is torn into a pair, whose sum is accurate
        partner = np.argmin(np.abs(others - np.conj(values[trivial])))
        others[partner] = 2 * np.real(values[trivial]) - 1
    order = np.lexsort((-np.imag(others), -np.round(np.abs(others), 12)))
    return Multipliers(others[order][:count], complex(values[trivial]))


@dataclass(frozen=True)
class History:
    """The stored points of a mesh, repeated backwards over some periods, from the point `first` on up to time 0."""

    periods: int
    first: int

    def slope(self, orbit: Solution) -> np.ndarray:
        """x' at the points, flattened."""
        points = orbit.mesh.points[:-1]
        slopes = orbit.mesh.stencil(points).apply(orbit.values, 1)
        return np.concatenate([np.tile(slopes, (self.periods, 1)), slopes[:1]])[self.first :].ravel()


def monodromy_matrix(orbit: Solution, blocks: Sequence[Block]) -> tuple[np.ndarray, History]:
    """The matrix of the map from histories of a perturbation to those one period later, and where they are stored."""
    d, last = orbit.values.shape[1], len(orbit.mesh.points) - 1
    # the earliest interval that a delayed time falls into, in intervals before time 0
    reach = [
        -stencil.wraps * last - stencil.columns[:, 0] for stencil, _, _ in blocks[1:]
    ]  # points before time 0 at which that interval begins
    length = max(1, int(max(part.max() for part in reach)))
    periods = -(-length // last)
    matrix = np.zeros((last * d, (length + last + 1) * d))
    grid = matrix.reshape(last, d, -1, d)
    times = np.arange(last)[:, None]
    for stencil, by_value, by_slope in blocks:
        columns = length + stencil.columns + stencil.wraps[:, None] * last
        entries = np.einsum("ijt,tk->tkij", by_value, stencil.values[0])
        entries += np.einsum("ijt,tk->tkij", by_slope, stencil.values[1])
        grid[times, :, columns, :] += entries  # a row meets no column twice
    # columns up to time 0 are given (the one at 0 too), later ones follow interval by interval
    size = (length + 1) * d
    intervals, inner = orbit.mesh.intervals, orbit.mesh.degree * d
    stripes = matrix.reshape(intervals, inner, -1)
    own = [
        stripe[:, end : end + inner] for stripe, end in zip(stripes, size + inner * np.arange(intervals), strict=True)
    ]
    solved = (np.linalg.inv(own) @ stripes).reshape(last * d, -1)
    given, unknown = np.split(solved, [size], axis=1)
    later = -linalg.solve_triangular(unknown, given, lower=True, unit_diagonal=True, check_finite=False)
    extended = np.concatenate([np.eye(size), later])  # of the perturbation at all points
    return extended[-size:], History(periods, periods * last - length)
