"""Conserved quantities of the problems, with their gradients."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor

from pnde.constraints.base import Constraint, is_size


class _Invariants(Constraint):
    """Chosen ones of several quantities: subclasses give all values and gradients by name."""

    kind = "conserved"

    def _choose(self, n: int, **chosen: bool) -> None:
        self.names = tuple(name for name, wanted in chosen.items() if wanted)
        if not self.names:
            raise ConfigError(f"choose at least one of {', '.join(chosen)}.")
        self.n, self.m = n, len(self.names)

    def value(self, name: str, u: Tensor) -> Tensor:
        raise NotImplementedError

    def gradient(self, name: str, u: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        self.check(u)
        return torch.stack([self.value(name, u) for name in self.names], -1)

    def jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m n"]:
        self.check(u)
        return torch.stack([self.gradient(name, u) for name in self.names], -2)


class CentralMotion(_Invariants):
    """Energy ½|v|² + V(|r|) and angular momentum x v_y - y v_x of a point (x, y, v_x, v_y) of unit mass in the plane.

    `potential`: "quartic", V = r⁴/4, or "newton", V = -1/r.
    """

    def __init__(self, potential: str = "quartic", energy: bool = True, angular_momentum: bool = False) -> None:
        super().__init__()
        if potential not in ("quartic", "newton"):
            raise ConfigError(f"potential={potential!r}; choose 'quartic' or 'newton'.")
        self.potential = potential
        self._choose(4, energy=energy, angular_momentum=angular_momentum)

    def value(self, name: str, u: Tensor) -> Tensor:
        x, y, vx, vy = u.unbind(-1)
        if name == "angular_momentum":
            return x * vy - y * vx
        square = x.square() + y.square()
        potential = square.square() / 4 if self.potential == "quartic" else -square.rsqrt()
        return (vx.square() + vy.square()) / 2 + potential

    def gradient(self, name: str, u: Tensor) -> Tensor:
        x, y, vx, vy = u.unbind(-1)
        if name == "angular_momentum":
            return torch.stack([vy, -vx, -y, x], -1)
        square = x.square() + y.square()
        factor = square if self.potential == "quartic" else square**-1.5  # V'(r)/r
        return torch.stack([x * factor, y * factor, vx, vy], -1)


class LotkaVolterraInvariant(_Invariants):
    """H = δx - γ ln x + βy - α ln y of ẋ = αx - βxy, ẏ = δxy - γy; NaN unless both are positive."""

    def __init__(self, alpha: float = 1.5, beta: float = 1.0, gamma: float = 3.0, delta: float = 1.0) -> None:
        super().__init__()
        if not min(alpha, beta, gamma, delta) > 0:
            raise ConfigError(f"alpha={alpha}, beta={beta}, gamma={gamma}, delta={delta} must be positive.")
        self.alpha, self.beta, self.gamma, self.delta = alpha, beta, gamma, delta
        self._choose(2, energy=True)

    def value(self, name: str, u: Tensor) -> Tensor:
        x, y = u.unbind(-1)
        return self.delta * x - self.gamma * x.log() + self.beta * y - self.alpha * y.log()

    def gradient(self, name: str, u: Tensor) -> Tensor:
        x, y = u.unbind(-1)
        return torch.stack([self.delta - self.gamma / x, self.beta - self.alpha / y], -1)


class RigidBodyInvariants(_Invariants):
    """Casimir ½|y|² and energy ½ Σ y_i²/I_i of a body with angular momenta y and principal moments of inertia I."""

    def __init__(
        self, inertia: Sequence[float] = (1.6, 1.0, 2 / 3), casimir: bool = True, energy: bool = False
    ) -> None:
        super().__init__()
        if len(inertia) != 3 or not min(inertia) > 0:
            raise ConfigError(f"inertia={tuple(inertia)}: give three positive moments.")
        self._choose(3, casimir=casimir, energy=energy)
        self.register_buffer("inertia", torch.tensor(inertia, dtype=torch.float64), persistent=False)

    def value(self, name: str, u: Tensor) -> Tensor:
        return (self.gradient(name, u) * u).sum(-1) / 2

    def gradient(self, name: str, u: Tensor) -> Tensor:
        return u.clone() if name == "casimir" else u / self.get_buffer("inertia").to(u.dtype)


class ConverterEnergy(_Invariants):
    """½(C₁V₁² + C₂V₂² + L₃I²) of the lossless DC-to-DC converter with state (V₁, V₂, I), in J."""

    def __init__(self, c1: float = 0.1, c2: float = 0.2, l3: float = 0.5) -> None:
        super().__init__()
        if not min(c1, c2, l3) > 0:
            raise ConfigError(f"c1={c1}, c2={c2}, l3={l3} must be positive.")
        self._choose(3, energy=True)
        self.register_buffer("weights", torch.tensor([c1, c2, l3], dtype=torch.float64), persistent=False)

    def value(self, name: str, u: Tensor) -> Tensor:
        return (self.gradient(name, u) * u).sum(-1) / 2

    def gradient(self, name: str, u: Tensor) -> Tensor:
        return u * self.get_buffer("weights").to(u.dtype)


class FPUTEnergy(_Invariants):
    """H = Σ ½v_j² + Σ (½δ_j² + α/3 δ_j³), δ_j = x_{j+1} - x_j, of the α-FPUT chain (x, v) of N masses, ends fixed."""

    def __init__(self, n_masses: int = 16, alpha: float = 0.25) -> None:
        super().__init__()
        if not is_size(n_masses) or not math.isfinite(alpha):
            raise ConfigError(f"n_masses={n_masses!r} must be a whole number, at least 1, alpha={alpha} finite.")
        self.n_masses, self.alpha = n_masses, alpha
        self._choose(2 * n_masses, energy=True)

    def _stretches(self, u: Tensor) -> Tensor:
        ends = u.new_zeros(*u.shape[:-1], 1)
        return torch.cat([ends, u[..., : self.n_masses], ends], -1).diff(dim=-1)

    def value(self, name: str, u: Tensor) -> Tensor:
        d = self._stretches(u)
        return u[..., self.n_masses :].square().sum(-1) / 2 + (d.square() / 2 + self.alpha / 3 * d**3).sum(-1)

    def gradient(self, name: str, u: Tensor) -> Tensor:
        d = self._stretches(u)
        return torch.cat([-(d + self.alpha * d.square()).diff(dim=-1), u[..., self.n_masses :]], -1)
