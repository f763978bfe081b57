"""Other ways to take a convolution to another grid: interpolated kernels, derivatives, Fourier interpolation."""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor

from nn2no.local import CONV, CONV_TRANSPOSE, PaddingMode, extend, per_axis
from nn2no.resample import fourier_resize
from nn2no.scale import as_scale, base_size, refined_size

KernelInterpolation = Literal["linear", "fourier"]
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def interpolated_kernel(
    weight: Float[Tensor, "out in *taps"], s: float | int, kind: KernelInterpolation = "linear"
) -> Float[Tensor, "out in *nodes"]:
    """The kernel as an image of int(s k - s + 1) pixels, divided by the ratio of their numbers.

    The resizing of the authors of arXiv:2506.10973: linear without aligned corners, hence slightly misaligned.
    """
    taps = weight.shape[2:]
    size = [max(1, int(s * k - s + 1)) if k > 1 else 1 for k in taps]
    if list(taps) == size:
        return weight
    share = math.prod(taps) / math.prod(size)
    if kind == "fourier":
        return fourier_resize(weight, size) * share
    return F.interpolate(weight, size, mode=_MODES[len(size)]) * share


def kernel_interpolation_conv(
    x: Float[Tensor, "batch channel *space"],
    weight: Float[Tensor, "out in *taps"],
    bias: Float[Tensor, " out"] | None = None,
    *,
    scale: Sequence[Fraction | float | int],
    stride: Any = 1,
    padding: Any = 0,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    kind: KernelInterpolation = "linear",
) -> Float[Tensor, "batch all_out *new_space"]:
    """The convolution with the interpolated kernel and a padding of int(p s) nodes; one scale, of the last axis."""
    dim = x.ndim - 2
    s = float(as_scale(scale)[-1])
    width = [int(p * s) for p in per_axis(padding, dim)]
    x = extend(x, width, width, padding_mode)
    return CONV[dim](x, interpolated_kernel(weight, s, kind), bias, per_axis(stride, dim), 0, 1, groups)


def kernel_interpolation_conv_transpose(
    x: Float[Tensor, "batch channel *space"],
    weight: Float[Tensor, "channel out *taps"],
    bias: Float[Tensor, " any"] | None = None,
    *,
    scale: Sequence[Fraction | float | int],
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    ends: bool | Sequence[bool] = False,
) -> Float[Tensor, "batch all_out *new_space"]:
    """The layer itself on the field resized to the base grid, zero-padded to `stride` times its size, and back."""
    dim = x.ndim - 2
    s = as_scale(scale)
    flags = (ends,) * dim if isinstance(ends, bool) else tuple(ends)
    base = [base_size(n, si, end) for n, si, end in zip(x.shape[2:], s, flags, strict=True)]
    small = F.interpolate(x, base, mode=_MODES[dim]) if list(x.shape[2:]) != base else x
    y = CONV_TRANSPOSE[dim](small, weight, bias, stride, padding, output_padding, groups, dilation)
    wanted = [n * t for n, t in zip(base, per_axis(stride, dim), strict=True)]
    missing = [w - n for w, n in zip(wanted, y.shape[2:], strict=True)]
    y = extend(y, [m // 2 for m in missing], [m - m // 2 for m in missing], "zeros")
    size = [refined_size(n, si, end) for n, si, end in zip(wanted, s, flags, strict=True)]
    return F.interpolate(y, size, mode=_MODES[dim]) if size != wanted else y


@functools.lru_cache(maxsize=128)
def moment_matrix(taps: int, s: Fraction) -> np.ndarray:
    """From taps w at spacing h₀ to w' at h₀/s of the same moments Σ_a w'_a (j_a h)^q = Σ_a w_a (a h₀)^q, q < k."""
    powers = np.vander(np.arange(taps) - (taps - 1) / 2, increasing=True).T
    return np.linalg.solve(powers, np.diag([float(s) ** q for q in range(taps)]) @ powers)


def moment_conv(
    x: Float[Tensor, "batch channel *space"],
    weight: Float[Tensor, "out in *taps"],
    bias: Float[Tensor, " out"] | None = None,
    *,
    scale: Sequence[Fraction | float | int],
    stride: Any = 1,
    padding: Any = 0,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
) -> Float[Tensor, "batch all_out *new_space"]:
    """The convolution as a differential operator: Σ_q M_q f^(q)/q! with the moments M_q of the layer, of any grid.

    It amplifies noise of the field by s^(2(k - 1)) in two dimensions.

    Raises
    ------
    ConfigError
        Kernels of an even size or of more than 3 taps, or a padding other than (k - 1)/2.
    """
    dim = x.ndim - 2
    pads, taps = per_axis(padding, dim), weight.shape[2:]
    if any(k not in (1, 3) or p != k // 2 for k, p in zip(taps, pads, strict=True)):
        raise ConfigError(
            f"A kernel of {tuple(taps)} taps with padding {pads}: as a differential operator go 1 or 3 taps with a "
            "padding of (k - 1)/2; larger stencils amplify noise beyond use."
        )
    for axis, (k, s) in enumerate(zip(taps, as_scale(scale), strict=True), start=2):
        if k > 1 and s != 1:
            matrix = torch.as_tensor(moment_matrix(k, s)).to(weight)
            weight = torch.tensordot(weight, matrix, dims=([axis], [1])).movedim(-1, axis)
    return CONV[dim](extend(x, pads, pads, padding_mode), weight, bias, per_axis(stride, dim), 0, 1, groups)


def resized_conv(
    x: Float[Tensor, "batch channel *space"],
    weight: Float[Tensor, "out in *taps"],
    bias: Float[Tensor, " out"] | None = None,
    *,
    scale: Sequence[Fraction | float | int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "circular",
) -> Float[Tensor, "batch all_out *new_space"]:
    """The convolution as a Fourier multiplier of the modes that its base grid holds: that layer on that grid.

    The field is resized to the base grid and the output back by Fourier series, so that the axes must be periodic.
    """
    dim = x.ndim - 2
    s = as_scale(scale)
    base = [base_size(n, si, False) for n, si in zip(x.shape[2:], s, strict=True)]
    pads = per_axis(padding, dim)
    small = extend(fourier_resize(x, base), pads, pads, padding_mode)
    y = CONV[dim](small, weight, bias, per_axis(stride, dim), 0, per_axis(dilation, dim), groups)
    return fourier_resize(y, [refined_size(n, si, False) for n, si in zip(y.shape[2:], s, strict=True)])
