"""What each call of a network becomes on a grid finer (or coarser) than the base grid."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nn2no.alternatives import (
    kernel_interpolation_conv,
    kernel_interpolation_conv_transpose,
    moment_conv,
    resized_conv,
)
from nn2no.attention import attention_bias, with_atoms
from nn2no.convert.trace import FUNCTIONS, Call, Trace, bind
from nn2no.errors import ConversionError
from nn2no.local import CONV, PaddingMode, along, extend, integral_conv, integral_conv_transpose, per_axis, tap_matrix
from nn2no.norms import quadrature_batch_norm, quadrature_norm
from nn2no.pool import adaptive_average, adaptive_supremum, average_pool, supremum_pool
from nn2no.resample import fourier_resize
from nn2no.scale import Ends, Scale, refined_size
from nn2no.upsample import pixel_shuffle, pixel_unshuffle, upsample

ACTIVATIONS = {
    *(F.gelu, F.relu, F.silu, F.elu, F.leaky_relu, F.selu, F.celu, F.mish, F.softplus, F.hardswish, F.relu6),
    *(torch.relu, torch.relu_, torch.tanh, torch.sigmoid, torch.sin, torch.cos),
    *(torch.Tensor.relu, torch.Tensor.relu_, torch.Tensor.tanh, torch.Tensor.sigmoid, torch.Tensor.sin),
}


@dataclass(frozen=True)
class Options:
    """How `convert` was asked to treat each kind of layer."""

    conv: str = "integral"
    norm: str = "quadrature"
    attention: str = "quadrature"
    pool: str = "physical"
    patch: str | tuple[str, ...] = "ratio"
    activation: str = "pointwise"
    padding_mode: str | None = None


@dataclass
class Place:
    """Where a pass happens: the scale of its grid to the base grid, and what kind of axes both have."""

    base: tuple[int, ...]
    scale: Scale
    ends: Ends
    periodic: tuple[bool, ...]
    options: Options
    batch: int = 1
    padded: dict[int, tuple[Tensor, Tensor, Scale, list[tuple[int, int]], PaddingMode]] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        return len(self.base)

    def refined(self, n: int, axis: int) -> int:
        """The size of an axis on this grid that has `n` nodes on the base grid."""
        return refined_size(n, self.scale[axis], self.ends[axis])

    def scale_of(self, call: Call, x: Tensor) -> Scale | None:
        """The scale of the tensor that a call is given, axis by axis; None if it is as on the base grid.

        An axis of the base size holds no points of the field, such as the result of a readout.

        Raises
        ------
        ConversionError
            The tensor has neither the base size nor the refined one.
        """
        n0, n = call.shape[2:], tuple(x.shape[2:])
        if n == n0:
            return None
        if len(n0) != self.dim or len(n) != self.dim:
            raise ConversionError(
                f"{call.path or 'the network'}: the {call.kind} of {call.shape} on the base grid gets {tuple(x.shape)} "
                f"here, but only tensors (batch, channel, *space) with {self.dim} axes are functions on the grid."
            )
        found = []
        for axis, (a, b) in enumerate(zip(n0, n, strict=True)):
            if b == a:
                found.append(Fraction(1))
            elif self.scale[axis] * (a - self.ends[axis]) + self.ends[axis] == b:
                found.append(self.scale[axis])
            else:
                raise ConversionError(
                    f"{call.path or 'the network'}: the {call.kind} of an axis of {a} nodes gets {b} nodes at scale "
                    f"{float(self.scale[axis]):g}; some operation before it does not follow the grid."
                )
        return tuple(found)

    def modes(self, pads: Any, mode: str = "zeros") -> list[PaddingMode]:
        """How each axis is continued: as the layer says, but periodically where it reads nothing beyond the ends."""
        override = self.options.padding_mode == "circular"
        around = [
            wrap and mode == "zeros" and (override or pad in (0, (0, 0)))
            for wrap, pad in zip(self.periodic, pads, strict=True)
        ]
        return ["circular" if a else mode for a in around]  # type: ignore[misc]


class Conversion(TorchFunctionMode):
    """Runs a network on another grid: calls that see more than one point are replaced, in the order of the trace."""

    def __init__(self, trace: Trace, place: Place) -> None:
        super().__init__()
        self.trace, self.place, self.position = trace, place, 0
        self.antialias = place.options.activation == "antialiased"

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        known = FUNCTIONS.get(func)
        if known is None:
            if self.antialias and func in ACTIVATIONS and isinstance(args[0], Tensor):
                return self.activate(func, *args, **kwargs)
            return func(*args, **kwargs)
        kind, names = known
        calls = self.trace.calls
        while self.position < len(calls) and calls[self.position].problem and calls[self.position].kind != kind:
            self.position += 1
        if self.position >= len(calls) or calls[self.position].kind != kind:
            if kind in ("interpolation", "mean", "flattening"):  # of a table, to the size of this grid
                return func(*args, **kwargs)
            expected = calls[self.position].kind if self.position < len(calls) else "the end"
            raise ConversionError(
                f"the network takes another way than on its base grid: after {self.position} calls comes a {kind} "
                f"instead of {expected}. Its control flow must not depend on the number of points."
            )
        call = calls[self.position]
        self.position += 1
        arguments = bind(names, args, kwargs)
        first = arguments.get("key", arguments.get("input"))
        if not isinstance(first, Tensor):
            return func(*args, **kwargs)
        if kind in ("attention", "softmax") and first.shape[0] * self.trace.batch != call.shape[0] * self.place.batch:
            raise ConversionError(
                f"{call.path or 'the network'}: attention within windows of a fixed number of points, which "
                "grow in number with the grid, have no physical size. Use attention over the whole domain."
            )
        lasting = slice(0, 1) if kind == "multi-head attention" else slice(1, None)  # axes other than the batch
        same = tuple(first.shape[lasting]) == call.shape[lasting]
        if same and not self.changes_on_base(kind) and not self.leaves_base_size(kind, call, arguments):
            return func(*args, **kwargs)
        call.scaled = True
        return RULES[kind](self.place, call, arguments, lambda: func(*args, **kwargs))

    def changes_on_base(self, kind: str) -> bool:
        """Whether the options ask for another convolution even there."""
        return kind == "convolution" and self.place.options.padding_mode is not None

    def leaves_base_size(self, kind: str, call: Call, arguments: dict[str, Any]) -> bool:
        """Whether a tensor of the base size is interpolated to one of the refined size."""
        if kind != "interpolation" or arguments.get("size") is None:
            return False
        return tuple(per_axis(arguments["size"], len(call.output) - 2)) != call.output[2:]

    def activate(self, func: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The nonlinearity on a grid twice as fine, then filtered."""
        space = x.shape[2:]
        if x.ndim != self.place.dim + 2 or min(space) < 2:
            return func(x, *args, **kwargs)
        return fourier_resize(func(fourier_resize(x, [2 * n for n in space]), *args, **kwargs), space)


def _value(call: Call, name: str, default: Any) -> Any:
    """An argument of the base grid: on another one, sizes may have been computed from its own."""
    value = call.arguments.get(name, default)
    return default if value is None and default is not None else value


def _convolution(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x, weight, bias = a["input"], a["weight"], a.get("bias")
    dim, taps = weight.ndim - 2, tuple(weight.shape[2:])
    stride, padding, dilation = (_value(call, n, d) for n, d in (("stride", 1), ("padding", 0), ("dilation", 1)))
    groups, mode = _value(call, "groups", 1), "zeros"
    s = place.scale_of(call, x) if id(x) not in place.padded else None
    pads: Any = padding
    if id(x) in place.padded and padding in (0, (0,) * dim, "valid"):
        _, x, s, pads, mode = place.padded[id(x)]
    elif s is None:
        s = place.scale_of(call, x)
    if (
        s is None
        and place.options.padding_mode is not None
        and x.ndim == place.dim + 2
        and tuple(x.shape[2:]) != (1,) * dim
    ):
        s = (Fraction(1),) * dim
    if s is None:
        return original()
    if isinstance(pads, str):
        pads = "same" if pads == "same" else 0
    flat = per_axis(pads, dim) if pads != "same" else [d * (k - 1) for k, d in zip(taps, per_axis(dilation, dim))]
    if _is_patch(place, call, taps, per_axis(stride, dim)):
        return CONV[dim](to_base(x, s, place.ends), weight, bias, stride, 0, 1, groups)
    if set(taps) == {1} and per_axis(stride, dim) == (1,) * dim:
        return original()
    conv, options = place.options.conv, {"stride": stride, "groups": groups}
    if conv != "integral" and set(taps) != {1}:
        same = [(k - 1) * d // 2 for k, d in zip(taps, per_axis(dilation, dim), strict=True)]
        widths = same if pads == "same" else [p if isinstance(p, int) else p[0] for p in flat]
        wanted = [refined_size(n, si, e) for n, si, e in zip(call.output[2:], s, place.ends, strict=True)]
        around: Any = mode if mode != "zeros" else ("circular" if place.options.padding_mode else "zeros")
        if conv == "kernel-interp":
            if per_axis(dilation, dim) != (1,) * dim:
                raise ConversionError(f"{call.path}: interpolated kernels have no dilation; use conv='integral'.")
            y = kernel_interpolation_conv(x, weight, bias, scale=s, padding=widths, padding_mode=around, **options)
            return _fit(y, wanted)
        if conv == "differential":
            if max(taps) > 3:
                raise ConversionError(f"{call.path}: {taps} taps; differential operators go up to 3: conv='integral'.")
            return _fit(moment_conv(x, weight, bias, scale=s, padding=widths, padding_mode=around, **options), wanted)
        if not all(place.periodic):
            raise ConversionError(f"{call.path}: conv='spectral' needs periodic axes; use conv='integral'.")
        return resized_conv(x, weight, bias, scale=s, padding=widths, dilation=dilation, padding_mode=around, **options)
    return integral_conv(
        x,
        weight,
        bias,
        scale=s,
        padding=pads,
        dilation=dilation,
        padding_mode=place.modes(flat, mode),
        ends=place.ends,
        **options,
    )


def _is_patch(place: Place, call: Call, taps: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    patch = place.options.patch
    chosen = patch == "fixed" if isinstance(patch, str) else call.path in patch
    return chosen and taps == stride and max(taps) > 1


def to_base(x: Tensor, s: Scale, ends: Ends) -> Tensor:
    """The means of a field over the hats of the nodes of the base grid."""
    for axis, (si, end) in enumerate(zip(s, ends, strict=True), start=2):
        if si == 1:
            continue
        n = x.shape[axis]
        n0 = refined_size(n, 1 / si, end)
        hats, first = tap_matrix(n0, 1, 0, si)
        rows = torch.arange(first, first + len(hats))
        matrix: Tensor = torch.as_tensor(hats)[(rows >= 0) & (rows < n)].T
        matrix = matrix / matrix.sum(1, keepdim=True)
        x = along(x, axis, matrix.to(x))
    return x


def from_base(x: Tensor, size: list[int], s: Scale, periodic: tuple[bool, ...]) -> Tensor:
    """The piecewise linear function with these values at the nodes of the base grid."""
    for axis, (n, si, wrap) in enumerate(zip(size, s, periodic, strict=True), start=2):
        n0 = x.shape[axis]
        if n == n0:
            continue
        position = torch.arange(n, dtype=torch.float64) / float(si)
        left = position.floor().long()
        shape = [1] * x.ndim
        shape[axis] = n
        t = (position - left).to(x).view(shape)
        left = left.to(x.device)
        left, right = (left % n0, (left + 1) % n0) if wrap else (left.clamp(0, n0 - 1), (left + 1).clamp(0, n0 - 1))
        x = torch.lerp(x.index_select(axis, left), x.index_select(axis, right), t)
    return x


def _fit(y: Tensor, size: list[int]) -> Tensor:
    """Cut, or padded with zeros, to a size; rounded paddings leave a few nodes too many or too few."""
    missing = [n - m for n, m in zip(size, y.shape[2:], strict=True)]
    return extend(y, [m // 2 for m in missing], [m - m // 2 for m in missing], "zeros")


def _transposed(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    s = place.scale_of(call, a["input"])
    if s is None:
        return original()
    names = (("stride", 1), ("padding", 0), ("output_padding", 0), ("groups", 1), ("dilation", 1))
    options = {n: _value(call, n, d) for n, d in names}
    if place.options.conv == "kernel-interp":
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
        padding_mode=place.modes([0 if free else 1] * dim),
        ends=place.ends,
        **options,
    )


def _padding(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x, pad, mode = a["input"], call.arguments["pad"], _value(call, "mode", "constant")
    inner, outer = pad[: 2 * place.dim], pad[2 * place.dim :]
    if x.ndim != place.dim + 2:
        raise ConversionError(f"{call.path}: padding {pad} of {call.shape}, which is no (batch, channel, *space).")
    s = place.scale_of(call, x)
    if s is None or not any(inner):
        return original()
    pairs = [(0, 0)] * (place.dim - len(inner) // 2)
    pairs += [(inner[i], inner[i + 1]) for i in range(len(inner) - 2, -1, -2)]
    # a width that is no whole number is rounded up: only a convolution, which continues the field itself, can follow
    left, right = ([math.ceil(p[side] * si) for p, si in zip(pairs, s, strict=True)] for side in (0, 1))
    value = a.get("value") or 0.0
    kind: PaddingMode = "zeros" if mode == "constant" else mode
    if value:
        return F.pad(x, [w for ends in zip(reversed(left), reversed(right), strict=True) for w in ends], value=value)
    y = extend(x, left, right, kind)
    if any(outer):  # channels, for instance
        return F.pad(y, [0] * len(inner) + list(outer))
    place.padded[id(y)] = (y, x, s, pairs, kind)  # a convolution that follows continues the field itself
    return y


def _average_pooling(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
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


def _power_pooling(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
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
    return (torch.sign(mean) * F.relu(mean.abs()) * count).pow(1 / p)


def _max_pooling(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
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


def _readout(pool: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
        s = place.scale_of(call, a["input"])
        return original() if s is None else pool(a["input"], call.output[2:], scale=s, ends=place.ends)

    return rule


def _interpolation(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x, mode, aligned = a["input"], _value(call, "mode", "nearest"), call.arguments.get("align_corners")
    s = place.scale_of(call, x)
    if s is None:  # from a readout to the grid
        y = F.interpolate(x, call.output[2:], mode=mode, align_corners=aligned)
        size = [place.refined(n, i) for i, n in enumerate(call.output[2:])]
        return from_base(y, size, place.scale, place.periodic)
    size = [refined_size(n, si, e) for n, si, e in zip(call.output[2:], s, place.ends, strict=True)]
    return upsample(x, size, mode, aligned, scale=s, periodic=place.periodic, ends=place.ends)


def _shuffle(shuffle: Callable[..., Tensor], factor: str) -> Callable[..., Tensor]:
    def rule(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
        s = place.scale_of(call, a["input"])
        if s is None:
            return original()
        return shuffle(a["input"], call.arguments[factor], scale=s, periodic=place.periodic, ends=place.ends)

    return rule


def _weights(place: Place, x: Tensor) -> Tensor | None:
    """Trapezoidal weights of the nodes of a field; None where all weigh the same."""
    if not any(place.ends) or place.options.norm == "torch":
        return None
    total = torch.ones((1,) * place.dim, dtype=x.dtype, device=x.device)
    for axis, (n, end) in enumerate(zip(x.shape[2:], place.ends, strict=True)):
        w = torch.ones(n, dtype=x.dtype, device=x.device)
        if end and n > 1:
            w[0] = w[-1] = 0.5
        total = total * w.view([-1 if i == axis else 1 for i in range(place.dim)])
    return total.expand(x.shape[2:])


def _group_norm(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    if place.scale_of(call, a["input"]) is None or (w := _weights(place, a["input"])) is None:
        return original()
    options = {"weight": a.get("weight"), "bias": a.get("bias"), "eps": a.get("eps", 1e-5)}
    return quadrature_norm(a["input"], w, groups=a["num_groups"], **options)


def _instance_norm(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x = a["input"]
    if place.scale_of(call, x) is None or (w := _weights(place, x)) is None or not a.get("use_input_stats", True):
        return original()
    return quadrature_norm(x, w, groups=x.shape[1], weight=a.get("weight"), bias=a.get("bias"), eps=a.get("eps", 1e-5))


def _batch_norm(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x = a["input"]
    if not a.get("training", False) or place.scale_of(call, x) is None or (w := _weights(place, x)) is None:
        return original()
    return quadrature_batch_norm(
        x,
        w,
        running_mean=a.get("mean"),
        running_var=a.get("var"),
        weight=a.get("weight"),
        bias=a.get("bias"),
        momentum=a.get("momentum", 0.1),
        eps=a.get("eps", 1e-5),
    )


def _layer_norm(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x, shape = a["input"], tuple(a["normalized_shape"])
    if tuple(x.shape[-len(shape) :]) == shape:
        return original()  # over channels, at each point
    s = place.scale_of(call, x)
    if s is None or len(shape) != place.dim + 1:
        raise ConversionError(f"{call.path}: normalisation over {shape} is neither over channels nor over space.")
    w = _weights(place, x)
    y = quadrature_norm(x, w, groups=1, eps=a.get("eps", 1e-5))
    tables = [a.get("weight"), a.get("bias")]
    weight, bias = (None if t is None else from_base(t[None], list(x.shape[2:]), s, place.periodic) for t in tables)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def token_grid(place: Place, n0: int, n: int | None = None) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """How many of `n0` tokens on the base grid are atoms, and the grids of the others, here (`n` in all) and there."""
    for atoms in range(9):
        for ratio in range(1, max(place.base) + 1):
            if any((size - end) % ratio for size, end in zip(place.base, place.ends, strict=True)):
                continue
            base = [(size - end) // ratio + end for size, end in zip(place.base, place.ends, strict=True)]
            fine = [s * (t - e) + e for t, s, e in zip(base, place.scale, place.ends, strict=True)]
            if math.prod(base) != n0 - atoms or any(f.denominator != 1 for f in fine):
                continue
            if n is None or math.prod(fine) == n - atoms:
                return atoms, tuple(int(f) for f in fine), tuple(base)
    return None


def _log_weights(place: Place, call: Call, n0: int, n: int, like: Tensor) -> Tensor | None:
    """log of the weights of the tokens, atoms first; None if all are equal."""
    found = token_grid(place, n0, n)
    if found is None:
        raise ConversionError(
            f"{call.path}: {n0} tokens on the base grid are {n} here, which is no grid of patches with up to 8 atoms "
            "(class or register tokens) before it."
        )
    atoms, fine, base = found
    if (not atoms and not any(place.ends)) or place.options.attention == "torch":
        return None
    x = like.new_empty((1, 1, *fine))
    weights = _weights(place, x)
    weights = like.new_ones(fine) if weights is None else weights
    w = (weights / weights.sum()).reshape(1, -1)
    return attention_bias(with_atoms(w, atoms, math.prod(base)))[0, 0, 0]


def _attention(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    key, mask = a["key"], a.get("attn_mask")
    if mask is not None and mask.shape[-1] not in (1, key.shape[-2]):
        raise ConversionError(
            f"{call.path}: an attention mask or table of relative positions of {tuple(mask.shape)} has a fixed number "
            "of points; pass the table in position_params, or leave it out."
        )
    bias = None if key.shape[-2] == call.shape[-2] else _log_weights(place, call, call.shape[-2], key.shape[-2], key)
    if bias is None:
        return original()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=key.dtype).masked_fill(~mask, -math.inf)
    rows = bias.expand(a["query"].shape[-2], -1)
    rest = {k: v for k, v in a.items() if k not in ("query", "key", "value", "attn_mask")}
    return F.scaled_dot_product_attention(
        a["query"], key, a["value"], attn_mask=rows if mask is None else mask + rows, **rest
    )


def _multi_head(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
    key = a["key"]  # (source, batch, channel)
    bias = None if len(key) == call.shape[0] else _log_weights(place, call, call.shape[0], len(key), key)
    if bias is None:
        return original()
    if a.get("attn_mask") is not None or a.get("key_padding_mask") is not None:
        raise ConversionError(f"{call.path}: masks of multi-head attention have a fixed number of points.")
    masked = {**a, "attn_mask": bias.expand(len(a["query"]), -1), "is_causal": False}
    return F.multi_head_attention_forward(**masked)


def _softmax(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x, dim = a["input"], a.get("dim")
    if dim not in (-1, x.ndim - 1) or x.shape[-1] == call.shape[-1]:
        return original()
    bias = _log_weights(place, call, call.shape[-1], x.shape[-1], x)
    return original() if bias is None else torch.softmax(x + bias, -1)


def _shift(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    raise ConversionError(
        f"{call.path}: a shift by a number of pixels (shifted windows?) is no operation on functions; windows must "
        "have a physical size."
    )


def _mean(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x, axes = a["input"], a.get("dim")
    axes = () if axes is None else tuple(d % x.ndim for d in ((axes,) if isinstance(axes, int) else axes))
    space = tuple(range(2, place.dim + 2))
    if not any(place.ends) or x.ndim != place.dim + 2 or axes != space:
        return original()
    s = place.scale_of(call, x)
    if s is None:
        return original()
    y = adaptive_average(x, 1, scale=s, ends=place.ends)
    return y if a.get("keepdim") else y.flatten(1)


def _flattening(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x = a["input"]
    readout = len(call.shape) == place.dim + 2 and len(call.output) == 2 and call.output[0] == call.shape[0]
    if not readout or x.ndim != place.dim + 2:
        return original()
    s = place.scale_of(call, x)
    return original() if s is None else to_base(x, s, place.ends).flatten(1)


RULES: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "transposed convolution": _transposed,
    "padding": _padding,
    "average pooling": _average_pooling,
    "power-average pooling": _power_pooling,
    "max pooling": _max_pooling,
    "adaptive average pooling": _readout(adaptive_average),
    "adaptive max pooling": _readout(adaptive_supremum),
    "interpolation": _interpolation,
    "pixel shuffle": _shuffle(pixel_shuffle, "upscale_factor"),
    "pixel unshuffle": _shuffle(pixel_unshuffle, "downscale_factor"),
    "batch normalisation": _batch_norm,
    "group normalisation": _group_norm,
    "instance normalisation": _instance_norm,
    "layer normalisation": _layer_norm,
    "attention": _attention,
    "multi-head attention": _multi_head,
    "softmax": _softmax,
    "shift": _shift,
    "mean": _mean,
    "flattening": _flattening,
}
