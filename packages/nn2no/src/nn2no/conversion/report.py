"""What becomes of every layer of a network, in words."""

from dataclasses import dataclass

import torch
from torch import nn

from nn2no.conversion.place import Options
from nn2no.conversion.trace import Call, Trace

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
    "softmax": "a ratio of integrals with the sum over the points that follows, as in attention",
    "flattening": "a readout: integrals against the hats of the base grid's nodes",
    "mean": "an integral divided by the volume",
    "variance": "an integral divided by the volume",
    "standard deviation": "the root of an integral divided by the volume",
    "variance and mean": "integrals divided by the volume",
    "standard deviation and mean": "integrals divided by the volume, one as its root",
    "slicing": "a part of fixed physical place and size",
}
POINTWISE = {
    "pointwise": "acts point by point, or is not called: unchanged",
    "antialiased": "acts point by point, if nonlinear on a grid twice as fine, or is not called",
}
ALONE = "over points, used alone"
SHARES = ALONE + " ({}): its values fall as points are added; right where a sum over the points follows (attention)"
REMEDY = ". Multiply it by the number of points and pass strict=False, or sum over the points"
CONV_REASONS = {
    "kernel-interp": "the kernel resized like an image",
    "kernel-interp-fourier": "the kernel resized like a periodic image",
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


def describe(module: nn.Module, trace: Trace, tables: tuple[str, ...], options: Options) -> list[Row]:
    """The rows of a network that was traced, and tried on a finer grid."""
    rows = [
        Row(name, type(m).__name__, "compiled by TorchScript, which hides its calls: pass the Python module", False)
        for name, m in module.named_modules()
        if isinstance(m, torch.jit.ScriptModule)
    ]
    rows += [
        Row(name, type(m).__name__, "runs in threads of its own, unconverted: convert the module within it", False)
        for name, m in module.named_modules()
        if isinstance(m, nn.DataParallel)
    ]
    rows += [_row(call, options) for call in _first_of_each(trace) if call.scaled or call.problem]
    seen = {row.name for row in rows}
    rows += [
        Row(name, type(m).__name__, POINTWISE[options.activation])
        for name, m in module.named_modules()
        if name and name not in seen and not list(m.children())
    ]
    sampled = "a function sampled at the base grid: interpolated"
    return rows + [Row(name, "table of positions", sampled) for name in tables]


def _first_of_each(trace: Trace) -> list[Call]:
    """One call for each kind of each layer; padding that belongs to a convolution is part of it."""
    found: dict[tuple[str, str], Call] = {}
    for call in trace.calls:
        key = (call.path, call.kind)
        if key not in found or _weight(call) > _weight(found[key]):
            found[key] = call
    convolved = {path for path, kind in found if kind == "convolution"}
    return [c for (path, kind), c in found.items() if kind != "padding" or path not in convolved]


def _weight(call: Call) -> tuple[bool, ...]:
    """Of several calls of a kind, the one that there is most to say about is reported."""
    return call.scaled, call.over_points, bool(alone(call)), call.note is not None


def alone(call: Call) -> list[str]:
    """What sees the shares of points that a softmax gives, without their sum."""
    return sorted(use.removeprefix("alone: ") for use in call.uses if use != "sum") if call.over_points else []


def _row(call: Call, options: Options) -> Row:
    if call.problem:
        return Row(call.path, call.kind, call.problem, False)
    if users := alone(call):
        refused = any(use.startswith("alone") for use in call.uses)
        return Row(call.path, call.kind, SHARES.format(", ".join(users)) + REMEDY * refused, not refused)
    if call.note:
        return Row(call.path, call.kind, call.note)
    taps = call.arguments.get("taps")
    if call.kind == "convolution" and taps and set(taps) == {1}:
        return Row(call.path, call.kind, "one tap: acts point by point")
    if call.kind in ("convolution", "transposed convolution") and options.conv != "integral":
        return Row(call.path, call.kind, CONV_REASONS[options.conv])
    reason = REASONS.get(call.kind, "statistics as integrals" if "normalisation" in call.kind else "follows the grid")
    return Row(call.path, call.kind, reason)
