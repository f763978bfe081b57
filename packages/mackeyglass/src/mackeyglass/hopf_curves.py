"""Curves of Hopf points in two parameters, with the points where their criticality changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sciml.errors import ConfigError

from mackeyglass.arclength import Function, trace
from mackeyglass.errors import ContinuationError
from mackeyglass.hopf import hopf_equations, hopf_point
from mackeyglass.normal_form import HopfPoint, hopf_normal_form


@dataclass(frozen=True, eq=False)
class HopfBranch:
    """Hopf points along a curve in two parameters, and their first Lyapunov coefficients.

    `generalised` are the points with l₁ = 0, at which a curve of folds of periodic orbits begins; `stop_reason` is
    "bounds", "max_steps" or what failed.
    """

    parameters: tuple[str, str]
    points: Sequence[HopfPoint]
    l1: Float[np.ndarray, "points"]
    generalised: Sequence[HopfPoint]
    stop_reason: str


def continue_hopf(
    point: HopfPoint,
    parameters: tuple[str, str],
    bounds: Mapping[str, tuple[float | int, float | int]],
    *,
    step: float = 0.05,
    longest: float = 0.5,
    max_steps: int = 500,
) -> HopfBranch:
    """The curve of Hopf points through `point`, of any number of components and delays.

    Parameters
    ----------
    parameters
        Names of the two that change; delays may be among them.
    bounds
        (lowest, highest) of them.
    step, longest
        Lengths in the space of x, Re q, Im q, ω and both parameters. With a negative `step` the first parameter falls
        at the start.

    Raises
    ------
    ConfigError
        If parameters, bounds or steps make no sense.
    """
    system, d = point.system, point.system.dim
    system.check_names([*parameters, *bounds])
    if parameters[0] == parameters[1] or set(bounds) - set(parameters):
        raise ConfigError(f"need two different parameters and bounds of these, got {parameters} and {sorted(bounds)}")

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
    segments, reason = trace(equations, start, 3 * d + 1, limits, step, longest, max_steps)

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
