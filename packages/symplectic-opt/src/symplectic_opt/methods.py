"""The methods that `minimize`, `minimize_batch` and `tune` know, by name."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sciml.errors import ConfigError

from symplectic_opt._elementary import is_positive
from symplectic_opt.bregman import BregmanSystem, Exponential, Polynomial
from symplectic_opt.clocks import Adaptive, Clock, Monitor, growing_steps, matched_rate
from symplectic_opt.descent import Descent, Restart
from symplectic_opt.heavy_ball import HeavyBall, LoopTest
from symplectic_opt.integrators import INTEGRATORS
from symplectic_opt.steppers import BregmanStepper, MomentumStepper, NAGStepper, RungeKuttaStepper, Stepper

__all__ = ["METHODS", "Pace", "Settings", "bregman_system"]

Pace = float | int | Clock | Callable[[Any], Any] | None
FAMILIES = {"expo": "exponential", "poly": "polynomial"}
DEFAULTS = {  # to begin with, before tuning
    "exponential": {"lr": 4.0, "C": 1.0, "rate": 0.01},
    "polynomial": {"lr": 0.01, "C": 0.1, "rate": 6.0},
}
METHODS = (
    *(f"{family}-{integrator}{suffix}" for family in FAMILIES for integrator in INTEGRATORS for suffix in ("-rtl", "")),
    *(f"{family}-rk4" for family in FAMILIES),
    "nag",
    "momentum",
)


@dataclass(frozen=True)
class Settings:
    """A method and its parameters; where they are None, its defaults.

    "expo-slc-rtl" is the exponential family by SLC with gradient restarts and temporal looping, "expo-slc" without;
    likewise with "poly" and "htvi" or "sv". "slc", "htvi" and "sv" alone are "expo-slc-rtl" and so on. "expo-rk4" and
    "poly-rk4" solve the differential equation, "nag" and "momentum" are the classical methods, for which h is the
    learning rate.
    """

    method: str = "expo-slc-rtl"
    C: Any = None
    h: Any = None
    rate: Any = None
    restart: Any = "default"
    temporal_looping: bool | None = None
    loop_test: LoopTest | None = None
    beta: Any = None
    t0: float | int = 1.0
    t_min: float | int = 1e-3
    adaptive_to: Pace = None

    def __post_init__(self) -> None:
        if self.method in INTEGRATORS:
            object.__setattr__(self, "method", f"expo-{self.method}-rtl")
        for name in ("restart", "temporal_looping"):
            if isinstance(value := getattr(self, name), np.integer | np.bool_):
                object.__setattr__(self, name, value.item())
        if self.method not in METHODS:
            near = difflib.get_close_matches(str(self.method), METHODS, n=3, cutoff=0.4)
            raise ConfigError(f"method={self.method!r} is unknown; choose e.g. {', '.join(near or METHODS[:4])}")
        if self.h is None and self.is_classical:
            raise ConfigError(f"{self.method} needs its learning rate h")
        if not isinstance(self.temporal_looping, bool | None):
            raise ConfigError(f"temporal_looping={self.temporal_looping!r} must be True, False or None")
        unread = [name for name in self._unread() if getattr(self, name) != getattr(Settings, name)]
        if unread:
            method = self.method if self.is_classical or self.loops else f"{self.method}, which does not loop,"
            raise ConfigError(f"{method} has no {' and no '.join(unread)}: leave out what it does not read")
        if self.h is not None and not is_positive(self.h):
            raise ConfigError(f"h={self.h!r} must be finite and above zero")

    @property
    def is_classical(self) -> bool:
        return self.method in ("nag", "momentum")

    @property
    def loops(self) -> bool:
        """Whether the clock may be set back."""
        return self.method.endswith("-rtl") if self.temporal_looping is None else self.temporal_looping

    @property
    def remedy(self) -> str:
        """What to do where it diverges."""
        if self.is_classical:
            return "reduce h"
        looping = self.loops or self.method.endswith("rk4")
        return "reduce h or C" if looping else "reduce h or C, or enable temporal looping"

    @property
    def default_h(self) -> float:
        """The step to begin with, before tuning."""
        return DEFAULTS[FAMILIES[self.method.partition("-")[0]]]["lr"]

    def _unread(self) -> tuple[str, ...]:
        """The options that the method has no use for."""
        loops = ("temporal_looping", "loop_test", "beta", "t_min")
        if self.is_classical:
            return ("C", "rate", "adaptive_to", *loops, "t0", *(("restart",) if self.method == "momentum" else ()))
        if self.method.endswith("rk4"):
            return ("restart", *loops)
        return () if self.loops else ("loop_test", "beta")

    def stepper(self) -> Stepper:
        """The method before its first move."""
        family, _, rest = self.method.partition("-")
        looped = rest.endswith("-rtl")
        restart: Restart = ("gradient" if looped else None) if self.restart == "default" else self.restart
        if self.method == "momentum":
            return MomentumStepper(self.h)
        if self.method == "nag":
            _check_restart(restart)
            return NAGStepper(self.h, restart)
        system = bregman_system(FAMILIES[family], self.C, self.rate, self.adaptive_to)
        h = self.default_h if self.h is None else self.h
        if rest == "rk4":
            return RungeKuttaStepper(system, h, self.t0)
        test, beta = self.loop_test or "paper", 0.8 if self.beta is None else self.beta
        coefficients = HeavyBall(system, rest.removesuffix("-rtl"))  # type: ignore[arg-type]
        return BregmanStepper(Descent(coefficients, restart, self.loops, test, beta, self.t0, self.t_min), h)


def bregman_system(family: str, C: Any = None, rate: Any = None, adaptive_to: Pace = None) -> BregmanSystem:
    """The member of a family: C = 1 and η = 0.01, or C = 0.1 and p = 6 by default.

    `adaptive_to` is a clock, a monitor g(t) > 0 of one, or the rate p̊ to which steps grow (polynomial) or which they
    match (exponential).
    """
    if family not in DEFAULTS:
        raise ConfigError(f"family={family!r} is unknown; choose exponential or polynomial")
    default = DEFAULTS[family]
    make = Exponential if family == "exponential" else Polynomial
    system = make(default["rate"] if rate is None else rate, default["C"] if C is None else C)
    if adaptive_to is None:
        return system
    if isinstance(adaptive_to, Clock):
        return Adaptive(system, adaptive_to)
    if callable(adaptive_to):
        return Adaptive(system, Monitor(adaptive_to))
    if not is_positive(adaptive_to):
        raise ConfigError(f"adaptive_to={adaptive_to!r} must be a rate above zero, a monitor g(t) or a Clock")
    return growing_steps(system, adaptive_to) if isinstance(system, Polynomial) else matched_rate(system, adaptive_to)


def _check_restart(restart: Restart) -> None:
    Descent(HeavyBall(Exponential()), restart)
