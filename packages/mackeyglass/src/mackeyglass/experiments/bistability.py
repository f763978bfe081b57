"""Where two attractors coexist: windows of n between a fold of cycles and another fold, or the end of chaos."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory

from mackeyglass.attractors import hysteresis, orbit_diagram
from mackeyglass.crossings import points_at
from mackeyglass.experiments import PAPER, crises
from mackeyglass.experiments.branches import Collocation, Interval, Reference, differences, rising
from mackeyglass.experiments.common import SYSTEM, Positive
from mackeyglass.experiments.crises import CRISIS_NAME, N_CHAOS, N_CYCLE, TAU_CRISIS, TAU_MERGED, Approach, Channel
from mackeyglass.experiments.fold_curve import LEFT, NAMES, RIGHT, fold_curves
from mackeyglass.lifetimes import fit_crisis, transient_lifetime
from mackeyglass.orbits import PeriodicOrbit
from mackeyglass.segment_map import SegmentMap

FOLD, CRISIS, SHIFT = 1e-4, 0.02, 0.005
REFERENCES = [
    *(Reference("n", f"left fold at τ={tau:g}", n, FOLD) for tau, n in {**LEFT, 2.0: 11.214847}.items()),
    *(Reference("n", f"right fold at τ={tau:g}", n, FOLD) for tau, n in RIGHT.items()),
    Reference("n", CRISIS_NAME, 13.27, CRISIS),
]


@config
class Config:
    """Everything that determines the result.

    At each delay of `taus` n rises from `n[0]` to `n[1]` and falls again, by `step`, with `transient` delays at each
    value. At τ = 1.5 chaos is watched from `members` histories for up to `delays` delays at each of `crisis`. At τ = 2
    another sweep around the fold has the step `fine`, and `fine_delays` delays at each value before as many others in
    which there must be no end of a laminar phase, if there is to be a cycle. What is empty, False or 0 is left out.
    How chaos comes closer to the crisis and to the fold is measured as `approach` and `channel` say.
    """

    seed: NonNegativeInt = 0
    mesh: Collocation = Collocation(intervals=40)
    taus: tuple[Positive, ...] = (1.2, 1.5, 2.0)
    n: Interval = (11.0, 15.2)
    step: Annotated[float, Field(gt=0, le=1)] = 0.02
    transient: PositiveInt = 400
    folds: bool = True
    crisis: tuple[Positive, ...] = (13.25, 13.26, 13.27, 13.28, 13.29, 13.3, 13.32, 13.35, 13.4)
    members: PositiveInt = 48
    delays: PositiveInt = 6000
    fine: Annotated[float, Field(ge=0, lt=0.1)] = 0.0025
    fine_delays: PositiveInt = 1500
    approach: Approach = Approach()
    channel: Channel = Channel()

    def __post_init__(self) -> None:
        rising(n=self.n)
        if list(self.crisis) != sorted(set(self.crisis)):
            raise ValueError(f"crisis={self.crisis} must rise")


def run(config: Config, run: RunDirectory) -> Report:
    """Sweep n up and down, and locate the ends of the windows in which the attractors differ."""
    diagram = run.step("sweeps", lambda: sweeps(config))
    metrics = [metric for i, tau in enumerate(config.taus) for metric in _windows(diagram.isel(batch=i), tau)]
    bars = []
    folds = _folds(config, run) if config.folds else {}
    metrics += [Metric("n", name, n) for name, n in folds.items()]
    if config.crisis:
        lives = run.step("lifetimes", lambda: lifetimes(config, run))
        metrics += _crisis(lives)
    if config.fine:
        fine = run.step("fold", lambda: _fine(config))
        up, down = (_settled(fine, direction) for direction in ("up", "down"))
        metrics += [
            Metric("n from which the cycle is found", f"{name} at τ={TAU_MERGED:g}", n)
            for name, n in (("rising", up), ("falling", down))
        ]
        claim = f"distance of rising from falling n at which chaos ends, τ={TAU_MERGED:g}"
        bars.append(Bar(claim, abs(up - down), SHIFT))
        run.figure("fold", figure(fine, [TAU_MERGED], folds))
    approached = laminar = None
    if config.approach.n:
        approached = crises.distances(config.approach, config.mesh.mesh, run)
        metrics += crises.approach(approached)
    if config.channel.gaps:
        laminar = crises.phases(config.channel, config.mesh.mesh, run)
        found, bar = crises.channel(laminar)
        metrics += found
        bars.append(bar)
    if approached is not None or laminar is not None:
        run.figure("crises", crises.figure(approached, laminar))
    ends = {metric.subject: metric.value for metric in metrics if metric.name == "n"}
    run.figure("diagrams", figure(diagram, config.taus, ends))
    return Report(metrics, NOTES, [*differences(metrics, asked(config)), *bars])


def asked(config: Config) -> list[Reference]:
    """The references that a run has to meet: folds at its delays, and the crisis."""
    places = {f"τ={tau:g}" for tau in config.taus} if config.folds else set()
    folds = [r for r in REFERENCES if r.subject.partition(" fold at ")[2] in places]
    return [*folds, *(r for r in REFERENCES if config.crisis and r.subject == CRISIS_NAME)]


NOTES = [
    "Each run of a sweep begins with the last segment of the run before, at the next value of n. The attractors of "
    "rising and falling n differ where two coexist, and a little beyond, where transients are longer than a run.",
    "The left fold is where the long cycle begins; the window ends at the right fold, where the principal cycle ends, "
    "or at the crisis of the chaos that it became. Folds are points of the curve of folds, from its defining system.",
    "The crisis lies between the largest n at which no chaotic trajectory jumped to the long cycle, and the smallest "
    "at which one did. Histories are segments of the chaos at a smaller n. Independently of that, mean lifetimes past "
    "the crisis are fitted by a power of the distance from it.",
    "Before the crisis the least distance of chaos from the unstable cycle, which lies on the edge of the basin of the "
    "long one, is nearly linear in n: where the line is zero does not depend on any jump.",
    "At τ = 2 chaos ends at the fold: n at which the sweeps change from chaos to the cycle do not differ. Before it "
    "there are laminar phases near the cycle to come, on average as long as 1/√(distance from the fold). Where they "
    "begin varies with n, and with it the mean, more than by chance; the longest are passages of the whole channel.",
]


def sweeps(config: Config) -> xr.Dataset:
    """Orbit diagrams of all delays at once."""
    values = np.arange(config.n[0], config.n[1] + config.step / 2, config.step).round(10)
    system = SYSTEM.with_parameters(tau=torch.tensor(config.taus, dtype=torch.float64))
    diagram = orbit_diagram(system, "n", values, n_transient=config.transient, n_delays=60, n_nodes=48, progress=True)
    return diagram.assign(differ=hysteresis(diagram)).drop_vars("segment")


def _fine(config: Config) -> xr.Dataset:
    """The orbit diagram around the fold at τ = 2, with long runs: before a fold laminar phases look like a cycle."""
    middle, steps = 11.215, np.arange(-4, 5)
    values = (middle + config.fine * steps).round(10)
    system = SYSTEM.with_parameters(tau=torch.tensor([TAU_MERGED], dtype=torch.float64))
    diagram = orbit_diagram(
        system, "n", values, n_transient=config.fine_delays, n_delays=config.fine_delays, progress=True
    )
    return diagram.assign(differ=hysteresis(diagram)).drop_vars("segment")


def _settled(diagram: xr.Dataset, direction: str) -> float:
    """The smallest n from which on all attractors are cycles; NaN if the last is none."""
    cycle = (diagram["kind"].sel(direction=direction).isel(batch=0) == "cycle").values
    onward = np.logical_and.accumulate(cycle[::-1])[::-1]
    return float(diagram["n"].values[onward].min(initial=np.inf)) if onward.any() else float("nan")


def _windows(diagram: xr.Dataset, tau: float) -> list[Metric]:
    """Ends of the longest run of values at which rising and falling n differ, and the cycles in its middle."""
    differ, n, subject = diagram["differ"].values, diagram["n"].values, f"sweeps at τ={tau:g}"
    metrics = [Metric("values of n at which attractors differ", subject, float(differ.sum()))]
    if not differ.any():
        return metrics
    edges = np.flatnonzero(np.diff(np.concatenate([[0], differ.astype(int), [0]])))
    longest = int(np.diff(edges)[::2].argmax())
    first, last = edges[2 * longest], edges[2 * longest + 1] - 1
    metrics += [
        Metric("first n of the longest window", subject, float(n[first])),
        Metric("last n of the longest window", subject, float(n[last])),
    ]
    middle = diagram.isel(n=(first + last) // 2)
    for direction, name in (("up", "rising"), ("down", "falling")):
        period = float(middle["period"].sel(direction=direction))
        if np.isfinite(period):
            metrics.append(Metric(f"period of the cycle in its middle, {name} n", subject, period))
    return metrics


def _folds(config: Config, run: RunDirectory) -> dict[str, float]:
    """n of the folds at each delay, from their curve."""
    tau = (max(0.9, min(config.taus) - 0.15), max(2.05, max(config.taus) + 0.05))
    smaller, larger = fold_curves(run, config.mesh.mesh, (10.0, 16.5), tau, 0.3, 120)

    def compute() -> dict[str, float]:
        return {
            f"{name} fold at τ={tau:g}": point.parameters["n"]
            for tau in config.taus
            for name, point in zip(NAMES, points_at(smaller if tau <= 2 else larger, "tau", tau), strict=False)
        }

    return run.step("ends", compute)


def lifetimes(config: Config, run: RunDirectory) -> xr.Dataset:
    """Lifetimes of chaos on both sides of the crisis, at which it begins to be left for the long cycle."""
    system = SYSTEM.with_parameters(tau=TAU_CRISIS)
    cycle = PeriodicOrbit.from_simulation(system.with_parameters(n=N_CYCLE))
    inside = system.with_parameters(n=13.0)
    risen = orbit_diagram(inside, "n", [N_CHAOS, 12.8, 13.0], n_transient=200, n_delays=20)
    segment = torch.from_numpy(risen["segment"].sel(direction="up").values[-1])
    histories = SegmentMap(inside).trajectory(segment, 3 * config.members)[::3][-config.members :]
    rows = []
    for n in config.crisis:
        found = transient_lifetime(
            system.with_parameters(n=n),
            cycle.at(n=n),
            config.members,
            n_delays=config.delays,
            history=histories,
            seed=run.seed(f"{n:g}"),
            progress=True,
        )
        rows.append((found.jumped.sum(), found.mean, found.stderr, found.times.sum()))
    names = ("jumps", "mean", "stderr", "lived")
    columns = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return xr.Dataset(
        {name: ("n", column) for name, column in zip(names, columns, strict=True)}, {"n": [*config.crisis]}
    )


def _crisis(lives: xr.Dataset) -> list[Metric]:
    """Between which n the crisis is, lifetimes past it, and where their power law has its pole."""
    n, jumps, subject = lives["n"].values, lives["jumps"].values, CRISIS_NAME
    metrics = []
    for value, mean, lived in zip(n, lives["mean"].values, lives["lived"].values, strict=True):
        known = np.isfinite(mean)
        name = "mean lifetime of chaos" if known else "time units of chaos without a jump"
        metrics.append(Metric(name, f"n={value:g}, τ={TAU_CRISIS:g}", float(mean if known else lived)))
    if not jumps.any() or jumps[0]:
        return metrics
    first = int((jumps > 0).argmax())
    metrics += [
        Metric("n", subject, float(n[first - 1] + n[first]) / 2),
        Metric("half the distance of the values of n beside it", subject, float(n[first] - n[first - 1]) / 2),
    ]
    enough = jumps >= 10
    if enough.sum() >= 4:
        law = fit_crisis(*(lives[name].values[enough] for name in ("n", "mean", "stderr")))
        metrics += [
            Metric("n, by the law of lifetimes", subject, law.critical),
            Metric("its error", subject, law.critical_stderr),
            Metric("exponent of the lifetimes", subject, law.exponent),
            Metric("error of the exponent", subject, law.exponent_stderr),
        ]
    return metrics


def figure(diagram: xr.Dataset, taus: Sequence[float], ends: Mapping[str, float]) -> Figure:
    """Maxima for rising and falling n, the values at which they differ, and the ends of windows."""
    result = Figure(figsize=(9, 1 + 2.6 * len(taus)), layout="constrained")
    n = diagram["n"].values
    half = (n[1] - n[0]) / 2
    panels = result.subplots(len(taus), 1, squeeze=False)[:, 0]
    for i, (axis, tau) in enumerate(zip(panels, taus, strict=True)):
        here = diagram.isel(batch=i)
        for value in n[here["differ"].values]:
            axis.axvspan(value - half, value + half, color="0.88", linewidth=0)
        for direction, color, name in (("up", "C0", "rising $n$"), ("down", "C1", "falling $n$")):
            maxima = here["maxima"].sel(direction=direction).transpose("n", "event").values[:, :30]
            points = np.repeat(n[:, None], maxima.shape[1], axis=1)
            axis.plot(points.ravel(), maxima.ravel(), ".", color=color, markersize=1.2)
            axis.plot([], [], "o", color=color, markersize=4, label=name)
        for subject, value in ends.items():
            if subject.endswith(f"τ={tau:g}") and n[0] <= value <= n[-1]:
                crisis = subject.startswith("crisis")
                axis.axvline(value, color="k", linestyle="--" if crisis else ":", linewidth=1)
        axis.set(ylabel="maxima of $u$", xlim=(n[0] - half, n[-1] + half), title=rf"$\tau = {tau:g}$")
    panels[-1].set(xlabel="$n$")
    panels[0].plot([], [], "k:", label="fold")
    if any(subject.startswith("crisis") for subject in ends):
        panels[0].plot([], [], "k--", label="crisis")
    panels[0].legend(loc="lower left", fontsize="small")
    return result


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            mesh=Collocation(intervals=20),
            taus=(1.5, 2.0),
            n=(12.6, 13.6),
            step=0.2,
            transient=100,
            folds=False,
            crisis=(13.2, 13.5),
            members=8,
            delays=100,
            fine=0.02,
            fine_delays=100,
            approach=Approach(n=(13.0, 13.1, 13.2), members=64, delays=100),
            channel=Channel(gaps=(0.001, 0.002, 0.004, 0.008), members=8, delays=40),
        ),
        "small": Config(),
        "paper": Config(
            mesh=Collocation(intervals=60),
            taus=tuple(np.linspace(1.1, 2.0, 19).round(2).tolist()),
            n=(10.5, 16.0),
            step=0.01,
            transient=2000,
            members=200,
            delays=30_000,
            fine=0.001,
            fine_delays=10_000,
            approach=Approach(n=(12.8, 12.9, 13.0, 13.05, 13.1, 13.15, 13.2, 13.225, 13.25, 13.26), members=256),
            channel=Channel(gaps=tuple(np.geomspace(2e-5, 1e-2, 28).round(7).tolist()), members=48, delays=200),
        ),
    },
    paper=PAPER,
    published=[reference.published for reference in REFERENCES],
)
