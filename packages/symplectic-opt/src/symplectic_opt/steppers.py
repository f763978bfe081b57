"""One move of each method, for a single point (d,) with numbers, or for cells (cell, d) with a tensor of numbers each.

Every method but the Runge-Kutta one asks for one gradient a move. `points` are where gradients are taken: for NAG the
extrapolated ones.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from symplectic_opt._elementary import exp, where
from symplectic_opt.baselines import step_momentum, step_nag
from symplectic_opt.bregman import BregmanSystem
from symplectic_opt.clocks import Adaptive
from symplectic_opt.descent import Descent, Restart

__all__ = ["BregmanStepper", "MomentumStepper", "NAGStepper", "RungeKuttaStepper", "Stepper"]

Evaluate = Callable[[Tensor], tuple[Any, Tensor]]


class Stepper:
    """A method between two moves."""

    def start(self, x: Tensor, value: Any, gradient: Tensor, evaluate: Evaluate) -> Tensor:
        """The point after the first move."""
        raise NotImplementedError

    def next(self, x: Tensor, value: Any, gradient: Tensor, evaluate: Evaluate) -> Tensor:
        """The point after a further move."""
        raise NotImplementedError

    def record(self) -> dict[str, Any]:
        """Numbers of the last move."""
        return {}

    def select(self, kept: Tensor) -> None:
        """Forget all other cells."""
        for name, entry in vars(self).items():
            setattr(self, name, _select(entry, kept))


class BregmanStepper(Stepper):
    """SLC, HTVI or SV as a heavy ball with restarts and temporal looping."""

    def __init__(self, descent: Descent, h: Any) -> None:
        self.descent, self.h = descent, h

    def start(self, x: Tensor, value: Any, gradient: Tensor, evaluate: Evaluate) -> Tensor:
        self.state, self.last = self.descent.first(self.h, _norm(gradient), value)
        self.delta = _times(-exp(self.last.log_step), gradient)
        return x + self.delta

    def next(self, x: Tensor, value: Any, gradient: Tensor, evaluate: Evaluate) -> Tensor:
        slope, norm, speed = _dot(gradient, self.delta), _norm(gradient), _norm(self.delta)
        self.state, self.last = self.descent.next(self.state, self.h, slope, norm, speed, value)
        self.delta = _times(self.last.mu, self.delta) - _times(exp(self.last.log_step), gradient)
        return x + self.delta

    def record(self) -> dict[str, Any]:
        return {
            "t": self.state.t,
            "s": exp(self.last.log_step),
            "mu": self.last.mu,
            "restarts": self.state.restarts,
            "loops": self.state.loops,
        }


class RungeKuttaStepper(Stepper):
    """The classical Runge-Kutta method on ẍ + (γ̇ - α̇)ẋ + e^(2α+β)∇f = 0: four gradients a move."""

    def __init__(self, system: BregmanSystem, h: Any, t0: float) -> None:
        self.system, self.h, self.t = system, h, t0 + 0 * h

    def start(self, x: Tensor, value: Any, gradient: Tensor, evaluate: Evaluate) -> Tensor:
        self.v = torch.zeros_like(x)
        return self.next(x, value, gradient, evaluate)

    def next(self, x: Tensor, value: Any, gradient: Tensor, evaluate: Evaluate) -> Tensor:
        h = self.h
        k1 = self._rates(self.t, self.v, gradient)
        stages = [k1]
        for part in (0.5, 0.5, 1.0):
            dx, dv, dt = stages[-1]
            at, v = x + _times(part * h, dx), self.v + _times(part * h, dv)
            stages.append(self._rates(self.t + part * h * dt, v, evaluate(at)[1]))
        mean = [
            [_times(h / 6, k) if isinstance(k, Tensor) and k.ndim == x.ndim else h / 6 * k for k in stage]
            for stage in zip(*stages, strict=True)
        ]
        dx, dv, dt = (a + 2 * b + 2 * c + d for a, b, c, d in mean)
        self.v, self.t = self.v + dv, self.t + dt
        return x + dx

    def _rates(self, t: Any, v: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Any]:
        system, rate = self.system, exp(self.system.log_time_rate(t))
        force = exp(2 * system.alpha(t) + system.beta(t))
        return _times(rate, v), _times(-rate * system.damping(t), v) - _times(rate * force, gradient), rate

    def record(self) -> dict[str, Any]:
        return {"t": self.t}


class NAGStepper(Stepper):
    """Nesterov's accelerated gradient, y_(k+1) = x_(k+1) + k/(k+3) (x_(k+1) - x_k), x_(k+1) = y_k - h ∇f(y_k).

    `restart` sets k to zero: "gradient" where ∇f(y_k)ᵀ(x_(k+1) - x_k) > 0, "function" where f(y) grew, "velocity" where
    |x_(k+1) - x_k| became smaller, a number N every N moves (O'Donoghue & Candès; Su, Boyd & Candès).
    """

    def __init__(self, h: Any, restart: Restart) -> None:
        self.h, self.restart = h, restart

    def start(self, x: Tensor, value: Any, gradient: Tensor, evaluate: Evaluate) -> Tensor:
        self.x, self.moves, self.restarts, self.value = x, 0 * self.h, 0 * self.h, value
        self.speed = 0 * self.h
        return self.next(x, value, gradient, evaluate)

    def next(self, x: Tensor, value: Any, gradient: Tensor, evaluate: Evaluate) -> Tensor:
        step = x - _times(self.h, gradient) - self.x
        speed = _norm(step)
        if self.restart == "gradient":
            reset = _dot(gradient, step) > 0
        elif self.restart == "function":
            reset = value > self.value
        elif self.restart == "velocity":
            reset = (speed < self.speed) & (self.moves >= 2)
        else:
            reset = self.moves >= (float("inf") if self.restart is None else self.restart)
        k = where(reset, 0.0, self.moves)
        self.moves, self.restarts, self.speed, self.value = k + 1, self.restarts + reset, speed, value
        self.x, point, _ = step_nag(self.x, x, _column(k, x), _column(self.h, x), lambda _: gradient)
        return point

    def record(self) -> dict[str, Any]:
        return {"restarts": self.restarts}


class MomentumStepper(Stepper):
    """Classical momentum, Δ ← μ Δ - h ∇f."""

    def __init__(self, h: Any, mu: float = 0.9) -> None:
        self.h, self.mu = h, mu

    def start(self, x: Tensor, value: Any, gradient: Tensor, evaluate: Evaluate) -> Tensor:
        self.delta = torch.zeros_like(x)
        return self.next(x, value, gradient, evaluate)

    def next(self, x: Tensor, value: Any, gradient: Tensor, evaluate: Evaluate) -> Tensor:
        point, self.delta = step_momentum(x, self.delta, _column(self.h, x), self.mu, lambda _: gradient)
        return point


def _dot(a: Tensor, b: Tensor) -> Any:
    """Scalar products in float64: of one point a number, of cells a tensor."""
    products = (a.double() * b.double()).sum(-1)
    return float(products) if a.ndim == 1 else products


def _norm(a: Tensor) -> Any:
    return _dot(a, a) ** 0.5


def _column(factor: Any, x: Tensor) -> Any:
    return factor[:, None].to(x.dtype) if isinstance(factor, Tensor) else factor


def _times(factor: Any, x: Tensor) -> Tensor:
    return _column(factor, x) * x


def _select(entry: Any, kept: Tensor) -> Any:
    """The cells that are kept of all tensors in a stepper's parts."""
    if isinstance(entry, Tensor):
        return entry[kept] if entry.ndim else entry
    if isinstance(entry, Adaptive):
        return Adaptive(_select(entry.system, kept), _select(entry.clock, kept))
    if is_dataclass(entry) and not isinstance(entry, type):
        return replace(entry, **{field.name: _select(getattr(entry, field.name), kept) for field in fields(entry)})
    if isinstance(entry, tuple) and hasattr(entry, "_fields"):
        return type(entry)(*(_select(x, kept) for x in entry))
    return entry
