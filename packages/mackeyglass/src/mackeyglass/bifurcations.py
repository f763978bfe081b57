"""Folds, period doublings and torus bifurcations of periodic orbits: detection, location, sensitivities."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Complex, Float
from sciml.errors import ConfigError
from scipy import linalg

from mackeyglass.collocation import Problem, Solution, linearise
from mackeyglass.defining_systems import FlipProblem, FoldProblem, OrbitProblem, TorusProblem
from mackeyglass.equation import DDE
from mackeyglass.errors import ContinuationError
from mackeyglass.floquet import Multipliers, floquet_multipliers
from mackeyglass.newton import size_of, solve, solve_linear
from mackeyglass.orbits import PeriodicOrbit


def problem_of(kind: str, system: DDE) -> Problem:
    """The boundary-value problem of ``"orbit"``, ``"LP"``, ``"PD"`` or ``"NS"``."""
    problems = {"orbit": OrbitProblem, "LP": FoldProblem, "PD": FlipProblem, "NS": TorusProblem}
    return problems[kind](system)


@dataclass(frozen=True, eq=False)
class BifurcationPoint:
    """A fold (LP), period doubling (PD) or torus bifurcation (NS) of a periodic orbit.

    `solution` holds the orbit and the null vector of its linearisation, `parameter` is the one that was determined.
    """

    kind: str
    system: DDE
    solution: Solution
    parameter: str

    def __repr__(self) -> str:
        others = ", ".join(f"{k}={v:.6g}" for k, v in self.parameters.items() if k != self.parameter)
        found = f"{self.parameter}={self.parameters[self.parameter]:.10g}"
        return f"BifurcationPoint({self.kind} at {found}, {others}, period={self.period:.9g})"

    @property
    def parameters(self) -> Mapping[str, float]:
        """Values of all parameters."""
        return self.solution.parameters

    @property
    def period(self) -> float:
        """Period of the orbit."""
        return self.solution.period

    @property
    def orbit(self) -> PeriodicOrbit:
        """The orbit itself."""
        return PeriodicOrbit(self.system, orbit_part(self.solution, self.system.dim))

    @property
    def null_vector(self) -> Float[np.ndarray, "points components"]:
        """v at the points of the mesh; of a torus bifurcation u and v."""
        return self.solution.values[:, self.system.dim :]

    @property
    def angle(self) -> float:
        """ω ∈ [0, 1] of the critical multipliers e^{±iπω}: 0 for a fold, 1 for a period doubling."""
        return abs(self.solution.extras[0]) if self.kind == "NS" else {"LP": 0.0, "PD": 1.0}[self.kind]

    @cached_property
    def multipliers(self) -> Complex[np.ndarray, "count"]:
        """Floquet multipliers of the orbit other than the trivial one, computed without use of the null vector."""
        return floquet_multipliers(self.system, self.orbit.solution).values

    def at(self, **values: float | int) -> "BifurcationPoint":
        """The bifurcation at other values of other parameters, by Newton's method from this one."""
        self.system.check_names(values)
        if self.parameter in values:
            raise ConfigError(f"{self.parameter} is what the bifurcation determines: fix others")
        parameters = {**self.parameters, **{name: float(value) for name, value in values.items()}}
        start = replace(self.solution, parameters=parameters)
        return solved_point(self.kind, self.system, start, self.parameter)

    def on(self, mesh) -> "BifurcationPoint":
        """The bifurcation on another mesh, solved anew."""
        return solved_point(self.kind, self.system, self.solution.remeshed(mesh), self.parameter)

    def sensitivity(self) -> dict[str, float]:
        """Derivatives of the determined parameter by all others, by the implicit function theorem.

        They are exact for the discretised problem: one linear system, no differences.
        """
        others = [name for name in self.parameters if name != self.parameter]
        problem = problem_of(self.kind, self.system)
        _, jacobian = linearise(problem, self.solution, [self.parameter, *others], self.solution)
        size = size_of(jacobian)[0]
        change = -solve_linear(jacobian[:, :size], jacobian[:, size:].toarray())
        return dict(zip(others, change[-1].tolist(), strict=True))


def orbit_part(solution: Solution, dim: int) -> Solution:
    """The orbit of a solution that has a null vector too."""
    return replace(solution, values=solution.values[:, :dim], extras=())


def solved_point(kind: str, system: DDE, start: Solution, parameter: str) -> BifurcationPoint:
    """The bifurcation near an approximate solution of its defining system; its phases are fixed by itself."""
    problem = problem_of(kind, system)
    solution = solve(problem, solve(problem, start, (parameter,)).solution, (parameter,)).solution
    return BifurcationPoint(kind, system.with_parameters(**solution.parameters), solution, parameter)


def crossed(before: Multipliers, after: Multipliers, turned: bool) -> list[str]:
    """Kinds of the bifurcations between two orbits of a branch.

    A fold is where the parameter turns. The number of real multipliers below −1 is odd on one side of a period doubling
    and even on the other. What remains of a change of the number of unstable multipliers, by two, is a torus
    bifurcation. A real multiplier that crosses 1 without a turn is a branch point (BP).
    """
    flips = _beyond(before, -1) != _beyond(after, -1)
    folds = _beyond(before, 1) != _beyond(after, 1)
    kinds = ["LP"] if turned else ["BP"] if folds else []
    if flips:
        kinds.append("PD")
    change = abs(after.unstable - before.unstable)
    if change - flips - (turned or folds) >= 1 and np.isfinite(_log_modulus_of_pair(before)):
        kinds.append("NS")
    return kinds


def locate_between(
    kind: str,
    system: DDE,
    first: Solution,
    last: Solution,
    parameter: str,
    share: float,
) -> BifurcationPoint:
    """The bifurcation between two orbits of a branch, about `share` of the way from the first to the last.

    Raises
    ------
    ContinuationError
        If its defining system has no solution near there.
    """
    start = replace(
        last,
        values=(1 - share) * first.remeshed(last.mesh).values + share * last.values,
        period=(1 - share) * first.period + share * last.period,
        parameters={
            **last.parameters,
            parameter: (1 - share) * first.parameters[parameter] + share * last.parameters[parameter],
        },
    )
    if kind != "LP":  # at a fold there may be no orbit at this parameter
        start = solve(OrbitProblem(system), start).solution
    return solved_point(kind, system, with_null_vector(kind, system, start), parameter)


def with_null_vector(kind: str, system: DDE, orbit: Solution) -> Solution:
    """An orbit near a bifurcation with the singular vector of its linearisation: a start for the defining system."""
    d, points = system.dim, len(orbit.mesh.points)
    if kind == "LP":
        _, jacobian = linearise(OrbitProblem(system), orbit, (), orbit)
        _, vector = singular_vectors(jacobian.toarray())
        values, extras = vector[:-1].reshape(points, d), (vector[-1],)
    else:
        if kind == "PD":
            angle, copies, extras = 1.0, 1, ()
        else:
            angle, copies = critical_angle(floquet_multipliers(system, orbit)), 2
            extras = (angle,)
        probe = replace(orbit, values=np.concatenate([orbit.values] * (1 + copies), axis=1), extras=extras)
        _, jacobian = linearise(problem_of(kind, system), probe, (), probe)
        _, vector = singular_vectors(mode_block(jacobian.toarray(), d, copies, points))
        values = vector.reshape(points, copies * d)
    scale = np.sqrt((orbit.mesh.measure[:, None] * values**2).sum() + sum(extras if kind == "LP" else ()) ** 2)
    extras = tuple(float(extra / scale) for extra in extras) if kind == "LP" else extras
    return replace(orbit, values=np.concatenate([orbit.values, values / scale], axis=1), extras=extras)


def mode_block(jacobian: np.ndarray, d: int, copies: int, points: int) -> np.ndarray:
    """The part of the Jacobian of a defining system that acts on its null vector, without scalar conditions."""
    components = d * (1 + copies)
    mode = np.arange(points * components).reshape(points, components)[:, d:].ravel()
    return jacobian[np.ix_(mode, mode)]


def singular_vectors(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right singular vector of the smallest singular value, by inverse iteration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linalg.LinAlgWarning)  # a pivot of exactly zero is replaced
        factors, pivots = linalg.lu_factor(matrix, check_finite=False)
    diagonal = np.abs(np.diag(factors))
    np.fill_diagonal(factors, np.where(diagonal > 0, np.diag(factors), np.finfo(float).eps * diagonal.max()))
    right = np.random.default_rng(0).standard_normal(len(matrix))
    left = right
    for _ in range(4):
        left = linalg.lu_solve((factors, pivots), right, trans=1)
        left /= np.linalg.norm(left)
        right = linalg.lu_solve((factors, pivots), left)
        right /= np.linalg.norm(right)
    return left, right


def critical_angle(multipliers: Multipliers) -> float:
    """ω of the complex multipliers e^{±iπω} that are closest to the unit circle."""
    pairs = multipliers.pairs
    if not len(pairs):
        raise ContinuationError("no complex multipliers, of which a torus bifurcation needs a pair")
    return float(np.angle(pairs[np.argmin(np.abs(np.log(np.abs(pairs))))]) / np.pi)


def crossing_share(kind: str, multipliers: tuple[Multipliers, Multipliers], slopes: tuple[float, float]) -> float:
    """About where between two orbits the critical multiplier crosses, by linear interpolation."""
    if kind in ("LP", "BP"):
        first, last = slopes
    elif kind == "PD":
        first, last = (_closest_real(m, -1.0) + 1 for m in multipliers)
    else:
        first, last = (_log_modulus_of_pair(m) for m in multipliers)
    if first * last >= 0 or not np.isfinite(first - last):
        return 0.5
    return float(np.clip(first / (first - last), 0.02, 0.98))


def _beyond(multipliers: Multipliers, bound: int) -> int:
    """Parity of the number of real multipliers beyond −1 or 1."""
    return int((multipliers.real * bound > 1).sum() % 2)


def _closest_real(multipliers: Multipliers, target: float) -> float:
    real = multipliers.real
    return float(real[np.argmin(np.abs(real - target))]) if len(real) else np.nan


def _log_modulus_of_pair(multipliers: Multipliers) -> float:
    """log |μ| of the complex multiplier closest to the unit circle."""
    sizes = np.log(np.abs(multipliers.pairs))
    return float(sizes[np.argmin(np.abs(sizes))]) if len(sizes) else np.nan
