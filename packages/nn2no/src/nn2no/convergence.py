"""Is a network an operator? Measured: do its outputs converge under refinement, and to what it does on its base grid?

Both are needed. A plain convolutional network converges as well, to a map of point values, since its kernels shrink
with the spacing (arXiv:2506.10973, §2.1 and App. A.4).
"""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np
import torch
import xarray
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn

from nn2no.conversion import ConvertedOperator
from nn2no.refinement import (
    Norm,
    Probe,
    difference,
    input_channels,
    intervals,
    random_fields,
    refined,
    spectrum_tail,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDER = 0.4  # a jump in the output is of order 1/2 in L2; the rest is room for the fit
FLOOR = 0.05  # errors below a floor above this one tell nothing


@dataclass(frozen=True)
class ConvergenceReport:
    """How outputs on different grids differ, as functions, relative to the finer one; largest value over the probes.

    Attributes
    ----------
    errors
        {N: e(N, M)}, M the next resolution.
    order
        Slope of log e(N, M) against -log N, of the errors above `floor`; without the step that leaves the base grid
        where others remain, since it holds the mismatch too. Infinite if all are below.
    floor
        How much the output on the finest grid changes when its input is rounded differently, times ten.
    base, base_mismatch
        A resolution, and the difference of the output there from that on the reference grid.
    spectrum_tail
        {N: share of the L2 norm of the output on waves above half the largest wave number of the grid}.
    converges
        The order is at least 0.4, or the errors are at a floor of at most 0.05; and the output is not random.
    consistent
        `base_mismatch` is at most `tolerance`, and the output is not random.
    culprit
        The first part of the network (by its name in `named_modules`) that spoils what its input still has: the decay
        of errors if it does not converge, else a mismatch within the tolerance. Of random outputs, the first part that
        gives another output for the same input.
    layers
        {name: {N: e(N, M)}} of the outputs of its parts, for one probe, if it was asked for or something is wrong.
    remark
        Why errors tell nothing: the output is random, or rounding hides them.
    """

    errors: Mapping[int, float]
    order: float
    floor: float
    base: int
    base_mismatch: float
    spectrum_tail: Mapping[int, float]
    converges: bool
    consistent: bool
    culprit: str | None
    tolerance: float
    layers: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    remark: str | None = None

    def __str__(self) -> str:
        finest = max(self.spectrum_tail)
        lines = [f"{'N':>6}  {'e(N, next)':>10}  {'tail':>8}"]
        for n, tail in self.spectrum_tail.items():
            error = f"{self.errors[n]:10.2e}" if n != finest else " " * 10
            lines.append(f"{n:6}  {error}  {tail:8.1e}")
        verdicts = [
            f"{'converges' if self.converges else 'DOES NOT CONVERGE'}: order {self.order:.2f}, floor {self.floor:.0e}",
            f"{'consistent' if self.consistent else 'INCONSISTENT'}: the base grid {self.base} differs from the limit "
            f"by {self.base_mismatch:.2e} (tolerance {self.tolerance:g})",
        ]
        culprit = [f"culprit: {self.culprit}"] if self.culprit else []
        return "\n".join(lines + verdicts + culprit + ([self.remark] if self.remark else []))

    def to_xarray(self) -> xarray.Dataset:
        """Errors and tails over `resolution` (of the finest one there is no error), of layers over `layer` as well."""
        n = list(self.spectrum_tail)
        variables: dict[str, Any] = {
            "error": ("resolution", [self.errors.get(k, math.nan) for k in n]),
            "spectrum_tail": ("resolution", list(self.spectrum_tail.values())),
        }
        coords: dict[str, Any] = {"resolution": n}
        if self.layers:
            table = [[errors.get(k, math.nan) for k in n] for errors in self.layers.values()]
            variables["layer_error"] = (("layer", "resolution"), table)
            coords["layer"] = list(self.layers)
        names = ("order", "floor", "base", "base_mismatch", "tolerance")
        flags = {"converges": int(self.converges), "consistent": int(self.consistent), "culprit": self.culprit or ""}
        flags["remark"] = self.remark or ""
        return xarray.Dataset(variables, coords, {**{name: getattr(self, name) for name in names}, **flags})

    def figure(self) -> "Figure":
        """The errors against 1/N, with lines of first and second order."""
        from sciml.plotting import convergence

        steps = [1 / n for n in self.errors]
        return convergence(steps, {"e(N, next N)": list(self.errors.values())}, xlabel="1/N", orders=(1.0, 2.0))


@torch.no_grad()
def check_discretization_convergence(
    op: nn.Module | Callable[..., Tensor],
    resolutions: Sequence[int] = (32, 64, 128, 256),
    *,
    domain: Grid | None = None,
    probe: Literal["grf"] | Probe = "grf",
    n_probes: int = 4,
    seed: int = 0,
    reference: Literal["finest"] | int = "finest",
    base: int | None = None,
    norm: Norm = "l2",
    per_layer: bool = False,
    in_channels: int | None = None,
    tolerance: float = 0.3,
) -> ConvergenceReport:
    """Run `op` on the same functions on ever finer grids and compare the outputs as functions.

    Never at shared nodes only, which hides aliasing: the coarser output is interpolated (trigonometrically on periodic
    axes, else multilinearly) to the finer grid. Modules are evaluated in evaluation mode, twice on the finest grid: an
    output that is then another one is random, and no operator's.

    Parameters
    ----------
    op
        From fields (batch, channel, *space) in one to three dimensions to fields or vectors (batch, n). If its
        signature has an argument `grid`, it is given the grid. Of an operator on clouds of points, such a function.
    resolutions
        Intervals along the first axis: N nodes on periodic axes and in cells, N + 1 from wall to wall.
    domain
        Periodicity, centering, lengths and the proportions of its sizes; by default `op.base_grid`, else one with the
        `lengths` and `periodic` of `op`, else a periodic square of length one with as many axes as the first
        convolution has, else one with the `lengths` and `periodic` of the first part of `op` that has them.
    probe
        "grf": random fields, band-limited to |k| <= N/4 of the coarsest grid. Or a function: grid ↦ probes on it.
    reference
        The resolution that the base grid is compared with.
    base
        The resolution that the network was made for; by default that of `op.base_grid`, else the coarsest.
    in_channels
        By default that of the first part that has the attribute.

    Raises
    ------
    ValueError
        Weights or outputs that are not finite.
    ConfigError
        Resolutions that are not at least three increasing ones, or do not fit the domain; unknown inputs of `op`.
    ShapeError
        An output that is neither a field on the domain nor a vector.
    """
    names = list(resolutions)
    if len(names) < 3 or names != sorted(set(names)) or names[0] < 4:
        raise ConfigError(f"resolutions={tuple(names)}: an order needs three increasing ones, from 4 on.")
    if norm not in ("l2", "max"):
        raise ConfigError(f"norm={norm!r}; choose 'l2' or 'max'.")
    run = _Evaluated(op)
    made_for = getattr(op, "base_grid", None)
    if domain is None:
        domain = made_for if isinstance(made_for, Grid) else _guess_domain(op)
    if any(axis.kind != "uniform" for axis in domain.axes):
        raise ConfigError("Grids are refined uniformly: give a domain with uniform axes.")
    if base is None:
        base = intervals(made_for)[0] if isinstance(made_for, Grid) else names[0]
    compare = _Comparison(domain, names, base, names[-1] if reference == "finest" else reference, norm)
    grids = {n: refined(domain, n) for n in sorted({*names, base, compare.reference})}
    draw = (
        probe if callable(probe) else random_fields(domain, _channels(op, in_channels), min(grids) // 4, n_probes, seed)
    )
    probes = {n: draw(grid) for n, grid in grids.items()}
    with run:
        outputs = {n: run(probes[n], grid) for n, grid in grids.items()}
        fine, eps = names[-1], torch.finfo(run.dtype).eps
        repeated = difference(run(probes[fine], grids[fine]), outputs[fine], domain, norm)
        random = repeated > math.sqrt(eps)  # sums in another order differ by less
        noise = torch.randn(probes[fine].shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rounded = run(probes[fine] * (1 + eps * noise), grids[fine])
        compare.floor = 10 * max(eps, difference(rounded, outputs[fine], domain, norm))
        errors, mismatch = compare.errors(outputs), compare.mismatch(outputs)
        hidden = compare.floor > FLOOR and max(errors.values()) <= compare.floor
        order = compare.order(errors, 0.0 if random or hidden else compare.floor)
        converges, consistent = order >= ORDER and not (random or hidden), mismatch <= tolerance and not random
        parts = []
        if per_layer or not (converges or hidden) or not consistent:
            parts = run.trace({n: p[:1] for n, p in probes.items()}, [(n, n, grid) for n, grid in grids.items()])
        again = run.trace(probes, [(k, fine, grids[fine]) for k in range(2)]) if random else []

    remark = None
    if random:
        remark = (
            f"The output is random: of one input on the finest grid it differs by {repeated:.1e} from call to call. "
            "Fix what is drawn (dropout that stays on in evaluation, noise), or check the mean over it."
        )
    elif hidden:
        remark = (
            f"The errors are below the floor: rounding the input in {run.dtype} changes the output by "
            f"{compare.floor / 10:.1e}. Check it in float64."
        )

    def varies(values: Mapping[int, Tensor]) -> bool:
        return difference(values[0], values[1], domain, norm) > math.sqrt(eps)

    def bad(values: Mapping[int, Tensor]) -> bool:
        return compare.mismatch(values) > tolerance if converges else compare.order(compare.errors(values)) < ORDER

    culprit = next((name for name, given, out in again if varies(out) and not varies(given)), None)
    if not random and not hidden and not (converges and consistent):
        culprit = next((name for name, given, out in parts if bad(out) and not bad(given)), None)
    return ConvergenceReport(
        errors=errors,
        order=order,
        floor=compare.floor,
        base=base,
        base_mismatch=mismatch,
        spectrum_tail={n: spectrum_tail(outputs[n], domain) for n in names},
        converges=converges,
        consistent=consistent,
        culprit=culprit,
        tolerance=tolerance,
        layers={name: compare.errors(out) for name, _, out in parts} if per_layer else {},
        remark=remark,
    )


class _Comparison:
    """The differences between the values of one thing at several resolutions."""

    floor = 0.0

    def __init__(self, domain: Grid, names: Sequence[int], base: int, reference: int, norm: Norm) -> None:
        self.domain, self.names, self.base, self.reference = domain, names, base, reference
        self.norm: Norm = norm

    def errors(self, values: Mapping[int, Tensor]) -> dict[int, float]:
        pairs = zip(self.names, self.names[1:], strict=False)
        return {n: difference(values[n], values[m], self.domain, self.norm) for n, m in pairs}

    def mismatch(self, values: Mapping[int, Tensor]) -> float:
        return difference(values[self.base], values[self.reference], self.domain, self.norm)

    def order(self, errors: Mapping[int, float], floor: float | None = None) -> float:
        floor = self.floor if floor is None else floor
        kept = {n: e for n, e in errors.items() if n > self.base}
        kept = dict(errors) if len(kept) < 2 else kept
        if max(kept.values()) <= floor:
            return math.inf
        heights = np.log(np.maximum(list(kept.values()), max(floor, 1e-300)))
        return -float(np.polyfit(np.log(list(kept)), heights, 1)[0])


class _Evaluated:
    """The operator on float64 fields, in evaluation mode while entered, its outputs checked."""

    def __init__(self, op: nn.Module | Callable[..., Tensor]) -> None:
        self.op, self.module = op, op if isinstance(op, nn.Module) else None
        tensors = [*self.module.parameters(), *self.module.buffers()] if self.module else []
        real = [t for t in tensors if t.is_floating_point()]
        self.dtype, self.device = (real[0].dtype, real[0].device) if real else (torch.float32, torch.device("cpu"))
        if not all(bool(torch.isfinite(t).all()) for t in tensors):
            raise ValueError("The module has weights that are not finite; load others.")
        function = op.forward if isinstance(op, nn.Module) else op
        given, *more = [*inspect.signature(function).parameters.values(), None]
        self.takes_grid = any(p is not None and p.name == "grid" for p in (given, *more))
        empty, several = inspect.Parameter.empty, (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        missing = [p.name for p in more if p and p.default is empty and p.kind not in several and p.name != "grid"]
        if missing:
            recipe = "lambda f, grid: model(f, …), with what it takes beside the field made of the grid"
            if "coords" in missing:
                recipe = (
                    "lambda f, grid: model(f.flatten(2).mT, grid.coords.flatten(0, -2)[None], grid.weights.reshape(1, "
                    "-1)).mT.unflatten(2, f.shape[2:])"
                )
            raise ConfigError(
                f"The operator takes {', '.join(missing)} as well; it is called with a field, and with the grid if it "
                f"has such an argument. Check a function of both, such as {recipe}, and give domain=Grid.uniform(…)."
            )

    def __enter__(self) -> None:
        self.training = [m for m in self.module.modules() if m.training] if self.module else []
        if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in self.training):
            warnings.warn("The module drops out at random in training; it is checked in evaluation mode.", stacklevel=3)
        if self.module:
            self.module.eval()

    def __exit__(self, *_: object) -> None:
        for m in self.training:
            m.training = True
            if isinstance(m, ConvertedOperator):  # the network is not among its modules
                m.original().training = True

    def __call__(self, x: Tensor, grid: Grid) -> Tensor:
        x = x.to(self.device, self.dtype)
        y = self.op(x, grid=grid.to(self.device, self.dtype)) if self.takes_grid else self.op(x)
        if not isinstance(y, Tensor) or not y.is_floating_point() or y.ndim not in (2, grid.dim + 2):
            got = f"{tuple(y.shape)} of {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
            raise ShapeError(
                f"Expected a real field with {grid.dim} axes, or a vector (batch, n); the output is {got}."
            )
        if not bool(torch.isfinite(y).all()):
            raise ValueError(
                f"The output on the grid {grid.shape} is not finite; is the input in the range it expects?"
            )
        return y.cpu()

    def trace(
        self, probes: Mapping[int, Tensor], passes: Sequence[tuple[int, int, Grid]]
    ) -> list[tuple[str, dict[int, Tensor], dict[int, Tensor]]]:
        """(name, inputs, outputs) of the parts whose first input and output are fields, in the order they finish.

        A pass is the key of its values, that of its probe, and the grid.
        """
        if self.module is None:
            return []
        dim, found = passes[0][2].dim, {}
        now, calls = 0, {}

        def is_field(t: Tensor | None) -> TypeGuard[Tensor]:
            return t is not None and t.is_floating_point() and t.ndim in (2, dim + 2)

        def hook(name: str) -> Callable[..., None]:
            def keep(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
                k = calls[name] = calls.get(name, -1) + 1
                x, y = _first_tensor([*args, *kwargs.values()]), _first_tensor(out)
                if is_field(x) and is_field(y):
                    entry = found.setdefault((name, k), ({}, {}))
                    entry[0][now], entry[1][now] = x.cpu(), y.cpu()

            return keep

        own = type(self.module).__name__
        hooks = [m.register_forward_hook(hook(n or own), with_kwargs=True) for n, m in self.module.named_modules()]
        try:
            for key, n, grid in passes:
                now, calls = key, {}
                self(probes[n], grid)
        finally:
            for handle in hooks:
                handle.remove()
        return [
            (name, *values)
            for (name, _), values in found.items()
            if all(len(v) == len(passes) and len({t.shape[:2] for t in v.values()}) == 1 for v in values)
        ]


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return next((t for t in values if isinstance(t, Tensor)), None)


def _parts(op: object) -> list[nn.Module]:
    network = op.original() if isinstance(op, ConvertedOperator) else op  # whose own attributes the operator hides
    return list(network.modules()) if isinstance(network, nn.Module) else []


def _channels(op: object, given: int | None) -> int:
    found = [input_channels(part) for part in _parts(op)[:1]]
    return given or (found[0] if found else None) or 1


def _guess_domain(op: object) -> Grid:
    parts = _parts(op)
    dims = [m.weight.ndim - 2 for m in parts if isinstance(m, nn.modules.conv._ConvNd)]
    told = [part for part in (op, *parts) if isinstance(getattr(part, "periodic", None), list | tuple)]
    if told and (told[0] is op or not dims):
        whole: Any = told[0]
        wraps: Sequence[bool] = whole.periodic
        return Grid.uniform([1 if w else 2 for w in wraps], getattr(told[0], "lengths", 1.0), periodic=list(wraps))
    if not dims:
        raise ConfigError(
            "How many axes the fields have cannot be told from the operator, which has neither convolutions nor "
            "`lengths` and `periodic`; give domain=Grid.uniform((1, 1), periodic=True), or whatever it works on."
        )
    return Grid.uniform((1,) * dims[0], periodic=True)
