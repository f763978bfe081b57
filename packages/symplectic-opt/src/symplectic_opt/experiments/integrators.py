"""Integrators compared: their orders, and their error for the gradients they take (arXiv 2207.11460)."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory

from symplectic_opt.bregman import BregmanSystem, Exponential, Polynomial
from symplectic_opt.clocks import Adaptive, growing_steps, matched_rate
from symplectic_opt.experiments import PAPER
from symplectic_opt.integrators import step_htvi, step_rk4, step_slc, step_sv

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Step = Callable[..., tuple[Any, Any, Any]]

STEPS: dict[str, tuple[Step, int]] = {
    "HTVI": (step_htvi, 1),
    "SLC": (step_slc, 2),
    "SV": (step_sv, 2),
    "RK4": (step_rk4, 4),
}
SYSTEMS: dict[str, BregmanSystem] = {
    "polynomial p=2": Polynomial(2.0, 0.25),
    "exponential η=1": Exponential(1.0, 0.25),
    "adaptive, p=4 to 2": growing_steps(Polynomial(4.0, 0.1), 2.0),
    "adaptive, η=0.5 to p=2": matched_rate(Exponential(0.5, 0.25), 2.0),
}
CURVATURES = np.logspace(-1, 0, 5)  # of the quadratic function


@config
class Config:
    """Everything that determines the result: f = ½ Σ kᵢxᵢ², solved from rest at t = 1 for a time `length`.

    `steps` are the numbers of steps, `accuracies` the errors for which the gradients are counted.
    """

    seed: NonNegativeInt = 0
    length: Positive = 3.0
    steps: tuple[PositiveInt, ...] = (3, 6, 12, 25, 50, 100, 200, 400, 800, 1600, 3200)
    accuracies: tuple[Positive, ...] = (1e-2, 1e-4, 1e-6)

    def __post_init__(self) -> None:
        if len(self.steps) < 2 or list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps={self.steps} must be at least two numbers that increase")


def error(step: Step, system: BregmanSystem, n: int, length: float) -> float:
    """Largest error of x after n steps of that length of t together; of x at the time that the integrator is at."""
    h, x0 = _width(system, length) / n, np.ones(len(CURVATURES))
    q, r, t = x0, np.zeros_like(x0), 1.0
    for _ in range(n):
        q, r, t = step(system, q, r, t, h, lambda x: CURVATURES * x)
    solved = system.system if isinstance(system, Adaptive) else system
    return float(abs(q - solved.exact_quadratic(CURVATURES, 1.0, x0, 0.0, t)).max())


def gradients(name: str, n: int) -> int:
    """Gradients of n steps: the two half kicks between steps are one."""
    return {"HTVI": n, "SLC": n + 1, "SV": n + 1, "RK4": 4 * n}[name]


def run(config: Config, run: RunDirectory) -> Report:
    """Measure the errors of every integrator on every system, against the solution by Bessel functions."""
    found = run.step("errors", lambda: _errors(config))["error"]
    run.figure("efficiency", efficiency(found))
    metrics, bars = [], []
    for system in SYSTEMS:
        for name, (_, expected) in STEPS.items():
            errors, subject = found.sel(system=system, integrator=name).values, f"{name}, {system}"
            order = measured_order(np.array(config.steps), errors)
            metrics.append(Metric("order", subject, order))
            metrics.append(Metric(f"error after {config.steps[-1]} steps", subject, float(errors[-1])))
            for accuracy in config.accuracies:
                count = needed([gradients(name, n) for n in config.steps], errors, accuracy)
                metrics.append(Metric(f"gradients for {accuracy:g}", subject, count))
            bars.append(Bar(f"{subject}: order minus {expected}, magnitude", abs(order - expected), 0.05))
    notes = [
        f"f = ½ Σ kᵢxᵢ² with {len(CURVATURES)} curvatures from {CURVATURES[0]:g} to {CURVATURES[-1]:g}, from 1 at rest "
        f"at t = 1 to t = {1 + config.length:g}; the error is the largest of a component, at the time at which the "
        "integrator is then. The adaptive HTVI steps time by Euler's method and arrives a little earlier or later.",
        "order is the slope between the two finest numbers of steps whose errors lie above rounding (1e-10). Gradients "
        "for an error are interpolated; inf where no number of steps reached it. RK4, which is not symplectic, takes "
        "four gradients a step.",
    ]
    return Report(metrics, notes, bars)


def measured_order(steps: np.ndarray, errors: np.ndarray) -> float:
    """Slope of the errors between the two finest step sizes that are not spoilt by rounding."""
    good = np.flatnonzero(errors > 1e-10)
    if len(good) < 2:
        return math.nan
    i, j = good[-2:]
    return float(np.log(errors[i] / errors[j]) / np.log(steps[j] / steps[i]))


def needed(counts: list[int], errors: np.ndarray, accuracy: float) -> float:
    """Gradients at which the error falls to `accuracy` for good, interpolated on log axes."""
    reached = errors <= accuracy
    if not reached[-1]:
        return math.inf
    first = len(reached) - int(np.argmin(reached[::-1])) if not reached.all() else 0
    if first == 0:
        return float(counts[0])
    logs = np.log(errors[[first, first - 1]])
    return float(np.exp(np.interp(np.log(accuracy), logs, np.log([counts[first], counts[first - 1]]))))


def efficiency(found: xr.DataArray) -> Figure:
    """Error against gradient evaluations, one panel a system."""
    figure = Figure(figsize=(3.4 * len(SYSTEMS), 3.5), layout="constrained")
    axes = figure.subplots(1, len(SYSTEMS), squeeze=False, sharey=True)[0]
    for axis, system in zip(axes, SYSTEMS, strict=True):
        for name in STEPS:
            counts = [gradients(name, int(n)) for n in found.steps]
            axis.loglog(counts, found.sel(system=system, integrator=name), "o-", markersize=3, label=name)
        axis.set(title=system, xlabel="gradient evaluations")
    axes[0].set(ylabel="error of x")
    axes[-1].legend(fontsize="small")
    return figure


def _width(system: BregmanSystem, length: float) -> float:
    """The step of the system's own time by which t goes from 1 to 1 + length."""
    low, high = 0.0, 1.0
    while system.flow(1.0, high) < 1 + length:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if system.flow(1.0, middle) < 1 + length else (low, middle)
    return high


def _errors(config: Config) -> xr.Dataset:
    values = [
        [[error(step, system, n, config.length) for n in config.steps] for step, _ in STEPS.values()]
        for system in SYSTEMS.values()
    ]
    axes = {"system": list(SYSTEMS), "integrator": list(STEPS), "steps": list(config.steps)}
    return xr.Dataset({"error": (tuple(axes), np.array(values))}, axes)


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(steps=(50, 100, 200)),
        "small": Config(),
        "paper": Config(steps=tuple(3 * 2**i for i in range(15))),
    },
    paper=PAPER,
)
