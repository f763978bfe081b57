"""Classical accelerated methods, one gradient a step, to compare with (arXiv 2207.11460).

A restart sets their memory to zero: Δ for momentum, k for Nesterov's method.
"""

from collections.abc import Callable
from typing import Any

__all__ = ["step_momentum", "step_nag", "step_rate_matching"]

Gradient = Callable[[Any], Any]


def step_momentum(q: Any, delta: Any, lr: Any, mu: Any, grad: Gradient) -> tuple[Any, Any]:
    """Polyak's heavy ball: Δ ← μ Δ - lr ∇f(q), q ← q + Δ. Returns q and Δ."""
    delta = mu * delta - lr * grad(q)
    return q + delta, delta


def step_nag(x: Any, y: Any, k: Any, lr: Any, grad: Gradient) -> tuple[Any, Any, Any]:
    """Nesterov's accelerated gradient for convex functions, whose iterate is x and gradients are taken at y.

    x⁺ = y - lr ∇f(y), y⁺ = x⁺ + k/(k+3) (x⁺ - x), from y = x and k = 0. Returns x⁺, y⁺ and k + 1. For lr ≤ 1/L,
    f(x_k) - f* ≤ 2|x₀ - x*|²/(lr (k+1)²).
    """
    new = y - lr * grad(y)
    return new, new + k / (k + 3) * (new - x), k + 1


def step_rate_matching(x: Any, z: Any, k: int, lr: Any, grad: Gradient) -> tuple[Any, Any, int]:
    """The rate-matching discretisation of the polynomial member p = 2, C = ¼ with time k √lr, by three sequences.

    y = 2/(k+2) z + k/(k+2) x, x⁺ = y - lr ∇f(y), z⁺ = z - ½(k+2) lr ∇f(y), from z = x and k = 0. Returns x⁺, z⁺ and
    k + 1. It is Nesterov's method (arXiv 1603.04245, section 2.3, with the gradient at y in both sequences).
    """
    y = (2 * z + k * x) / (k + 2)
    slope = lr * grad(y)
    return y - slope, z - (k + 2) / 2 * slope, k + 1
