"""Normalisation with integrals for means, so that it is the same map at every resolution (arXiv:2506.10973, eq. 16)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from torch import Tensor, nn

from nn2no.quadrature import check_readable

NormKind = Literal["instance", "group", "layer", "batch"]


def quadrature_norm(
    x: Float[Tensor, "batch channel *space"],
    weights: Float[Tensor, "*any"] | None = None,
    *,
    groups: int,
    weight: Float[Tensor, " channel"] | None = None,
    bias: Float[Tensor, " channel"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "batch channel *space"]:
    """Normalise each sample over space and the channels of each group, then scale and shift each channel.

    `groups` is the number of channels for instance and 1 for layer normalisation. `weights` are the quadrature
    weights (*space) or (batch | 1, *space); None stands for equal ones, and is `torch.nn.functional.group_norm`.
    """
    if weights is None:
        return F.group_norm(x, groups, weight, bias, eps)
    work = _at_least_single(x)
    share = _share(work, weights)
    parts = work.flatten(2).unflatten(1, (groups, -1))  # (batch, group, channel, node)
    mean = (parts * share).sum(-1).mean(-1)[..., None, None]
    centred = parts - mean
    variance = (centred.square() * share).sum(-1).mean(-1)[..., None, None]
    return _affine((centred * (variance + eps).rsqrt()).reshape(x.shape).to(x.dtype), weight, bias)


def quadrature_batch_norm(
    x: Float[Tensor, "batch channel *space"],
    weights: Float[Tensor, "*any"] | None = None,
    *,
    running_mean: Float[Tensor, " channel"] | None = None,
    running_var: Float[Tensor, " channel"] | None = None,
    weight: Float[Tensor, " channel"] | None = None,
    bias: Float[Tensor, " channel"] | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Float[Tensor, "batch channel *space"]:
    """Normalise each channel over batch and space while training, with the running statistics else.

    With `weights` (as in `quadrature_norm`) both statistics are integrals, the running variance too, where torch's,
    which None gives, is multiplied by n/(n - 1) for n nodes in the batch. Running statistics are updated in place.
    """
    if weights is None or not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    work = _at_least_single(x)
    share = _share(work, weights, over_batch=True).flatten(1)  # (batch | 1, node), sums to one over the batch
    parts = work.flatten(2)
    mean = (parts * share[:, None]).sum((0, 2))
    centred = parts - mean[:, None]
    variance = (centred.square() * share[:, None]).sum((0, 2))
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_(variance.to(running_var), momentum)
    return _affine((centred * (variance + eps).rsqrt()[:, None]).reshape(x.shape).to(x.dtype), weight, bias)


class QuadratureNorm(nn.Module):
    """Normalise by the mean and the (biased) variance as integrals: μ = ΣΔf / ΣΔ, σ² = ΣΔ(f - μ)² / ΣΔ (eq. 16).

    Over space in each channel ("instance"), with the channels of each of `groups` groups ("group"), with all channels
    ("layer"), or with the batch ("batch"). The names of parameters and buffers are those of torch's layers, which it
    equals on uniform periodic and cell grids; on node grids their plain mean is a first-order quadrature.

    Parameters
    ----------
    channel_dim
        1 for fields (batch, channel, *space), -1 for clouds (batch, point, channel).

    Raises
    ------
    ConfigError
        An unknown kind, or groups that do not divide the channels or are given to another kind.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        channels: int,
        kind: NormKind = "instance",
        *,
        groups: int | None = None,
        eps: float = 1e-5,
        affine: bool = True,
        momentum: float = 0.1,
        channel_dim: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("instance", "group", "layer", "batch"):
            raise ConfigError(f"kind={kind!r}; choose 'instance', 'group', 'layer' or 'batch'.")
        if (groups is not None) != (kind == "group"):
            raise ConfigError(f"groups={groups} with kind={kind!r}: give groups with kind='group', and only there.")
        if min(channels, 1 if groups is None else groups) < 1 or channels % (groups or 1):
            raise ConfigError(f"{channels} channels make no {groups} equal groups; give a divisor.")
        if channel_dim not in (1, -1):
            raise ConfigError(f"channel_dim={channel_dim}; give 1 for (batch, channel, *space), -1 for clouds.")
        self.channels, self.kind, self.eps, self.momentum, self.channel_dim = channels, kind, eps, momentum, channel_dim
        self.groups = {"instance": channels, "group": groups or 1, "layer": 1, "batch": channels}[kind]
        self.register_parameter("weight", nn.Parameter(torch.ones(channels, dtype=dtype)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels, dtype=dtype)) if affine else None)
        if kind == "batch":
            self.register_buffer("running_mean", torch.zeros(channels, dtype=dtype))
            self.register_buffer("running_var", torch.ones(channels, dtype=dtype))
            self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(
        self, x: Float[Tensor, "batch *field"], weights: Float[Tensor, "*any"] | None = None
    ) -> Float[Tensor, "batch *field"]:
        """Normalise `x`; `weights` are (*space) or (batch | 1, *space), None for equal ones.

        Raises
        ------
        ShapeError
            Other shapes, or a field that is not real.
        ValueError
            Weights that are negative or not finite; on the CPU, outside of compiled graphs.
        """
        if x.ndim < 3 or x.shape[self.channel_dim] != self.channels or not x.dtype.is_floating_point:
            layout = "channel, *space" if self.channel_dim == 1 else "point, channel"
            got = f"{tuple(x.shape)} of {x.dtype}"
            raise ShapeError(f"Expected a real field (batch, {layout}) with {self.channels} channels; got {got}.")
        check_readable(weights)
        y = x if self.channel_dim == 1 else x.transpose(1, -1)
        if self.kind == "batch":
            if self.training:
                self.num_batches_tracked.add_(1)
            y = quadrature_batch_norm(
                y,
                weights,
                running_mean=self.running_mean,
                running_var=self.running_var,
                weight=self.weight,
                bias=self.bias,
                training=self.training,
                momentum=self.momentum,
                eps=self.eps,
            )
        else:
            y = quadrature_norm(y, weights, groups=self.groups, weight=self.weight, bias=self.bias, eps=self.eps)
        return y if self.channel_dim == 1 else y.transpose(1, -1)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.kind!r}, groups={self.groups}, eps={self.eps}"


def _share(x: Tensor, weights: Tensor, *, over_batch: bool = False) -> Tensor:
    """The weights as (batch | 1, 1, 1, node), divided by their sum over a sample, or over the batch."""
    space, batch = tuple(x.shape[2:]), len(x)
    if tuple(weights.shape) not in (space, (1, *space), (batch, *space)):
        raise ShapeError(
            f"Weights have shape {tuple(weights.shape)} for a field with nodes {space}; give {space}, {(1, *space)} or "
            f"{(batch, *space)}."
        )
    # the sum of small weights is nothing in half precision, nor are the shares of many nodes
    w = weights.to(torch.promote_types(weights.dtype, x.dtype)).reshape(-1, 1, 1, math.prod(space))
    total = w.sum() * (batch // len(w)) if over_batch else w.sum(-1, keepdim=True)
    return (w / total).to(x)


def _at_least_single(x: Tensor) -> Tensor:
    """The field in the precision that torch's own layers compute its statistics in."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)
