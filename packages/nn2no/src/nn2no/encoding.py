"""Functions to coefficients and back: encoders and decoders that do not see the grid (arXiv:2506.10973, §3.6)."""

import abc
import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Inexact
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Domain, Grid, PointCloud
from torch import Tensor, nn


class Basis(nn.Module, abc.ABC):
    """`size` functions of a point with `dim` coordinates, with values (*cloud, point, size)."""

    dim: int
    size: int

    @abc.abstractmethod
    def forward(self, x: Float[Tensor, "*cloud point dim"]) -> Inexact[Tensor, "*cloud point size"]:
        """The values of all functions at the points `x`."""


class CoordinateFeatures(nn.Module):
    """Sinusoids of the coordinates, so that a network on them can represent functions that oscillate (§3.7).

    For an axis of length L: cos and sin of 2πkx/L, k = 1 to `frequencies`, if it is periodic, else x/L and cos and sin
    of πkx/L.
    """

    def __init__(
        self,
        dim: int,
        *,
        lengths: float | int | Sequence[float | int] = 1.0,
        periodic: bool | Sequence[bool] = False,
        frequencies: int = 4,
    ) -> None:
        super().__init__()
        self.dim = dim
        extents = [lengths] * dim if isinstance(lengths, float | int) else lengths
        self.lengths = [float(length) for length in extents]
        self.periodic = [periodic] * dim if isinstance(periodic, bool) else [bool(p) for p in periodic]
        if dim < 1 or len(self.lengths) != dim or len(self.periodic) != dim or not min(self.lengths) > 0:
            raise ConfigError(f"dim={dim}, lengths={lengths}, periodic={periodic}: give one value, or one an axis.")
        if frequencies < 1:
            raise ConfigError(f"frequencies={frequencies}; give at least one.")
        self.frequencies = frequencies
        self.size = 2 * frequencies * dim + self.periodic.count(False)

    def forward(self, x: Float[Tensor, "*cloud point dim"]) -> Float[Tensor, "*cloud point feature"]:
        if x.shape[-1] != self.dim:
            raise ShapeError(f"Points have {x.shape[-1]} coordinates; expected {self.dim}: (…, point, {self.dim}).")
        k = torch.arange(1, self.frequencies + 1, dtype=x.dtype, device=x.device)
        parts = []
        for i, (length, wraps) in enumerate(zip(self.lengths, self.periodic, strict=True)):
            turns = x[..., i : i + 1] / length
            angle = (2 if wraps else 1) * math.pi * k * turns
            parts += [torch.cos(angle), torch.sin(angle)] + ([] if wraps else [turns])
        return torch.cat(parts, -1)


class LearnedBasis(Basis):
    """Functions given by a network of the coordinates, learned with everything else.

    Parameters
    ----------
    hidden, n_layers
        Width and number of the hidden layers, with GELU.
    lengths, periodic, frequencies
        Of the domain (see `CoordinateFeatures`); functions on periodic axes are periodic.
    """

    def __init__(
        self,
        dim: int,
        size: int,
        *,
        hidden: int = 64,
        n_layers: int = 2,
        lengths: float | int | Sequence[float | int] = 1.0,
        periodic: bool | Sequence[bool] = False,
        frequencies: int = 4,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.size = dim, size
        self.features = CoordinateFeatures(dim, lengths=lengths, periodic=periodic, frequencies=frequencies)
        self.network = mlp(self.features.size, hidden, n_layers, size, dtype=dtype)

    def forward(self, x: Float[Tensor, "*cloud point dim"]) -> Float[Tensor, "*cloud point size"]:
        return self.network(self.features(x))


class FourierBasis(Basis):
    """The orthonormal functions exp(2πi k·x/L) / √|D| with |k_l| <= m_l, in the order of `wave_numbers`."""

    wave_numbers: Tensor

    def __init__(self, n_modes: Sequence[int], lengths: float | int | Sequence[float | int] = 1.0) -> None:
        super().__init__()
        self.dim = len(n_modes)
        extents = [lengths] * self.dim if isinstance(lengths, float | int) else lengths
        self.lengths = [float(length) for length in extents]
        if not n_modes or min(n_modes) < 0 or len(self.lengths) != self.dim or not min(self.lengths) > 0:
            raise ConfigError(f"n_modes={tuple(n_modes)}, lengths={lengths}: give one of each an axis, lengths > 0.")
        k = torch.cartesian_prod(*(torch.arange(-m, m + 1) for m in n_modes)).reshape(-1, self.dim)
        self.size = len(k)
        self.register_buffer("wave_numbers", k, persistent=False)

    def forward(self, x: Float[Tensor, "*cloud point dim"]) -> Inexact[Tensor, "*cloud point size"]:
        _check_points(x, self.dim)
        turns = (x / x.new_tensor(self.lengths)) @ self.wave_numbers.to(x).mT
        return torch.polar(torch.full_like(turns, math.prod(self.lengths) ** -0.5), 2 * math.pi * turns)


class GridBasis(Basis):
    """Functions given by their values `modes` (size, *space) on a grid, and by its interpolation between the nodes."""

    modes: Tensor

    def __init__(self, modes: Float[Tensor, "size *space"], grid: Grid) -> None:
        super().__init__()
        grid.check(modes[None])
        self.grid, self.dim, self.size = grid, grid.dim, len(modes)
        self.register_buffer("modes", modes)

    @classmethod
    def pca(cls, fields: Float[Tensor, "sample channel *space"], grid: Grid, size: int) -> "GridBasis":
        """The `size` leading principal components of the fields as they are (subtract a mean before).

        Every channel of every sample counts as one function. The components are orthonormal in L² by the grid's
        quadrature, so that they are the same functions whatever the resolution of the fields.
        """
        grid.check(fields)
        functions = fields.flatten(2).flatten(0, 1)
        if not 0 < size <= min(functions.shape):
            raise ConfigError(
                f"{len(functions)} functions have no {size} components; give 1 to {min(functions.shape)}."
            )
        root = grid.weights.to(functions).flatten().sqrt()
        components = torch.linalg.svd(functions * root, full_matrices=False).Vh[:size]
        return cls((components / root).reshape(size, *grid.shape), grid)

    def forward(self, x: Float[Tensor, "*cloud point dim"]) -> Float[Tensor, "*cloud point size"]:
        _check_points(x, self.dim)
        values = self.grid.interpolate(self.modes.to(x)[None], x.reshape(-1, self.dim))[0]
        return values.reshape(*x.shape[:-1], self.size)


class FunctionEncoder(nn.Module):
    """v_j = Σ_i conj(b_j(x_i)) f(x_i) Δ_i ≈ <b_j, f>: inner products with the functions of a basis (eq. 15)."""

    def __init__(self, basis: Basis) -> None:
        super().__init__()
        self.basis = basis

    def forward(self, f: Float[Tensor, "batch *field"], domain: Domain) -> Inexact[Tensor, "batch channel size"]:
        """The coefficients of every channel of a field on a grid or a cloud. ShapeError if `f` is none on it."""
        return self.on_points(*points_of(f, domain))

    def on_points(
        self,
        f: Float[Tensor, "batch point channel"],
        coords: Float[Tensor, "cloud point dim"],
        weights: Float[Tensor, "cloud point"],
    ) -> Inexact[Tensor, "batch channel size"]:
        """The same on clouds: one for all samples (cloud = 1), or one for each; points of weight zero are padding."""
        _check_clouds(f, coords, weights)
        functionals = self.basis(coords.to(f)).conj() * weights.to(f)[..., None]
        return f.mT.to(functionals) @ functionals


class PointSensors(nn.Module):
    """v_j = f(s_j): the interpolant of the field at fixed points, of any grid or cloud.

    Values at points are no inner products with functions: they are defined, and converge, for continuous fields only.
    """

    points: Tensor

    def __init__(self, points: Float[Tensor, "size dim"]) -> None:
        super().__init__()
        if points.ndim != 2:
            raise ShapeError(f"Sensors are points (size, dim); got {tuple(points.shape)}.")
        self.size, self.dim = points.shape
        self.register_buffer("points", points)

    def forward(self, f: Float[Tensor, "batch *field"], domain: Domain) -> Float[Tensor, "batch channel size"]:
        return domain.interpolate(f, self.points).mT


class FunctionDecoder(nn.Module):
    """g(y) = Re Σ_j w_j β_j(y): the combination of the functions of a basis (eq. 33)."""

    def __init__(self, basis: Basis) -> None:
        super().__init__()
        self.basis = basis

    def forward(self, w: Inexact[Tensor, "batch channel size"], to: Domain) -> Float[Tensor, "batch *field"]:
        """g on a grid, (batch, channel, *space), or on a cloud, (batch, point, channel)."""
        return field_on(self.at_points(w, to.coords.reshape(1, -1, to.dim)), to)

    def at_points(
        self, w: Inexact[Tensor, "batch channel size"], coords: Float[Tensor, "cloud point dim"]
    ) -> Float[Tensor, "batch point channel"]:
        """g at points that are the same for all samples (cloud = 1) or not."""
        if w.ndim != 3 or w.shape[-1] != self.basis.size:
            raise ShapeError(f"Coefficients are (batch, channel, {self.basis.size}); got {tuple(w.shape)}.")
        functions = self.basis(coords.to(torch.empty(0, dtype=w.dtype, device=w.device).real))
        kind = torch.promote_types(functions.dtype, w.dtype)
        return (functions.to(kind) @ w.to(kind).mT).real.contiguous()


class NonlinearDecoder(nn.Module):
    """g(y) = N(w, y), a network of `size` coefficients and of the point (NOMAD, arXiv:2206.03551).

    Its outputs are no linear space: a few numbers can tell where a front is, which takes many functions to add up.
    """

    def __init__(
        self,
        size: int,
        features: CoordinateFeatures,
        out_channels: int = 1,
        *,
        hidden: int = 64,
        n_layers: int = 2,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.size, self.features = size, features
        # the first layer of (w, y), in two parts: that of w is the same at all points
        self.first = nn.Linear(size, hidden, dtype=dtype)
        self.place = nn.Linear(features.size, hidden, bias=False, dtype=dtype)
        self.rest = mlp(hidden, hidden, n_layers - 1, out_channels, dtype=dtype)

    def forward(self, w: Float[Tensor, "batch size"], to: Domain) -> Float[Tensor, "batch *field"]:
        """g on a grid, (batch, channel, *space), or on a cloud, (batch, point, channel)."""
        return field_on(self.at_points(w, to.coords.reshape(1, -1, to.dim)), to)

    def at_points(
        self, w: Float[Tensor, "batch size"], coords: Float[Tensor, "cloud point dim"]
    ) -> Float[Tensor, "batch point channel"]:
        """g at points that are the same for all samples (cloud = 1) or not."""
        if w.ndim != 2 or w.shape[-1] != self.size:
            raise ShapeError(f"Coefficients are (batch, {self.size}); got {tuple(w.shape)}.")
        return self.rest(F.gelu(self.first(w)[:, None] + self.place(self.features(coords.to(w)))))


class IntegralReadout(nn.Module):
    """Numbers from a function: s_o = Σ_c ∫ κ_co(x) f_c(x) dx + bias_o, with the functions κ of a real basis.

    Raises
    ------
    ConfigError
        The number of functions is not that of the channels times a number of outputs.
    """

    def __init__(self, kernel: Basis, in_channels: int = 1, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        if in_channels < 1 or kernel.size % in_channels:
            raise ConfigError(f"{kernel.size} functions for {in_channels} channels; give a multiple of the channels.")
        self.kernel, self.in_channels = kernel, in_channels
        self.bias = nn.Parameter(torch.zeros(kernel.size // in_channels, dtype=dtype))

    def forward(self, f: Float[Tensor, "batch *field"], domain: Domain) -> Float[Tensor, "batch output"]:
        """The numbers of a field on a grid or a cloud. ShapeError if `f` is none on it."""
        return self.on_points(*points_of(f, domain))

    def on_points(
        self,
        f: Float[Tensor, "batch point channel"],
        coords: Float[Tensor, "cloud point dim"],
        weights: Float[Tensor, "cloud point"],
    ) -> Float[Tensor, "batch output"]:
        """The same on clouds: one for all samples (cloud = 1), or one for each."""
        _check_clouds(f, coords, weights)
        if f.shape[-1] != self.in_channels:
            raise ShapeError(f"The field has {f.shape[-1]} channels; expected {self.in_channels}.")
        kernel = self.kernel(coords.to(f)) * weights.to(f)[..., None]
        functionals = kernel.reshape(len(kernel), f.shape[1] * self.in_channels, len(self.bias))
        return (f.flatten(1)[:, None] @ functionals)[:, 0] + self.bias


def mlp(inputs: int, hidden: int, n_layers: int, outputs: int, *, dtype: torch.dtype | None = None) -> nn.Sequential:
    """A network on the last dimension with `n_layers` hidden layers and GELU."""
    sizes = [inputs, *[hidden] * n_layers, outputs]
    layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1], dtype=dtype)]
    for a, b in itertools.pairwise(sizes[1:]):
        layers += [nn.GELU(), nn.Linear(a, b, dtype=dtype)]
    return nn.Sequential(*layers)


def points_of(f: Tensor, domain: Domain) -> tuple[Tensor, Tensor, Tensor]:
    """A field as (batch, point, channel), with coordinates (1, point, dim) and weights (1, point)."""
    if not isinstance(domain, Grid | PointCloud):
        raise ConfigError(f"The domain is a {type(domain).__name__}; give a Grid or a PointCloud.")
    domain.check(f)
    values = f.flatten(2).mT if isinstance(domain, Grid) else f
    return values, domain.coords.reshape(1, -1, domain.dim), domain.weights.reshape(1, -1)


def field_on(values: Float[Tensor, "batch point channel"], domain: Domain) -> Float[Tensor, "batch *field"]:
    """Values at the nodes in the layout of fields on `domain`."""
    return values.mT.unflatten(2, domain.shape) if isinstance(domain, Grid) else values


def _check_points(x: Tensor, dim: int) -> None:
    if x.shape[-1] != dim:
        raise ShapeError(f"Points have {x.shape[-1]} coordinates; expected {dim}: (…, point, {dim}).")


def _check_clouds(f: Tensor, coords: Tensor, weights: Tensor) -> None:
    n, clouds = f.shape[1], (1, len(f))
    if f.ndim != 3 or coords.shape[:2] != weights.shape or weights.shape[1:] != (n,) or len(weights) not in clouds:
        raise ShapeError(
            f"A field (batch, point, channel) {tuple(f.shape)} goes with coordinates (1 | batch, point, dim) and "
            f"weights (1 | batch, point); got {tuple(coords.shape)} and {tuple(weights.shape)}."
        )
