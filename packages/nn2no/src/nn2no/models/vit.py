"""A vision transformer, and the operator that it becomes when its patches are pieces of the domain."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from sciml.model import Example, Model
from torch import Tensor, nn

from nn2no.fourier import Builder, Line, gaps, line_of, lines_of, matrix, shares
from nn2no.models._fields import check_field, real_type, sample_field


class ViT(Model):
    """Vision transformer (arXiv:2010.11929) from images to images: patches, a class token, learned positions.

    It takes images of any whole number of patches, with its positions interpolated bicubically, but a patch is a number
    of pixels, so that on a finer grid it sees less of the domain: it is not an operator. `ViTNO` is.

    Parameters
    ----------
    base_resolution
        The size that the learned positions are made for.
    patch
        Pixels of a patch along each axis.
    hidden
        Of the layers' MLPs.
    """

    properties = frozenset({"torch.compile", "torch.func"})

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        base_resolution: Sequence[int] = (32, 32),
        patch: int = 4,
        width: int = 64,
        n_layers: int = 4,
        heads: int = 4,
        hidden: int = 128,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        kind = real_type(dtype)
        if len(base_resolution) != 2 or patch < 1 or any(n < 1 or n % patch for n in base_resolution):
            raise ConfigError(
                f"base_resolution={tuple(base_resolution)} with patch={patch}: give two sizes that are multiples of it."
            )
        if min(width, heads, n_layers) < 1 or width % heads:
            raise ConfigError(f"width={width}, heads={heads}, n_layers={n_layers}: heads divide the width, a layer.")
        self.in_channels, self.patch = in_channels, patch
        self.base_resolution = (int(base_resolution[0]), int(base_resolution[1]))
        self.tokens = (self.base_resolution[0] // patch, self.base_resolution[1] // patch)
        self.embed = nn.Conv2d(in_channels, width, patch, patch, dtype=kind)
        self.cls = nn.Parameter(torch.zeros(1, 1, width, dtype=kind))
        # as large as the patches of a field of unit variance: attention to places is hardly learned from small ones
        self.positions = nn.Parameter(0.5 * torch.randn(1, 1 + math.prod(self.tokens), width, dtype=kind))
        self.layers = nn.Sequential(*(EncoderLayer(width, heads, hidden, kind) for _ in range(n_layers)))
        self.norm = nn.LayerNorm(width, dtype=kind)
        self.head = nn.Conv2d(width, out_channels * patch**2, 1, dtype=kind)

    @classmethod
    def example(cls, resolution: int = 16) -> Example:
        """Two layers on a smooth image of one channel."""
        f = sample_field((resolution, resolution))
        refused = ((f[0],), (f[:, :, 0],), (f.expand(-1, 2, -1, -1),), (f.to(torch.complex64),))
        config = {"base_resolution": [16, 16], "width": 16, "n_layers": 2, "heads": 2, "hidden": 24}
        return Example(config, (f,), refused=refused)

    def forward(self, f: Float[Tensor, "batch channel n1 n2"]) -> Float[Tensor, "batch out_channel n1 n2"]:
        """The output image. ShapeError if `f` has other channels or axes, broken patches, or is not real."""
        check_field(f, self.in_channels, 2)
        if f.shape[2] % self.patch or f.shape[3] % self.patch:
            raise ShapeError(
                f"An image {tuple(f.shape[2:])} has no whole number of {self.patch}-pixel patches; pad it."
            )
        z = self.embed(f)
        size = (z.shape[2], z.shape[3])
        sequence = torch.cat([self.cls.expand(len(z), -1, -1), z.flatten(2).mT], 1) + self._positions(size)
        z = self.norm(self.layers(sequence))[:, 1:]
        return F.pixel_shuffle(self.head(z.mT.unflatten(2, size)), self.patch)

    def _positions(self, size: tuple[int, int]) -> Tensor:
        if size == self.tokens:
            return self.positions
        table = self.positions[:, 1:].mT.unflatten(2, self.tokens)
        table = F.interpolate(table, size, mode="bicubic", align_corners=False)
        return torch.cat([self.positions[:, :1], table.flatten(2).mT], 1)


class EncoderLayer(nn.Module):
    """z ↦ z + Attention(LN z), then z ↦ z + MLP(LN z)."""

    def __init__(self, width: int, heads: int, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, dtype=dtype), nn.LayerNorm(width, dtype=dtype)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True, dtype=dtype)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden, dtype=dtype), nn.GELU(), nn.Linear(hidden, width, dtype=dtype)
        )

    def forward(self, z: Tensor) -> Tensor:
        y = self.norm1(z)
        z = z + self.attention(y, y, y, need_weights=False)[0]
        return z + self.mlp(self.norm2(z))


class ViTNO(ViT):
    """A vision transformer of functions: tokens are inner products with functions on fixed pieces of the domain.

    The functions are those that the patch convolution of `ViT` stands for, Σ_a w_a φ((x - x_a)/h0)/h0² with hats φ
    around the nodes x_a of a patch of the base grid (spacing h0), and the output is decoded with the hats, at any
    nodes. On the base grid it is `ViT` with the same weights; from there on inner products are of second order. The
    number of tokens, and the cost of the transformer, do not depend on the resolution, and the class token keeps the
    weight of a patch (see `nn2no.attention.with_atoms`). What the base grid cannot hold is averaged out of the input
    and missing in the output; fields on coarser grids are interpolated.
    """

    properties = frozenset({"discretization-convergent", "torch.compile", "torch.func"})

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        base_resolution: Sequence[int] = (32, 32),
        patch: int = 4,
        width: int = 64,
        n_layers: int = 4,
        heads: int = 4,
        hidden: int = 128,
        periodic: bool | Sequence[bool] = True,
        dtype: str = "float32",
    ) -> None:
        super().__init__(in_channels, out_channels, base_resolution, patch, width, n_layers, heads, hidden, dtype)
        self.periodic = [periodic] * 2 if isinstance(periodic, bool) else [bool(p) for p in periodic]
        if len(self.periodic) != 2:
            raise ConfigError(f"periodic={periodic}: give one value, or one for each of two axes.")

    def forward(
        self, f: Float[Tensor, "batch channel n1 n2"], grid: Grid | None = None, to: Grid | None = None
    ) -> Float[Tensor, "batch out_channel m1 m2"]:
        """The output on the grid `to`, by default that of `f`, by default the uniform one.

        Raises
        ------
        ShapeError
            `f` has other channels or axes, is no field on `grid`, or is not real.
        """
        check_field(f, self.in_channels, 2)
        source = lines_of(f, grid, self.periodic)
        target = source if to is None else [line_of(axis) for axis in to.axes]
        g = super().forward(self._between(averages, f, source))
        return self._between(hats, g, target)

    def _between(self, build: Builder, f: Tensor, lines: Sequence[Line]) -> Tensor:
        for dim, (line, n) in enumerate(zip(lines, self.base_resolution, strict=True), start=2):
            if line.axis is not None or line.n != n:
                f = (f.movedim(dim, -1) @ matrix(build, line, n, 0.0, f.dtype, f.device).mT).movedim(-1, dim)
        return f


def hats(line: Line, n: int, padding: float, device: torch.device) -> Tensor:
    """(node, n): values at the nodes of the piecewise linear functions that are one at one of `n` base nodes."""
    return _normalised(_hats(line, n, device, 1.0))


def averages(line: Line, n: int, padding: float, device: torch.device) -> Tensor:
    """(n, node): means of a function, weighted by the hats of `n` base nodes, by the quadrature of the nodes.

    Hats narrower than the spacing of the nodes are widened to it: they interpolate.
    """
    base = gaps(line._replace(n=n, axis=None))
    if line.axis is None:
        widest = base / gaps(line)
    else:
        x = torch.as_tensor(line.axis.nodes() / line.axis.length)
        widest = float(x.diff().max()) * base
    return _normalised((_hats(line, n, device, max(1.0, widest)) * shares(line, 0.0, device)[:, None]).mT)


def _hats(line: Line, n: int, device: torch.device, width: float) -> Tensor:
    """φ((x_i - x_j) / (width h0)) as (node i, base node j)."""
    base = gaps(line._replace(n=n, axis=None))
    half = 0.5 * (line.centering == "cell")
    if line.axis is not None:
        x = torch.as_tensor((line.axis.nodes() - line.axis.origin) / line.axis.length, device=device)
    else:
        x = (torch.arange(line.n, dtype=torch.float64, device=device) + half) / gaps(line)
    offset = x[:, None] * base - (torch.arange(n, dtype=torch.float64, device=device) + half)
    if line.periodic:
        offset = offset - n * torch.round(offset / n)
    return (1 - offset.abs() / width).clamp_min(0)


def _normalised(rows: Tensor) -> Tensor:
    return rows / rows.sum(1, keepdim=True)
