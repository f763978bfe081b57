"""Curves of solutions of n equations for n + 1 unknowns, for small n: pseudo-arclength continuation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from scipy.optimize import brentq

from mackeyglass.errors import ContinuationError
from mackeyglass.forward import jvp

Function = Callable[[torch.Tensor], torch.Tensor]  # (unknowns, *batch) → (equations, *batch)

SMALLEST = 1e-7  # step below which a continuation gives up
SHARPEST = 0.9  # cosine between successive tangents below which a step is halved


@dataclass(frozen=True, eq=False)
class Segment:
    """Two successive points on a curve with their unit tangents."""

    function: Function
    begin: Float[np.ndarray, "unknowns"]
    end: Float[np.ndarray, "unknowns"]
    begin_tangent: Float[np.ndarray, "unknowns"]
    end_tangent: Float[np.ndarray, "unknowns"]

    @property
    def length(self) -> float:
        """Of the chord."""
        return float(np.linalg.norm(self.end - self.begin))

    def halves(self) -> tuple["Segment", "Segment"]:
        """The segments up to and from the middle."""
        middle = self.between(0.5)
        turned = tangent(self.function, middle, self.begin_tangent)
        return replace(self, end=middle, end_tangent=turned), replace(self, begin=middle, begin_tangent=turned)

    def between(self, share: float) -> Float[np.ndarray, "unknowns"]:
        """The point of the curve at that share of the chord."""
        chord = self.end - self.begin
        return newton(self.function, self.begin + share * chord, chord / self.length)[0]

    def zero(self, test: Callable[[np.ndarray], float]) -> Float[np.ndarray, "unknowns"]:
        """Where a function of different signs at the ends vanishes."""
        share: Any = brentq(lambda share: test(self.between(share)), 0.0, 1.0, xtol=1e-14)
        return self.between(share)


def trace(
    equations: Callable[[np.ndarray], tuple[Function, np.ndarray]],
    start: Float[np.ndarray, "unknowns"],
    index: int,
    bounds: Mapping[int, tuple[float | int, float | int]],
    step: float,
    longest: float,
    max_steps: int,
) -> tuple[list[Segment], str]:
    """Segments of a curve from a point on it, and why it ends: "bounds", "max_steps" or the error of a failed step.

    Parameters
    ----------
    equations
        Called with each point; gives the function that vanishes on the curve, and the point, in both of which free
        scalings may be renewed.
    index, step
        The unknown that grows at first, or falls where `step` is negative; |step| is the length of the first step.
    bounds
        Of unknowns; the last point lies on them.
    """
    if not (0 < abs(step) <= longest and max_steps >= 1):
        raise ConfigError(f"need 0 < |step| <= longest and max_steps >= 1, got {step}, {longest} and {max_steps}")
    outside = [i for i, (low, high) in bounds.items() if not low <= start[i] <= high]
    if outside:
        raise ConfigError(f"the start {start.round(6).tolist()} is outside the bounds {dict(bounds)}: widen them")
    function, point = equations(start)
    direction = np.sign(step) * np.eye(len(start))[index]
    segments, step = [], abs(step)
    for _ in range(max_steps):
        direction = tangent(function, point, direction)
        try:
            following, turned, step = advance(function, point, direction, step, longest)
            crossed = _crossed(following, bounds)
            if crossed is not None:
                following = _onto_bound(function, point, following, *crossed)
                turned = tangent(function, following, turned)
        except ContinuationError as error:
            return segments, str(error)
        segments.append(Segment(function, point, following, direction, turned))
        if crossed is not None:
            return segments, "bounds"
        (function, point), direction = equations(following), turned
    return segments, "max_steps"


def differentiate(
    function: Function, point: Float[np.ndarray, "unknowns"]
) -> tuple[Float[np.ndarray, "equations"], Float[np.ndarray, "equations unknowns"]]:
    """Value and exact Jacobian, one copy of the point for each direction."""
    size = len(point)
    copies = torch.from_numpy(point)[:, None].repeat(1, size)
    value, jacobian, *_ = jvp(function, (copies,), (torch.eye(size, dtype=torch.float64),))
    return value[:, 0].numpy().copy(), jacobian.numpy().copy()


def newton(
    function: Function, guess: Float[np.ndarray, "unknowns"], row: Float[np.ndarray, "unknowns"] | None = None
) -> tuple[Float[np.ndarray, "unknowns"], int]:
    """Solution near `guess`, in the plane through it that is normal to `row`, and the number of iterations.

    Raises
    ------
    ContinuationError
        If the corrections do not become small, or do so where the equations do not hold.
    """
    point, size = guess, np.inf
    for iteration in range(1, 15):
        value, jacobian = differentiate(function, point)
        if row is not None:
            value, jacobian = np.append(value, row @ (point - guess)), np.vstack([jacobian, row])
        if not (np.isfinite(value).all() and np.isfinite(jacobian).all()):
            break
        # the least correction where branches cross, at which the equations for it are singular
        correction = -np.linalg.lstsq(jacobian, value)[0]
        point, size = point + correction, float(np.abs(correction).max() / (1 + np.abs(point).max()))
        if size <= 1e-9:  # the next one would be its square, or rounding
            # what no correction removes is rounding at a solution, but not where least squares came to rest
            rest = np.abs(value + jacobian @ correction)
            if (rest > 1e-8 * (1 + np.abs(jacobian) @ np.abs(point))).any():
                raise ContinuationError(
                    f"Newton's method came to rest at {point.round(6).tolist()}, where the equations do not hold: "
                    "they may not depend on what is free"
                )
            return point, iteration
    raise ContinuationError(
        f"Newton's method did not converge from {guess.round(6).tolist()} (last correction {size:.1e}): "
        "start closer to a solution or take smaller steps"
    )


def tangent(
    function: Function, point: Float[np.ndarray, "unknowns"], along: Float[np.ndarray, "unknowns"]
) -> Float[np.ndarray, "unknowns"]:
    """Unit tangent of the curve with a positive product with `along`."""
    direction = np.linalg.svd(differentiate(function, point)[1])[2][-1]
    return direction if direction @ along >= 0 else -direction


def advance(
    function: Function,
    point: Float[np.ndarray, "unknowns"],
    direction: Float[np.ndarray, "unknowns"],
    step: float,
    longest: float,
) -> tuple[Float[np.ndarray, "unknowns"], Float[np.ndarray, "unknowns"], float]:
    """The next point, its tangent and the step to try from there, at most `longest`.

    Raises
    ------
    ContinuationError
        If no step converges.
    """
    while step >= SMALLEST:
        try:
            following, iterations = newton(function, point + step * direction, direction)
        except ContinuationError:
            step /= 2
            continue
        turned = tangent(function, following, direction)
        if turned @ direction >= SHARPEST:
            return following, turned, min(1.4 * step if iterations <= 3 else step, longest)
        step /= 2
    raise ContinuationError(
        f"no step of at least {SMALLEST:g} leads on from {point.round(6).tolist()}: the curve ends or branches there"
    )


def _crossed(point: np.ndarray, bounds: Mapping[int, tuple[float | int, float | int]]) -> tuple[int, float] | None:
    for i, (low, high) in bounds.items():
        if not low <= point[i] <= high:
            return i, float(low if point[i] < low else high)
    return None


def _onto_bound(
    function: Function, before: np.ndarray, after: np.ndarray, index: int, bound: float
) -> Float[np.ndarray, "unknowns"]:
    share = (bound - before[index]) / (after[index] - before[index])
    return newton(function, before + share * (after - before), np.eye(len(before))[index])[0]
