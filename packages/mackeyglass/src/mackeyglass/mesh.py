"""Piecewise polynomials on [0, 1] and meshes that follow a profile."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float, Int
from numpy.polynomial.chebyshev import chebder
from numpy.polynomial.legendre import leggauss
from sciml.errors import ConfigError

from mackeyglass.chebyshev import chebyshev_coefficients, lobatto_nodes

FLOOR = 0.05  # of the density of a mesh, relative to the largest


@dataclass(frozen=True, eq=False)
class Mesh:
    """Continuous piecewise polynomials of one degree m between knots 0 = t₀ < … < t_N = 1.

    They are stored by their values at N·m + 1 points: the Chebyshev–Lobatto points of each interval, with shared ends.
    """

    knots: Float[np.ndarray, "knots"]
    degree: int

    def __post_init__(self) -> None:
        knots = self.knots
        if len(knots) < 3 or knots[0] != 0 or knots[-1] != 1 or not (np.diff(knots) > 0).all():
            raise ConfigError("knots of a mesh must rise from 0 to 1 and bound at least two intervals")
        if not 2 <= self.degree <= 12:
            raise ConfigError(f"degree must lie between 2 and 12, got {self.degree}")

    def __repr__(self) -> str:
        return f"Mesh({self.intervals} intervals of degree {self.degree})"

    @classmethod
    def uniform(cls, intervals: int, degree: int) -> "Mesh":
        """Intervals of equal length."""
        return cls(np.linspace(0, 1, intervals + 1), degree)

    @property
    def intervals(self) -> int:
        """N."""
        return len(self.knots) - 1

    @cached_property
    def steps(self) -> Float[np.ndarray, "intervals"]:
        """Lengths of the intervals."""
        return np.diff(self.knots)

    @cached_property
    def points(self) -> Float[np.ndarray, "points"]:
        """Times of the stored values."""
        local = lobatto_nodes(self.degree)[:-1]
        return np.append((self.knots[:-1, None] + self.steps[:, None] * local).ravel(), 1.0)

    @cached_property
    def gauss_points(self) -> Float[np.ndarray, "gauss"]:
        """The m Gauss–Legendre points of each interval, at which equations are collocated."""
        local = (1 + _gauss(self.degree)[0]) / 2
        return (self.knots[:-1, None] + self.steps[:, None] * local).ravel()

    @cached_property
    def gauss_weights(self) -> Float[np.ndarray, "gauss"]:
        """Weights of the quadrature at `gauss_points`."""
        return (self.steps[:, None] * _gauss(self.degree)[1] / 2).ravel()

    @cached_property
    def measure(self) -> Float[np.ndarray, "points"]:
        """Weights of the trapezoidal rule at `points`: a norm that does not depend on the mesh."""
        gaps = np.diff(self.points)
        return np.concatenate([gaps[:1], gaps[1:] + gaps[:-1], gaps[-1:]]) / 2

    @cached_property
    def at_gauss(self) -> "Stencil":
        """Evaluation at `gauss_points`."""
        return self.stencil(self.gauss_points)

    def stencil(self, times: Float[np.ndarray, "times"]) -> "Stencil":
        """Evaluation at times of the line, on which functions repeat with period 1 up to signs."""
        wraps = np.floor(times)
        inside = times - wraps
        interval = np.searchsorted(self.knots[1:-1], inside, side="right")
        step = self.steps[interval]
        local = (inside - self.knots[interval]) / step
        columns = interval[:, None] * self.degree + np.arange(self.degree + 1)
        values = _basis(local, self.degree)
        values[1:] /= step[:, None]
        values[2] /= step[:, None]
        return Stencil(columns, values, wraps.astype(int))

    def interpolate(
        self, values: Float[np.ndarray, "points d"], times: Float[np.ndarray, "times"]
    ) -> Float[np.ndarray, "times d"]:
        """Values at times in [0, 1] of the function stored as `values`."""
        stencil = self.stencil(np.minimum(times, np.nextafter(1.0, 0.0)))
        return stencil.apply(values)

    def integral_rows(self, functions: Float[np.ndarray, "gauss D"]) -> Float[np.ndarray, "points D"]:
        """Rows of the integrals over [0, 1] of products with functions known at `gauss_points`."""
        components = functions.shape[1]
        weights = (self.at_gauss.values[0] * self.gauss_weights[:, None]).reshape(self.intervals, self.degree, -1)
        pieces = weights.swapaxes(1, 2) @ functions.reshape(self.intervals, self.degree, components)
        rows = np.zeros((len(self.points), components))
        rows[:-1] = pieces[:, :-1].reshape(-1, components)
        rows[self.degree :: self.degree] += pieces[:, -1]  # intervals share their ends
        return rows

    def adapted(self, values: Float[np.ndarray, "points d"]) -> "Mesh":
        """A mesh with as many intervals that equidistributes |x^{(m+1)}|^{1/(m+1)} of a periodic function.

        The derivative is estimated from jumps of the m-th one, as in de Boor, Good approximation by splines with
        variable knots II (1974). A floor on it keeps intervals from growing without bound.
        """
        m = self.degree
        pieces = values[self.at_gauss.columns[::m]]  # (N, m+1, d): values on each interval
        leading = np.einsum("k,nkd->nd", _leading(m), pieces) / self.steps[:, None] ** m
        distances = (self.steps + np.roll(self.steps, -1)) / 2  # from the middle of an interval to that of the next
        jumps = np.abs(np.roll(leading, -1, axis=0) - leading) / distances[:, None]
        density = ((jumps + np.roll(jumps, 1, axis=0)) / 2).max(axis=1) ** (1 / (m + 1))
        density = np.maximum(density, FLOOR * density.max())
        if not density.max() > 0:
            return self
        density = (np.roll(density, 1) + 2 * density + np.roll(density, -1)) / 4
        mass = np.concatenate([[0.0], np.cumsum(density * self.steps)])
        knots = np.interp(np.linspace(0, mass[-1], self.intervals + 1), mass, self.knots)
        knots[0], knots[-1] = 0.0, 1.0
        return Mesh(knots, m)

    def doubled(self) -> "Mesh":
        """The mesh twice, one copy after the other, on half the scale."""
        return Mesh(np.concatenate([self.knots, 1 + self.knots[1:]]) / 2, self.degree)


@dataclass(frozen=True)
class Stencil:
    """Sparse rows that evaluate a piecewise polynomial, its first and its second derivative.

    `columns` are indices of stored values, `values` the coefficients for each derivative, `wraps` how often 1 was
    subtracted from a time to bring it into [0, 1).
    """

    columns: Int[np.ndarray, "times k"]
    values: Float[np.ndarray, "3 times k"]
    wraps: Int[np.ndarray, "times"]

    def flips(self, signs: Float[np.ndarray, "d"]) -> Float[np.ndarray, "times d"]:
        """By what each component is multiplied if one period multiplies it by `signs`."""
        return np.where(self.wraps[:, None] % 2, signs, 1.0)

    def apply(self, stored: Float[np.ndarray, "points d"], derivative: int = 0) -> Float[np.ndarray, "times d"]:
        """Values (or a derivative) at the times, as if the period were 1 without signs."""
        return np.einsum("tk,tkd->td", self.values[derivative], stored[self.columns])

    def derivatives(self, stored: Float[np.ndarray, "points d"]) -> Float[np.ndarray, "3 times d"]:
        """`apply` for values and both derivatives."""
        return np.einsum("otk,tkd->otd", self.values, stored[self.columns])


def _basis(local: np.ndarray, degree: int) -> Float[np.ndarray, "3 times k"]:
    """Lagrange polynomials of the Lobatto points and two derivatives at points of [0, 1]."""
    x = 2 * local - 1
    polynomials = np.empty((degree + 1, len(x)))  # of Chebyshev, by their recurrence
    polynomials[0], polynomials[1] = 1.0, x
    twice = 2 * x
    for k in range(1, degree):
        polynomials[k + 1] = twice * polynomials[k] - polynomials[k - 1]
    return polynomials.T @ _coefficients(degree)


@lru_cache
def _gauss(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre points of [−1, 1] and their weights."""
    return leggauss(degree)


@lru_cache
def _coefficients(degree: int) -> Float[np.ndarray, "3 k k"]:
    """Chebyshev coefficients of the Lagrange polynomials and of two derivatives by the coordinate of [0, 1]."""
    values = chebyshev_coefficients(degree)
    derivatives = [values]
    for order in (1, 2):
        lower = chebder(values, order, scl=2, axis=0)
        derivatives.append(np.concatenate([lower, np.zeros((degree + 1 - len(lower), degree + 1))]))
    return np.stack(derivatives)


@lru_cache
def _leading(degree: int) -> np.ndarray:
    """Row that gives the constant m-th derivative of a polynomial of degree m on [0, 1]."""
    return chebder(_coefficients(degree)[0], degree, scl=2, axis=0)[0]
