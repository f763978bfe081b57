"""Fourier neural operators, without and with local branches."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ConfigError
from sciml.grids import Grid
from sciml.model import Example, Model
from torch import Tensor, nn

from nn2no.differential import DifferentialConv
from nn2no.disco import DiscoConv2d
from nn2no.embedding import CoordinateEmbedding, EmbeddingKind
from nn2no.fourier import Line, lines_of
from nn2no.models._fields import check_field, real_type, sample_field
from nn2no.pointwise import ChannelLinear, ChannelMLP
from nn2no.resample import Antialiased
from nn2no.spectral import SpectralConv


class FNO(Model):
    """Fourier neural operator (arXiv:2010.08895): layers v ↦ σ(MLP(σ(Kv + Wv)) + γ v) with spectral convolutions K.

    Fields (batch, channel, *space) of any resolution in, fields on the same nodes out. Without a grid the nodes are
    uniform: node i at i L/n on periodic axes, at i L/(n - 1) on others.

    Parameters
    ----------
    n_modes
        The largest wave number |k| of each axis that the convolutions keep.
    lifting_ratio, projection_ratio, mlp_ratio
        Hidden channels of the first, the last and the layers' channel MLPs, in units of `width`.
    embedding
        Coordinates as further input channels (see `CoordinateEmbedding`).
    padding
        Non-periodic axes are extended by this fraction of their length, as far as the convolutions are concerned.
    antialiased
        Evaluate the activations on a grid twice as fine and filter (periodic axes only).
    """

    properties = frozenset({"discretization-convergent", "torch.compile", "torch.func"})

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        n_modes: Sequence[int] = (16, 16),
        width: int = 32,
        n_layers: int = 4,
        lifting_ratio: float = 2.0,
        projection_ratio: float = 2.0,
        mlp_ratio: float = 0.5,
        embedding: EmbeddingKind = "periodic",
        periodic: bool | Sequence[bool] = True,
        padding: float = 0.0,
        antialiased: bool = False,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        kind = real_type(dtype)
        dim = len(n_modes)
        wraps = [periodic] * dim if isinstance(periodic, bool) else [bool(p) for p in periodic]
        if len(wraps) != dim or n_layers < 1 or width < 1:
            raise ConfigError(
                f"n_modes={tuple(n_modes)}, periodic={periodic}, n_layers={n_layers}, width={width}: give one entry of "
                "periodic for each axis of n_modes, at least one layer and one channel."
            )
        if antialiased and not all(wraps):
            raise ConfigError(f"antialiased=True resizes by Fourier series, which periodic={periodic} forbids.")
        self.in_channels, self.periodic = in_channels, wraps
        self.embedding = CoordinateEmbedding(embedding)
        inputs = in_channels + self.embedding.channels(wraps)
        self.lifting = ChannelMLP(inputs, round(lifting_ratio * width), width, dtype=kind)
        self.blocks = nn.ModuleList(
            FNOBlock(width, n_modes, round(mlp_ratio * width), padding, i == n_layers - 1, antialiased, kind)
            for i in range(n_layers)
        )
        self.projection = ChannelMLP(width, round(projection_ratio * width), out_channels, dtype=kind)

    @classmethod
    def example(cls, resolution: int = 16) -> Example:
        """Two layers on a smooth field of one channel."""
        f = sample_field((resolution, resolution))
        refused = ((f[0],), (f[:, :, 0],), (f.expand(-1, 2, -1, -1),), (f.to(torch.complex64),))
        return Example({"n_modes": [3, 3], "width": 8, "n_layers": 2}, (f,), refused=refused)

    def forward(
        self, f: Float[Tensor, "batch channel *space"], grid: Grid | None = None, to: Grid | None = None
    ) -> Float[Tensor, "batch out_channel *new_space"]:
        """The output on the grid `to`, by default that of `f`.

        Raises
        ------
        ShapeError
            `f` has other channels or axes, is no field on `grid`, or is not real.
        """
        check_field(f, self.in_channels, len(self.periodic))
        lines = lines_of(f, grid, self.periodic)
        v = self.lifting(self.embedding.append(f, lines))
        for block in self.blocks:
            v = block(v, lines, grid)
        if to is not None:
            v = (grid or self.uniform_grid(f)).interpolate(v, to)
        return self.projection(v)

    def uniform_grid(self, f: Tensor) -> Grid:
        """The grid that a field without one is on, of unit lengths."""
        return Grid.uniform(tuple(f.shape[2:]), periodic=self.periodic, dtype=f.dtype).to(f.device)


class FNOBlock(nn.Module):
    """v ↦ MLP(z) + γ v with z = σ(Kv + Wv + local branches); σ follows, and stands inside, except in the last layer."""

    def __init__(
        self,
        width: int,
        n_modes: Sequence[int],
        hidden: int,
        padding: float,
        last: bool,
        antialiased: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.spectral = SpectralConv(width, width, n_modes, padding=padding, dtype=dtype)
        self.skip = ChannelLinear(width, width, bias=False, dtype=dtype)
        self.mlp = ChannelMLP(width, hidden, width, dtype=dtype)
        self.gate = nn.Parameter(torch.ones(width, *[1] * len(n_modes), dtype=dtype))
        self.local = nn.ModuleList()
        self.activation: nn.Module = nn.Identity() if last else nn.GELU()
        if antialiased and not last:
            self.activation = Antialiased(F.gelu)

    def forward(self, v: Tensor, lines: Sequence[Line], grid: Grid | None) -> Tensor:
        z = self.skip(v, self.spectral.transform(v, lines))
        for branch in self.local:
            z = z + branch(v, grid)
        return self.activation(torch.addcmul(self.mlp(self.activation(z)), self.gate, v))


class LocalNO(FNO):
    """FNO with local branches beside the spectral ones (arXiv:2402.16845), in two dimensions.

    It compiles in one graph where the grid is given: the one that it makes of none cannot be traced.

    Parameters
    ----------
    lengths
        Of the domain, where no grid is given.
    integral_layers, radius, kernel_shape
        Layers (from 0) with a discrete-continuous convolution, a local integral over the disk of that radius (see
        `DiscoConv2d`); None stands for all. The default radius is meant for domains of length one, from 16 nodes on.
    differential_layers, base_resolution
        Layers with a convolution that becomes a differential operator (see `DifferentialConv`), with coefficients
        in units of the spacing that the domain has at the base resolution.
    """

    properties = frozenset({"discretization-convergent"})

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        n_modes: Sequence[int] = (16, 16),
        width: int = 32,
        n_layers: int = 4,
        lifting_ratio: float = 2.0,
        projection_ratio: float = 2.0,
        mlp_ratio: float = 0.5,
        embedding: EmbeddingKind = "periodic",
        periodic: bool | Sequence[bool] = True,
        padding: float = 0.0,
        lengths: Sequence[float] = (1.0, 1.0),
        integral_layers: Sequence[int] | None = None,
        radius: float = 0.1,
        kernel_shape: Sequence[int] = (2, 4),
        differential_layers: Sequence[int] = (),
        base_resolution: int = 64,
        dtype: str = "float32",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            n_modes,
            width,
            n_layers,
            lifting_ratio,
            projection_ratio,
            mlp_ratio,
            embedding,
            periodic,
            padding,
            dtype=dtype,
        )
        if len(n_modes) != 2 or len(lengths) != 2:
            raise ConfigError(f"n_modes={tuple(n_modes)}, lengths={tuple(lengths)}: local branches are planar.")
        self.lengths = [float(length) for length in lengths]
        integral = range(n_layers) if integral_layers is None else integral_layers
        if unknown := [i for i in (*integral, *differential_layers) if not 0 <= i < n_layers]:
            raise ConfigError(f"There is no layer {unknown[0]}; the layers are 0 to {n_layers - 1}.")
        kind = real_type(dtype)
        shape = (int(kernel_shape[0]), int(kernel_shape[1]))
        spacing = (self.lengths[0] / base_resolution, self.lengths[1] / base_resolution)
        for i, block in enumerate(self.blocks):
            assert isinstance(block, FNOBlock)
            if i in integral:
                block.local.append(DiscoConv2d(width, width, radius, shape, bias=False, dtype=kind))
            if i in differential_layers:
                block.local.append(DifferentialConv(width, width, spacing, dtype=kind))

    @classmethod
    def example(cls, resolution: int = 16) -> Example:
        """Two layers with both branches on a smooth field of one channel."""
        base = FNO.example(resolution)
        more = {"radius": 0.15, "differential_layers": [1], "base_resolution": 16}
        return Example({**base.config, **more}, base.inputs, refused=base.refused)

    def forward(
        self, f: Float[Tensor, "batch channel *space"], grid: Grid | None = None, to: Grid | None = None
    ) -> Float[Tensor, "batch out_channel *new_space"]:
        check_field(f, self.in_channels, len(self.periodic))
        return super().forward(f, grid or self.uniform_grid(f), to)

    def uniform_grid(self, f: Tensor) -> Grid:
        """The grid that a field without one is on."""
        grid = Grid.uniform(tuple(f.shape[2:]), self.lengths, periodic=self.periodic, dtype=f.dtype)
        return grid.to(f.device)
