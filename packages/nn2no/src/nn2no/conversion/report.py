"""What becomes of every layer of a network, in words."""

from dataclasses import dataclass, field

import torch
from torch import nn

from nn2no.conversion.local_rules import REORDERED
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
    "flip": "the mirror image of the base grid",
    "rotation": "the rotated image of the base grid",
    "Fourier transform": "left as it is: its modes keep their places; its values grow with the number of points unless "
    "an inverse or norm='forward' divides by it",
    "mean": "an integral divided by the volume",
    "variance": "an integral divided by the volume",
    "standard deviation": "the root of an integral divided by the volume",
    "variance and mean": "integrals divided by the volume",
    "standard deviation and mean": "integrals divided by the volume, one as its root",
    "slicing": "a part of fixed physical place and size",
}
POINTWISE = {
    "pointwise": "acts point by point: unchanged",
    "antialiased": "acts point by point, if nonlinear on a grid twice as fine",
}
NOT_CALLED = "is not called"
NOT_REACHED = "not tried: what comes before it fails on a finer grid"
BEHIND = "not tried: what comes before it cannot be converted"
ALONE = "over points, used alone"
SHARES = ALONE + " ({}): its values fall as points are added; right where a sum over the points follows (attention)"
UNSURE = "over points, whose number it may count"
UNSURE_REASON = (
    UNSURE + ": left as it is, but then the output on a finer grid is another one, as it is with the number of points "
    "of the base grid; see check_discretization_convergence"
)
CANCELS = "over points, whose number cancels or does not matter: unchanged"
DIVIDED = "over points, whose number the network divides by: unchanged"
WEIGHTED = "counts the points of the base grid on every grid: an integral, or the place on the base grid"
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


@dataclass(frozen=True)
class Trial:
    """What was found on a finer grid: what cannot be converted, the modules that were called, and whether it ended."""

    failures: list[Row] = field(default_factory=list)
    called: set[str] = field(default_factory=set)
    complete: bool = True


def describe(module: nn.Module, trace: Trace, tables: tuple[str, ...], options: Options, trial: Trial) -> list[Row]:
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
    failed = {(row.name, row.kind) for row in trial.failures}
    rows += [
        _row(call, options)
        for call in _first_of_each(trace)
        if (call.scaled or call.problem) and (call.path, call.kind) not in failed
    ]
    rows += trial.failures
    seen = {row.name for row in rows}

    def without_a_row(name: str) -> str:
        if name not in trace.called:
            return NOT_CALLED
        return POINTWISE[options.activation] if trial.complete or name in trial.called else NOT_REACHED

    rows += [
        Row(name, type(m).__name__, without_a_row(name))
        for name, m in module.named_modules()
        if name and name not in seen and not list(m.children())
    ]
    place = {name: k for k, (name, _) in enumerate(module.named_modules())}
    rows.sort(key=lambda row: place.get(row.name, 0))
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
    return call.scaled, call.over_points, bool(alone(call)), call.note not in (None, REORDERED)


def alone(call: Call) -> list[str]:
    """What sees the shares of points that a softmax gives, without their sum."""
    return sorted(use.removeprefix("alone: ") for use in call.uses if use != "sum") if call.over_points else []


def _row(call: Call, options: Options) -> Row:
    if call.problem:
        return Row(call.path, call.kind, call.problem, False)
    if users := alone(call):
        refused = any(use.startswith("alone") for use in call.uses)
        return Row(call.path, call.kind, SHARES.format(", ".join(users)) + REMEDY * refused, not refused)
    if call.refused:
        return Row(call.path, call.kind, BEHIND)
    if call.note:
        return Row(call.path, call.kind, UNSURE_REASON if call.note == UNSURE else call.note)
    taps = call.arguments.get("taps")
    if call.kind == "convolution" and taps and set(taps) == {1}:
        return Row(call.path, call.kind, "one tap: acts point by point")
    if call.kind in ("convolution", "transposed convolution") and options.conv != "integral":
        return Row(call.path, call.kind, CONV_REASONS[options.conv])
    reason = REASONS.get(call.kind, "statistics as integrals" if "normalisation" in call.kind else "follows the grid")
    return Row(call.path, call.kind, reason)
