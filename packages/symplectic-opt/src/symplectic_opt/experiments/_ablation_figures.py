"""Figures of the ablation: convergence, the effect of restarts in phase space, and what happens after convergence."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from symplectic_opt.minimize import DIVERGED, minimize
from symplectic_opt.problems import Log2d, Quadratic

__all__ = ["after_convergence", "convergence", "latest", "looping", "restarts"]

FLOOR = 1e-16  # f - f* that is drawn where it is zero, or negative by rounding


def convergence(traces: Mapping[str, Mapping[str, Tensor]], labels: Sequence[str], tolerance: float) -> Figure:
    """f - f* against iterations of each method's best cell, a panel for each function."""
    figure = Figure(figsize=(4.2 * len(traces) + 2.5, 3.6), layout="constrained")
    axes = figure.subplots(1, len(traces), squeeze=False)[0]
    for axis, (name, runs) in zip(axes, traces.items(), strict=True):
        for i, label in enumerate(labels):
            gaps = np.maximum(runs[label].numpy(), FLOOR)
            axis.loglog(np.arange(len(gaps)), gaps, label=label, color=f"C{i}", linewidth=1)
        axis.axhline(tolerance, color="k", linewidth=0.5, linestyle=":")
        start = max(float(runs[label][0]) for label in labels)
        axis.set(title=name, xlabel="iteration", ylim=(tolerance * 1e-3, 1e3 * start))
    axes[0].set(ylabel="f - f*")
    axes[-1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def restarts() -> Figure:
    """Two components of curvatures 1 and 0.02 with and without gradient restarts: path, phase plane and f - f*."""
    problem, start = Quadratic(dimension=2, condition=50.0, rotated=False), torch.ones(2, dtype=torch.float64)
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    path, phase, values = figure.subplots(1, 3)
    for label, restart, style in (("no restart", None, "C3.-"), ("gradient restart", "gradient", "C0.-")):
        points = [start.numpy()]
        found = minimize(
            problem.function(), start, C=1.0, h=10.0, restart=restart, temporal_looping=True, gtol=0.0, ftol=0.0,
            max_iter=120, callback=lambda state, points=points: points.append(state.x.numpy()),
        )  # fmt: skip
        x = np.stack(points)
        options: dict[str, Any] = {"markersize": 3, "linewidth": 0.7, "label": label}
        path.plot(x[:, 0], x[:, 1], style, **options)
        phase.plot(x[1:, 0], np.diff(x[:, 0]), style, **options)
        values.semilogy(np.arange(1, len(x)), found.trace.f, style, **options)
    path.set(xlabel="x₁, curvature 0.02", ylabel="x₂, curvature 1")
    phase.set(xlabel="x₁", ylabel="displacement of x₁")
    values.set(xlabel="iteration", ylabel="f - f*")
    values.legend(fontsize="small")
    return figure


def after_convergence(iterations: int) -> dict[str, Float[Tensor, " iteration"]]:
    """f - f* on log2d by gradient restarts at h = 4, with and without temporal looping; a lost run ends early."""
    problem, found = Log2d(), {}
    for label, looping in (("expo SLC, gradient restart, loop", True), ("expo SLC, gradient restart", False)):
        run = minimize(
            problem.function(), problem.start, C=1.0, h=4.0, temporal_looping=looping, gtol=0.0, ftol=0.0,
            max_iter=iterations,
        )  # fmt: skip
        gaps = torch.from_numpy(run.trace.f.values - problem.minimum)
        found[label] = gaps if run.status != DIVERGED else torch.cat([gaps, torch.tensor([math.inf], dtype=gaps.dtype)])
    return found


def latest(gaps: Tensor) -> float:
    """The largest f - f* of the second half."""
    return float(gaps[len(gaps) // 2 :].max())


def looping(found: Mapping[str, Tensor]) -> Figure:
    """f - f* long after convergence."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    for label, gaps in found.items():
        axis.loglog(np.arange(1, len(gaps) + 1), gaps.clamp(FLOOR), label=label, linewidth=0.8)
    axis.set(xlabel="iteration", ylabel="f - f*", title="log2d, C = 1, h = 4")
    axis.legend(fontsize="small")
    return figure
