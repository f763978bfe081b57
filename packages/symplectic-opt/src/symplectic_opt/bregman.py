"""Bregman dynamics: the Hamiltonian systems whose trajectories minimise at a chosen rate (arXiv 2207.11460).

With the Euclidean mirror map, H(q, r, t) = ½ a(t)|r|² + b(t) f(q), where a = e^(α-γ) and b = e^(α+β+γ). Under the ideal
scaling β̇ ≤ e^α, γ̇ = e^α, a convex f has f(q(t)) - f* ≤ E(t₀) e^(-β(t)). Other mirror maps than ½|x|² are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sciml.errors import ConfigError
from scipy.special import jv, yv

from symplectic_opt._elementary import exp, is_positive, log

__all__ = ["BregmanSystem", "Exponential", "Polynomial", "time_change"]

Function = Callable[[Any], Any]


class BregmanSystem:
    """A member of a Bregman family, given by α, β and γ; times are positive.

    Times, and the parameters too, may be Python numbers, numpy arrays or tensors; rates are given by their logarithms,
    which do not overflow.
    """

    C: Any

    def alpha(self, t: Any) -> Any:
        raise NotImplementedError

    def beta(self, t: Any) -> Any:
        raise NotImplementedError

    def gamma(self, t: Any) -> Any:
        raise NotImplementedError

    def time_of(self, beta: Any) -> Any:
        """The time at which β has this value."""
        raise NotImplementedError

    def damping(self, t: Any) -> Any:
        """γ̇ - α̇, the friction of the Euler-Lagrange equation."""
        raise NotImplementedError

    def log_loop_factor(self, t: Any, h: Any) -> Any:
        """log F of the authors' test of instability F |∇f| > |Δ|, at time t before a step h."""
        raise NotImplementedError

    def log_drift(self, t: Any) -> Any:
        """log a(t) = α - γ."""
        return self.alpha(t) - self.gamma(t)

    def log_kick(self, t: Any) -> Any:
        """log b(t) = α + β + γ."""
        return self.alpha(t) + self.beta(t) + self.gamma(t)

    def drift(self, t: Any) -> Any:
        """a(t) of q̇ = a(t) r."""
        return exp(self.log_drift(t))

    def kick(self, t: Any) -> Any:
        """b(t) of ṙ = -b(t) ∇f(q)."""
        return exp(self.log_kick(t))

    def flow(self, t: Any, h: Any) -> Any:
        """The time after a step h: that of the integration is time itself."""
        return t + h

    def log_time_rate(self, t: Any) -> Any:
        """log dt/dτ for the time τ of the integration."""
        return 0.0

    def log_slopes(self, t: Any) -> tuple[Any, Any, Any]:
        """Derivatives by t of `log_drift`, `log_kick` and `log_time_rate`; by the ideal scaling β̇ = γ̇ = e^α."""
        damping = self.damping(t)
        return -damping, 3 * exp(self.alpha(t)) - damping, 0.0

    def hamiltonian(self, q: Any, r: Any, t: Any, f: Function) -> Any:
        """H(q, r, t) for q and r (..., d), or numbers, and a function f of q."""
        return self.drift(t) * _square(r) / 2 + self.kick(t) * f(q)

    def ode(self, gradient: Function) -> Callable[[float, np.ndarray], np.ndarray]:
        """Right-hand side of ẍ + (γ̇ - α̇)ẋ + e^(2α+β)∇f(x) = 0 for states (x, ẋ) of shape (2 d,)."""

        def rate(t: float, state: np.ndarray) -> np.ndarray:
            x, v = np.split(state, 2)
            force = exp(2 * self.alpha(t) + self.beta(t)) * gradient(x)
            return np.concatenate([v, -self.damping(t) * v - force])

        return rate

    def lyapunov(self, x: Any, v: Any, t: Any, f: Function, x_star: Any) -> Any:
        """E(t) = ½|x* - x - e^(-α)ẋ|² + e^β (f(x) - f(x*)), which no trajectory of a convex f increases.

        x and v are (..., d) or numbers, t a number or (...).
        """
        scale = exp(-self.alpha(t))
        away = x_star - x - (scale[..., None] if getattr(scale, "ndim", 0) else scale) * v
        return _square(away) / 2 + exp(self.beta(t)) * (f(x) - f(x_star))

    def exact_quadratic(self, k: Any, t0: float | int, x0: Any, v0: Any, t: Any) -> np.ndarray | float:
        """x(t) for f = ½ k x², k > 0, x(t₀) = x₀ and ẋ(t₀) = v₀, by Bessel functions; arguments broadcast.

        With σ = e^(½(β - log C)): x = σ⁻¹[A J₁(2√(Ck) σ) + B Y₁(2√(Ck) σ)].
        """
        _check(k=k if isinstance(k, float | int) else np.asarray(k))
        omega = 2 * np.sqrt(np.multiply(self.C, k))

        def z(time: Any) -> Any:
            return omega * np.exp((self.beta(np.asarray(time, float)) - log(self.C)) / 2)

        with np.errstate(divide="ignore", invalid="ignore"):
            first, last = z(t0), z(t)
        if not (np.all(first > 0) and np.all(last > 0)):
            raise ConfigError(f"t0={t0!r} and t={t!r} must be times of the system, which are above zero")
        # w = z x = A J₁ + B Y₁ and, since (J₁/z)' = -J₂/z and ż = z e^α/2, u = -2 e^(-α) ẋ = A J₂ + B Y₂
        w, u = first * np.asarray(x0), -2 * np.asarray(v0) * exp(-self.alpha(float(t0)))
        half_pi = np.pi / 2 * first  # J₁Y₂ - J₂Y₁ = -2/(πz)
        a = half_pi * (u * yv(1, first) - w * yv(2, first))
        b = half_pi * (w * jv(2, first) - u * jv(1, first))
        return (a * jv(1, last) + b * yv(1, last)) / last


@dataclass(frozen=True, eq=False)
class Polynomial(BregmanSystem):
    """Rate O(t^(-p)): α = log p - log t, β = p log t + log C, γ = p log t.

    H = p/(2 t^(p+1)) |r|² + C p t^(2p-1) f(q) and ẍ + (p+1)/t ẋ + C p² t^(p-2) ∇f = 0.

    Raises
    ------
    ConfigError
        If p or C is not positive and finite.
    """

    p: Any = 6.0
    C: Any = 0.1

    def __post_init__(self) -> None:
        _check(p=self.p, C=self.C)

    def alpha(self, t: Any) -> Any:
        return log(self.p) - log(t)

    def beta(self, t: Any) -> Any:
        return self.p * log(t) + log(self.C)

    def gamma(self, t: Any) -> Any:
        return self.p * log(t)

    def time_of(self, beta: Any) -> Any:
        return exp((beta - log(self.C)) / self.p)

    def damping(self, t: Any) -> Any:
        return (self.p + 1) / t

    def log_loop_factor(self, t: Any, h: Any) -> Any:
        """log of C h² p² (t + h)^(p+1) / t."""
        return log(self.C) + 2 * (log(h) + log(self.p)) + (self.p + 1) * log(t + h) - log(t)


@dataclass(frozen=True, eq=False)
class Exponential(BregmanSystem):
    """Rate O(e^(-ηt)): α = log η, β = ηt + log C, γ = ηt.

    H = η/2 e^(-ηt) |r|² + C η e^(2ηt) f(q) and ẍ + η ẋ + C η² e^(ηt) ∇f = 0.

    Raises
    ------
    ConfigError
        If eta or C is not positive and finite.
    """

    eta: Any = 0.01
    C: Any = 1.0

    def __post_init__(self) -> None:
        _check(eta=self.eta, C=self.C)

    def alpha(self, t: Any) -> Any:
        return log(self.eta)

    def beta(self, t: Any) -> Any:
        return self.eta * t + log(self.C)

    def gamma(self, t: Any) -> Any:
        return self.eta * t

    def time_of(self, beta: Any) -> Any:
        return (beta - log(self.C)) / self.eta

    def damping(self, t: Any) -> Any:
        return self.eta

    def log_loop_factor(self, t: Any, h: Any) -> Any:
        """log of C h² η² e^(η(t-h))."""
        return log(self.C) + 2 * (log(h) + log(self.eta)) + self.eta * (t - h)


def time_change(source: BregmanSystem, target: BregmanSystem) -> Function:
    """τ with e^(β of source at τ(s)) = e^(β of target at s): x ∘ τ solves `target` where x solves `source`."""
    return lambda s: source.time_of(target.beta(s))


def _square(x: Any) -> Any:
    """|x|² over the last axis."""
    return x * x if isinstance(x, int | float) else (x * x).sum(-1)


def _check(**parameters: Any) -> None:
    for name, value in parameters.items():
        if not is_positive(value):
            raise ConfigError(f"{name}={value!r} must be a finite number above zero")
