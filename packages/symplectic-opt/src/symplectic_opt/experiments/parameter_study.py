"""How the number of iterations depends on C, h, the rate, β and the dimension (arXiv 2207.11460)."""

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory

from symplectic_opt.batch import minimize_batch
from symplectic_opt.experiments import PAPER
from symplectic_opt.minimize import CONVERGED
from symplectic_opt.problems import Objective, Quadratic, QuarticSum

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

METHODS = {"expo": "expo-slc-rtl", "poly": "poly-slc-rtl"}
OVERLAP = 0.6
DEFAULTS = {"expo": (1.0, 0.01), "poly": (0.1, 6.0)}  # C and rate
BETA = 0.8


@config
class Config:
    """Everything that determines the result: maps of `size` times `size` cells, of at most `budget` iterations each.

    `dimensions` are those of the maps over C and h; the maps over rate and β have the middle one of them.
    """

    seed: NonNegativeInt = 0
    dimensions: tuple[PositiveInt, ...] = (10, 100, 1000)
    size: PositiveInt = 15
    budget: PositiveInt = 2000
    tolerance: Positive = 1e-8

    def __post_init__(self) -> None:
        if len(set(self.dimensions)) < 2 or self.size < 2:
            raise ValueError("an overlap needs at least two dimensions, a map at least two values of each axis")

    @property
    def dimension(self) -> int:
        """That of the maps over rate and β."""
        return self.dimensions[len(self.dimensions) // 2]

    def axes(self, family: str) -> dict[str, np.ndarray]:
        """Values of C, h, rate and β."""
        if family == "expo":
            ends = {"C": (-5.0, 5.0), "h": (-1.5, 2.0), "rate": (-4.0, 0.0)}
        else:
            ends = {"C": (-5.0, 5.0), "h": (-3.0, 0.5), "rate": (0.0, 1.2)}
        axes = {name: np.logspace(low, high, num=self.size) for name, (low, high) in ends.items()}
        return {**axes, "beta": np.linspace(0.05, 0.95, num=self.size)}


def objectives(d: int) -> dict[str, Objective]:
    """A function whose curvatures do not depend on the dimension, and one whose largest grows with it."""
    return {"quadratic": Quadratic(dimension=d, rotated=False), "quartic-sum": QuarticSum(dimension=d)}


def sweep(problem: Objective, family: str, axes: Mapping[str, np.ndarray], config: Config, seed: int) -> xr.Dataset:
    """Iterations `nit` to f - f* ≤ tolerance, NaN where it is not reached, over the two axes."""
    start = problem.draw(np.random.default_rng(seed)) if isinstance(problem, Quadratic) else problem.start
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    cells: dict[str, Any] = {name: torch.from_numpy(x.copy()) for name, x in zip(axes, mesh, strict=True)}
    options: dict[str, Any] = {"C": DEFAULTS[family][0], **cells}
    found = minimize_batch(
        problem.function(), start, method=METHODS[family], target=problem.minimum + config.tolerance,
        gtol=0.0, ftol=0.0, max_iter=config.budget, **options,
    )  # fmt: skip
    nit = np.where(found.status.numpy() == CONVERGED, found.nit.numpy(), np.nan)
    return xr.Dataset({"nit": (tuple(axes), nit)}, dict(axes))


def run(config: Config, run: RunDirectory) -> Report:
    """Map (C, h) for every dimension, (rate, h) and (β, h); measure how far the regions of convergence overlap."""
    planes = {
        (name, family, d): run.step(
            f"{name}-{family}-{d}", lambda p=problem, f=family, d=d: _plane(p, f, ("C", "h"), config, run.seed(f"{d}"))
        )["nit"]
        for d in config.dimensions
        for name, problem in objectives(d).items()
        for family in METHODS
    }
    problem, seed = objectives(config.dimension)["quadratic"], run.seed(f"{config.dimension}")
    sweeps = {
        (axis, family): run.step(
            f"{axis}-{family}", lambda f=family, a=axis: _plane(problem, f, (a, "h"), config, seed)
        )["nit"]
        for axis in ("rate", "beta")
        for family in METHODS
    }
    for name in objectives(10):
        maps = {f"{f}, d = {d}": planes[name, f, d] for f in METHODS for d in config.dimensions}
        run.figure(f"C-h-{name}", heat_maps(maps, len(config.dimensions)))
    run.figure("rate-and-beta", heat_maps({f"{family}, {axis}": nit for (axis, family), nit in sweeps.items()}, 2))
    overlaps = {
        (name, family): [overlap(planes[name, family, a], planes[name, family, b]) for a, b in _pairs(config)]
        for name in objectives(10)
        for family in METHODS
    }
    bars = [
        Bar(f"quadratic, {family}: least overlap of the regions of convergence", min(values), OVERLAP, at_least=True)
        for (name, family), values in overlaps.items()
        if name == "quadratic"
    ]
    ends = [f"{name}, {family}, d={d}" for (name, family, d), nit in planes.items() if best_at_an_end(nit)]
    return Report(metrics(planes, sweeps, overlaps, config), notes(config, ends), bars)


def overlap(a: xr.DataArray, b: xr.DataArray) -> float:
    """|A ∩ B|/|A ∪ B| of the cells that converge; NaN if there are none."""
    first, second = np.isfinite(a.values), np.isfinite(b.values)
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else np.nan


def best_at_an_end(nit: xr.DataArray) -> bool:
    """Whether a best cell is at the border of the map, beyond which there may be better ones."""
    best = (nit == nit.min()).values
    return bool(best[[0, -1]].any() or best[:, [0, -1]].any())


def regret(nit: xr.DataArray, axis: str, value: float) -> float:
    """Iterations with the nearest value on an axis over the fewest, each with its best h."""
    best = nit.min("h")
    nearest = best.isel({axis: int(abs(np.log(nit[axis].values / value)).argmin())})
    return float(nearest / best.min())


def metrics(
    planes: Mapping[tuple[str, str, int], xr.DataArray],
    sweeps: Mapping[tuple[str, str], xr.DataArray],
    overlaps: Mapping[tuple[str, str], list[float]],
    config: Config,
) -> list[Metric]:
    """Of every map its best cell and the part that converges; overlaps; what default values cost."""
    rows = []
    for (name, family, d), nit in planes.items():
        subject = f"{name}, {family}, d={d}"
        best = nit.where(nit == nit.min(), drop=True)
        rows += [
            Metric("fewest iterations", subject, float(nit.min())),
            Metric("cells converged", subject, 100 * float(np.isfinite(nit).mean()), "%"),
            Metric("C of the best cell", subject, float(best.C[0]) if best.size else np.nan),
            Metric("h of the best cell", subject, float(best.h[0]) if best.size else np.nan),
        ]
    for (name, family), values in overlaps.items():
        for (a, b), value in zip(_pairs(config), values, strict=True):
            rows.append(Metric("overlap of converged cells", f"{name}, {family}, d={a} and {b}", value))
    for (axis, family), nit in sweeps.items():
        subject, default = f"{axis}, {family}", BETA if axis == "beta" else DEFAULTS[family][1]
        rows.append(Metric("fewest iterations", subject, float(nit.min())))
        rows.append(Metric("cells converged", subject, 100 * float(np.isfinite(nit).mean()), "%"))
        rows.append(Metric("iterations at the default over the fewest", subject, regret(nit, axis, default)))
    return rows


def notes(config: Config, ends: list[str]) -> list[str]:
    """What a reader must know."""
    border = [f"Best at the border of its map, beyond which it may be faster: {'; '.join(ends)}."] if ends else []
    return [
        *border,
        f"Iterations to f - f* ≤ {config.tolerance:g} within {config.budget}, of SLC with gradient restarts and "
        f"temporal looping; {config.size} times {config.size} cells in each map, all started from one point.",
        "The quadratic function has curvatures from 0.001 to 1 in every dimension. The largest curvature of "
        "quartic-sum grows with the dimension: its region moves to smaller C, since f → c f is C → C/c; no bar is set "
        "for it.",
        f"Maps over the rate (η or p) and over β are of the quadratic function with d = {config.dimension} and the "
        f"default C (1 or 0.1); defaults are η = 0.01, p = 6 and β = {BETA}.",
    ]


def heat_maps(maps: Mapping[str, xr.DataArray], columns: int) -> Figure:
    """Iterations on a logarithmic scale that all maps share; white where the target is not reached."""
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(3.2 * columns + 1, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    values = np.concatenate([entry.values.ravel() for entry in maps.values()])
    finite = values[np.isfinite(values)]
    limits = {"vmin": np.log10(finite.min()), "vmax": np.log10(finite.max())} if finite.size else {}
    image: Any = None
    for axis, (title, nit) in zip(axes.flat, maps.items(), strict=True):
        other = str(nit.dims[0])
        y = nit[other].values if other == "beta" else np.log10(nit[other].values)
        image = axis.pcolormesh(np.log10(nit.h.values), y, np.log10(nit.values), shading="nearest", **limits)
        axis.set(xlabel="log₁₀ h", ylabel=_name(other, title), title=title)
    figure.colorbar(image, ax=axes, label="log₁₀ iterations", shrink=0.8)
    return figure


def _name(axis: str, title: str) -> str:
    if axis == "rate":
        return "log₁₀ η" if title.startswith("expo") else "log₁₀ p"
    return {"beta": "β"}.get(axis, f"log₁₀ {axis}")


def _pairs(config: Config) -> list[tuple[int, int]]:
    return list(combinations(config.dimensions, 2))


def _plane(problem: Objective, family: str, names: tuple[str, str], config: Config, seed: int) -> xr.Dataset:
    axes = config.axes(family)
    return sweep(problem, family, {name: axes[name] for name in names}, config, seed)


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(dimensions=(4, 8), size=3, budget=60, tolerance=0.1),
        "small": Config(),
        "paper": Config(dimensions=(10, 100, 1000, 10_000), size=31, budget=10_000),
    },
    paper=PAPER,
)
