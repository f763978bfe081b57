"""What branches can be asked for: names, bounds and kinds, and what to do about objects of another kind."""

from collections.abc import Iterable, Mapping, Sequence

from sciml.errors import ConfigError

from mackeyglass.bifurcations import BifurcationPoint
from mackeyglass.codimension_two import CodimensionTwoPoint
from mackeyglass.collocation import Solution
from mackeyglass.normal_form import HopfPoint
from mackeyglass.orbits import PeriodicOrbit

Bounds = Mapping[str, tuple[float | int, float | int]]


def bounds_of(
    start: PeriodicOrbit | BifurcationPoint, bounds: Bounds, free: tuple[str, ...], direction: int
) -> dict[str, tuple[float, float]]:
    """Bounds of the free parameters, within which a start has to lie.

    It may lie on the bound of the last one that `direction` leads away from.
    """
    start.system.check_names(free)
    if not isinstance(bounds, Mapping) or set(free) ^ set(bounds):
        given = ", ".join(bounds) if isinstance(bounds, Mapping) else repr(bounds)
        raise ConfigError(f"bounds must be given for each of {', '.join(free)}, as a dictionary, got {given or 'none'}")
    limits = {name: limits_of(name, bounds[name]) for name in free}
    for name, (low, high) in limits.items():
        leaving = low if direction > 0 else high
        inwards = name == free[-1] and start.parameters[name] == leaving
        if not (low < start.parameters[name] < high or inwards):
            raise ConfigError(
                f"{name}={start.parameters[name]:g} of the start must lie within its bounds ({low:g}, {high:g})"
            )
    return limits


def limits_of(name: str, bounds: tuple[float | int, float | int]) -> tuple[float, float]:
    """(lowest, highest) as numbers, after a check that they are."""
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        raise ConfigError(f"bounds of {name} must be two numbers (lowest, highest), got {bounds!r}") from None
    if not low < high:
        raise ConfigError(f"bounds of {name} must be (lowest, highest), got ({low:g}, {high:g})")
    return low, high


def widened(old: Mapping[str, tuple[float, float]], new: Bounds, last: Solution) -> dict[str, tuple[float, float]]:
    """The bounds of a branch with those that are given instead of them."""
    if not isinstance(new, Mapping) or set(new) - set(old):
        given = ", ".join(new) if isinstance(new, Mapping) else repr(new)
        raise ConfigError(f"new bounds must be a dictionary with some of {', '.join(old)}, got {given}")
    limits = {**old, **{name: limits_of(name, bounds) for name, bounds in new.items()}}
    for name, (low, high) in limits.items():
        if not low <= last.parameters[name] <= high:
            raise ConfigError(
                f"{name}={last.parameters[name]:g} of the last point must lie within its new bounds ({low:g}, {high:g})"
            )
    return limits


def kinds_of(detect: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """What to detect, of the kinds that there are."""
    kinds = (detect,) if isinstance(detect, str) else tuple(detect)
    unknown = sorted(set(kinds) - set(known))
    if unknown:
        raise ConfigError(f"detect must be of {', '.join(known)}, got {', '.join(unknown)}")
    return kinds


def to_orbit(given: object) -> str:
    """How an object that is no orbit leads to one."""
    if isinstance(given, HopfPoint):
        return "begin with PeriodicOrbit.from_hopf(point, parameter), or follow Hopf points by continue_hopf"
    if isinstance(given, BifurcationPoint):
        return "give its orbit, point.orbit, or follow the bifurcation in two parameters by continue_bifurcation"
    return "make one by PeriodicOrbit.from_simulation or PeriodicOrbit.from_hopf"


def to_bifurcation(given: object) -> str:
    """How an object that is no bifurcation of orbits leads to one."""
    if isinstance(given, HopfPoint):
        return "Hopf points are followed by continue_hopf"
    if isinstance(given, CodimensionTwoPoint):
        return "give the point of the curve, point.bifurcation"
    return "find one by continue_branch and locate(branch, branch.special[0])"
