"""One move of an optimizer in numbers: from scalar products to the coefficients of the update.

Numbers are Python floats, or 0-dim tensors where the host does not wait for the device.
"""

import math
from typing import Any, NamedTuple

from symplectic_opt._elementary import exp, maximum, where
from symplectic_opt.descent import Clockwork, Descent

__all__ = ["Motion", "Products", "move"]


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
        clockwork = Clockwork(*(flat[name] for name in Clockwork._fields))
        return cls(clockwork, *(flat[name] for name in cls._fields[1:]))

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
