"""What convolutions, pooling, resampling and readouts become on another grid than the base grid."""

import contextlib
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nn2no.alternatives import (
    kernel_interpolation_conv,
    kernel_interpolation_conv_transpose,
    moment_conv,
    resized_conv,
)
from nn2no.conversion.place import Border, Place, from_base, to_base
from nn2no.conversion.trace import Call
from nn2no.errors import ConversionError
from nn2no.local import (
    CONV,
    PaddingMode,
    extend,
    extend_axis,
    integral_conv,
    integral_conv_transpose,
    pad_pairs,
    per_axis,
)
from nn2no.pool import average_pool, supremum_pool
from nn2no.scale import Scale, refined_size
from nn2no.upsample import upsample

READOUT = "a readout: integrals against the hats of the base grid's nodes"
REORDERED = "the same values along other axes: unchanged"


def _value(call: Call, name: str, default: Any) -> Any:
    """An argument of the base grid: on another one, sizes may have been computed from its own."""
    value = call.arguments.get(name, default)
    return default if value is None and default is not None else value


def convolution(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x, weight, bias = a["input"], a["weight"], a.get("bias")
    dim, taps = weight.ndim - 2, tuple(weight.shape[2:])
    stride, dilation = (per_axis(_value(call, name, 1), dim) for name in ("stride", "dilation"))
    pads = pad_pairs(_value(call, "padding", 0), taps, dilation)
    mode: PaddingMode = "zeros"
    border = place.borders.get(id(x))
    if border is not None and border.intact and not any(map(any, pads)):  # continue the field itself, and further
        x, s, pads, mode = border.field, border.scale, border.widths, border.mode
    else:
        s = place.scale_of(call, x)
        if s is None and place.options.padding_mode is not None and x.ndim == dim + 2 == place.dim + 2:
            s = None if tuple(x.shape[2:]) == (1,) * dim else (Fraction(1),) * dim
    if s is None or (set(taps) == {1} and stride == (1,) * dim):
        return original()
    options: dict[str, Any] = {"stride": stride, "groups": _value(call, "groups", 1)}
    modes = place.modes([any(pair) for pair in pads], mode)
    if _is_patch(place, call, taps, stride):
        left, right = zip(*pads, strict=True)
        coarse = extend(to_base(x, s, place.ends), left, right, modes)
        return CONV[dim](coarse, weight, bias, **options)
    if place.options.conv != "integral" and set(taps) != {1}:
        return _alternative(place, call, (x, weight, bias), s, pads, dilation, mode, options)
    options |= {"scale": s, "padding": pads, "dilation": dilation, "padding_mode": modes, "ends": place.ends}
    return integral_conv(x, weight, bias, **options)


def _alternative(
    place: Place,
    call: Call,
    tensors: tuple[Tensor, Tensor, Tensor | None],
    s: Scale,
    pads: Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
    mode: PaddingMode,
    options: dict[str, Any],
) -> Tensor:
    """The convolution as another option than "integral" asks for; these have one padding for both ends."""
    conv, taps = place.options.conv, tuple(tensors[1].shape[2:])
    if mode == "zeros" and place.options.padding_mode is not None:
        mode = "circular"
    options = {**options, "scale": s, "padding": [left for left, _ in pads], "padding_mode": mode}
    if conv == "spectral":
        if not all(place.periodic):
            raise ConversionError(f"{call.path}: conv='spectral' needs periodic axes; use conv='integral'.")
        return resized_conv(*tensors, dilation=dilation, **options)
    if conv == "differential" and max(taps) > 3:
        raise ConversionError(f"{call.path}: {taps} taps; differential operators go up to 3: conv='integral'.")
    if conv == "differential":
        y = moment_conv(*tensors, **options)
    elif max(dilation) > 1:
        raise ConversionError(f"{call.path}: interpolated kernels have no dilation; use conv='integral'.")
    else:
        y = kernel_interpolation_conv(*tensors, kind="fourier" if conv.endswith("fourier") else "linear", **options)
    return _fit(y, [refined_size(n, si, end) for n, si, end in zip(call.output[2:], s, place.ends, strict=True)])


def _is_patch(place: Place, call: Call, taps: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    patch = place.options.patch
    chosen = patch == "fixed" if isinstance(patch, str) else call.path in patch
    return chosen and taps == stride and max(taps) > 1


def _fit(y: Tensor, size: list[int]) -> Tensor:
    """Cut, or padded with zeros, to a size; rounded paddings leave a few nodes too many or too few."""
    missing = [n - m for n, m in zip(size, y.shape[2:], strict=True)]
    return extend(y, [m // 2 for m in missing], [m - m // 2 for m in missing], "zeros")


def transposed(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    s = place.scale_of(call, a["input"])
    if s is None:
        return original()
    names = (("stride", 1), ("padding", 0), ("output_padding", 0), ("groups", 1), ("dilation", 1))
    options = {n: _value(call, n, d) for n, d in names}
    if place.options.conv.startswith("kernel-interp"):
        wanted = [refined_size(n, si, e) for n, si, e in zip(call.output[2:], s, place.ends, strict=True)]
        y = kernel_interpolation_conv_transpose(
            a["input"], a["weight"], a.get("bias"), scale=s, ends=place.ends, **options
        )
        return _fit(y, wanted)
    dim = a["weight"].ndim - 2
    # each output then has one input, and there is nothing beyond the ends to miss
    tight = per_axis(options["stride"], dim) == tuple(a["weight"].shape[2:])
    free = tight and not any(per_axis(options["padding"], dim)) and max(per_axis(options["dilation"], dim)) == 1
    return integral_conv_transpose(
        a["input"],
        a["weight"],
        a.get("bias"),
        scale=s,
        padding_mode=place.modes([not free] * dim),
        ends=place.ends,
        **options,
    )


def padding(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x, pad, mode = a["input"], call.arguments["pad"], _value(call, "mode", "constant")
    padded = {x.ndim - 1 - i // 2 for i, width in enumerate(pad) if width}
    if all(x.shape[axis] == call.shape[axis] for axis in padded):  # no axes of the grid, such as channels of tokens
        return original()
    inner, outer = pad[: 2 * place.dim], pad[2 * place.dim :]
    if x.ndim != place.dim + 2:
        raise ConversionError(f"{call.path}: padding {pad} of {call.shape}, which is no (batch, channel, *space).")
    s = place.scale_of(call, x)
    if s is None or not any(inner):
        return original()
    pairs = [(0, 0)] * (place.dim - len(inner) // 2)
    pairs += [(inner[i], inner[i + 1]) for i in range(len(inner) - 2, -1, -2)]
    value = a.get("value") or 0.0
    kind: PaddingMode = "zeros" if mode == "constant" else mode
    widths = [(before * si, after * si) for (before, after), si in zip(pairs, s, strict=True)]
    with _counted():
        y = _bordered(x - value, widths, kind) + value if value else _bordered(x, widths, kind)
    if any(outer):  # channels, for instance
        return F.pad(y, [0] * len(inner) + list(outer))
    if not value:
        place.borders[id(y)] = Border(y, x, s, pairs, kind, y._version)
    return y


def _counted() -> contextlib.AbstractContextManager[Any]:
    """Inside, tensors are made that count how often they are changed, as those of inference mode do not."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext()


def _bordered(x: Tensor, widths: Sequence[tuple[Fraction, Fraction]], mode: PaddingMode) -> Tensor:
    """The field continued by these widths; where they end between nodes, what is there is interpolated."""
    left, total = [math.floor(a) for a, _ in widths], [math.ceil(a + b) for a, b in widths]
    between = [axis for axis, (a, _) in enumerate(widths) if a.denominator > 1]
    now = [(0, 0) if axis in between else (a, t - a) for axis, (a, t) in enumerate(zip(left, total, strict=True))]
    before, after = zip(*now, strict=True)
    x = extend(x, before, after, mode)
    for axis in between:
        a, b = left[axis], total[axis] - left[axis]
        sides = extend_axis(x, 2 + axis, a, b, mode), extend_axis(x, 2 + axis, a + 1, b - 1, mode)
        x = torch.lerp(*sides, float(widths[axis][0] % 1))
    return x


def average_pooling(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    s = place.scale_of(call, a["input"])
    if s is None or place.options.pool == "torch":
        return original()
    return average_pool(
        a["input"],
        call.arguments["kernel_size"],
        call.arguments.get("stride") or None,
        _value(call, "padding", 0),
        scale=s,
        ceil_mode=_value(call, "ceil_mode", False),
        count_include_pad=_value(call, "count_include_pad", True),
        divisor=call.arguments.get("divisor_override"),
        periodic=place.periodic,
        ends=place.ends,
    )


def power_pooling(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    s = place.scale_of(call, a["input"])
    if s is None or place.options.pool == "torch":
        return original()
    p, kernel = call.arguments["norm_type"], call.arguments["kernel_size"]
    mean = average_pool(
        a["input"].pow(p),
        kernel,
        call.arguments.get("stride") or None,
        scale=s,
        ceil_mode=_value(call, "ceil_mode", False),
        periodic=place.periodic,
        ends=place.ends,
    )
    count = math.prod(per_axis(kernel, place.dim))
    return (mean * count).pow(1 / p)


def max_pooling(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    s = place.scale_of(call, a["input"])
    if s is None or place.options.pool == "torch":
        return original()
    return supremum_pool(
        a["input"],
        call.arguments["kernel_size"],
        call.arguments.get("stride") or None,
        _value(call, "padding", 0),
        _value(call, "dilation", 1),
        scale=s,
        ceil_mode=_value(call, "ceil_mode", False),
        periodic=place.periodic,
        ends=place.ends,
    )


def readout(pool: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
        s = place.scale_of(call, a["input"])
        return original() if s is None else pool(a["input"], call.output[2:], scale=s, ends=place.ends)

    return rule


def interpolation(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x, mode, aligned = a["input"], _value(call, "mode", "nearest"), call.arguments.get("align_corners")
    s = place.scale_of(call, x)
    grows = all(m >= n for n, m in zip(call.shape[2:], call.output[2:], strict=True))
    if call.arguments.get("antialias") and not (grows and mode == "bilinear"):  # to which it makes no difference
        raise ConversionError(
            f"{call.path or 'the network'}: interpolation with antialias=True averages over windows of pixels that are "
            "cut off at the ends; use average pooling, or antialias=False on a field that is smooth enough."
        )
    if s is None:  # from a readout to the grid
        y = F.interpolate(x, call.output[2:], mode=mode, align_corners=aligned)
        size = [place.refined(n, i) for i, n in enumerate(call.output[2:])]
        return from_base(y, size, place.scale, place.periodic)
    size = [refined_size(n, si, e) for n, si, e in zip(call.output[2:], s, place.ends, strict=True)]
    return upsample(x, size, mode, aligned, scale=s, periodic=place.periodic, ends=place.ends)


def shuffle(shuffle: Callable[..., Tensor], factor: str) -> Callable[..., Tensor]:
    def rule(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
        s = place.scale_of(call, a["input"])
        if s is None:
            return original()
        return shuffle(a["input"], call.arguments[factor], scale=s, periodic=place.periodic, ends=place.ends)

    return rule


def shift(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    raise ConversionError(
        f"{call.path or 'the network'}: a shift by a number of pixels (shifted windows?) is no operation on functions; "
        "windows must have a physical size."
    )


def flattening(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x = a["input"]
    readout = len(call.shape) == place.dim + 2 and len(call.output) == 2 and call.output[0] == call.shape[0]
    s = place.scale_of(call, x) if readout and x.ndim == place.dim + 2 else None
    if s is None:
        call.note = REORDERED
        return original()
    call.note = READOUT
    return to_base(x, s, place.ends).flatten(1)
