"""What momentum restarts and temporal looping are worth, every variant with its best C and h (arXiv 2207.11460)."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory
from torch import Tensor

from symplectic_opt.experiments import PAPER
from symplectic_opt.experiments import _ablation_figures as figures
from symplectic_opt.experiments._races import ROUNDS, Contestant, Result, arrival, best_run, race, scipy_run
from symplectic_opt.experiments._references import REFERENCES, reference
from symplectic_opt.problems import Log2d, LogisticRegression, Objective, Quadratic, Quartic

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Literal["log2d", "quadratic", "quartic", "logreg"]

LBFGS, CG = "L-BFGS (SciPy)", "CG (SciPy)"
SCIPY = {LBFGS: "L-BFGS-B", CG: "CG"}
NAG_RESTART, COARSE = "NAG, gradient restart", "NAG, gradient restart, 31 rates"
BEST, NO_RESTART = "expo SLC, gradient restart, loop", "expo SLC, loop"


def _rtl(restart: Any, looping: bool, **more: Any) -> dict[str, Any]:
    return {"restart": restart, "temporal_looping": looping, **more}


CONTESTANTS = (
    Contestant("NAG", "nag"),
    Contestant(NAG_RESTART, "nag", {"restart": "gradient"}),
    Contestant("NAG, 31 rates", "nag", rates=31),
    Contestant(COARSE, "nag", {"restart": "gradient"}, rates=31),
    Contestant(BEST, "expo-slc", _rtl("gradient", True)),
    Contestant("expo SLC, gradient restart", "expo-slc", _rtl("gradient", False)),
    Contestant("expo SLC, function restart, loop", "expo-slc", _rtl("function", True)),
    Contestant("expo SLC, velocity restart, loop", "expo-slc", _rtl("velocity", True)),
    Contestant(NO_RESTART, "expo-slc", _rtl(None, True)),
    Contestant("expo SLC", "expo-slc", _rtl(None, False)),
    Contestant("expo HTVI, gradient restart, loop", "expo-htvi", _rtl("gradient", True)),
    Contestant("expo SV, gradient restart, loop", "expo-sv", _rtl("gradient", True)),
    Contestant("expo RK4", "expo-rk4", gradients=4),
    Contestant("poly SLC, gradient restart, loop", "poly-slc", _rtl("gradient", True)),
    Contestant("poly SLC, gradient restart", "poly-slc", _rtl("gradient", False)),
    Contestant("poly SLC, loop", "poly-slc", _rtl(None, True)),
    Contestant("poly SLC", "poly-slc", _rtl(None, False)),
    Contestant("poly SLC adaptive, gradient restart, loop", "poly-slc", _rtl("gradient", True, adaptive_to=4.0)),
    Contestant("poly SLC adaptive, gradient restart", "poly-slc", _rtl("gradient", False, adaptive_to=4.0)),
    Contestant("poly SLC adaptive", "poly-slc", _rtl(None, False, adaptive_to=4.0)),
)

DRAWN = ("NAG", NAG_RESTART, NO_RESTART, "expo SLC, gradient restart", BEST, "poly SLC, gradient restart, loop")
ADAPTED = tuple(c.label for c in CONTESTANTS if c.family == "poly" and c.options["temporal_looping"] is False)
AFTER = "largest f - f* late, log2d"


@config
class Config:
    """Everything that determines the result.

    Every method has the same number of cells, of `budget` gradients each: `expo_C` or `poly_C` times `h_values`, for
    NAG as many learning rates (beside which it is shown with 31). Quadratic functions are minimised from `starts`
    random points, the others from their published ones, all to f - f* ≤ `tolerance`. What happens `after` convergence
    is seen in so many iterations.
    """

    seed: NonNegativeInt = 0
    problems: tuple[Name, ...] = ("quadratic", "quartic", "logreg")
    dimensions: tuple[PositiveInt, ...] = (100,)
    starts: PositiveInt = 3
    expo_C: tuple[Positive, ...] = (1e-3, 0.1, 1.0, 10.0, 1e3, 1e6)
    poly_C: tuple[Positive, ...] = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    h_values: PositiveInt = 15
    budget: PositiveInt = 3000
    tolerance: Positive = 1e-8
    after: PositiveInt = 3000

    def __post_init__(self) -> None:
        if len(self.expo_C) != len(self.poly_C):
            raise ValueError("expo_C and poly_C must be of one length: every method has as many cells")

    @property
    def cells(self) -> int:
        """Those of every method."""
        return len(self.expo_C) * self.h_values

    def axes(self, contestant: Contestant) -> dict[str, np.ndarray]:
        """The grid of a method."""
        if contestant.family == "nag":
            return {"h": np.logspace(-6, 1.5, num=contestant.rates or self.cells)}
        C, low, high = (self.expo_C, -1.5, 2.0) if contestant.family == "expo" else (self.poly_C, -3.0, 0.5)
        return {"C": np.array(C), "h": np.logspace(low, high, num=self.h_values)}

    def objectives(self) -> dict[str, Objective]:
        """The functions, by name; several dimensions are several functions."""
        single: dict[Name, Objective] = {"log2d": Log2d(), "quartic": Quartic(), "logreg": LogisticRegression()}
        found: dict[str, Objective] = {}
        for name in self.problems:
            if name == "quadratic":
                sizes = {f"quadratic d={d}" if len(self.dimensions) > 1 else name: d for d in self.dimensions}
                found |= {key: Quadratic(dimension=d, rotated=d <= 1000) for key, d in sizes.items()}
            else:
                found[name] = single[name]
        return found


def starts(problem: Objective, config: Config, seed: int) -> Tensor:
    """Points (start, d)."""
    if not isinstance(problem, Quadratic):
        return problem.start[None]
    drawn = [problem.draw(np.random.default_rng([seed, i])) for i in range(config.starts)]
    return torch.from_numpy(np.stack(drawn))


def run(config: Config, run: RunDirectory) -> Report:
    """Race all variants on every function; draw the runs of the best cells."""
    found: dict[str, dict[str, Result]] = {}
    peers: dict[str, dict[str, np.ndarray]] = {}
    traces: dict[str, dict[str, Tensor]] = {}
    for name, problem in config.objectives().items():
        x0 = starts(problem, config, run.seed("starts"))
        found[name] = {c.label: _raced(run, name, problem, x0, c, config) for c in CONTESTANTS}
        traces[name] = _traced(run, name, problem, x0[0], found[name], config)
        peers[name] = {}
        for label, method in SCIPY.items():
            single = [scipy_run(problem, point, config.budget, method) for point in x0]
            peers[name][label] = np.array([arrival(*entry, config.tolerance) for entry in single])
            traces[name][label] = torch.from_numpy(single[0][0])
    after = run.step("after-convergence", lambda: figures.after_convergence(config.after))
    run.figure("convergence", figures.convergence(traces, [*DRAWN, *SCIPY], config.tolerance))
    run.figure("adaptive", figures.convergence(traces, [*ADAPTED], config.tolerance))
    run.figure("restarts", figures.restarts())
    run.figure("looping", figures.looping(after))
    rows = metrics(found, peers)
    rows += [Metric(AFTER, label, figures.latest(gaps)) for label, gaps in after.items()]
    kept = Bar(f"log2d: largest f - f* of {BEST} long after convergence", figures.latest(after[BEST]), 1e-12)
    return Report(rows, notes(found, config), [*bars(found, config), kept])


def _raced(run: RunDirectory, name: str, problem: Objective, x0: Tensor, c: Contestant, config: Config) -> Result:
    def compute() -> dict[str, Any]:
        result = race(problem, x0, c, config.axes(c), config.budget, config.tolerance)
        return {key: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for key, x in vars(result).items()}

    kept = run.step(f"{_slug(name)}-{_slug(c.label)}", compute)
    nit, C, h = (kept[key].numpy() for key in ("nit", "C", "h"))
    return Result(nit=nit, C=C, h=h, gradients=kept["gradients"])


def _traced(
    run: RunDirectory, name: str, problem: Objective, x0: Tensor, results: dict[str, Result], config: Config
) -> dict[str, Tensor]:
    """The best runs of the methods that are drawn."""
    drawn = [c for c in CONTESTANTS if c.label in (*DRAWN, *ADAPTED)]

    def compute() -> dict[str, Tensor]:
        return {c.label: best_run(problem, x0, c, results[c.label], config.budget) for c in drawn}

    return run.step(f"{_slug(name)}-best-runs", compute)


def at_an_end(result: Result, axes: dict[str, np.ndarray]) -> bool:
    """Whether the best cell of some start that arrived has the first or last value of an axis."""
    arrived = np.isfinite(result.nit)
    ends = [
        np.isin(getattr(result, name)[arrived], axis[[0, -1]]).any() for name, axis in axes.items() if len(axis) > 1
    ]
    return any(ends)


def _slug(label: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in label.lower()).split())


def _cell(result: Result) -> str:
    return f"h={result.h[0]:.3g}" if math.isnan(result.C[0]) else f"C={result.C[0]:g} h={result.h[0]:.3g}"


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def metrics(found: dict[str, dict[str, Result]], peers: dict[str, dict[str, np.ndarray]]) -> list[Metric]:
    """Means over the starts, beside the reference measurements."""
    rows = []
    for name, results in found.items():
        for c in CONTESTANTS:
            result = results[c.label]
            value, source = reference(name, c.label) or (None, None)
            rows.append(Metric(f"iterations, {name}", c.label, float(result.nit.mean()), "1", value, source))
            rows.append(Metric(f"gradients, {name}", c.label, float(result.nit.mean()) * c.gradients))
            if len(result.nit) > 1:
                rows.append(Metric(f"fewest, {name}", c.label, float(result.nit.min())))
                rows.append(Metric(f"most, {name}", c.label, float(result.nit.max())))
        for label, counts in peers[name].items():
            iterations, evaluations = counts.mean(0)
            rows.append(Metric(f"iterations, {name}", label, float(iterations)))
            rows.append(Metric(f"gradients, {name}", label, float(evaluations)))
    return rows


def bars(found: dict[str, dict[str, Result]], config: Config) -> list[Bar]:
    """What restarts and looping are worth. A method that does not arrive counts with its whole budget."""

    def mean(name: str, label: str) -> float:
        return float(np.minimum(found[name][label].nit, config.budget).mean())

    limits = []
    for name in found:
        if name.startswith("quadratic"):
            gain = min(mean(name, label) for label in (NO_RESTART, "expo SLC")) / mean(name, BEST)
            limits.append(Bar(f"{name}: iterations without restarts over those of {BEST}", gain, 5.0, at_least=True))
        if name.startswith(("quadratic", "logreg")):
            for other in (NAG_RESTART, COARSE):
                ratio = mean(name, BEST) / mean(name, other)
                limits.append(Bar(f"{name}: iterations of {BEST} over those of {other}", ratio, 1.1))
    return limits


def notes(found: dict[str, dict[str, Result]], config: Config) -> list[str]:
    """What a reader must know."""
    lines = [
        f"Iterations to f - f* ≤ {config.tolerance:g}, of the best of all cells; inf: none arrived within "
        f"{config.budget} gradients. On quadratic functions means over {config.starts} starts, each with its own best "
        "cell; fewest and most are over these starts.",
        f"Equal budgets: every method has {config.cells} cells of at most {config.budget} gradients each. Grids: expo "
        f"C ∈ {_list(config.expo_C)}, {config.h_values} h from 10^-1.5 to 10^2; poly C ∈ {_list(config.poly_C)}, "
        f"{config.h_values} h from 10^-3 to 10^0.5; NAG {config.cells} learning rates from 10^-6 to 10^1.5. These lie "
        f"closer than the h of a method that has a C too, therefore NAG is shown with 31 of them besides. A race is "
        f"over once a cell has arrived from every start, asked after "
        f"{_list(math.ceil(part * config.budget) for part in ROUNDS)} gradients.",
    ]
    for name, results in found.items():
        spent = ", ".join(f"{label} {result.gradients}" for label, result in results.items())
        lines.append(f"Gradients that tuning took on {name}, over all starts: {spent}.")
        cells = (f"{label} {_cell(result)}" for label, result in results.items() if np.isfinite(result.nit[0]))
        lines.append(f"Best cells on {name} (first start): {'; '.join(cells)}.")
        ends = [c.label for c in CONTESTANTS if at_an_end(results[c.label], config.axes(c))]
        if ends:
            lines.append(f"On {name} at an end of its grid, beyond which it may be faster: {'; '.join(ends)}.")
    lines += [
        "L-BFGS and CG are not tuned; their gradients include those of their line searches. Where they need fewer, "
        "they are the better choice for such smooth problems without noise.",
        f'"Late" is the second half of {config.after} iterations with C = 1, h = 4; inf: the run was lost.',
        "Adaptive is p = 6 to 4 with growing steps. RK4 solves the differential equation and takes four gradients an "
        "iteration.",
        f"The paper has no table of these numbers. The column of published numbers holds {REFERENCES}.",
    ]
    return lines


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(problems=("log2d",), expo_C=(1.0,), poly_C=(0.1,), h_values=4, budget=150, after=40),
        "small": Config(),
        "paper": Config(
            problems=("log2d", "quadratic", "quartic", "logreg"),
            dimensions=(100, 1000, 10_000),
            starts=5,
            expo_C=(1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3, 1e6),
            poly_C=(1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3),
            h_values=29,
            budget=10_000,
            after=100_000,
        ),
    },
    paper=PAPER,
)
