"""Period doublings in the (n, τ) plane: of the principal branch and of the orbits that are born there."""

from typing import Annotated, Any

from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Experiment, Metric, Report, RunDirectory

from mackeyglass.bifurcations import BifurcationPoint
from mackeyglass.branch import Branch, continue_bifurcation, continue_branch
from mackeyglass.crossings import points_at, turning_points
from mackeyglass.experiments import PAPER
from mackeyglass.experiments.branches import (
    Collocation,
    Interval,
    Reference,
    born_at_hopf,
    differences,
    draw_curve,
    draw_points,
    found,
    kept,
    largest,
    located,
    mesh_error,
    rising,
    special_points,
    until,
    within,
)
from mackeyglass.mesh import Mesh
from mackeyglass.orbits import PeriodicOrbit

TOLERANCE = 1e-5
START = 2.0  # τ
FAR = 4.098  # τ at which fewer digits are known
# of the curve PD1 or PD2: n of the first crossings of a delay, in the order of the curve from τ = 2
AT_DELAYS = {
    "PD1": {
        1.3: [10.338559, 13.977939],
        1.35: [9.737755],
        1.4: [9.335853],
        1.5: [8.771380],
        2.6: [6.62915],
        FAR: [5.798],
    },
    "PD2": {1.4: [12.407947, 14.499808], 1.5: [10.626426]},
}
# of PD1: τ of the first crossing of a value of n
AT_N = {8.28782: 1.62341, 9.01538: 1.45187, 9.75712: 1.34796, 13.50335: 1.28780}
SMALLEST = "smallest delay of PD1"
FLIP = {"n": 15.054045, "τ": 1.3397758, "T": 4.071701}
REFERENCES = [
    Reference("n", "PD1, τ=2", 7.395926925, TOLERANCE, place=(7.395926925, START)),
    Reference("n", "PD2, τ=2", 8.67282948, TOLERANCE, place=(8.67282948, START)),
    *(
        Reference("n", f"{curve}, τ={tau:g}, crossing {k}", n, 1e-3 if tau == FAR else TOLERANCE, place=(n, tau))
        for curve, rows in AT_DELAYS.items()
        for tau, values in rows.items()
        for k, n in enumerate(values, 1)
    ),
    *(Reference("τ", f"PD1, n={n:g}", tau, TOLERANCE, place=(n, tau)) for n, tau in AT_N.items()),
    *(Reference(name, "fold-flip", value, 2e-5, place=(FLIP["n"], FLIP["τ"])) for name, value in FLIP.items()),
    Reference("τ", SMALLEST, 1.2619, 1e-4, place=(11.7, 1.2619)),
    Reference("n", SMALLEST, 11.7, 0.1, place=(11.7, 1.2619)),
]


@config
class Config:
    """Everything that determines the result: the part of the plane, the mesh and the longest step.

    Without `second` only the period doublings of the principal branch are followed.
    """

    seed: NonNegativeInt = 0
    mesh: Collocation = Collocation(intervals=40)
    n: Interval = (5.5, 20.0)
    tau: Interval = (1.1, 2.7)
    second: bool = True
    ds_max: Annotated[float, Field(gt=0, le=2)] = 0.4
    max_steps: PositiveInt = 200

    def __post_init__(self) -> None:
        rising(n=self.n, tau=self.tau)
        if not (self.n[0] < 7.39 < 8.68 < self.n[1] and self.tau[0] < START < self.tau[1]):
            raise ValueError(f"n={self.n} and tau={self.tau} must contain (7.4, 2) and (8.7, 2), where curves begin")


def run(config: Config, run: RunDirectory) -> Report:
    """Follow the period doublings in both directions from τ = 2, and compare them with known points."""
    limits = {"n": config.n, "tau": config.tau}
    first = first_doubling(run, config.mesh.mesh, START)
    options = {"ds_max": config.ds_max, "max_steps": config.max_steps}
    curves = {"PD1": doubling_curves(run, "PD1", first, limits, **options)}
    if config.second:
        curves["PD2"] = doubling_curves(run, "PD2", second_doubling(run, first), limits, **options)
    tables = {}
    for name, branches in curves.items():
        points = special_points(branches)
        finer = [key for key in points if key == "fold-flip"]
        tables[name] = run.step(f"points of {name}", lambda p=points, f=finer: located(p, finer=f))
    rows = run.step("table", lambda: _rows(curves))
    run.figure("pd-curve", figure(curves, tables))

    metrics = [Metric("n", f"{name}, τ={START:g}", float(branches[0]["n"][0])) for name, branches in curves.items()]
    metrics += [Metric(key, name, value[0]) for key, row in rows.items() for name, value in row.items()]
    metrics += [
        Metric("change on a mesh twice as fine", name, value[1]) for row in rows.values() for name, value in row.items()
    ]
    for curve, table in tables.items():
        for name, point in table.items():
            subject = name if name == "fold-flip" and curve == "PD1" else f"{name} of {curve}"
            metrics += [Metric(key, subject, point[key]) for key in ("n", "τ", "T")]
    for point in turning_points(curves["PD1"][0], "tau")[:1]:
        metrics += [Metric(name, SMALLEST, point.parameters[key]) for name, key in (("n", "n"), ("τ", "tau"))]
    changes = [value[1] for row in rows.values() for value in row.values()]
    asked = within(REFERENCES, config.n, config.tau)
    bars = [
        *differences(metrics, [r for r in asked if config.second or not r.subject.startswith("PD2")]),
        largest("largest change of these n and τ on a mesh twice as fine", changes, TOLERANCE),
    ]
    return Report(metrics, NOTES, bars)


NOTES = [
    "PD1 are the period doublings of the branch that is born at the Hopf curve, PD2 those of the orbits of twice the "
    "period that are born at PD1. Both curves begin at τ = 2.",
    "Where a curve is met twice at one delay, orbits of twice the period are born at the first crossing and end at the "
    "second one (a bubble).",
    "At the fold-flip PD1 touches the folds; beyond it the orbits that double are unstable. GPD: the doubling changes "
    "between supercritical and subcritical; R2: −1 is a double multiplier.",
]


def first_doubling(run: RunDirectory, mesh: Mesh, tau: float) -> BifurcationPoint:
    """The first period doubling in n on the branch that is born at the Hopf point of a delay."""

    def compute() -> Branch:
        branch = born_at_hopf(mesh, "n", (4.2, 20.0), {"tau": tau}, ds_max=0.5, max_steps=3, detect=("PD",))
        return until("PD", branch)

    return found(kept(run, f"principal-{tau:g}", compute), "PD")


def second_doubling(run: RunDirectory, first: BifurcationPoint) -> BifurcationPoint:
    """The first period doubling in n on the branch of orbits of twice the period."""
    n = first.parameters["n"]

    def compute() -> Branch:
        orbit = PeriodicOrbit.from_period_doubling(first)
        return until("PD", continue_branch(orbit, "n", (n - 1, n + 4), ds_max=0.3, max_steps=3, detect=("PD",)))

    return found(kept(run, f"doubled-{first.parameters['tau']:g}", compute), "PD")


def doubling_curves(
    run: RunDirectory, name: str, point: BifurcationPoint, limits: dict[str, Interval], **options: Any
) -> tuple[Branch, Branch]:
    """The curve through a period doubling, towards smaller and towards larger delays."""

    def follow(direction: int, where: str) -> Branch:
        return kept(
            run,
            f"{name}-to-{where}-delays",
            lambda: continue_bifurcation(point, ("n", "tau"), limits, direction=direction, progress=True, **options),
        )

    return follow(-1, "smaller"), follow(1, "larger")


def _rows(curves: dict[str, tuple[Branch, Branch]]) -> dict[str, dict[str, tuple[float, float]]]:
    """n and τ where there are reference values, each with its change on a finer mesh."""
    n, tau = {}, {}
    for name, branches in curves.items():
        for delay, values in AT_DELAYS[name].items():
            points = points_at(branches[0 if delay < START else 1], "tau", delay)
            for k, (point, _) in enumerate(zip(points, values, strict=False), 1):
                n[f"{name}, τ={delay:g}, crossing {k}"] = point.parameters["n"], mesh_error(point)
    for value in AT_N:
        for point in points_at(curves["PD1"][0], "n", value)[:1]:
            tau[f"PD1, n={value:g}"] = point.parameters["tau"], mesh_error(point)
    return {"n": n, "τ": tau}


def figure(curves: dict[str, tuple[Branch, Branch]], tables: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """The curves in the plane, and the period along them."""
    result = Figure(figsize=(11, 4.5), layout="constrained")
    plane, right = result.subplots(1, 2)
    kinds = {"fold-flip": "s", "GPD": "d", "R2": "v"}
    for color, (name, branches) in zip(("C1", "C2"), curves.items(), strict=False):
        draw_curve(plane, branches, color, name)
        for curve in branches:
            right.plot(curve["tau"], curve.periods, color)
    draw_points(plane, {f"{name} of {k}": point for k, table in tables.items() for name, point in table.items()}, kinds)
    plane.set(xlabel="$n$", ylabel=r"delay $\tau$")
    plane.legend(fontsize="small")
    right.set(xlabel=r"delay $\tau$", ylabel="period $T$ of the orbit that doubles")
    return result


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            mesh=Collocation(intervals=20, degree=4), n=(6.5, 9.0), tau=(1.7, 2.3), second=False, max_steps=8
        ),
        "small": Config(),
        "paper": Config(mesh=Collocation(intervals=60), n=(5.0, 26.0), tau=(1.1, 4.2), ds_max=0.25, max_steps=500),
    },
    paper=PAPER,
    published=[reference.published for reference in REFERENCES],
)
