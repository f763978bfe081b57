"""An arm of three links whose end point moves as prescribed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pnde.constraints import EndPointMotion
from pnde.problems._common import Integrated


@dataclass(frozen=True)
class RobotArm(Integrated):
    """Angles of three unit links with the smallest speed that moves the end point by p(t) = (-sin(2πt)/2π, 0).

    θ̇ = Gᵀ(GGᵀ)⁻¹ṗ with the Jacobian G of the end point (Σ cos θ_i, Σ sin θ_i), from (θ₀, -θ₀, θ₀), θ₀ uniform on
    (π/4, 3π/8) (arXiv 2306.09739). Angles in rad, times in s.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    time_units: ClassVar[str] = "s"
    accuracy: ClassVar[float] = 1e-9

    duration: float = 5.0
    time_step: float = 0.05
    tolerance: float = 1e-11

    @property
    def components(self) -> Sequence[tuple[str, str]]:
        return [("theta1", "rad"), ("theta2", "rad"), ("theta3", "rad")]

    def constraint(self) -> EndPointMotion:
        return EndPointMotion(3)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(np.pi / 4, 3 * np.pi / 8) * np.array([1.0, -1.0, 1.0])

    def field(self, t: Any, u: np.ndarray) -> np.ndarray:
        G = np.stack([-np.sin(u), np.cos(u)], axis=-2)
        velocity = np.array([[-np.cos(2 * np.pi * t)], [0.0]])
        multiplier = np.linalg.solve(G @ G.swapaxes(-1, -2), np.broadcast_to(velocity, (*u.shape[:-1], 2, 1)))
        return (G.swapaxes(-1, -2) @ multiplier)[..., 0]
