"""Pooling over windows of a fixed physical size (arXiv:2506.10973, appendix)."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nn2no.local import PaddingMode, extend, extend_axis, per_axis, tap_matrix
from nn2no.scale import Scale, as_scale, base_size, refined_size

# nodes of a window up to which torch's pooling is as fast as passes along each axis, with gradients and without
# (measured on a CPU)
_SMALL, _TINY = 64, 9
MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _pooled_size(n: int, k: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Torch's size of a pooled axis."""
    room = n + 2 * padding - dilation * (k - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    size = -(-room // stride) + 1
    return size - 1 if (size - 1) * stride >= n + padding else size  # no window begins beyond the field


def _sizes(
    x: Tensor, s: Scale, ends: Sequence[bool], kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> list[int]:
    sizes = []
    for n, si, end, k, t, p, d in zip(x.shape[2:], s, ends, kernel, stride, padding, dilation, strict=True):
        sizes.append(refined_size(_pooled_size(base_size(n, si, end), k, t, p, d, ceil_mode), si, end))
    return sizes


def _flags(ends: bool | Sequence[bool], dim: int) -> tuple[bool, ...]:
    return (ends,) * dim if isinstance(ends, bool) else tuple(ends)


def average_pool(
    x: Float[Tensor, "batch channel *space"],
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    *,
    scale: Sequence[Fraction | float | int],
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
    periodic: bool | Sequence[bool] = False,
    ends: bool | Sequence[bool] = False,
) -> Float[Tensor, "batch channel *new_space"]:
    """The integral convolution with the kernel of equal taps 1/k: `nn.AvgPool*d` on a grid finer by `scale`.

    Along axes without padding the field is continued periodically or by its last values (see `integral_conv`). Without
    `count_include_pad`, or where a last window reaches beyond the padding, the average is that over what lies inside:
    the pooled field divided by the pooled indicator.
    """
    dim = x.ndim - 2
    s, flags = as_scale(scale), _flags(ends, dim)
    kernel, pads = per_axis(kernel_size, dim), per_axis(padding, dim)
    strides = kernel if stride is None else per_axis(stride, dim)
    sizes, wraps = _sizes(x, s, flags, kernel, strides, pads, (1,) * dim, ceil_mode), _flags(periodic, dim)
    taps = [tap_matrix(k, 1, p, si) for k, p, si in zip(kernel, pads, s, strict=True)]
    inside = None
    for i, (matrix, first) in enumerate(taps):
        n, n_out, t = x.shape[2 + i], sizes[i], strides[i]
        weights = matrix.sum(1) / (kernel[i] if divisor is None else 1)
        border = 0 if not count_include_pad else math.ceil(pads[i] * s[i] + max(s[i], Fraction(1))) - 1
        partial = (not count_include_pad and pads[i] > 0) or (ceil_mode and sizes[i] * t > n)
        mode: PaddingMode = "zeros" if pads[i] or partial else "circular" if wraps[i] else "replicate"
        x = _weighted_sum(x, 2 + i, weights, -first, t, n_out, mode)
        if partial and divisor is None:
            ones = torch.ones(1, 1, n + 2 * border, dtype=x.dtype, device=x.device)
            share = _weighted_sum(ones, 2, weights, -first - border, t, n_out)
            share = share.view(-1, *[1] * (dim - i - 1))
            inside = share if inside is None else inside * share
    x = x if inside is None else x / inside
    return x if divisor is None else x / divisor


def _weighted_sum(
    x: Tensor, axis: int, weights: np.ndarray, left: int, stride: int, n_out: int, mode: PaddingMode = "zeros"
) -> Tensor:
    """Σ_j weights_j x[n·stride + j - left] for n < n_out."""
    right = (n_out - 1) * stride + len(weights) - 1 - left - (x.shape[axis] - 1)
    x = extend_axis(x, axis, left, right, mode)
    total: Tensor | None = None
    index: list[Any] = [slice(None)] * x.ndim
    for j, w in enumerate(weights.tolist()):
        if w == 0:
            continue
        index[axis] = slice(j, j + (n_out - 1) * stride + 1, stride)
        part = x[tuple(index)]
        total = part * w if total is None else torch.add(total, part, alpha=w)
    assert total is not None
    return total


def supremum_pool(
    x: Float[Tensor, "batch channel *space"],
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    scale: Sequence[Fraction | float | int],
    ceil_mode: bool = False,
    periodic: bool | Sequence[bool] = False,
    ends: bool | Sequence[bool] = False,
) -> Float[Tensor, "batch channel *new_space"]:
    """The supremum over a closed physical window: `nn.MaxPool*d` on a grid finer by `scale`.

    The window of k taps spans (k - 1) s spacings. With a dilation it is the k points themselves that are compared, at
    their physical distance.
    """
    dim = x.ndim - 2
    s, flags = as_scale(scale), _flags(ends, dim)
    kernel, pads, dilations = per_axis(kernel_size, dim), per_axis(padding, dim), per_axis(dilation, dim)
    strides = kernel if stride is None else per_axis(stride, dim)
    sizes = _sizes(x, s, flags, kernel, strides, pads, dilations, ceil_mode)
    left, right, windows, steps = [], [], [], []
    for i in range(dim):
        first, last = -pads[i] * s[i], ((kernel[i] - 1) * dilations[i] - pads[i]) * s[i]
        step = dilations[i] * s[i] if dilations[i] > 1 and s[i] >= 1 and (dilations[i] * s[i]).denominator == 1 else 1
        j0, j1 = math.ceil(first), math.floor(last)
        if step != 1 and first.denominator == 1:
            windows.append(kernel[i])
        else:
            step = 1
            windows.append(max(j1 - j0, 0) + 1)
        steps.append(int(step))
        left.append(-j0)
        right.append((sizes[i] - 1) * strides[i] + j0 + int(step) * (windows[i] - 1) - (x.shape[2 + i] - 1))
    around = [wrap and pad == 0 for wrap, pad in zip(_flags(periodic, dim), pads, strict=True)]
    turned = [[w if a else 0 for w, a in zip(side, around, strict=True)] for side in (left, right)]
    x = extend(x, *turned, "circular")
    widths = [
        0 if a else w
        for lo, hi, a in zip(reversed(left), reversed(right), reversed(around), strict=True)
        for w in (lo, hi)
    ]
    if any(widths):
        x = F.pad(x, widths, value=-math.inf)
    derived = torch.is_grad_enabled() and x.requires_grad
    if math.prod(windows) <= (_SMALL if derived else _TINY):
        return MAX_POOL[dim](x, tuple(windows), strides, 0, tuple(steps))
    for i, window in enumerate(windows):  # the supremum over a box is that along one axis of those along the others
        if steps[i] == 1 and not derived:  # whose backward pass is slower
            x = _running_maximum(x, 2 + i, window)
            x = x[(slice(None),) * (2 + i) + (slice(None, None, strides[i]),)]
        elif window > 1 or strides[i] > 1:
            alone = [tuple(v[i] if j == i else 1 for j in range(dim)) for v in (windows, strides, steps)]
            x = MAX_POOL[dim](x, *alone[:2], 0, alone[2])
    return x


def _running_maximum(x: Tensor, axis: int, window: int) -> Tensor:
    """The maxima of `window` neighbours, by doubling: about log₂ of it comparisons."""
    width = 1
    while width < window:
        shift = min(width, window - width)
        n = x.shape[axis] - shift
        x = torch.maximum(x.narrow(axis, 0, n), x.narrow(axis, shift, n))
        width += shift
    return x


def hat_means(n: int, n_base: int, s: Fraction, end: bool) -> np.ndarray:
    """(n_base, n): the means over the hats of the base nodes, cut at the ends, by the trapezoidal rule on the n nodes.

    On a coarser grid, linear interpolation at the base nodes.
    """
    hats, first = tap_matrix(n_base, 1, 0, s)
    rows = np.arange(first, first + len(hats))
    inside = (rows >= 0) & (rows < n)
    means = np.zeros((n_base, n))
    means[:, rows[inside]] = hats[inside].T
    if s > 1:
        means[:, 0] /= 2
        if end:  # of other axes the last node lies within a hat
            means[:, -1] /= 2
    return means / means.sum(1, keepdims=True)


def _readout_matrix(n: int, n_base: int, n_out: int, s: Fraction, end: bool) -> np.ndarray:
    """(n_out, n): the means over the base windows [⌊i n₀/m⌋, ⌈(i + 1) n₀/m⌉) times s."""
    matrix = np.zeros((n_out, n))
    means = hat_means(n, n_base, s, end) if end else None
    for i in range(n_out):
        a, b = i * n_base // n_out, -(-(i + 1) * n_base // n_out)
        if means is not None:  # each base node stands for its hat and counts as on the base grid
            matrix[i] = means[a:b].sum(0)
        else:
            low, high = math.ceil(a * s), math.ceil(b * s)
            matrix[i, low : max(high, low + 1)] = 1
    return matrix / matrix.sum(1, keepdims=True)


def adaptive_average(
    x: Float[Tensor, "batch channel *space"],
    output_size: Any,
    *,
    scale: Sequence[Fraction | float | int],
    ends: bool | Sequence[bool] = False,
) -> Float[Tensor, "batch channel *out"]:
    """`nn.AdaptiveAvgPool*d`, a readout: means over as many fixed physical windows, whatever the resolution."""
    dim = x.ndim - 2
    s, flags = as_scale(scale), _flags(ends, dim)
    for i, n_out in enumerate(per_axis(output_size, dim)):
        n = x.shape[2 + i]
        n0 = base_size(n, s[i], flags[i])
        matrix = torch.as_tensor(_readout_matrix(n, n0, n0 if n_out is None else n_out, s[i], flags[i])).to(x)
        x = torch.tensordot(x, matrix, dims=([2 + i], [1])).movedim(-1, 2 + i)
    return x


def adaptive_supremum(
    x: Float[Tensor, "batch channel *space"],
    output_size: Any,
    *,
    scale: Sequence[Fraction | float | int],
    ends: bool | Sequence[bool] = False,
) -> Float[Tensor, "batch channel *out"]:
    """`nn.AdaptiveMaxPool*d`: suprema over as many fixed physical windows, whatever the resolution."""
    dim = x.ndim - 2
    s, flags = as_scale(scale), _flags(ends, dim)
    for i, n_out in enumerate(per_axis(output_size, dim)):
        n0 = base_size(x.shape[2 + i], s[i], flags[i])
        m = n0 if n_out is None else n_out
        parts = []
        for j in range(m):
            a, b = j * n0 // m, -(-(j + 1) * n0 // m)
            low, high = math.ceil(a * s[i]), math.floor((b - 1) * s[i])
            parts.append(x.narrow(2 + i, low, max(high - low, 0) + 1).amax(2 + i, keepdim=True))
        x = torch.cat(parts, 2 + i)
    return x
