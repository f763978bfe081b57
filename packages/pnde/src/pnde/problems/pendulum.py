"""Pendulums of several links, from rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pnde.constraints import PendulumConstraint
from pnde.problems._common import Integrated, check_numbers, check_whole


@dataclass(frozen=True)
class NPendulum(Integrated):
    """A pendulum of unit masses and links from rest at angles uniform on the circle, in Cartesian coordinates.

    Angles are measured from the downward vertical. `damping` acts on accelerations, as in the published data
    (arXiv 2410.23667): with more than two links the energy may grow. SI units. The reference is solved to
    `tolerance` in angles, so the Cartesian states satisfy the constraints to rounding. `duration` is a whole number of
    `time_step`s. A default trajectory is computed to `accuracy`, limited by chaos.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    title: ClassVar[str] = "Cartesian state"
    time_units: ClassVar[str] = "s"
    drift_units: ClassVar[str] = "m2, m2/s"
    accuracy: ClassVar[float] = 1e-5

    n_links: int = 4
    gravity: float = 9.81
    damping: float = 0.1
    duration: float = 5.0
    time_step: float = 0.01
    tolerance: float = 1e-11

    def __post_init__(self) -> None:
        check_whole(self, "n_links")
        check_numbers(self, "gravity", "damping")
        super().__post_init__()

    @property
    def components(self) -> Sequence[tuple[str, str]]:
        N = self.n_links
        return [
            (f"{name}{i + 1}", unit)
            for name, unit in (("x", "m"), ("y", "m"), ("vx", "m/s"), ("vy", "m/s"))
            for i in range(N)
        ]

    def constraint(self) -> PendulumConstraint:
        return PendulumConstraint(self.n_links)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        angles = rng.uniform(0, 2 * np.pi, self.n_links)
        return np.concatenate([angles, np.zeros_like(angles)])

    def solve(self, start: np.ndarray) -> np.ndarray:
        return self.to_cartesian(self.integrate(lambda _, y: self.angular_field(y), start))

    def field(self, t: Any, u: np.ndarray) -> np.ndarray:
        x, y, vx, vy = (np.diff(part, axis=-1, prepend=0.0) for part in np.split(u, 4, axis=-1))
        theta, omega = np.arctan2(x, -y), x * vy - y * vx  # of unit links
        alpha = self.angular_field(np.concatenate([theta, omega], axis=-1))[..., self.n_links :]
        s, c = np.sin(theta), np.cos(theta)
        acceleration = [c * alpha - s * omega**2, s * alpha + c * omega**2]
        velocity = u[..., 2 * self.n_links :]
        return np.concatenate([velocity, *(np.cumsum(part, axis=-1) for part in acceleration)], axis=-1)

    def angular_field(self, state: np.ndarray) -> np.ndarray:
        """Time derivative of (θ, ω), shape (..., 2N)."""
        N = self.n_links
        theta, omega = state[..., :N], state[..., N:]
        index = np.arange(N)
        c = N - np.maximum(index[:, None], index)
        delta = theta[..., :, None] - theta[..., None, :]
        r = -np.einsum("ij,...ij,...j->...i", c, np.sin(delta), omega**2) - self.gravity * (N - index) * np.sin(theta)
        acceleration = np.linalg.solve(c * np.cos(delta), r[..., None])[..., 0]
        damping = self.damping * np.diff(omega, axis=-1, prepend=0.0)
        return np.concatenate([omega, acceleration - damping], axis=-1)

    def to_cartesian(self, state: np.ndarray) -> np.ndarray:
        """u = (x, y, ẋ, ẏ) of (θ, ω), shape (..., 4N)."""
        theta, omega = state[..., : self.n_links], state[..., self.n_links :]
        parts = [np.sin(theta), -np.cos(theta), np.cos(theta) * omega, np.sin(theta) * omega]
        return np.concatenate([np.cumsum(part, axis=-1) for part in parts], axis=-1)

    def energy(self, u: np.ndarray) -> np.ndarray:
        """Energy of Cartesian states, shape (..., 4N), in J."""
        _, y, vx, vy = np.split(u, 4, axis=-1)
        return (0.5 * (vx**2 + vy**2) + self.gravity * y).sum(-1)


@dataclass(frozen=True)
class DoublePendulum(NPendulum):
    """The pendulum of two links; its flow magnifies the tolerance by up to four orders in 5 s."""

    accuracy: ClassVar[float] = 1e-7

    n_links: int = 2
    time_step: float = 0.05
