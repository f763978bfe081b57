"""The (n, τ) plane: where equilibria and cycles gain and lose their stability, and cycles begin to coexist."""

from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Experiment, Metric, Report, RunDirectory

from mackeyglass.branch import Branch
from mackeyglass.experiments import PAPER, lyapunov_map
from mackeyglass.experiments.branches import (
    ABSTRACT,
    Collocation,
    Interval,
    Reference,
    differences,
    draw_curve,
    draw_points,
    found,
    largest,
    located,
    rising,
    special_points,
    within,
)
from mackeyglass.experiments.common import SYSTEM, Positive
from mackeyglass.experiments.fold_curve import CUSP, FLIP, fold_curves
from mackeyglass.experiments.pd_curve import doubling_curves, first_doubling, second_doubling
from mackeyglass.experiments.torus import doubled_orbits, torus_curves
from mackeyglass.hopf import hopf_curve

REFERENCES = [
    Reference("n", "cusp of folds", CUSP[0], 2e-5, place=CUSP),
    Reference("τ", "cusp of folds", CUSP[1], 2e-5, place=CUSP),
    Reference("n", "fold-flip of folds", FLIP[0], 2e-5, place=FLIP),
    Reference("τ", "fold-flip of folds", FLIP[1], 2e-5, place=FLIP),
    Reference("n, as published", "cusp of folds", 15.16, 0.005, ABSTRACT, CUSP),
    Reference("τ, as published", "cusp of folds", 1.1, 0.05, ABSTRACT, CUSP),
]
COLORS = {"folds": "C0", "PD1": "C1", "PD2": "C2", "torus": "C4"}
MARKERS = {"cusp": "^", "fold-flip": "s"}


@config
class Config:
    """Everything that determines the result.

    Curves begin at τ = 2, torus curves at the delays `torus`; all are followed within `n` and `tau` with steps of at
    most `ds_max`. The colours below them are exponents of `cells` values of n and of τ, each from `delays` delays after
    half as many.
    """

    seed: NonNegativeInt = 0
    mesh: Collocation = Collocation(intervals=40)
    n: Interval = (4.0, 20.0)
    tau: Interval = (0.9, 3.5)
    torus: tuple[Positive, ...] = (1.35, 2.6)
    second: bool = True
    cells: tuple[PositiveInt, PositiveInt] = (140, 100)
    delays: PositiveInt = 800
    ds_max: Annotated[float, Field(gt=0, le=2)] = 0.4
    max_steps: PositiveInt = 250

    def __post_init__(self) -> None:
        rising(n=self.n, tau=self.tau)
        if not (self.n[0] < 7.39 < 12.0 < self.n[1] and self.tau[0] < 2 < self.tau[1]):
            raise ValueError(f"n={self.n} and tau={self.tau} must contain (7.4, 2) and (12, 2), where curves begin")


def run(config: Config, run: RunDirectory) -> Report:
    """Follow every curve, keep it in a file, and draw all of them as they are read from there, over a map of chaos."""
    curves = follow(config, run)
    tables = {}
    for name, branches in curves.items():
        points = {key: where for key, where in special_points(branches).items() if key.split()[0] in MARKERS}
        tables[name] = run.step(f"points of {name}", lambda points=points: located(points))
    cells = lyapunov_map.Config(
        seed=config.seed,
        cells=config.cells,
        delays=config.delays,
        transient=max(100, config.delays // 2),
        n=config.n,
        tau=config.tau,
    )
    colours = run.step("exponents", lambda: lyapunov_map.exponents(cells, run))
    run.figure("atlas", figure(config, curves, tables, colours["exponent"]))

    metrics = []
    for curve, table in tables.items():
        for name, point in table.items():
            metrics += [Metric(key, f"{name} of {curve}", point[key]) for key in ("n", "τ", "T")]
    metrics += [
        Metric(f"{metric.name}, as published", metric.subject, metric.value)
        for metric in metrics
        if metric.subject == "cusp of folds" and metric.name in ("n", "τ")
    ]
    asked = within(REFERENCES, config.n, config.tau)
    bars = differences(metrics, asked)
    if any(reference.place == FLIP for reference in asked):
        both = [tables[name]["fold-flip"] for name in ("folds", "PD1") if "fold-flip" in tables[name]]
        apart = [abs(both[0][key] - both[1][key]) for key in ("n", "τ")] if len(both) == 2 else []
        bars.append(largest("distance of the fold-flip on the folds from that on PD1", apart, 2e-5))
    metrics += [Metric("points", name, float(sum(map(len, branches)))) for name, branches in curves.items()]
    return Report(metrics, NOTES, bars)


NOTES = [
    "Every curve of periodic orbits is drawn from a file in branches/, which mackeyglass.load_branch reads and "
    "Branch.extended continues. Hopf curves are a formula.",
    "PD1: period doublings of the branch that is born at the first Hopf curve; PD2: those of the orbits of twice the "
    "period; torus: torus bifurcations of these. The piece of PD2 near (8, 2.6) is not connected with the rest in this "
    "part of the plane.",
]


def follow(config: Config, run: RunDirectory) -> dict[str, list[Branch]]:
    """Curves by the name of what happens on them."""
    mesh, limits = config.mesh.mesh, {"n": config.n, "tau": config.tau}
    options: dict[str, Any] = {"ds_max": config.ds_max, "max_steps": config.max_steps}
    first = first_doubling(run, mesh, 2.0)
    detect = ("fold-flip",)
    curves = {
        "folds": [*fold_curves(run, mesh, config.n, config.tau, **options)],
        "PD1": [*doubling_curves(run, "PD1", first, limits, detect=detect, **options)],
    }
    if config.second:
        second = second_doubling(run, first)
        curves["PD2"] = [*doubling_curves(run, "PD2", second, limits, detect=detect, **options)]
    if config.torus:
        doubled = {tau: doubled_orbits(run, config.mesh, tau) for tau in config.torus}
        starts = [found(branch, "NS") for branch in doubled.values()]
        curves["torus"] = [curve for point in starts for curve in torus_curves(run, point, limits, **options)]
        for tau, branch in doubled.items():
            if config.second and any(special.kind == "PD" for special in branch.special):
                again = doubling_curves(run, f"PD2-{tau:g}", found(branch, "PD"), limits, detect=detect, **options)
                curves["PD2"] += again
    return curves


def figure(
    config: Config,
    curves: dict[str, list[Branch]],
    tables: dict[str, dict[str, dict[str, float]]],
    exponent: xr.DataArray,
) -> Figure:
    """The plane, over colours of the largest Lyapunov exponent, with coordinates n and tau."""
    result = Figure(figsize=(8, 6), layout="constrained")
    plane = result.subplots()
    reach = max(float(exponent.max()), 0.05)  # chaos is to be seen: exponents of equilibria go far below
    drawn = plane.pcolormesh(
        exponent["n"],
        exponent["tau"],
        exponent.transpose("tau", "n"),
        cmap="RdBu_r",
        vmin=-reach,
        vmax=reach,
        alpha=0.7,
        rasterized=True,
    )
    result.colorbar(drawn, label=r"largest Lyapunov exponent $\lambda_1$", extend="min")
    tau = np.linspace(*config.tau, 400)
    for k in range(3):
        n, _ = hopf_curve(SYSTEM, k, torch.from_numpy(tau))
        plane.plot(n, tau, color="k", linestyle=":", label="Hopf" if k == 0 else "")
    for name, branches in curves.items():
        draw_curve(plane, branches, COLORS[name], name)
    draw_points(
        plane, {f"{name} of {k}": point for k, table in tables.items() for name, point in table.items()}, MARKERS
    )
    plane.set(xlabel="$n$", ylabel=r"delay $\tau$", xlim=config.n, ylim=config.tau)
    plane.legend(loc="upper right", fontsize="small")
    return result


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            mesh=Collocation(intervals=20, degree=4),
            n=(6.0, 13.0),
            tau=(1.7, 2.3),
            torus=(),
            second=False,
            max_steps=6,
            cells=(6, 4),
            delays=50,
        ),
        "small": Config(),
        "paper": Config(
            mesh=Collocation(intervals=60),
            n=(4.0, 26.0),
            tau=(0.9, 4.0),
            ds_max=0.2,
            max_steps=600,
            cells=(400, 300),
            delays=2000,
        ),
    },
    paper=PAPER,
    published=[reference.published for reference in REFERENCES],
)
