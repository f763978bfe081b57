"""One solve: pieces between jumps, and the outputs and statuses that they leave."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pnde._checks import in_forward_mode
from pnde.solvers.adaptive import RUNNING, Control, Integrator, Span, Trace
from pnde.solvers.fixed import inside, march
from pnde.solvers.replay import replay
from pnde.solvers.solution import Solution, Status
from pnde.solvers.stepping import System, moved
from pnde.solvers.tableaus import Tableau


class Run:
    """One call of `solve`: pieces between jumps, and the outputs and statuses that they leave."""

    def __init__(self, system: System, u0: Tensor, t: Tensor, args: Sequence[Tensor]) -> None:
        self.sign = system.sign = 1 if bool(t[-1] > t[0]) else -1
        self.system, self.u0, self.t, self.args = system, u0, self.sign * t, list(args)
        batch, times, n = len(u0), len(t), u0.shape[-1]
        self.status = torch.full((batch,), RUNNING, device=u0.device)
        self.accepted, self.rejected = torch.zeros_like(self.status), torch.zeros_like(self.status)
        self.forward = in_forward_mode()
        self.columns = times + 1  # the last one for the state at the event
        self.event_time = u0.new_full((batch,), torch.nan)
        self.written: list[tuple[Tensor, Tensor]] = []
        self.out = u0.new_full((batch * self.columns, n), torch.nan)

    def solve(
        self,
        method: Tableau,
        control: Control,
        jumps: Iterable[float],
        reinitialise: Callable[..., Any] | None,
        retract_steps: bool,
    ) -> Solution:
        system, times = self.system, self.t.tolist()
        self.retract_steps = retract_steps and system.retracts
        self.write(torch.arange(len(self.u0), device=self.u0.device), torch.zeros_like(self.status), self.u0)
        if len(self.u0):
            system.watch = torch.is_grad_enabled() or self.forward
            system.wanted = self.forward or (system.watch and any(a.requires_grad for a in self.args))
            jumps = {self.sign * jump for jump in jumps}
            crossed = {jump for jump in jumps if times[0] < jump < times[-1]}
            nodes = sorted({times[-1], *crossed} if method.error else {*times[1:], *crossed})
            u, start, taken = self.u0, times[0], 0
            for stop in nodes:
                sides = inside(start, stop, start in jumps, stop in jumps, self.u0.dtype)
                rows = (self.status == RUNNING).nonzero()[:, 0]
                if not len(rows):
                    break
                if method.error:
                    u = self._adaptive(method, control, u, rows, Span(start, stop, *sides), stop in crossed)
                else:
                    taken += control.substeps
                    if taken > control.max_steps:
                        self.status[rows] = Status.MAX_STEPS
                        break
                    u = self._fixed(method, control.substeps, u, rows, (start, stop), sides)
                u, rows = self._going(u, rows)
                if stop in crossed and reinitialise is not None and len(rows):
                    found = reinitialise(u.new_full((len(u),), self.sign * stop), u, *[a[rows] for a in self.args])
                    u, rows = self._reached(*moved(found, u, "reinitialise"), rows)
                if stop in times and (not method.error or stop in crossed):
                    self.write(rows, torch.full_like(rows, times.index(stop)), u)
                start = stop
            self.status[self.status == RUNNING] = Status.SUCCESS
        return self._collect()

    def write(self, rows: Tensor, columns: Tensor, value: Tensor) -> None:
        """Take outputs; with gradients or tangents they are put together at the end."""
        where = rows * self.columns + columns % self.columns
        if value.requires_grad or self.forward:
            self.written.append((where, value))
        else:
            self.out[where] = value

    def _adaptive(self, method: Tableau, control: Control, u: Tensor, rows: Tensor, span: Span, jump: bool) -> Tensor:
        system, args = self.system, [a[rows] for a in self.args]
        system.wanted |= system.watch and u.requires_grad
        trace = Trace() if system.watch else None
        core = Integrator(
            system, method, control, retract_steps=self.retract_steps, events=system.has_event, trace=trace
        )
        first = int(torch.searchsorted(self.t, span.start, right=True))
        last = int(torch.searchsorted(self.t, span.stop, right=not jump))

        def write(row: Tensor, output: Tensor, value: Tensor) -> None:
            self.write(rows[row], torch.where(output < 0, -1, output + first), value)

        spent = self.accepted[rows] + self.rejected[rows]
        with forward_ad._set_fwd_grad_enabled(False) if self.forward else nullcontext():
            core.run(u.detach(), args, span, self.t[first:last].contiguous(), spent, write)
        self.status[rows] = torch.where(core.status == Status.SUCCESS, RUNNING, core.status)
        self.accepted[rows] += core.accepted
        self.rejected[rows] += core.rejected
        self.event_time[rows] = self.sign * core.event_time
        if trace is not None and system.wanted:
            return replay(system, method, u, args, span, trace, write, self.retract_steps)
        met = (core.status == Status.EVENT).nonzero()[:, 0]
        self.write(rows[met], torch.full_like(met, -1), core.event_u[met])
        return core.end

    def _fixed(
        self,
        method: Tableau,
        substeps: int,
        u: Tensor,
        rows: Tensor,
        span: tuple[float, float],
        sides: tuple[float, float],
    ) -> Tensor:
        args, status = [a[rows] for a in self.args], self.status[rows]
        u, self.status[rows] = march(self.system, method, u, status, args, span, sides, substeps, self.retract_steps)
        self.accepted[rows] += substeps
        return u

    def _going(self, u: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        going = self.status[rows] == RUNNING
        return (u, rows) if bool(going.all()) else (u[going], rows[going])

    def _reached(self, u: Tensor, converged: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        failed = torch.where(converged, Status.NONFINITE, Status.RETRACTION_FAILED)
        self.status[rows] = torch.where(converged & u.detach().isfinite().all(-1), RUNNING, failed)
        return self._going(u, rows)

    def _collect(self) -> Solution:
        batch, system = len(self.u0), self.system
        out = self.out
        if self.written:
            where, values = (torch.cat(part) for part in zip(*self.written))
            out = out.index_copy(0, where, values)
        out = out.view(batch, self.columns, self.u0.shape[1])
        if system.retracts and batch:
            out = self._retracted(out)
        u, event_u = out[:, :-1], out[:, -1]
        return Solution(
            t=self.sign * self.t,
            u=u,
            status=self.status,
            nfe=system.calls,
            n_accepted=self.accepted,
            n_rejected=self.rejected,
            event_time=self.event_time if system.has_event else None,
            event_u=event_u if system.has_event else None,
        )

    def _retracted(self, out: Tensor) -> Tensor:
        """All outputs but the first retracted, at once; NaN from a failure on."""
        t = torch.cat([self.t.expand(len(out), -1), (self.sign * self.event_time)[:, None]], dim=1)
        valid = out.detach().isfinite().all(-1)
        valid[:, 0] = False
        where = valid.flatten().nonzero()[:, 0]
        if not len(where):
            return out
        flat, rows = out.flatten(0, 1), where // self.columns
        state, converged = self.system.retract(t.flatten()[where], flat[where], [a[rows] for a in self.args])
        out = flat.index_copy(0, where, state).view_as(out)
        if bool(converged.all()):
            return out
        failed = torch.zeros_like(valid).flatten().index_put((where,), ~converged).view_as(valid)
        self.status[failed.any(1)] = Status.RETRACTION_FAILED
        self.event_time[failed.any(1)] = torch.nan
        return torch.where((failed.cumsum(1) > 0)[..., None], torch.nan, out)
