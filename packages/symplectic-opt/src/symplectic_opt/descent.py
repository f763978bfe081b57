"""Momentum restarts and temporal looping around a heavy ball: SLC-RTL and its variants (arXiv 2207.11460).

Everything here is a number per run, or an array or tensor of one per cell: positions and gradients enter by their
scalar products alone, so that a driver, a sweep and a torch optimizer take the same decisions.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from sciml.errors import ConfigError

from symplectic_opt._elementary import exp, log, maximum, where
from symplectic_opt.heavy_ball import LOOP_TESTS, HeavyBall, LoopTest

__all__ = ["Clockwork", "Descent", "Move", "Order", "Restart"]

Restart = Literal["gradient", "function", "velocity"] | int | None
Order = Literal["canonical", "bravo"]


class Clockwork(NamedTuple):
    """What is remembered between two moves."""

    t: Any  # of the last kick; in the order "bravo" of the next
    h: Any  # the last step
    log_amplitude: Any
    moves: Any  # since the start or the last restart
    speed: Any  # |Δ| of the move before the last
    value: Any  # f at the last point
    restarts: Any
    loops: Any


class Move(NamedTuple):
    """Δ ← μ Δ - s ∇f, with μ and log s."""

    mu: Any
    log_step: Any


@dataclass(frozen=True)
class Descent:
    """When to forget the momentum and when to set the clock back.

    `restart` at the new gradient G and the displacement Δ that led there: "gradient" GᵀΔ > 0; "function" f grew;
    "velocity" |Δ| became smaller, not before the second displacement since the start or a restart; a number N every N
    moves; None never. The clock is kept. With `looping`, t ← max(t_min, β t) where F |G| > |Δ| (see
    `HeavyBall.log_loop_factor`). `order`: "canonical" decides with the new gradient before the move, "bravo" with
    the gradient of the move after it, as the authors' stochastic optimizers do, and sets back the time after the move,
    to β(t + h) where the canonical order has βt + h.

    Where a gradient vanishes no loop bounds the clock. With `looping` it then stands, while friction acts as ever.

    Raises
    ------
    ConfigError
        If an option is unknown or out of its range.
    """

    coefficients: HeavyBall
    restart: Restart = "gradient"
    looping: bool = True
    loop_test: LoopTest = "paper"
    beta: Any = 0.8
    t0: float = 1.0
    t_min: float = 1e-3
    order: Order = "canonical"

    def __post_init__(self) -> None:
        kinds = ("gradient", "function", "velocity")
        if isinstance(self.restart, bool) or not (
            self.restart is None or self.restart in kinds or (isinstance(self.restart, int) and self.restart > 0)
        ):
            raise ConfigError(f"restart={self.restart!r} is unknown; choose {', '.join(kinds)}, a number or None")
        if self.loop_test not in LOOP_TESTS:
            raise ConfigError(f"loop_test={self.loop_test!r} is unknown; choose one of {', '.join(LOOP_TESTS)}")
        if self.order not in get_args(Order):
            raise ConfigError(f"order={self.order!r} is unknown; choose one of {', '.join(get_args(Order))}")
        inside = (self.beta > 0) & (self.beta < 1)
        if not (inside if isinstance(inside, bool) else bool(inside.all())):
            raise ConfigError(f"beta={self.beta!r} must lie between 0 and 1")
        if not 0 < self.t_min <= self.t0 < float("inf"):
            raise ConfigError(f"t0={self.t0!r} must be finite and not below t_min={self.t_min!r}, which is positive")

    def rest(self, h: Any) -> Clockwork:
        """The state before the first move, for `decide` (with an infinite speed) and `kick`: nothing fires, μ = 0."""
        zero = 0 * h
        infinity = zero + math.inf
        before = h if self.order == "bravo" else zero
        return Clockwork(zero + self.t0, before, infinity, zero, infinity, infinity, zero, zero)

    def first(self, h: Any, norm: Any, value: Any) -> tuple[Clockwork, Move]:
        """The first move, from rest: half a kick, but for HTVI and the order "bravo"."""
        rest = self.rest(h)
        if self.order == "bravo":
            return self._next_bravo(rest, h, 0 * h, norm, 0 * h, value)
        after, mu, log_step = self.kick(rest, h, norm)
        return self.hold(rest, after._replace(moves=rest.moves + 1, value=value), norm), Move(mu, log_step)

    def next(self, state: Clockwork, h: Any, slope: Any, norm: Any, speed: Any, value: Any) -> tuple[Clockwork, Move]:
        """The next move of step h, from slope = GᵀΔ, norm = |G|, speed = |Δ| and the value f at the new point."""
        if self.order == "bravo":
            return self._next_bravo(state, h, slope, norm, speed, value)
        after, reset = self.decide(state, state.h, slope, norm, speed, value)
        after, mu, log_step = self.kick(after, h, norm)
        return self.hold(state, after, norm), Move(where(reset, 0.0, mu), log_step)

    def _next_bravo(
        self, state: Clockwork, h: Any, slope: Any, norm: Any, speed: Any, value: Any
    ) -> tuple[Clockwork, Move]:
        after, mu, log_step = self.kick(state, h, norm)
        mu, s = where(state.moves == 0, 0.0, mu), exp(log_step)
        square = maximum((mu * speed) ** 2 - 2 * mu * s * slope + (s * norm) ** 2, 0.0)
        after = self.decide(after, h, mu * slope - s * norm**2, norm, square**0.5, value)[0]
        return self.hold(state, after, norm), Move(mu, log_step)

    def decide(self, state: Clockwork, h: Any, slope: Any, norm: Any, speed: Any, value: Any) -> tuple[Clockwork, Any]:
        """The state with its clock set on by h, and whether to restart, from what `next` takes."""
        moves = state.moves if self.order == "canonical" else state.moves + 1
        reset = self._restarts(moves, slope, speed, state.speed, value, state.value)
        t, loops = state.t, state.loops
        if self.order == "bravo":
            t = self.coefficients.advance(t, h)
        if self.looping:
            factor = self.coefficients.log_loop_factor(self.loop_test, state.t, h)
            loop = factor + log(norm) > log(speed)
            t, loops = where(loop, maximum(self.beta * t, self.t_min), t), loops + loop
        if self.order == "canonical":
            t = self.coefficients.advance(t, h)
        moves = where(reset, 0.0, moves)
        if self.order == "canonical":
            moves = moves + 1
        return state._replace(
            t=t, moves=moves, speed=speed, value=value, restarts=state.restarts + reset, loops=loops
        ), reset

    def kick(self, state: Clockwork, h: Any, norm: Any) -> tuple[Clockwork, Any, Any]:
        """The state after a move of step h at its time, with μ and log s of the move, s = 0 where norm = |G| is."""
        log_amplitude = self.coefficients.log_amplitude(state.t, h)
        mu = exp(log_amplitude - state.log_amplitude)
        log_step = where(norm > 0, self.coefficients.log_step(state.t, h, state.h, log_amplitude), -math.inf)
        return state._replace(h=h, log_amplitude=log_amplitude), mu, log_step

    def hold(self, before: Clockwork, after: Clockwork, norm: Any) -> Clockwork:
        """The state `after` a move; where the gradient vanished with its clock set back, and the same friction next."""
        force = norm > 0
        if force is True or not self.looping:
            return after
        t, h = before.t, after.h
        amplitude = self.coefficients.log_amplitude(t, h)
        if self.order == "bravo":  # where t is the time of the next kick
            amplitude = 2 * amplitude - self.coefficients.log_amplitude(self.coefficients.advance(t, h), h)
        return after._replace(t=where(force, after.t, t), log_amplitude=where(force, after.log_amplitude, amplitude))

    def _restarts(self, moves: Any, slope: Any, speed: Any, before: Any, value: Any, last: Any) -> Any:
        if self.restart == "gradient":
            return slope > 0
        if self.restart == "function":
            return value > last
        if self.restart == "velocity":
            return (speed < before) & (moves >= 2)
        return moves >= (float("inf") if self.restart is None else self.restart)
