"""Races: every method with its best parameters from a grid, all grids of the same number of cells."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import optimize
from torch import Tensor

from symplectic_opt.batch import BatchResult, minimize_batch
from symplectic_opt.minimize import minimize
from symplectic_opt.problems import Log2d, Objective

__all__ = ["Contestant", "Result", "arrival", "best_run", "race", "scipy_run"]

ROUNDS = (0.1, 1 / 3, 1.0)  # parts of the budget, after each of which a race may be over

LEAST = 1e-13  # f - f* at which runs that are drawn end


@dataclass(frozen=True)
class Contestant:
    """A method with its options, the gradients that a move takes, and learning rates where it has a grid of its own."""

    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    gradients: int = 1
    rates: int | None = None

    @property
    def family(self) -> str:
        """The one of `tune.GRIDS`."""
        return self.method.partition("-")[0]


@dataclass(frozen=True)
class Result:
    """The best cell of a contestant for every start: iterations to the target (inf if none reached it), C and h.

    C is NaN where there is none.
    """

    nit: np.ndarray
    C: np.ndarray
    h: np.ndarray
    gradients: int  # that all cells took together; iterations that a later round retraces count once


def race(
    problem: Objective,
    starts: Float[Tensor, "start d"],
    contestant: Contestant,
    axes: Mapping[str, np.ndarray],
    budget: int,
    tolerance: float,
) -> Result:
    """The fewest iterations to f - f* ≤ `tolerance` over all cells of `axes`, for each start.

    A race ends after the first round in which some cell reached the target from every start: the others cannot be
    faster. `budget` counts gradients of a cell.
    """
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    cells = {name: torch.from_numpy(entry.reshape(-1).copy()) for name, entry in zip(axes, mesh, strict=True)}
    limit = budget // contestant.gradients

    def iterate(part: float) -> BatchResult:
        return minimize_batch(
            problem.function(), starts[:, None], method=contestant.method, target=problem.minimum + tolerance,
            gtol=0.0, ftol=0.0, max_iter=max(1, math.ceil(part * limit)), **cells, **contestant.options,
        )  # fmt: skip

    found = iterate(ROUNDS[0])
    for part in ROUNDS[1:]:
        if bool(found.success.any(1).all()):
            break
        found = iterate(part)  # retraces the rounds before
    nit = np.where(found.success.numpy(), found.nit.numpy(), math.inf)
    value = np.nan_to_num(found.fun.numpy(), nan=math.inf)
    best = np.lexsort((value, nit))[:, 0]  # where none arrived, the one with the least f
    chosen = {name: entry.numpy()[best] for name, entry in cells.items()}
    return Result(
        nit=nit.min(1),
        C=chosen.get("C", np.full(len(best), math.nan)),
        h=chosen["h"],
        gradients=int((found.nit * contestant.gradients + 1).sum()),
    )


def best_run(
    problem: Objective, start: Float[Tensor, " d"], contestant: Contestant, result: Result, budget: int
) -> Tensor:
    """f - f* at every iterate of the best cell of the first start, to `LEAST`; a lost run ends early."""
    settings = {"C": float(result.C[0]), "h": float(result.h[0])}
    if math.isnan(settings["C"]):
        del settings["C"]
    found = minimize(
        problem.function(), start, method=contestant.method, target=problem.minimum + LEAST, gtol=0.0, ftol=0.0,
        max_iter=budget // contestant.gradients, **settings, **contestant.options,
    )  # fmt: skip
    first = problem.function()(start).item()
    return torch.from_numpy(np.r_[first, found.trace.f.values] - problem.minimum)


def scipy_run(
    problem: Objective, start: Float[Tensor, " d"], budget: int, method: str = "L-BFGS-B"
) -> tuple[np.ndarray, np.ndarray]:
    """f - f* of the iterates of a method of SciPy, the start first, and the evaluations of f and ∇f spent until each.

    L-BFGS has the bounds of the domain of `log2d`, which other steps leave; CG, which has none, infinite values there.
    """
    f, evaluations = problem.function(), 0

    def with_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal evaluations
        evaluations += 1
        point = torch.from_numpy(x).requires_grad_()
        if not bool(problem.domain(point)):
            return math.inf, np.zeros_like(x)
        value = f(point)
        (gradient,) = torch.autograd.grad(value, point)
        return value.item(), gradient.numpy()

    gaps, spent = [f(start).item() - problem.minimum], [1]

    def after(intermediate_result: optimize.OptimizeResult) -> None:
        gaps.append(float(intermediate_result.fun) - problem.minimum)
        spent.append(evaluations)
        if gaps[-1] <= LEAST or evaluations >= budget:
            raise StopIteration

    quasi_newton = method == "L-BFGS-B"
    optimize.minimize(
        with_gradient, start.numpy(), jac=True, method=method, callback=after,
        bounds=[(1e-9, None)] * problem.dim if quasi_newton and isinstance(problem, Log2d) else None,
        options={"gtol": 0.0, "maxiter": budget, **({"ftol": 0.0, "maxfun": budget} if quasi_newton else {})},
    )  # fmt: skip
    return np.array(gaps), np.array(spent)


def arrival(gaps: np.ndarray, spent: np.ndarray, tolerance: float) -> tuple[float, float]:
    """Iterations and evaluations until f - f* ≤ `tolerance`, inf if it is not reached."""
    reached = np.flatnonzero(gaps <= tolerance)
    return (float(reached[0]), float(spent[reached[0]])) if len(reached) else (math.inf, math.inf)
