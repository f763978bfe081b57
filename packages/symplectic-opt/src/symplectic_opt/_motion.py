"""One move of an optimizer in numbers: from scalar products to the coefficients of the update.

Numbers are Python floats, or 0-dim tensors where the host does not wait for the device.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from symplectic_opt._elementary import exp, log, maximum, where
from symplectic_opt.bregman import BregmanSystem, Exponential, Polynomial
from symplectic_opt.clocks import Adaptive
from symplectic_opt.descent import Clockwork, Descent
from symplectic_opt.heavy_ball import HeavyBall

__all__ = ["Affine", "Motion", "Products", "move", "move_on_device"]


class Products(NamedTuple):
    """Scalar products with the gradient G, of which group g has the weight w_g in the kick -s w_g G_g."""

    slope: Any  # Σ G_g·Δ_g
    kicked_slope: Any  # Σ w_g G_g·Δ_g
    kicked_square: Any  # Σ w_g |G_g|²
    kick_square: Any  # Σ w_g² |G_g|²
    square: Any  # |Δ|²


class Motion(NamedTuple):
    """What an optimizer remembers beside its buffers."""

    clockwork: Clockwork
    steps: Any
    mu: Any
    log_step: Any
    square: Any  # |Δ|² by its recurrence
    error: Any  # bound of the error of `square`
    trend: Any  # mean of G·Δ

    @classmethod
    def at_rest(cls, descent: Descent, h: Any) -> "Motion":
        """Before the first move, of step h."""
        zero = 0 * h
        return cls(descent.rest(h), zero, zero, zero - math.inf, zero, zero, zero)

    @classmethod
    def unpack(cls, flat: dict[str, Any]) -> "Motion":
        """The inverse of `pack`."""
        return cls.unflatten([flat[name] for name in cls.names()])

    @classmethod
    def unflatten(cls, numbers: Any) -> "Motion":
        """From numbers in the order of `names`."""
        k = len(Clockwork._fields)
        return cls(Clockwork(*numbers[:k]), *numbers[k:])

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of what `pack` gives."""
        return (*Clockwork._fields, *cls._fields[1:])

    def pack(self) -> dict[str, Any]:
        """Names and numbers, for a state dict."""
        return {**self.clockwork._asdict(), **dict(zip(self._fields[1:], self[1:], strict=True))}


def move(
    descent: Descent, motion: Motion, h: Any, found: Products, value: Any, smoothing: float, rounding: float
) -> Motion:
    """The motion after a step h from a point with the value f, where `found` are the products with the last Δ.

    `smoothing` is the weight of the past in the mean of G·Δ, `rounding` the relative error of the products.
    """
    norm = found.kick_square**0.5
    state, before, trend = motion.clockwork, motion.clockwork.moves == 0, motion.trend
    if descent.order == "canonical":
        trend = smoothing * trend + (1 - smoothing) * found.slope
        speed = where(before, motion.clockwork.speed, found.square**0.5)
        state, reset = descent.decide(state, state.h, trend, norm, speed, value)
        state, mu, log_step = descent.kick(state, h, norm)
        mu, trend = where(reset, 0.0, mu), where(reset, 0.0, trend)
    else:
        state, mu, log_step = descent.kick(state, h, norm)
        mu = where(before, 0.0, mu)
    s = exp(log_step)
    # |μΔ - s w G|², whose terms may cancel
    past, present = mu**2 * found.square, s**2 * found.kick_square
    cross = 2 * mu * s * found.kicked_slope
    square = maximum(past - cross + present, 0.0)
    error = mu**2 * motion.error + rounding * (past + abs(cross) + present)
    if descent.order == "bravo":
        trend = smoothing * trend + (1 - smoothing) * (mu * found.slope - s * found.kicked_square)
        state, reset = descent.decide(state, h, trend, norm, square**0.5, value)
        trend = where(reset, 0.0, trend)
    state = descent.hold(motion.clockwork, state, norm)
    return Motion(state, motion.steps + 1, mu, log_step, square, error, trend)


class Affine(BregmanSystem):
    """A system whose log a and log b are affine in t or log t, as those of `BregmanSLC` are: one operation on tensors.

    Raises
    ------
    AttributeError
        If the system is adaptive with a clock that is not of its family.
    """

    def __init__(self, system: BregmanSystem) -> None:
        self.of, self.C, self.plain = system, system.C, type(system).flow is BregmanSystem.flow
        self.logarithmic = isinstance(system.system if isinstance(system, Adaptive) else system, Polynomial)
        u = 0.0 if self.logarithmic else 1.0  # at t = 1, where derivatives by u and by t are the same
        drift, kick, _ = system.log_slopes(1.0)
        self.drift_line = drift, system.log_drift(1.0) - drift * u
        self.kick_line = kick, system.log_kick(1.0) - kick * u

    def log_drift(self, t: Any) -> Any:
        return self._on(self.drift_line, t)

    def log_kick(self, t: Any) -> Any:
        return self._on(self.kick_line, t)

    def log_loop_factor(self, t: Any, h: Any) -> Any:
        if not isinstance(self.of, Exponential):
            return self.of.log_loop_factor(t, h)
        constant = self.of.log_loop_factor(0.0, 1.0) + self.of.eta
        return torch.rsub(t - h, constant, alpha=-self.of.eta) + 2 * log(h)

    def flow(self, t: Any, h: Any) -> Any:
        return self.of.flow(t, h)

    def log_time_rate(self, t: Any) -> Any:
        return self.of.log_time_rate(t)

    def _on(self, line: tuple[float, float], t: Tensor) -> Tensor:
        return torch.rsub(t.log() if self.logarithmic else t, line[1], alpha=-line[0])


def move_on_device(
    descent: Descent, motion: Motion, h: Any, found: Products, sums: Tensor, value: Any, smoothing: float
) -> tuple[Motion, Tensor]:
    """As `move`, in few operations on 0-dim tensors; s too. `sums` are |wG|², Σ w G·Δ and |Δ|², measured anew.

    The times that the clock may take are looked at together.
    """
    state, logs, force = motion.clockwork, sums.log(), found.kick_square > 0
    system = Affine(descent.coefficients.system)
    ball, looping = HeavyBall(system, descent.coefficients.integrator), descent.looping

    def advance(t: Tensor, h: Any) -> Tensor:
        return t + h if system.plain else ball.advance(t, h)

    def back(t: Tensor) -> Tensor:
        return (descent.beta * t).clamp(min=descent.t_min)

    def excess(log_ratio: Tensor, h: Any) -> Tensor:
        """log(F |G|/|Δ|) from log(|G|²/|Δ|²): above zero where a loop is due."""
        return torch.add(ball.log_loop_factor(descent.loop_test, state.t, h), log_ratio, alpha=0.5)

    def decide(moves: Tensor, slope: Tensor, square: Tensor) -> tuple[Any, Any, Tensor]:
        """Whether momentum is forgotten, if that may be, the mean of G·Δ, and |Δ| where it is compared."""
        trend = smoothing * motion.trend + (1 - smoothing) * slope if smoothing else slope
        speed = square.sqrt() if descent.restart == "velocity" else state.speed
        if descent.restart is None:
            return None, trend, speed
        return descent._restarts(moves, trend, speed, state.speed, value, state.value), trend, speed

    if descent.order == "canonical":
        reset, trend, speed = decide(state.moves, found.slope, found.square)
        keep = None if reset is None else ~reset
        if looping:
            # 0 ∞ before the first move, as Δ = 0: not above zero
            loop = excess(logs[0] - logs[2], state.h) * state.moves > 0
            times = advance(torch.stack([state.t, back(state.t)]), state.h)
            times = torch.cat([times, state.t[None]])
        else:
            loop, times = None, advance(state.t, state.h)[None]
        amplitudes = ball.log_amplitude(times, h)
        rows = torch.stack([times, amplitudes, ball.log_step(times, h, state.h, amplitudes)])
        t, amplitude, log_step = now = rows[:, 0] if loop is None else torch.where(loop, rows[:, 1], rows[:, 0])
        mu = (amplitude - state.log_amplitude).exp()
        if looping:
            held = torch.stack([state.t, amplitudes[2], logs[0]])
            t, amplitude, log_step = torch.where(force, now, held)
        else:
            log_step = torch.where(force, log_step, logs[0])
        s = log_step.exp()
        if keep is not None:
            mu = mu * keep
        square = _square(mu, s, found)
        moves = (state.moves if keep is None else state.moves * keep) + 1
    else:
        after = advance(state.t, h)
        amplitudes = ball.log_amplitude(torch.stack([state.t, after]), h)
        t, amplitude = after, amplitudes[0]
        log_step = torch.where(force, ball.log_step(state.t, h, state.h, amplitude), logs[0])
        mu, s = (amplitude - state.log_amplitude).exp(), log_step.exp()
        if descent.restart is not None:
            mu = mu * (state.moves > 0)
        square = _square(mu, s, found)
        slope = torch.addcmul(mu * found.slope, s, found.kicked_square, value=-1)
        moves = state.moves + 1
        reset, trend, speed = decide(moves, slope, square)
        keep = None if reset is None else ~reset
        if keep is not None:
            moves = moves * keep
        loop = None
        if looping:
            loop = excess(logs[0] - square.log(), h) > 0
            now = torch.stack([torch.where(loop, back(after), after), amplitude])
            t, amplitude = torch.where(force, now, torch.stack([state.t, 2 * amplitude - amplitudes[1]]))
    if smoothing and keep is not None:
        trend = trend * keep
    clockwork = Clockwork(
        t=t,
        h=h if isinstance(h, Tensor) else torch.full_like(t, h),
        log_amplitude=amplitude,
        moves=moves,
        speed=speed,
        value=state.value if value is None else value,
        restarts=state.restarts if reset is None else state.restarts + reset,
        loops=state.loops if loop is None else state.loops + loop,
    )
    return motion._replace(
        clockwork=clockwork, steps=motion.steps + 1, mu=mu, log_step=log_step, square=square, trend=trend
    ), s


def _square(mu: Tensor, s: Tensor, found: Products) -> Tensor:
    """|μΔ - s w G|², whose terms may cancel."""
    past = torch.addcmul(mu * found.square, s, found.kicked_slope, value=-2)
    return torch.addcmul(s * found.kick_square * s, mu, past).clamp(min=0.0)
