"""What a network does on its base grid: the calls that see more than one point, in their order, with their sizes."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from nn2no.conversion.shares import Shares

# functions by what they do, with the names of their arguments; everything else acts point by point
_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MAX = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_LP = ("input", "norm_type", "kernel_size", "stride", "ceil_mode")
_ADAPTIVE = ("input", "output_size")
_MULTI_HEAD = F.multi_head_attention_forward
_SOFTMAX = ("input", "dim", "_stacklevel", "dtype")
_INTERPOLATE = tuple(inspect.signature(F.interpolate).parameters)
_FLIP = ("input", "dims")
_MEAN = ("input", "dim", "keepdim")
_SPREAD = ("input", "dim", "unbiased", "keepdim")

FUNCTIONS: dict[Any, tuple[str, tuple[str, ...]]] = {}


def _add(kind: str, names: tuple[str, ...], *functions: Any) -> None:
    FUNCTIONS.update(dict.fromkeys(functions, (kind, names)))


_add("convolution", _CONV, F.conv1d, F.conv2d, F.conv3d)
_add("transposed convolution", _TRANSPOSED, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_add("average pooling", _POOL, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_add("power-average pooling", _LP, F.lp_pool1d, F.lp_pool2d, F.lp_pool3d)
_add("max pooling", _MAX, F.max_pool1d, F.max_pool2d, F.max_pool3d)
_add("max pooling", _MAX, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)
_add("adaptive average pooling", _ADAPTIVE, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
_add("adaptive max pooling", _ADAPTIVE, F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
_add("interpolation", _INTERPOLATE, F.interpolate)
_add("padding", ("input", "pad", "mode", "value"), F.pad)
_add("pixel shuffle", ("input", "upscale_factor"), F.pixel_shuffle)
_add("pixel unshuffle", ("input", "downscale_factor"), F.pixel_unshuffle)
_add("batch normalisation", ("input", "mean", "var", "weight", "bias", "training", "momentum", "eps"), F.batch_norm)
_add("group normalisation", ("input", "num_groups", "weight", "bias", "eps"), F.group_norm)
_add("instance normalisation", ("input", "mean", "var", "weight", "bias", "use_input_stats"), F.instance_norm)
_add("layer normalisation", ("input", "normalized_shape", "weight", "bias", "eps"), F.layer_norm)
_add("attention", ("query", "key", "value", "attn_mask"), F.scaled_dot_product_attention)
_add("multi-head attention", tuple(inspect.signature(_MULTI_HEAD).parameters), _MULTI_HEAD)
_add("softmax", _SOFTMAX, F.softmax)
_add("softmax", ("input", "dim", "dtype"), torch.softmax, torch.Tensor.softmax)
_add("shift", ("input", "shifts", "dims"), torch.roll, torch.Tensor.roll)
_add("mean", _MEAN, torch.mean, torch.Tensor.mean)
_add("variance", _SPREAD, torch.var, torch.Tensor.var)
_add("standard deviation", _SPREAD, torch.std, torch.Tensor.std)
_add("variance and mean", _SPREAD, torch.var_mean)
_add("standard deviation and mean", _SPREAD, torch.std_mean)
_add("flattening", ("input", "start_dim", "end_dim"), torch.flatten, torch.Tensor.flatten)
_add("flattening", ("input",), torch.Tensor.view, torch.Tensor.reshape, torch.reshape)
_add("flattening", ("input",), torch.Tensor.unflatten, torch.unflatten)
_add("slicing", ("input", "index"), torch.Tensor.__getitem__)
_add("sum", _MEAN, torch.sum, torch.Tensor.sum, torch.nansum, torch.Tensor.nansum)
_add("running sum", ("input", "dim"), torch.cumsum, torch.Tensor.cumsum, torch.cumprod, torch.Tensor.cumprod)
_add("logarithm of a softmax", _SOFTMAX, F.log_softmax)
_add("logarithm of a softmax", ("input", "dim", "dtype"), torch.log_softmax, torch.Tensor.log_softmax)
_add("logarithm of a sum", _MEAN, torch.logsumexp, torch.Tensor.logsumexp)
_add("product of values", _MEAN, torch.prod, torch.Tensor.prod)
_add("difference", ("input", "n", "dim"), torch.diff, torch.Tensor.diff)
_add("flip", _FLIP, torch.flip, torch.Tensor.flip)
_add("rotation", ("input", "k", "dims"), torch.rot90, torch.Tensor.rot90)
# what may count points, and may not be there when a result is kept
_add("product", ("input", "other"), torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
_add("product", ("input", "other"), torch.bmm, torch.Tensor.bmm, torch.mm, torch.Tensor.mm)
_add("contraction", ("equation",), torch.einsum)
_add("length", ("input", "p", "dim", "keepdim", "out", "dtype"), torch.norm)
_add("length", ("input", "p", "dim", "keepdim", "dtype"), torch.Tensor.norm)
_add("length", ("input", "ord", "dim", "keepdim"), torch.linalg.vector_norm, torch.linalg.norm)
_add("division by length", ("input", "p", "dim", "eps"), F.normalize)
_add("indices of points", ("start", "end", "step"), torch.arange)
_FFT = ("fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn")
_add("Fourier transform", ("input", "s", "dim", "norm"), *(getattr(torch.fft, name) for name in _FFT))
WATCHED = {"product", "contraction", "length", "division by length", "indices of points", "Fourier transform"}
WATCHED |= {"flip", "rotation"}
_add("position of an extremum", _MEAN, torch.argmax, torch.Tensor.argmax, torch.argmin, torch.Tensor.argmin)

UNSUPPORTED: dict[Any, str] = {
    torch.lstm: "a recurrence over points has no continuous counterpart",
    torch.gru: "a recurrence over points has no continuous counterpart",
    torch.rnn_tanh: "a recurrence over points has no continuous counterpart",
    torch.rnn_relu: "a recurrence over points has no continuous counterpart",
    F.grid_sample: "its sampling points depend on the pixels of the grid",
    F.unfold: "patches of pixels are no functions; write it as a convolution",
    F.fold: "patches of pixels are no functions; write it as a transposed convolution",
    F.max_unpool1d: "indices of pixels are no functions; use upsampling",
    F.max_unpool2d: "indices of pixels are no functions; use upsampling",
    F.max_unpool3d: "indices of pixels are no functions; use upsampling",
    **dict.fromkeys(
        (
            *(F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices),
            *(F.adaptive_max_pool1d_with_indices, F.adaptive_max_pool2d_with_indices),
            F.adaptive_max_pool3d_with_indices,
        ),
        "indices of pixels are no functions; pool without return_indices",
    ),
    torch.Tensor.unfold: "windows of pixels are no functions; write it as a convolution",
    **dict.fromkeys(
        (
            *(F.fractional_max_pool2d, F.fractional_max_pool3d),
            *(F.fractional_max_pool2d_with_indices, F.fractional_max_pool3d_with_indices),
        ),
        "its windows are drawn among the pixels; use MaxPool2d or AdaptiveMaxPool2d",
    ),
    **dict.fromkeys(
        (torch.cdist, F.pairwise_distance),
        "a distance summed over points grows with their number; write the root of a mean of squares",
    ),
    F.local_response_norm: "it normalises over channels within windows of pixels; use another normalisation",
}
UNSUPPORTED |= {
    torch.convolution: "it is not seen through; call torch.nn.functional.conv1d to conv_transpose3d",
    torch.constant_pad_nd: "it is not seen through; call torch.nn.functional.pad",
    torch.gradient: "its differences are divided by pixels; write it as a convolution",
}
_SYNONYMS = {"axis": "dim", "x": "input", "A": "input", "mat2": "other"}
_SUMS = {"add", "__add__", "__radd__", "add_", "__iadd__"}


@dataclass
class Call:
    """One call on the base grid: what it is, where in the network, its arguments and the sizes of its tensors."""

    kind: str
    path: str
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    output: tuple[int, ...]
    problem: str | None = None
    scaled: bool = False  # whether its input grew in a trial on a finer grid
    over_points: bool = False  # whether a softmax was over points there
    counts: bool = False  # whether it was over points there, and may grow with their number
    refused: bool = False  # whether it could not be converted in the trial, for a reason of its own or not
    exact: bool = False  # whether a layer of this package calls it, which knows its grid and keeps what it made for it
    note: str | None = None  # what becomes of it, where that is not what becomes of others of its kind
    uses: set[str] = field(default_factory=set)  # of the output of a softmax


@dataclass
class Trace:
    """All calls of one pass, the names of the parameters that were added to fields, and the shapes of its outputs."""

    calls: list[Call] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    outputs: tuple[tuple[int, ...] | None, ...] = ()
    batch: int = 1
    called: set[str] = field(default_factory=set)  # the names of the modules that were called


def bind(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name."""
    kwargs = {_SYNONYMS.get(k, k): v for k, v in kwargs.items()}
    found = {**dict(zip(names, args, strict=False)), **kwargs}
    if names == _FLIP and len(args) > 2:  # x.flip(2, 3)
        found["dims"] = args[1:]
    if names == ("equation",):
        operands = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
        found |= {"operands": operands, "input": operands[0] if operands else None}
    return found


def known(func: Callable[..., Any], args: tuple[Any, ...]) -> tuple[str, tuple[str, ...]] | None:
    """What a function does, if its call can see more than one point, and the names of its arguments."""
    found = FUNCTIONS.get(func)
    if found is None or found[0] != "slicing":
        return found
    entries = by_axis(args[1], args[0].ndim)
    return found if entries and any(e not in (slice(None), slice(0, None), 0) for e in entries[1:]) else None


def by_axis(index: Any, ndim: int) -> list[slice | int] | None:
    """The entry for each axis of an index of slices and numbers; None if it has others."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if sum(e is Ellipsis for e in entries) == 0:
        entries.append(Ellipsis)
    if not all(e is Ellipsis or type(e) in (int, slice) for e in entries):
        return None
    k = next(i for i, e in enumerate(entries) if e is Ellipsis)
    return entries[:k] + [slice(None)] * (ndim + 1 - len(entries)) + entries[k + 1 :]


def plain(value: Any) -> Any:
    """An argument without its tensors, which a trace must not keep alive."""
    if isinstance(value, Tensor):
        return None
    if isinstance(value, list | tuple):
        return tuple(plain(v) for v in value)
    return value


@contextlib.contextmanager
def paths(module: nn.Module, called: set[str] | None = None) -> Iterator[list[str]]:
    """The stack of names of the modules that are being called, the innermost last; it stays as it is at an error.

    All of them are added to `called`.
    """
    stack: list[str] = []
    handles = []
    for name, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            continue

        def enter(*_: Any, name: str = name) -> None:
            stack.append(name)
            if called is not None:
                called.add(name)

        def leave(*_: Any) -> None:
            if stack:  # else another thread was within the module when these hooks were set
                stack.pop()

        handles += [child.register_forward_pre_hook(enter), child.register_forward_hook(leave)]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


class Recorder(TorchFunctionMode):
    """Writes down the calls of a pass."""

    def __init__(self, module: nn.Module, stack: list[str]) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in module.named_parameters()}
        self.exact = {name for name, m in module.named_modules() if _knows_its_grid(m)}
        self.stack, self.trace, self.shares = stack, Trace(), Shares()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        found = known(func, args)
        summed = self.shares.follow(func, (args, kwargs), output, found[0] if found else None)
        path = self.stack[-1] if self.stack else ""
        if func in UNSUPPORTED:
            name = getattr(func, "__name__", str(func))
            self.trace.calls.append(Call(name, path, {}, (), (), UNSUPPORTED[func]))
        elif found is not None:
            kind, names = found
            arguments = bind(names, args, kwargs)
            first = arguments.get("key", arguments.get("input"))
            shape = tuple(first.shape) if isinstance(first, Tensor) else ()
            call = Call(kind, path, {k: plain(v) for k, v in arguments.items()}, shape, _shape(output))
            call.exact = path in self.exact
            if kind.endswith("convolution"):
                call.arguments["taps"] = tuple(arguments["weight"].shape[2:])
            call.arguments["shares"] = summed is not None
            if kind == "contraction":
                call.arguments["operands"] = tuple(tuple(t.shape) for t in arguments["operands"])
            self.trace.calls.append(call)
            if kind == "softmax":
                self.shares.begin(output, call)
        elif getattr(func, "__name__", "") in _SUMS:
            for table in args[:2]:
                name = self.names.get(id(table))
                if name is not None and table.ndim > 1 and name not in self.trace.tables:
                    self.trace.tables.append(name)
        return output


def _knows_its_grid(module: nn.Module) -> bool:
    package, *parts = type(module).__module__.split(".")
    return package == __name__.partition(".")[0] and parts[0] != "models"


def _shape(output: Any) -> tuple[int, ...]:
    first = output[0] if isinstance(output, tuple) and output else output
    return tuple(first.shape) if isinstance(first, Tensor) else ()


@contextlib.contextmanager
def untouched(module: nn.Module, like: Tensor) -> Iterator[None]:
    """Passes of `module` on the device of `like` leave no gradients, and random numbers and buffers as they were."""
    kept = [
        (owner._buffers, name, buffer, buffer.detach().clone())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    devices = [] if like.is_cpu else [like.get_device()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices, device_type=like.device.type):
            yield
    finally:
        for buffers, name, buffer, value in kept:
            buffer.data.copy_(value)
            buffers[name] = buffer


def record(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    """The trace of `module(*inputs, **kwargs)`, which leaves it `untouched`."""
    called: set[str] = set()
    with untouched(module, inputs[0]), paths(module, called) as stack, Recorder(module, stack) as recorder:
        output = module(*inputs, **kwargs)
        recorder.shares.end(output)
    recorder.trace.outputs = tuple(tuple(y.shape) if isinstance(y, Tensor) else None for y in tree_leaves(output))
    recorder.trace.batch, recorder.trace.called = len(inputs[0]), called
    return recorder.trace
