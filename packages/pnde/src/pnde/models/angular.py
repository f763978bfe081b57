"""A pendulum in angles, where the constraint holds by the choice of coordinates."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pnde.constraints import PendulumConstraint
from pnde.fields import MLP, VectorField
from pnde.models.base import DTYPES, TrajectoryModel


class AngularField(VectorField):
    """θ̇ = ω, ω̇ = net(sin θ, cos θ, ω) of states (θ, ω); ω is normalised."""

    def __init__(self, n_links: int, hidden: Sequence[int], skip: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.n_links, self.n = n_links, 2 * n_links
        self.net = MLP(3 * n_links, n_links, hidden, skip=skip, dtype=dtype)

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        angles, speeds = u.chunk(2, -1)
        return torch.cat([speeds, self.net(torch.cat([angles.sin(), angles.cos(), speeds], -1))], -1)


class AngularNDE(TrajectoryModel):
    """A neural ODE for the angles and angular velocities of a pendulum's links, to and from Cartesian states.

    The baseline of arXiv 2410.23667 with generalised coordinates: exact where such coordinates exist and are known.
    States are those of `PendulumConstraint`: (x, y, ẋ, ẏ), each of length `n_links`.
    """

    properties: ClassVar[frozenset[str]] = frozenset({"on-manifold"})

    def __init__(
        self,
        n_links: int = 2,
        hidden: Sequence[int] = (128, 128, 128),
        skip: bool = False,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        self.links = PendulumConstraint(n_links)
        self._check_sizes(self.links.n, hidden, True, dtype)
        self.dynamics = AngularField(n_links, hidden, skip, DTYPES[dtype])

    def _normalize(self, u: Tensor, t: Tensor | None, smallest: float) -> None:
        net: Any = self.dynamics.net
        angles, speeds = to_angles(u.flatten(0, -2)).chunk(2, -1)
        net.set_normalization(torch.cat([angles.sin(), angles.cos(), speeds], -1), smallest)
        unscaled = slice(0, 2 * angles.shape[-1])
        net.mean[unscaled], net.std[unscaled] = 0, 1

    def field(
        self, u: Float[Tensor, "*batch n"], t: Any = None, target: Float[Tensor, "*#batch m"] | None = None
    ) -> Float[Tensor, "*batch n"]:
        self._check_target(u, target)
        angular = to_angles(u)
        return torch.func.jvp(to_cartesian, (angular,), (self.dynamics(t, angular),))[1]

    def residual(
        self, u: Float[Tensor, "*batch n"], t: Any = None, target: Float[Tensor, "*#batch m"] | None = None
    ) -> Float[Tensor, "*batch m"]:
        if target is not None:
            self.links.check_target(u, target)
        g = self.links(t, u)
        return g if target is None else g - target

    def _encode(self, u: Tensor) -> Tensor:
        return to_angles(u)

    def _decode(self, u: Tensor) -> Tensor:
        return to_cartesian(u)


def to_angles(u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch half"]:
    """(θ, ω) of Cartesian states of unit links, θ from the downward vertical."""
    x, y, vx, vy = (torch.diff(part, dim=-1, prepend=torch.zeros_like(part[..., :1])) for part in u.chunk(4, -1))
    return torch.cat([torch.atan2(x, -y), x * vy - y * vx], -1)


def to_cartesian(angular: Float[Tensor, "*batch half"]) -> Float[Tensor, "*batch n"]:
    """(x, y, ẋ, ẏ) of angles and angular velocities."""
    angles, speeds = angular.chunk(2, -1)
    parts = [angles.sin(), -angles.cos(), angles.cos() * speeds, angles.sin() * speeds]
    return torch.cat([part.cumsum(-1) for part in parts], -1)
