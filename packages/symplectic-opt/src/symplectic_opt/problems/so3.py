"""A rigid body on a pivot under gravity, with its attitude as a rotation matrix."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray
from sciml.data import Problem
from sciml.errors import ConfigError
from scipy.integrate import solve_ivp
from scipy.spatial.transform import Rotation

from symplectic_opt.problems._common import Real, check_number

INERTIA = np.diag([1.0, 2.8, 2.0])  # kg m² about the pivot, in the body's frame
MASS_TIMES_ARM = np.array([0.0, 0.0, 1.0])  # kg m, mass times the pivot's distance to the centre of mass
GRAVITY = 9.81  # m/s²
DOWN = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class SO3Dynamics(Problem):
    """Trajectories of a rigid pendulum: Ṙ = Rω̂ and Iω̇ = Iω x ω + g mρ x Rᵀe₃, e₃ pointing down.

    R turns the body's frame into the fixed one, ω is the angular velocity in the body's. The energy
    ½ ωᵀIω - g (Rmρ)·e₃, the angular momentum about the vertical and RᵀR = 1 are kept. Attitudes are uniformly
    distributed, ω ~ N(0, 1). The networks that learn these dynamics (arXiv 2207.11460) are not in this package.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    sample_dim: ClassVar[str] = "trajectory"
    chunk: ClassVar[int] = 16
    accuracy: ClassVar[float] = 1e-8

    duration: Real = 2.0
    time_step: Real = 0.1
    tolerance: float = 1e-11

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("duration", "time_step", "tolerance"):
            check_number(self, name, 0)
        if not np.isclose(round(self.duration / self.time_step) * self.time_step, self.duration, rtol=1e-9):
            raise ConfigError(f"duration={self.duration} must be a whole number of steps of time_step={self.time_step}")

    @property
    def time(self) -> np.ndarray:
        """Times of the states, in s."""
        return np.arange(round(self.duration / self.time_step) + 1) * self.time_step

    def refined(self) -> "SO3Dynamics":
        """The same problem solved to a tenth of the tolerance."""
        return dataclasses.replace(self, tolerance=self.tolerance / 10)

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        start = np.stack([_start(np.random.default_rng(seed)) for seed in seeds])
        shape = start.shape
        found = solve_ivp(
            lambda _, y: _rate(y.reshape(shape)).ravel(),
            (0.0, self.time[-1]),
            start.ravel(),
            method="DOP853",
            t_eval=self.time,
            rtol=self.tolerance,
            atol=self.tolerance,
        )
        if not found.success:
            raise RuntimeError(f"the reference solver failed: {found.message}")
        y = np.moveaxis(found.y.reshape(*shape, -1), -1, 1)
        attitude, omega = y[..., :3], y[..., 3]
        over_time = ("trajectory", "time")
        return xarray.Dataset(
            {
                "attitude": ((*over_time, "row", "axis"), attitude, {"units": "1"}),
                "angular_velocity": ((*over_time, "axis"), omega, {"units": "rad/s"}),
            },
            coords={
                "time": ("time", self.time, {"units": "s"}),
                "row": np.arange(3),
                "axis": np.arange(3),
                "energy": (over_time, energy(attitude, omega), {"units": "J"}),
            },
        )


def energy(attitude: np.ndarray, omega: np.ndarray) -> np.ndarray:
    """½ ωᵀIω - g (Rmρ)·e₃ of attitudes (..., 3, 3) and angular velocities (..., 3), in J."""
    return ((omega @ INERTIA) * omega).sum(-1) / 2 - GRAVITY * (attitude @ MASS_TIMES_ARM) @ DOWN


def _start(rng: np.random.Generator) -> np.ndarray:
    """A state (3, 4), whose columns are those of R, then ω."""
    # a normally distributed quaternion has a uniformly distributed direction
    attitude = Rotation.from_quat(rng.standard_normal(4)).as_matrix()
    return np.column_stack([attitude, rng.standard_normal(3)])


def _rate(state: np.ndarray) -> np.ndarray:
    attitude, omega = state[..., :3], state[..., 3]
    turning = np.cross(attitude, omega[..., None, :])  # row i of Rω̂ is Rᵢ x ω
    torque = np.cross(omega @ INERTIA, omega) + GRAVITY * np.cross(MASS_TIMES_ARM, attitude.swapaxes(-1, -2) @ DOWN)
    return np.concatenate([turning, (torque @ np.linalg.inv(INERTIA))[..., None]], axis=-1)
