"""Folds of periodic orbits in the (n, τ) plane: the cusp from which two stable cycles coexist, and fold-flips."""

from typing import Annotated

from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Experiment, Metric, Report, RunDirectory

from mackeyglass.branch import Branch, continue_bifurcation
from mackeyglass.crossings import points_at, turning_points
from mackeyglass.experiments import PAPER
from mackeyglass.experiments.branches import (
    ABSTRACT,
    Collocation,
    Interval,
    Reference,
    differences,
    draw_curve,
    draw_points,
    found,
    kept,
    largest,
    located,
    mesh_error,
    rising,
    second_family,
    special_points,
    until,
    within,
)
from mackeyglass.mesh import Mesh

CURVE, POINT = 1e-5, 2e-5  # how well n and τ have to be found
FAR = 3.795  # τ at which fewer digits are known
LEFT = {
    1.15: 14.805652,
    1.2: 14.445681,
    1.3: 13.778190,
    1.35: 13.477320,
    1.4: 13.198883,
    1.5: 12.706063,
    1.6: 12.290798,
    1.7: 11.942986,
    1.8: 11.653139,
    1.9: 11.412860,
    FAR: 10.3147,
}
RIGHT = {1.15: 14.935947, 1.2: 14.798837, 1.3: 14.780488}
THIRD = {1.3: 18.365872}
CUSP, FLIP = (15.162656, 1.0998704), (15.054045, 1.3397758)
HIGHEST = "largest τ of the right fold, number 1"
END = (25.7, 1.206)  # of the third fold, as far as it is known
NAMES = ("left", "right", "third")  # folds in the order of the curve from (11.2, 2)
REFERENCES = [
    Reference("n", "cusp", CUSP[0], POINT, place=CUSP),
    Reference("τ", "cusp", CUSP[1], POINT, place=CUSP),
    Reference("T", "cusp", 3.829158, POINT, place=CUSP),
    Reference("n", "fold-flip", FLIP[0], POINT, place=FLIP),
    Reference("τ", "fold-flip", FLIP[1], POINT, place=FLIP),
    Reference("T", "fold-flip", 4.071701, POINT, place=FLIP),
    Reference("n", HIGHEST, 15.4, 0.1, place=(15.4, 1.347)),
    Reference("τ", HIGHEST, 1.347, 1e-3, place=(15.4, 1.347)),
    Reference("τ", f"third fold at n={END[0]:g}", END[1], 1e-3, place=END),
    Reference("n, as published", "cusp", 15.16, 0.005, ABSTRACT, CUSP),
    Reference("τ, as published", "cusp", 1.1, 0.05, ABSTRACT, CUSP),
    Reference("n, as published", "fold at τ=2", 11.21485, 5e-6, ABSTRACT, (11.21485, 2.0)),
    *(
        Reference("n", f"{name} fold at τ={tau:g}", n, 1e-4 if tau == FAR else CURVE, place=(n, tau))
        for name, folds in zip(NAMES, (LEFT, RIGHT, THIRD), strict=True)
        for tau, n in folds.items()
    ),
]


@config
class Config:
    """Everything that determines the result: the part of the plane, the mesh and the longest step."""

    seed: NonNegativeInt = 0
    mesh: Collocation = Collocation()
    n: Interval = (9.0, 20.0)
    tau: Interval = (1.0, 4.0)
    ds_max: Annotated[float, Field(gt=0, le=2)] = 0.3
    max_steps: PositiveInt = 200

    def __post_init__(self) -> None:
        rising(n=self.n, tau=self.tau)
        if not (self.n[0] < 11.2 < 12.0 < self.n[1] and self.tau[0] < 2 < self.tau[1]):
            raise ValueError(
                f"n={self.n} and tau={self.tau} must contain (11.2, 2) and (12, 2), where the curve begins"
            )


def run(config: Config, run: RunDirectory) -> Report:
    """Follow the folds in both directions from τ = 2, and locate what lies on them."""
    curves = fold_curves(run, config.mesh.mesh, config.n, config.tau, config.ds_max, config.max_steps)
    points = special_points(curves)
    table = run.step("points", lambda: located(points, finer=points))
    rows = run.step("table", lambda: _rows(*curves))
    run.figure("fold-curve", figure(curves, table))

    metrics = [Metric("n, as published", "fold at τ=2", float(curves[0]["n"][0]))]
    for name, point in table.items():
        metrics += [Metric(key, name, point[key]) for key in ("n", "τ", "T")]
        metrics += [Metric("largest change of n and τ on a mesh twice as fine", name, point["change"])]
    for key in ("n", "τ") if "cusp" in table else ():
        metrics.append(Metric(f"{key}, as published", "cusp", table["cusp"][key]))
    metrics += [Metric("n", name, n) for name, n in rows["n"].items()]
    metrics += [Metric("change of n on a mesh twice as fine", name, change) for name, change in rows["change"].items()]
    metrics += [
        Metric(name, f"largest τ of the right fold, number {k}", point.parameters[key])
        for k, point in enumerate(turning_points(curves[0], "tau"), 1)
        for name, key in (("n", "n"), ("τ", "tau"))
    ]
    for point in points_at(curves[0], "n", END[0])[:1]:
        metrics.append(Metric("τ", f"third fold at n={END[0]:g}", point.parameters["tau"]))
    asked = within(REFERENCES, config.n, config.tau)
    bars = differences(metrics, asked)
    if any(reference.place in (CUSP, FLIP) for reference in asked):
        changes = [point["change"] for point in table.values()]
        bars.append(largest("largest change of a cusp or fold-flip on a mesh twice as fine", changes, POINT))
    bars.append(largest("largest change of n of a fold on a mesh twice as fine", rows["change"].values(), CURVE))
    return Report(metrics, NOTES, bars)


NOTES = [
    "The curve begins at the fold at τ = 2. Towards smaller delays it reaches the cusp: the left fold, before it, is "
    "where the stable cycle of the longer period begins, the right fold, after it, where the principal branch ends. "
    "Both cycles are stable between them, near the cusp.",
    "At a fold-flip the orbit at the fold has the multiplier −1 too: a curve of period doublings touches the folds.",
    "Points of codimension two are zeros of test functions along the curve, from the defining system of folds.",
]


def _rows(smaller: Branch, larger: Branch) -> dict[str, dict[str, float]]:
    """n of the folds at the delays for which there are reference values, and its change on a finer mesh."""
    points = {
        f"{name} fold at τ={tau:g}": point
        for tau in LEFT
        for name, point in zip(NAMES, points_at(smaller if tau < 2 else larger, "tau", tau), strict=False)
    }
    return {
        "n": {name: point.parameters["n"] for name, point in points.items()},
        "change": {name: mesh_error(point) for name, point in points.items()},
    }


def fold_curves(
    run: RunDirectory, mesh: Mesh, n: Interval, tau: Interval, ds_max: float, max_steps: int
) -> tuple[Branch, Branch]:
    """The folds from the one at τ = 2 towards smaller delays, through the cusp, and towards larger ones."""
    family = kept(run, "second-family", lambda: until("LP", second_family(mesh, n, -1, ds_max=0.5, max_steps=5)))
    fold = found(family, "LP")

    def follow(name: str, direction: int) -> Branch:
        return kept(
            run,
            name,
            lambda: continue_bifurcation(
                fold,
                ("n", "tau"),
                {"n": n, "tau": tau},
                direction=direction,
                ds_max=ds_max,
                max_steps=max_steps,
                progress=True,
            ),
        )

    return follow("folds-to-smaller-delays", -1), follow("folds-to-larger-delays", 1)


def figure(curves: tuple[Branch, Branch], table: dict[str, dict[str, float]]) -> Figure:
    """The curve in the plane, its part near the cusp, and the period along it."""
    result = Figure(figsize=(12, 4.2), layout="constrained")
    plane, near, right = result.subplots(1, 3)
    for axis in (plane, near):
        draw_curve(axis, curves, "C0", "folds")
        draw_points(axis, table, {"cusp": "^", "fold-flip": "s"})
        axis.set(xlabel="$n$", ylabel=r"delay $\tau$")
    plane.legend(fontsize="small")
    near.set(xlim=(13.0, 16.5), ylim=(1.05, 1.45), title="near the cusp")
    for curve in curves:
        right.plot(curve["tau"], curve.periods, "C0")
    draw_points(right, {name: {"n": p["τ"], "τ": p["T"]} for name, p in table.items()}, {"cusp": "^", "fold-flip": "s"})
    right.set(xlabel=r"delay $\tau$", ylabel="period $T$ at the fold")
    return result


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(mesh=Collocation(intervals=20, degree=4), n=(10.5, 13.0), tau=(1.7, 2.3), max_steps=10),
        "small": Config(),
        "paper": Config(mesh=Collocation(intervals=80), n=(9.0, 26.0), ds_max=0.2, max_steps=400),
    },
    paper=PAPER,
    published=[reference.published for reference in REFERENCES],
)
