"""Convolutions as integrals over kernels of a fixed physical size (arXiv:2506.10973, §3.3).

A kernel with taps w_a at the offsets o_a = (a δ - p) h₀ stands for K(t) = Σ_a w_a φ((t - o_a)/h₀) with the hat function
φ. On a grid of spacing h = h₀/s its quadrature is, with H = max(h, h₀) and before each tap is given its mass of one,

    κ_j = (h/H) Σ_a w_a φ((j h - o_a)/H),

which is w itself for s = 1. For whole s this is a smoothing of the field by hats, then the same taps, s nodes apart.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn

from nn2no.correlation import correlate, is_faster
from nn2no.errors import ResolutionWarning
from nn2no.scale import Scale, as_scale, base_size, fixed, fixed_size, refined_size

PaddingMode = Literal["zeros", "circular", "reflect", "replicate"]
Continuation = Literal["zeros", "circular", "reflect", "replicate", "symmetric"]
_MODES = get_args(Continuation)
_FARTHEST = 32  # lengths of the domain that a kernel may reach beyond its centre
CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def per_axis(value: Any, dim: int) -> tuple[Any, ...]:
    """One value for every axis."""
    if isinstance(value, int):
        return (value,) * dim
    return tuple(value) * dim if len(value) == 1 else tuple(value)


def pad_pairs(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """The padding at both ends of every axis."""
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(t // 2, t - t // 2) for t in total]
    values = per_axis(0 if padding == "valid" else padding, len(kernel))
    return [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in values]


@functools.lru_cache(maxsize=512)
def tap_matrix(taps: int, dilation: int, padding: int, s: Fraction) -> tuple[np.ndarray, int]:
    """Quadrature weights of the taps, (nodes, taps) with column sums one, and the offset of the first node."""
    reach = max(s, Fraction(1))
    places = [(a * dilation - padding) * s for a in range(taps)]
    first, last = math.floor(places[0] - reach) + 1, math.ceil(places[-1] + reach) - 1
    distance = np.array([[abs(float((j - place) / reach)) for place in places] for j in range(first, last + 1)])
    hats = np.maximum(0.0, 1 - distance)
    return hats / hats.sum(0), first


def taps_as_tensor(taps: int, dilation: int, padding: int, s: Fraction) -> tuple[Tensor, int]:
    """`tap_matrix` as a tensor in float64, a constant of compiled graphs, which cannot trace it."""
    arguments = (taps, dilation, padding, s.numerator, s.denominator)
    return _constant_matrix(*arguments), _constant_first(*arguments)


@torch.compiler.assume_constant_result
def _constant_matrix(taps: int, dilation: int, padding: int, numerator: int, denominator: int) -> Tensor:
    return torch.as_tensor(tap_matrix(taps, dilation, padding, Fraction(numerator, denominator))[0])


@torch.compiler.assume_constant_result
def _constant_first(taps: int, dilation: int, padding: int, numerator: int, denominator: int) -> int:
    return tap_matrix(taps, dilation, padding, Fraction(numerator, denominator))[1]


def refine_kernel(
    weight: Float[Tensor, "out in *taps"], s: Scale, *, dilation: Any = 1, padding: Any = 0
) -> tuple[Float[Tensor, "out in *nodes"], tuple[int, ...]]:
    """The kernel κ on a grid finer by `s`, and the offset of its first entry from the node that it acts on."""
    dim, offsets = weight.ndim - 2, []
    for axis, (d, p) in enumerate(zip(per_axis(dilation, dim), per_axis(padding, dim), strict=True), start=2):
        matrix, first = taps_as_tensor(weight.shape[axis], d, p, s[axis - 2])
        weight = along(weight, axis, matrix.to(weight))
        offsets.append(first)
    return weight, tuple(offsets)


def integral_conv(
    x: Float[Tensor, "batch channel *space"],
    weight: Float[Tensor, "out in *taps"],
    bias: Float[Tensor, " out"] | None = None,
    *,
    scale: Sequence[Fraction | float | int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    ends: bool | Sequence[bool] = False,
    explicit: bool = False,
) -> Float[Tensor, "batch out *new_space"]:
    """The convolution of a field on a grid finer by `scale` than the one that `weight` was made for.

    Output n stands at node n · `stride` of the input. The field is continued beyond its ends as `padding_mode` says;
    along axes without padding, where no tap leaves the field, "zeros" stands for "replicate": the kernel alone reaches
    out, by less than h₀. A kernel of one tap along an axis acts at the node itself.

    Parameters
    ----------
    padding
        Of the base grid, for each axis one number or a pair, or "same".
    ends
        Whether the nodes of each axis include both of its ends.
    explicit
        Compute with the kernel κ also where smoothing and the original taps, or Fourier transforms of a wide κ, are the
        same and faster.

    Raises
    ------
    ConfigError
        The base grid of the input or the refined output has no whole number of nodes.
    """
    dim = x.ndim - 2
    s = as_scale(scale)
    strides, dilations = per_axis(stride, dim), per_axis(dilation, dim)
    if not torch.compiler.is_compiling() and min(s) < Fraction(1, 4):
        _warn_of_aliasing(min(s))
    pads = pad_pairs(padding, weight.shape[2:], dilations)
    flags = per_axis(ends, dim) if not isinstance(ends, bool) else (ends,) * dim
    left, right, steps, smooth = [], [], [], []
    matrices: list[Any] = [None] * dim
    for i in range(dim):
        k, n = weight.shape[2 + i], fixed_size(x.shape[2 + i])
        reach = (k - 1) * dilations[i]
        whole = k > 1 and s[i].denominator == 1 and not explicit
        if k == 1:
            first, last, step = _whole(-pads[i][0] * s[i]), _whole(-pads[i][0] * s[i]), 1
        elif whole:
            m = int(s[i])
            first, last = -pads[i][0] * m - (m - 1), (reach - pads[i][0]) * m + m - 1
            step = dilations[i] * m
            if m > 1:
                smooth.append((2 + i, m))
        else:
            matrices[i], first = taps_as_tensor(k, dilations[i], pads[i][0], s[i])
            last, step = first + len(matrices[i]) - 1, 1
        n_out = _conv_size(n, reach - sum(pads[i]), strides[i], s[i], flags[i])
        left.append(-first)
        right.append((n_out - 1) * strides[i] + last - (n - 1))
        steps.append(step)
    modes = [padding_mode] * dim if isinstance(padding_mode, str) else padding_mode
    bare: Sequence[PaddingMode] = [
        "replicate" if mode == "zeros" and pad == (0, 0) else mode for mode, pad in zip(modes, pads, strict=True)
    ]
    x = extend(x, left, right, bare)
    for axis, m in smooth:
        x = _smooth(x, axis, m)
    wide = not explicit and any(m is not None for m in matrices) and all(step == 1 for step in steps)
    if wide and is_faster(x, weight, matrices, strides, groups):
        y = correlate(x, weight, matrices, strides, groups)
        return y if bias is None else y + bias.view(-1, *[1] * dim)
    for axis, matrix in enumerate(matrices, start=2):
        weight = weight if matrix is None else along(weight, axis, matrix.to(weight))
    return CONV[dim](x, weight, bias, strides, 0, tuple(steps), groups)


def integral_conv_transpose(
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
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    ends: bool | Sequence[bool] = False,
    explicit: bool = False,
) -> Float[Tensor, "batch all_out *new_space"]:
    """y(x) = Σ_n κ(x - x_n) f_n: every node of the input spreads the kernel, whose taps lie in the output.

    A constant c becomes c Σw/σ^d on average, at every resolution. "circular" lets what leaves one end enter at the
    other; "zeros" stands for "replicate" where taps neither overlap nor leave gaps nor are cut off, so that each output
    has one input. One mode may be given for each axis. Parameters and errors as for `integral_conv`.
    """
    dim = x.ndim - 2
    modes = [padding_mode] * dim if isinstance(padding_mode, str) else padding_mode
    if unknown := set(modes) - {"zeros", "circular"}:
        raise ConfigError(f"padding_mode={unknown.pop()!r}: a transposed convolution has 'zeros' or 'circular'.")
    s = as_scale(scale)
    strides, dilations, pads, more = (per_axis(v, dim) for v in (stride, dilation, padding, output_padding))
    flags = per_axis(ends, dim) if not isinstance(ends, bool) else (ends,) * dim
    firsts, sizes, steps, smooth = [], [], [], []
    for i in range(dim):
        k, n = weight.shape[2 + i], fixed_size(x.shape[2 + i])
        m = int(s[i]) if s[i].denominator == 1 and not explicit else 0
        if k == 1:
            first, step = _whole(-pads[i] * s[i]), 1
        elif m:
            first, step = -pads[i] * m, dilations[i] * m
            if m > 1:
                smooth.append((2 + i, m))
                first -= m - 1
        else:
            matrix, first = taps_as_tensor(k, dilations[i], pads[i], s[i])
            weight, step = along(weight, 2 + i, matrix.to(weight)), 1
        n0 = base_size(n, s[i], flags[i])
        n0_out = (n0 - 1) * strides[i] - 2 * pads[i] + dilations[i] * (k - 1) + more[i] + 1
        if modes[i] == "zeros" and k == strides[i] > 1 and dilations[i] == 1 and pads[i] == 0 and s[i] != 1:
            border = [0] * dim
            border[i] = math.ceil(s[i])
            x = extend(x, border, border, "replicate")
            first -= border[i] * strides[i]
        firsts.append(first)
        sizes.append(refined_size(n0_out, s[i], flags[i]))
        steps.append(step)
    y = CONV_TRANSPOSE[dim](x, weight, None, strides, 0, 0, groups, tuple(steps))
    widths = dict(smooth)
    for axis, (first, size) in enumerate(zip(firsts, sizes, strict=True), start=2):
        m = widths.get(axis, 1)
        if modes[axis - 2] == "circular":
            y = _smooth(extend_axis(y, axis, 2 * (m - 1), 2 * (m - 1), "zeros"), axis, m)
            y = _wrap(y, axis, first, size)
        else:  # only what is kept is smoothed
            last = first + y.shape[axis] - 1 + 2 * (m - 1)
            y = extend_axis(y, axis, 2 * (m - 1) + first, size - 1 - last + 2 * (m - 1), "zeros")
            y = _smooth(y, axis, m)
    return y if bias is None else y + bias.view(-1, *[1] * dim)


class _IntegralConv(nn.Module):
    """A convolution of a field with a kernel of fixed physical size, on uniform grids of any spacing.

    On a grid of spacing `base_spacing` it is torch's convolution with the same weights. Periodic axes wrap around;
    beyond the ends of others the field is continued as `padding_mode` says.

    Parameters
    ----------
    base_spacing
        The distance of neighbouring taps, in units of the grid's lengths; one number or one for each axis.

    Raises
    ------
    ConfigError
        An unknown padding mode, or a spacing that is not positive.
    """

    dim = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        base_spacing: float | int | Sequence[float | int],
        *,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if padding_mode not in ("zeros", "reflect", "replicate"):
            raise ConfigError(
                f"padding_mode={padding_mode!r}; choose 'zeros', 'reflect' or 'replicate' (periodic axes always wrap)."
            )
        spacing = [base_spacing] * self.dim if isinstance(base_spacing, float | int) else list(base_spacing)
        if len(spacing) != self.dim or not all(0 < h < math.inf for h in spacing):
            raise ConfigError(f"base_spacing={base_spacing}; give a positive number, or one for each of the axes.")
        self.dilation, kernel = (
            (v,) * self.dim if isinstance(v, float) else per_axis(v, self.dim) for v in (dilation, kernel_size)
        )
        sizes = (in_channels, out_channels, groups, *self.dilation, *kernel)
        if not all(isinstance(n, int) and n > 0 for n in sizes) or {len(self.dilation), len(kernel)} != {self.dim}:
            raise ConfigError(
                f"kernel_size={kernel_size}, dilation={dilation}, {in_channels} and {out_channels} channels, {groups} "
                f"groups: give positive whole numbers, and one kernel_size and dilation, or one for each of {self.dim} "
                "axes."
            )
        if in_channels % groups or out_channels % groups:
            raise ConfigError(f"{in_channels} and {out_channels} channels make no {groups} groups; give a divisor.")
        self.in_channels, self.groups = in_channels, groups
        self.base_spacing = tuple(float(h) for h in spacing)
        self.padding_mode = padding_mode
        bound = 1 / math.sqrt(in_channels // groups * math.prod(kernel))
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel, dtype=dtype))
        nn.init.uniform_(self.weight, -bound, bound)
        self.register_parameter("bias", None)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, dtype=dtype).uniform_(-bound, bound))

    def forward(
        self, f: Float[Tensor, "batch channel *space"], grid: Grid
    ) -> Float[Tensor, "batch out_channel *space"]:
        """The integral at the nodes of `grid`, on which `f` is given.

        Raises
        ------
        ShapeError
            `f` has other channels or is no field on `grid`, or an axis is not uniform.
        ConfigError
            The kernel is much larger than the domain, or its taps are less than a millionth of a cell apart.
        """
        grid.check(f)
        if f.ndim != self.dim + 2 or f.shape[1] != self.in_channels:
            raise ShapeError(
                f"Expected (batch, {self.in_channels}, *space) with {self.dim} axes; got {tuple(f.shape)}."
            )
        if any(axis.kind != "uniform" for axis in grid.axes):
            raise ShapeError("An integral convolution needs equispaced axes; interpolate to a uniform grid first.")
        taps = zip(self.weight.shape[2:], self.dilation, self.base_spacing, strict=True)
        reach = [((k - 1) * d / 2 + 1) * h0 for k, d, h0 in taps]
        if any(r > _FARTHEST * axis.length for r, axis in zip(reach, grid.axes, strict=True)):
            raise ConfigError(
                f"The kernel reaches {', '.join(f'{r:g}' for r in reach)} far in a domain of {grid.lengths}, more than "
                f"{_FARTHEST} times its length: give base_spacing in the units of the grid."
            )
        return integral_conv(
            f,
            self.weight,
            self.bias,
            scale=[h0 / fixed(axis.spacing) for h0, axis in zip(self.base_spacing, grid.axes, strict=True)],
            padding="same",
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=["circular" if axis.periodic else self.padding_mode for axis in grid.axes],
        )

    def extra_repr(self) -> str:
        kernel = tuple(self.weight.shape[2:])
        return f"{self.in_channels}, {len(self.weight)}, kernel_size={kernel}, base_spacing={self.base_spacing}"


class IntegralConv1d(_IntegralConv):
    __doc__ = _IntegralConv.__doc__
    dim = 1


class IntegralConv2d(_IntegralConv):
    __doc__ = _IntegralConv.__doc__
    dim = 2


class IntegralConv3d(_IntegralConv):
    __doc__ = _IntegralConv.__doc__
    dim = 3


def extend(
    x: Float[Tensor, "batch channel *space"],
    left: Sequence[int],
    right: Sequence[int],
    mode: Continuation | Sequence[Continuation],
) -> Float[Tensor, "batch channel *new_space"]:
    """The field with that many more nodes (fewer, if negative) at both ends of each axis, continued as `mode` says.

    "reflect" mirrors at the first and the last node, "symmetric" half a spacing beyond them, as cells end there.

    Raises
    ------
    ConfigError
        An unknown mode.
    """
    modes: Sequence[Continuation] = [mode] * len(left) if isinstance(mode, str) else mode
    for one in dict.fromkeys(modes):
        if one not in _MODES:
            raise ConfigError(f"padding_mode={one!r}; choose {', '.join(map(repr, _MODES))}.")
        widths = [(a, b) if m == one else (0, 0) for a, b, m in zip(left, right, modes, strict=True)]
        grown = [(max(a, 0), max(b, 0)) for a, b in widths]
        if _is_torchs(x, grown, one):  # copies of rows, several times as fast as gathering
            x = _pad(x, grown, "constant" if one == "zeros" else one)
        else:
            for axis, pair in enumerate(grown, start=2):
                x = _gathered(x, axis, *pair, one) if any(pair) else x
        x = _pad(x, [(min(a, 0), min(b, 0)) for a, b in widths], "constant")
    return x


def extend_axis(x: Tensor, axis: int, left: int, right: int, mode: Continuation) -> Tensor:
    """`extend` along one axis of space."""
    sides = [[width if i == axis else 0 for i in range(2, x.ndim)] for width in (left, right)]
    return extend(x, *sides, mode)


def _is_torchs(x: Tensor, widths: Sequence[tuple[int, int]], mode: Continuation) -> bool:
    """Whether `F.pad` can do it: on one to three axes, at most once around or mirrored once."""
    if mode == "zeros":
        return True
    if mode == "symmetric" or x.ndim > 5:
        return False
    spare = int(mode == "reflect")
    return mode == "replicate" or all(max(pair) <= n - spare for n, pair in zip(x.shape[2:], widths, strict=True))


def _pad(x: Tensor, widths: Sequence[tuple[int, int]], mode: str) -> Tensor:
    flat = [w for pair in reversed(widths) for w in pair]
    return F.pad(x, flat, mode=mode) if any(flat) else x


def _gathered(x: Tensor, axis: int, left: int, right: int, mode: Continuation) -> Tensor:
    """The field continued along one axis by any number of nodes, by their indices."""
    n = x.shape[axis]
    i = torch.arange(-left, n + right, device=x.device)
    if mode == "circular":
        i = i % n
    elif mode == "replicate":
        i = i.clamp(0, n - 1)
    else:
        edge = int(mode == "symmetric")  # whether the outermost nodes come twice
        i = i % max(2 * (n - 1 + edge), 1)
        i = torch.minimum(i, 2 * n - 2 + edge - i)
    return x.index_select(axis, i)


@functools.lru_cache(maxsize=64)
def _warn_of_aliasing(s: Fraction) -> None:
    """Once for each scale."""
    warnings.warn(
        f"The grid is {float(1 / s):g} times as coarse as the kernel was made for: its taps fall on the same few "
        "nodes. Use a finer grid, or interpolate the field.",
        ResolutionWarning,
        stacklevel=3,
    )


def along(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """`matrix` times the vectors along one axis."""
    return torch.tensordot(x, matrix, dims=([axis], [1])).movedim(-1, axis)


def _smooth(x: Tensor, axis: int, m: int) -> Tensor:
    """Means by hats of 2m - 1 nodes, scaled between both sums, so that half precision holds either."""
    return x if m == 1 else _box(_box(x, axis, m).mul_(1 / m**2), axis, m)


def _box(x: Tensor, axis: int, m: int) -> Tensor:
    """Sums of `m` neighbours, by doubling: about log₂ m additions."""
    if m == 1:
        return x
    half = _box(x, axis, m // 2)
    n, shift = half.shape[axis], m // 2
    y = half.narrow(axis, 0, n - shift) + half.narrow(axis, shift, n - shift)
    if m % 2:
        n = x.shape[axis] - m + 1
        y = y.narrow(axis, 0, n) + x.narrow(axis, m - 1, n)
    return y


def _wrap(y: Tensor, axis: int, first: int, size: int) -> Tensor:
    """Sum of the pieces of a field that begins at node `first` and goes round an axis of `size` nodes."""
    turns = math.ceil((first + y.shape[axis]) / size) - first // size
    start = first % size
    y = extend_axis(y, axis, start, turns * size + size - start - y.shape[axis], "zeros")
    y = y.narrow(axis, 0, (y.shape[axis] // size) * size)
    return y.unflatten(axis, (-1, size)).sum(axis)


def _whole(value: Fraction) -> int:
    if value.denominator != 1:
        raise ConfigError(f"A padding of {float(value):g} nodes is no whole number: refine by whole numbers.")
    return int(value)


def _conv_size(n: int, loss: int, stride: int, s: Fraction, end: bool) -> int:
    """The nodes of the output, where the base grid loses `loss` of them before the stride."""
    if stride == 1:
        return _whole(n - loss * s)
    return refined_size((base_size(n, s, end) - loss - 1) // stride + 1, s, end)
