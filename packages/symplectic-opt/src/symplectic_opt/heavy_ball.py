"""The integrators of `integrators` as heavy balls with a growing step, which do not overflow (arXiv 2207.11460).

The displacement Δ_k = q_(k+1) - q_k = A_k r_(k+½) obeys

    Δ_k = μ_k Δ_(k-1) - s_k ∇f(q_k),    μ_k = A_k/A_(k-1),    s_k = ½(h_(k-1) + h_k) b(t_k) A_k

(HTVI: s_k = h_k b(t_k) A_k) with the amplitude A = h a(t + h/2) for SLC, h a(t) for HTVI and ½h[a(t) + a(t + h)] for
SV. It holds for steps that change, clocks that jump back, and in the time of an adaptive clock. All is computed by
logarithms; times and steps may be Python numbers, arrays with an entry per cell, or tensors.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from sciml.errors import ConfigError

from symplectic_opt._elementary import exp, log
from symplectic_opt.bregman import BregmanSystem
from symplectic_opt.integrators import INTEGRATORS, Integrator

__all__ = ["LOOP_TESTS", "HeavyBall", "LoopTest"]

LoopTest = Literal["paper", "consistent"]
LOOP_TESTS = get_args(LoopTest)


@dataclass(frozen=True)
class HeavyBall:
    """The coefficients of a system and an integrator."""

    system: BregmanSystem
    integrator: Integrator = "slc"

    def __post_init__(self) -> None:
        if self.integrator not in INTEGRATORS:
            raise ConfigError(f"integrator={self.integrator!r} is unknown; choose one of {', '.join(INTEGRATORS)}")

    def advance(self, t: Any, h: Any) -> Any:
        """The time of the next kick."""
        if self.integrator == "htvi":
            return t + h * exp(self.system.log_time_rate(t))
        if self.integrator == "slc":
            return self.system.flow(self.system.flow(t, h / 2), h / 2)
        return self.system.flow(t, h)

    def log_amplitude(self, t: Any, h: Any) -> Any:
        """log A_k of the step h from time t."""
        system = self.system
        if self.integrator == "htvi":
            return log(h) + system.log_drift(t)
        if self.integrator == "slc":
            return log(h) + system.log_drift(system.flow(t, h / 2))
        first, last = system.log_drift(t), system.log_drift(system.flow(t, h))
        return log(h / 2) + first + log(1 + exp(last - first))

    def log_step(self, t: Any, h: Any, h_before: Any, log_amplitude: Any) -> Any:
        """log s_k of the step h from time t after one of h_before, 0 if there was none."""
        width = h if self.integrator == "htvi" else (h_before + h) / 2
        return log(width) + self.system.log_kick(t) + log_amplitude

    def log_loop_factor(self, test: LoopTest, t: Any, h: Any) -> Any:
        """log F of the test of instability F |∇f| > |Δ|, at time t before it moves on by h.

        "paper" is the authors' factor, "consistent" the step s of a kick at the next time.
        """
        if test == "paper":
            return self.system.log_loop_factor(t, h)
        after = self.advance(t, h)
        return self.log_step(after, h, h, self.log_amplitude(after, h))
