"""Orbits in n at τ = 2: the principal branch with its period doublings, and the fold at which chaos ends."""

from typing import Annotated

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory

from mackeyglass.bifurcations import BifurcationPoint
from mackeyglass.branch import Branch
from mackeyglass.crossings import orbits_at
from mackeyglass.experiments import PAPER
from mackeyglass.experiments.branches import (
    ABSTRACT,
    OURS,
    Collocation,
    Interval,
    Reference,
    born_at_hopf,
    cascade,
    converged,
    differences,
    draw_maxima,
    draw_periods,
    found,
    kept,
    largest,
    rising,
    second_family,
)

TAU = 2.0
START = 12.0  # n at which the second family is found by simulation
WINDOW = 1.6  # beyond the first period doubling, in which the second one lies
CONVERGED = "n on a mesh twice as fine"
TOLERANCES = {"PD1": 1e-7, "PD2": 1e-6, "PD3": 1e-6, "PD4": 1e-5, "fold": 1e-6}  # of n
REFERENCES = [
    Reference("n", "PD1", 7.395926925, TOLERANCES["PD1"]),
    Reference("n", "PD2", 8.67282948, TOLERANCES["PD2"]),
    Reference("n", "PD3", 8.81206700, TOLERANCES["PD3"]),
    Reference("n", "PD4", 8.85161494, TOLERANCES["PD4"]),
    Reference("n", "fold", 11.21484654, TOLERANCES["fold"]),
    Reference("T", "PD1", 5.425485348, 1e-7),
    Reference("T", "PD2", 11.85893, 1e-5),
    Reference("T", "PD3", 23.59274, 1e-5),
    Reference("T", "PD4", 47.15172, 1e-4),
    Reference("T", "fold", 7.21371146, 1e-6),
    Reference("T", "n=12", 7.26665987, 1e-6),
    Reference("T", "n=20", 7.28036458, 1e-6),
    Reference("largest multiplier", "n=12", -0.19209631, 1e-6),
    Reference("largest multiplier", "n=20", -0.461587, 1e-5),
    Reference("n of the fold, as published", "fold", 11.21485, 5e-6, ABSTRACT),
    Reference(CONVERGED, "PD2", 8.672829554, source=OURS),
    Reference(CONVERGED, "PD3", 8.812067345, source=OURS),
    Reference(CONVERGED, "PD4", 8.851620088, source=OURS),
]
NEGLIGIBLE = 1e-6  # error of the trivial multiplier


@config
class Config:
    """Everything that determines the result.

    The principal branch is followed between the ends of `n`, and `doublings` period doublings are located; the second
    family goes from its fold to the end of `second`. Steps are at most `ds_max` long.
    """

    seed: NonNegativeInt = 0
    mesh: Collocation = Collocation()
    doublings: PositiveInt = 4
    n: Interval = (4.5, 20.0)
    second: Interval = (11.0, 20.5)
    ds_max: Annotated[float, Field(gt=0, le=2)] = 0.5
    max_steps: PositiveInt = 300

    def __post_init__(self) -> None:
        rising(n=self.n, second=self.second)
        if not self.second[0] < START < self.second[1]:
            raise ValueError(f"second={self.second} must contain {START:g}, where the orbit is found by simulation")


def run(config: Config, run: RunDirectory) -> Report:
    """Follow both families, locate the period doublings and the fold, and repeat each on a finer mesh."""
    mesh, options = config.mesh.mesh, {"ds_max": config.ds_max, "max_steps": config.max_steps}
    principal = kept(run, "principal", lambda: born_at_hopf(mesh, "n", config.n, {"tau": TAU}, **options))
    doublings, doubled = cascade(run, found(principal, "PD"), config.doublings, WINDOW)
    up = kept(run, "second-up", lambda: second_family(mesh, config.second, 1, **options))
    down = kept(run, "second-down", lambda: second_family(mesh, config.second, -1, **options))
    fold = found(down, "LP")
    points = {**{f"PD{k}": point for k, point in enumerate(doublings, 1)}, "fold": fold}
    finer = run.step("finer meshes", lambda: {name: converged(point) for name, point in points.items()})
    changes = {name: abs(finer[name] - point.parameters["n"]) for name, point in points.items()}
    run.figure("bifurcation-diagram", figure(principal, doubled, [up, down], points))

    n = [point.parameters["n"] for point in doublings]
    metrics = [Metric("n", name, point.parameters["n"]) for name, point in points.items()]
    metrics += [Metric("T", name, point.period) for name, point in points.items()]
    metrics += [Metric("n of the fold, as published", "fold", fold.parameters["n"])]
    metrics += [
        Metric("ratio of distances", f"PD{k} to PD{k + 2}", (n[k] - n[k - 1]) / (n[k + 1] - n[k]))
        for k in range(1, len(n) - 1)
    ]
    metrics += [Metric(CONVERGED, name, value) for name, value in finer.items()]
    metrics += [Metric("change of n on a mesh twice as fine", name, change) for name, change in changes.items()]
    metrics += [
        Metric("n where another multiplier passes −1", f"number {k}", found(principal, "PD", k).parameters["n"])
        for k in range(1, sum(special.kind == "PD" for special in principal.special))
    ]
    for orbit in [*orbits_at(up, START), *orbits_at(up, 20.0)]:
        subject = f"n={orbit.parameters['n']:g}"
        metrics += [
            Metric("T", subject, orbit.period),
            Metric("largest multiplier", subject, float(orbit.multipliers(1)[0].real)),
        ]
    defect = max(float(branch.defects.max()) for branch in (principal, *doubled, up))
    metrics += [Metric("largest error of the trivial multiplier", "branches without a fold", defect)]
    resolved = [changes[name] / limit for name, limit in TOLERANCES.items() if name in changes]
    bars = [
        *differences(metrics, asked(config)),
        largest("largest change of n on a mesh twice as fine, in units of its tolerance", resolved, 1.0),
        Bar("largest error of the trivial multiplier, on branches without a fold", defect, NEGLIGIBLE),
    ]
    return Report(metrics, NOTES, bars)


def asked(config: Config) -> list[Reference]:
    """The references that a run has to meet: of its period doublings, and of the second family as far as it goes."""
    subjects = {f"PD{k}" for k in range(1, config.doublings + 1)} | {"fold", f"n={START:g}"}
    if config.second[1] >= 20:
        subjects.add("n=20")
    return [reference for reference in REFERENCES if reference.subject in subjects]


NOTES = [
    "PD1 is on the branch that is born at the Hopf point, PD(k + 1) on the orbits of twice the period that are born at "
    "PDk; T is the period of the orbit that doubles. Each is a solution of its defining system, not a bisection.",
    "Reference values of PD2, PD3 and PD4 differ by 7e-8, 3.5e-7 and 5.1e-6 from what this program finds on meshes "
    "that are fine enough for all digits: 8.672829554, 8.812067345 and 8.851620088.",
    "The fold ends the family of the cycle of period about 7.2. Chaos, for smaller n, ends where this cycle appears: "
    "there is no coexistence.",
    "In the figure unstable orbits are pale; a line ends where a maximum merges with a minimum.",
]


def figure(
    principal: Branch, doubled: list[Branch], family: list[Branch], points: dict[str, BifurcationPoint]
) -> Figure:
    """Maxima and periods over n, with the located points."""
    result = Figure(figsize=(13, 4.5), layout="constrained")
    left, near, right = result.subplots(1, 3)
    named = [(principal, "C0", "principal branch")]
    named += [(branch, f"C{k}", f"{2**k} times its period") for k, branch in enumerate(doubled, 1)]
    named += [(branch, "C7", "second family" if branch is family[0] else "") for branch in family]
    for branch, color, label in named:
        draw_maxima(left, branch, color, label)
        draw_maxima(near, branch, color, label)
        draw_periods(right, branch, color, label)
    for name, point in points.items():
        maxima = point.orbit.maxima()
        marker = "ks" if name == "fold" else "k."
        for axis in (left, near):
            axis.plot(np.full(len(maxima), point.parameters["n"]), maxima, marker, markersize=4)
        right.plot(point.parameters["n"], point.period, marker, markersize=5)
        right.annotate(name, (point.parameters["n"], point.period), xytext=(6, 2), textcoords="offset points")
    first, last = points["PD1"].parameters["n"], max(p.parameters["n"] for k, p in points.items() if k != "fold")
    near.set(xlim=(first - 0.1, last + 0.1), title="period doublings")
    left.set(title="local maxima")
    for axis in (left, near):
        axis.set(xlabel="$n$", ylabel="local maxima of $u$")
    right.set(xlabel="$n$", ylabel="period $T$", yscale="log", title="periods")
    right.legend(fontsize="small", loc="upper right")
    return result


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            mesh=Collocation(intervals=20, degree=4), doublings=1, n=(4.5, 9.0), second=(11.0, 12.5), max_steps=25
        ),
        "small": Config(),
        "paper": Config(doublings=6, second=(11.0, 30.0), ds_max=0.3, max_steps=600),
    },
    paper=PAPER,
    published=[reference.published for reference in REFERENCES],
)
