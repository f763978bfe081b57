"""Trajectories of constrained systems from trusted solvers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import xarray
from sciml.data import Problem
from sciml.errors import ConfigError
from scipy.integrate import solve_ivp

SMALLEST_TOLERANCE = 100 * np.finfo(np.float64).eps  # below it, scipy's solvers use this one, with a warning


@dataclass(frozen=True)
class DoublePendulum(Problem):
    """A pendulum of unit masses and links from rest at angles uniform on the circle, in Cartesian coordinates.

    Angles are measured from the downward vertical. `damping` acts on accelerations, as in the published data
    (arXiv 2410.23667). SI units. The reference is DOP853 at rtol = atol = `tolerance` in angles, so the Cartesian
    states satisfy the constraints to rounding. `duration` is a whole number of `time_step`s. A default trajectory is
    computed to `accuracy`: the flow is chaotic and magnifies the tolerance by up to four orders in 5 s.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    sample_dim: ClassVar[str] = "trajectory"
    chunk: ClassVar[int] = 25
    accuracy: ClassVar[float] = 1e-7

    n_links: int = 2
    gravity: float = 9.81
    damping: float = 0.1
    duration: float = 5.0
    time_step: float = 0.05
    tolerance: float = 1e-11

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.n_links, int) or isinstance(self.n_links, bool) or self.n_links < 1:
            raise ConfigError(f"n_links={self.n_links!r} must be a whole number, at least 1")
        for name in ("gravity", "damping", "duration", "time_step", "tolerance"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"{name}={value!r} must be a number")
        for name in ("duration", "time_step"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive")
        if not SMALLEST_TOLERANCE <= self.tolerance < 1:
            raise ConfigError(
                f"tolerance={self.tolerance} must be below 1 and at least {SMALLEST_TOLERANCE:.1e}, for rounding"
            )
        if self.n_steps < 1 or not math.isclose(self.n_steps * self.time_step, self.duration, rel_tol=1e-9):
            raise ConfigError(
                f"duration={self.duration} must be a whole number of steps of time_step={self.time_step}; "
                f"it is {self.duration / self.time_step:.6g} of them"
            )

    @property
    def n_steps(self) -> int:
        """Number of time steps of a trajectory."""
        return round(self.duration / self.time_step)

    def refined(self) -> "DoublePendulum":
        """The same problem solved to a tenth of the tolerance."""
        return replace(self, tolerance=self.tolerance / 10)

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        N = self.n_links
        angles = np.stack([np.random.default_rng(seed).uniform(0, 2 * np.pi, N) for seed in seeds])
        start = np.concatenate([angles, np.zeros_like(angles)], axis=-1)
        time = np.arange(self.n_steps + 1) * self.time_step
        solution = solve_ivp(
            lambda _, y: self.angular_field(y.reshape(start.shape)).ravel(),
            (0.0, time[-1]),
            start.ravel(),
            method="DOP853",
            t_eval=time,
            rtol=self.tolerance,
            atol=self.tolerance,
        )
        if not solution.success:
            raise RuntimeError(f"the reference solver failed: {solution.message}")
        states = np.moveaxis(solution.y.reshape(*start.shape, -1), -1, 1)
        u = self.to_cartesian(states)
        names = [f"{name}{i + 1}" for name in ("x", "y", "vx", "vy") for i in range(N)]
        units = ["m"] * (2 * N) + ["m/s"] * (2 * N)
        return xarray.Dataset(
            {"state": (("trajectory", "time", "component"), u, {"units": "m, m/s", "long_name": "Cartesian state"})},
            coords={
                "time": ("time", time, {"units": "s"}),
                "component": ("component", names),
                "unit": ("component", units),
            },
            attrs={"solver": "scipy DOP853", "tolerance": self.tolerance},
        )

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
