"""What the problems share: checks of their fields, grids in time, the batched reference solver, the dataset."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from sciml.data import Problem
from sciml.errors import ConfigError
from scipy.integrate import solve_ivp

from pnde.constraints import Constraint

SMALLEST_TOLERANCE = 100 * np.finfo(np.float64).eps  # below it, scipy's solvers use this one, with a warning


class Trajectories(Problem):
    """Base of problems with trajectories of one system, at times 0, `time_step`, …, `duration`.

    Subclasses name the components of a state with their units, draw what a trajectory starts from, and solve for all
    trajectories together. Datasets have the variable `state` (trajectory, time, component) and the coordinate
    `constraint_drift` (trajectory): the largest departure of the reference from its constraint, over times and rows.
    """

    sample_dim: ClassVar[str] = "trajectory"
    chunk: ClassVar[int] = 25
    solver: ClassVar[str]
    title: ClassVar[str] = "state"
    time_units: ClassVar[str] = "1"
    drift_units: ClassVar[str] = "1"
    switched: ClassVar[bool] = False  # whether the field jumps in time

    duration: float
    time_step: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "duration", "time_step", positive=True)
        if self.n_steps < 1 or not math.isclose(self.n_steps * self.time_step, self.duration, rel_tol=1e-9):
            raise ConfigError(
                f"duration={self.duration} must be a whole number of steps of time_step={self.time_step}; "
                f"it is {self.duration / self.time_step:.6g} of them"
            )

    @property
    def n_steps(self) -> int:
        """Number of time steps of a trajectory."""
        return round(self.duration / self.time_step)

    @property
    def time(self) -> np.ndarray:
        """Times of the states of a trajectory."""
        return np.arange(self.n_steps + 1) * self.time_step

    @property
    def components(self) -> Sequence[tuple[str, str]]:
        """Name and unit of each component of a state."""
        raise NotImplementedError

    def constraint(self) -> Constraint:
        """All that exact trajectories keep."""
        raise NotImplementedError

    def field(self, t: Any, u: np.ndarray) -> np.ndarray:
        """Exact time derivative of states (..., n) at the time `t`, one number."""
        raise NotImplementedError

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """What one trajectory starts from."""
        raise NotImplementedError

    def solve(self, start: np.ndarray) -> np.ndarray:
        """States (trajectory, time, component) from the starts (trajectory, ...)."""
        raise NotImplementedError

    def solver_settings(self) -> dict[str, float]:
        """What the dataset's attributes say about the reference solver beside its name."""
        return {}

    def drift(self, u: np.ndarray) -> np.ndarray:
        """Largest |g(t, u) - target| of each trajectory, over times and rows."""
        g, states = self.constraint(), torch.from_numpy(np.ascontiguousarray(u))
        times = torch.from_numpy(self.time)
        error = g(times.expand(states.shape[:-1]), states) - g.target(times[0], states[:, 0])[:, None]
        return error.abs().amax((1, 2)).numpy()

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        u = self.solve(np.stack([self.draw(np.random.default_rng(seed)) for seed in seeds]))
        names, units = zip(*self.components, strict=True)
        attributes = {"units": ", ".join(dict.fromkeys(units)), "long_name": self.title}
        return xarray.Dataset(
            {"state": (("trajectory", "time", "component"), u, attributes)},
            coords={
                "time": ("time", self.time, {"units": self.time_units}),
                "component": ("component", list(names)),
                "unit": ("component", list(units)),
                "constraint_drift": ("trajectory", self.drift(u), {"units": self.drift_units}),
            },
            attrs={"solver": self.solver, **self.solver_settings()},
        )


class Integrated(Trajectories):
    """Base of problems whose reference is DOP853 at rtol = atol = `tolerance`, all trajectories of a chunk at once."""

    solver: ClassVar[str] = "scipy DOP853"
    tolerance: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "tolerance")
        if not SMALLEST_TOLERANCE <= self.tolerance < 1:
            raise ConfigError(
                f"tolerance={self.tolerance} must be below 1 and at least {SMALLEST_TOLERANCE:.1e}, for rounding"
            )

    def refined(self) -> "Integrated":
        """The same problem solved to a tenth of the tolerance."""
        return replace(self, tolerance=self.tolerance / 10)  # type: ignore[type-var]

    def solver_settings(self) -> dict[str, float]:
        return {"tolerance": self.tolerance}

    def solve(self, start: np.ndarray) -> np.ndarray:
        return self.integrate(self.field, start)

    def integrate(self, field: Callable[[Any, np.ndarray], np.ndarray], start: np.ndarray) -> np.ndarray:
        """States (trajectory, time, component) of u̇ = field(t, u) from states (trajectory, component).

        Raises
        ------
        RuntimeError
            If the solver gives up.
        """
        solution = solve_ivp(
            lambda t, y: field(t, y.reshape(start.shape)).ravel(),
            (0.0, self.time[-1]),
            start.ravel(),
            method="DOP853",
            t_eval=self.time,
            rtol=self.tolerance,
            atol=self.tolerance,
        )
        if not solution.success:
            raise RuntimeError(f"the reference solver failed: {solution.message}")
        return np.moveaxis(solution.y.reshape(*start.shape, -1), -1, 1)


def check_numbers(problem: Problem, *names: str, positive: bool = False) -> None:
    """ConfigError where a field is no number, or not positive although it must be."""
    for name in names:
        value = getattr(problem, name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"{name}={value!r} must be a number")
        if positive and not value > 0:
            raise ConfigError(f"{name}={value} must be positive")


def check_whole(problem: Problem, name: str, least: int = 1) -> None:
    """ConfigError where a field is no whole number, or smaller than `least`."""
    value = getattr(problem, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name}={value!r} must be a whole number, at least {least}")
