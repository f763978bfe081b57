"""Layers that act on the value at each point alone, which are operators as they are (arXiv:2506.10973, §3.2)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ShapeError
from torch import Tensor, nn


class ChannelLinear(nn.Module):
    """An affine map of the channels of a field (batch, channel, *space): a convolution with a kernel of size one.

    It is computed as one matrix product a sample, which on CPUs takes a fraction of the time of `nn.Conv2d`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, bias: bool = True, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, dtype=dtype))
        bound = 1 / math.sqrt(in_channels)
        nn.init.uniform_(self.weight, -bound, bound)
        self.register_parameter("bias", None)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, dtype=dtype).uniform_(-bound, bound))

    def forward(
        self, x: Float[Tensor, "batch channel *space"], add: Float[Tensor, "batch out_channel *space"] | None = None
    ) -> Float[Tensor, "batch out_channel *space"]:
        """The mapped field, plus the field `add`. ShapeError if `x` has other channels."""
        if x.ndim < 2 or x.shape[1] != self.in_channels:
            raise ShapeError(f"Expected a field (batch, {self.in_channels}, *space); got {tuple(x.shape)}.")
        weight = self.weight.expand(len(x), -1, -1)
        nodes = x.flatten(2) if x.ndim > 2 else x[..., None]
        if add is not None:
            y = torch.baddbmm(add.reshape(len(x), len(self.weight), nodes.shape[-1]), weight, nodes)
            y = y if self.bias is None else y + self.bias[:, None]
        else:
            y = torch.bmm(weight, nodes) if self.bias is None else torch.baddbmm(self.bias[:, None], weight, nodes)
        return y.reshape(len(x), len(self.weight), *x.shape[2:])

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {len(self.weight)}, bias={self.bias is not None}"


class ChannelMLP(nn.Module):
    """Two affine maps of the channels with GELU between them, at every point."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.first = ChannelLinear(in_channels, hidden, dtype=dtype)
        self.second = ChannelLinear(hidden, out_channels, dtype=dtype)

    def forward(self, x: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch out_channel *space"]:
        return self.second(F.gelu(self.first(x)))
