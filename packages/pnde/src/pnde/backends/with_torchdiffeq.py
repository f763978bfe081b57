"""The solvers of torchdiffeq."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from pnde.backends.base import InitialValueProblem
from pnde.backends.pieces import Peer, Piece, Segment
from pnde.solvers import Status
from pnde.solvers.adjoint import check_reverse_mode, differentiable_once
from pnde.solvers.stepping import System


class Torchdiffeq(Peer):
    """`torchdiffeq`: one step size for the batch, controlled by the error's root mean square over all samples.

    A sample that fails ends the whole batch there. Here the batch is then halved until it stands alone.
    """

    adjoint_methods = ("dopri5", "dopri8", "bosh3", "adaptive_heun", "fehlberg2")
    methods = (*adjoint_methods, "rk4", "midpoint", "euler")

    def piece(self, problem: InitialValueProblem, system: System, segment: Segment) -> Piece:
        found = self._attempt(problem, system, segment)
        if bool((found.status == Status.SUCCESS).all()):
            return found
        if len(segment.u) == 1:
            return found if len(segment.times) == 2 else self._one_by_one(problem, system, segment)
        half = len(segment.u) // 2
        parts = [self.piece(problem, system, segment.rows(part)) for part in (slice(half), slice(half, None))]
        return Piece(*(torch.cat(x) for x in zip(*parts, strict=True)))

    def _one_by_one(self, problem: InitialValueProblem, system: System, segment: Segment) -> Piece:
        """The states of a sample that fails, up to the last output before that."""
        u, states, accepted, rejected = segment.u, [segment.u], 0, 0
        status = torch.zeros(1, dtype=torch.long, device=u.device)
        for pair in segment.times.unfold(0, 2, 1):
            budget = segment.budget - accepted - rejected
            found = self._attempt(problem, system, replace(segment, u=states[-1], times=pair, budget=budget))
            status, accepted, rejected = found.status, accepted + int(found.accepted), rejected + int(found.rejected)
            if int(status) != Status.SUCCESS:
                break
            states.append(found.u[:, 1])
        lost = [torch.full_like(u, torch.nan)] * (len(segment.times) - len(states))
        steps = (torch.full_like(status, accepted), torch.full_like(status, rejected))
        return Piece(torch.stack([*states, *lost], 1), status, *steps)

    def _attempt(self, problem: InitialValueProblem, system: System, segment: Segment) -> Piece:
        p, u, times = problem, segment.u, segment.times
        steps = _Steps(system, segment, int(segment.budget.min()), p.method in self.adjoint_methods)
        status, states = Status.SUCCESS, [u]
        try:
            # outputs of its dopri8 between steps are inaccurate, and of several `step_t` it can miss one
            for part in times.unfold(0, 2, 1) if p.method == "dopri8" else [times]:
                states += self._solve(p, steps, states[-1], part)[1:].unbind()
        except _SpentError:
            status = Status.MAX_STEPS
        except AssertionError as error:
            if "underflow in dt" not in str(error) and "non-finite" not in str(error):
                raise
            status = Status.STEP_UNDERFLOW if steps.finite() and "underflow" in str(error) else Status.NONFINITE
        lost = [torch.full_like(u, torch.nan)] * (len(times) - len(states))
        found = torch.stack([*states, *lost], 1)
        if status == Status.SUCCESS and not bool(found.detach().isfinite().all()):
            status = Status.NONFINITE
        numbers = (int(status), steps.accepted, steps.tried - steps.accepted)
        return Piece(found, *(torch.full((len(u),), x, device=u.device) for x in numbers))

    def _solve(self, problem: InitialValueProblem, steps: "_Steps", u: Tensor, times: Tensor) -> Tensor:
        p = problem
        if p.method in self.adjoint_methods:
            check_reverse_mode(f"torchdiffeq's {p.method}", "backend='native' with adjoint=False")
        options: dict[str, Any] = {"rtol": p.rtol, "atol": p.atol, "method": p.method}
        if p.method == "dopri8":
            options["options"] = {"step_t": times[1:]}
        if not p.adjoint:
            return odeint(steps, u, times, **options)  # type: ignore[return-value]
        sought = tuple(x for x in (*p.params, *steps.segment.args) if x.requires_grad)
        found: Any = odeint_adjoint(steps, u, times, adjoint_params=sought, **options)
        return differentiable_once(found)


class _SpentError(Exception):
    """All steps are taken."""


class _Steps(nn.Module):
    """The field as torchdiffeq calls it, which counts steps and ends them (its own limit is per output time)."""

    def __init__(self, system: System, segment: Segment, limit: int, adaptive: bool) -> None:
        super().__init__()
        self.segment, self._system, self._limit, self._adaptive = segment, system, limit, adaptive
        self._last: Tensor | None = None
        self.tried = self.accepted = 0
        if adaptive:
            self.callback_accept_step = self._accept

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        f = self._system.checked_rhs(t.clamp(*self.segment.sides).repeat(len(u)), u, self.segment.args)
        self._last = f.detach()
        return f

    def callback_step(self, t: Tensor, u: Tensor, dt: Tensor) -> None:
        if self.tried >= self._limit:
            raise _SpentError
        self.tried += 1
        self.accepted += not self._adaptive

    def _accept(self, t: Tensor, u: Tensor, dt: Tensor) -> None:
        self.accepted += 1

    def finite(self) -> bool:
        """Whether the field's last value was."""
        return self._last is None or bool(self._last.isfinite().all())
