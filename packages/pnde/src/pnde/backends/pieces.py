"""Solvers that know neither sides of jumps nor statuses are given the pieces between jumps, one by one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from pnde.backends.base import Backend, InitialValueProblem
from pnde.solvers import Solution, Status
from pnde.solvers.fixed import inside
from pnde.solvers.stepping import System, moved


@dataclass(frozen=True)
class Segment:
    """States `u` at the first of `times`, the outputs and the end of a piece; fields are evaluated inside `sides`.

    `budget` are the steps that each sample may still try, (rows,).
    """

    u: Tensor
    args: Sequence[Tensor]
    times: Tensor
    sides: tuple[float, float]
    budget: Tensor

    def rows(self, index: Tensor | slice) -> "Segment":
        """Some of the samples."""
        return replace(self, u=self.u[index], args=[a[index] for a in self.args], budget=self.budget[index])


class Piece(NamedTuple):
    """States (rows, time, n), NaN after the last valid one, and statuses and steps (rows,)."""

    u: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor


class Peer(Backend):
    """A backend that solves piece by piece."""

    def piece(self, problem: InitialValueProblem, system: System, segment: Segment) -> Piece:
        """The states at the times of a segment."""
        raise NotImplementedError

    def solve(self, problem: InitialValueProblem) -> Solution:
        p, t, system = problem, problem.t, System(problem.field)
        start, end = float(t[0]), float(t[-1])
        crossed = {x for x in p.jumps if min(start, end) < x < max(start, end)}
        nodes = sorted({start, *crossed, end}, reverse=end < start)
        status = torch.zeros(len(p.u0), dtype=torch.long, device=t.device)
        accepted, rejected = torch.zeros_like(status), torch.zeros_like(status)
        u, outputs = p.u0, [p.u0[:, None]]
        for start, stop in pairwise(nodes):
            times, written = _times(t, start, stop)
            left, right = sorted(inside(start, stop, start in p.jumps, stop in p.jumps, t.dtype))
            rows = (status == Status.SUCCESS).nonzero()[:, 0]
            found = u.new_full((len(u), len(times), u.shape[1]), torch.nan)
            if len(rows):
                budget = p.max_steps - (accepted + rejected)[rows]
                segment = Segment(u[rows], [a[rows] for a in p.args], times, (left, right), budget)
                piece = self.piece(p, system, segment)
                if stop in crossed:
                    piece = _reinitialised(p, piece, segment)
                status[rows] = piece.status
                accepted[rows] += piece.accepted
                rejected[rows] += piece.rejected
                found = found.index_copy(0, rows, piece.u)
            u = found[:, -1]
            outputs.append(found[:, 1 : 1 + written])
        return Solution(t, torch.cat(outputs, 1), status, system.calls, accepted, rejected)


def _times(t: Tensor, start: float, stop: float) -> tuple[Tensor, int]:
    """Start, outputs after it and stop, and the number of these outputs."""
    later = (t > start) & (t <= stop) if stop > start else (t < start) & (t >= stop)
    outputs = t[later]
    last = [] if len(outputs) and float(outputs[-1]) == stop else [stop]
    return torch.cat([t.new_tensor([start]), outputs, t.new_tensor(last)]), len(outputs)


def _reinitialised(problem: InitialValueProblem, piece: Piece, segment: Segment) -> Piece:
    """The piece with the state after the jump at its end."""
    going = (piece.status == Status.SUCCESS).nonzero()[:, 0]
    if problem.reinitialise is None or not len(going):
        return piece
    stop = segment.times[-1].repeat(len(going))
    before = piece.u[going, -1]
    found = problem.reinitialise(stop, before, *[a[going] for a in segment.args])
    after, converged = moved(found, before, "reinitialise")
    lost = torch.where(after.detach().isfinite().all(-1), int(Status.SUCCESS), int(Status.NONFINITE))
    lost = torch.where(converged, lost, int(Status.RETRACTION_FAILED))
    status = piece.status.index_copy(0, going, lost)
    end = piece.u[:, -1].index_copy(0, going, torch.where(converged[:, None], after, torch.nan))
    return piece._replace(u=torch.cat([piece.u[:, :-1], end[:, None]], 1), status=status)
