"""Attention as a ratio of integrals over the source points (arXiv:2506.10973, §3.5)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from torch import Tensor, nn

from nn2no.quadrature import check_readable

AttentionKind = Literal["softmax", "linear"]


def quadrature_attention(
    q: Float[Tensor, "batch head query d"],
    k: Float[Tensor, "batch head source d"],
    v: Float[Tensor, "batch head source e"],
    weights: Float[Tensor, "cloud source"] | None = None,
    *,
    kind: AttentionKind = "softmax",
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch head query e"]:
    """Attention of queries y to sources x_i that stand for the volumes Δ_i = `weights` (batch | 1, source).

    "softmax": g(y) = Σ Δ_i exp(s q(y)·k(x_i)) v(x_i) / Σ Δ_i exp(s q(y)·k(x_i)) with s = `scale`, by default d^(-1/2).
    "linear": g(y) = q(y)·(Σ Δ_i k(x_i) ⊗ v(x_i)) / |D|, at a cost linear in the number of points.
    Sources of weight zero, such as padding, take no part. Weights of None are equal ones, and softmax attention is
    then `torch.nn.functional.scaled_dot_product_attention`: on a uniform grid it is an operator already.
    """
    if weights is not None and tuple(weights.shape) not in ((1, k.shape[2]), (len(k), k.shape[2])):
        raise ShapeError(
            f"Weights have shape {tuple(weights.shape)} for {k.shape[2]} sources; give {(1, k.shape[2])} or "
            f"{(len(k), k.shape[2])}: they weigh the sources, never the queries."
        )
    if kind == "linear":
        return q @ mean_products(k, v, weights)
    s: float = q.shape[-1] ** -0.5 if scale is None else scale
    if weights is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=s)
    # an additive bias would leave the flash kernels; as one more channel, 1 · (log Δ / s), it stays on them, which
    # want one width for q, k and v
    column = (_log(weights) / s).to(k)[:, None, :, None].expand(*k.shape[:3], 1)
    d, e = q.shape[-1], v.shape[-1]
    width = max(d + 1, e)
    q = F.pad(F.pad(q, (0, 1), value=1.0), (0, width - d - 1))
    k = F.pad(torch.cat([k, column], dim=-1), (0, width - d - 1))
    return F.scaled_dot_product_attention(q, k, F.pad(v, (0, width - e)), dropout_p=dropout, scale=s)[..., :e]


def mean_products(
    k: Float[Tensor, "batch head source d"],
    v: Float[Tensor, "batch head source e"],
    weights: Float[Tensor, "cloud source"] | None = None,
) -> Float[Tensor, "batch head d e"]:
    """(Σ Δ_i k(x_i) ⊗ v(x_i)) / |D|, the part of linear attention that does not depend on the query."""
    if weights is not None:
        k = k * (weights / weights.sum(-1, keepdim=True)).to(k)[:, None, :, None]
    # one product a head: heads that lie side by side in memory need not be copied apart
    products = torch.stack([a.mT @ b for a, b in zip(k.unbind(1), v.unbind(1), strict=True)], 1)
    return products / k.shape[2] if weights is None else products


def attention_bias(weights: Float[Tensor, "cloud source"]) -> Float[Tensor, "cloud 1 1 source"]:
    """log Δ_i, to be added to the logits by attention that this package does not compute itself."""
    return _log(weights)[:, None, None]


def with_atoms(weights: Float[Tensor, "cloud point"], n_atoms: int, base_points: int) -> Float[Tensor, "cloud token"]:
    """Weights of a sequence of `n_atoms` tokens without a place (CLS, registers) followed by points.

    An atom weighs |D| / `base_points`, as much as a point did on the grid that the network was made for; a fixed
    number, or an equal share, would let it vanish in refinement.
    """
    atom = weights.sum(-1, keepdim=True) / base_points
    return torch.cat([atom.expand(-1, n_atoms), weights], dim=-1)


class QuadratureAttention(nn.Module):
    """Multi-head self- or cross-attention in which every source point counts by its quadrature weight (§3.5).

    Parameters
    ----------
    source_channels
        Channels of the sources in cross-attention; default as of the queries.
    n_atoms, base_points
        The first `n_atoms` tokens of the source are atoms of the measure (see `with_atoms`); weights are then of the
        points after them.

    Raises
    ------
    ConfigError
        An unknown kind, heads that do not divide the channels, or atoms without `base_points`.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        kind: AttentionKind = "softmax",
        source_channels: int | None = None,
        n_atoms: int = 0,
        base_points: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("softmax", "linear"):
            raise ConfigError(f"kind={kind!r}; choose 'softmax' or 'linear'.")
        if min(channels, heads) < 1 or channels % heads:
            raise ConfigError(f"{channels} channels make no {heads} equal heads; give a divisor.")
        if (n_atoms > 0) != (base_points is not None):
            raise ConfigError(f"n_atoms={n_atoms} with base_points={base_points}: give both or none.")
        self.channels, self.heads, self.n_atoms, self.base_points = channels, heads, n_atoms, base_points
        self.kind: AttentionKind = kind
        self.query = nn.Linear(channels, channels, dtype=dtype)
        self.key_value = nn.Linear(source_channels or channels, 2 * channels, dtype=dtype)
        self.out = nn.Linear(channels, channels, dtype=dtype)

    def forward(
        self,
        x: Float[Tensor, "batch query channel"],
        weights: Float[Tensor, "cloud point"] | None = None,
        source: Float[Tensor, "batch source source_channel"] | None = None,
    ) -> Float[Tensor, "batch query channel"]:
        """Attend from `x` to `source`, by default to `x` itself; `weights` are those of the source.

        Raises
        ------
        ShapeError
            Another number of channels, no real numbers, or weights that are not (batch | 1, point).
        ValueError
            Weights that are negative or not finite; on the CPU, outside of compiled graphs.
        """
        source = x if source is None else source
        check_readable(weights)
        for name, value, expected in (("x", x, self.channels), ("source", source, self.key_value.in_features)):
            if value.ndim != 3 or value.shape[-1] != expected or not value.dtype.is_floating_point:
                got = f"{tuple(value.shape)} of {value.dtype}"
                raise ShapeError(f"{name} must be real, (batch, point, {expected}); got {got}.")
        if self.base_points is not None:
            points = source.shape[1] - self.n_atoms
            if weights is None and points != self.base_points:  # at the base grid atoms weigh as much as points
                weights = x.new_full((1, points), 1 / points)
            weights = None if weights is None else with_atoms(weights, self.n_atoms, self.base_points)
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.query(x), *self.key_value(source).chunk(2, dim=-1))
        )
        return self.out(quadrature_attention(q, k, v, weights, kind=self.kind).transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        return f"{self.channels}, heads={self.heads}, kind={self.kind!r}"


def _log(weights: Tensor) -> Tensor:
    """log(Δ_i / mean Δ); finite, though far below any logit, where Δ_i = 0, since 0·inf would spoil gradients."""
    positive = weights > 0
    ratio = torch.where(positive, weights / weights.mean(-1, keepdim=True), 1.0)
    return torch.where(positive, ratio.log(), -math.sqrt(torch.finfo(weights.dtype).max))
