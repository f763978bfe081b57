"""Interpolation that keeps its shift in physical units (arXiv:2506.10973, §2.5 of the conversion rules).

Torch's interpolation without aligned corners shifts by half a pixel of the grid that it is called on. On a finer grid
that is another function, and no longer the inverse of pooling: here the shift stays what it was on the base grid.
"""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor

from nn2no.local import PaddingMode, extend, integral_conv, integral_conv_transpose, per_axis
from nn2no.resample import interpolate_along
from nn2no.scale import as_scale, base_size

_CUBIC = -0.75  # torch's coefficient of cubic convolution


def upsample(
    x: Float[Tensor, "batch channel *space"],
    size: Sequence[int],
    mode: str = "nearest",
    align_corners: bool | None = None,
    *,
    scale: Sequence[Fraction | float | int],
    periodic: bool | Sequence[bool] = False,
    ends: bool | Sequence[bool] = False,
) -> Float[Tensor, "batch channel *new_space"]:
    """`F.interpolate` to `size` nodes, for fields on a grid finer by `scale` than the one that it was meant for.

    "nearest" and "bicubic" are transposed convolutions with the interpolation's own taps, linear modes interpolate at
    positions shifted by a fixed physical distance, clamped at the ends.

    Raises
    ------
    ConfigError
        "nearest" or "bicubic" by a factor that is not whole, or an unknown mode.
    """
    dim = x.ndim - 2
    s = as_scale(scale)
    flags = (ends,) * dim if isinstance(ends, bool) else tuple(ends)
    if mode in ("linear", "bilinear", "trilinear"):
        for i in range(dim):
            n0, m0 = base_size(x.shape[2 + i], s[i], flags[i]), base_size(size[i], s[i], flags[i])
            if x.shape[2 + i] != size[i]:
                at = _positions(x.shape[2 + i], size[i], n0, m0, s[i], bool(align_corners))
                x = interpolate_along(x, 2 + i, at, periodic=False)
        return x
    if mode not in ("nearest", "nearest-exact", "bicubic") or align_corners:
        raise ConfigError(f"Interpolation by mode={mode!r} with align_corners={align_corners} has no counterpart.")
    for i in range(dim):
        n0, m0 = base_size(x.shape[2 + i], s[i], flags[i]), base_size(size[i], s[i], flags[i])
        if m0 % n0:
            raise ConfigError(
                f"mode={mode!r} from {n0} to {m0} nodes of the base grid: only whole factors are functions of the "
                "neighbours alone; use a linear mode."
            )
        wraps = periodic if isinstance(periodic, bool) else periodic[i]
        x = _by_taps(x, 2 + i, m0 // n0, mode, s[i], flags[i], size[i], wraps)
    return x


def _by_taps(x: Tensor, axis: int, factor: int, mode: str, s: Fraction, end: bool, size: int, wraps: bool) -> Tensor:
    """A transposed convolution along one axis, the same for every channel."""
    if factor == 1:
        return x
    lines = x.movedim(axis, -1)
    shape = lines.shape[:-1]
    lines = lines.reshape(-1, 1, lines.shape[-1])
    if mode == "bicubic":
        # of at least 3 base nodes, as the taps reach over two and their hats beyond
        base_border = math.ceil(Fraction(3, s.denominator)) * s.denominator
        border = int(base_border * s)
        lines = extend(lines, [border], [border], "replicate")
        first = -(3 * factor // 2)  # the offset of the first node that a node of the input reaches
        offsets = torch.arange(first, first + 4 * factor + 1, dtype=torch.float64)
        t = ((offsets + 0.5) / factor - 0.5).abs()
        near = ((_CUBIC + 2) * t - (_CUBIC + 3)) * t**2 + 1
        far = ((t - 5) * t + 8) * _CUBIC * t - 4 * _CUBIC
        taps = torch.where(t <= 1, near, torch.where(t < 2, far, 0.0))
        padding = base_border * factor - first  # the border is cut off again
    else:
        taps, padding = torch.ones(factor, dtype=torch.float64), 0
    weight = taps.to(x).view(1, 1, -1)
    n0 = base_size(lines.shape[-1], s, end)
    base_out = (n0 - 1) * factor - 2 * padding + len(taps)
    missing = base_size(size, s, end) - base_out
    y = integral_conv_transpose(
        lines,
        weight,
        scale=(s,),
        stride=factor,
        padding=padding,
        output_padding=missing,
        padding_mode="circular" if wraps and mode != "bicubic" else "zeros",
        ends=end,
    )
    return y.reshape(*shape, size).movedim(-1, axis)


@functools.lru_cache(maxsize=256)
def _positions(n: int, m: int, n0: int, m0: int, s: Fraction, aligned: bool) -> np.ndarray:
    """Where m nodes are among n, clamped at the ends; n0 and m0 of the base grid."""
    out = np.arange(m)
    if aligned:
        position = out * ((n - 1) / (m - 1)) if m > 1 else np.zeros(1)
    else:
        ratio = n0 / m0  # spacing of the output in spacings of the input
        position = out * ratio + (ratio - 1) / 2 * float(s)
    return np.clip(position, 0, n - 1)


def pixel_shuffle(
    x: Float[Tensor, "batch channel nx ny"],
    factor: int,
    *,
    scale: Sequence[Fraction | float | int],
    periodic: bool | Sequence[bool] = False,
    ends: bool | Sequence[bool] = False,
) -> Float[Tensor, "batch new_channel mx my"]:
    """`nn.PixelShuffle` as a transposed convolution: channel (c, i, j) is the tap (i, j) of channel c."""
    channels = x.shape[1] // factor**2
    one_hot = torch.eye(factor**2, dtype=x.dtype, device=x.device).view(factor**2, 1, factor, factor)
    weight = one_hot.repeat(channels, 1, 1, 1)
    mode: list[PaddingMode] = ["circular" if wrap else "zeros" for wrap in per_axis(periodic, 2)]
    return integral_conv_transpose(x, weight, scale=scale, stride=factor, groups=channels, padding_mode=mode, ends=ends)


def pixel_unshuffle(
    x: Float[Tensor, "batch channel nx ny"],
    factor: int,
    *,
    scale: Sequence[Fraction | float | int],
    periodic: bool | Sequence[bool] = False,
    ends: bool | Sequence[bool] = False,
) -> Float[Tensor, "batch new_channel mx my"]:
    """`nn.PixelUnshuffle` as a convolution: channel (c, i, j) reads the tap (i, j) of channel c."""
    channels = x.shape[1]
    one_hot = torch.eye(factor**2, dtype=x.dtype, device=x.device).view(factor**2, 1, factor, factor)
    weight = one_hot.repeat(channels, 1, 1, 1)
    mode: list[PaddingMode] = ["circular" if wrap else "zeros" for wrap in per_axis(periodic, 2)]
    return integral_conv(x, weight, scale=scale, stride=factor, groups=channels, padding_mode=mode, ends=ends)
