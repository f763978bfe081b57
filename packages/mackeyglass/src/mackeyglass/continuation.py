"""Pseudo-arclength continuation of collocated problems."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from sciml.errors import ConfigError

from mackeyglass.collocation import CollocatedEquation, Problem, Solution, linearise
from mackeyglass.errors import ContinuationError
from mackeyglass.newton import solve, tangent_of

PERIOD_WEIGHT = 0.02  # of the period and of extras beside functions and parameters in the length of a curve
FARTHEST = 0.5  # from the predicted point, in steps: where a curve turns by 53 degrees; farther is another part of it
SMALLEST_STEP = 1e-5  # of the first step's length; folds can be very sharp


@dataclass(frozen=True)
class Stepping:
    """Lengths of the steps along a curve, measured in profile/scale, parameters and, with weight 0.02, period.

    Parameters
    ----------
    ds, ds_max
        First and longest step.
    adapt_every
        Steps between two adaptations of the mesh; 0 for none. The old mesh is kept where it is so coarse that another
        one moves the orbit farther than a step does.
    scale
        Of the state, so that the same steps serve in all its units.
    """

    ds: float | int = 0.05
    ds_max: float | int = 0.5
    adapt_every: int = 5
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.ds <= self.ds_max < math.inf or self.adapt_every < 0:
            raise ConfigError(
                f"steps need 0 < ds <= ds_max, both finite, and adapt_every >= 0, got ds={self.ds}, "
                f"ds_max={self.ds_max}, adapt_every={self.adapt_every}"
            )


@dataclass(frozen=True, eq=False)
class State:
    """Everything on which the rest of a continuation depends.

    `tangent` is of length one in the measure of the curve, `ds` the length of the next step, `age` the number of steps
    since the mesh was adapted, or should have been.
    """

    solution: Solution
    tangent: Float[np.ndarray, "unknowns"]
    ds: float
    age: int = 0

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.6g}" for name, value in self.solution.parameters.items())
        return f"State({values}, period={self.solution.period:.6g}, ds={self.ds:.3g}, age={self.age})"


def at_bound(name: str, bound: float) -> str:
    """Why a continuation ended."""
    return f"{name} reached its bound {bound:g}"


def steps_done(max_steps: int) -> str:
    """Why a continuation ended."""
    return f"{max_steps} steps were done"


def why_ended(
    reason: str, last: Mapping[str, float], bounds: Mapping[str, tuple[float | int, float | int]], max_steps: int
) -> str:
    """What `mackeyglass.arclength.trace` gives as the reason, in words; `last` are parameters of the last point."""
    if reason == "bounds":
        ends = [(name, float(bound)) for name, pair in bounds.items() for bound in pair if np.isfinite(bound)]
        return at_bound(*min(ends, key=lambda end: abs(last[end[0]] - end[1])))
    return steps_done(max_steps) if reason == "max_steps" else reason


def check_steps(max_steps: int, direction: int = 1) -> None:
    """Raise `ConfigError` unless there is at least one step, in a direction that is 1 or −1."""
    if max_steps < 1 or max_steps != int(max_steps):
        raise ConfigError(f"max_steps must be a whole number of at least 1, got {max_steps}")
    if direction not in (1, -1):
        raise ConfigError(f"direction must be 1 (the parameter grows at first) or -1 (it falls), got {direction!r}")


def weights(problem: Problem, solution: Solution, free: Sequence[str], scale: float) -> Float[np.ndarray, "unknowns"]:
    """The weights of squares whose sum is the squared length of a step: they do not depend on the mesh.

    `scale` is that of the orbit; null vectors are of size one.
    """
    scalars = [PERIOD_WEIGHT] * (1 + len(solution.extras)) + [1.0] * len(free)
    components = np.ones(solution.values.shape[1])
    components[: problem.system.dim] /= scale**2
    return np.concatenate([np.outer(solution.mesh.measure, components).ravel(), scalars])


def first_state(
    problem: Problem,
    solution: Solution,
    free: Sequence[str],
    stepping: Stepping,
    *,
    direction: int = 1,
    towards: Float[np.ndarray, "unknowns"] | None = None,
) -> State:
    """Where a continuation begins: along `towards`, by default so that the last parameter grows (or, −1, falls)."""
    along = towards
    if along is None:
        along = np.zeros(solution.values.size + 1 + len(solution.extras) + len(free))
        along[-1] = direction
    tangent = tangent_of(linearise(problem, solution, free, solution, along)[1])
    if not np.isfinite(tangent).all():
        raise ContinuationError("the curve has no unique tangent at its start; start from another point of it")
    return State(solution, _normalised(tangent, weights(problem, solution, free, stepping.scale)), float(stepping.ds))


def trace(
    problem: Problem,
    state: State,
    free: Sequence[str],
    bounds: Mapping[str, tuple[float, float]],
    stepping: Stepping,
) -> Iterator[tuple[State, CollocatedEquation]]:
    """States along the curve after a given one, endlessly or until a bound is met; the last one then lies on it.

    With each comes the equation and its derivatives there.

    Raises
    ------
    ContinuationError
        When the steps have become too short. What was found before has been given out.
    """
    while True:
        start, following, collocated = _step(problem, state, free, stepping)
        passed = _passed(start.solution, following.solution, bounds)
        if passed is None:
            yield following, collocated
            state = following
            continue
        try:
            landed = _land(problem, start, following, free, stepping, *passed)
        except ContinuationError as error:  # the step left the curve, or was too long to land
            state = replace(state, ds=min(state.ds, following.ds) / 2)
            if state.ds < SMALLEST_STEP * stepping.ds:
                raise ContinuationError(f"{passed[0]} was not followed to its bound {passed[1]:g}: {error}") from error
            continue
        yield landed
        return


def outside(solution: Solution, bounds: Mapping[str, tuple[float, float]]) -> tuple[str, float] | None:
    """The name and the bound that a parameter of a solution has passed."""
    for name, (low, high) in bounds.items():
        value = solution.parameters[name]
        if not low < value < high:
            return name, low if value <= low else high
    return None


def _passed(before: Solution, after: Solution, bounds: Mapping[str, tuple[float, float]]) -> tuple[str, float] | None:
    """The name and the bound that is met first on the way from one solution to the next."""
    shares = {}
    for name in bounds:
        found = outside(after, {name: bounds[name]})
        if found is not None:
            first, last = before.parameters[name], after.parameters[name]
            shares[found] = (found[1] - first) / (last - first)
    return min(shares, key=lambda found: shares[found]) if shares else None


def _step(
    problem: Problem, state: State, free: Sequence[str], stepping: Stepping
) -> tuple[State, State, CollocatedEquation]:
    """The state from which the step is taken, on a mesh that fits it where it is time for that, and the next one."""
    starts = [state]
    if 0 < stepping.adapt_every <= state.age:  # where steps fail on the new mesh the old one serves on
        starts = [_adapted(problem, state, free, stepping), replace(state, age=0)]
    ds = state.ds
    while True:
        reasons = []
        for start in starts:
            try:
                return start, *_at_distance(problem, start, ds, free, stepping)
            except ContinuationError as error:
                reasons.append(str(error))
        ds /= 2
        if ds < SMALLEST_STEP * stepping.ds:
            raise ContinuationError(f"steps became shorter than {ds:.1e}: {reasons[-1]}")


def _at_distance(
    problem: Problem, state: State, ds: float, free: Sequence[str], stepping: Stepping
) -> tuple[State, CollocatedEquation]:
    """The state that follows one by a step of given length."""
    before, tangent = state.solution, state.tangent
    measure = weights(problem, before, free, stepping.scale)
    row = measure * tangent
    predicted = before.vector(free) + ds * tangent
    guess = before.updated(predicted, free)
    found = solve(problem, guess, free, reference=before, row=row, level=float(row @ predicted))
    turned = _normalised(found.tangent, measure)
    cosine = float((measure * turned) @ tangent)
    change = found.solution.vector(free) - predicted
    if not np.sqrt((measure * change) @ change) <= FARTHEST * ds:
        raise ContinuationError("the curve turns too sharply")  # or this is another part of it
    assert found.collocated is not None  # there was a further row
    many = found.iterations >= 6
    factor = 1.4 if found.iterations <= 3 and cosine > 0.97 else 0.7 if many or cosine < 0.94 else 1.0
    return State(found.solution, turned, min(ds * factor, float(stepping.ds_max)), state.age + 1), found.collocated


def _adapted(problem: Problem, state: State, free: Sequence[str], stepping: Stepping) -> State:
    """The state interpolated to a mesh that fits it: it solves the problem there but for the error of both meshes."""
    before = state.solution
    mesh = before.mesh.adapted(before.values)
    moved = before.remeshed(mesh)
    size = before.values.size
    direction = replace(before, values=state.tangent[:size].reshape(before.values.shape)).remeshed(mesh).values
    measure = weights(problem, moved, free, stepping.scale)
    tangent = _normalised(np.concatenate([direction.ravel(), state.tangent[size:]]), measure)
    return State(moved, tangent, state.ds)


def _land(
    problem: Problem, before: State, after: State, free: Sequence[str], stepping: Stepping, name: str, bound: float
) -> tuple[State, CollocatedEquation]:
    """The point between two states at which a parameter takes the value of its bound."""
    first, last = before.solution.parameters[name], after.solution.parameters[name]
    share = (bound - first) / (last - first)
    start = (1 - share) * before.solution.vector(free) + share * after.solution.vector(free)
    row = np.zeros(len(start))
    row[len(start) - len(free) + free.index(name)] = 1
    guess = after.solution.updated(start, free)
    found = solve(problem, guess, free, reference=before.solution, row=row, level=float(bound))
    solution = replace(found.solution, parameters={**found.solution.parameters, name: float(bound)})
    measure = weights(problem, solution, free, stepping.scale)
    tangent = _normalised(found.tangent, measure)
    forwards = float(np.sign((measure * tangent) @ after.tangent))
    assert found.collocated is not None
    return State(solution, forwards * tangent, after.ds, after.age), found.collocated


def _normalised(tangent: np.ndarray, measure: np.ndarray) -> np.ndarray:
    return tangent / np.sqrt((measure * tangent) @ tangent)
