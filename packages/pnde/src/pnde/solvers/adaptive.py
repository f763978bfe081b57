"""Adaptive Runge–Kutta steps, each sample with its own step size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pnde.solvers.solution import Status
from pnde.solvers.stepping import System, combine, dense_output, first_step
from pnde.solvers.tableaus import Tableau

RUNNING = -1
CHUNK = 8  # steps between two looks at outputs, events and finished samples


@dataclass(frozen=True)
class Control:
    """Tolerances and limits of the step sizes. `first` is None for Hairer's rule; `substeps` are fixed steps."""

    rtol: float
    atol: float
    first: float | int | None
    max_steps: int
    substeps: int = 1


@dataclass(frozen=True)
class Span:
    """A time interval without jumps inside. Fields are evaluated in [left, right], which leave out an end that is a
    jump, so that each piece sees its own side of it."""

    start: float
    stop: float
    left: float
    right: float


@dataclass
class Trace:
    """Accepted steps and outputs of the samples, as (row, number of the step in the span, …), for a second pass."""

    steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)  # row, number, t, h
    outputs: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)  # row, number, output, θ


class Integrator:
    """Integrates the rows of `u` over a span, and collects statistics, outputs and the states at its end.

    All samples take one step an iteration, each of its own size, and keep or discard it on their own: nothing is
    reduced over the batch. Every `CHUNK` iterations, outputs and events inside the steps are evaluated at once and
    samples that have ended leave the working set, so that the cost falls with the number of samples that remain.
    Steps are sized by Hairer's proportional–integral control (Solving ODEs II, IV.2) on the root mean square of
    error/(atol + rtol·max(|u|, |u₁|)).
    """

    def __init__(
        self,
        system: System,
        tableau: Tableau,
        control: Control,
        *,
        retract_steps: bool = False,
        events: bool = False,
        trace: Trace | None = None,
        on_steps: Callable[..., None] | None = None,
    ) -> None:
        self.system, self.tableau, self.control = system, tableau, control
        self.retract_steps, self.events, self.trace, self.on_steps = retract_steps, events, trace, on_steps

    @torch.no_grad()
    def run(
        self,
        u: Tensor,
        args: Sequence[Tensor],
        span: Span,
        outputs: Tensor,
        spent: Tensor,
        write: Callable[[Tensor, Tensor, Tensor], None] | None,
    ) -> None:
        """Integrate; results are in `end`, `status`, `accepted`, `rejected`, `event_time`, `event_u`.

        `outputs` are sorted times in the span, `spent` the steps that each row has tried before, `write(row, output,
        value)` takes the outputs.
        """
        self.span, self.outputs, self.write, self.iteration = span, outputs, write, 0
        self.end, self.status = u.clone(), torch.full_like(spent, RUNNING)
        self.accepted, self.rejected = torch.zeros_like(spent), torch.zeros_like(spent)
        self.event_time, self.event_u = u.new_full((len(u),), torch.nan), torch.full_like(u, torch.nan)
        self.index, self.args = torch.arange(len(u), device=u.device), args
        self.allowed = self.control.max_steps - spent
        self.one, self.ten = u.new_tensor(1.0), u.new_tensor(10.0)
        self.c = u.new_tensor(self.tableau.c)[:, None]
        self.smallest = 4 * torch.finfo(u.dtype).eps * max(abs(span.start), abs(span.stop))
        self._allocate(u)
        self._begin(u)
        while len(self.index):
            fewest = int(self.allowed.min()) - self.iteration
            count = 0
            while count < min(CHUNK, fewest) and (not count or bool(self.live.any())):
                self._step(count)
                count += 1
            self._flush(count)

    def _begin(self, u: Tensor) -> None:
        span, control = self.span, self.control
        t = u.new_full((len(u),), span.start)
        f = self.system.checked_rhs(t.clamp(span.left, span.right), u, self.args)
        self.T[0], self.U[0], self.K[0][0] = t, u, f
        if control.first is None:
            order = self.tableau.error_order
            inner = t.clamp(span.left, span.right)
            h = first_step(self.system, order, inner, u, f, self.args, control.rtol, control.atol, span.right)
        else:
            h = torch.full_like(t, control.first)
        self.h = h.clamp(max=span.stop - span.start)
        self.live = torch.ones_like(self.index, dtype=torch.bool)
        self.limit = torch.full_like(t, 10.0)  # of the growth of a step
        self.log_error = torch.full_like(t, math.log(1e-4))  # of the last accepted step
        if self.events:
            self.sign = self.system.event(t, u, self.args).sign()

    def _allocate(self, u: Tensor) -> None:
        rows, kind = len(u), {"dtype": torch.bool, "device": u.device}
        self.T, self.H = u.new_empty(CHUNK + 1, rows), u.new_empty(CHUNK, rows)
        self.U = u.new_empty(CHUNK + 1, *u.shape)
        self.K = [u.new_empty(CHUNK + (i == 0), *u.shape) for i in range(self.tableau.stages)]
        self.kept, self.tried, self.met = (torch.zeros(CHUNK, rows, **kind) for _ in range(3))
        self.lost = torch.zeros(rows, **kind)
        self.work = torch.empty_like(u)

    def _step(self, s: int) -> None:
        system, tableau, control, span = self.system, self.tableau, self.control, self.span
        t, u = self.T[s], self.U[s]
        last = torch.add(t, self.h, alpha=1.01) >= span.stop
        h = torch.where(last, span.stop - t, self.h, out=self.H[s])
        times = torch.addcmul(t, self.c, h).clamp_(span.left, span.right)
        column = h[:, None]
        k = [stage[s] for stage in self.K]
        u1 = u
        for i in range(1, tableau.stages):
            u1 = torch.addcmul(u, column, combine(k, tableau.columns[i], self.work))
            k[i].copy_(system.rhs(times[i], u1, self.args))

        scale = torch.maximum(u.abs(), u1.abs()).mul_(control.rtol).add_(control.atol)
        ratio = combine(k, tableau.error_columns, self.work).div_(scale)
        error = torch.linalg.vector_norm(ratio, dim=-1).mul_(h).div_(u.shape[-1] ** 0.5)
        error = error.nan_to_num_(torch.inf, torch.inf)
        self.error = error
        keep = (error <= 1) & self.live
        f1 = k[-1]
        if self.retract_steps:
            u1, converged = system.retract(times[-1], torch.where(keep[:, None], u1, u), self.args)
            f1 = system.rhs(times[-1], u1, self.args)
            lost = keep & ~converged  # tried again with a smaller step
            keep = keep & converged
            error = self.error = torch.where(lost, 1e10, error)
            self.lost = torch.where(self.live, lost, self.lost)
        self.kept[s], self.tried[s] = keep, self.live
        kept = keep[:, None]
        torch.where(keep, torch.where(last, span.stop, t + h), t, out=self.T[s + 1])
        torch.where(kept, u1, u, out=self.U[s + 1])
        torch.where(kept, f1, k[0], out=self.K[0][s + 1])

        # h ← 0.9 h err^(-1/q + 3β/4) err_previous^β with β = 0.2/q
        q = tableau.error_order
        log_error = error.clamp(1e-10, 1e10).log_()
        factor = torch.add(self.log_error * (0.2 / q) + math.log(0.9), log_error, alpha=-0.85 / q).exp_()
        new = torch.minimum(factor.clamp_(min=0.2), self.limit).mul_(h)
        self.log_error = torch.where(keep, log_error.clamp(min=math.log(1e-4)), self.log_error)
        self.limit = torch.where(keep, self.ten, self.one)
        ended = torch.where(keep, last, (new < self.smallest) & ~keep)
        if self.events:
            sign = system.event(self.T[s + 1], self.U[s + 1], self.args).sign()
            self.met[s] = keep & (self.sign != 0) & (sign != self.sign)
            self.sign = torch.where(keep & (self.sign == 0), sign, self.sign)
            ended |= self.met[s]
        self.live = self.live & ~ended
        # a sample that has ended keeps its step: its last attempt is then repeated, to be looked at in _flush
        self.h = torch.where(self.live, new, self.h)
        self.iteration += 1

    def _flush(self, count: int) -> None:
        """Evaluate what lies inside the last `count` steps, and let go of the samples that have ended."""
        kept, tried = self.kept[:count], self.tried[:count]
        if self.events:
            self._locate(count)
        self._emit(count)
        taken = kept.sum(0)
        self.accepted[self.index] += taken
        self.rejected[self.index] += tried.sum(0) - taken
        t, u, f = self.T[count], self.U[count], self.K[0][count]
        over = ~self.live
        status = torch.full_like(self.index, RUNNING)
        status = torch.where(self.live & (self.iteration >= self.allowed), Status.MAX_STEPS, status)
        if count:
            broken = torch.where(self.error.isfinite(), Status.STEP_UNDERFLOW, Status.NONFINITE)
            status = torch.where(over, torch.where(t >= self.span.stop, Status.SUCCESS, broken), status)
        status = torch.where((status == Status.STEP_UNDERFLOW) & self.lost, Status.RETRACTION_FAILED, status)
        if self.events:
            status = torch.where(self.met[:count].any(0), Status.EVENT, status)
        over = status != RUNNING
        self.status[self.index], self.end[self.index] = status, u
        keep = (~over).nonzero()[:, 0]
        if len(keep) < len(over):
            self.index, self.allowed, self.live = self.index[keep], self.allowed[keep], self.live[keep]
            self.h, self.limit, self.log_error = self.h[keep], self.limit[keep], self.log_error[keep]
            self.args = [a[keep] for a in self.args]
            if self.events:
                self.sign = self.sign[keep]
            lost = self.lost[keep]
            t, u, f = t[keep], u[keep], f[keep]
            self._allocate(u)
            self.lost = lost
        self.T[0], self.U[0], self.K[0][0] = t, u, f

    def _rows(self, x: Tensor, flat: Tensor) -> Tensor:
        """Rows of a buffer (chunk, rows, …), given as step·rows + row."""
        return x.flatten(0, 1).index_select(0, flat)

    def _locate(self, count: int) -> None:
        """Bisect the dense output for the events, and cut the steps there."""
        flat = self.met[:count].flatten().nonzero()[:, 0]
        if not len(flat):
            return
        rows = flat % len(self.index)
        t, h, u = self._rows(self.T, flat), self._rows(self.H, flat), self._rows(self.U, flat)
        k, args = [self._rows(stage, flat) for stage in self.K], [a[rows] for a in self.args]
        before, low, high = self.sign[rows], torch.zeros_like(t), torch.ones_like(t)
        for _ in range(-round(math.log2(torch.finfo(t.dtype).eps))):
            middle = (low + high) / 2
            state = dense_output(self.tableau, middle, h, u, k)
            same = self.system.event(t + middle * h, state, args).sign() == before
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        met = self.T.new_full((len(self.index),), torch.inf)
        met[rows] = t + high * h
        self.T[: count + 1] = torch.minimum(self.T[: count + 1], met)
        where = self.index[rows]
        self.event_time[where] = t + high * h
        self.event_u[where] = dense_output(self.tableau, high, h, u, k)
        if self.trace is not None:
            number = self.accepted[where] + self.kept[:count].sum(0)[rows] - 1
            self.trace.outputs.append((where, number, torch.full_like(where, -1), high))

    def _emit(self, count: int) -> None:
        """Write the outputs that lie in the last steps; hand on the accepted steps."""
        kept, rows = self.kept[:count], len(self.index)
        number = (self.accepted[self.index] + kept.cumsum(0) - 1).flatten() if self.trace is not None else None
        if self.trace is not None or self.on_steps is not None:
            flat = kept.flatten().nonzero()[:, 0]
            where, t, h = self.index[flat % rows], self._rows(self.T, flat), self._rows(self.H, flat)
            if self.on_steps is not None:
                self.on_steps(where, t, h, self._rows(self.U, flat), [self._rows(stage, flat) for stage in self.K])
            if self.trace is not None and number is not None:
                self.trace.steps.append((where, number[flat], t, h))
        if self.write is None or not len(self.outputs) or not count:
            return
        passed = torch.searchsorted(self.outputs, self.T[: count + 1].contiguous(), right=True)
        counts = (passed[1:] - passed[:-1]).clamp_(min=0).flatten()
        flat = torch.repeat_interleave(counts)
        if not len(flat):
            return
        offset = counts.cumsum(0) - counts
        output = passed[:-1].flatten()[flat] + torch.arange(len(flat), device=flat.device) - offset[flat]
        t, h, u = self._rows(self.T, flat), self._rows(self.H, flat), self._rows(self.U, flat)
        theta = (self.outputs[output] - t) / h
        where = self.index[flat % rows]
        if self.trace is not None and number is not None:
            self.trace.outputs.append((where, number[flat], output, theta))
        if self.trace is None or not self.system.wanted:
            self.write(where, output, dense_output(self.tableau, theta, h, u, [self._rows(k, flat) for k in self.K]))
