"""`tune`: the two numbers of a method that are worth tuning, C and h, by a sweep of all (arXiv 2207.11460)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from sciml.errors import ConfigError, ShapeError

from symplectic_opt.batch import minimize_batch
from symplectic_opt.methods import Settings
from symplectic_opt.minimize import Objective, as_points

__all__ = ["GRIDS", "TuneResult", "tune"]

GRIDS: Mapping[str, dict[str, np.ndarray]] = {
    "expo": {"C": np.array([1e-3, 0.1, 1.0, 10.0, 1e3]), "h": np.logspace(-1.5, 2, 15)},
    "poly": {"C": np.array([1e-3, 0.1, 10.0]), "h": np.logspace(-3, 0.5, 15)},
    "nag": {"h": np.logspace(-6, 1.5, 31)},
    "momentum": {"h": np.logspace(-6, 1.5, 31)},
}


@dataclass(frozen=True)
class TuneResult:
    """The best cell, and all of them: `study` has dimensions C and h (only h of classical methods)."""

    settings: dict[str, float]  # C and h as `minimize` takes them
    nit: int
    fun: float
    success: bool
    study: xr.Dataset  # nit, fun, gradient_norm, status

    def __iter__(self) -> Iterator[Any]:
        """(C, h), or (h,) of classical methods, and the study: `(C, h), study = tune(…)`."""
        yield from (tuple(self.settings.values()), self.study)


def tune(
    f: Objective,
    x0: Any,
    *,
    method: str = "expo-slc-rtl",
    grid: Mapping[str, Sequence[float] | np.ndarray] | None = None,
    budget: int = 3000,
    gtol: float | int = 1e-6,
    target: float | int | None = None,
    **options: Any,
) -> TuneResult:
    """The C and h with which `minimize` converges in the fewest iterations, all run together by `minimize_batch`.

    Converged is |∇f| ≤ gtol, or f ≤ `target` where one is given. Where no cell converges within its budget, the one
    with the least f is best and `success` is False.

    Parameters
    ----------
    f, x0
        As of `minimize`: f maps points (..., d) to values (...), x0 is (d,).
    grid
        Values of C and h, or of h alone for "nag" and "momentum"; by default `GRIDS` of the family.
    budget
        Iterations of each cell.
    options
        Further arguments of `minimize_batch`, the same for all cells, but not C, h, ftol and max_iter.

    Raises
    ------
    ConfigError
        If the grid is empty, has other names or values that are not positive, or an option is one that `tune` sets.
    ShapeError
        If x0 is not (d,).
    """
    family = Settings(method, h=1.0).method.partition("-")[0]
    if taken := [name for name in ("C", "h", "ftol", "max_iter") if name in options]:
        raise ConfigError(
            f"tune sets {' and '.join(taken)} itself: C and h by grid, gtol or target, max_iter by budget"
        )
    if len(shape := as_points(x0).shape) != 1:
        raise ShapeError(f"x0 must be (d,), one point; got {tuple(shape)}: minimize_batch takes many")
    grid = GRIDS[family] if grid is None else grid
    axes = {name: np.asarray(values, float).reshape(-1) for name, values in grid.items()}
    expected = list(GRIDS[family])
    if sorted(axes) != expected or not all(len(axis) and bool((axis > 0).all()) for axis in axes.values()):
        raise ConfigError(f"grid must have positive values of {' and '.join(expected)}; got {dict(axes)}")
    mesh = dict(zip(expected, np.meshgrid(*(axes[name] for name in expected), indexing="ij"), strict=True))
    cells = {name: torch.from_numpy(entry.copy()) for name, entry in mesh.items()}
    goal = {"gtol": gtol, "ftol": float("inf")} if target is None else {"gtol": 0.0, "ftol": 0.0, "target": target}
    found = minimize_batch(f, x0, method=method, max_iter=budget, **goal, **cells, **options)
    nit = torch.where(found.success, found.nit, budget + 1)
    least = (nit == nit.min()) if bool(found.success.any()) else torch.ones_like(found.success)
    best = int(torch.where(least & found.fun.isfinite(), found.fun, float("inf")).argmin())
    return TuneResult(
        settings={name: float(entry.reshape(-1)[best]) for name, entry in mesh.items()},
        nit=int(found.nit.reshape(-1)[best]),
        fun=float(found.fun.reshape(-1)[best]),
        success=bool(found.success.reshape(-1)[best]),
        study=found.to_dataset(**{name: axes[name] for name in expected}).drop_vars("x"),
    )
