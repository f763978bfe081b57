"""Symplectic integrators of Bregman systems, one gradient a step, on positions and momenta (arXiv 2207.11460).

Momenta grow as the kick rate does and overflow long before the positions do: for long runs and low precision take the
displacements of `heavy_ball`, which are the same method.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

from symplectic_opt._elementary import exp
from symplectic_opt.bregman import BregmanSystem

__all__ = ["INTEGRATORS", "Integrator", "step_htvi", "step_rk4", "step_slc", "step_sv"]

Integrator = Literal["slc", "htvi", "sv"]
INTEGRATORS = get_args(Integrator)
State = tuple[Any, Any, Any]


def step_htvi(system: BregmanSystem, q: Any, r: Any, t: Any, h: Any, grad: Callable[[Any], Any]) -> State:
    """Hamiltonian Taylor variational integrator of type II, r = 0: the symplectic Euler method, order 1."""
    r = r - h * system.kick(t) * grad(q)
    q = q + h * system.drift(t) * r
    return q, r, t + h * exp(system.log_time_rate(t))


def step_slc(system: BregmanSystem, q: Any, r: Any, t: Any, h: Any, grad: Callable[[Any], Any]) -> State:
    """Symmetric leapfrog composition of the flows of potential, time, kinetic energy, time, potential: order 2."""
    r = r - h / 2 * system.kick(t) * grad(q)
    middle = system.flow(t, h / 2)
    q = q + h * system.drift(middle) * r
    t = system.flow(middle, h / 2)
    return q, r - h / 2 * system.kick(t) * grad(q), t


def step_sv(system: BregmanSystem, q: Any, r: Any, t: Any, h: Any, grad: Callable[[Any], Any]) -> State:
    """Störmer-Verlet on (q, qᵗ), with the exact flow of time: order 2."""
    r = r - h / 2 * system.kick(t) * grad(q)
    end = system.flow(t, h)
    q = q + h / 2 * (system.drift(t) + system.drift(end)) * r
    return q, r - h / 2 * system.kick(end) * grad(q), end


def step_rk4(system: BregmanSystem, q: Any, r: Any, t: Any, h: Any, grad: Callable[[Any], Any]) -> State:
    """The classical Runge-Kutta method, for comparison: four gradients a step, order 4, not symplectic."""

    def rates(x: Any, y: Any, time: Any) -> State:
        return system.drift(time) * y, -system.kick(time) * grad(x), exp(system.log_time_rate(time))

    state, stages = (q, r, t), []
    for weight in (0, h / 2, h / 2, h):
        at = state if not stages else tuple(x + weight * k for x, k in zip(state, stages[-1], strict=True))
        stages.append(rates(*at))
    k1, k2, k3, k4 = stages
    q, r, t = (x + h / 6 * (a + 2 * b + 2 * c + d) for x, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True))
    return q, r, t
