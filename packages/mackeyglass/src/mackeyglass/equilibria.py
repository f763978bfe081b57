"""Branches of equilibria in one parameter, with their bifurcations."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from sciml.errors import ConfigError

from mackeyglass.arclength import Function, Segment, trace
from mackeyglass.branch_arguments import limits_of
from mackeyglass.characteristic import unstable_roots
from mackeyglass.continuation import Stepping, check_steps, why_ended
from mackeyglass.equation import DDE
from mackeyglass.errors import ContinuationError
from mackeyglass.hopf import locate_hopf
from mackeyglass.linearisation import State, equilibrium_of, jacobians, numbers


@dataclass(frozen=True, eq=False)
class EquilibriumPoint:
    """Where a root passes 0 as the branch turns (fold) or meets another (branch point), or a pair passes ±iω (Hopf)."""

    kind: Literal["fold", "branch point", "Hopf"]
    value: float
    state: Float[np.ndarray, "d"]
    omega: float = 0.0


@dataclass(frozen=True, eq=False)
class EquilibriumBranch:
    """Equilibria along a curve: values of the parameter, states, numbers of unstable characteristic roots.

    `special` are the bifurcations in their order, `stop_reason` says why it ended.
    """

    parameter: str
    values: Float[np.ndarray, "points"]
    states: Float[np.ndarray, "points d"]
    unstable: Int[np.ndarray, "points"]
    special: Sequence[EquilibriumPoint]
    stop_reason: str

    def __repr__(self) -> str:
        ranges = f"{self.parameter}={self.values.min():.6g} … {self.values.max():.6g}"
        return f"EquilibriumBranch({len(self.values)} points, {ranges}, {len(self.special)} special)"


def follow_equilibrium(
    system: DDE,
    parameter: str,
    bounds: tuple[float | int, float | int],
    equilibrium: State | None = None,
    *,
    ds: float | int = 0.05,
    ds_max: float | int = 0.5,
    max_steps: int = 500,
    direction: int = 1,
) -> EquilibriumBranch:
    """The branch of an equilibrium of `system` while a parameter stays within bounds.

    Parameters
    ----------
    equilibrium
        d numbers; by default the positive equilibrium of the Mackey–Glass equation, the origin of any other.
    bounds
        Of the parameter, which may be infinite; the last point lies on one where the branch reaches it.
    ds, ds_max
        First and longest step, in the space of state and parameter. Roots that cross the imaginary axis to and fro
        within a step are not seen.
    direction
        1 to begin with a growing parameter, −1 with a falling one.

    Raises
    ------
    ConfigError
        If there is no such parameter, the state is no equilibrium, or the bounds or steps make no sense.
    ContinuationError
        If roots cross the imaginary axis in a way that is none of the three.
    """
    if not isinstance(parameter, str):
        raise ConfigError(
            f"parameter must be the name of one, got {parameter!r}: an equilibrium is the fourth argument"
        )
    system.check_names([parameter])
    Stepping(ds, ds_max)
    check_steps(max_steps, direction)
    bounds = limits_of(parameter, bounds)
    d = system.dim
    start = np.append(equilibrium_of(system, equilibrium), numbers(system)[parameter])
    function = _equilibria(system, parameter)
    segments, ended = trace(
        lambda point: (function, point), start, d, {d: bounds}, float(direction * ds), float(ds_max), max_steps
    )
    points = np.array([start, *(segment.end for segment in segments)])
    unstable = np.array([_unstable(system, parameter, point) for point in points])
    special: list[EquilibriumPoint] = []
    for segment, (before, after) in zip(segments, itertools.pairwise(unstable.tolist()), strict=True):
        special += _bifurcations(system, parameter, segment, before, after)
    reason = why_ended(ended, {parameter: float(points[-1, d])}, {parameter: bounds}, max_steps)
    return EquilibriumBranch(parameter, points[:, d].copy(), points[:, :d].copy(), unstable, special, reason)


def _equilibria(system: DDE, parameter: str) -> Function:
    """F(x, …, x; p) of the unknowns (x, p)."""
    fixed = numbers(system)

    def equations(unknowns: torch.Tensor) -> torch.Tensor:
        x = unknowns[: system.dim]
        return system.field(x, [x] * len(system.delays), {**fixed, parameter: unknowns[system.dim]})

    return equations


def _unstable(system: DDE, parameter: str, point: np.ndarray) -> int:
    return unstable_roots(system.with_parameters(**{parameter: float(point[-1])}), point[:-1])


def _bifurcations(system: DDE, parameter: str, segment: Segment, before: int, after: int) -> list[EquilibriumPoint]:
    """What happens on a segment at whose ends the numbers of unstable roots are given, in order."""
    if before == after:
        return []
    if abs(after - before) == 1:
        point = segment.zero(lambda point: _determinant(system, parameter, point))
        turned = segment.begin_tangent[-1] * segment.end_tangent[-1] < 0
        return [EquilibriumPoint("fold" if turned else "branch point", float(point[-1]), point[:-1])]
    if abs(after - before) == 2 and (found := _hopf(system, parameter, segment, after > before)):
        return [found]
    if segment.length < 1e-6:
        raise ContinuationError(
            f"the bifurcation at {parameter}={segment.end[-1]:g} is neither a fold, a branch point nor a Hopf point"
        )
    first, second = segment.halves()
    middle = _unstable(system, parameter, first.end)
    return [
        *_bifurcations(system, parameter, first, before, middle),
        *_bifurcations(system, parameter, second, middle, after),
    ]


def _hopf(system: DDE, parameter: str, segment: Segment, rightwards: bool) -> EquilibriumPoint | None:
    """The Hopf point at which a pair crosses, if Newton's method finds it on the segment."""
    end = segment.end if rightwards else segment.begin
    at = system.with_parameters(**{parameter: float(end[-1])})
    try:
        hopf = locate_hopf(at, parameter, end[:-1])
    except ContinuationError:
        return None
    chord, point = segment.end - segment.begin, np.append(hopf.equilibrium, hopf.parameters[parameter])
    if not 0 <= chord @ (point - segment.begin) <= segment.length**2:
        return None
    return EquilibriumPoint("Hopf", hopf.parameters[parameter], hopf.equilibrium, hopf.omega)


def _determinant(system: DDE, parameter: str, point: np.ndarray) -> float:
    """Of ΣⱼAⱼ = −Δ(0): it changes sign where a real root passes 0."""
    values = {**numbers(system), parameter: float(point[-1])}
    return float(np.linalg.det(jacobians(system, point[:-1], values).sum(axis=0)))
