"""A point in a central force: a quartic potential, and the Kepler problem."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pnde.constraints import CentralMotion
from pnde.problems._common import Integrated, Trajectories

COMPONENTS = [("x", "1"), ("y", "1"), ("vx", "1"), ("vy", "1")]


@dataclass(frozen=True)
class QuarticPotential(Integrated):
    """A point of unit mass in the plane in the potential r⁴/4: v̇ = -q r² (arXiv 2410.23667).

    Positions and velocities start uniform on (-1, 1). Energy and angular momentum are kept. Without units.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    accuracy: ClassVar[float] = 1e-9

    duration: float = 10.0
    time_step: float = 0.1
    tolerance: float = 1e-11

    @property
    def components(self) -> Sequence[tuple[str, str]]:
        return COMPONENTS

    def constraint(self) -> CentralMotion:
        return CentralMotion("quartic", energy=True, angular_momentum=True)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, 4)

    def field(self, t: Any, u: np.ndarray) -> np.ndarray:
        q, v = u[..., :2], u[..., 2:]
        return np.concatenate([v, -q * (q**2).sum(-1, keepdims=True)], axis=-1)


@dataclass(frozen=True)
class TwoBody(Trajectories):
    """The Kepler problem q̈ = -q/|q|³ from the perihelion, eccentricity uniform on (0.5, 0.7) (arXiv 2306.09739).

    The major semi-axis is 1, so each trajectory has the energy -1/2 and the period 2π, which is the default
    `duration`. States are those of Kepler's equation, to rounding: nothing is left to refine. Without units.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    solver: ClassVar[str] = "Kepler's equation"

    duration: float = math.tau
    time_step: float = math.tau / 63

    @property
    def components(self) -> Sequence[tuple[str, str]]:
        return COMPONENTS

    def constraint(self) -> CentralMotion:
        return CentralMotion("newton", energy=True, angular_momentum=True)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(0.5, 0.7, 1)

    def solve(self, start: np.ndarray) -> np.ndarray:
        e = start
        mean = np.remainder(self.time + np.pi, 2 * np.pi) - np.pi  # in (-π, π], where the starting point is good
        E = eccentric_anomaly(mean, e)
        s, c, b = np.sin(E), np.cos(E), np.sqrt(1 - e**2)
        rate = 1 / (1 - e * c)
        return np.stack([c - e, b * s, -s * rate, b * c * rate], axis=-1)

    def field(self, t: Any, u: np.ndarray) -> np.ndarray:
        q, v = u[..., :2], u[..., 2:]
        return np.concatenate([v, -q * (q**2).sum(-1, keepdims=True) ** -1.5], axis=-1)


def eccentric_anomaly(mean: np.ndarray, e: np.ndarray) -> np.ndarray:
    """E of Kepler's equation E - e sin E = `mean` in [-π, π] with 0 ≤ e ≤ 0.9, to rounding.

    Newton's method is monotone from where E - e sin E has passed the value, E = `mean` ± e; it is quadratic, so that
    a dozen iterations are more than enough.
    """
    E = mean + np.copysign(e, mean)
    for _ in range(12):
        E = E - (E - e * np.sin(E) - mean) / (1 - e * np.cos(E))
    return E
