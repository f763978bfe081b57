"""One axis of a grid: its nodes, quadrature weights and interpolation matrix, in float64 numpy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from sciml.errors import ConfigError

Kind = Literal["uniform", "chebyshev", "gauss-legendre", "nonuniform"]
Centering = Literal["node", "cell"]
Real = float | int  # runtime checkers take an int for a float only where it is written out


@dataclass(frozen=True)
class Axis:
    """`n` nodes on [origin, origin + length]; `points` holds the nodes of a non-uniform axis.

    `eps` is the relative rounding of the coordinates that it was made from; axes with the same nodes are equal.
    """

    kind: Kind
    n: int
    length: float = 1.0
    origin: float = 0.0
    periodic: bool = False
    centering: Centering = "node"
    points: tuple[float, ...] = ()
    eps: float = field(default=float(np.finfo(float).eps), compare=False)

    def __post_init__(self) -> None:
        least = 1 if self.kind == "gauss-legendre" or self.periodic or self.centering == "cell" else 2
        if self.n < least:
            raise ConfigError(f"An axis of kind {self.kind!r} has {self.n} nodes; give it at least {least}.")
        if not (self.length > 0 and np.isfinite(self.length) and np.isfinite(self.origin)):
            raise ConfigError(
                f"An axis starts at {self.origin} with length {self.length}; give a finite start and a "
                "finite length > 0."
            )
        if self.centering not in ("node", "cell"):
            raise ConfigError(f"The centering is {self.centering!r}; choose 'node' or 'cell'.")

    @property
    def spacing(self) -> float:
        """The distance of neighbouring nodes of a uniform axis."""
        return self.length / (self.n if self.periodic or self.centering == "cell" else self.n - 1)

    @property
    def is_polynomial(self) -> bool:
        """Whether the nodes carry a stable polynomial interpolant."""
        return self.kind in ("chebyshev", "gauss-legendre")

    def nodes(self) -> np.ndarray:
        if self.kind == "nonuniform":
            return np.array(self.points)
        if self.is_polynomial:
            return self.origin + self.length / 2 * (1 + _reference(self.kind, self.n)[0])
        return self.origin + self.spacing * (np.arange(self.n) + (0.5 if self.centering == "cell" else 0.0))

    def weights(self) -> np.ndarray:
        """Quadrature: Clenshaw-Curtis, Gauss-Legendre, or the trapezoidal (cells: midpoint) rule."""
        if self.is_polynomial:
            return self.length / 2 * _reference(self.kind, self.n)[1]
        if self.periodic or self.centering == "cell":
            return np.full(self.n, self.spacing)
        half = np.diff(self.nodes()) / 2
        return np.append(half, 0.0) + np.insert(half, 0, 0.0)

    def barycentric(self) -> np.ndarray:
        """Barycentric weights, up to a common factor (Berrut & Trefethen 2004)."""
        x, w = _reference(self.kind, self.n)
        sign = (-1.0) ** np.arange(self.n)
        if self.kind == "chebyshev":
            sign[[0, -1]] /= 2
            return sign
        return sign * np.sqrt((1 - x**2) * w)

    def inside(self, x: np.ndarray, eps: float) -> np.ndarray:
        """`x`, rounded to `eps`, with what rounding pushed out of the domain moved back; farther out is an error."""
        if self.periodic:
            return x
        low, high = self.origin, self.origin + self.length
        tolerance = 16 * max(eps, self.eps) * max(abs(low), abs(high), self.length)
        outside = ~((x >= low - tolerance) & (x <= high + tolerance))
        if outside.any():
            raise ValueError(
                f"{int(outside.sum())} of {x.size} points lie outside the axis [{low:g}, {high:g}] (the first at "
                f"{x[outside][0]:g}); a grid is not extrapolated: move or drop these points."
            )
        return np.clip(x, low, high)

    def interpolation_matrix(self, x: np.ndarray) -> np.ndarray:
        """The matrix (points, nodes) that evaluates the interpolant at `x`."""
        nodes = self.nodes()
        if self.periodic:
            return _dirichlet_kernel((x[:, None] - nodes) / self.length, self.n)
        if self.is_polynomial:
            return _barycentric_matrix(nodes, self.barycentric(), x)
        return _linear_matrix(nodes, x)


def _dirichlet_kernel(turns: np.ndarray, n: int) -> np.ndarray:
    """Cardinal function of trigonometric interpolation; even n: the Nyquist mode is split into a cosine."""
    half = np.pi * (turns - np.round(turns))  # θ/2 in [-π/2, π/2]
    hit = half == 0
    half = np.where(hit, 1.0, half)
    below = np.sin(half) if n % 2 else np.tan(half)
    return np.where(hit, 1.0, np.sin(n * half) / (n * below))


def _barycentric_matrix(nodes: np.ndarray, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    difference = x[:, None] - nodes
    hit = difference == 0
    terms = weights / np.where(hit, 1.0, difference)
    matrix = terms / terms.sum(1, keepdims=True)
    return np.where(hit.any(1, keepdims=True), hit.astype(float), matrix)


def _linear_matrix(nodes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Hat functions; between the last cell centre and the wall the last segment is continued."""
    matrix = np.zeros((len(x), len(nodes)))
    if len(nodes) == 1:
        return matrix + 1.0
    left = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, len(nodes) - 2)
    t = (x - nodes[left]) / (nodes[left + 1] - nodes[left])
    rows = np.arange(len(x))
    matrix[rows, left], matrix[rows, left + 1] = 1 - t, t
    return matrix


@lru_cache(maxsize=128)
def _reference(kind: Kind, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [-1, 1]."""
    if kind == "gauss-legendre":
        return np.polynomial.legendre.leggauss(n)
    m = n - 1
    x = np.sin(np.pi * (2 * np.arange(n) - m) / (2 * m))
    k = np.arange(0, n, 2)
    factor = 1.0 / (1.0 - k**2)
    factor[k % m == 0] /= 2  # the first term and, for even m, the last
    w = 4 / m * (np.cos(np.pi * np.outer(np.arange(n), k) / m) @ factor)
    w[[0, -1]] /= 2
    return x, w


def matrix_between(source: Axis, target: Axis, eps: float) -> np.ndarray:
    """Interpolation from one axis to the nodes of another, which are rounded to `eps`."""
    return source.interpolation_matrix(source.inside(target.nodes(), eps))


def axis_from_coordinates(values: Sequence[float] | np.ndarray, period: Real | None, eps: float) -> Axis:
    """The axis with these nodes: uniform where the spacing is constant up to rounding `eps`."""
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all() or not (np.diff(x) > 0).all():
        raise ConfigError(
            f"Coordinates of an axis must be at least two finite, strictly increasing numbers in one dimension; "
            f"got shape {x.shape}. Sort them and drop repeated values."
        )
    n, extent = len(x), float(x[-1] - x[0])
    tolerance = 64 * eps * max(float(np.abs(x).max()), extent)
    spacing = extent / (n - 1)
    uniform = bool(np.abs(np.diff(x) - spacing).max() <= tolerance)
    if period is None:
        if uniform:
            return Axis("uniform", n, extent, float(x[0]), eps=eps)
        return Axis("nonuniform", n, extent, float(x[0]), points=tuple(x.tolist()), eps=eps)
    if abs(extent - period) <= tolerance:
        raise ConfigError(
            f"The coordinates of a periodic axis include its endpoint: {x[-1]:g} is {x[0]:g} plus the period "
            f"{period:g}, the same point. Drop the last coordinate and the last entry of the fields."
        )
    if not uniform or abs(n * spacing - period) > tolerance * n:
        raise ConfigError(
            f"{n} coordinates from {x[0]:g} to {x[-1]:g} are not the uniform nodes of a period {period:g} (spacing "
            f"{period / n:g}, endpoint excluded). Correct the period, or pass None for a non-periodic axis."
        )
    return Axis("uniform", n, float(period), float(x[0]), periodic=True, eps=eps)
