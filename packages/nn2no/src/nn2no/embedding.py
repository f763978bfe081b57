"""Coordinates as further channels of a field (arXiv:2506.10973, §3.7)."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from sciml.grids import Grid
from torch import Tensor, nn

from nn2no.fourier import Line, gaps, lines_of

EmbeddingKind = Literal["periodic", "raw", "none"]


class CoordinateEmbedding(nn.Module):
    """Append the coordinates of the nodes, in units of the domain's lengths, to the channels of a field.

    "periodic": cos 2πx/L and sin 2πx/L for periodic axes, x/L for others: functions on the domain. "raw": x/L for every
    axis, which jumps where a periodic axis closes and costs its outputs the equivariance to shifts. "none": nothing.

    Raises
    ------
    ConfigError
        An unknown kind.
    """

    def __init__(self, kind: EmbeddingKind = "periodic") -> None:
        super().__init__()
        if kind not in ("periodic", "raw", "none"):
            raise ConfigError(f"embedding={kind!r}; choose 'periodic', 'raw' or 'none'.")
        self.kind = kind

    def channels(self, periodic: list[bool]) -> int:
        """How many channels are appended."""
        return {"periodic": len(periodic) + sum(periodic), "raw": len(periodic), "none": 0}[self.kind]

    def forward(
        self, f: Float[Tensor, "batch channel *space"], grid: Grid | None = None
    ) -> Float[Tensor, "batch more_channels *space"]:
        """`f` with its coordinates; without `grid` it is on a periodic one."""
        return self.append(f, lines_of(f, grid))

    def append(self, f: Tensor, lines: list[Line]) -> Tensor:
        """The same, for axes that are described by hand."""
        if self.kind == "none":
            return f
        parts = [f]
        for i, line in enumerate(lines):
            x = _positions(line, f)
            wraps = line.periodic and self.kind == "periodic"
            values = [torch.cos(2 * math.pi * x), torch.sin(2 * math.pi * x)] if wraps else [x]
            shape = [1] * (f.ndim - 2)
            shape[i] = line.n
            parts += [v.to(f.dtype).view(1, 1, *shape).expand(len(f), 1, *f.shape[2:]) for v in values]
        return torch.cat(parts, 1)

    def extra_repr(self) -> str:
        return repr(self.kind)


def _positions(line: Line, like: Tensor) -> Tensor:
    """x/L at the nodes, in [0, 1]."""
    if line.axis is not None:
        return torch.as_tensor((line.axis.nodes() - line.axis.origin) / line.axis.length).to(like)
    kind = like.dtype if like.dtype == torch.float64 else torch.float32
    i = torch.arange(line.n, dtype=kind, device=like.device)
    return (i + 0.5 * (line.centering == "cell")) / gaps(line)
