"""Parameters of the equation from noisy series of its chaos."""

import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory

from mackeyglass.experiments import PAPER
from mackeyglass.experiments.common import Positive
from mackeyglass.inference import infer_parameters
from mackeyglass.linearisation import numbers
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.simulation import simulate

Share = Annotated[float, Field(ge=0, lt=1)]
Name = Literal["n", "tau", "beta", "gamma"]
WITHIN = 0.005  # relative error that counts as found


@config
class Config:
    """Everything that determines the result.

    `draws` series of `delays` delays after `transient` ones, `per_delay` samples in each, with normal errors of `noise`
    standard deviations; n and τ are drawn from their ranges, β = 2, γ = 1. Starts are wrong in each of the parameters
    `free` by up to `start_error`, either way. `basin` × `basin` more starts, for the series with the longest delay, are
    wrong by factors up to two in n and τ.
    """

    seed: NonNegativeInt = 0
    draws: PositiveInt = 20
    delays: Annotated[int, Field(ge=5)] = 50
    transient: PositiveInt = 100
    per_delay: Annotated[int, Field(ge=8)] = 20
    noise: Positive = 0.01
    n: tuple[Positive, Positive] = (7.0, 12.0)
    tau: tuple[Positive, Positive] = (1.2, 2.4)
    free: tuple[Name, ...] = ("n", "tau")
    start_error: Share = 0.15
    basin: NonNegativeInt = 0


def run(config: Config, run: RunDirectory) -> Report:
    """Infer the parameters of every draw, and look at the errors."""
    series = run.step("series", lambda: _series(config, run.seed("series")))
    draws = [run.step(f"draw-{i}", lambda i=i: _draw(config, series, i)) for i in range(config.draws)]
    metrics, bars = [], []
    for name in config.free:
        error = np.abs([draw[name] / draw["truth"][name] - 1 for draw in draws])
        spread = np.array([draw[name] - draw["truth"][name] for draw in draws]) / [
            draw["stderr"][name] for draw in draws
        ]
        metrics += [
            Metric("median relative error", name, float(np.median(error))),
            Metric("largest relative error", name, float(error.max())),
            Metric("median of |error| in standard errors", name, float(np.median(np.abs(spread)))),
        ]
        if set(config.free) == {"n", "tau"}:
            bars.append(Bar(f"largest relative error of {name} in {config.draws} draws", float(error.max()), WITHIN))
        else:  # of cycles, four parameters are known less well than that
            bars.append(
                Bar(f"median relative error of {name} in {config.draws} draws", float(np.median(error)), WITHIN)
            )
    misfits = [draw["misfit"] for draw in draws]
    metrics += [
        Metric("misfit in units of the noise, largest", "all draws", max(misfits)),
        Metric("draws whose start led nowhere", "all draws", float(sum(draw["scanned"] for draw in draws))),
        Metric("mean number of steps", "all draws", float(np.mean([draw["iterations"] for draw in draws]))),
    ]
    run.figure("errors", _errors(config, draws))
    run.figure("series", _example(series))
    if config.basin:
        cells = [run.step(f"basin-{i}", lambda i=i: _basin_row(config, series, i)) for i in range(config.basin)]
        basin = np.array([[float(v) for v in row["kind"]] for row in cells])
        run.figure("basin", _basin_figure(config, basin))
        metrics += [
            Metric("share of starts that lead to the truth", "basin", float((basin == 2).mean())),
            Metric("share with a start from the grid", "basin", float((basin == 1).mean())),
        ]
    notes = [
        f"Series of {config.delays} delays, Δt = τ/{config.per_delay}, noise {config.noise:.0%} of the standard "
        f"deviation; starts wrong by up to {config.start_error:.0%}. β and γ are known unless they are inferred "
        "too. Standard errors are those of the linearised problem. Starts of the basin count as leading to the truth "
        f"where all errors are below {WITHIN:.1%} or three standard errors.",
    ]
    return Report(metrics, notes, bars)


def _series(config: Config, seed: int) -> dict[str, Any]:
    """Noisy series (draw, time), their parameters, and where the inference begins (draw, parameter), as factors."""
    random = np.random.default_rng(seed)
    n, tau = random.uniform(*config.n, config.draws), random.uniform(*config.tau, config.draws)
    history, steps = random.uniform(0.5, 1.3, config.draws), config.delays * config.per_delay
    clean = []
    for a, b, c in zip(n.tolist(), tau.tolist(), history.tolist(), strict=True):
        times = b * (config.transient + np.arange(steps + 1) / config.per_delay)
        clean.append(
            simulate(MackeyGlass(n=a, tau=b), c, (0.0, times[-1]), saveat=times, n_per_delay=48)["u"].values[0]
        )
    u = np.stack(clean)
    noise = config.noise * u.std(axis=1)
    noisy = u + noise[:, None] * random.standard_normal(u.shape)
    start = 1 + config.start_error * random.uniform(-1, 1, (config.draws, 4))
    values = {"n": n, "tau": tau, "noise": noise, "clean": u, "noisy": noisy, "start": start}
    return {name: torch.from_numpy(value) for name, value in values.items()}


def _draw(config: Config, series: dict[str, Any], i: int) -> dict[str, Any]:
    truth = {"n": series["n"][i].item(), "tau": series["tau"][i].item(), "beta": 2.0, "gamma": 1.0}
    factors = dict(zip(truth, series["start"][i].tolist(), strict=True))
    start = MackeyGlass(**{k: v * (factors[k] if k in config.free else 1.0) for k, v in truth.items()})
    return _infer(config, series, i, start, truth)


def _infer(
    config: Config, series: dict[str, Any], i: int, start: MackeyGlass, truth: dict[str, float]
) -> dict[str, Any]:
    dt, noise = truth["tau"] / config.per_delay, series["noise"][i].item()
    found = infer_parameters(series["noisy"][i], dt, start, noise=noise, free=config.free)
    values = {name: value for name, value in numbers(found.system).items() if name in truth}
    details = {"misfit": found.misfit, "scanned": found.scanned, "iterations": found.iterations}
    return {**values, "truth": truth, "stderr": dict(found.stderr), **details}


def _basin_factors(config: Config) -> np.ndarray:
    return np.geomspace(0.5, 2.0, config.basin)


def _basin_row(config: Config, series: dict[str, Any], i: int) -> dict[str, Any]:
    """2 where the start leads to the truth, 1 where one from the grid does, 0 where none does; one value of n."""
    draw = int(series["tau"].argmax())
    truth = {"n": series["n"][draw].item(), "tau": series["tau"][draw].item(), "beta": 2.0, "gamma": 1.0}
    factors, kinds = _basin_factors(config), []
    for factor in factors.tolist():
        n = max(1.5, truth["n"] * float(factors[i]))
        found = _infer(config, series, draw, MackeyGlass(n=n, tau=truth["tau"] * factor), truth)
        error = {name: abs(found[name] - truth[name]) for name in config.free}
        right = all(error[name] < max(WITHIN * truth[name], 3 * found["stderr"][name]) for name in config.free)
        kinds.append((1 if found["scanned"] else 2) if right else 0)
    return {"kind": kinds}


def _errors(config: Config, draws: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(4.2 * len(config.free), 3.6), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(config.free), squeeze=False)[0], config.free):
        truth = np.array([draw["truth"][name] for draw in draws])
        error = np.array([draw[name] for draw in draws]) / truth - 1
        bars = np.array([draw["stderr"][name] for draw in draws]) / truth
        order = np.argsort(truth) if np.ptp(truth) else np.arange(len(truth))
        x = truth[order] if np.ptp(truth) else np.arange(len(truth))
        axis.errorbar(x, error[order], 2 * bars[order], fmt=".", capsize=2)
        axis.axhline(0, color="k", linewidth=0.7)
        axis.set(
            xlabel=f"true {name}" if np.ptp(truth) else "draw", ylabel="relative error", title=f"{name} (bars: 2 s.e.)"
        )
        if (np.abs(error) > WITHIN).any():
            axis.set_yscale("symlog", linthresh=WITHIN)
    return figure


def _example(series: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axis = figure.subplots()
    shown = min(300, series["noisy"].shape[1])
    axis.plot(series["clean"][0, :shown], color="k", linewidth=0.8, label="solution")
    axis.plot(series["noisy"][0, :shown], ".", color="C1", markersize=3, label="data")
    n, tau = series["n"][0].item(), series["tau"][0].item()
    axis.set(xlabel="sample", ylabel="u", title=f"First draw: n = {n:.3f}, τ = {tau:.3f}")
    axis.legend(loc="upper right", fontsize="small")
    return figure


def _basin_figure(config: Config, basin: np.ndarray) -> Figure:
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axis = figure.subplots()
    factors = _basin_factors(config)
    step = math.sqrt(factors[1] / factors[0]) if len(factors) > 1 else 2.0
    edges = np.append(factors / step, factors[-1] * step)
    image = axis.pcolormesh(edges, edges, basin, cmap=colormaps["viridis"].resampled(3), vmin=-0.5, vmax=2.5)
    bar = figure.colorbar(image, ax=axis, ticks=[0, 1, 2])
    bar.ax.set_yticklabels(["not found", "found from the grid", "found from the start"])
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="τ of the start / τ",
        ylabel="n of the start / n",
        title="Starts, longest delay",
    )
    return figure


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(draws=1, delays=8, transient=20, start_error=0.05),
        "small": Config(),
        "paper": Config(draws=100, free=("n", "tau", "beta", "gamma"), basin=15),
    },
    paper=PAPER,
)
