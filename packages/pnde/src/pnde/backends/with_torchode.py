"""The solvers of torchode, if it is installed."""

from typing import Any

import torch

from pnde.backends.base import InitialValueProblem
from pnde.backends.pieces import Peer, Piece, Segment
from pnde.solvers import Status
from pnde.solvers.stepping import System


class Torchode(Peer):
    """`torchode`: each sample has its own steps, but is evaluated until the last one ends.

    A sample that fails ends the others there. Here these are then solved again without it.
    """

    methods = ("dopri5", "tsit5", "heun")

    def piece(self, problem: InitialValueProblem, system: System, segment: Segment) -> Piece:
        torchode = imported()
        codes = {
            torchode.status_codes.SUCCESS: Status.SUCCESS,
            torchode.status_codes.REACHED_DT_MIN: Status.STEP_UNDERFLOW,
            torchode.status_codes.REACHED_MAX_STEPS: Status.MAX_STEPS,
            torchode.status_codes.INFINITE_NORM: Status.NONFINITE,
            torchode.status_codes.GENERAL_ERROR: Status.NONFINITE,
        }
        u, times = segment.u, segment.times
        status = torch.zeros(len(u), dtype=torch.long, device=u.device)
        accepted, rejected = torch.zeros_like(status), torch.zeros_like(status)
        states = u.new_full((len(u), len(times), u.shape[1]), torch.nan)
        rows = torch.arange(len(u), device=u.device)
        while len(rows):
            found = self._attempt(torchode, problem, system, segment.rows(rows))
            reached, steps, kept = (found.stats[key] for key in ("n_initialized", "n_steps", "n_accepted"))
            states_of_rows = torch.where(
                (torch.arange(len(times), device=u.device) < reached[:, None])[..., None], found.ys, torch.nan
            )
            finished = reached == len(times)
            # what has met the budget of another sample alone is solved again
            may_go_on = (found.status == torchode.status_codes.REACHED_MAX_STEPS) & (steps < segment.budget[rows])
            over = finished | ((found.status != 0) & ~may_go_on)
            over |= ~over.any()
            code = torch.tensor([codes[c] for c in found.status.tolist()], device=u.device)
            code = torch.where(finished, int(Status.SUCCESS), code)
            ended = rows[over]
            states = states.index_copy(0, ended, states_of_rows[over])
            status[ended], accepted[ended], rejected[ended] = code[over], kept[over], (steps - kept)[over]
            rows = rows[~over]
        return Piece(states, status, accepted, rejected)

    def _attempt(self, torchode: Any, problem: InitialValueProblem, system: System, segment: Segment) -> Any:
        def field(t: Any, u: Any) -> Any:
            return system.checked_rhs(t.clamp(*segment.sides), u, segment.args)

        term = torchode.ODETerm(field)
        method = {"dopri5": torchode.Dopri5, "tsit5": torchode.Tsit5, "heun": torchode.Heun}[problem.method](term)
        control = torchode.IntegralController(problem.atol, problem.rtol, term=term)
        solver = torchode.AutoDiffAdjoint(
            method, control, max_steps=int(segment.budget.min()), backprop_through_step_size_control=False
        )
        times = segment.times.expand(len(segment.u), -1)
        return solver.solve(torchode.InitialValueProblem(segment.u, t_eval=times))


def imported() -> Any:
    """The package. ImportError if it is not installed."""
    try:
        import torchode  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError("backend='torchode' needs the package torchode: pip install torchode") from error
    return torchode
