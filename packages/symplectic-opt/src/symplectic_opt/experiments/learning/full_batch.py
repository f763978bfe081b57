"""Two convex functions of machine learning with exact gradients: clouds of points, and a point amid many."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory
from torch import Tensor

from symplectic_opt.experiments import PAPER
from symplectic_opt.experiments._races import scipy_run
from symplectic_opt.experiments.learning.figures import progress
from symplectic_opt.experiments.learning.methods import (
    KICKS_FIRST,
    OURS,
    Cell,
    Method,
    Rates,
    Tuned,
    full_batch,
    note_on_grids,
    notes_of_ends,
    published,
    ranking,
    search,
)
from symplectic_opt.problems._objective import RandomObjective
from symplectic_opt.problems.fermat_weber import FermatWeber
from symplectic_opt.problems.logistic import Blobs

LBFGS = "L-BFGS"
ROUNDING = 16 * np.finfo(float).eps  # of a sum of many terms, relative


@config
class FullBatch:
    """Everything that determines the result: `gradients` of each method on each of the functions seed, seed + 1, ….

    Each method is tuned on a grid of `radius`, see `Method.cells`, and by `extra` more settings, see `search`.
    """

    seed: NonNegativeInt = 0
    repeats: PositiveInt = 5
    gradients: PositiveInt = 60
    radius: NonNegativeInt = 2
    extra: NonNegativeInt = 7
    rates: Rates

    def problem(self, seed: int) -> RandomObjective:
        """The function of that seed."""
        raise NotImplementedError

    def bars(self, gap: Callable[[str], np.ndarray]) -> list[Bar]:
        """Limits, from the excess over the minimum (repeats) by label."""
        raise NotImplementedError

    def relative(self) -> bool:
        """Whether the excess is that over the minimum, or relative to it."""
        raise NotImplementedError

    def excess(self, gap: np.ndarray, minimum: float) -> np.ndarray:
        """The excess from f less its minimum; 0 where that is no more than rounding."""
        gap = np.where(gap < ROUNDING * abs(minimum), 0.0, gap)
        return gap / abs(minimum) if self.relative() else gap


@config
class BlobsConfig(FullBatch):
    """Logistic regression between two clouds."""

    rates: Rates = Rates(adam=0.2, sgd=0.05, expo=(0.3, 1e3), poly=(0.01, 0.1))

    def problem(self, seed: int) -> RandomObjective:
        return Blobs(seed=seed)

    def relative(self) -> bool:
        return True

    def bars(self, gap: Callable[[str], np.ndarray]) -> list[Bar]:
        return [
            Bar(f"{label}: best loss relative to the minimum, less 1, worst seed", float(gap(label).max()), limit)
            for labels in (OURS, KICKS_FIRST)
            for label, limit in zip(labels, (5e-3, 1e-3))
        ]


@config
class FermatWeberConfig(FullBatch):
    """The point with the least weighted distance to many others."""

    gradients: PositiveInt = 30
    dimension: PositiveInt = 200
    points: PositiveInt = 1000
    rates: Rates = Rates(adam=0.1, sgd=0.02, expo=(8.0, 1.0), poly=(0.05, 0.1))

    def problem(self, seed: int) -> RandomObjective:
        return FermatWeber(dimension=self.dimension, points=self.points, seed=seed)

    def relative(self) -> bool:
        return False

    def bars(self, gap: Callable[[str], np.ndarray]) -> list[Bar]:
        rated = min(float(gap(f"{name}, published rate").min()) for name in ("Adam", "SGD"))
        bars = []
        for label in (*OURS, *KICKS_FIRST):
            worst = float(gap(label).max())
            bars += [
                Bar(f"{label}: best f over the minimum, worst seed", worst, 0.02),
                Bar(f"{label}: the same over the best of Adam and SGD at their published rates", worst, rated),
            ]
        return bars


def descend(f: Callable[[Tensor], Tensor], start: Tensor, method: Method, cell: Cell, gradients: int) -> np.ndarray:
    """Least f found after 1, 2, …, `gradients` gradients; where a method fails, what it had found stays."""
    x = start.clone().requires_grad_()
    optimizer: Any = method.make([x], cell)
    found = np.full(gradients, np.inf)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = f(x)
        value.backward()
        return value

    for k in range(gradients):
        try:
            optimizer.step(closure)
        except (FloatingPointError, OverflowError):
            break
        with torch.no_grad():
            value = float(f(x))
        if not np.isfinite(value):
            break
        found[k] = value
    return np.minimum.accumulate(found)


def quasi_newton(config: FullBatch, problems: Sequence[RandomObjective]) -> np.ndarray:
    """The excess of L-BFGS (repeats, gradients). What its line search tries is no iterate, and does not count."""
    rows = []
    for problem in problems:
        gaps, spent = scipy_run(problem, problem.start, config.gradients)
        row = np.array([gaps[spent <= k + 1].min() for k in range(config.gradients)])
        rows.append(config.excess(row, problem.minimum))
    return np.stack(rows)


def tune(config: FullBatch, method: Method, problems: Sequence[RandomObjective]) -> tuple[Tuned, np.ndarray]:
    """The setting with the least mean excess after all gradients, one for all functions, and the excess there.

    The excess is (repeats, gradients).
    """
    functions = [(p.function(), p.start, p.minimum) for p in problems]

    def excess(cell: Cell) -> np.ndarray:
        values = [descend(f, start, method, cell, config.gradients) for f, start, _ in functions]
        return np.stack([config.excess(v - low, low) for v, (*_, low) in zip(values, functions)])

    tuned = search(method, config.radius, config.extra, lambda cell: float(excess(cell)[:, -1].mean()))
    return tuned, excess(tuned.cell)


def run(config: FullBatch, run: RunDirectory) -> Report:
    """Tune each method, with one setting for all functions, and compare what they reach."""
    problems = [config.problem(config.seed + k) for k in range(config.repeats)]
    gaps: dict[str, np.ndarray] = {}
    metrics, at_ends = [], []
    for method in (*full_batch(config.rates), *published(config.rates)):

        def compute(method: Method = method) -> dict[str, Any]:
            tuned, gap = tune(config, method, problems)
            return {**asdict(tuned), "cell": list(tuned.cell), "excess": torch.from_numpy(gap)}

        found = run.step(method.slug, compute)
        gaps[method.label] = found["excess"].numpy()
        metrics += measured(config, method.label, gaps[method.label], found["cell"])
        at_ends += [method.label] if found["at_end"] and gaps[method.label][:, -1].any() else []
    gaps[LBFGS] = run.step("l-bfgs", lambda: torch.from_numpy(quasi_newton(config, problems))).numpy()
    metrics += measured(config, LBFGS, gaps[LBFGS], [])
    lines = {label: np.median(gap, 0) for label, gap in gaps.items()}
    title = f"least f over the minimum{', relative' if config.relative() else ''} (median)"
    run.figure("convergence", progress(lines, title, "gradients"))
    means = {label: float(gap[:, -1].mean()) for label, gap in gaps.items()}
    notes = [note(config, problems), ranking("excess", means), *notes_of_ends(at_ends)]
    return Report(metrics, notes, config.bars(lambda label: gaps[label][:, -1]))


def measured(config: FullBatch, label: str, gap: np.ndarray, cell: Sequence[float]) -> list[Metric]:
    """The excess after all gradients, and the setting."""
    last, name = gap[:, -1], "relative_excess" if config.relative() else "excess"
    values = {f"{name}_mean": last.mean(), f"{name}_std": last.std(), f"{name}_max": last.max()}
    return [Metric(key, label, float(value)) for key, value in {**values, **dict(zip(("rate", "C"), cell))}.items()]


def note(config: FullBatch, problems: Sequence[RandomObjective]) -> str:
    """What a reader of the table must know."""
    minima = ", ".join(f"{p.minimum:.9g}" for p in problems)
    return (
        f"Seeds {config.seed} to {config.seed + config.repeats - 1} with the minima {minima}; {config.gradients} "
        "gradients of each method, those of line searches included. Each method has the setting with the least mean "
        f"excess over these functions. {note_on_grids(config.radius, config.extra)} Rate is h or the learning rate. "
        f"Published rates and L-BFGS, which is SciPy's, are not tuned. An excess below {ROUNDING:.0e} of the minimum "
        "counts as 0. eBrAVO and pBrAVO decide on restarts with the next gradient; in the bravo order, that of the "
        "authors' optimizers for minibatches, with the one that has just moved the point."
    )


def _experiment(small: FullBatch, smoke: FullBatch, paper: FullBatch) -> Experiment:
    return Experiment(run=run, presets={"smoke": smoke, "small": small, "paper": paper}, paper=PAPER)


def _tiny(small: FullBatch, **changes: Any) -> Any:
    return dataclasses.replace(small, repeats=2, gradients=5, radius=1, extra=2, **changes)


_blobs, _fermat_weber = BlobsConfig(), FermatWeberConfig()
BLOBS = _experiment(_blobs, _tiny(_blobs), dataclasses.replace(_blobs, radius=3))
FERMAT_WEBER = _experiment(
    _fermat_weber,
    _tiny(_fermat_weber, dimension=20, points=100),
    dataclasses.replace(_fermat_weber, repeats=3, dimension=1000, points=5000),
)
