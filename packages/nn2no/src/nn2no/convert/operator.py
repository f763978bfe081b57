"""Networks as operators: the same modules and weights on any grid (arXiv:2506.10973, §3)."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, SciMLError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn

from nn2no.convert.rules import Conversion, Options, Place, from_base, token_grid
from nn2no.convert.trace import Call, Trace, paths, record
from nn2no.errors import ConversionError
from nn2no.scale import Ends, Scale, scale_between

CHOICES = {
    "conv": ("integral", "kernel-interp", "differential", "spectral"),
    "norm": ("quadrature", "torch"),
    "attention": ("quadrature", "torch"),
    "pool": ("physical", "torch"),
    "activation": ("pointwise", "antialiased"),
    "padding_mode": (None, "circular"),
}
REASONS = {
    "convolution": "a kernel of fixed physical size, by quadrature",
    "transposed convolution": "spreads a kernel of fixed physical size",
    "padding": "a border of fixed physical width",
    "average pooling": "the mean over a window of fixed physical size",
    "power-average pooling": "the power mean over a window of fixed physical size",
    "max pooling": "the supremum over a window of fixed physical size",
    "adaptive average pooling": "means over a fixed number of physical windows",
    "adaptive max pooling": "suprema over a fixed number of physical windows",
    "interpolation": "interpolation whose shift stays what it is in physical units",
    "pixel shuffle": "a transposed convolution with one tap a channel",
    "pixel unshuffle": "a convolution with one tap a channel",
    "attention": "a ratio of integrals; class and register tokens are atoms",
    "multi-head attention": "a ratio of integrals; class and register tokens are atoms",
    "softmax": "a ratio of integrals; class and register tokens are atoms",
    "flattening": "a readout: integrals against the hats of the base grid's nodes",
    "mean": "an integral divided by the volume",
}
RESIZING = {k for k in REASONS if "conv" in k or "pixel" in k or k.endswith("pooling")} | {"interpolation"}
CONV_REASONS = {
    "kernel-interp": "the kernel resized like an image",
    "differential": "the differential operator of the same moments",
    "spectral": "a multiplier of the modes of the base grid",
}


@dataclass(frozen=True)
class Row:
    """One layer of a report: its name in the network, what it does, and what becomes of it or why it cannot."""

    name: str
    kind: str
    rule: str
    supported: bool = True


@dataclass(frozen=True)
class ConversionReport:
    """What becomes of every layer; `problems` lists those that cannot be converted."""

    rows: tuple[Row, ...]

    @property
    def problems(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.supported)

    def __str__(self) -> str:
        cells = [("layer", "is", "becomes"), *((r.name or "(network)", r.kind, r.rule) for r in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(2)]
        return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in cells)


class ConvertedOperator(nn.Module):
    """A network that acts on functions: on its base grid it is the network, on others it converges to one operator.

    It has the modules, parameters and buffers of the network, not copies, under the same names: a `state_dict` of one
    is that of the other, and training one trains the other. Made by `convert`.

    Attributes
    ----------
    base_grid
        The grid that the network was made for.
    report
        What became of every layer.
    """

    def __init__(
        self, module: nn.Module, base_grid: Grid, options: Options, tables: Sequence[str], report: ConversionReport
    ) -> None:
        super().__init__()
        _check_grid(base_grid)
        # the very dictionaries of the network: moving, casting or loading either does it for both
        self._modules, self._parameters, self._buffers = module._modules, module._parameters, module._buffers
        self._non_persistent_buffers_set = module._non_persistent_buffers_set
        self.__dict__["_network"] = module
        self.__dict__["_traces"] = {}
        self.base_grid, self.options, self.tables, self.report = base_grid, options, tuple(tables), report
        self.training = module.training

    def original(self) -> nn.Module:
        """The network itself."""
        return self.__dict__["_network"]

    def train(self, mode: bool = True) -> "ConvertedOperator":
        """Set the mode of both."""
        super().train(mode)
        self.original().training = mode
        return self

    def forward(
        self, x: Float[Tensor, "batch channel *space"], grid: Grid | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """The operator on the field `x`, whose nodes are those of `grid`; further arguments go to the network.

        Without a grid the domain is that of `base_grid`, and its resolution the shape of `x`.

        Raises
        ------
        ShapeError
            `x` is no field on the grid, or has other axes than the base grid.
        ConversionError
            A level of the network would have no whole number of nodes; the nearest sizes that do are named.
        """
        base, ends = self.base_grid, _ends(self.base_grid)
        if x.ndim != base.dim + 2 or not x.dtype.is_floating_point:
            raise ShapeError(
                f"The operator was converted for real fields (batch, channel, *space) with {base.dim} axes; got "
                f"{tuple(x.shape)} of {x.dtype}."
            )
        if grid is None:
            scale, shape = scale_between(base.shape, x.shape[2:], ends), base.shape
        else:
            grid.check(x)
            scale, shape = _scale_of_grids(base, grid)
        network, plain = self.original(), self.options.activation == "pointwise" and self.options.padding_mode is None
        if plain and all(s == 1 for s in scale):
            return network(x, *args, **kwargs)
        trace = self.trace(x, shape, args, kwargs)
        _check_sizes(trace, shape, scale, ends)
        place = Place(shape, scale, ends, base.periodic, self.options, len(x))
        replaced = {name: self.refine_table(name, place) for name in (*trace.tables, *self.tables)}
        with Conversion(trace, place), _replaced(network, {k: v for k, v in replaced.items() if v is not None}):
            output = network(x, *args, **kwargs)
        return self.finish(output, trace.output, place)

    def trace(self, x: Tensor, shape: tuple[int, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
        """What the network does on its base grid, in the present mode."""
        key = (shape, x.shape[1], self.training)
        if key not in self.__dict__["_traces"]:
            batch = 2 if self.training else 1
            example = torch.zeros((batch, x.shape[1], *shape), dtype=x.dtype, device=x.device)
            more = [a[:batch] if isinstance(a, Tensor) and len(a) == len(x) else a for a in args]
            self.__dict__["_traces"][key] = record(self.original(), (example, *more), kwargs)
        return self.__dict__["_traces"][key]

    def refine_table(self, name: str, place: Place) -> Tensor | None:
        """A table of positions, sampled at the base grid, at the points of another one."""
        table = self.original().get_parameter(name)
        if table.ndim == place.dim + 2 and tuple(table.shape[2:]) != (1,) * place.dim:
            sizes = [s * (n - e) + e for n, s, e in zip(table.shape[2:], place.scale, place.ends, strict=True)]
            if any(n.denominator != 1 for n in sizes):
                return None
            return from_base(table, [int(n) for n in sizes], place.scale, place.periodic)
        axis = table.ndim - 2
        found = token_grid(place, table.shape[axis]) if axis >= 0 else None
        if found is None:
            return None
        atoms, fine, base = found
        points = table.movedim(axis, -1)
        lead = points.shape[:-1]
        grid = points[..., atoms:].reshape(1, -1, *base)
        grid = from_base(grid, list(fine), place.scale, place.periodic).reshape(*lead, -1)
        return torch.cat([points[..., :atoms], grid], -1).movedim(-1, axis)

    def finish(self, output: Any, base: Any, place: Place) -> Any:
        """Outputs of fixed patches, which have the size of the base grid, as functions on the grid."""
        if place.options.patch == "ratio" or not isinstance(base, tuple) or base[2:] != place.base:
            return output
        if tuple(output.shape[2:]) != place.base:
            return output
        return from_base(output, [place.refined(n, i) for i, n in enumerate(place.base)], place.scale, place.periodic)

    def extra_repr(self) -> str:
        return f"base_grid={self.base_grid.shape}, conv={self.options.conv!r}"


def convert(
    module: nn.Module,
    base_grid: Grid,
    *,
    conv: Literal["integral", "kernel-interp", "differential", "spectral"] = "integral",
    norm: Literal["quadrature", "torch"] = "quadrature",
    attention: Literal["quadrature", "torch"] = "quadrature",
    pool: Literal["physical", "torch"] = "physical",
    patch: Literal["ratio", "fixed"] | Sequence[str] = "ratio",
    activation: Literal["pointwise", "antialiased"] = "pointwise",
    padding_mode: Literal["circular"] | None = None,
    position_params: Sequence[str] = (),
    strict: bool = True,
    example_input: Any = None,
) -> ConvertedOperator:
    """Make a network, as it is and with its weights, an operator between functions.

    Its modules stay as they are: while it runs on another grid than `base_grid`, the functions of torch that see more
    than one point are replaced by quadratures of what they are on the base grid. So functional calls, shared modules
    and control flow that does not depend on sizes are converted like modules, and the base grid sees no change.

    Parameters
    ----------
    conv
        "integral": kernels of fixed physical size. "kernel-interp": kernels resized like images (as the authors do).
        "differential": the differential operator of the same moments (up to 3 taps). "spectral": a multiplier of the
        modes of the base grid (periodic axes).
    norm, attention, pool
        "torch" leaves that kind of layer as it is.
    patch
        Convolutions with stride = kernel: "ratio" keeps the ratio of resolutions, so that tokens grow in number;
        "fixed", or a list of names of layers, keeps the patches, and so their number.
    activation
        "antialiased" evaluates nonlinearities on a grid twice as fine, also on the base grid (periodic axes).
    padding_mode
        "circular" treats zero padding along periodic axes as periodic, also on the base grid.
    position_params
        Parameters that are functions sampled at the base grid, in addition to those that are added to fields.
    strict
        Raise if a layer cannot be converted; else it runs as it is.
    example_input
        An input on the base grid, or a tuple of all inputs, where one cannot be made from the first layer's shape.

    Raises
    ------
    ConversionError
        The network is converted already, or has layers that cannot be; all are listed, with what to do.
    ConfigError
        An unknown option, or a grid that is not uniform.
    """
    if isinstance(module, ConvertedOperator):
        raise ConversionError("the network is already converted: use it as it is, or convert its original()")
    _check_grid(base_grid)
    chosen = {
        "conv": conv,
        "norm": norm,
        "attention": attention,
        "pool": pool,
        "activation": activation,
        "padding_mode": padding_mode,
    }
    for name, value in chosen.items():
        if value not in CHOICES[name]:
            raise ConfigError(f"{name}={value!r}; choose one of {', '.join(map(repr, CHOICES[name]))}.")
    if isinstance(patch, str) and patch not in ("ratio", "fixed"):
        raise ConfigError(f"patch={patch!r}; choose 'ratio', 'fixed' or a list of names of layers.")
    if activation == "antialiased" and not all(base_grid.periodic):
        raise ConfigError("activation='antialiased' resizes by Fourier series: the axes of the grid must be periodic.")
    names = dict(module.named_parameters())
    if unknown := [name for name in position_params if name not in names]:
        raise ConversionError(f"position_params: there is no parameter {unknown[0]}; write names as in state_dict().")
    options = Options(**chosen, patch=patch if isinstance(patch, str) else tuple(patch))
    report = _try(module, base_grid, options, tuple(position_params), example_input)
    if strict and report.problems:
        lines = "\n".join(f"  {row.name or '(network)'} ({row.kind}): {row.rule}" for row in report.problems)
        raise ConversionError(
            f"{len(report.problems)} of {len(report.rows)} layers cannot be converted:\n{lines}\n"
            "Replace them, or pass strict=False to let them run as they are."
        )
    if any(isinstance(m, nn.Dropout) and m.p > 0 for m in module.modules()) and module.training:
        warnings.warn(
            "elementwise Dropout of a field is white noise, which is no function: it does not converge while training. "
            "Use Dropout1d to Dropout3d, which drop channels.",
            stacklevel=2,
        )
    return ConvertedOperator(module, base_grid, options, position_params, report)


def explain(module: nn.Module, base_grid: Grid, *, example_input: Any = None, **options: Any) -> ConversionReport:
    """What `convert` would make of each layer, and why it cannot where it cannot; the network is left alone."""
    return convert(module, base_grid, strict=False, example_input=example_input, **options).report


def _check_grid(grid: Grid) -> None:
    if any(axis.kind != "uniform" for axis in grid.axes):
        raise ConfigError("base_grid must have equispaced nodes, as the taps of a convolution do: use Grid.uniform.")


def _ends(grid: Grid) -> Ends:
    return tuple(axis.centering == "node" and not axis.periodic for axis in grid.axes)


def _scale_of_grids(base: Grid, grid: Grid) -> tuple[Scale, tuple[int, ...]]:
    """The ratio of spacings, and the shape that `grid` would have at the spacing of `base`."""
    _check_grid(grid)
    if grid.periodic != base.periodic or _ends(grid) != _ends(base):
        raise ShapeError("The axes of the grid and of the base grid must be of one kind: periodic, nodes or cells.")
    scale, shape = [], []
    for a, b in zip(base.axes, grid.axes, strict=True):
        s = Fraction(a.spacing / b.spacing).limit_denominator(4096)
        if not math.isclose(float(s) * b.spacing, a.spacing, rel_tol=1e-6):
            raise ShapeError(f"The spacings {a.spacing:g} and {b.spacing:g} have no simple ratio.")
        end = a.centering == "node" and not a.periodic
        n0 = (b.n - end) / s + end
        if n0.denominator != 1:
            raise ShapeError(
                f"A grid of {b.n} nodes has {float(n0):g} at the base spacing {a.spacing:g}, no whole number."
            )
        scale.append(s)
        shape.append(int(n0))
    return tuple(scale), tuple(shape)


def _check_sizes(trace: Trace, shape: tuple[int, ...], scale: Scale, ends: Ends) -> None:
    """Every level must have a whole number of nodes."""
    for axis, (n0, s, end) in enumerate(zip(shape, scale, ends, strict=True)):
        sizes = {n0 - end}
        for call in trace.calls:
            if call.scaled and call.kind in RESIZING and len(call.output) == len(shape) + 2:
                sizes.add(call.output[2 + axis] - end)
        common = math.gcd(*sizes) or 1
        if (s * common).denominator != 1:
            step = n0 // common if not end else (n0 - 1) // common
            nearest = max(1, round(s * common))
            raise ConversionError(
                f"Axis {axis} of {float(s * (n0 - end)) + end:g} nodes: not every level of the network would have a "
                f"whole number of them. The nearest size is {nearest * step + end}; multiples of {step}"
                f"{' plus one' if end else ''} are possible."
            )


@contextlib.contextmanager
def _replaced(module: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the named parameters are these tensors."""
    kept = []
    for name, value in values.items():
        owner, _, leaf = name.rpartition(".")
        target = module.get_submodule(owner)
        kept.append((target, leaf, target._parameters.pop(leaf)))
        target.__dict__[leaf] = value
    try:
        yield
    finally:
        for target, leaf, parameter in kept:
            del target.__dict__[leaf]
            target._parameters[leaf] = parameter


def _example(module: nn.Module, grid: Grid, given: Any) -> tuple[Any, ...]:
    if given is not None:
        return given if isinstance(given, tuple) else (given,)
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    for layer in module.modules():
        channels = getattr(layer, "in_channels", None)
        if channels is None and isinstance(layer, nn.Linear):
            channels = layer.in_features
        if isinstance(channels, int):
            kind = {"dtype": first.dtype, "device": first.device} if first is not None else {}
            return (torch.zeros(2 if module.training else 1, channels, *grid.shape, **kind),)
    raise ConversionError("the number of input channels is not known: pass an example_input on the base grid")


def _try(
    module: nn.Module, grid: Grid, options: Options, tables: tuple[str, ...], example_input: Any
) -> ConversionReport:
    """Run on the base grid and once on a finer one; what fails there cannot be converted."""
    rows = [
        Row(name, type(m).__name__, "compiled by TorchScript, which hides its calls: pass the Python module", False)
        for name, m in module.named_modules()
        if isinstance(m, torch.jit.ScriptModule)
    ]
    example = _example(module, grid, example_input)
    try:
        trace = record(module, example, {})
    except Exception as error:
        raise ConversionError(
            f"the network does not run on an input {tuple(example[0].shape)} on its base grid ({type(error).__name__}: "
            f"{error}): correct base_grid, or pass an example_input"
        ) from error
    trial = ConvertedOperator(module, grid, options, tables, ConversionReport(()))
    trial.__dict__["_traces"][(grid.shape, example[0].shape[1], module.training)] = trace
    ends = _ends(grid)
    fine = [2 * (n - e) + e for n, e in zip(grid.shape, ends, strict=True)]
    larger = torch.zeros((*example[0].shape[:2], *fine), dtype=example[0].dtype, device=example[0].device)
    kept = {name: b.detach().clone() for name, b in module.named_buffers()}
    failure: Row | None = None
    with torch.no_grad(), torch.random.fork_rng([]), paths(module) as stack:
        try:
            trial(larger, None, *example[1:])
        except SciMLError as error:
            name, _, rest = str(error).partition(": ")
            known = name in dict(module.named_modules())
            failure = Row(name if known else "", "layer", rest if known else str(error), False)
        except Exception as error:
            failure = Row(
                stack[-1] if stack else "",
                "operation",
                f"fails on a finer grid with {type(error).__name__}: {str(error).splitlines()[0]} (a size written into "
                "the code, or a table of positions? see position_params)",
                False,
            )
    for name, buffer in module.named_buffers():
        buffer.data.copy_(kept[name])
    rows += [_row(call, options) for call in _first_of_each(trace) if call.scaled or call.problem]
    seen = {row.name for row in rows}
    rows += [
        Row(name, type(m).__name__, "acts point by point, or is not called: unchanged")
        for name, m in module.named_modules()
        if name and name not in seen and not list(m.children())
    ]
    rows += [
        Row(name, "table of positions", "a function sampled at the base grid: interpolated") for name in trace.tables
    ]
    return ConversionReport(tuple(rows) if failure is None else (*rows, failure))


def _first_of_each(trace: Trace) -> list[Call]:
    """One call for each kind of each layer; padding that belongs to a convolution is part of it."""
    found: dict[tuple[str, str], Call] = {}
    for call in trace.calls:
        key = (call.path, call.kind)
        if key not in found or (call.scaled and not found[key].scaled):
            found[key] = call
    convolved = {path for path, kind in found if kind == "convolution"}
    return [c for (path, kind), c in found.items() if kind != "padding" or path not in convolved]


def _row(call: Call, options: Options) -> Row:
    if call.problem:
        return Row(call.path, call.kind, call.problem, False)
    taps = call.arguments.get("taps")
    if call.kind == "convolution" and taps and set(taps) == {1}:
        return Row(call.path, call.kind, "one tap: acts point by point")
    if call.kind in ("convolution", "transposed convolution") and options.conv != "integral":
        return Row(call.path, call.kind, CONV_REASONS[options.conv])
    reason = REASONS.get(call.kind, "statistics as integrals" if "normalisation" in call.kind else "follows the grid")
    return Row(call.path, call.kind, reason)
