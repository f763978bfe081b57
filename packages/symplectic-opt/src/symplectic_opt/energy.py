"""Energy of a Bregman system in the extended phase space, where time is a position: a diagnostic (arXiv 2207.11460).

H̄ = g(t)(H(q, r, t) + rᵗ), with g = 1 for the direct approach, does not depend on the time of the integration, so that
it stays constant along exact trajectories and nearly constant along symplectic ones. rᵗ does not act on q, r and t.
"""

from collections.abc import Callable
from typing import Any

from symplectic_opt._elementary import exp
from symplectic_opt.bregman import BregmanSystem

__all__ = ["extended_energy", "initial_time_momentum", "step_slc_extended"]

Function = Callable[[Any], Any]


def extended_energy(system: BregmanSystem, q: Any, r: Any, t: Any, r_t: Any, f: Function) -> Any:
    """H̄ for q and r (..., d), a function f of q and the momentum r_t of time."""
    return system.hamiltonian(q, r, t, f) + exp(system.log_time_rate(t)) * r_t


def initial_time_momentum(system: BregmanSystem, q: Any, r: Any, t: Any, f: Function) -> Any:
    """rᵗ₀ = -H(q₀, r₀, t₀), by which H̄ = 0."""
    return -system.hamiltonian(q, r, t, f) / exp(system.log_time_rate(t))


def step_slc_extended(
    system: BregmanSystem, q: Any, r: Any, t: Any, r_t: Any, h: Any, f: Function, grad: Function
) -> tuple[Any, Any, Any, Any]:
    """`step_slc` with the momentum of time: q, r, t and r_t after a step h. Two values of f more a step."""
    r, r_t = _kick(system, q, r, t, r_t, h / 2, f, grad)
    t, r_t = _time(system, t, r_t, h / 2)
    drift = system.drift(t)
    q = q + h * drift * r
    r_t = r_t - h * system.log_slopes(t)[0] * drift * (r * r).sum(-1) / 2
    t, r_t = _time(system, t, r_t, h / 2)
    r, r_t = _kick(system, q, r, t, r_t, h / 2, f, grad)
    return q, r, t, r_t


def _kick(
    system: BregmanSystem, q: Any, r: Any, t: Any, r_t: Any, h: Any, f: Function, grad: Function
) -> tuple[Any, Any]:
    """The flow of g b f."""
    kick = system.kick(t)
    return r - h * kick * grad(q), r_t - h * system.log_slopes(t)[1] * kick * f(q)


def _time(system: BregmanSystem, t: Any, r_t: Any, h: Any) -> tuple[Any, Any]:
    """The flow of g rᵗ, which keeps g rᵗ."""
    after = system.flow(t, h)
    return after, r_t * exp(system.log_time_rate(t) - system.log_time_rate(after))
