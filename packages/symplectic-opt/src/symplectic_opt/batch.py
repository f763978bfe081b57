"""`minimize_batch`: many starts or many parameters at once (arXiv 2207.11460)."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from sciml.errors import ConfigError, ShapeError
from torch import Tensor

from symplectic_opt.descent import Restart
from symplectic_opt.heavy_ball import LoopTest
from symplectic_opt.methods import Pace, Settings
from symplectic_opt.minimize import (
    CONVERGED,
    DIVERGED,
    EXHAUSTED,
    Evaluator,
    Objective,
    as_points,
    check_limits,
    number,
)

__all__ = ["BatchResult", "minimize_batch"]

COMPACT_BELOW = 0.8  # the part of cells that still move, under which the others are put aside


@dataclass(frozen=True)
class BatchResult:
    """What `minimize` returns, for every cell of the shape that starts and parameters broadcast to."""

    x: Tensor  # (*cell, d)
    fun: Tensor
    gradient_norm: Tensor
    nit: Tensor
    status: Tensor  # 0 converged, 1 iterations exhausted, 2 diverged
    evaluations: int  # batched ones of f and its gradient

    @property
    def success(self) -> Tensor:
        """Whether each cell converged."""
        return self.status == CONVERGED

    def to_dataset(self, **coordinates: Any) -> xr.Dataset:
        """As a dataset whose dimensions, one for each axis of the cells, are named by their coordinates."""
        if len(coordinates) != self.nit.ndim:
            raise ConfigError(f"name the {self.nit.ndim} axes {tuple(self.nit.shape)}; got {tuple(coordinates)}")
        named = {name: getattr(self, name).numpy(force=True) for name in ("fun", "gradient_norm", "nit", "status")}
        dims = tuple(coordinates)
        data = {name: (dims, entry) for name, entry in named.items()}
        return xr.Dataset({**data, "x": ((*dims, "component"), self.x.numpy(force=True))}, coordinates)


def minimize_batch(
    f: Objective,
    x0: Any,
    C: Any = None,
    h: Any = None,
    *,
    method: str = "expo-slc-rtl",
    rate: Any = None,
    restart: Restart | str = "default",
    temporal_looping: bool | None = None,
    loop_test: LoopTest | None = None,
    beta: Any = None,
    t0: float | int = 1.0,
    t_min: float | int = 1e-3,
    adaptive_to: Pace = None,
    gtol: float | int = 1e-8,
    ftol: float | int = 1e-8,
    target: float | int | Tensor | None = None,
    max_iter: Any = 10_000,
    grad: Objective | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> BatchResult:
    """`minimize` for all cells together: x0 (*cell, d), and C, h, rate, beta and target (*cell), which broadcast.

    Cells that have converged or diverged no longer move, and are put aside once a fifth of them has. `f` takes points
    (cell, d) to values (cell,); an f of one point is `torch.func.vmap(f)`. Memory does not grow with the iterations.
    `callback(iteration, cells that move)` is called after each. The other arguments are those of `minimize`.

    Raises
    ------
    ConfigError
        If an option is unknown or out of its range.
    ShapeError
        If shapes do not broadcast, or f does not keep the cells apart.
    ValueError
        If f or its gradient is not finite at a start.
    """
    check_limits(gtol, ftol, max_iter)
    t0, t_min = number("t0", t0), number("t_min", t_min)
    points = as_points(x0)
    if points.ndim < 1 or not points.shape[-1]:
        raise ShapeError(f"x0 must be (..., d); got {tuple(points.shape)}")
    given = {"C": C, "h": h, "rate": rate, "beta": beta, "target": target}
    numbers = {
        name: torch.as_tensor(entry, dtype=torch.float64, device=points.device)
        for name, entry in given.items()
        if entry is not None
    }
    try:
        shape = torch.broadcast_shapes(points.shape[:-1], *(entry.shape for entry in numbers.values()))
    except RuntimeError:
        found = ", ".join(f"{name} {tuple(entry.shape)}" for name, entry in numbers.items())
        raise ShapeError(f"starts {tuple(points.shape)} and {found} do not broadcast") from None
    cells = {name: entry.expand(shape).reshape(-1) for name, entry in numbers.items()}
    goal = cells.pop("target", None)
    settings = Settings(
        method=method,
        restart=restart,
        temporal_looping=temporal_looping,
        loop_test=loop_test,
        t0=t0,
        t_min=t_min,
        adaptive_to=adaptive_to,
        **cells,
    )
    if settings.h is None:
        h = torch.full(shape, settings.default_h, dtype=torch.float64, device=points.device).reshape(-1)
        settings = dataclasses.replace(settings, h=h)
    x = points.expand(*shape, points.shape[-1]).reshape(-1, points.shape[-1]).clone()
    stepper, evaluate = settings.stepper(), Evaluator(f, grad)
    found = _Cells(x)
    value, gradient = evaluate(x)
    bad = ~(value.isfinite() & gradient.isfinite().all(-1))
    if bool(bad.any()):
        raise ValueError(
            f"f or its gradient is not finite at {int(bad.sum())} of {len(x)} starts: choose them inside its domain"
        )
    index, moving = torch.arange(len(x), device=x.device), torch.ones(len(x), dtype=torch.bool, device=x.device)
    if goal is not None:
        moving = value > goal
        found.keep(index, ~moving, x, value, gradient, 0, CONVERGED)
    for nit in range(1, max_iter + 1 if bool(moving.any()) else 1):
        point = (stepper.next if nit > 1 else stepper.start)(x, value, gradient, evaluate)
        new, slope = evaluate(point)
        lost = moving & ~(new.isfinite() & slope.isfinite().all(-1))
        norm = slope.double().norm(dim=-1)
        done = ((new - value).abs() <= ftol) & (norm <= gtol)
        if goal is not None:
            done |= new <= goal
        done &= moving & ~lost
        found.keep(index, lost, x, value, gradient, nit, DIVERGED)
        x, value, gradient = point, new, slope
        found.keep(index, done, x, value, gradient, nit, CONVERGED)
        moving = moving & ~lost & ~done
        active = int(moving.sum())
        if callback is not None:
            callback(nit, active)
        if not active or nit == max_iter:
            found.keep(index, moving, x, value, gradient, nit)
            break
        if active < COMPACT_BELOW * len(moving):
            stepper.select(moving)
            x, value, gradient, index = x[moving], value[moving], gradient[moving], index[moving]
            goal = None if goal is None else goal[moving]
            moving = moving[moving]
    return found.result(shape, evaluate.calls)


class _Cells:
    """The last state of every cell."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.gradient_norm = x.clone(), x.new_zeros(len(x), dtype=torch.float64)
        self.fun = torch.zeros_like(self.gradient_norm)
        self.nit = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.status = torch.full_like(self.nit, EXHAUSTED)

    def keep(
        self,
        index: Tensor,
        chosen: Tensor,
        x: Tensor,
        value: Tensor,
        gradient: Tensor,
        nit: int,
        status: int = EXHAUSTED,
    ) -> None:
        """Write those of the cells `index` that are chosen."""
        if not bool(chosen.any()):
            return
        where = index[chosen]
        self.x[where], self.fun[where] = x[chosen], value[chosen]
        self.gradient_norm[where] = gradient[chosen].double().norm(dim=-1)
        self.nit[where], self.status[where] = nit, status

    def result(self, shape: torch.Size, evaluations: int) -> BatchResult:
        named = {name: getattr(self, name).reshape(shape) for name in ("fun", "gradient_norm", "nit", "status")}
        return BatchResult(x=self.x.reshape(*shape, self.x.shape[-1]), evaluations=evaluations, **named)
