"""The prescribed motion of a robot arm's end point."""

import math
from typing import Any

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor

from pnde.constraints.base import Constraint, is_size, time_like


class EndPointMotion(Constraint):
    """e(θ) - p(t) with the end point e = (Σ cos θ_i, Σ sin θ_i) of unit links and p(t) = (-sin(2πt)/2π, 0).

    It keeps its value: the end point starts anywhere, and moves as p does (arXiv 2306.09739).
    """

    kind = "conserved"
    driven = True

    def __init__(self, n_links: int = 3) -> None:
        super().__init__()
        if not is_size(n_links) or n_links < 3:
            raise ConfigError(
                f"n_links={n_links!r}: an arm needs at least 3 links to have more angles than constraints."
            )
        self.n, self.m = n_links, 2

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        self.check(u)
        x, y = u.cos().sum(-1), u.sin().sum(-1)
        motion = (2 * math.pi * time_like(t, u)).sin() / (2 * math.pi)
        return torch.stack([x + motion, y.expand_as(x + motion)], -1)

    def jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m n"]:
        self.check(u)
        return torch.stack([-u.sin(), u.cos()], -2)

    def time_derivative(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        speed = (2 * math.pi * time_like(t, u)).cos().expand(u.shape[:-1])
        return torch.stack([speed, torch.zeros_like(speed)], -1)
