"""Time-adaptive integration: the Poincaré transformation of a Bregman system (arXiv 2207.11460).

A fixed step in τ with dt/dτ = g(t) makes steps in t of any chosen growth, along the same trajectory x(t): the
Hamiltonian g(t)(H + rᵗ) drifts and kicks at the rates g a and g b. The equation of rᵗ does not act back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sciml.errors import ConfigError
from torch import Tensor

from symplectic_opt._elementary import exp, is_positive, log
from symplectic_opt.bregman import BregmanSystem, Exponential, Polynomial

__all__ = ["Adaptive", "Clock", "ExponentialToPolynomial", "Monitor", "PowerClock", "growing_steps", "matched_rate"]


class Clock:
    """A monitor g(t) > 0 with the flow of dt/dτ = g(t)."""

    def log_rate(self, t: Any) -> Any:
        """log g(t)."""
        raise NotImplementedError

    def log_slope(self, t: Any) -> Any:
        """The derivative of log g by t."""
        raise NotImplementedError

    def flow(self, t: Any, h: Any) -> Any:
        """The time t after a step h of τ."""
        raise NotImplementedError


@dataclass(frozen=True)
class PowerClock(Clock):
    """t = τ^(1/κ): g = t^(1-κ)/κ. κ < 1 makes the steps in t grow, κ > 1 shrink."""

    exponent: Any

    def __post_init__(self) -> None:
        if not is_positive(self.exponent):
            raise ConfigError(f"exponent={self.exponent!r} must be a finite number above zero")

    def log_rate(self, t: Any) -> Any:
        return (1 - self.exponent) * log(t) - log(self.exponent)

    def log_slope(self, t: Any) -> Any:
        return (1 - self.exponent) / t

    def flow(self, t: Any, h: Any) -> Any:
        return (t**self.exponent + h) ** (1 / self.exponent)


@dataclass(frozen=True)
class ExponentialToPolynomial(Clock):
    """t = (p/η) log τ: in τ, the exponential member η has the rate τ^(-p). g = (p/η) e^(-ηt/p)."""

    eta: Any
    p: Any

    def __post_init__(self) -> None:
        if not is_positive(self.eta) or not is_positive(self.p):
            raise ConfigError(f"eta={self.eta!r} and p={self.p!r} must be finite numbers above zero")

    def log_rate(self, t: Any) -> Any:
        return log(self.p / self.eta) - self.eta * t / self.p

    def log_slope(self, t: Any) -> Any:
        return -self.eta / self.p

    def flow(self, t: Any, h: Any) -> Any:
        # log(e^(ηt/p) + h) without the overflow of its first term
        return t + self.p / self.eta * log(1 + h * exp(-self.eta * t / self.p))


@dataclass(frozen=True)
class Monitor(Clock):
    """Any positive function g of one time; its flow by eight Runge-Kutta steps of order 4, its slope by differences.

    Raises
    ------
    ConfigError
        Where g is not positive and finite; of tensors this is not asked, as their device would have to be waited for.
    """

    g: Callable[[Any], Any]

    def log_rate(self, t: Any) -> Any:
        return log(self._rate(t))

    def log_slope(self, t: Any) -> Any:
        width = 1e-5 * t
        return (self.log_rate(t + width) - self.log_rate(t - width)) / (2 * width)

    def flow(self, t: Any, h: Any) -> Any:
        step = h / 8
        for _ in range(8):
            k1 = self._rate(t)
            k2 = self._rate(t + step / 2 * k1)
            k3 = self._rate(t + step / 2 * k2)
            k4 = self._rate(t + step * k3)
            t = t + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return t

    def _rate(self, t: Any) -> Any:
        found = self.g(t)
        if not isinstance(found, Tensor) and not is_positive(found):
            raise ConfigError(f"the monitor must be positive and finite; it is {found!r} at t={t!r}")
        return found


class Adaptive(BregmanSystem):
    """A Bregman system in the time τ of a clock; its argument t stays the physical time."""

    def __init__(self, system: BregmanSystem, clock: Clock) -> None:
        self.system, self.clock, self.C = system, clock, system.C
        self.alpha, self.beta, self.gamma = system.alpha, system.beta, system.gamma
        self.time_of, self.damping = system.time_of, system.damping

    def log_drift(self, t: Any) -> Any:
        return self.system.log_drift(t) + self.clock.log_rate(t)

    def log_kick(self, t: Any) -> Any:
        return self.system.log_kick(t) + self.clock.log_rate(t)

    def log_loop_factor(self, t: Any, h: Any) -> Any:
        """The authors' test with the step in t that h makes."""
        return self.system.log_loop_factor(t, self.flow(t, h) - t)

    def flow(self, t: Any, h: Any) -> Any:
        return self.clock.flow(t, h)

    def log_time_rate(self, t: Any) -> Any:
        return self.clock.log_rate(t)

    def log_slopes(self, t: Any) -> tuple[Any, Any, Any]:
        drift, kick, _ = self.system.log_slopes(t)
        slope = self.clock.log_slope(t)
        return drift + slope, kick + slope, slope


def growing_steps(system: BregmanSystem, p: float | int) -> Adaptive:
    """The authors' adaptive approach p → p̊ < p: g = (p/p̊) t^(1-p̊/p), t = τ^(p/p̊). In τ the rate is τ^(-p²/p̊)."""
    if not isinstance(system, Polynomial) or not (is_positive(p) and is_positive(system.p - p)):
        raise ConfigError(f"steps grow from a Polynomial of a larger p={getattr(system, 'p', None)} to p={p}")
    return Adaptive(system, PowerClock(p / system.p))


def matched_rate(system: BregmanSystem, p: float | int) -> Adaptive:
    """A clock in whose τ the system is the polynomial member p̊, with its rate τ^(-p̊).

    For a polynomial g = (p̊/p) t^(1-p/p̊) and t = τ^(p̊/p), for an exponential one g = (p̊/η) e^(-ηt/p̊) and
    t = (p̊/η) log τ. From one exponential member to another g is constant: the same as another step h.
    """
    if isinstance(system, Polynomial):
        return Adaptive(system, PowerClock(system.p / p))
    if isinstance(system, Exponential):
        return Adaptive(system, ExponentialToPolynomial(system.eta, p))
    raise ConfigError(f"{type(system).__name__} is no member of the polynomial or exponential family")
