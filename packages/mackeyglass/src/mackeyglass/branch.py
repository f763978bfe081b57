"""Branches of periodic orbits and curves of their bifurcations, with what was detected on them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from sciml.errors import ConfigError
from sciml.store import to_netcdf

from mackeyglass import codimension_two
from mackeyglass.bifurcations import (
    BifurcationPoint,
    crossing_share,
    locate_between,
    orbit_part,
    problem_of,
)
from mackeyglass.branch_arguments import Bounds, bounds_of, kinds_of, to_bifurcation, to_orbit, widened
from mackeyglass.collocation import Solution
from mackeyglass.continuation import (
    State,
    Stepping,
    check_steps,
    first_state,
    outside,
)
from mackeyglass.equation import DDE
from mackeyglass.errors import ContinuationError
from mackeyglass.floquet import Multipliers
from mackeyglass.growth import Special, begin, grow
from mackeyglass.orbits import PeriodicOrbit, order_of_magnitude

ON_ORBITS = ("LP", "PD", "NS", "BP")


@dataclass(eq=False)
class Branch:
    """A branch of periodic orbits in one parameter, or a curve of their bifurcations in two.

    `kind` is ``"orbit"``, ``"LP"``, ``"PD"`` or ``"NS"``, `free` names the parameters that vary. All points are kept,
    with everything on which a continuation depends: `extended` goes on as if there had been no end.
    """

    kind: str
    system: DDE
    free: tuple[str, ...]
    bounds: Mapping[str, tuple[float, float]]
    stepping: Stepping
    detect: tuple[str, ...]
    states: list[State] = field(default_factory=list)
    multipliers: list[Multipliers] = field(default_factory=list)
    special: list[Special] = field(default_factory=list)
    stop_reason: str = ""

    def __len__(self) -> int:
        return len(self.states)

    def __repr__(self) -> str:
        ranges = ", ".join(f"{name}={self[name].min():.6g} … {self[name].max():.6g}" for name in self.free)
        return f"Branch({self.kind}, {len(self)} points, {ranges}, {len(self.special)} special)"

    def __str__(self) -> str:
        return "\n".join([repr(self), *(f"  {special}" for special in self.special), f"ended: {self.stop_reason}"])

    def __getitem__(self, parameter: str) -> Float[np.ndarray, "points"]:
        """Values of one parameter along the branch."""
        self.system.check_names([parameter])
        return np.array([state.solution.parameters[parameter] for state in self.states])

    @property
    def periods(self) -> Float[np.ndarray, "points"]:
        """Periods along the branch."""
        return np.array([state.solution.period for state in self.states])

    @property
    def unstable(self) -> np.ndarray:
        """Number of unstable multipliers along the branch; on curves of bifurcations the critical ones do not count."""
        pairs = zip(self.states, self.multipliers, strict=True)
        return np.array([int((np.abs(_others(self.kind, *pair)) > 1).sum()) for pair in pairs])

    @property
    def stable(self) -> np.ndarray:
        """Where no multiplier lies outside the unit circle."""
        return self.unstable == 0

    @property
    def defects(self) -> Float[np.ndarray, "points"]:
        """|μ − 1| of the trivial multiplier along the branch."""
        return np.array([multipliers.defect for multipliers in self.multipliers])

    def extremes(self, component: int = 0) -> tuple[Float[np.ndarray, "points"], Float[np.ndarray, "points"]]:
        """Least and largest stored value of a component along the branch."""
        values = [state.solution.values[:, component] for state in self.states]
        return np.array([v.min() for v in values]), np.array([v.max() for v in values])

    def orbit(self, index: int) -> PeriodicOrbit:
        """The orbit at a point."""
        solution = self.states[index].solution
        system = self.system.with_parameters(**solution.parameters)
        return PeriodicOrbit(system, orbit_part(solution, self.system.dim))

    def point(self, index: int) -> BifurcationPoint:
        """The bifurcation at a point of a curve."""
        if self.kind == "orbit":
            raise ConfigError("this is a branch of orbits: use `orbit`, and `locate` for its bifurcations")
        solution = self.states[index].solution
        return BifurcationPoint(self.kind, self.system.with_parameters(**solution.parameters), solution, self.free[0])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the branch to a NetCDF file, whole or not at all; `load_branch` reads it."""
        from mackeyglass.branch_files import branch_dataset

        to_netcdf(branch_dataset(self), path)

    def extended(
        self,
        max_steps: int,
        bounds: Bounds | None = None,
        *,
        progress: bool = False,
    ) -> "Branch":
        """A branch with up to so many further points, within new bounds where some are given.

        A branch that ended on one of its bounds needs a new one there to become longer.
        """
        check_steps(max_steps)
        last = self.states[-1].solution
        limits = widened(self.bounds, bounds or {}, last)
        longer = replace(
            self,
            bounds=limits,
            states=list(self.states),
            multipliers=list(self.multipliers),
            special=list(self.special),
        )
        return longer if outside(last, limits) else grow(longer, max_steps, progress)


def continue_branch(
    orbit: PeriodicOrbit,
    parameter: str,
    bounds: tuple[float | int, float | int],
    *,
    ds: float | int | None = None,
    ds_max: float | int | None = None,
    max_steps: int = 200,
    detect: Sequence[str] = ON_ORBITS,
    adapt_every: int = 5,
    direction: int = 1,
    progress: bool = False,
) -> Branch:
    """Follow an orbit in one parameter.

    Parameters
    ----------
    bounds
        Of the parameter, which may be infinite; the last point lies on one where the branch reaches it.
    ds, ds_max
        First and longest step, by default 1 and 5 percent of the distance of the bounds or, where that is infinite, of
        the parameter (at least of 1).
    max_steps
        At least 1.
    detect
        Kinds of bifurcations to list in `special`.
    direction
        1 to begin with a growing parameter, −1 with a falling one.

    Returns
    -------
    Branch
        Whose `stop_reason` says why it ended. A continuation that fails returns what it found.

    Raises
    ------
    ConfigError
        If something else than an orbit is given, or names, bounds or steps make no sense.
    ContinuationError
        If the curve has no unique tangent at its start, or the orbit there no multipliers that are finite.

    Warns
    -----
    UserWarning
        If the mesh does not resolve the orbits: the trivial multiplier is off by more than 1e-4 away from folds.
    """
    if not isinstance(orbit, PeriodicOrbit):
        raise ConfigError(f"continue_branch follows a PeriodicOrbit, got a {type(orbit).__name__}: {to_orbit(orbit)}")
    check_steps(max_steps, direction)
    limits = bounds_of(orbit, {parameter: bounds}, (parameter,), direction)
    kinds = kinds_of(detect, ON_ORBITS)
    width = limits[parameter][1] - limits[parameter][0]
    scale = width if np.isfinite(width) else max(abs(orbit.parameters[parameter]), 1.0)
    if ds_max is None:
        ds_max = max(0.05 * scale, 0.0 if ds is None else ds)
    ds = min(0.01 * scale, ds_max) if ds is None else ds
    stepping = Stepping(ds, ds_max, adapt_every, order_of_magnitude(orbit.solution.values))
    branch = Branch("orbit", orbit.system, (parameter,), limits, stepping, kinds)
    state = first_state(problem_of("orbit", orbit.system), orbit.solution, (parameter,), stepping, direction=direction)
    return grow(begin(branch, state), max_steps, progress)


def continue_bifurcation(
    point: BifurcationPoint,
    parameters: Sequence[str],
    bounds: Bounds,
    *,
    ds: float | int = 0.02,
    ds_max: float | int = 0.2,
    max_steps: int = 200,
    detect: Sequence[str] = ("cusp", "fold-flip", "R1", "R2", "R3", "R4", "GPD"),
    adapt_every: int = 5,
    direction: int = 1,
    progress: bool = False,
) -> Branch:
    """Follow a fold, period doubling or torus bifurcation in two parameters.

    Parameters
    ----------
    parameters
        Two names; `direction` refers to the second one.
    bounds
        Of both.
    detect
        Codimension-two points to list: ``cusp`` (of folds), ``fold-flip``, ``R1`` … ``R4`` (strong resonances), ``GPD``
        (generalised period doubling). Those that a curve cannot have are ignored.

    Raises
    ------
    ConfigError, ContinuationError
        As `continue_branch` does.
    """
    if not isinstance(point, BifurcationPoint):
        raise ConfigError(
            f"continue_bifurcation follows what `locate` found, got a {type(point).__name__}: {to_bifurcation(point)}"
        )
    names = (parameters,) if isinstance(parameters, str) else tuple(parameters)
    if len(names) != 2 or names[0] == names[1]:
        raise ConfigError(f"a curve of bifurcations needs two different parameters, got {', '.join(names) or 'none'}")
    check_steps(max_steps, direction)
    limits = bounds_of(point, bounds, names, direction)
    kinds = tuple(kind for kind in kinds_of(detect, codimension_two.KINDS) if point.kind in codimension_two.KINDS[kind])
    stepping = Stepping(ds, ds_max, adapt_every, order_of_magnitude(point.orbit.solution.values))
    branch = Branch(point.kind, point.system, names, limits, stepping, kinds)
    problem = problem_of(point.kind, point.system)
    along = np.zeros(point.solution.values.size + 1 + len(point.solution.extras) + 2)
    along[-1] = direction
    state = first_state(problem, point.solution, names, stepping, towards=along)
    return grow(begin(branch, state), max_steps, progress)


def locate(branch: Branch, special: Special) -> BifurcationPoint:
    """The bifurcation that was detected, from its defining system.

    Raises
    ------
    ContinuationError
        If none was found between the two points. Then the branch needs shorter steps.
    """
    if branch.kind != "orbit":
        raise ConfigError("codimension-two points are located by mackeyglass.locate_codimension_two")
    if not isinstance(special, Special):
        listed = "; ".join(map(str, branch.special)) or "in which there is none"
        raise ConfigError(f"locate takes one of branch.special ({listed}), got {special!r}")
    if not 1 <= special.index < len(branch):
        raise ConfigError(f"{special} is not of this branch, which has {len(branch)} points")
    if special.kind == "BP":
        raise ConfigError("a branch point of orbits (BP) has no defining system here")
    before, after = branch.states[special.index - 1], branch.states[special.index]
    found = branch.multipliers[special.index - 1], branch.multipliers[special.index]
    share = crossing_share(special.kind, found, (before.tangent[-1], after.tangent[-1]))
    (parameter,) = branch.free
    reach = _distance(before.solution, after.solution, parameter)
    failure: ContinuationError | None = None
    for fraction in (share, 0.5, 0.05, 0.95):
        try:
            point = locate_between(special.kind, branch.system, before.solution, after.solution, parameter, fraction)
        except ContinuationError as error:
            failure = error
            continue
        if _distance(before.solution, point.solution, parameter) <= 2 * reach:
            return point
    raise ContinuationError(
        f"no {special.kind} was found between the points {special.index - 1} and {special.index}"
        f"{f' ({failure})' if failure else ''}: follow the branch again with a smaller ds_max"
    )


def _others(kind: str, state: State, multipliers: Multipliers) -> np.ndarray:
    """Multipliers without those that are 1 in modulus by the definition of the curve."""
    critical = {"LP": [1.0], "PD": [-1.0]}.get(kind, [])
    if kind == "NS":
        critical = [np.exp(sign * 1j * np.pi * state.solution.extras[0]) for sign in (1, -1)]
    values = multipliers.values
    for target in critical:
        values = np.delete(values, np.argmin(np.abs(values - target)))
    return values


def _distance(first: Solution, last: Solution, parameter: str) -> float:
    return abs(first.parameters[parameter] - last.parameters[parameter]) + abs(first.period - last.period)
