"""Where the algebraic states of a differential-algebraic equation cease to exist."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor

from pnde.constraints.base import Constraint


def algebraic_regularity(
    constraint: Constraint,
    algebraic: Sequence[int] | Tensor,
    regular: Float[Tensor, " n"],
    *,
    least: float | int,
    t: Any = None,
) -> Callable[..., Tensor]:
    """An event for `pnde.solve`: the smallest singular value of G_y falls to `least`, a positive number.

    0 = g(t, x, y) defines y near where G_y = ∂g/∂y is regular, and ẏ = -G_y⁻¹(G_x ẋ + ∂g/∂t) grows without bounds where
    it ceases to be (the collapse of voltages in a grid). The event ends a sample before, with `Status.EVENT`. It is
    the singular value less `least`, with the sign of det G_y relative to that at a `regular` state: a step beyond the
    singularity, where singular values grow again, is noticed too. G_y is dense here, a decomposition a step.

    Parameters
    ----------
    algebraic
        The components y of a state, as many as constraints.
    regular, t
        A state, and the time of a driven constraint, that samples are connected with by states of regular G_y, say
        the operating point.

    Raises
    ------
    ConfigError
        If G_y is not square, `least` is not positive, or G_y at `regular` is no more regular than that.
    """
    chosen = torch.as_tensor(algebraic)
    if chosen.shape != (constraint.m,) or not least > 0:
        raise ConfigError(
            f"{constraint.m} constraints need as many algebraic components, and least={least} must be positive; got "
            f"components {chosen.tolist()}."
        )

    def signed(t: Any, u: Tensor) -> Tensor:
        G_y = constraint.jacobian(t, u)[..., chosen.to(u.device)]
        return torch.linalg.det(G_y).sign() * torch.linalg.svdvals(G_y)[..., -1]

    start = float(signed(t, regular))
    if abs(start) <= least:
        raise ConfigError(
            f"the smallest singular value of G_y is {abs(start):.3g} at the regular state; least={least} must be below."
        )
    orientation = 1 if start > 0 else -1

    def event(t: Any, u: Float[Tensor, "*batch n"], *args: Tensor) -> Float[Tensor, "*batch"]:
        return orientation * signed(t, u) - least

    return event
