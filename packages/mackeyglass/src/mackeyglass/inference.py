"""Parameters of the Mackey–Glass equation from a noisy series, by multiple shooting and Gauss–Newton steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import ConfigError, DataError, ShapeError
from torch import Tensor

from mackeyglass.equation import check_positive
from mackeyglass.linearisation import numbers
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.shooting import Normal, Shooting, logarithms

FREE = ("n", "tau", "beta", "gamma")
LOOSENESS = (1.0, 0.1, 0.01)  # gaps between windows, in units of the noise: from a weak constraint to nearly none
FITS = 1.3  # root mean square error in units of the noise, up to which the data are explained
SHIFT = 0.1  # of log τ, after which windows are laid anew


@dataclass(frozen=True, eq=False)
class Inference:
    """The equation, standard errors of its free parameters, and the misfit at the data in units of the noise.

    `converged` tells that the misfit is what the noise explains; `scanned` that the given start led nowhere, and
    another one was found by comparing predictions over one delay on a grid.
    """

    system: MackeyGlass
    stderr: Mapping[str, float]
    misfit: float
    converged: bool
    scanned: bool
    iterations: int


def infer_parameters(
    u: Float[Tensor, "times"] | np.ndarray | Sequence[float | int],
    dt: float | int,
    start: MackeyGlass,
    *,
    noise: float | int,
    free: Sequence[str] = ("n", "tau"),
    scan: Mapping[str, tuple[float, float]] | None = None,
    n_nodes: int = 32,
    max_iterations: int = 40,
) -> Inference:
    """Fit parameters to a series of samples u(0), u(dt), … with independent normal errors.

    The series is cut into windows of about a delay, each with a free history; gaps between a window's end and the next
    history are first penalised weakly, then strongly, and each problem is solved by Levenberg–Marquardt steps. Chaos
    does no harm: errors grow over one delay only.

    Parameters
    ----------
    u
        A tensor, or what makes one.
    dt
        Between samples; at least 8 of them in a delay.
    start
        Where to begin; parameters that are not free keep its values.
    noise
        Standard deviation of the errors.
    free
        Of n, τ, β and γ; θ is the unit of u.
    scan
        Where to look for another start if this one leads to no fit: ranges of n and τ (those that are free). By default
        5–15, and from half to twice the given τ.
    n_nodes
        As in `SegmentMap`.
    max_iterations
        Of each of the three problems.

    Raises
    ------
    ConfigError, ShapeError, DataError
        For arguments out of range, a series that is too short, not one-dimensional or not finite.
    """
    u = torch.as_tensor(u).detach().double().cpu()
    _check(u, dt, start, noise, free)
    found = _fit(u, float(dt), start, free, float(noise), n_nodes, max_iterations)
    if found.misfit <= FITS:
        return found
    total = found.iterations
    for other in _scan(u, float(dt), start, free, float(noise), scan or {}, n_nodes):
        again = _fit(u, float(dt), other, free, float(noise), n_nodes, max_iterations)
        total += again.iterations
        if not again.misfit >= found.misfit:
            found = Inference(again.system, again.stderr, again.misfit, again.converged, True, total)
        if found.misfit <= FITS:
            break
    return found


def _fit(
    u: Tensor, dt: float, start: MackeyGlass, free: Sequence[str], noise: float, n_nodes: int, max_iterations: int
) -> Inference:
    theta, iterations = logarithms(start, free), 0
    tau = list(free).index("tau") if "tau" in free else None
    while True:
        shooting = Shooting(u, dt, _system(start, free, theta), free, noise, n_nodes)
        if shooting.windows < 2:
            return Inference(start, dict.fromkeys(free, math.nan), math.inf, False, False, iterations)
        U, before = shooting.start(float(shooting.system.tau)), theta
        U, theta, information, count = _levenberg_marquardt(shooting, U, theta, LOOSENESS[0], max_iterations)
        iterations += count
        if tau is None or iterations >= 5 * max_iterations or abs((theta - before)[tau].item()) < SHIFT:
            break
    for looseness in LOOSENESS[1:]:
        U, theta, information, count = _levenberg_marquardt(shooting, U, theta, looseness, max_iterations)
        iterations += count
    misfit = shooting.misfit(U, theta)
    covariance = torch.linalg.pinv(information, hermitian=True)
    errors = covariance.diagonal().clamp(min=0).sqrt() * theta.exp()  # of the parameters, not their logarithms
    stderr = dict(zip(free, errors.tolist(), strict=True))
    return Inference(_system(start, free, theta), stderr, misfit, misfit <= FITS, False, iterations)


def _levenberg_marquardt(
    shooting: Shooting, U: Tensor, theta: Tensor, looseness: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Histories, parameters and the information about these at a minimum, and the number of steps tried."""
    cost, damping, tried = shooting.cost(U, theta, looseness), 1e-3, 0
    normal = shooting.normal_equations(U, theta, looseness)
    tau = shooting.free.index("tau") if "tau" in shooting.free else None
    anchor = math.log(float(shooting.system.tau))
    while tried < max_iterations:
        tried += 1
        try:
            dU, step, _ = normal.solve(damping)
        except RuntimeError:  # not positive definite in floating-point numbers
            damping *= 10
            continue
        new_U, new_theta = U + dU, theta + step
        inside = bool(step.abs().max() < 1) and (tau is None or abs(new_theta[tau].item() - anchor) < math.log(1.25))
        new_cost = _cost(shooting, new_U, new_theta, looseness) if inside else math.inf
        if not new_cost < cost:
            damping *= 5
            if damping > 1e10:
                break
            continue
        gain, damping = (cost - new_cost) / cost, max(damping / 5, 1e-10)
        U, theta, cost = new_U, new_theta, new_cost
        normal = shooting.normal_equations(U, theta, looseness)
        if gain < (1e-6 if looseness == LOOSENESS[-1] else 1e-3) or (
            tau is not None and abs(theta[tau].item() - anchor) > 2 * SHIFT
        ):
            break
    return U, theta, _information(normal), tried


def _cost(shooting: Shooting, U: Tensor, theta: Tensor, looseness: float) -> float:
    """Infinite where the equation or the power of a history does not exist."""
    if bool((U <= 0).any()):
        return math.inf
    try:
        return shooting.cost(U, theta, looseness)
    except ConfigError:
        return math.inf


def _information(normal: Normal) -> Float[Tensor, "p p"]:
    try:
        return normal.solve(1e-10)[2]
    except RuntimeError:
        return torch.full_like(normal.corner, math.nan)


def _scan(
    u: Tensor,
    dt: float,
    start: MackeyGlass,
    free: Sequence[str],
    noise: float,
    ranges: Mapping[str, tuple[float, float]],
    n_nodes: int,
) -> list[MackeyGlass]:
    """The three best equations of a grid, by predictions over one delay from histories in the data."""
    tau = float(start.tau)
    defaults = {"n": (5.0, 15.0), "tau": (tau / 2, 2 * tau)}
    values = {name: [numbers(start)[name]] for name in ("n", "tau")}
    for name in values:
        if name in free:
            low, high = ranges.get(name, defaults[name])
            values[name] = np.geomspace(low, high, 8 if name == "n" else 30).tolist()
    candidates = []
    for t in values["tau"]:
        for n in values["n"]:
            system = start.with_parameters(n=n, tau=t)
            shooting = Shooting(u, dt, system, free, noise, n_nodes)
            if shooting.windows >= 2:
                candidates.append(
                    (shooting.misfit(shooting.start(t).clamp(min=1e-3), logarithms(system, free)), system)
                )
    return [system for _, system in sorted(candidates, key=lambda pair: pair[0])[:3]]


def _system(start: MackeyGlass, free: Sequence[str], theta: Tensor) -> MackeyGlass:
    return start.with_parameters(**dict(zip(free, theta.exp().tolist(), strict=True)))


def _check(u: Tensor, dt: float | int, start: MackeyGlass, noise: float | int, free: Sequence[str]) -> None:
    check_positive("dt", dt)
    check_positive("noise", noise)
    unknown = [name for name in free if name not in FREE]
    if not free or unknown or len(set(free)) < len(free):
        raise ConfigError(f"free={list(free)} must name some of {', '.join(FREE)}, each once")
    if any(isinstance(value, Tensor) and value.numel() > 1 for value in start.parameters.values()):
        raise ConfigError("the start must be one system: infer batches one by one")
    if u.ndim != 1:
        raise ShapeError(f"the series must be (times,), got {tuple(u.shape)}: infer several one by one")
    if not bool(torch.isfinite(u).all()):
        raise DataError("the series has values that are not finite")
    if len(u) < 4.5 * float(start.tau) / dt or float(start.tau) < 8 * dt:
        raise ConfigError(
            f"{len(u)} samples {dt:g} apart are too few for τ={float(start.tau):g}: at least 4.5 delays are needed, "
            "and 8 samples in a delay"
        )
