"""What to look at when a constrained solution drifts or breaks down: conditioning, normal part, growth of the drift."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from torch import Tensor

from pnde._factorisations import square_root, times_root
from pnde.constraints import Constraint, StackedConstraint
from pnde.fields import ConstrainedMechanics, ProjectedField
from pnde.models import TrajectoryModel
from pnde.neural_ode import NeuralODE


@dataclass(frozen=True)
class Diagnostics:
    """One number a state, NaN where the field or the rows of the constraint are not finite.

    Attributes
    ----------
    condition, scaled_condition
        κ₂(G W Gᵀ), as it is and with the rows of W^½Gᵀ scaled to unit length, as the projection does by default;
        infinite where it is singular.
    normal_part
        ‖(I - P)f‖/‖f‖ of the base field: how much the projection takes away, 0 if it is tangent.
    drift
        ‖g - target‖.
    """

    condition: Float[Tensor, "*batch"]
    scaled_condition: Float[Tensor, "*batch"]
    normal_part: Float[Tensor, "*batch"]
    drift: Float[Tensor, "*batch"]


@torch.no_grad()
def diagnose(
    field: Any,
    t: Any,
    u: Float[Tensor, "*batch n"],
    target: Float[Tensor, "*#batch m"] | None = None,
) -> Diagnostics:
    """Conditioning, normal part and drift of a field with a constraint, at any states; of a model, those of its field.

    P is that of the field's metric W and rows, for a field without a metric the orthogonal one. (I - P)f of a driven
    constraint is W Gᵀ(G W Gᵀ)⁻¹(G f + ∂g/∂t). Without a `target` the drift is that of the levels from zero, NaN where
    all are conserved quantities, as no start is known.

    Raises
    ------
    ConfigError
        If the field has no constraint.
    ShapeError
        If `u` is no state of it.
    """
    constraint = getattr(field, "constraint", None)
    if not isinstance(constraint, Constraint):
        raise ConfigError(f"{type(field).__name__} has no constraint to diagnose; take a constrained field")
    if isinstance(field, TrajectoryModel | NeuralODE):
        field = field.dynamics if isinstance(field, TrajectoryModel) else field.field
    constraint.check(u)
    if target is not None:
        constraint.check_target(u, target)
    metric: Any = field.metric if isinstance(field, ProjectedField | ConstrainedMechanics) else None
    root = square_root(None if metric is None else metric.to(u))
    f, rate = getattr(field, "base", field)(t, u), constraint.time_derivative(t, u)
    G = constraint.jacobian(t, u)
    wanted = (G @ f[..., None])[..., 0]
    wanted = wanted if rate is None else wanted + rate
    if isinstance(field, ConstrainedMechanics):  # the rows of velocities alone
        G, wanted = G[..., constraint.m // 2 :, :], wanted[..., constraint.m // 2 :]
    rows = times_root(G, root)  # (G W^½)(G W^½)ᵀ = G W Gᵀ
    finite = rows.isfinite().all(-1).all(-1)
    rows = torch.where(finite[..., None, None], rows, 0)
    length = rows.norm(dim=-1, keepdim=True)
    taken = (torch.linalg.pinv(rows) @ wanted[..., None])[..., 0]
    if root is not None:
        taken = taken * root if root.ndim == 1 else taken @ root.mT
    g = constraint(t, u)
    if target is None:
        target = constraint.target(t, u) if _has_levels(constraint) else torch.full_like(g, torch.nan)
    return Diagnostics(
        condition=torch.where(finite, _condition(rows), torch.nan),
        scaled_condition=torch.where(finite, _condition(rows / torch.where(length > 0, length, 1)), torch.nan),
        normal_part=torch.where(finite, taken.norm(dim=-1) / f.norm(dim=-1), torch.nan),
        drift=(g - target).norm(dim=-1),
    )


def drift_rate(
    t: Float[Tensor, " time"],
    drift: Float[Tensor, "*batch time"],
    *,
    growth: Literal["exponential", "linear"] = "exponential",
) -> Float[Tensor, "*batch"]:
    """Slope of the straight line that fits log(drift), or drift itself, over time by least squares.

    Exponential growth is e^{rate·t}; times without a finite value, or with log(0), are left out. NaN where fewer than
    two remain.

    Raises
    ------
    ShapeError
        If `t` and the last axis of `drift` differ.
    ConfigError
        If `growth` is unknown.
    """
    if t.ndim != 1 or drift.shape[-1:] != t.shape:
        raise ShapeError(f"drift must be (..., {len(t)}), one value a time of t; got {tuple(drift.shape)}")
    if growth not in ("exponential", "linear"):
        raise ConfigError(f"growth={growth!r} is unknown; choose one of exponential, linear")
    y = drift.log() if growth == "exponential" else drift
    known = y.isfinite()
    y, weight = torch.where(known, y, 0), known.to(y.dtype)
    count = weight.sum(-1)
    shift = t - (weight * t).sum(-1, keepdim=True) / count[..., None]
    slope = (weight * shift * y).sum(-1) / (weight * shift.square()).sum(-1)
    return torch.where(count >= 2, slope, torch.nan)


def _has_levels(constraint: Constraint) -> bool:
    if isinstance(constraint, StackedConstraint):
        return any(_has_levels(part) for part in constraint.parts)  # type: ignore[arg-type]
    return constraint.kind == "level"


def _condition(rows: Tensor) -> Tensor:
    """κ₂(A Aᵀ) of rows A."""
    sigma = torch.linalg.svdvals(rows)
    return torch.where(sigma[..., -1] > 0, sigma[..., 0] / sigma[..., -1], torch.inf).square()
