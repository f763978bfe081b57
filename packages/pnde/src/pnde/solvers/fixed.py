"""Runge–Kutta steps of fixed size, the same for all samples."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pnde.solvers.adaptive import RUNNING
from pnde.solvers.solution import Status
from pnde.solvers.stepping import System, combine
from pnde.solvers.tableaus import Tableau


def march(
    system: System,
    tableau: Tableau,
    u: Tensor,
    status: Tensor,
    args: Sequence[Tensor],
    span: tuple[float, float],
    sides: tuple[float, float],
    substeps: int,
    retract_steps: bool,
) -> tuple[Tensor, Tensor]:
    """`substeps` equal steps over a span, and the statuses after it; fields are evaluated inside `sides`."""
    start, stop = span
    h = (stop - start) / substeps
    weights = tuple((j, weight) for j, weight in enumerate(tableau.b) if weight)
    for step in range(substeps):
        t, k, state = start + step * h, [], u
        for i, c in enumerate(tableau.c):
            if i:
                state = u + h * combine(k, tableau.columns[i])
            time = min(max(t + c * h, sides[0]), sides[1])
            k.append(system.checked_rhs(u.new_full((len(u),), time), state, args))
        u = u + h * combine(k, weights)
        if retract_steps:
            time = u.new_full((len(u),), stop if step == substeps - 1 else t + h)
            going = ((status == RUNNING) & u.detach().isfinite().all(-1)).nonzero()[:, 0]
            state, converged = system.retract(time[going], u[going], [a[going] for a in args])
            u = u.index_copy(0, going, state)
            status = status.index_put((going[~converged],), status.new_tensor(Status.RETRACTION_FAILED))
    lost = (status == RUNNING) & ~u.detach().isfinite().all(-1)
    return u, torch.where(lost, Status.NONFINITE, status)


def inside(start: float, stop: float, jump_left: bool, jump_right: bool, dtype: torch.dtype) -> tuple[float, float]:
    """The ends of a span, moved to the next number inside it where they are jumps."""
    left, right = torch.tensor([start, stop], dtype=dtype)
    if jump_left:
        start = float(torch.nextafter(left, right))
    if jump_right:
        stop = float(torch.nextafter(right, left))
    return start, stop
