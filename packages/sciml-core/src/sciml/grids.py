"""Discretised domains with quadrature weights: integrals and norms mean the same at every resolution."""

import abc
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from sciml._axes import Axis, Centering, Kind, Real, axis_from_coordinates, matrix_between
from sciml._triangulation import Triangulation, voronoi_weights
from sciml.errors import ConfigError, ShapeError

_CHUNK = 2**24  # entries of one intermediate when a grid is evaluated at scattered points


class Domain(abc.ABC):
    """Nodes `coords` (*space, dim) with quadrature weights `weights` (*space); a `Grid` or a `PointCloud`."""

    coords: Any
    weights: Any

    @abc.abstractmethod
    def integrate(self, u: Inexact[Tensor, "batch *field"]) -> Inexact[Tensor, "batch channel"]:
        """Integrate every channel over the domain."""

    @abc.abstractmethod
    def check(self, u: Tensor) -> None:
        """Raise `ShapeError` unless `u` is a real or complex field on this domain."""

    @abc.abstractmethod
    def interpolate(self, u: Float[Tensor, "batch *field"], to: "Domain | Tensor") -> Tensor:
        """Evaluate the interpolant of `u` on another domain or at points (point, dim)."""

    @abc.abstractmethod
    def sobolev_norm(self, u: Float[Tensor, "batch *field"], order: int = 1) -> Float[Tensor, " batch"]:
        """The norm of H^order: L2 norms of all derivatives up to that order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of nodes along every axis of the weights."""
        return tuple(self.weights.shape)

    @property
    def dim(self) -> int:
        """The dimension of space."""
        return self.coords.shape[-1]

    def inner(
        self, u: Inexact[Tensor, "batch *field"], v: Inexact[Tensor, "batch *field"]
    ) -> Inexact[Tensor, " batch"]:
        """The L2 inner product, summed over channels; of complex fields the first is conjugated."""
        if u.shape != v.shape:
            raise ShapeError(f"inner() got fields of shapes {tuple(u.shape)} and {tuple(v.shape)}; make them equal.")
        return self.integrate(u.conj() * v).sum(-1)

    def norm(self, u: Inexact[Tensor, "batch *field"], p: Real = 2) -> Float[Tensor, " batch"]:
        """The Lp norm over space and channels, 1 <= p <= inf; its gradient at zero is the subgradient zero."""
        if not p >= 1:
            raise ConfigError(f"The exponent of an Lp norm is {p}; give p >= 1 (math.inf for the maximum).")
        self.check(u)
        return lp_norm(u, p, lambda powers: self.integrate(powers).sum(-1))


def lp_norm(u: Inexact[Tensor, "batch *field"], p: Real, total: Callable[[Tensor], Tensor]) -> Float[Tensor, " batch"]:
    """total(|u|^p)^(1/p) for a sum `total` over each sample, the maximum for p = inf; its gradient at zero is zero.

    Powers are taken of u over its largest entry, which can neither overflow nor vanish.
    """
    size = u.abs()
    largest = size.flatten(1).amax(1)
    if math.isinf(p):
        return largest
    limits = torch.finfo(size.dtype)
    scale = largest.detach().clamp(limits.tiny, limits.max)  # a constant: the norm does not depend on it
    x = total((size / scale.reshape(-1, *[1] * (u.ndim - 1))) ** p)
    zero = x == 0
    return scale * torch.where(zero, 0.0, torch.where(zero, 1.0, x) ** (1 / p))  # whose slope at 0 is infinite


def _sizes(shape: Any) -> list[int]:
    """Whole numbers of nodes, one for each axis."""
    try:
        return [operator.index(n) for n in (shape if isinstance(shape, Iterable) else [shape])]
    except TypeError:
        raise ConfigError(f"shape={shape!r}: give a whole number of nodes for each axis.") from None


def _per_axis(value: Any, dim: int, name: str) -> list[Any]:
    value = value.tolist() if isinstance(value, np.ndarray | Tensor) else value
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * dim
    if len(value) != dim:
        raise ConfigError(f"{name} has {len(value)} entries for {dim} axes; give one value, or one per axis.")
    return list(value)


@dataclass(frozen=True)
class Grid(Domain):
    """A tensor product of axes; fields on it are (batch, channel, *space).

    Build it with `uniform`, `chebyshev`, `gauss_legendre` or `from_coordinates`; `*` multiplies grids.
    """

    axes: tuple[Axis, ...]
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @staticmethod
    def uniform(
        shape: int | Sequence[int],
        lengths: Real | Sequence[Real] = 1.0,
        *,
        periodic: bool | Sequence[bool] = False,
        centering: Centering | Sequence[Centering] = "node",
        origin: Real | Sequence[Real] = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> "Grid":
        """Equispaced nodes, every argument for all axes or one per axis.

        A node-centred periodic axis leaves its endpoint out. Quadrature: trapezoidal on nodes, midpoint in cells; on
        periodic axes exact for all modes below the sampling frequency.

        Raises
        ------
        ConfigError
            An argument has the wrong number of entries, or an axis too few nodes or no positive length.
        """
        sizes = _sizes(shape)
        columns = [
            _per_axis(value, len(sizes), name)
            for value, name in (
                (lengths, "lengths"),
                (origin, "origin"),
                (periodic, "periodic"),
                (centering, "centering"),
            )
        ]
        return Grid(
            tuple(
                Axis("uniform", int(n), float(length), float(start), bool(wraps), center)
                for n, length, start, wraps, center in zip(sizes, *columns, strict=True)
            ),
            dtype,
        )

    @staticmethod
    def chebyshev(
        shape: int | Sequence[int],
        lengths: Real | Sequence[Real] = 1.0,
        *,
        origin: Real | Sequence[Real] = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> "Grid":
        """Chebyshev-Lobatto nodes with Clenshaw-Curtis weights, exact for degree n - 1; includes the walls."""
        return _polynomial_grid("chebyshev", shape, lengths, origin, dtype)

    @staticmethod
    def gauss_legendre(
        shape: int | Sequence[int],
        lengths: Real | Sequence[Real] = 1.0,
        *,
        origin: Real | Sequence[Real] = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> "Grid":
        """Gauss-Legendre nodes and weights, exact for degree 2n - 1; excludes the walls."""
        return _polynomial_grid("gauss-legendre", shape, lengths, origin, dtype)

    @staticmethod
    def from_coordinates(
        *axes: Any,
        periods: Real | Sequence[Real | None] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> "Grid":
        """The grid with these increasing coordinates, one array per axis; `periods` makes axes periodic.

        Raises
        ------
        ConfigError
            Coordinates that are not increasing; a periodic axis that is not uniform or includes its endpoint.
        """
        result = []
        for x, period in zip(axes, _per_axis(periods, len(axes), "periods"), strict=True):
            array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
            eps = np.finfo(array.dtype if array.dtype.kind == "f" else float).eps
            result.append(axis_from_coordinates(array, period, float(eps)))
        return Grid(tuple(result), dtype)

    def __post_init__(self) -> None:
        if not self.axes:
            raise ConfigError("A grid has no axes; give a shape with at least one entry.")

    def __mul__(self, other: "Grid") -> "Grid":
        """The tensor product, with the dtype and device of the left factor."""
        return replace(self, axes=self.axes + other.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.n for axis in self.axes)

    @property
    def dim(self) -> int:
        return len(self.axes)

    @property
    def lengths(self) -> tuple[float, ...]:
        """The extent of every axis; the period where it is periodic."""
        return tuple(axis.length for axis in self.axes)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Whether each axis wraps around."""
        return tuple(axis.periodic for axis in self.axes)

    @property
    def centering(self) -> tuple[Centering, ...]:
        """Whether each axis has its nodes on the walls or in the middle of cells."""
        return tuple(axis.centering for axis in self.axes)

    @cached_property
    @torch.inference_mode(False)  # the cached tensor must serve training as well
    def coords(self) -> Float[Tensor, "*space dim"]:
        axes = [self._tensor(axis.nodes()) for axis in self.axes]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    @cached_property
    @torch.inference_mode(False)  # the cached tensor must serve training as well
    def weights(self) -> Float[Tensor, "*space"]:
        result = self._tensor(self.axes[0].weights())
        for axis in self.axes[1:]:
            result = result[..., None] * self._tensor(axis.weights())
        return result

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Grid":
        """The same grid on another device or with another floating-point type."""
        return replace(self, device=torch.device(device or self.device), dtype=dtype or self.dtype)

    def integrate(self, u: Inexact[Tensor, "batch channel *space"]) -> Inexact[Tensor, "batch channel"]:
        self.check(u)
        return (u * self._weights_like(u)).flatten(2).sum(-1)

    def sobolev_norm(
        self,
        u: Float[Tensor, "batch channel *space"],
        order: int = 1,
        *,
        method: Literal["spectral", "finite-difference"] = "spectral",
        accuracy: int = 2,
    ) -> Float[Tensor, " batch"]:
        """The norm of H^order, by derivatives of the given method (see `sciml.derivatives`)."""
        from sciml.derivatives import partial  # derivatives live on grids

        orders = [a for a in np.ndindex(*(order + 1,) * self.dim) if sum(a) <= order]
        terms = [partial(u, self, a, method=method, accuracy=accuracy) for a in orders]
        return lp_norm(torch.stack([self.norm(v) for v in terms], dim=1), 2, lambda squares: squares.sum(1))

    def interpolate(self, u: Float[Tensor, "batch channel *space"], to: Domain | Tensor) -> Tensor:
        """Evaluate `u` elsewhere: a field on a grid; (batch, point, channel) on a cloud or at points.

        Trigonometric on periodic axes (values at the new nodes, so unresolved modes alias: filter first to truncate),
        polynomial on Chebyshev and Gauss-Legendre axes, multilinear else. Differentiable in `u`.

        Raises
        ------
        ValueError
            Points lie outside a non-periodic axis by more than rounding.
        ShapeError
            Field or points of another dimension.
        """
        self.check(u)
        if isinstance(to, Grid):
            _check_dim(to.dim, self.dim)
            for dim, (source, target) in enumerate(zip(self.axes, to.axes, strict=True), start=2):
                if source != target:
                    matrix = _matrix_between(source, target, max(source.eps, target.eps), u.dtype, u.device)
                    u = (u.movedim(dim, -1) @ matrix.T).movedim(-1, dim)
            return u
        points = to.coords if isinstance(to, Domain) else to
        if points.ndim != 2:
            raise ShapeError(f"The points have shape {tuple(points.shape)}; give (point, dim).")
        _check_dim(points.shape[-1], self.dim)
        x, eps = points.detach().cpu().double().numpy(), float(torch.finfo(points.dtype).eps)
        matrices = [
            torch.as_tensor(axis.interpolation_matrix(axis.inside(x[:, i], eps))).to(u)
            for i, axis in enumerate(self.axes)
        ]
        size = max(1, _CHUNK // max(1, u[:, :, 0].numel()))  # points at once
        parts = zip(*(matrix.split(size) for matrix in matrices), strict=True)
        return torch.cat([_evaluate(u, part) for part in parts], dim=1)

    def check(self, u: Tensor) -> None:
        _check_number(u)
        if u.ndim != self.dim + 2 or tuple(u.shape[2:]) != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ShapeError(
                f"A field on this grid is (batch, channel, {expected}); got {tuple(u.shape)}. Add the missing "
                "dimensions with unsqueeze, or use the grid of the field's resolution."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # a copy may go where this one's devices are not

    @cached_property
    def _placed(self) -> dict[tuple[torch.dtype, torch.device], Tensor]:
        return {}

    @torch.inference_mode(False)
    def _weights_like(self, u: Tensor) -> Tensor:
        """The weights in the type of `u` on its device, sent there once."""
        if torch.compiler.is_compiling():
            return self.weights.to(u)
        key = (u.dtype, u.device)
        if key not in self._placed:
            self._placed[key] = self.weights.to(u)
        return self._placed[key]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=self.dtype, device=self.device)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # the cached tensor must serve training as well
def _matrix_between(source: Axis, target: Axis, eps: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.as_tensor(matrix_between(source, target, eps)).to(device, dtype)


def _polynomial_grid(kind: Kind, shape: Any, lengths: Any, origin: Any, dtype: torch.dtype) -> Grid:
    sizes = _sizes(shape)
    extents, starts = _per_axis(lengths, len(sizes), "lengths"), _per_axis(origin, len(sizes), "origin")
    rows = zip(sizes, extents, starts, strict=True)
    return Grid(tuple(Axis(kind, int(n), float(length), float(start)) for n, length, start in rows), dtype)


def _evaluate(u: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Contract (batch, channel, *space) with one (point, n) matrix per axis to (batch, point, channel)."""
    u = torch.einsum("bcn...,mn->bcm...", u, matrices[0])
    for matrix in matrices[1:]:
        u = torch.einsum("bcmn...,mn->bcm...", u, matrix)
    return u.transpose(1, 2)


def _check_number(u: Tensor) -> None:
    if not (u.is_floating_point() or u.is_complex()):
        raise ShapeError(f"A field of {u.dtype} was given; quadrature weights are no integers: convert it to float.")


def _check_dim(got: int, expected: int) -> None:
    if got != expected:
        raise ShapeError(f"The target has {got} coordinates a point, the source {expected}; use the same dimension.")


class PointCloud(Domain):
    """Scattered nodes (point, dim) with quadrature weights; fields on it are (batch, point, channel).

    `weights` is "delaunay" (exact for piecewise linear functions on the convex hull), "voronoi" (cell volumes, within
    the convex hull or the box `bounds`: (dim, 2) of lower and upper ends), "monte-carlo" (`volume` / n; a `volume` of
    None means 1, an average) or a tensor.

    Raises
    ------
    ShapeError
        Coordinates or weights of another shape.
    ValueError
        Coordinates or weights that are not finite, negative weights, points outside `bounds`, or, for "delaunay" and
        "voronoi", repeated or degenerate points.
    """

    def __init__(
        self,
        coords: Float[Tensor, "point dim"],
        weights: Literal["delaunay", "voronoi", "monte-carlo"] | Tensor = "delaunay",
        *,
        volume: Real | None = None,
        bounds: Sequence[Sequence[Real]] | None = None,
    ) -> None:
        if coords.ndim != 2 or 0 in coords.shape or not coords.dtype.is_floating_point:
            raise ShapeError(f"Coordinates are floating (point, dim); got {tuple(coords.shape)} of {coords.dtype}.")
        if not bool(torch.isfinite(coords).all()):
            bad = int((~torch.isfinite(coords)).any(1).sum())
            raise ValueError(f"{bad} of {len(coords)} points have a coordinate that is not finite; drop them.")
        if volume is not None and not (isinstance(weights, str) and weights == "monte-carlo" and volume > 0):
            raise ConfigError(f"volume={volume} must be positive and goes with weights='monte-carlo' only; drop it.")
        if bounds is not None and not (isinstance(weights, str) and weights == "voronoi"):
            raise ConfigError("bounds goes with weights='voronoi' only; drop it.")
        self.coords: Float[Tensor, "point dim"] = coords
        self.weights: Float[Tensor, " point"] = self._choose(weights, volume, bounds).to(coords)

    def _choose(self, weights: str | Tensor, volume: Real | None, bounds: Any) -> Tensor:
        n = len(self.coords)
        if isinstance(weights, Tensor):
            if tuple(weights.shape) != (n,):
                raise ShapeError(f"Weights have shape {tuple(weights.shape)}; give one weight for each of {n} points.")
            wrong = int((~(torch.isfinite(weights) & (weights >= 0))).sum())
            if wrong:
                raise ValueError(f"{wrong} of {n} weights are negative or not finite; quadrature weights must be >= 0.")
            return weights
        if weights == "monte-carlo":
            return torch.full((n,), (1.0 if volume is None else volume) / n)
        if weights == "delaunay":
            return torch.as_tensor(self.triangulation.node_weights())
        if weights == "voronoi":
            return torch.as_tensor(voronoi_weights(self.triangulation, bounds))
        raise ConfigError(f"weights={weights!r}; choose 'delaunay', 'voronoi', 'monte-carlo' or give a tensor.")

    @cached_property
    def triangulation(self) -> Triangulation:
        """The Delaunay triangulation that carries P1 interpolation and gradients."""
        return Triangulation(self.coords.detach().cpu().double().numpy())

    @property
    def lengths(self) -> tuple[float, ...]:
        """The extent of the bounding box."""
        return tuple((self.coords.amax(0) - self.coords.amin(0)).tolist())

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Never: a cloud has no periodic axis."""
        return (False,) * self.dim

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "PointCloud":
        """The same cloud and weights on another device or with another floating-point type."""
        return PointCloud(self.coords.to(device=device, dtype=dtype), self.weights)

    def integrate(self, u: Inexact[Tensor, "batch point channel"]) -> Inexact[Tensor, "batch channel"]:
        self.check(u)
        return torch.einsum("bnc,n->bc", u, self.weights.to(u))

    def sobolev_norm(self, u: Float[Tensor, "batch point channel"], order: int = 1) -> Float[Tensor, " batch"]:
        """The H1 norm; the gradient is that of the piecewise linear interpolant, integrated exactly."""
        if order not in (0, 1):
            raise ConfigError(f"order={order}: a piecewise linear interpolant has one derivative; use 0 or 1.")
        size = self.norm(u)
        if order == 0:
            return size
        simplices, gradients, volumes = (torch.as_tensor(a, device=u.device) for a in self.triangulation.elements)
        slopes = torch.einsum("btvc,tvd->btcd", u[:, simplices], gradients.to(u))
        slope = lp_norm(slopes, 2, lambda squares: torch.einsum("btcd,t->b", squares, volumes.to(u)))
        return lp_norm(torch.stack([size, slope], dim=1), 2, lambda squares: squares.sum(1))

    def interpolate(self, u: Float[Tensor, "batch point channel"], to: Domain | Tensor) -> Tensor:
        """Piecewise linear on the triangulation, nearest node outside; differentiable in `u`.

        Raises
        ------
        ValueError
            Points with a coordinate that is not finite.
        ShapeError
            Field or points of another dimension.
        """
        self.check(u)
        points = to.coords if isinstance(to, Domain) else to
        if points.ndim != 2 and not isinstance(to, Grid):
            raise ShapeError(f"The points have shape {tuple(points.shape)}; give (point, dim).")
        _check_dim(points.shape[-1], self.dim)
        if not bool(torch.isfinite(points).all()):
            raise ValueError("Points to interpolate at have coordinates that are not finite; drop them.")
        eps = max(torch.finfo(x.dtype).eps for x in (self.coords, points) if x.is_floating_point())
        x = points.detach().cpu().double().numpy().reshape(-1, self.dim)
        vertices, shares = self.triangulation.locate(x, eps)
        index, share = torch.as_tensor(vertices, device=u.device), torch.as_tensor(shares).to(u)
        values = torch.einsum("bmvc,mv->bmc", u[:, index], share)
        return values.transpose(1, 2).unflatten(2, to.shape) if isinstance(to, Grid) else values

    def check(self, u: Tensor) -> None:
        _check_number(u)
        if u.ndim != 3 or u.shape[1] != len(self.coords):
            raise ShapeError(
                f"A field on this cloud is (batch, {len(self.coords)}, channel); got {tuple(u.shape)}. "
                "Move the points to the second dimension."
            )
