"""Hopf bifurcations: in closed form for the Mackey–Glass equation, by Newton's method for any equation."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor

from mackeyglass.arclength import Function, newton
from mackeyglass.arguments import check_whole
from mackeyglass.characteristic import null_vector, rightmost_roots
from mackeyglass.equation import DDE, Value, check_positive
from mackeyglass.errors import ContinuationError
from mackeyglass.linearisation import State, equilibrium_of, linearise_at, numbers
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.normal_form import HopfPoint


def hopf_curve(
    system: MackeyGlass, k: int = 0, tau: Value | None = None
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """n and ω of the k-th Hopf curve of the positive equilibrium in the (n, τ) plane.

    They solve ωτ = π − arctan(ω/γ) + 2πk and −√(γ² + ω²) = γ(1 − n(1 − γ/β)). As n falls to `hopf_asymptote`, τ grows
    without bound.

    Parameters
    ----------
    system
        Of which β and γ are used.
    k
        0, 1, …: equilibria lose stability at the curve 0.
    tau
        τ, a number or a batch; by default that of `system`. Derivatives by τ, β and γ, up to third ones, are exact.

    Raises
    ------
    ConfigError
        If k < 0, τ is not positive, or β ≤ γ.
    """
    _check_index(k)
    system.equilibrium_slope()  # β > γ
    chosen = system.tau if tau is None else tau
    check_positive("tau", chosen)
    values = [_float64(value) for value in (chosen, system.beta, system.gamma)]
    device = next((value.device for value in values if value.device.type != "cpu"), None)
    lag, beta, gamma = torch.broadcast_tensors(*(value if value.ndim else value.to(device) for value in values))
    # what has to vanish is concave and increases with ω, and this start is left of its zero: so are all iterates
    omega = ((0.5 + 2 * k) * np.pi / lag).detach()
    with torch.no_grad():
        for _ in range(60):
            change = _phase_step(omega, lag, gamma, k)
            omega = omega + change
            if bool((change <= 1e-15 * omega).all()):
                break
    for _ in range(2):  # of no size, but each doubles the order of the derivatives that ω carries: three, then
        omega = omega + _phase_step(omega, lag, gamma, k)
    n = (1 + torch.sqrt(1 + (omega / gamma) ** 2)) / (1 - gamma / beta)
    return n, omega


def hopf_asymptote(system: MackeyGlass) -> Float[Tensor, "*batch"]:
    """2/(1 − γ/β), to which n of all Hopf curves falls as τ → ∞: up to there the equilibrium is stable for all τ."""
    system.equilibrium_slope()
    return 2 / (1 - _float64(system.gamma) / _float64(system.beta))


def hopf_points(system: MackeyGlass, parameter: Literal["n", "tau"] = "n", count: int = 1) -> list[HopfPoint]:
    """The first `count` Hopf points of the positive equilibrium as n or τ increases and the other is fixed.

    In τ they are τ_k = (arccos(γ/b) + 2πk)/ω with ω = √(b² − γ²).

    Raises
    ------
    ConfigError
        If there are none in τ, as n is too small, or β ≤ γ, or an argument is wrong, or the system is a batch or no
        `MackeyGlass`.
    """
    if not isinstance(system, MackeyGlass):
        raise ConfigError(
            f"Hopf points are in closed form for a MackeyGlass only, not for a {type(system).__name__}: take "
            "locate_hopf(system, parameter, equilibrium)"
        )
    if parameter not in ("n", "tau"):
        raise ConfigError(f"parameter must be n or tau, got {parameter!r}")
    check_whole("count", count)
    values = numbers(system)
    gamma, b = values["gamma"], float(system.equilibrium_slope())
    if parameter == "tau" and b >= -gamma:
        raise ConfigError(
            f"the positive equilibrium is stable for every tau unless n > {float(hopf_asymptote(system)):g}, got "
            f"n={values['n']:g}"
        )
    points = []
    for k in range(count):
        if parameter == "n":
            n, frequency = hopf_curve(system, k)
            at, omega = system.with_parameters(n=float(n)), float(frequency)
        else:
            omega = np.sqrt(b**2 - gamma**2)
            at = system.with_parameters(tau=float((np.arccos(gamma / b) + 2 * np.pi * k) / omega))
        points.append(HopfPoint(at, np.array([float(at.positive_equilibrium())]), float(omega)))
    return points


def locate_hopf(
    system: DDE, parameter: str, equilibrium: State | None = None, omega: float | int | None = None
) -> HopfPoint:
    """The Hopf point near `system` if one parameter may change, of any number of components and delays.

    Newton's method for F(x, …, x) = 0, Δ(σ + iω)q = 0, cᴴq = 1 in the unknowns x, q, ω and the parameter, from the
    characteristic root that is closest to the imaginary axis. Its real part σ is led to zero in one step, or in several
    where that fails.

    Parameters
    ----------
    parameter
        Its name; it may be that of a delay.
    equilibrium
        The one at the parameters of `system`, d numbers; by default that of `characteristic_roots`.
    omega
        About the frequency, where several pairs of roots might be meant.

    Raises
    ------
    ConfigError
        If there is no such parameter, the state is no equilibrium, or the system is a batch.
    ContinuationError
        If the method does not converge, as where no root depends on the parameter, or to roots that are real, or
        outside the domain of the parameters.
    """
    system.check_names([parameter])
    x = equilibrium_of(system, equilibrium)
    root = _start(system, x, omega)
    q = null_vector(linearise_at(system, x).characteristic_matrix(root))
    solution = np.concatenate([x, np.real(q), np.imag(q), [root.imag, numbers(system)[parameter]]])
    growth, goal = root.real, 0.0
    while True:
        try:
            solution, _ = newton(hopf_equations(system, (parameter,), q, goal), solution)
        except ContinuationError:
            goal = (growth + goal) / 2
            if abs(goal - growth) <= 0.05 * abs(root.real):
                raise
            continue
        if goal == 0.0:
            return hopf_point(system, (parameter,), solution)
        growth, goal = goal, 0.0


def hopf_equations(system: DDE, free: tuple[str, ...], reference: np.ndarray, growth: float = 0.0) -> Function:
    """F = 0, Δ(σ + iω)q = 0, cᴴq = 1 as real equations of (x, Re q, Im q, ω, free parameters).

    c is `reference`, and σ is `growth`, zero at Hopf points.
    """
    d, fixed = system.dim, numbers(system)
    real, imaginary = (torch.from_numpy(part.copy())[:, None] for part in (np.real(reference), np.imag(reference)))

    def equations(unknowns: Tensor) -> Tensor:
        flat = unknowns.reshape(len(unknowns), -1)
        x, u, v, omega = flat[:d], flat[d : 2 * d], flat[2 * d : 3 * d], flat[3 * d]
        values: dict[str, Value] = {**fixed, **dict(zip(free, flat[3 * d + 1 :], strict=True))}
        states, delayed_u, delayed_v = [x] * len(system.delays), [], []
        for lag in system.delays_at(values):
            decay = torch.exp(-growth * lag * torch.ones_like(omega))
            cos, sin = decay * torch.cos(omega * lag), decay * torch.sin(omega * lag)
            # e^{−(σ + iω)τ}(u + iv)
            delayed_u.append(cos * u + sin * v)
            delayed_v.append(cos * v - sin * u)
        mode_u = growth * u - omega * v - system.differential(x, states, values, u, delayed_u)
        mode_v = growth * v + omega * u - system.differential(x, states, values, v, delayed_v)
        scaling = [(real * u + imaginary * v).sum(0) - 1, (real * v - imaginary * u).sum(0)]
        residual = torch.cat([system.field(x, states, values), mode_u, mode_v, torch.stack(scaling)])
        return residual.reshape(-1, *unknowns.shape[1:])

    return equations


def hopf_point(system: DDE, free: tuple[str, ...], solution: np.ndarray) -> HopfPoint:
    """The point of a solution of `hopf_equations`."""
    d = system.dim
    omega, parameters = float(solution[3 * d]), dict(zip(free, solution[3 * d + 1 :].tolist(), strict=True))
    where = ", ".join(f"{name}={value:g}" for name, value in parameters.items())
    if abs(omega) < 1e-6:
        raise ContinuationError(f"the roots at {where} are real, not a Hopf point: start closer to one, or give omega")
    try:
        at = system.with_parameters(**parameters)
    except ConfigError as error:
        raise ContinuationError(f"Newton's method went to {where}, {error}; start closer to a Hopf point") from error
    # a solution with −ω is the conjugate one
    return HopfPoint(at, solution[:d].copy(), abs(omega))


def _start(system: DDE, x: np.ndarray, omega: float | int | None) -> complex:
    roots = rightmost_roots(linearise_at(system, x))
    upper = roots[np.imag(roots) > 0]
    if not len(upper):
        raise ContinuationError(
            f"no complex characteristic roots were found near {system}: start closer to a Hopf point"
        )
    distance = np.abs(np.real(upper)) if omega is None else np.abs(upper - 1j * omega)
    return complex(upper[np.argmin(distance)])


def _phase_step(omega: Tensor, tau: Tensor, gamma: Tensor, k: int) -> Tensor:
    """Newton's correction of ω for ωτ + arctan(ω/γ) = π + 2πk."""
    defect = omega * tau + torch.atan(omega / gamma) - (1 + 2 * k) * np.pi
    return -defect / (tau + gamma / (gamma**2 + omega**2))


def _check_index(k: int) -> None:
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 0:
        raise ConfigError(f"k must be 0, 1, …, got {k!r}: Hopf curves are counted from the one of lowest n and tau")


def _float64(value: Value) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)
