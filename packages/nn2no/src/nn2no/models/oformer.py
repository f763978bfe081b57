"""A transformer with linear attention over points and a spectral branch."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from sciml.errors import ConfigError
from sciml.grids import Grid
from sciml.model import Example, Model
from torch import Tensor, nn

from nn2no.attention import mean_products
from nn2no.embedding import CoordinateEmbedding
from nn2no.fourier import Line, lines_of, volume_shares
from nn2no.models._fields import check_field, real_type, sample_field
from nn2no.spectral import SpectralConv


class OFormer(Model):
    """Layers u ↦ (u + attention + spectral convolution)/√3, then u ↦ u + MLP(u), on every node (arXiv:2205.13671).

    Attention is linear in the number of nodes, which count by their quadrature weights, and knows their places by
    rotations of queries and keys.

    Parameters
    ----------
    n_modes
        The largest wave number |k| of each axis in the spectral convolutions.
    heads, head_channels
        Of the attention, whose inner width is their product; channels of a head by default `width`.
    embedding
        "periodic": the rotations along periodic axes are by whole turns, so that they are functions on the domain, and
        the model commutes with shifts. "raw": by the published angles, which jump where an axis closes; so do the
        outputs, and they converge in L² at the order 1/2 only.
    """

    properties = frozenset({"discretization-convergent", "torch.compile", "torch.func"})

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        n_modes: Sequence[int] = (8, 8),
        width: int = 32,
        heads: int = 4,
        head_channels: int | None = None,
        n_layers: int = 4,
        embedding: Literal["periodic", "raw"] = "periodic",
        periodic: bool | Sequence[bool] = True,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        if embedding not in ("periodic", "raw"):
            raise ConfigError(f"embedding={embedding!r}; choose 'periodic' or 'raw'.")
        kind, dim, inner = real_type(dtype), len(n_modes), head_channels or width
        self.periodic = [periodic] * dim if isinstance(periodic, bool) else [bool(p) for p in periodic]
        if len(self.periodic) != dim or n_layers < 1 or heads < 1 or inner % (2 * dim):
            raise ConfigError(
                f"n_modes={tuple(n_modes)}, periodic={periodic}, n_layers={n_layers}, {heads} heads of {inner} "
                f"channels: give one entry of periodic an axis, a layer, a head, and a multiple of {2 * dim} channels."
            )
        self.in_channels, self.embedding, self.pairs = in_channels, embedding, inner // (2 * dim)
        self.coordinates = CoordinateEmbedding("raw")
        self.lifting = nn.Linear(in_channels, width, dtype=kind)
        self.layers = nn.ModuleList(OFormerLayer(width, heads, inner, n_modes, kind) for _ in range(n_layers))
        self.projection = nn.Linear(width, out_channels, dtype=kind)

    @classmethod
    def example(cls, resolution: int = 16) -> Example:
        """Two layers on a smooth field of one channel."""
        f = sample_field((resolution, resolution))
        refused = ((f[0],), (f[:, :, 0],), (f.expand(-1, 2, -1, -1),), (f.to(torch.complex64),))
        return Example({"n_modes": [3, 3], "width": 8, "heads": 2, "n_layers": 2}, (f,), refused=refused)

    def forward(
        self, f: Float[Tensor, "batch channel *space"], grid: Grid | None = None
    ) -> Float[Tensor, "batch out_channel *space"]:
        """The output on the grid of `f`, by default the uniform one.

        Raises
        ------
        ShapeError
            `f` has other channels or axes, is no field on `grid`, or is not real.
        """
        check_field(f, self.in_channels, len(self.periodic))
        lines = lines_of(f, grid, self.periodic)
        x = self.coordinates.append(f.new_empty((1, 0, *f.shape[2:])), lines).flatten(2)[0].mT
        whole = [line.periodic and self.embedding == "periodic" for line in lines]
        turns, weights = rotary_turns(x, self.pairs, whole), _weights(lines, f)
        u = self.lifting(f.flatten(2).mT)
        for layer in self.layers:
            u = layer(u, turns, weights, lines)
        return self.projection(u).mT.unflatten(2, f.shape[2:])


class OFormerLayer(nn.Module):
    def __init__(self, width: int, heads: int, head_channels: int, n_modes: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, dtype=dtype) for _ in range(3))
        self.attention = RotaryAttention(width, heads, head_channels, dtype)
        self.spectral = SpectralConv(width, width, n_modes, dtype=dtype)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width, dtype=dtype), nn.GELU(), nn.Linear(2 * width, width, dtype=dtype)
        )

    def forward(self, u: Tensor, turns: Tensor, weights: Tensor | None, lines: Sequence[Line]) -> Tensor:
        field = self.norm2(u).mT.unflatten(2, [line.n for line in lines])
        spectral = self.spectral.transform(field, lines).flatten(2).mT
        u = (u + self.attention(self.norm1(u), turns, weights) + spectral) / 3**0.5
        return u + self.mlp(self.norm3(u))


class RotaryAttention(nn.Module):
    """g(y) = q(y)·∫ k(x) ⊗ v(x) dx / |D| with queries and keys that are rotated by their places.

    Keys and values have mean zero and variance one over the channels of each head at every point.
    """

    def __init__(self, width: int, heads: int, head_channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (
            nn.Linear(width, heads * head_channels, bias=False, dtype=dtype) for _ in range(3)
        )
        self.out = nn.Linear(heads * head_channels, width, dtype=dtype)
        gain = head_channels**-0.5
        for linear in (self.query, self.key, self.value):
            for weight in linear.weight.detach().chunk(heads):
                nn.init.xavier_uniform_(weight, gain)
                weight += gain * torch.eye(head_channels, width, dtype=dtype)

    def forward(self, u: Tensor, turns: Tensor, weights: Tensor | None) -> Tensor:
        # products and normalisation do not see the order of channels: rows of the small matrices are reordered to put
        # pairs side by side, instead of the fields
        halves = (self.heads, turns.shape[-2], 2, -1)
        query, key = (m.weight.unflatten(0, halves).transpose(2, 3).flatten(0, 3) for m in (self.query, self.key))
        q, k, v = (F.linear(u, W).unflatten(-1, (self.heads, -1)) for W in (query, key, self.value.weight))
        k, v = (F.layer_norm(t, t.shape[-1:]) for t in (k, v))
        q, k = (rotate(t, turns[:, None]) for t in (q, k))
        products = mean_products(k.transpose(1, 2), v.transpose(1, 2), weights)
        # the output is Σ_heads q (∫ k ⊗ v) W: the small product first
        out = self.out.weight.mT.unflatten(0, (self.heads, -1))
        return torch.baddbmm(self.out.bias, q.flatten(2), (products @ out).flatten(1, 2))


def rotary_turns(
    x: Float[Tensor, "point dim"], pairs: int, whole_turns: Sequence[bool]
) -> Complex[Tensor, "point dim pair"]:
    """exp(i θ) with θ = 64 x_i 10000^(-j/n), j = 0 to n - 1, n = `pairs`.

    The factors of x_i are rounded to multiples of 2π where asked.
    """
    j = torch.arange(pairs, dtype=x.dtype, device=x.device)
    factors = 64 * 10000 ** (-j / pairs)
    rounded = 2 * math.pi * torch.round(factors / (2 * math.pi))
    angles = x[..., None] * torch.stack([rounded if whole else factors for whole in whole_turns])
    return torch.polar(torch.ones_like(angles), angles)


def rotate(
    t: Float[Tensor, "*batch channel"], turns: Complex[Tensor, "*place dim pair"]
) -> Float[Tensor, "*batch channel"]:
    """Rotate pairs of neighbouring channels, as many for each axis; `place` broadcasts to `batch`.

    Inner products of vectors rotated by x and by y depend on x - y alone (rotary positions, §3.7).
    """
    pairs = torch.view_as_complex(t.to(turns.real.dtype).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns.flatten(-2)).flatten(-2)


def _weights(lines: Sequence[Line], like: Tensor) -> Tensor | None:
    """Shares of the nodes in the domain, (1, node); None where they are equal."""
    if all(line.axis is None and (line.periodic or line.centering == "cell") for line in lines):
        return None
    return volume_shares(lines, like).reshape(1, -1)
