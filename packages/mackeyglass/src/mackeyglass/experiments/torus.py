"""Torus (Neimark–Sacker) bifurcations of the orbits that are born at the first period doubling."""

from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Experiment, Metric, Report, RunDirectory

from mackeyglass.bifurcations import BifurcationPoint
from mackeyglass.branch import Branch, continue_bifurcation, continue_branch
from mackeyglass.experiments import PAPER
from mackeyglass.experiments.branches import (
    Collocation,
    Interval,
    Reference,
    differences,
    draw_curve,
    draw_maxima,
    draw_points,
    found,
    kept,
    largest,
    located,
    mesh_error,
    rising,
    special_points,
    until,
)
from mackeyglass.experiments.common import Positive
from mackeyglass.experiments.pd_curve import first_doubling
from mackeyglass.growth import RESONANT
from mackeyglass.orbits import PeriodicOrbit

TOLERANCE = 1e-5
MARKERS = {"R3": "^", "R4": "s"}
REFERENCES = [
    Reference("n", "τ=1.35", 15.096887, TOLERANCE),
    Reference("T", "τ=1.35", 8.212591, TOLERANCE),
    Reference("ω", "τ=1.35", 0.12169, TOLERANCE),
    Reference("n", "τ=2.6", 8.133576, TOLERANCE),
    Reference("T", "τ=2.6", 14.124495, TOLERANCE),
    Reference("ω", "τ=2.6", 0.54770, TOLERANCE),
]


@config
class Config:
    """Everything that determines the result.

    At each delay of `delays` the branch is followed until its torus bifurcation. From those named in `curves` it is
    followed in the plane within `n` and `tau`, with steps of at most `ds_max`.
    """

    seed: NonNegativeInt = 0
    mesh: Collocation = Collocation(intervals=40)
    delays: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.35, 1.4, 2.6)
    curves: tuple[Positive, ...] = (1.35, 2.6)
    n: Interval = (6.0, 20.0)
    tau: Interval = (1.1, 4.0)
    ds_max: Annotated[float, Field(gt=0, le=2)] = 0.3
    max_steps: PositiveInt = 200

    def __post_init__(self) -> None:
        rising(n=self.n, tau=self.tau)
        if set(self.curves) - set(self.delays):
            raise ValueError(f"curves={self.curves} must be of delays={self.delays}")


def run(config: Config, run: RunDirectory) -> Report:
    """Follow the doubled orbits at each delay to their torus bifurcation, and this one in the plane."""
    branches = {tau: doubled_orbits(run, config.mesh, tau) for tau in config.delays}
    points = {tau: found(branch, "NS") for tau, branch in branches.items()}
    changes = run.step("finer meshes", lambda: {f"τ={tau:g}": mesh_error(point) for tau, point in points.items()})
    limits, options = {"n": config.n, "tau": config.tau}, {"ds_max": config.ds_max, "max_steps": config.max_steps}
    curves = [curve for tau in config.curves for curve in torus_curves(run, points[tau], limits, **options)]
    resonances = {name: where for name, where in special_points(curves).items() if name.split()[0] in MARKERS}
    table = run.step("points", lambda: located(resonances))
    run.figure("torus", figure(branches, points, curves, table))

    metrics = []
    for tau, point in points.items():
        subject = f"τ={tau:g}"
        values = {"n": point.parameters["n"], "T": point.period, "ω": point.angle}
        metrics += [Metric(name, subject, value) for name, value in values.items()]
    metrics += [Metric("change of n on a mesh twice as fine", name, value) for name, value in changes.items()]
    for name, point in table.items():
        metrics += [Metric(key, name, point[key]) for key in ("n", "τ", "T")]
    for curve in curves:
        if curve.stop_reason == RESONANT.format(0):
            n, tau = _end(curve)
            side = "above" if tau > curve["tau"][0] else "below"
            subject = f"end where ω is 0, {side} τ={curve['tau'][0]:g}"
            metrics += [Metric("n", subject, n), Metric("τ", subject, tau)]
    asked = [reference for reference in REFERENCES if reference.subject in changes]
    bars = [
        *differences(metrics, asked),
        largest("largest change of n on a mesh twice as fine", changes.values(), TOLERANCE),
    ]
    return Report(metrics, NOTES, bars)


NOTES = [
    "The orbits of twice the period that are born at the first period doubling lose their stability to a torus: the "
    "critical multipliers are e^{±iπω}.",
    "R3 and R4 are strong resonances, ω = 2/3 and 1/2. Curves end where ω is 0, which is extrapolated from their last "
    "points: on a curve of folds, or at a fold-flip, where the orbit of twice the period vanishes.",
    "In the figure unstable orbits are pale.",
]


def doubled_orbits(run: RunDirectory, mesh: Collocation, tau: float, ds_max: float = 0.4) -> Branch:
    """The orbits that are born at the first period doubling of a delay, up to their torus bifurcation."""
    first = first_doubling(run, mesh.mesh, tau)
    n = first.parameters["n"]

    def compute() -> Branch:
        orbit = PeriodicOrbit.from_period_doubling(first)
        return until("NS", continue_branch(orbit, "n", (n - 1, n + 8), ds_max=ds_max, max_steps=3))

    return kept(run, f"doubled-until-torus-{tau:g}", compute)


def torus_curves(
    run: RunDirectory, point: BifurcationPoint, limits: dict[str, Interval], **options: Any
) -> list[Branch]:
    """The curve through a torus bifurcation, towards smaller and towards larger delays."""

    def follow(direction: int, where: str) -> Branch:
        return kept(
            run,
            f"torus-{point.parameters['tau']:g}-to-{where}-delays",
            lambda: continue_bifurcation(point, ("n", "tau"), limits, direction=direction, progress=True, **options),
        )

    return [follow(-1, "smaller"), follow(1, "larger")]


def _end(curve: Branch) -> tuple[float, float]:
    """n and τ, even functions of ω, at the end of a curve where ω is 0."""
    square = np.array([state.solution.extras[0] ** 2 for state in curve.states[-3:]])
    n, tau = (float(np.polyfit(square, curve[name][-3:], 2)[-1]) for name in ("n", "tau"))
    return n, tau


def figure(
    branches: dict[float, Branch],
    points: dict[float, BifurcationPoint],
    curves: list[Branch],
    table: dict[str, dict[str, float]],
) -> Figure:
    """The branches with their torus bifurcations, and the curves of these in the plane."""
    result = Figure(figsize=(11, 4.5), layout="constrained")
    left, plane = result.subplots(1, 2)
    for k, (tau, branch) in enumerate(branches.items()):
        draw_maxima(left, branch, f"C{k}", rf"$\tau = {tau:g}$")
        maxima = points[tau].orbit.maxima()
        left.plot([points[tau].parameters["n"]] * len(maxima), maxima, "k.")
        plane.plot(points[tau].parameters["n"], tau, "k.")
    draw_curve(plane, curves, "C4", "torus bifurcations")
    draw_points(plane, table, MARKERS)
    left.set(xlabel="$n$", ylabel="local maxima of $u$")
    left.legend(loc="center right", fontsize="small")
    plane.set(xlabel="$n$", ylabel=r"delay $\tau$")
    if curves:
        plane.legend(fontsize="small")
    return result


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(mesh=Collocation(intervals=20, degree=4), delays=(2.6,), curves=()),
        "small": Config(),
        "paper": Config(mesh=Collocation(intervals=60), ds_max=0.2, max_steps=500),
    },
    paper=PAPER,
    published=[reference.published for reference in REFERENCES],
)
