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
        # rows (2d_x, 2d_y, 0, 0) of φ and (ḋ_x, ḋ_y, d_x, d_y) of ψ, as a linear map of the state, times the difference
        factors = torch.zeros(2, 4, 4, dtype=torch.float64)
        factors[0, 0, 0] = factors[0, 1, 1] = 2
        factors[1, 0, 2] = factors[1, 1, 3] = factors[1, 2, 0] = factors[1, 3, 1] = 1
        entries = torch.einsum("rks,ij->sjrik", factors, difference).reshape(self.n, -1)
        self.register_buffer("entries", entries, persistent=False)
        self.register_buffer("pattern", difference.to(torch.int8)[:, None].repeat(2, 1, 1), persistent=False)
        self.register_buffer("length", torch.tensor([[1], [0]], dtype=torch.int8), persistent=False)

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
        links = self._links(u)
        products = links[..., None, :2, :] * links.unflatten(-2, (2, 2))
        return (products.sum(-2) - self.get_buffer("length")).flatten(-2)

    def jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m n"]:
        self.check(u)
        rows = (u @ self.get_buffer("entries").to(u.dtype)).unflatten(-1, (self.m, 4))
        return (rows[..., None] * self.get_buffer("pattern")).flatten(-2)
