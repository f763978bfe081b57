"""Curves of Hopf points in two parameters, with the points where their criticality changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sciml.errors import ConfigError

from mackeyglass.arclength import Function, trace
from mackeyglass.branch_arguments import limits_of
from mackeyglass.continuation import Stepping, check_steps, why_ended
from mackeyglass.errors import ContinuationError
from mackeyglass.hopf import hopf_equations, hopf_point
from mackeyglass.normal_form import HopfPoint, hopf_normal_form


@dataclass(frozen=True, eq=False)
class HopfBranch:
    """Hopf points along a curve in two parameters, and their first Lyapunov coefficients.

    `generalised` are the points with l₁ = 0, at which a curve of folds of periodic orbits begins; `stop_reason` says
    why it ended.
    """

    parameters: tuple[str, str]
    points: Sequence[HopfPoint]
    l1: Float[np.ndarray, "points"]
    generalised: Sequence[HopfPoint]
    stop_reason: str

    def __repr__(self) -> str:
        ranges = []
        for name in self.parameters:
            values = [point.parameters[name] for point in self.points]
            ranges.append(f"{name}={min(values):.6g} … {max(values):.6g}")
        return f"HopfBranch({len(self.points)} points, {', '.join(ranges)}, {len(self.generalised)} generalised)"


def continue_hopf(
    point: HopfPoint,
    parameters: tuple[str, str],
    bounds: Mapping[str, tuple[float | int, float | int]],
    *,
    ds: float | int = 0.05,
    ds_max: float | int = 0.5,
    max_steps: int = 500,
    direction: int = 1,
) -> HopfBranch:
    """The curve of Hopf points through `point`, of any number of components and delays.

    Parameters
    ----------
    parameters
        Names of the two that change; delays may be among them.
    bounds
        (lowest, highest) of both, which may be infinite; the last point lies on one where the curve reaches it.
    ds, ds_max
        First and longest step, in the space of x, Re q, Im q, ω and both parameters.
    direction
        1 to begin with a growing second parameter, −1 with a falling one.

    Raises
    ------
    ConfigError
        If parameters, bounds or steps make no sense.
    """
    system, d = point.system, point.system.dim
    system.check_names([*parameters, *bounds])
    if len(set(parameters)) != 2 or set(bounds) != set(parameters):
        raise ConfigError(f"need two different parameters and bounds of both, got {parameters} and {sorted(bounds)}")
    Stepping(ds, ds_max)
    check_steps(max_steps, direction)
    bounds = {name: limits_of(name, pair) for name, pair in bounds.items()}

    def equations(unknowns: np.ndarray) -> tuple[Function, np.ndarray]:
        # a mode is scaled by its product with the one before
        mode = unknowns[d : 2 * d] + 1j * unknowns[2 * d : 3 * d]
        mode = mode / np.linalg.norm(mode)
        scaled = np.concatenate([unknowns[:d], np.real(mode), np.imag(mode), unknowns[3 * d :]])
        return hopf_equations(system, parameters, mode), scaled

    def at(unknowns: np.ndarray) -> HopfPoint:
        return hopf_point(system, parameters, unknowns)

    def coefficient(unknowns: np.ndarray) -> float:
        return hopf_normal_form(at(unknowns)).l1

    values = [point.parameters[name] for name in parameters]
    start = np.concatenate([point.equilibrium, np.real(point.vector), np.imag(point.vector), [point.omega, *values]])
    limits = {3 * d + 1 + parameters.index(name): bound for name, bound in bounds.items()}
    segments, ended = trace(equations, start, 3 * d + 2, limits, float(direction * ds), float(ds_max), max_steps)
    last = dict(zip(parameters, segments[-1].end[3 * d + 1 :].tolist(), strict=True)) if segments else {}
    reason = why_ended(ended, last, bounds, max_steps)

    points, l1, generalised = [point], [hopf_normal_form(point).l1], []
    try:
        for segment in segments:
            points.append(at(segment.end))
            l1.append(coefficient(segment.end))
            if l1[-1] * l1[-2] < 0:
                generalised.append(at(segment.zero(coefficient)))
    except (ConfigError, ContinuationError) as error:  # ω has become 0 or 2iω a root
        points, reason = points[: len(l1)], str(error)
    return HopfBranch(parameters, points, np.array(l1), generalised, reason)
