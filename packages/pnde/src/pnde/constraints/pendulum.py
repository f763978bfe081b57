"""Rigid links of a pendulum."""

from typing import Any

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor

from pnde._banded import Banded
from pnde.constraints.base import Constraint, is_size


class PendulumConstraint(Constraint):
    """Unit links of an N-pendulum in Cartesian coordinates u = (x, y, ẋ, ẏ), each of length N.

    With d_i = r_i - r_{i-1}: φ_i = |d_i|² - 1 (first N rows) and ψ_i = d_i·ḋ_i (last N rows).
    """

    per_rate = 0.5

    def __init__(self, n_links: int = 2) -> None:
        super().__init__()
        if not is_size(n_links):
            raise ConfigError(f"n_links={n_links!r} must be a whole number, at least 1")
        self.n_links, self.n, self.m = n_links, 4 * n_links, 2 * n_links
        difference = torch.eye(n_links, dtype=torch.float64) - torch.diag(
            torch.ones(n_links - 1, dtype=torch.float64), -1
        )
        self.register_buffer("difference", difference, persistent=False)

    @property
    def band(self) -> Banded:
        """For `method=` of projections: links one after the other, whose two rows each meet those of the next."""
        order = torch.arange(self.m).view(2, self.n_links).T.flatten().tolist()
        return Banded(min(3, self.m - 1), tuple(order))

    def _links(self, u: Tensor) -> Tensor:
        """d_x, d_y and their rates, (..., 4, N)."""
        self.check(u)
        return u.unflatten(-1, (4, self.n_links)) @ self.get_buffer("difference").to(u.dtype).mT

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        x, y, vx, vy = self._links(u).unbind(-2)
        return torch.cat([x.square() + y.square() - 1, x * vx + y * vy], dim=-1)

    def jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m n"]:
        D = self.get_buffer("difference").to(u.dtype)
        x, y, vx, vy = (self._links(u)[..., None] * D).unbind(-3)
        zero = torch.zeros_like(x)
        rows = torch.cat([2 * x, 2 * y, zero, zero, vx, vy, x, y], dim=-1)  # those of φ, then those of ψ
        return rows.unflatten(-1, (2, self.n)).transpose(-3, -2).flatten(-3, -2)
