"""What each call of a network becomes on a grid finer (or coarser) than the base grid."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from sciml.errors import SciMLError
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nn2no.conversion import count_rules, index_rules, local_rules, mean_rules, norm_rules, token_rules
from nn2no.conversion.place import OffGridError, Place
from nn2no.conversion.trace import WATCHED, Call, Trace, bind, known
from nn2no.errors import ConversionError
from nn2no.local import per_axis
from nn2no.pool import adaptive_average, adaptive_supremum
from nn2no.resample import fourier_resize
from nn2no.upsample import pixel_shuffle, pixel_unshuffle

_MATHEMATICAL = ("relu", "tanh", "sigmoid", "sin", "cos", "abs", "exp", "square", "pow", "erf", "sinh", "cosh", "atan")
_MATHEMATICAL += ("clamp", "clamp_min", "clamp_max", "clip", "log", "log1p", "sqrt", "reciprocal", "rsqrt", "tan")
_MATHEMATICAL += ("expm1", "exp2", "log2", "log10", "sinc", "sign", "erfc", "asinh", "acosh", "atanh", "asin", "acos")
ACTIVATIONS = {
    *(F.gelu, F.relu, F.silu, F.elu, F.leaky_relu, F.selu, F.celu, F.mish, F.softplus, F.hardswish, F.relu6, F.prelu),
    *(F.hardtanh, F.logsigmoid, F.softsign, F.glu, F.hardsigmoid, F.threshold, F.tanhshrink, F.softshrink),
    *(F.hardshrink, torch.prelu, torch.Tensor.prelu, torch.Tensor.__pow__, F.rrelu),
    *(torch.Tensor.__rpow__, torch.Tensor.__rtruediv__, torch.Tensor.__abs__, torch.maximum, torch.minimum),
    *(getattr(torch, name) for name in _MATHEMATICAL),
    *(getattr(torch.Tensor, name) for name in _MATHEMATICAL),
}
# nonlinear only where both factors are fields
PRODUCTS = {torch.mul, torch.multiply, torch.Tensor.mul, torch.Tensor.multiply, torch.Tensor.__mul__}
PRODUCTS |= {torch.div, torch.divide, torch.true_divide, torch.Tensor.div, torch.Tensor.__truediv__}
# what writes its result into its first argument
IN_PLACE = {
    *(torch.relu_, torch.Tensor.relu_, torch.Tensor.mul_, torch.Tensor.__imul__, torch.Tensor.div_, F.elu_, F.selu_),
    *(F.leaky_relu_, F.hardtanh_, torch.Tensor.__itruediv__, torch.Tensor.__ipow__),
    *(getattr(torch.Tensor, f"{name}_") for name in _MATHEMATICAL if hasattr(torch.Tensor, f"{name}_")),
}
MULTIPLIED = {torch.Tensor.mul_, torch.Tensor.__imul__, torch.Tensor.div_, torch.Tensor.__itruediv__}
NONLINEAR = ACTIVATIONS | PRODUCTS | IN_PLACE


RULES: dict[str, Callable[..., Any]] = {
    "convolution": local_rules.convolution,
    "transposed convolution": local_rules.transposed,
    "padding": local_rules.padding,
    "average pooling": local_rules.average_pooling,
    "power-average pooling": local_rules.power_pooling,
    "max pooling": local_rules.max_pooling,
    "adaptive average pooling": local_rules.readout(adaptive_average),
    "adaptive max pooling": local_rules.readout(adaptive_supremum),
    "interpolation": local_rules.interpolation,
    "pixel shuffle": local_rules.shuffle(pixel_shuffle, "upscale_factor"),
    "pixel unshuffle": local_rules.shuffle(pixel_unshuffle, "downscale_factor"),
    "batch normalisation": norm_rules.batch_norm,
    "group normalisation": norm_rules.group_norm,
    "instance normalisation": norm_rules.instance_norm,
    "layer normalisation": norm_rules.layer_norm,
    "attention": token_rules.attention,
    "multi-head attention": token_rules.multi_head,
    "softmax": token_rules.softmax,
    "shift": local_rules.shift,
    "mean": mean_rules.mean,
    "variance": mean_rules.spread(root=False, with_mean=False),
    "standard deviation": mean_rules.spread(root=True, with_mean=False),
    "variance and mean": mean_rules.spread(root=False, with_mean=True),
    "standard deviation and mean": mean_rules.spread(root=True, with_mean=True),
    "flattening": index_rules.reshaping(local_rules.flattening),
    "slicing": index_rules.slicing,
    "flip": count_rules.reflection,
    "rotation": count_rules.reflection,
    "product": count_rules.product,
    "contraction": count_rules.contraction,
    "length": count_rules.length,
    "division by length": count_rules.normalised,
    "indices of points": count_rules.counting,
    "Fourier transform": count_rules.transform,
    **dict.fromkeys(index_rules.POINTS, index_rules.over_points),
}
REDUCTIONS = {k for k in RULES if k == "mean" or k.startswith(("variance", "standard deviation"))}
OF_TABLES = REDUCTIONS | {"interpolation", "flattening", "slicing"}


class WayError(ConversionError):
    """The network calls other functions than on its base grid."""


def _may_be_missing(call: Call) -> bool:
    return call.problem is not None or call.kind in WATCHED or call.exact


class Conversion(TorchFunctionMode):
    """Runs a network on another grid: calls that see more than one point are replaced, in the order of the trace.

    If it is lenient, what cannot be converted runs as it is. With a list of `failures` the first of them and all that
    do not follow from others are put there, with names of layers; what cannot be converted is then taken to be zero, in
    the size that it should have.
    """

    def __init__(
        self, trace: Trace, place: Place, lenient: bool = False, failures: list[tuple[Call, str]] | None = None
    ) -> None:
        super().__init__()
        self.trace, self.place, self.lenient, self.position, self.failures = trace, place, lenient, 0, failures
        self.antialias = place.options.activation == "antialiased"

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            return self.convert(func, args, kwargs or {})
        except SciMLError as error:
            if self.failures is None and not self.lenient:
                raise
            if self.failures is None or not self.note_failure(error):
                return func(*args, **kwargs or {})
            call = self.trace.calls[self.position - 1]
            size = self.expected(call)
            like = next((t for t in args if isinstance(t, Tensor)), None)
            return func(*args, **kwargs or {}) if size is None or like is None else like.new_zeros(size)

    def note_failure(self, error: SciMLError) -> bool:
        """Put it among the failures; False if the call is not known."""
        if isinstance(error, WayError):
            raise error
        assert self.failures is not None
        call = self.trace.calls[self.position - 1]
        call.refused = True
        if not (self.failures and isinstance(error, OffGridError)):  # which follows from what came before
            self.failures.append((call, str(error)))
        return True

    def expected(self, call: Call) -> list[int] | None:
        """The size of the output of a call on fields, (batch, channel, *space); None if it is not known."""
        place = self.place
        if len(call.output) != place.dim + 2 or call.output[0] != self.trace.batch:
            return None
        sizes = [s * (n - e) + e for n, s, e in zip(call.output[2:], place.scale, place.ends, strict=True)]
        if any(n.denominator > 1 for n in sizes):
            return None
        return [place.batch, call.output[1], *map(int, sizes)]

    def convert(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the call becomes. SciMLError if it cannot be converted."""
        found = known(func, args)
        if found is None:
            if self.antialias and func in NONLINEAR and args and isinstance(args[0], Tensor):
                return self.activate(func, *args, **kwargs)
            return func(*args, **kwargs)
        kind, names = found
        calls = self.trace.calls
        ahead = self.position
        while ahead < len(calls) and calls[ahead].kind != kind and _may_be_missing(calls[ahead]):
            ahead += 1
        if ahead < len(calls) and calls[ahead].kind == kind:
            self.position = ahead
        else:
            if kind in OF_TABLES or kind in WATCHED:  # of a table, to the size of this grid
                return func(*args, **kwargs)
            expected = calls[self.position].kind if self.position < len(calls) else "the end"
            raise WayError(
                f"the network takes another way than on its base grid: after {self.position} calls comes a {kind} "
                f"instead of {expected}. Its control flow must not depend on the number of points."
            )
        call = calls[self.position]
        self.position += 1
        arguments = bind(names, args, kwargs)
        first = arguments.get("key", arguments.get("input"))
        if call.exact and kind in WATCHED:
            return func(*args, **kwargs)
        if kind == "indices of points":
            return count_rules.counting(self.place, call, arguments, lambda: func(*args, **kwargs))
        if not isinstance(first, Tensor):
            return func(*args, **kwargs)
        if kind in ("attention", "softmax") and first.shape[0] * self.trace.batch != call.shape[0] * self.place.batch:
            raise ConversionError(
                f"{call.path or 'the network'}: attention within windows of a fixed number of points, which "
                "grow in number with the grid, have no physical size. Use attention over the whole domain."
            )
        lasting = slice(0, 1) if kind == "multi-head attention" else slice(1, None)  # axes other than the batch
        same = tuple(first.shape[lasting]) == call.shape[lasting] and kind != "contraction"
        if kind in REDUCTIONS and first.ndim:  # maybe over points that come before the samples
            same &= first.shape[0] * self.trace.batch == call.shape[0] * self.place.batch
        if same and not self.changes_on_base(kind) and not self.leaves_base_size(kind, call, arguments):
            return func(*args, **kwargs)
        call.scaled |= kind not in WATCHED
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
        if x.ndim != self.place.dim + 2 or min(space) < 2 or not x.dtype.is_floating_point:
            return func(x, *args, **kwargs)
        fields = [isinstance(a, Tensor) and a.shape[2:] == space for a in (x, *args)]
        linear = func in PRODUCTS or func in MULTIPLIED
        if linear and sum(fields) < 2:
            return func(x, *args, **kwargs)
        fine = [2 * n for n in space]
        refined = [fourier_resize(a, fine) if is_field else a for a, is_field in zip((x, *args), fields, strict=True)]
        y = fourier_resize(func(*refined, **kwargs), space)
        written = func in IN_PLACE or kwargs.get("inplace")
        return x.copy_(y) if written else y
