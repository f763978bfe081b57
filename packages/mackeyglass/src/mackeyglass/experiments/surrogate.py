"""Operators that replace the equation: next segment from history, and the attractor as a function of the parameters."""

from typing import Annotated, Any, Literal

import numpy as np
import torch
import xarray as xr
from matplotlib import colormaps
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory
from sciml.training import TrainerOptions
from torch import Tensor

from mackeyglass.experiments import PAPER
from mackeyglass.experiments.common import Positive
from mackeyglass.forecasting import map_exponents, valid_prediction_time, wasserstein
from mackeyglass.hopf import hopf_curve
from mackeyglass.lyapunov import ZERO, kaplan_yorke_dimension, lyapunov_spectrum
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.models import AttractorMap, SegmentOperator
from mackeyglass.models.attractor_map import TYPES
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
class Attractors:
    """Random points (n, γτ), a fifth for testing, with λ₁ over `delays` delays."""

    points: PositiveInt = 1500
    delays: Annotated[int, Field(ge=20)] = 400
    transient: Annotated[int, Field(ge=100)] = 300
    n: tuple[Positive, Positive] = (4.5, 14.0)
    tau: tuple[Positive, Positive] = (1.0, 2.5)
    epochs: PositiveInt = 400


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
    train, test = _split(data)
    exact, dimension = run.step("exponents", lambda: _exact(config))
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
    atlas = run.step("attractors", lambda: _attractors(config.attractors, run.seed("attractors")))
    predicted = _map(config, run, atlas)
    metrics += predicted["metrics"]
    run.figure("free-runs", _free_runs(runs))
    run.figure("attractors", _attractor_figure(config.attractors, atlas, predicted))
    notes = [
        f"{train['history'].shape[0]} windows of the first {TRAINING_SHARE:.0%} of one run of {config.delays} delays "
        f"train, {test['history'].shape[0]} of the rest test. Free runs feed segments back; their valid prediction "
        "time ends where the error exceeds 0.4 standard deviations, in units of 1/λ1.",
        "Attractor map: types are equilibrium (n below the Hopf curve), chaos (λ1 > 0.01) or cycle; a fifth of the "
        "points tests. That an equilibrium is stable the map knows from the Hopf curve, which it sees; telling cycles "
        "from chaos it has learned. λ1 after a few hundred delays is that of a transient in places.",
    ]
    return Report(metrics, notes, bars)


def _split(data: xr.Dataset) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Windows that end before 85 % of the run, and windows that begin after; those across are dropped."""
    bound = TRAINING_SHARE * float(np.ceil(data["time"].values.max() + 1))
    parts = []
    for chosen in (data["time"].values + 1 < bound, data["time"].values - 1 >= bound):
        parts.append({name: torch.from_numpy(data[name].values[chosen]) for name in ("history", "following")})
    return parts[0], parts[1]


def _exact(config: Config) -> tuple[float, float]:
    """λ₁ and the Kaplan–Yorke dimension of the equation."""
    delays = max(20, config.exponent_delays)
    found = lyapunov_spectrum(MackeyGlass(n=N, tau=TAU), 3, n_delays=delays, n_ensemble=16)
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


def _attractors(config: Attractors, seed: int) -> dict[str, Tensor]:
    """λ₁ and type at random points."""
    random = torch.Generator().manual_seed(seed)
    draws = torch.rand(config.points, 2, generator=random, dtype=torch.float64)
    low, high = torch.tensor([config.n, config.tau], dtype=torch.float64).unbind(-1)
    points = low + (high - low) * draws
    system = MackeyGlass(n=points[:, 0].contiguous(), tau=points[:, 1].contiguous())
    found = lyapunov_spectrum(system, 1, n_delays=config.delays, n_transient=config.transient, n_ensemble=1)
    exponent = found.exponents[:, 0]
    below = system.n < hopf_curve(system)[0]  # where the equilibrium is stable
    kind = torch.where(exponent > 0.01, 2, torch.where(below, 0, 1))
    return {"points": points, "exponent": exponent, "type": kind}


def _map(config: Config, run: RunDirectory, atlas: dict[str, Tensor]) -> dict[str, Any]:
    """Train the attractor map, and test it on every fifth point."""
    torch.manual_seed(run.seed("weights-map"))
    model = AttractorMap()
    test = torch.arange(len(atlas["points"])) % 5 == 0
    model.set_normalization(atlas["points"][~test])
    loader = BatchLoader({key: value[~test] for key, value in atlas.items()}, 100, run.seed("order-map"))
    options = TrainerOptions(epochs=config.attractors.epochs)
    steps = options.epochs * len(loader) + 1

    def loss(model: AttractorMap, batch: dict[str, Tensor]) -> Tensor:
        out = model(batch["points"])
        # exponents have a scale of a tenth
        return torch.nn.functional.cross_entropy(out[:, :3], batch["type"]) + 100 * (
            (out[:, 3] - batch["exponent"].clamp(min=-0.2)).square().mean()
        )

    run.train(
        "attractor-map",
        model,
        loss,
        loader,
        options,
        lambda m: torch.optim.AdamW(m.parameters(), 3e-3, weight_decay=1e-3),
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 3e-3, total_steps=steps),
    )
    model.cpu()
    with torch.no_grad():
        out = model(atlas["points"][test])
        right = out[:, :3].argmax(-1) == atlas["type"][test]
        error = (out[:, 3] - atlas["exponent"][test].clamp(min=-0.2)).abs().mean().item()
    # which points have an equilibrium, the model is told by the Hopf curve
    moving = atlas["type"][test] > 0
    metrics = [
        *_shares("type is right", right, atlas["type"][test]),
        *_shares("cycle or chaos is right", right[moving], atlas["type"][test][moving]),
        Metric("mean error of λ1", "attractor map, test points", error),
    ]
    return {"metrics": metrics, "model": model}


def _shares(name: str, right: Tensor, kind: Tensor) -> list[Metric]:
    """How often the map is right, and the most frequent type would be."""
    most = torch.bincount(kind, minlength=len(TYPES)).max()
    return [
        Metric(name, "attractor map, test points", right.double().mean().item()),
        Metric(name, "most frequent type", (most / len(kind)).item()),
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


def _attractor_figure(config: Attractors, atlas: dict[str, Tensor], predicted: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    n, tau = (np.linspace(*ends, 120) for ends in (config.n, config.tau))
    grid = torch.cartesian_prod(torch.from_numpy(n), torch.from_numpy(tau))
    with torch.no_grad():
        out = predicted["model"](grid).unflatten(0, (120, 120)).transpose(0, 1)
    exponent, kind = out[..., 3].numpy(), out[..., :3].argmax(-1).numpy()
    scale: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -0.12, "vmax": 0.12}
    left.scatter(*atlas["points"].numpy().T, c=atlas["exponent"].numpy(), s=6, **scale)
    image = middle.pcolormesh(n, tau, exponent, rasterized=True, **scale)
    figure.colorbar(image, ax=middle, label=r"$\lambda_1$")
    three = colormaps["viridis"].resampled(3)
    types = right.pcolormesh(n, tau, kind, cmap=three, vmin=-0.5, vmax=2.5, rasterized=True)
    bar = figure.colorbar(types, ax=right, ticks=[0, 1, 2])
    bar.ax.set_yticklabels(TYPES)
    left.set(title=r"simulated $\lambda_1$", ylabel=r"$\gamma\tau$")
    middle.set(title=r"predicted $\lambda_1$")
    right.set(title="predicted type")
    for axis in (left, middle, right):
        axis.set(xlabel="n", xlim=config.n, ylim=config.tau)
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
