"""A pass on a grid twice as fine: what cannot be converted there, and which reading of sums over points is right."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from sciml.errors import SciMLError
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nn2no.conversion.operator import ConvertedOperator, ends_of, resized
from nn2no.conversion.place import Place
from nn2no.conversion.report import CANCELS, DIVIDED, UNSURE, WEIGHTED, Row, Trial
from nn2no.conversion.trace import Call, Trace, paths, untouched
from nn2no.refinement import intervals, random_fields, refined
from nn2no.scale import scale_between

AGREE = 1e-3  # of the size of the output: readings that differ by less are the same
CLEAR = 3  # a reading is right if another one is so many times as far from the base grid; twice as far is a square root


def run_trial(operator: ConvertedOperator, example: tuple[Any, ...], trace: Trace) -> Trial:
    """All that goes wrong on a grid twice as fine; marks in the calls of the trace what they were given there."""
    for call in trace.calls:
        call.scaled = call.over_points = call.counts = call.refused = False
        call.note = None
    place = _twice_as_fine(operator, len(example[0]))
    fine = [place.refined(n, i) for i, n in enumerate(place.base)]
    (larger, *more), _ = resized(example, {}, fine, len(example[0]))
    found: list[tuple[Call, str]] = []
    module, stack, called = operator.original(), [], set()
    rows, complete = [], False
    try:
        with untouched(module, larger), paths(module, called) as stack:
            operator.run(place, larger.contiguous(), tuple(more), {}, found)
        complete = True
    except SciMLError as error:
        name, _, rest = str(error).partition(": ")
        known = name in dict(module.named_modules())
        rows = [Row(name if known else "", "layer", rest if known or name == "the network" else str(error), False)]
    except Exception as error:
        what = str(error).splitlines()[0] if str(error) else ""
        reason = f"fails on a finer grid with {type(error).__name__}: {what}"
        if found:
            reason += " (it may follow from what else cannot be converted)"
        else:
            reason += " (a size written into the code, or a table of positions? see position_params)"
        rows = [Row(stack[-1] if stack else "", "operation", reason, False)]
    failures = {}
    for call, message in found:
        reason = message.removeprefix(f"{call.path or 'the network'}: ")
        failures.setdefault((call.path, call.kind), Row(call.path, call.kind, reason, False))
    return Trial([*failures.values(), *rows], called, complete)


def _twice_as_fine(operator: ConvertedOperator, batch: int) -> Place:
    shape, ends = operator.base_grid.shape, ends_of(operator.base_grid)
    fine = [2 * (n - e) + e for n, e in zip(shape, ends, strict=True)]
    return operator.place(shape, scale_between(shape, fine, ends), batch)


def choose_reading(operator: ConvertedOperator, example: tuple[Any, ...], trace: Trace) -> frozenset[str]:
    """Which of "sums" and "indices" are to count as on the base grid; what was found becomes notes in the trace.

    Of random fields on the base grid and on one twice as fine, the outputs are nearly equal in the right reading.
    """
    counting = [call for call in trace.calls if call.counts]
    kinds = sorted({_reading_of(call) for call in counting})
    grid, x = operator.base_grid, example[0]
    waves = random_fields(grid, x.shape[1], max(1, min(intervals(grid)) // 8), len(x), 0)

    def run(place: Place | None) -> list[Tensor]:
        here = grid if place is None else refined(grid, 2 * intervals(grid)[0])
        (_, *more), named = resized(example, {}, here.shape, len(x))
        field = waves(here).to(x)
        module = operator.original()
        with untouched(module, x):
            output = module(field, *more, **named) if place is None else operator.run(place, field, tuple(more), named)
        return [y for y in tree_leaves(output) if isinstance(y, Tensor)]

    base, outputs = run(None), {}
    for chosen in [frozenset(), *map(frozenset, [kinds, *([k] for k in kinds if len(kinds) > 1)])]:
        operator.weighted = chosen
        try:
            outputs[chosen] = _on_base_grid(run(_twice_as_fine(operator, len(x))), base, operator)
        except Exception:  # indices that are no whole numbers, for instance
            outputs[chosen] = None
    apart = {c: _apart(y, base, base) for c, y in outputs.items()}
    plain = frozenset[str]()
    best = min(apart, key=lambda c: apart[c])
    same = all(_apart(y, outputs[plain], base) < AGREE for y in outputs.values())
    found = best if best and not same and CLEAR * apart[best] < apart[plain] else plain
    others = min(d for c, d in apart.items() if c)
    sure = CANCELS if same else DIVIDED if CLEAR * apart[plain] < others else UNSURE
    for call in counting:
        call.note = WEIGHTED if _reading_of(call) in found else sure if not found else DIVIDED
    return found


def _reading_of(call: Call) -> str:
    return "indices" if call.kind == "indices of points" else "sums"


def _on_base_grid(fine: Sequence[Tensor], base: Sequence[Tensor], operator: ConvertedOperator) -> list[Tensor]:
    """The values at the nodes of the base grid, where outputs are fields, and vectors."""
    dim = operator.base_grid.dim
    found = []
    for y, y0 in zip(fine, base, strict=True):
        rows = y
        for axis in range(2, y.ndim if y.ndim == dim + 2 else 0):
            steps = 1 if y.shape[axis] == y0.shape[axis] else 2
            rows = rows[(slice(None),) * axis + (slice(None, None, steps),)]
        found.append(rows)
    return found


def _apart(u: Sequence[Tensor] | None, v: Sequence[Tensor] | None, base: Sequence[Tensor]) -> float:
    """The largest ‖u - v‖ of outputs of one shape, relative to that on the base grid; infinite if one has failed."""
    if u is None or v is None:
        return math.inf
    pairs = [(a, b, c) for a, b, c in zip(u, v, base, strict=True) if a.shape == b.shape and a.is_floating_point()]
    ratios = [float((a - b).norm() / c.norm().clamp_min(torch.finfo(c.dtype).tiny)) for a, b, c in pairs]
    return max((math.inf if math.isnan(r) else r for r in ratios), default=0.0)
