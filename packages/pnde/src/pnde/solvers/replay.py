"""Derivatives of an adaptive solution: its accepted steps taken again, under autograd."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pnde.solvers.adaptive import Span, Trace
from pnde.solvers.stepping import System, combine, dense_output
from pnde.solvers.tableaus import Tableau


def replay(
    system: System,
    tableau: Tableau,
    u: Tensor,
    args: Sequence[Tensor],
    span: Span,
    trace: Trace,
    write: Callable[[Tensor, Tensor, Tensor], None],
    retract_steps: bool,
) -> Tensor:
    """Take the steps in `trace` from `u`, write its outputs, and return the state of each row after its last step.

    Rejected steps are not in the graph, so that what is not finite there cannot reach a gradient. The sizes of steps
    are constants to autograd.
    """
    rows = len(u)
    row, number, t, h = (torch.cat(part) for part in zip(*trace.steps))
    if not len(row):
        return u
    counts = torch.bincount(row, minlength=rows)
    order = torch.argsort(counts, descending=True, stable=True)  # the rows that go on are then the first ones
    place = torch.empty_like(order)
    place[order] = torch.arange(rows, device=order.device)
    times, sizes = (x.new_zeros(int(counts.max()), rows).index_put((number, place[row]), x) for x in (t, h))
    going = (counts > torch.arange(len(times), device=u.device)[:, None]).sum(-1).tolist()
    outputs = _by_step(trace, len(times), place)

    u, args = u[order], [a[order] for a in args]
    c = u.new_tensor(tableau.c)[:, None]
    f = system.rhs(u.new_full((rows,), span.left), u, args)
    ends: list[Tensor] = []
    for step, active in enumerate(going):
        if active < len(u):
            ends.append(u[active:])
            u, f, args = u[:active], f[:active], [a[:active] for a in args]
        h, column = sizes[step, :active], sizes[step, :active, None]
        stage_times = torch.addcmul(times[step, :active], c, h).clamp(span.left, span.right)
        k, u1 = [f], u
        for i in range(1, tableau.stages):
            u1 = torch.addcmul(u, column, combine(k, tableau.columns[i]))
            k.append(system.rhs(stage_times[i], u1, args))
        at, output, theta = outputs[step]
        if len(at):
            write(order[at], output, dense_output(tableau, theta, h[at], u[at], [stage[at] for stage in k]))
        u, f = u1, k[-1]
        if retract_steps:
            u, _ = system.retract(stage_times[-1], u, args)
            f = system.rhs(stage_times[-1], u, args)
    ends.append(u)
    return torch.cat(ends[::-1])[place]


def _by_step(trace: Trace, steps: int, place: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(place of the row, output, θ) of the outputs in each step."""
    if not trace.outputs:
        none = place[:0]
        return [(none, none, none)] * steps
    row, number, output, theta = (torch.cat(part) for part in zip(*trace.outputs))
    order = torch.argsort(number, stable=True)
    lengths = torch.bincount(number, minlength=steps).tolist()
    parts = (place[row[order]].split(lengths), output[order].split(lengths), theta[order].split(lengths))
    return list(zip(*parts))
