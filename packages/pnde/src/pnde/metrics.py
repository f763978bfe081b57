"""How far trajectories are from the reference and from the constraint manifold."""

import torch
from jaxtyping import Float
from sciml.errors import ShapeError
from torch import Tensor

from pnde.constraints import Constraint


def relative_state_error(
    u: Float[Tensor, "batch time n"], reference: Float[Tensor, "batch time n"]
) -> Float[Tensor, "batch time"]:
    """‖û(t) - u(t)‖₂ / ‖u(t)‖₂ of every trajectory. ShapeError if the two differ in shape."""
    _check_pair(u, reference)
    return (u - reference).norm(dim=-1) / reference.norm(dim=-1)


def constraint_error(
    constraint: Constraint,
    u: Float[Tensor, "batch time n"],
    t: Float[Tensor, " time"] | None = None,
    target: Float[Tensor, "batch m"] | None = None,
) -> Float[Tensor, "batch time"]:
    """‖g(t, û(t)) - target‖₂ of every trajectory; without a target, from `constraint.target` at its start.

    Raises
    ------
    ShapeError
        If `u` holds no states of the constraint, or `target` no row of values for each trajectory.
    TypeError
        If `target` has another dtype than `u`.
    """
    g = constraint(None if t is None else t.expand(u.shape[:-1]), u)
    if target is None:
        target = constraint.target(None if t is None else t[0], u[:, 0])
    constraint.check_target(u[:, 0], target)
    return (g - target.unsqueeze(-2)).norm(dim=-1)


def valid_prediction_time(
    u: Float[Tensor, "batch time n"],
    reference: Float[Tensor, "batch time n"],
    t: Float[Tensor, " time"],
    threshold: float = 0.4,
) -> Float[Tensor, " batch"]:
    """Last time before ‖û - u‖ / sqrt(mean_t ‖u‖²) reaches the threshold; the end time if it never does.

    ShapeError if `u`, `reference` and `t` do not fit.
    """
    _check_pair(u, reference)
    if t.shape != u.shape[1:2]:
        raise ShapeError(f"t must be ({u.shape[1]},), one time a state; got {tuple(t.shape)}")
    error = (u - reference).norm(dim=-1) / reference.square().sum(-1).mean(-1, keepdim=True).sqrt()
    beyond = ~(error < threshold)
    first = torch.where(beyond.any(-1), beyond.int().argmax(-1) - 1, len(t) - 1)
    return t[first.clamp(min=0)]


def _check_pair(u: Tensor, reference: Tensor) -> None:
    if u.ndim != 3 or u.shape != reference.shape:
        raise ShapeError(
            f"u and reference must be (batch, time, n), of the same shape; got {tuple(u.shape)} and "
            f"{tuple(reference.shape)}"
        )
