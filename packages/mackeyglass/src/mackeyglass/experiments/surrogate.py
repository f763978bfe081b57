"""Operators that replace the equation: next segment from history, and the attractor as a function of the parameters."""

from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from pydantic import NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory
from sciml.training import TrainerOptions
from torch import Tensor

from mackeyglass.experiments import PAPER
from mackeyglass.experiments.attractor_types import Attractors, draw_attractors, learn_attractors, simulate_attractors
from mackeyglass.experiments.common import Positive
from mackeyglass.experiments.lyapunov_map import CLEAR
from mackeyglass.forecasting import map_exponents, valid_prediction_time, wasserstein
from mackeyglass.lyapunov import ZERO, kaplan_yorke_dimension, lyapunov_spectrum
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.models import SegmentOperator
from mackeyglass.problems import Segments
from mackeyglass.segment_map import SegmentMap

Architecture = Literal["mlp", "deeponet", "fno"]

N, TAU = 10.0, 1.7
TRAINING_SHARE = 0.85  # of a long run, in time; what follows is for testing
PER_DELAY = 20  # times in a delay at which free runs are compared


@config
class Training:
    """AdamW, its rate rising and falling once (one cycle) to `learning_rate` in between."""

    epochs: PositiveInt = 60
    batch_size: PositiveInt = 256
    learning_rate: Positive = 2e-3


@config
class Plane:
    """Draws of (n, γτ) for operators that see them: `runs` with `windows` each, a tenth of the runs for testing."""

    runs: PositiveInt = 10_000
    windows: PositiveInt = 100
    n: tuple[Positive, Positive] = (6.0, 14.0)
    tau: tuple[Positive, Positive] = (1.0, 2.5)


@config
class Config:
    """Everything that determines the result.

    Windows come from one run of `delays` delays at (n, γτ) = (10, 1.7), about `segments` of them for training, from its
    first 85 %. Free runs begin at `starts` windows of the rest and last `horizon` delays; exponents of the learned maps
    are averages over `exponent_delays` from all starts. `plane` adds an operator that sees n and γτ.
    """

    seed: NonNegativeInt = 0
    architectures: tuple[Architecture, ...] = ("mlp",)
    width: PositiveInt = 256
    depth: PositiveInt = 3
    nodes: PositiveInt = 32
    delays: PositiveInt = 60_000
    transient: PositiveInt = 1000
    segments: PositiveInt = 20_000
    starts: PositiveInt = 20
    horizon: PositiveInt = 120
    exponent_delays: PositiveInt = 1000
    training: Training = Training()
    plane: Plane | None = None
    attractors: Attractors = Attractors()


def run(config: Config, run: RunDirectory) -> Report:
    """Train on windows of one run, test on what follows it; then attractors over the plane."""
    problem = Segments(
        n=(N, N),
        tau=(TAU, TAU),
        windows=round(config.segments / TRAINING_SHARE),
        delays=config.delays,
        transient=config.transient,
        nodes=config.nodes,
    )
    data = run.step("windows", lambda: problem.generate(1, run.seed("windows")).isel(run=0))
    train, test = _split(data, config.delays)
    exact, dimension = run.step("exponents", lambda: _exact(config, run.seed("exponents")))
    metrics = [Metric("λ1", "equation", exact), Metric("D_KY", "equation", dimension)]
    bars, runs = [], {}
    for architecture in config.architectures:
        model = _train(config, run, architecture, train)
        found = run.step(f"free-run-{architecture}", lambda m=model: _evaluate(config, m, test, exact))
        runs[architecture] = found
        metrics += [Metric(k, architecture, v) for k, v in found.items() if isinstance(v, float)]
    first = config.architectures[0]
    bars = [
        Bar(f"{first}: relative L2 error of the next segment", runs[first]["relative L2"], 1.5e-3),
        Bar(f"{first}: mean valid prediction time in Lyapunov times", runs[first]["valid prediction time"], 3.0, True),
        Bar(f"{first}: relative error of λ1 of the free run", abs(runs[first]["λ1"] / exact - 1), 0.1),
    ]
    if config.plane is not None:
        metrics += _conditioned(config, config.plane, run)
    atlas = run.step("attractors", lambda: simulate_attractors(config.attractors, run.seed("attractors")))
    attractor_map, found = learn_attractors(config.attractors, run, atlas)
    metrics += found
    run.figure("free-runs", _free_runs(runs))
    run.figure("attractors", draw_attractors(config.attractors, atlas, attractor_map))
    notes = [
        f"{train['history'].shape[0]} windows of the first {TRAINING_SHARE:.0%} of one run of {config.delays} delays "
        f"train, {test['history'].shape[0]} of the rest test. Free runs feed segments back; their valid prediction "
        "time ends where the error exceeds 0.4 standard deviations, in units of 1/λ1.",
        f"Attractor map: types are equilibrium (n below the Hopf curve), chaos (λ1 > {CLEAR}) or cycle; a fifth of the "
        "points tests. That an equilibrium is stable the map knows from the Hopf curve, which it sees; telling cycles "
        "from chaos it has learned. λ1 after a few hundred delays is that of a transient in places.",
    ]
    return Report(metrics, notes, bars)


def _split(data: xr.Dataset, delays: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Windows that end before 85 % of the run, and windows that begin after; those across are dropped."""
    bound = TRAINING_SHARE * delays
    parts = []
    for chosen in (data["time"].values + 1 < bound, data["time"].values - 1 >= bound):
        parts.append({name: torch.from_numpy(data[name].values[chosen]) for name in ("history", "following")})
    return parts[0], parts[1]


def _exact(config: Config, seed: int) -> tuple[float, float]:
    """λ₁ and the Kaplan–Yorke dimension of the equation."""
    delays = max(20, config.exponent_delays)
    found = lyapunov_spectrum(MackeyGlass(n=N, tau=TAU), 3, n_delays=delays, n_ensemble=16, seed=seed)
    return found.exponents[0, 0].item(), found.dimension[0].item()


def _loss(model: SegmentOperator, batch: dict[str, Tensor]) -> Tensor:
    """Mean square error in units of the variance."""
    return (model(batch["history"], batch.get("conditions")) - batch["following"]).square().mean() / model.scale.std**2


def _train(
    config: Config, run: RunDirectory, architecture: str, train: dict[str, Tensor], conditions: int = 0
) -> SegmentOperator:
    name = f"{architecture}-conditioned" if conditions else architecture
    torch.manual_seed(run.seed(f"weights-{name}"))
    width = config.width if architecture != "fno" else max(4, config.width // 8)
    model = SegmentOperator(
        config.nodes, architecture, width, config.depth, modes=min(16, config.nodes), conditions=conditions
    )
    batch = {key: value.float() for key, value in train.items()}
    model.set_normalization(batch["history"], batch.get("conditions"))
    options = config.training
    loader = BatchLoader(batch, min(options.batch_size, len(batch["history"])), run.seed(f"order-{name}"))
    run.train(
        name,
        model,
        lambda m, b: _loss(m, b).sum(),
        loader,
        TrainerOptions(epochs=options.epochs),
        lambda m: torch.optim.AdamW(m.parameters(), options.learning_rate),
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, options.learning_rate, total_steps=options.epochs * len(loader) + 1
        ),
    )
    return model.cpu().eval()


@torch.no_grad()
def _evaluate(config: Config, model: SegmentOperator, test: dict[str, Tensor], exponent: float) -> dict[str, Any]:
    """One-segment errors on all test windows; free runs and exponents from some of them."""
    history, following = test["history"], test["following"]
    predicted = model(history.float()).double()
    std = history.std(correction=0)
    step = max(1, len(history) // config.starts)
    start = history[::step][: config.starts]
    segment_map = SegmentMap(MackeyGlass(n=N, tau=TAU), config.nodes)
    times = torch.arange(1, config.horizon * PER_DELAY + 1, dtype=torch.float64) * (TAU / PER_DELAY)
    truth = segment_map.evaluate(segment_map.trajectory(start, config.horizon), times)
    run = segment_map.evaluate(model.free_run(start.float(), config.horizon).double(), times)
    valid = valid_prediction_time(run, truth, TAU / PER_DELAY, std, exponent=exponent)
    last = model.free_run(start.float(), config.horizon)[-1]
    exponents, _ = map_exponents(model, last, 3, config.exponent_delays)
    return {
        "relative L2": ((predicted - following).norm() / following.norm()).item(),
        "NRMSE": ((predicted - following).square().mean().sqrt() / std).item(),
        "valid prediction time": valid.mean().item(),
        "shortest valid prediction time": valid.min().item(),
        "λ1": exponents[:, 0].mean().item() / TAU,
        "D_KY": kaplan_yorke_dimension(exponents.mean(0), ZERO).item(),
        "Wasserstein distance": wasserstein(run[:, run.shape[1] // 2 :], history),
        "truth": truth[0],
        "run": run[0],
        "times": times,
        "valid": valid,
    }


def _conditioned(config: Config, plane: Plane, run: RunDirectory) -> list[Metric]:
    """An operator that sees (n, γτ), tested on draws of them that it has not seen."""
    problem = Segments(n=plane.n, tau=plane.tau, windows=plane.windows, transient=300, nodes=config.nodes)
    data = run.generate("plane", problem, plane.runs).load()
    conditions = torch.from_numpy(np.stack([data["n"].values, data["tau"].values], -1))
    held = max(1, plane.runs // 10)
    parts = []
    for rows in (slice(held, None), slice(0, held)):
        part = {name: torch.from_numpy(data[name].values[rows]).flatten(0, 1) for name in ("history", "following")}
        part["conditions"] = conditions[rows].repeat_interleave(plane.windows, 0)
        parts.append(part)
    model = _train(config, run, config.architectures[0], parts[0], 2)
    test = parts[1]
    with torch.no_grad():
        predicted = model(test["history"].float(), test["conditions"].float()).double()
    error = (predicted - test["following"]).unflatten(0, (held, -1)).flatten(1).norm(dim=1)
    relative = error / test["following"].unflatten(0, (held, -1)).flatten(1).norm(dim=1)
    name = f"{config.architectures[0]}, sees n and γτ"
    return [
        Metric("relative L2", name, relative.mean().item()),
        Metric("relative L2, worst draw", name, relative.max().item()),
    ]


def _free_runs(runs: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 2.4 * len(runs) + 0.3), layout="constrained")
    axes = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    for axis, (name, found) in zip(axes, runs.items(), strict=True):
        shown = slice(0, 60 * PER_DELAY)
        axis.plot(found["times"][shown], found["truth"][shown], color="k", linewidth=1, label="equation")
        axis.plot(found["times"][shown], found["run"][shown], color="C1", linestyle="--", linewidth=1, label="free run")
        axis.set(title=f"{name}: one test window", ylabel="u")
        axis.legend(loc="upper right", fontsize="small")
    axes[-1].set(xlabel="time")
    return figure


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            width=16,
            depth=1,
            nodes=24,
            delays=60,
            transient=20,
            segments=100,
            starts=2,
            horizon=5,
            exponent_delays=10,
            training=Training(epochs=2, batch_size=50),
            plane=Plane(runs=4, windows=3),
            attractors=Attractors(points=30, delays=20, transient=100, epochs=2),
        ),
        "small": Config(),
        "paper": Config(
            architectures=("mlp", "deeponet", "fno"),
            exponent_delays=5000,
            training=Training(epochs=200),
            plane=Plane(),
            attractors=Attractors(points=20_000, delays=2000, transient=1000),
        ),
    },
    paper=PAPER,
)
