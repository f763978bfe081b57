"""Resampling of fields between uniform grids: exact for every function that both of them resolve."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from torch import Tensor, nn


def fourier_resize(
    x: Float[Tensor, "batch channel *space"], size: Sequence[int], *, centering: str = "node"
) -> Float[Tensor, "batch channel *new_space"]:
    """The trigonometric interpolant of a periodic field at `size` nodes an axis, without the modes these alias.

    Enlarging splits the Nyquist mode of an even size into its two halves, reducing to an even size folds them, so
    that reducing what was enlarged gives the field back. `centering` says where the nodes of both grids are.
    """
    _check(x, size, centering)
    kind = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    y = x.to(kind)
    for dim, n in enumerate(size, start=2):
        if n != y.shape[dim]:
            y = _resize_axis(y, dim, n, centering == "cell")
    return y.to(x.dtype)


def _resize_axis(x: Tensor, dim: int, n: int, cells: bool) -> Tensor:
    old = x.shape[dim]
    modes = min(old, n) // 2 + 1
    c = torch.fft.rfft(x, dim=dim, norm="forward").narrow(dim, 0, modes)
    factor = torch.ones(modes, dtype=torch.float64)
    if min(old, n) % 2 == 0:  # irfft counts the Nyquist mode once, every other one twice
        factor[-1] = 0.5 if n > old else 2.0
    if cells:  # the first node of the two grids is half a cell from the origin
        turn = math.pi * (1 / n - 1 / old) * torch.arange(modes, dtype=torch.float64)
        factor = torch.polar(factor, turn)
    shape = [1] * x.ndim
    shape[dim] = modes
    return torch.fft.irfft(c * factor.view(shape).to(c), n=n, dim=dim, norm="forward")


def linear_resize(
    x: Float[Tensor, "batch channel *space"],
    size: Sequence[int],
    *,
    periodic: bool | Sequence[bool] = False,
    centering: str = "node",
) -> Float[Tensor, "batch channel *new_space"]:
    """The multilinear interpolant at `size` nodes an axis; beyond the last cell centre the segment is continued."""
    _check(x, size, centering)
    wraps = [periodic] * len(size) if isinstance(periodic, bool) else periodic
    for dim, (n, wrap) in enumerate(zip(size, wraps, strict=True), start=2):
        old = x.shape[dim]
        if n == old:
            continue
        i = torch.arange(n, dtype=torch.float64)
        if centering == "cell":
            position = (i + 0.5) * (old / n) - 0.5
        else:
            position = i * (old / n if wrap else (old - 1) / max(n - 1, 1))
        x = interpolate_along(x, dim, position, wrap)
    return x


def interpolate_along(x: Tensor, axis: int, positions: np.ndarray | Tensor, periodic: bool) -> Tensor:
    """The piecewise linear interpolant along one axis at `positions` in float64, in spacings from the first node.

    Periodic axes wrap around; on others the first and the last segment are continued beyond the ends.
    """
    n = x.shape[axis]
    at = torch.as_tensor(positions)
    left = at.floor().long()
    if not periodic:
        left = left.clamp(0, max(n - 2, 0))
    shape = [1] * x.ndim
    shape[axis] = len(left)
    t = (at - left).to(x).view(shape)
    left = left.to(x.device)
    right = (left + 1) % n if periodic else (left + 1).clamp_max(n - 1)
    return torch.lerp(x.index_select(axis, left % n), x.index_select(axis, right), t)


def _check(x: Tensor, size: Sequence[int], centering: str) -> None:
    _check_centering(centering)
    if x.ndim != len(size) + 2 or not x.dtype.is_floating_point:
        raise ShapeError(
            f"A field (batch, channel, *space) with {len(size)} real axes is resized to {tuple(size)}; got "
            f"{tuple(x.shape)} of {x.dtype}."
        )
    if any(isinstance(n, float) or n < 1 for n in size):
        raise ConfigError(f"size={tuple(size)}: give a whole number of nodes, at least one an axis.")


def _check_centering(centering: str) -> None:
    if centering not in ("node", "cell"):
        raise ConfigError(f"centering={centering!r}; choose 'node' or 'cell'.")


def _check_factor(factor: float | int) -> None:
    if not 0 < factor < math.inf:
        raise ConfigError(f"factor={factor} must be positive and finite.")


class FourierResize(nn.Module):
    """Multiply the number of nodes of a periodic field by `factor`, by trigonometric interpolation."""

    def __init__(self, factor: float | int, *, centering: str = "node") -> None:
        super().__init__()
        _check_factor(factor)
        _check_centering(centering)
        self.factor, self.centering = factor, centering

    def forward(
        self, x: Float[Tensor, "batch channel *space"], size: Sequence[int] | None = None
    ) -> Float[Tensor, "batch channel *new_space"]:
        """Resize to `size`, by default `factor` times that of `x`, rounded."""
        return fourier_resize(x, size or [round(n * self.factor) for n in x.shape[2:]], centering=self.centering)

    def extra_repr(self) -> str:
        return f"{self.factor}, centering={self.centering!r}"


class LinearResize(nn.Module):
    """Multiply the number of nodes (on non-periodic node-centred axes: of intervals) by `factor`, multilinearly."""

    def __init__(
        self, factor: float | int, *, periodic: bool | Sequence[bool] = False, centering: str = "node"
    ) -> None:
        super().__init__()
        _check_factor(factor)
        _check_centering(centering)
        self.factor, self.periodic, self.centering = factor, periodic, centering

    def forward(
        self, x: Float[Tensor, "batch channel *space"], size: Sequence[int] | None = None
    ) -> Float[Tensor, "batch channel *new_space"]:
        """Resize to `size`, by default `factor` times that of `x`, rounded."""
        dim = x.ndim - 2
        wraps = [self.periodic] * dim if isinstance(self.periodic, bool) else self.periodic
        ends = [self.centering == "node" and not wrap for wrap in wraps]
        default = [round((n - end) * self.factor) + end for n, end in zip(x.shape[2:], ends, strict=True)]
        return linear_resize(x, size or default, periodic=self.periodic, centering=self.centering)

    def extra_repr(self) -> str:
        return f"{self.factor}, periodic={self.periodic}, centering={self.centering!r}"


class Antialiased(nn.Module):
    """A pointwise nonlinearity of a periodic field, evaluated on a finer grid and filtered back (arXiv:2302.01178).

    A nonlinearity makes frequencies that the grid cannot hold; on the finer one they are resolved, then dropped.
    """

    def __init__(self, activation: Callable[[Tensor], Tensor], factor: int = 2) -> None:
        super().__init__()
        if not isinstance(factor, int) or factor < 1:
            raise ConfigError(f"factor={factor} must be a whole number, at least 1.")
        self.activation, self.factor = activation, factor

    def forward(self, x: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        fine = fourier_resize(x, [n * self.factor for n in x.shape[2:]])
        return fourier_resize(self.activation(fine), x.shape[2:])
