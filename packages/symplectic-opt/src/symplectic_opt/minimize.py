"""`minimize`: one function from one point, in the manner of `scipy.optimize.minimize` (arXiv 2207.11460)."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from sciml.errors import ConfigError, ShapeError
from scipy.optimize import OptimizeResult
from torch import Tensor

from symplectic_opt.descent import Restart
from symplectic_opt.heavy_ball import LoopTest
from symplectic_opt.methods import Pace, Settings

__all__ = ["minimize"]

Objective = Callable[[Tensor], Tensor]
CONVERGED, EXHAUSTED, DIVERGED = 0, 1, 2
REACHED = "f is not above the target"
OVERFLOW = "the step overflows after {} iterations: {}"
MESSAGES = (
    "the change of f and the gradient are within their tolerances",
    "the maximal number of iterations is reached",
    "f or its gradient is not finite: {}",
)


def minimize(
    f: Objective,
    x0: Any,
    *,
    method: str = "expo-slc-rtl",
    C: Any = None,
    h: Any = None,
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
    target: Any = None,
    max_iter: Any = 100_000,
    grad: Objective | None = None,
    callback: Callable[[OptimizeResult], object] | None = None,
    trace: bool = True,
) -> OptimizeResult:
    """Minimise f from x0 by a symplectic integrator of Bregman dynamics, or a classical method to compare with.

    Stops where |f_k - f_(k-1)| ≤ ftol and |∇f| ≤ gtol, or where f ≤ `target`. Takes one gradient an iteration; the
    Runge-Kutta methods, "expo-rk4" and "poly-rk4", take four.

    Parameters
    ----------
    f
        Torch function from points (..., d) to values (...), for a single point a scalar.
    x0
        (d,); the result's x is of the same kind. Not a floating point array: float64.
    method, C, h, rate, restart, temporal_looping, loop_test, beta, t0, t_min, adaptive_to
        See `Settings`, `Descent`. Tune C and h; `rate` is η or p.
    grad
        ∇f, points (..., d) to (..., d); by default automatic differentiation.
    callback
        Called with x, fun, nit after every iteration; stops by returning True, or by StopIteration as SciPy's.
    trace
        Whether the result has `trace`, the history as an xarray.Dataset over `iteration`.

    Returns
    -------
    OptimizeResult
        x, fun, jac, nit (updates of x), nfev, njev, success, status (0 converged, 1 iterations exhausted, 2 diverged,
        3 stopped by the callback), message, trace. After divergence x is the last point with finite f and gradient.

    Raises
    ------
    ConfigError
        If an option is unknown or out of its range.
    ShapeError
        If x0 is not (d,), f(x0) no scalar or grad(x0) not of the shape of x0.
    ValueError
        If f or its gradient is not finite at x0.
    """
    check_limits(gtol, ftol, max_iter)
    C, h, rate, beta, target = (
        None if value is None else number(name, value)
        for name, value in (("C", C), ("h", h), ("rate", rate), ("beta", beta), ("target", target))
    )
    t0, t_min = number("t0", t0), number("t_min", t_min)
    settings = Settings(method, C, h, rate, restart, temporal_looping, loop_test, beta, t0, t_min, adaptive_to)
    stepper, evaluate = settings.stepper(), Evaluator(f, grad)
    x = as_points(x0)
    if x.ndim != 1 or not len(x):
        raise ShapeError(f"x0 must be (d,), one point; got {tuple(x.shape)}: minimize_batch takes many")
    value, gradient = evaluate(x)
    if not (math.isfinite(value) and bool(gradient.isfinite().all())):
        raise ValueError(f"f={value} or its gradient is not finite at x0: choose a start inside the domain of f")
    rows: list[dict[str, float]] = []
    status, message, nit = EXHAUSTED, None, 0
    if target is not None and value <= target:
        status, message, max_iter = CONVERGED, REACHED, 0
    while nit < max_iter:
        try:
            point = (stepper.next if nit else stepper.start)(x, value, gradient, evaluate)
        except OverflowError:
            status, message = DIVERGED, OVERFLOW.format(nit, settings.remedy)
            break
        found, slope = evaluate(point)
        nit += 1
        if not (math.isfinite(found) and bool(slope.isfinite().all())):
            status = DIVERGED
            break
        change, x, value, gradient = abs(found - value), point, found, slope
        norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
        if trace:
            rows.append({"f": value, "gradient_norm": norm, **stepper.record()})
        if callback is not None and stops(callback, OptimizeResult(x=_like(x0, x), fun=value, nit=nit)):
            status, message = 3, "stopped by the callback"
            break
        if target is not None and value <= target:
            status, message = CONVERGED, REACHED
            break
        if change <= ftol and norm <= gtol:
            status = CONVERGED
            break
    result = OptimizeResult(
        x=_like(x0, x),
        fun=value,
        jac=_like(x0, gradient),
        nit=nit,
        nfev=evaluate.calls,
        njev=evaluate.calls,
        success=status == CONVERGED,
        status=status,
        message=message or MESSAGES[status].format(settings.remedy),
    )
    if trace:
        result.trace = _dataset(rows)
    return result


class Evaluator:
    """f and its gradient at points (d,) or (cell, d), counted."""

    def __init__(self, f: Objective, grad: Objective | None) -> None:
        self.f, self.grad, self.calls = f, grad, 0

    def __call__(self, x: Tensor) -> tuple[Any, Tensor]:
        self.calls += 1
        if self.grad is not None:
            with torch.no_grad():
                value, gradient = self._values(x), self.grad(x)
            if not isinstance(gradient, Tensor) or gradient.shape != x.shape:
                raise ShapeError(
                    f"grad must take points {tuple(x.shape)} to tensors of that shape; got {_shape(gradient)}"
                )
        else:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                value = self._values(x)
                if not value.requires_grad:
                    raise ConfigError(
                        f"f has no gradient at x by automatic differentiation: its {value.dtype} values do not come "
                        "from x by operations of torch. Write f in torch, or pass grad"
                    )
                (gradient,) = torch.autograd.grad(value.sum(), x)
            value, gradient = value.detach(), gradient.detach()
        return (float(value) if x.ndim == 1 else value.double()), gradient

    def _values(self, x: Tensor) -> Tensor:
        try:
            value = self.f(x)
        except RuntimeError as error:
            if "Can't call numpy() on Tensor" not in str(error):
                raise
            raise ConfigError("f calls numpy, which has no gradients: write f in torch, or pass grad") from error
        if not isinstance(value, Tensor) or value.shape != x.shape[:-1]:
            raise ShapeError(
                f"f must take points {tuple(x.shape)} to values {tuple(x.shape[:-1])}; got {_shape(value)}: sum over "
                "the last axis only, or pass torch.func.vmap(f) for an f of one point"
            )
        return value


def as_points(x0: Any) -> Tensor:
    """A tensor of floating point numbers."""
    x = x0.detach() if isinstance(x0, Tensor) else torch.from_numpy(np.array(x0))
    if x.is_complex():
        raise ConfigError("complex points are not minimised over: pass torch.view_as_real, flattened")
    return x.clone() if x.is_floating_point() else x.double()


def number(name: str, value: Any) -> float:
    """A number of any kind as a float. ConfigError if it is none, or NaN."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if math.isnan(found):
        raise ConfigError(f"{name}={value!r} must be one number; minimize_batch takes one for each cell")
    return found


def stops(callback: Callable[[OptimizeResult], object], state: OptimizeResult) -> bool:
    """Whether the callback wants to stop."""
    try:
        return bool(callback(state))
    except StopIteration:
        return True
    except (ValueError, RuntimeError) as error:
        if "ambiguous" not in str(error).lower():
            raise
        raise ConfigError("callback returned many numbers: return True to stop, or nothing") from error


def check_limits(gtol: Any, ftol: Any, max_iter: Any) -> None:
    """ConfigError where a tolerance is negative or no whole number of iterations is allowed."""
    tolerances = number("gtol", gtol) >= 0 and number("ftol", ftol) >= 0
    if not (tolerances and isinstance(max_iter, int | np.integer) and max_iter >= 1):
        raise ConfigError(
            f"gtol={gtol}, ftol={ftol} must not be negative, max_iter={max_iter} a whole number, at least 1"
        )


def _shape(found: Any) -> Any:
    return tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__


def _like(given: Any, x: Tensor) -> Any:
    return x if isinstance(given, Tensor) else x.numpy()


def _dataset(rows: list[dict[str, float]]) -> xr.Dataset:
    names = rows[0] if rows else {}
    return xr.Dataset(
        {name: ("iteration", np.array([row[name] for row in rows])) for name in names},
        {"iteration": np.arange(1, len(rows) + 1)},
    )
