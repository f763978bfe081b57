"""Subcritical period doublings near (n, τ) = (8.1, 2.6), and how long chaos lives beside the cycle that they end."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory

from mackeyglass.bifurcations import BifurcationPoint
from mackeyglass.branch import Branch, continue_branch
from mackeyglass.crossings import orbits_at
from mackeyglass.experiments import PAPER
from mackeyglass.experiments.branches import (
    Collocation,
    Interval,
    Reference,
    differences,
    draw_curve,
    draw_maxima,
    found,
    kept,
    largest,
    mesh_error,
)
from mackeyglass.experiments.common import SYSTEM
from mackeyglass.experiments.pd_curve import doubling_curves
from mackeyglass.experiments.torus import doubled_orbits, torus_curves
from mackeyglass.flip import flip_normal_form
from mackeyglass.lifetimes import transient_lifetime
from mackeyglass.orbits import PeriodicOrbit

N, TAU = 8.1, 2.6
PLANE: dict[str, Interval] = {"n": (6.5, 9.0), "tau": (2.2, 3.0)}  # in which curves are followed
AMPLITUDE = 0.005  # of the orbits of twice the period
SMALL = 0.001  # of those that are compared with the normal form, of which the error grows with the square
TOLERANCE = 1e-6
SHORTEST, LONGEST, BEYOND = 1.6e3, 7e3, 2e4  # lifetimes for τ from 2.60 to 2.63, and at 2.64
COEFFICIENT = "normal form coefficient"
PREDICTION = "the same by the multiplier of a small doubled orbit"
MULTIPLIER = "multiplier of the doubled orbit"
WINDOW = f"PD at n={N:g}"
REFERENCES = [
    Reference("τ", WINDOW, 2.670040, TOLERANCE),
    Reference("T", WINDOW, 14.329990, 1e-5),
    Reference("n", "PD at τ=2.6, number 1", 7.396729, TOLERANCE),
    Reference("n", "PD at τ=2.6, number 2", 8.051602, TOLERANCE),
    Reference("n", "NS at τ=2.6", 8.133576, 1e-5),
    Reference(MULTIPLIER, WINDOW, 1.176, 5e-4),
]
# whether the orbits of twice the period exist where the one that doubles is unstable
SUPERCRITICAL = {WINDOW: False, "PD at τ=2.6, number 1": True, "PD at τ=2.6, number 2": False}


@config
class Config:
    """Everything that determines the result: the mesh of the orbit whose doubling is followed, and the longest step.

    The orbit of period about 14 has twice its intervals, and those that are born at its period doublings four times.
    Without `window` only what is found in n at τ = 2.6 is computed. At each of `taus` chaos is watched from `members`
    histories for up to `delays` delays. The bifurcations at τ = 2.6 are followed in the plane for `curve_steps` steps
    in both directions.
    """

    seed: NonNegativeInt = 0
    mesh: Collocation = Collocation()
    ds_max: Annotated[float, Field(gt=0, le=2)] = 0.08
    window: bool = True
    taus: tuple[Annotated[float, Field(ge=2.6, le=2.67)], ...] = (2.6, 2.61, 2.62, 2.63, 2.64)
    members: PositiveInt = 240
    delays: Annotated[int, Field(ge=100)] = 20_000
    curve_steps: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.taus and not self.window:
            raise ValueError("taus need window=True: the cycle at other delays than 2.6 is taken from there")


@dataclass(frozen=True)
class Bifurcations:
    """The branches of the orbit of period about 14 in n and τ, and what was located on them."""

    branches: dict[str, Branch]
    points: dict[str, BifurcationPoint]


def run(config: Config, run: RunDirectory) -> Report:
    """Locate the period doublings of the cycle, and find their criticality by two routes."""
    found = bifurcations(config, run)
    metrics, bars = criticality(run, found)
    run.figure("branches", figure(found))
    if config.curve_steps:
        run.figure("plane", plane(found, curves(config, run, found)))
    lives = run.step("lifetimes", lambda: lifetimes(config, run, found)) if config.taus else {}
    for tau, life in lives.items():
        subject = f"n={N:g}, τ={tau}"
        metrics += [
            Metric("mean lifetime of chaos", subject, life["mean"]),
            Metric("its standard error", subject, life["stderr"]),
            Metric("trajectories that jumped", f"{subject}, of {life['chaotic']:.0f}", life["jumped"]),
        ]
    asked = [reference for reference in REFERENCES if config.window or reference.subject != WINDOW]
    return Report(metrics, NOTES, [*differences(metrics, asked), *bars, *_lived(lives)])


NOTES = [
    "The cycle is the one of period about 14 that is born at the first period doubling at τ = 2.6, which has n = 6.63. "
    "It is stable between its second period doubling and the torus bifurcation (NS).",
    "The normal form coefficient is positive where a period doubling is supercritical. Independently of it orbits of "
    "twice the period are computed, at amplitudes of 0.001 and 0.005: where the doubling is subcritical they are "
    "unstable, and exist on the side where the cycle is stable.",
    "Lifetimes are in units of 1/γ, those of the exponential law: all the time lived in chaos over the number of jumps "
    "to the cycle, runs that ended before a jump included. Where none jumped the mean is infinite.",
]


def bifurcations(config: Config, run: RunDirectory) -> Bifurcations:
    """Those of the cycle in n at τ = 2.6, and in τ at n = 8.1."""
    in_n = doubled_orbits(run, config.mesh, TAU, ds_max=config.ds_max)
    kinds = [special.kind for special in in_n.special]
    points = {f"PD at τ={TAU:g}, number {k + 1}": found(in_n, "PD", k) for k in range(kinds.count("PD"))}
    points[f"NS at τ={TAU:g}"] = found(in_n, "NS")
    branches = {"n": in_n}
    if config.window:
        (start,) = orbits_at(in_n, N)
        branches["tau"] = kept(
            run,
            "in-tau",
            lambda: continue_branch(start, "tau", (2.5, 2.72), ds=0.01, ds_max=0.02, max_steps=40, progress=True),
        )
        points[WINDOW] = found(branches["tau"], "PD")
    return Bifurcations(branches, points)


def curves(config: Config, run: RunDirectory, found: Bifurcations) -> dict[str, list[Branch]]:
    """The curves in the (n, τ) plane on which the bifurcations at τ = 2.6 lie."""
    options: dict[str, Any] = {"ds_max": config.ds_max, "max_steps": config.curve_steps}
    result: dict[str, list[Branch]] = {"PD": [], "NS": []}
    for number, (name, point) in enumerate(found.points.items(), 1):
        if point.kind == "NS":
            result["NS"] += torus_curves(run, point, PLANE, **options)
        elif name != WINDOW:  # which lies on the curve of another one
            result["PD"] += doubling_curves(run, f"PD-{number}", point, PLANE, **options)
    return result


def criticality(run: RunDirectory, found: Bifurcations) -> tuple[list[Metric], list[Bar]]:
    """Where the bifurcations are, and whether orbits of twice the period are stable where they are born."""
    changes = run.step("finer meshes", lambda: {name: mesh_error(point) for name, point in found.points.items()})
    doubled = run.step("doubled orbits", lambda: {k: _doubled(p) for k, p in found.points.items() if p.kind == "PD"})
    metrics, wrong, apart = [], 0, []
    for name, point in found.points.items():
        parameter = {"tau": "τ"}.get(point.parameter, point.parameter)
        metrics += [
            Metric(parameter, name, point.parameters[point.parameter]),
            Metric("T", name, point.period),
            Metric("change on a mesh twice as fine", name, changes[name]),
        ]
    for name, values in doubled.items():
        metrics += [Metric(key, name, value) for key, value in values.items()]
        signs = values[COEFFICIENT] > 0, values[MULTIPLIER] < 1
        wrong += sum(sign != SUPERCRITICAL[name] for sign in signs if name in SUPERCRITICAL)
        apart.append(abs(values[PREDICTION] / values[COEFFICIENT] - 1))
    bars = [
        largest("largest change on a mesh twice as fine", changes.values(), TOLERANCE),
        largest("relative distance of the coefficients by the two routes", apart, 0.05),
        Bar("period doublings of a criticality other than known, by either route", float(wrong), 0.0),
    ]
    return metrics, bars


def lifetimes(config: Config, run: RunDirectory, found: Bifurcations) -> dict[str, dict[str, float]]:
    """How long chaos lives beside the stable cycle at n = 8.1, by τ."""
    lives = {}
    for tau in config.taus:
        cycle = orbits_at(found.branches["tau"], tau)[0]
        life = transient_lifetime(
            SYSTEM.with_parameters(n=N, tau=tau),
            cycle,
            config.members,
            n_delays=config.delays,
            seed=run.seed(f"{tau:g}"),
            n_nodes=48,
            progress=True,
        )
        numbers = {"mean": life.mean, "stderr": life.stderr, "jumped": life.jumped.sum(), "chaotic": len(life.times)}
        lives[f"{tau:g}"] = {name: float(number) for name, number in numbers.items()}
    return lives


def _lived(lives: dict[str, dict[str, float]]) -> list[Bar]:
    """Beside what is known: 1600 to 7000 for τ up to 2.63, at least 20000 at 2.64, each within a factor of two."""
    known = [life["mean"] for tau, life in lives.items() if float(tau) <= 2.63]
    bars = []
    if known:
        bars.append(Bar("shortest mean lifetime for τ ≤ 2.63", min(known), SHORTEST / 2, at_least=True))
        bars.append(Bar("longest mean lifetime for τ ≤ 2.63", max(known), LONGEST * 2))
    if "2.64" in lives:
        bars.append(Bar("mean lifetime at τ = 2.64", lives["2.64"]["mean"], BEYOND / 2, at_least=True))
    return bars


def _doubled(point: BifurcationPoint) -> dict[str, float]:
    """The normal form of a period doubling, and what orbits that are born there have."""
    form = flip_normal_form(point)
    orbit = PeriodicOrbit.from_period_doubling(point, amplitude=AMPLITUDE)
    small = PeriodicOrbit.from_period_doubling(point, amplitude=SMALL)
    name = {"tau": "τ"}.get(point.parameter, point.parameter)
    return {
        COEFFICIENT: form.coefficient,
        MULTIPLIER: _nearest_one(orbit),
        PREDICTION: float(-np.log(_nearest_one(small)) / (4 * SMALL**2)),
        f"{name} of the doubled orbit minus that of the doubling": (
            orbit.parameters[point.parameter] - point.parameters[point.parameter]
        ),
    }


def _nearest_one(orbit: PeriodicOrbit) -> float:
    """The real multiplier nearest to 1: that of the pair of orbits of twice the period where they are small."""
    multipliers = orbit.multipliers(8)
    real = np.real(multipliers[np.abs(np.imag(multipliers)) < 1e-9])
    return float(real[np.abs(real - 1).argmin()])


def figure(found: Bifurcations) -> Figure:
    """The cycle in n and in τ, with its bifurcations."""
    result = Figure(figsize=(5.5 * len(found.branches), 4.5), layout="constrained")
    axes = result.subplots(1, len(found.branches), squeeze=False)[0]
    titles = {"n": ("$n$", rf"$\tau = {TAU:g}$"), "tau": (r"delay $\tau$", f"$n = {N:g}$")}
    markers = {"PD": "o", "NS": "s"}
    for axis, (parameter, branch) in zip(axes, found.branches.items(), strict=True):
        draw_maxima(axis, branch, "C0", "cycle of period about 14")
        for kind, marker in markers.items():
            for point in found.points.values():
                if point.kind == kind and point.parameter == parameter:
                    maxima = point.orbit.maxima()
                    axis.plot([point.parameters[parameter]] * len(maxima), maxima, f"k{marker}", markersize=4)
            axis.plot([], [], f"k{marker}", markersize=4, label=kind)
        axis.set(xlabel=titles[parameter][0], ylabel="local maxima of $u$", title=titles[parameter][1])
    axes[0].legend(fontsize="small", loc="lower left")
    return result


def plane(found: Bifurcations, curves: dict[str, list[Branch]]) -> Figure:
    """The curves around the window, and what was located on them."""
    result = Figure(figsize=(6, 4.5), layout="constrained")
    axis = result.subplots()
    for color, (kind, branches) in zip(("C1", "C4"), curves.items(), strict=True):
        draw_curve(axis, branches, color, kind)
    places = [(point.parameters["n"], point.parameters["tau"]) for point in found.points.values()]
    axis.plot(*zip(*places, strict=True), "k.")
    axis.set(xlabel="$n$", ylabel=r"delay $\tau$", xlim=PLANE["n"], ylim=PLANE["tau"])
    axis.legend(fontsize="small")
    return result


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(mesh=Collocation(intervals=20, degree=4), ds_max=0.3, window=False, taus=(), curve_steps=1),
        "small": Config(),
        "paper": Config(
            mesh=Collocation(intervals=80),
            taus=(2.6, 2.61, 2.62, 2.63, 2.64, 2.655, 2.665, 2.669),
            members=400,
            delays=100_000,
            curve_steps=300,
        ),
    },
    paper=PAPER,
    published=[reference.published for reference in REFERENCES],
)
