"""A neural delay equation learns the production from data, and is then analysed like any equation."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory
from sciml.training import TrainerOptions
from torch import Tensor, nn

from mackeyglass.branch import continue_branch, locate
from mackeyglass.equation import DDE
from mackeyglass.errors import ContinuationError
from mackeyglass.experiments import PAPER
from mackeyglass.experiments.common import Positive
from mackeyglass.experiments.segment_loss import UNIT, SegmentLoss, WindowLoss
from mackeyglass.lyapunov import lyapunov_spectrum
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.models import NeuralDDE
from mackeyglass.orbits import PeriodicOrbit
from mackeyglass.segment_map import SegmentMap

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

N, TAU = 9.65, 2.0
HELD_OUT = "error of segments held out"
# where branches begin, on stable cycles, and the interval in which they double first
DOUBLINGS = {"tau": ({"n": N, "tau": 1.25}, (1.2, 1.6)), "n": ({"n": 7.0, "tau": TAU}, (6.8, 8.0))}


@config
class Training:
    """L-BFGS on all segments at once: `epochs` of `iterations` each."""

    epochs: PositiveInt = 25
    iterations: PositiveInt = 20


@config
class Config:
    """Everything that determines the result.

    `series` of `delays` delays from random constant histories, every fifth for testing, after `transient` delays that
    are dropped. For each `noise` (in standard deviations, added to all values) a model learns series at n = 9.65. One
    more sees n and learns series spread over the range `n`, and one begins with a delay that is wrong by the share
    `unknown_delay` (0: none). Exponents are averages over `exponent_delays` delays; without `doublings` no branch is
    followed.
    """

    seed: NonNegativeInt = 0
    series: Annotated[int, Field(ge=5)] = 8
    delays: PositiveInt = 200
    transient: NonNegativeInt = 100
    noise: tuple[NonNegative, ...] = (0.0,)
    n: tuple[Positive, Positive] = (6.5, 10.0)
    unknown_delay: NonNegative = 0.05
    hidden: tuple[PositiveInt, ...] = (32, 32)
    nodes: PositiveInt = 32
    training: Training = Training()
    exponent_delays: PositiveInt = 1000
    doublings: bool = True

    def __post_init__(self) -> None:
        if not 1 < self.n[0] < self.n[1]:
            raise ValueError(f"n={self.n} must increase, from above 1")


def run(config: Config, run: RunDirectory) -> Report:
    """Learn, compare functions and exponents, and follow the cycles of the learned equations to their doubling."""
    truth = run.step("equation", lambda: _equation(config, run.seed("equation")))
    metrics = [Metric(name, "equation", value) for name, value in truth.items()]
    bars: list[Bar] = []
    curves: dict[str, Any] = {}
    for noise in config.noise:
        subject = f"noise {noise:.3g}"
        data = run.step(f"data-{noise:g}", lambda x=noise: _data(config, run.seed("data"), [N] * config.series, x))
        model = _train(config, run, f"fixed-{noise:g}", data, ())
        found = run.step(f"analysis-{noise:g}", lambda m=model, d=data: _analysis(config, m, d, run.seed("analysis")))
        curves[subject] = found
        if noise == 0:
            bars += [
                Bar("relative L2 error of the production on the visited range", found["error of f"], 1e-3),
                Bar("relative error of λ1", abs(found["λ1"] / truth["λ1"] - 1), 0.05),
            ]
        metrics += [Metric(name, subject, value) for name, value in found.items() if isinstance(value, float)]
        bars += _doubling_bars(found, truth, subject) if noise == 0 else []
    spread = np.linspace(*config.n, config.series).tolist()
    data = run.step("data-n", lambda: _data(config, run.seed("data"), spread, 0.0))
    model = _train(config, run, "conditioned", data, ("n",))
    found = run.step(
        "analysis-n",
        lambda: {
            HELD_OUT: _held_out(config, model, data),
            "PD1 in n": _doubling(model.detached(n=7.0), "n") if config.doublings else None,
        },
    )
    metrics += [Metric(name, "model that sees n", value) for name, value in found.items() if value is not None]
    bars += _doubling_bars(found, truth, "model that sees n")
    if config.unknown_delay:
        tau = _train_delay(config, run)
        metrics.append(Metric("relative error of τ", f"first {config.unknown_delay:.0%} wrong", abs(tau / TAU - 1)))
    run.figure("production", _figure(curves))
    notes = [
        f"{config.series} series of {config.delays} delays, every fifth for testing; the loss is the error of whole "
        "segments, each predicted from the one before; that of segments held out is the root mean square over the test "
        "series, in standard deviations, with the noise of the data. The error of f is over equally spaced values of "
        "the range that the test series visit, the weighted one over the values as they are visited.",
        "PD1 in tau: the first period doubling of the cycle of the learned equation at n = 9.65, by continuation in τ "
        "of a model that saw series at τ = 2 only. PD1 in n: at τ = 2, of the model that sees n and learnt series with "
        f"n = {', '.join(f'{n:.3g}' for n in _of(spread, test=False))}.",
    ]
    return Report(metrics, notes, bars)


def _of(series: Sequence[Any], *, test: bool) -> list[Any]:
    """Every fifth series is for testing, from the third on."""
    return [one for i, one in enumerate(series) if (i % 5 == 2) == test]


def _equation(config: Config, seed: int) -> dict[str, float]:
    values = _exponents(config, MackeyGlass(n=N, tau=TAU), seed)
    if config.doublings:
        values |= {f"PD1 in {name}": _doubling(MackeyGlass(n=N, tau=TAU), name) for name in DOUBLINGS}
    return values


def _exponents(config: Config, system: DDE, seed: int) -> dict[str, float]:
    delays = max(config.exponent_delays, 20)
    found = lyapunov_spectrum(system, 4, n_delays=delays, n_transient=500, seed=seed, history=0.9)
    return {"λ1": found.exponents[0, 0].item(), "D_KY": found.dimension.item()}


def _data(config: Config, seed: int, n: list[float], noise: float) -> dict[str, Tensor]:
    """Segments (time, series, nodes) of series with these n."""
    random = torch.Generator().manual_seed(seed)
    values = torch.tensor(n, dtype=torch.float64)
    segment_map = SegmentMap(MackeyGlass(n=values, tau=TAU), config.nodes)
    U = segment_map.history(0.5 + 0.8 * torch.rand(len(n), 1, generator=random, dtype=torch.float64))
    for _ in range(config.transient):
        U = segment_map(U)
    segments = torch.cat([U[None], segment_map.trajectory(U, config.delays)])
    std = segments.std()
    if noise:
        segments = segments + noise * std * torch.randn(segments.shape, generator=random, dtype=torch.float64)
    return {"segments": segments, "n": values, "std": std}


def _pairs(data: dict[str, Tensor], conditions: Sequence[str], *, test: bool) -> dict[str, Tensor]:
    """Histories and the segments that follow them, of the series for testing or of all others."""
    chosen = _of(range(data["segments"].shape[1]), test=test)
    segments = data["segments"][:, chosen]
    pairs = {"history": segments[:-1].flatten(0, 1), "following": segments[1:].flatten(0, 1)}
    if conditions:
        pairs["conditions"] = data["n"][chosen].repeat(len(segments) - 1)[:, None]
    return pairs


def _loss(config: Config, data: dict[str, Tensor]) -> SegmentLoss:
    return SegmentLoss(data["std"].item(), SegmentMap(MackeyGlass(n=N, tau=TAU), config.nodes).weights)


def _train(
    config: Config, run: RunDirectory, name: str, data: dict[str, Tensor], conditions: tuple[str, ...]
) -> NeuralDDE:
    torch.manual_seed(run.seed(f"weights-{name}"))
    model = NeuralDDE(1.0, TAU, config.hidden, conditions=conditions, nodes=config.nodes)
    pairs = _pairs(data, conditions, test=False)
    model.set_normalization(pairs["history"], **({"n": pairs["conditions"]} if conditions else {}))
    return _fit(config, run, name, model, _loss(config, data), pairs)


def _train_delay(config: Config, run: RunDirectory) -> float:
    """The delay that a model finds which begins with a wrong one."""
    data = run.step("data-delay", lambda: _data(config, run.seed("data"), [N] * config.series, 0.0))
    torch.manual_seed(run.seed("weights-delay"))
    segments = data["segments"][:, _of(range(config.series), test=False)]
    start = TAU * (1 - config.unknown_delay)
    model = NeuralDDE(1.0, start, config.hidden, learn_tau=True, nodes=config.nodes)
    model.set_normalization(segments)
    device = run.runtime.float64_device
    segment_map = SegmentMap(MackeyGlass(n=N, tau=TAU), config.nodes, device=device)
    # ends of histories, so that windows of two delays up to a tenth longer fit
    ends = torch.arange(1.2, len(segments) - 1.2, 5.0, dtype=torch.float64) * TAU
    loss = WindowLoss(data["std"].item(), segment_map, segments.to(device))
    return _fit(config, run, "delay", model, loss, {"time": ends}).tau.item()


def _fit(
    config: Config, run: RunDirectory, name: str, model: NeuralDDE, loss: nn.Module, batch: dict[str, Tensor]
) -> NeuralDDE:
    """The model, on the CPU, after L-BFGS on all samples at once."""
    loader = BatchLoader(batch, len(next(iter(batch.values()))), shuffle=False)
    # the loss is far below one in the end, where the default tolerances would stop
    settings: dict[str, Any] = {"tolerance_grad": 0, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    settings |= {"max_iter": config.training.iterations, "history_size": 100}
    options = TrainerOptions(epochs=config.training.epochs)
    run.train(name, model, loss, loader, options, lambda m: torch.optim.LBFGS(m.parameters(), **settings))
    return model.cpu()


@torch.no_grad()
def _held_out(config: Config, model: NeuralDDE, data: dict[str, Tensor]) -> float:
    """Root mean square error of the segments of the test series, in standard deviations."""
    return UNIT * _loss(config, data)(model, _pairs(data, model.names, test=True)).sqrt().item()


def _analysis(config: Config, model: NeuralDDE, data: dict[str, Tensor], seed: int) -> dict[str, Any]:
    """Error of the production, exponents and period doubling of a model at n = 9.65."""
    exact, learned = MackeyGlass(n=N, tau=TAU), model.detached()
    test = data["segments"][:, _of(range(config.series), test=True)].flatten()
    u = torch.linspace(test.min().item(), test.max().item(), 1000, dtype=torch.float64)
    found: dict[str, Any] = {
        HELD_OUT: _held_out(config, model, data),
        "error of f": _relative(learned.production(u), exact.production(u)),
        "error of f, weighted": _relative(learned.production(test), exact.production(test)),
        **_exponents(config, learned, seed),
        "u": u,
        "production": learned.production(u),
        "exact": exact.production(u),
        "visited": torch.histc(test, 60),
    }
    if config.doublings:
        found["PD1 in tau"] = _doubling(learned, "tau")
    return found


def _doubling(system: DDE, parameter: str) -> float:
    """The parameter at the first period doubling of the principal cycle; NaN if there is none in the interval."""
    at, bounds = DOUBLINGS[parameter]
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(**at))
    if not isinstance(system, MackeyGlass):
        # Newton's method for the learned equation begins with the cycle of the equation
        start = system.with_parameters(**{name: value for name, value in at.items() if name in system.parameters})
        try:
            orbit = PeriodicOrbit.from_profile(start, orbit.solution.values, orbit.period, mesh=orbit.mesh)
        except ContinuationError:
            return float("nan")
    try:
        branch = continue_branch(orbit, parameter, bounds, detect=("PD",))
    except ContinuationError:
        return float("nan")
    for special in branch.special:
        if special.kind == "PD":
            return float(locate(branch, special).parameters[parameter])
    return float("nan")


def _doubling_bars(found: dict[str, Any], truth: dict[str, float], subject: str) -> list[Bar]:
    names = [name for name in found if name.startswith("PD1") and found[name] is not None]
    return [Bar(f"relative error of {name}, {subject}", abs(found[name] / truth[name] - 1), 0.01) for name in names]


def _relative(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def _figure(curves: dict[str, Any]) -> Figure:
    """The learned production over the exact one, and where it is wrong."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    first = next(iter(curves.values()))
    left.plot(first["u"], first["exact"], color="k", linewidth=2, label="exact")
    count = first["visited"] / first["visited"].max()
    edges = np.linspace(float(first["u"][0]), float(first["u"][-1]), len(count) + 1)
    left.stairs(0.3 * count, edges, fill=True, color="0.85", label="visits (test series)")
    for i, (name, found) in enumerate(curves.items()):
        left.plot(found["u"], found["production"], color=f"C{i + 1}", linestyle="--", label=f"learned, {name}")
        right.plot(found["u"], (found["production"] - found["exact"]).abs(), color=f"C{i + 1}", label=name)
    left.set(xlabel=r"$u_\tau$", ylabel=r"$\beta f(u_\tau)$", title="Production")
    right.set(xlabel=r"$u_\tau$", ylabel="absolute error", yscale="log", title="Error of the learned production")
    left.legend(fontsize="small")
    right.legend(fontsize="small")
    return figure


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            series=5,
            delays=4,
            transient=2,
            hidden=(4,),
            nodes=24,
            training=Training(epochs=2, iterations=5),
            exponent_delays=20,
            doublings=False,
        ),
        "small": Config(),
        "paper": Config(
            noise=(0.0, 0.01, 0.02, 0.05),
            unknown_delay=0.1,
            hidden=(64, 64),
            training=Training(epochs=60),
            exponent_delays=10_000,
        ),
    },
    paper=PAPER,
)
