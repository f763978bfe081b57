"""Points of branches at chosen values of a parameter, and where a parameter turns."""

import numpy as np
from sciml.errors import ConfigError

from mackeyglass.bifurcations import BifurcationPoint, orbit_part
from mackeyglass.branch import Branch
from mackeyglass.codimension_two import zero_along
from mackeyglass.collocation import Solution
from mackeyglass.orbits import PeriodicOrbit


def orbits_at(branch: Branch, value: float | int) -> list[PeriodicOrbit]:
    """The orbits of a branch at a value of its parameter, in the order of the branch."""
    if branch.kind != "orbit":
        raise ConfigError(f"this is a curve of bifurcations ({branch.kind}): use points_at")
    system = branch.system
    return [
        PeriodicOrbit(system.with_parameters(**found.parameters), orbit_part(found, system.dim))
        for found in _crossings(branch, branch.free[0], float(value))
    ]


def points_at(curve: Branch, parameter: str, value: float | int) -> list[BifurcationPoint]:
    """The bifurcations on a curve at a value of one of its two parameters, in the order of the curve."""
    other = _other(curve, parameter)
    return [_point(curve, found, other) for found in _crossings(curve, parameter, float(value))]


def turning_points(curve: Branch, parameter: str) -> list[BifurcationPoint]:
    """The bifurcations on a curve at which one of its parameters has an extremum; a cusp, where both turn, is none."""
    other = _other(curve, parameter)
    position = curve.free.index(parameter) - len(curve.free)
    slopes = np.array([state.tangent[-2:] for state in curve.states])
    turned = slopes[1:] * slopes[:-1] < 0
    return [
        _point(curve, zero_along(curve, int(index), lambda state: state.tangent[position], f"d{parameter}"), other)
        for index in 1 + np.flatnonzero(turned[:, position] & ~turned[:, -3 - position])
    ]


def _crossings(branch: Branch, parameter: str, value: float) -> list[Solution]:
    offsets = branch[parameter] - value
    found = [branch.states[0].solution] if offsets[0] == 0 else []
    for index in range(1, len(offsets)):
        if offsets[index] == 0:
            found.append(branch.states[index].solution)
        elif offsets[index - 1] * offsets[index] < 0:
            name = f"{parameter} − {value:g}"
            found.append(zero_along(branch, index, lambda state: state.solution.parameters[parameter] - value, name))
    return found


def _other(curve: Branch, parameter: str) -> str:
    if curve.kind == "orbit" or parameter not in curve.free:
        raise ConfigError(
            f"{parameter} is not one of two parameters of a curve: this is {curve.kind} in {', '.join(curve.free)}"
        )
    return next(name for name in curve.free if name != parameter)


def _point(curve: Branch, found: Solution, parameter: str) -> BifurcationPoint:
    return BifurcationPoint(curve.kind, curve.system.with_parameters(**found.parameters), found, parameter)
