"""Periodic orbits of delay equations."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Complex, Float
from sciml.errors import ConfigError, ShapeError

from mackeyglass.collocation import Solution
from mackeyglass.defining_systems import OrbitProblem
from mackeyglass.equation import DDE
from mackeyglass.errors import ContinuationError
from mackeyglass.floquet import Multipliers, floquet_multipliers
from mackeyglass.history import History
from mackeyglass.linearisation import numbers
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.mesh import Mesh
from mackeyglass.newton import solve
from mackeyglass.normal_form import HopfPoint
from mackeyglass.simulation import simulate

if TYPE_CHECKING:
    from mackeyglass.bifurcations import BifurcationPoint

CONSTANT = 1e-6  # range, relative to the state, below which a profile is an equilibrium


@dataclass(frozen=True, eq=False)
class PeriodicOrbit:
    """A periodic solution x(t) = x(t + T), found by collocation on a mesh of [0, 1] (arXiv 2203.00181).

    Made by `from_simulation`, `from_hopf`, `from_period_doubling`, `from_profile` or `from_samples`.
    """

    system: DDE
    solution: Solution

    @property
    def period(self) -> float:
        """T."""
        return self.solution.period

    @property
    def parameters(self) -> Mapping[str, float]:
        """Values of all parameters."""
        return self.solution.parameters

    @property
    def mesh(self) -> Mesh:
        """On which the profile is stored."""
        return self.solution.mesh

    def __repr__(self) -> str:
        return f"PeriodicOrbit({self.system}, period={self.period:.9g}, {self.mesh})"

    def profile(
        self, t: Float[np.ndarray, "*times"] | Sequence[float | int] | float | int
    ) -> Float[np.ndarray, "*times d"]:
        """x at times of the line."""
        times = np.asarray(t, dtype=float)
        x = self.mesh.interpolate(self.solution.values, np.mod(times.ravel() / self.period, 1.0))
        return x.reshape(*times.shape, -1)

    @cached_property
    def samples(self) -> Float[np.ndarray, "times d"]:
        """x at some thousand equidistant times of one period."""
        return self.mesh.interpolate(self.solution.values, np.arange(2000) / 2000)

    @property
    def amplitude(self) -> float:
        """Largest minus smallest value, of the component with the largest range."""
        return float(np.ptp(self.samples, axis=0).max())

    def maxima(self, component: int = 0) -> Float[np.ndarray, "count"]:
        """Local maxima of a component over one period, in the order of time."""
        x = self.samples[:, component]
        before, after = np.roll(x, 1), np.roll(x, -1)
        top = (x >= before) & (x > after)
        bend = before[top] - 2 * x[top] + after[top]
        return x[top] - (after[top] - before[top]) ** 2 / (8 * bend)

    @cached_property
    def _multipliers(self) -> Multipliers:
        return floquet_multipliers(self.system, self.solution)

    def multipliers(self, count: int = 8) -> Complex[np.ndarray, "count"]:
        """Floquet multipliers other than the trivial one, largest modulus first."""
        return self._multipliers.values[:count]

    @property
    def defect(self) -> float:
        """|μ − 1| of the trivial multiplier as computed: how accurate the orbit is."""
        return self._multipliers.defect

    @property
    def stable(self) -> bool:
        """Whether no multiplier lies outside the unit circle."""
        return self._multipliers.unstable == 0

    def at(self, **values: float | int) -> "PeriodicOrbit":
        """The orbit at other values of parameters, by Newton's method from this one: they must be close."""
        self.system.check_names(values)
        parameters = {**self.parameters, **{name: float(value) for name, value in values.items()}}
        return _solved(self.system, replace(self.solution, parameters=parameters))

    def on(self, mesh: Mesh) -> "PeriodicOrbit":
        """The orbit on another mesh, solved anew."""
        return _solved(self.system, self.solution.remeshed(mesh))

    def refined(self, passes: int = 3) -> "PeriodicOrbit":
        """The orbit on meshes with as many intervals that were fitted to it one after the other."""
        orbit = self
        for _ in range(passes):
            orbit = orbit.on(orbit.mesh.adapted(orbit.solution.values))
        return orbit

    @classmethod
    def from_profile(
        cls,
        system: DDE,
        profile: Callable[[Float[np.ndarray, "times"]], np.ndarray] | Float[np.ndarray, "points d"],
        period: float | int,
        *,
        mesh: Mesh | None = None,
    ) -> "PeriodicOrbit":
        """By Newton's method from an approximate profile and period.

        Parameters
        ----------
        profile
            A function of t/T in [0, 1), or its values at the points of the mesh.
        mesh
            By default 50 equal intervals of degree 5.

        Raises
        ------
        ConfigError, ShapeError
            For a period that is not positive, a profile that is constant or of another shape.
        ContinuationError
            If Newton's method does not converge, or to an equilibrium, or to several turns along an orbit.
        """
        mesh = mesh or Mesh.uniform(50, 5)
        if not (np.isfinite(period) and period > 0):
            raise ConfigError(f"a period must be positive and finite, got {period}")
        values = np.asarray(profile(mesh.points) if callable(profile) else profile, dtype=float)
        values = values[:, None] if values.ndim == 1 else values
        if values.shape != (len(mesh.points), system.dim):
            raise ShapeError(
                f"a profile on this mesh has the shape {(len(mesh.points), system.dim)}, got {values.shape}"
            )
        if not _varies(values):
            raise ConfigError(
                f"the profile is constant to {CONSTANT:g}, an equilibrium: begin with one that oscillates, for "
                "instance PeriodicOrbit.from_hopf"
            )
        return _solved(system, Solution(mesh, values, float(period), (), numbers(system)))

    @classmethod
    def from_samples(
        cls,
        system: DDE,
        samples: Float[np.ndarray, "times d"] | Float[np.ndarray, "times"],
        dt: float | int,
        *,
        window: float | int | None = None,
        mesh: Mesh | None = None,
        tolerance: float = 0.02,
    ) -> "PeriodicOrbit":
        """The orbit along which a sampled trajectory runs in the end.

        The period is the least lag at which the last `window` of the trajectory (by default twice the longest delay)
        agrees with what was before, up to `tolerance` of the range.

        Raises
        ------
        ConfigError, ShapeError
            For a batch of systems, a spacing that is not positive, and samples that are not finite or not d in number.
        ContinuationError
            If there is no such lag.
        """
        numbers(system)
        samples = np.asarray(samples, dtype=float)
        samples = samples[:, None] if samples.ndim == 1 else samples
        if samples.ndim != 2 or samples.shape[1] != system.dim:
            raise ShapeError(f"samples must have the shape (times, {system.dim}), got {samples.shape}")
        if not (0 < dt < np.inf and np.isfinite(samples).all()):
            raise ConfigError(f"samples must be finite and their spacing positive, got dt={dt}")
        lag = recurrence(samples, float(dt), float(window or 2 * max(map(float, system.delay_values))), tolerance)
        return cls._from_last(system, samples, float(dt), lag, mesh)

    @classmethod
    def _from_last(
        cls, system: DDE, samples: Float[np.ndarray, "times d"], dt: float, lag: float, mesh: Mesh | None
    ) -> "PeriodicOrbit":
        """From the last samples, about one period of them."""
        times = np.arange(len(samples)) * dt
        start = times[-1] - lag

        def profile(t: np.ndarray) -> np.ndarray:
            return np.stack([np.interp(start + t * lag, times, x) for x in samples.T], axis=-1)

        return cls.from_profile(system, profile, lag, mesh=mesh)

    @classmethod
    def from_simulation(
        cls,
        system: DDE,
        history: History | None = None,
        *,
        transient: float | int = 100,
        longest: float | int = 20,
        mesh: Mesh | None = None,
        tolerance: float = 0.02,
    ) -> "PeriodicOrbit":
        """The stable orbit that a trajectory approaches.

        Parameters
        ----------
        history
            As in `simulate`; by default nine tenths of the positive equilibrium of a Mackey–Glass equation.
        transient, longest
            How long to wait, and the longest period to look for, in units of the longest delay. Where the orbit is
            unstable, after a period doubling, the wait is repeated, five times as long.
        tolerance
            As in `from_samples`.

        Raises
        ------
        ConfigError
            For a batch of systems, or where there is no default history.
        ContinuationError
            If the trajectory is not periodic by then.

        Warns
        -----
        UserWarning
            If the orbit is unstable even so.
        """
        numbers(system)
        if history is None:
            if not isinstance(system, MackeyGlass):
                raise ConfigError("give a history: a number, a function of times in [−τ, 0], or values")
            history = 0.9 * float(system.positive_equilibrium())
        delay = max(map(float, system.delay_values))
        for wait in (transient, 5 * transient):
            times = delay * (wait + np.arange(round(200 * (longest + 2)) + 1) / 200)
            u = simulate(system, history, (0.0, float(times[-1])), saveat=times, rtol=1e-6, atol=1e-8)["u"].values[0]
            samples = u.T if u.ndim == 2 else u[:, None]
            orbit = cls.from_samples(system, samples, delay / 200, mesh=mesh, tolerance=tolerance)
            # just past a period doubling a turn of the doubled orbit agrees with the next one up to the tolerance
            while not orbit.stable and 2 * orbit.period <= longest * delay:
                try:
                    orbit = cls._from_last(system, samples, delay / 200, 2 * orbit.period, mesh)
                except ContinuationError:  # not on the doubled orbit yet
                    break
            if orbit.stable:
                return orbit
        warnings.warn(
            f"{orbit} is unstable, with a multiplier {orbit.multipliers(1)[0]:.4g}, but trajectories approach stable "
            "ones: take a longer transient, a smaller tolerance, or a finer mesh",
            UserWarning,
            stacklevel=2,
        )
        return orbit

    @classmethod
    def from_hopf(
        cls, point: HopfPoint, parameter: str, *, amplitude: float = 0.02, mesh: Mesh | None = None
    ) -> "PeriodicOrbit":
        """The small orbit that is born at a Hopf point: x* + amplitude · Re(q e^{2πit/T}) + …, at a parameter nearby.

        Parameters
        ----------
        parameter
            The one that is determined with the orbit.
        amplitude
            In units of the order of magnitude of x*.
        """
        if not isinstance(point, HopfPoint):
            raise ConfigError(f"orbits are born at a HopfPoint, from hopf_points or locate_hopf, got {point!r}")
        point.system.check_names([parameter])
        mesh = mesh or Mesh.uniform(50, 5)
        amplitude *= order_of_magnitude(point.equilibrium)
        mode = np.real(np.exp(2j * np.pi * mesh.points)[:, None] * point.vector)
        base = np.broadcast_to(point.equilibrium, mode.shape)
        start = Solution(mesh, base + amplitude * mode, point.period, (), point.parameters)
        return _pinned(point.system, start, base, mode, amplitude, parameter)

    @classmethod
    def from_period_doubling(cls, point: "BifurcationPoint", *, amplitude: float = 0.02) -> "PeriodicOrbit":
        """The orbit of twice the period that is born at a period doubling, at a parameter nearby.

        `amplitude` is how far along the null vector, whose mean square is one, it is from the orbit that doubles, in
        units of the order of magnitude of that orbit.
        """
        if getattr(point, "kind", "") != "PD":
            raise ConfigError(f"only a period doubling (PD) has an orbit of twice the period, got {point!r}")
        d, solution = point.system.dim, point.solution
        mesh = solution.mesh.doubled()
        x, v = solution.values[:, :d], solution.values[:, d:]
        amplitude *= order_of_magnitude(x)
        base, mode = np.concatenate([x, x[1:]]), np.concatenate([v, -v[1:]])
        start = Solution(mesh, base + amplitude * mode, 2 * solution.period, (), solution.parameters)
        return _pinned(point.system, start, base, mode, amplitude, point.parameter)


def recurrence(samples: Float[np.ndarray, "times d"], dt: float, window: float, tolerance: float) -> float:
    """Least lag after which the last `window` of a trajectory came back to within `tolerance` of its range.

    Raises
    ------
    ContinuationError
        If there is none.
    """
    width = round(window / dt)
    last, scale = samples[-width:], np.ptp(samples, axis=0).max()
    lags = np.arange(1, len(samples) - width)
    mismatch = np.array([np.abs(last - samples[-width - lag : -lag]).max() for lag in lags])
    apart = np.flatnonzero(mismatch > 5 * tolerance * scale)  # beyond the lags that are short beside the oscillation
    if scale > 0 and len(apart):
        close = np.flatnonzero(mismatch < tolerance * scale)
        close = close[close > apart[0]]
        if len(close):
            end = close[0]
            while end + 1 < len(mismatch) and mismatch[end + 1] < mismatch[end]:
                end += 1
            return float(lags[end] * dt)
    raise ContinuationError(
        f"the trajectory did not return to within {tolerance:g} of its range: simulate longer, or it is not periodic"
    )


def order_of_magnitude(x: Float[np.ndarray, "*any"]) -> float:
    """The power of ten that is closest to the largest |x|; at least 1 about zero, where orbits are born small."""
    top = float(np.abs(x).max())
    about_zero = x.min() * x.max() <= 0 or top < 1e-9  # rounding
    return 10.0 ** round(math.log10(max(top, 1.0) if about_zero else top))


def _solved(system: DDE, start: Solution) -> PeriodicOrbit:
    solution = solve(OrbitProblem(system), start).solution
    return _checked(PeriodicOrbit(system.with_parameters(**solution.parameters), solution))


def _pinned(
    system: DDE, start: Solution, base: np.ndarray, mode: np.ndarray, amplitude: float, parameter: str
) -> PeriodicOrbit:
    """The orbit with ⟨mode, x − base⟩ = amplitude ⟨mode, mode⟩, where a parameter adjusts itself."""
    weighted = start.mesh.measure[:, None] * mode
    row = np.append(weighted.ravel(), [0.0, 0.0])
    level = float((weighted * (base + amplitude * mode)).sum())
    solution = solve(OrbitProblem(system), start, (parameter,), row=row, level=level).solution
    return _checked(PeriodicOrbit(system.with_parameters(**solution.parameters), solution))


def _checked(orbit: PeriodicOrbit) -> PeriodicOrbit:
    if not _varies(orbit.solution.values):
        raise ContinuationError(
            f"Newton's method converged to an equilibrium at {dict(orbit.parameters)}: start with a larger amplitude"
        )
    for turns in (2, 3, 5):
        shifted = orbit.profile((np.arange(500) / 500 + 1 / turns) * orbit.period)
        if np.abs(shifted - orbit.profile(np.arange(500) / 500 * orbit.period)).max() < CONSTANT * orbit.amplitude:
            raise ContinuationError(
                f"the period {orbit.period:g} is {turns} turns along an orbit of period {orbit.period / turns:g}: "
                "begin with that period"
            )
    return orbit


def _varies(values: np.ndarray) -> bool:
    return bool(np.ptp(values, axis=0).max() > CONSTANT * max(1e-3, np.abs(values).max()))
