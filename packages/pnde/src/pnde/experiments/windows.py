"""Trajectories in windows, and the loss on them."""

from typing import Any

from torch import Tensor

from pnde.constraints import Constraint


def windows(u: Tensor, length: int) -> Tensor:
    """Trajectories (trajectory, time, n) cut into windows (window, length + 1, n) that share their end points."""
    return u.unfold(1, length + 1, length).flatten(0, 1).mT.contiguous()


def window_starts(t: Tensor, trajectories: int, length: int) -> Tensor:
    """Time at which each of these windows starts."""
    starts = t[: len(t) - length : length]
    return starts.expand(trajectories, -1).flatten()


class WindowLoss:
    """Mean squared error of windows, each component in units of `std`, without the given first state.

    `penalty` weights the mean of ‖g - target‖² of `constraint`. Windows whose batch has `start` begin at that time.
    With `only_solved`, windows that the model leaves (of a positive state, say) or cannot solve do not count.
    """

    def __init__(
        self,
        t: Tensor,
        std: Tensor,
        penalty: float = 0.0,
        constraint: Constraint | None = None,
        only_solved: bool = False,
    ) -> None:
        self.t, self.std, self.penalty, self.constraint, self.only_solved = t, std, penalty, constraint, only_solved

    def __call__(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        u, t, start = batch["u"], self.t.to(batch["u"]), batch.get("start")
        predicted = _predict(model, u, t, start)
        if self.only_solved:
            solved = predicted.detach().isfinite().all(-1).all(-1)
            if bool(solved.any()) and not bool(solved.all()):  # anew, as NaN times zero in a gradient is NaN
                u, start = u[solved], None if start is None else start[solved]
                predicted = _predict(model, u, t, start)
        loss = ((predicted - u)[:, 1:] / self.std.to(predicted)).square().mean()
        if self.penalty and self.constraint is not None:
            times = t.expand(u.shape[:-1]) if start is None else start[:, None] + t
            g = self.constraint(times, predicted) - self.constraint.target(times[:, 0], u[:, 0])[:, None]
            loss = loss + self.penalty * g.square().sum(-1).mean()
        return loss

    def of_each(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """The mean squared error of each window alone, not finite for those that the model cannot solve."""
        predicted = _predict(model, batch["u"], self.t.to(batch["u"]), batch.get("start"))
        return ((predicted - batch["u"])[:, 1:] / self.std.to(predicted)).square().mean((1, 2))


def _predict(model: Any, u: Tensor, t: Tensor, start: Tensor | None) -> Tensor:
    return model(u[:, 0], t) if start is None else model(u[:, 0], t, None, start)
