"""Retraction onto a constraint manifold along the rows of the Jacobian (Hairer, Lubich, Wanner, Section IV.4)."""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pnde._checks import check_metric, in_forward_mode, values_are_known
from pnde._factorisations import apply, apply_transposed, correct, factorise, symmetric, weigh
from pnde.constraints import Constraint
from pnde.projection import min_norm_solve

RetractionMethod = Literal["newton", "chord", "single"]
RETRACTION_METHODS = get_args(RetractionMethod)


class Retraction(NamedTuple):
    """States (..., n) with, for each sample, whether ‖g - target‖_∞ < tol, the steps taken, and that residual."""

    u: Float[Tensor, "*batch n"]
    converged: Bool[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]


def retract(
    constraint: Constraint,
    u: Float[Tensor, "*batch n"],
    target: Float[Tensor, "*#batch m"],
    t: Tensor | float | int | None = None,
    *,
    method: RetractionMethod = "newton",
    tol: float | None = None,
    max_iter: int = 20,
    metric: Tensor | None = None,
) -> Retraction:
    """The state u + W G(u)ᵀλ at which g equals `target`: from ũ = u, to first order the nearest one.

    A converged sample stops changing, whatever the others do. What does not converge within `max_iter` steps, or
    becomes infinite, is reported and left where it got to. The derivative is that of the implicit function theorem,
    exact to second order, on the manifold and off it, in u, `target` and the constraint's parameters; where a sample
    has not converged it has no meaning. Inside `torch.func` transforms and `torch.compile` all `max_iter` steps run.

    Parameters
    ----------
    method
        "newton": a new matrix G W G(ũ)ᵀ each step, quadratic. "chord": one Cholesky factorisation of
        G(ũ) W G(ũ)ᵀ, linear at a rate in proportion to the distance. "single": one step of it, differentiated as it is.
    tol
        Bound on the largest residual. Default, for each sample, the larger of eps^(4/5) (3e-13 in float64, 3e-6 in
        float32) and what g is rounded by, 2·eps·max_i(|target_i| + Σ_j |G_ij u_j|).
    metric
        The weight W, diagonal (n,) or matrix (n, n): components without weight do not move.

    Raises
    ------
    ValueError
        If a shape does not fit, an option is unknown or out of range, or `metric` is no weight.
    TypeError
        If dtypes differ.
    RankDeficientConstraintError
        If method="single" meets dependent rows; the other methods report the sample as not converged.
    """
    _check(constraint, u, target, method, tol, max_iter, metric)
    metric = None if metric is None else symmetric(metric)
    rows = constraint.jacobian(t, u)
    bound = _rounding(rows, u, target) if tol is None else torch.full_like(u[..., 0], tol)
    target = target.expand(*u.shape[:-1], constraint.m)
    if method == "single":
        step = min_norm_solve(rows, target - constraint(t, u), metric=metric)
        found = u + step
        with torch.no_grad():
            residual = (constraint(t, found) - target).abs().amax(-1)
        return Retraction(found, residual < bound, torch.ones_like(residual, dtype=torch.long), residual)
    with torch.no_grad():
        found, multipliers, iterations, residual = _iterate(
            constraint, u, rows, target, t, method == "chord", bound, max_iter, metric
        )
    converged = residual < bound
    if torch.is_grad_enabled() or in_forward_mode() or not values_are_known():
        found = _differentiable(constraint, u, weigh(metric, rows), target, t, multipliers, converged)
    return Retraction(found, converged, iterations, residual)


@torch.no_grad()
def _rounding(rows: Tensor, u: Tensor, target: Tensor) -> Tensor:
    """How small the residual of each sample can be made, and need not be made smaller."""
    eps = torch.finfo(u.dtype).eps
    size = target.abs() + apply(rows.abs(), u.abs())
    return (2 * eps * size.amax(-1)).clamp(min=eps**0.8)


def _iterate(
    constraint: Constraint,
    start: Tensor,
    rows: Tensor,
    target: Tensor,
    t: Tensor | float | int | None,
    chord: bool,
    tol: Tensor,
    max_iter: int,
    metric: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u = ũ + W G(ũ)ᵀλ with g(u) = c, λ, the steps of each sample and what is left of its residual."""
    weighted = weigh(metric, rows)
    multipliers = torch.zeros_like(target)
    factor = factorise("cholesky", rows, metric, True)[0] if chord else ()
    u, excess = start, constraint(t, start) - target
    residual = excess.abs().amax(-1)
    iterations = torch.zeros_like(residual, dtype=torch.long)
    active = residual >= tol  # neither converged nor NaN
    for iteration in range(max_iter):
        if values_are_known() and not bool(active.any()):
            break
        if chord:
            step = correct("cholesky", rows, metric, factor, excess)[0]
        else:
            here = constraint.jacobian(t, u) if iteration else rows
            step = _solve(here @ weighted.mT, excess)
        trial = multipliers - step
        moved = start + apply_transposed(weighted, trial)
        left = constraint(t, moved) - target
        size = left.abs().amax(-1)
        taken = active & size.isfinite()  # else the sample stays at its last finite state
        multipliers, u, excess = (
            torch.where(taken[..., None], new, old) for new, old in ((trial, multipliers), (moved, u), (left, excess))
        )
        residual, iterations = torch.where(taken, size, residual), iterations + taken
        active = taken & (size >= tol)
    return u, multipliers, iterations, residual


def _differentiable(
    constraint: Constraint,
    start: Tensor,
    weighted: Tensor,
    target: Tensor,
    t: Tensor | float | int | None,
    multipliers: Tensor,
    converged: Tensor,
) -> Tensor:
    """ũ + W G(ũ)ᵀλ with the derivatives of λ from two chord steps of zero length at the solution.

    The matrix is a constant: the first step has the error of λ's second derivative, the second that of its third.
    Where a sample has not converged, or its matrix is singular, as where the rows vanish, λ is a constant.
    """
    with torch.no_grad():
        matrix = constraint.jacobian(t, start + apply_transposed(weighted, multipliers)) @ weighted.mT
        one = torch.eye(constraint.m, dtype=start.dtype, device=start.device)
        regular = converged & (torch.linalg.lu_factor_ex(matrix).info == 0)
        matrix = torch.where(regular[..., None, None], matrix, one)
    for _ in range(2):
        excess = constraint(t, start + apply_transposed(weighted, multipliers)) - target
        change = torch.where(regular[..., None], excess - excess.detach(), 0)
        multipliers = multipliers - _solve(matrix, change)
    return start + apply_transposed(weighted, multipliers)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.solve_ex(matrix, right[..., None])[0][..., 0]


def _check(
    constraint: Constraint,
    u: Tensor,
    target: Tensor,
    method: str,
    tol: float | None,
    max_iter: int,
    metric: Tensor | None,
) -> None:
    if method not in RETRACTION_METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(RETRACTION_METHODS)}")
    if tol is not None and not 0 < tol < float("inf"):
        raise ValueError(f"tol={tol!r} must be positive and finite")
    if not isinstance(max_iter, int) or max_iter < 1:
        raise ValueError(f"max_iter={max_iter!r} must be a whole number, at least 1")
    n, m = constraint.n, constraint.m
    if u.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"u must be float32 or float64; got {u.dtype}")
    if m >= n:
        raise ValueError(f"{m} constraints on {n} components leave no direction to move along the manifold")
    if u.ndim < 1 or u.shape[-1] != n or target.ndim < 1 or target.shape[-1] != m:
        raise ValueError(f"u must be (..., {n}) and target (..., {m}); got {tuple(u.shape)} and {tuple(target.shape)}")
    try:
        fits = torch.broadcast_shapes(u.shape[:-1], target.shape[:-1]) == u.shape[:-1]
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"target {tuple(target.shape)} must have one row, or as many as the states u {tuple(u.shape)}")
    if metric is not None and tuple(metric.shape) not in ((n,), (n, n)):
        raise ValueError(f"metric must be ({n},) or ({n}, {n}); got {tuple(metric.shape)}")
    if u.dtype != target.dtype or (metric is not None and metric.dtype != u.dtype):
        raise TypeError(f"u, target and metric must have one dtype; got u {u.dtype}, target {target.dtype}")
    if metric is not None and values_are_known():
        check_metric(metric)
