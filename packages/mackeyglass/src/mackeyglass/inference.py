"""Parameters of the Mackey–Glass equation from a noisy series, by multiple shooting and Gauss–Newton steps."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import ConfigError, DataError, ShapeError
from scipy.interpolate import CubicSpline
from torch import Tensor

from mackeyglass.arguments import check_whole
from mackeyglass.equation import check_positive
from mackeyglass.linearisation import numbers
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.series import curve
from mackeyglass.shooting import Normal, Shooting, logarithms

FREE = ("n", "tau", "beta", "gamma")
LOOSENESS = (1.0, 0.1, 0.01)  # gaps between windows, in units of the noise: from a weak constraint to nearly none
FITS = 1.3  # root mean square error in units of the noise, up to which the data are explained
SHIFT = 0.1  # of log τ, after which windows are laid anew


@dataclass(frozen=True, eq=False)
class Inference:
    """The equation, standard errors of its free parameters, and the misfit at the data in units of the noise.

    `misfit` is the root mean square error. `converged` tells that it is what the noise explains, neither more nor much
    less; where it is more, the standard errors are those of a noise that would explain it. `scanned` tells that the
    given start led nowhere, and another one was found by comparing predictions over one delay on a grid.
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
        Standard deviation of the errors. Where the data deny it, a warning says so.
    free
        Of n, τ, β and γ; θ is the unit of u.
    scan
        Where to look for another start if this one leads to no fit: ranges of n and τ (those that are free). By default
        5–15, and from half to twice the given τ.
    n_nodes
        As in `SegmentMap`.
    max_iterations
        Of each of the three problems, and five times that of the first, whose windows are laid anew as τ moves; so it
        is from the given start, and from up to three others.

    Raises
    ------
    ConfigError, ShapeError, DataError
        For arguments out of range, a series that is too short, not one-dimensional, not finite or not positive.
    """
    u = torch.as_tensor(u).detach().double().cpu()
    _check(u, dt, start, noise, free)
    _check_search(scan or {}, free, n_nodes, max_iterations)
    data = _Data(u, float(dt), float(noise), curve(u, dt, smooth=True), n_nodes)
    _check_sign(data)
    found = _fit(data, start, free, max_iterations)
    if not found.misfit <= FITS:
        total, first = found.iterations, found
        for other in _scan(data, start, free, scan or {}):
            again = _fit(data, other, free, max_iterations)
            total += again.iterations
            if not again.misfit >= found.misfit:
                found = again
            if found.misfit <= FITS:
                break
        found = replace(found, scanned=found is not first, iterations=total)
    _warn(found)
    return found


@dataclass(frozen=True, eq=False)
class _Data:
    """A series, and the smooth curve through it."""

    u: Tensor
    dt: float
    noise: float
    curve: CubicSpline
    n_nodes: int

    def shooting(self, system: MackeyGlass, free: Sequence[str]) -> Shooting:
        return Shooting(self.u, self.dt, system, free, self.noise, self.n_nodes)


def _fit(data: _Data, start: MackeyGlass, free: Sequence[str], max_iterations: int) -> Inference:
    theta, iterations = logarithms(start, free), 0
    tau = list(free).index("tau") if "tau" in free else None
    while True:
        shooting = data.shooting(_system(start, free, theta), free)
        if shooting.windows < 2:
            return Inference(start, dict.fromkeys(free, math.nan), math.inf, False, False, iterations)
        U, before = shooting.start(data.curve), theta
        steps = min(max_iterations, 5 * max_iterations - iterations)
        U, theta, information, count = _levenberg_marquardt(shooting, U, theta, LOOSENESS[0], steps)
        iterations += count
        if tau is None or iterations >= 5 * max_iterations or abs((theta - before)[tau].item()) < SHIFT:
            break
    for looseness in LOOSENESS[1:]:
        U, theta, information, count = _levenberg_marquardt(shooting, U, theta, looseness, max_iterations)
        iterations += count
    misfit = shooting.misfit(U, theta)
    covariance = torch.linalg.pinv(information, hermitian=True)
    # of the parameters, not their logarithms
    errors = max(1.0, misfit) * covariance.diagonal().clamp(min=0).sqrt() * theta.exp()
    stderr = dict(zip(free, errors.tolist(), strict=True))
    return Inference(
        _system(start, free, theta), stderr, misfit, _least(data, free) <= misfit <= FITS, False, iterations
    )


def _least(data: _Data, free: Sequence[str]) -> float:
    """Misfit below which the noise is smaller than given; errors vanish by as many as there are numbers to fit."""
    fitted = data.n_nodes + 1 + len(free)  # one history, and the parameters
    return math.sqrt(max(1 - fitted / len(data.u), 0.0)) / FITS


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
    data: _Data, start: MackeyGlass, free: Sequence[str], ranges: Mapping[str, tuple[float, float]]
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
            shooting = data.shooting(system, free)
            if shooting.windows >= 2:
                candidates.append((shooting.misfit(shooting.start(data.curve), logarithms(system, free)), system))
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
    if len(u) < 4.5 * float(start.tau) / dt or float(start.tau) < 8 * dt:
        raise ConfigError(
            f"{len(u)} samples {dt:g} apart are too few for τ={float(start.tau):g}: at least 4.5 delays are needed, "
            "and 8 samples in a delay"
        )


def _check_search(
    scan: Mapping[str, tuple[float, float]], free: Sequence[str], n_nodes: int, max_iterations: int
) -> None:
    check_whole("n_nodes", n_nodes, 2)
    check_whole("max_iterations", max_iterations)
    allowed = [name for name in ("n", "tau") if name in free]
    for name, given in scan.items():
        if name not in allowed:
            raise ConfigError(
                f"scan has a range of {name!r}, but other starts differ in n and tau only, where they are free "
                f"(here: {', '.join(allowed) or 'neither'})"
            )
        least = 1.0 if name == "n" else 0.0
        if len(given) != 2 or not least < given[0] <= given[1] < math.inf:
            raise ConfigError(f"scan={{{name!r}: {given}}} must be a range (low, high) with {least:g} < low <= high")


def _check_sign(data: _Data) -> None:
    """DataError where the series is negative by more than errors can explain."""
    lowest = data.curve(data.curve.x).min()
    if lowest < -3 * data.noise:
        raise DataError(
            f"the smoothed series falls to {lowest:.3g}, but solutions are positive: give u itself, in which theta is "
            "the unit, not a standardised series"
        )


def _warn(found: Inference) -> None:
    if found.converged:
        return
    if found.misfit < 1:
        told = "it is too large, and so are the standard errors"
    else:
        told = (
            "the data are not explained, and the standard errors, scaled by that, mean little; free more parameters, "
            "look at the noise, or give ranges to scan"
        )
    warnings.warn(
        f"errors at the data are {found.misfit:.3g} times the given noise at the best equation found: {told}",
        stacklevel=3,
    )
