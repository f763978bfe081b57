"""How branches and curves grow: step by step, with what is detected between points, until something ends them."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from sciml.progress import Progress

from mackeyglass import codimension_two
from mackeyglass.bifurcations import crossed, orbit_part, problem_of
from mackeyglass.collocation import CollocatedEquation, Problem
from mackeyglass.continuation import State, at_bound, outside, steps_done, trace
from mackeyglass.errors import ContinuationError
from mackeyglass.floquet import Multipliers, floquet_multipliers, multipliers_of
from mackeyglass.mesh import Mesh, Stencil

if TYPE_CHECKING:
    from mackeyglass.branch import Branch

VANISHED = "the orbits shrank to an equilibrium (a Hopf point)"
RESONANT = "ω came close to {0}, where torus bifurcations end"
CLOSE = 0.05
JOINED = "the orbits joined the branch of half their period (a period doubling)"
COUNT = 24  # of multipliers that are kept
TIMES = 400  # at which successive orbits are compared
NO_MORE = (None, None)
INACCURATE = 1e-4  # error of the trivial multiplier of an orbit that its mesh does not resolve


@dataclass(frozen=True)
class Special:
    """A change that was detected between the points `index` − 1 and `index` of a branch."""

    kind: str
    index: int
    parameters: Mapping[str, float]  # those of point `index`

    def __str__(self) -> str:
        return f"{self.kind} near " + ", ".join(f"{name}={value:.6g}" for name, value in self.parameters.items())


def begin(branch: "Branch", state: State) -> "Branch":
    branch.states.append(state)
    branch.multipliers.append(_multipliers(branch, state))
    return branch


def grow(branch: "Branch", max_steps: int, progress: bool) -> "Branch":
    if branch.kind == "orbit":
        (parameter,) = branch.free
        title = f"orbits in {parameter}"
    else:
        title = f"{branch.kind} in {' and '.join(branch.free)}"
    told = len(branch) > 1 and any(map(_inaccurate, branch.multipliers))
    _advance(branch, max_steps, Progress(title, max_steps, active=progress))
    if not told:
        _warn(branch, title)
    return branch


def _inaccurate(multipliers: Multipliers) -> bool:
    """Whether the trivial multiplier shows that the mesh does not resolve an orbit.

    Near a fold another multiplier at a distance δ from 1 makes its error 1/δ times as large.
    """
    distance = np.abs(multipliers.values - 1).min(initial=1.0)
    return bool(multipliers.defect * distance > INACCURATE)


def _warn(branch: "Branch", title: str) -> None:
    wrong = [index for index, multipliers in enumerate(branch.multipliers) if _inaccurate(multipliers)]
    if wrong:
        where = ", ".join(f"{name}={branch[name][wrong[0]]:.6g}" for name in branch.free)
        warnings.warn(
            f"{title}: the trivial multiplier is off by up to {branch.defects[wrong].max():.1e} at {len(wrong)} of "
            f"{len(branch)} points, first at {where}: multipliers and what was detected there may be wrong; begin "
            f"on a finer mesh than {branch.states[0].solution.mesh}, with orbit.on(Mesh.uniform(intervals, degree))",
            UserWarning,
            stacklevel=4,
        )


def _advance(branch: "Branch", max_steps: int, progress: Progress) -> None:
    problem = problem_of(branch.kind, branch.system)
    branch.stop_reason = _resonant(branch) or steps_done(max_steps)
    steps = _trace_from(branch, problem, branch.states[-1])
    with progress as bar:
        for _ in range(max_steps):
            if _resonant(branch):
                return
            try:
                (state, collocated), last = next(steps, NO_MORE), branch.states[-1]
                ended = _degenerate(branch, state)
                while ended and last.ds > branch.stepping.ds:
                    # something may happen just before the end: come closer to it
                    last = replace(last, ds=last.ds / 4)
                    steps = _trace_from(branch, problem, last)
                    state, collocated = next(steps, NO_MORE)
                    ended = _degenerate(branch, state)
                if state is None:
                    branch.stop_reason = at_bound(*(outside(branch.states[-1].solution, branch.bounds) or ("", 0.0)))
                    return
                if ended:
                    branch.stop_reason = ended
                    return
                _append(branch, state, _multipliers(branch, state, collocated))
            except ContinuationError as error:
                branch.stop_reason = str(error)
                return
            branch.stop_reason = _resonant(branch) or branch.stop_reason
            bar.advance(**{name: state.solution.parameters[name] for name in branch.free})


def _trace_from(branch: "Branch", problem: Problem, state: State) -> Iterator[tuple[State, CollocatedEquation]]:
    return trace(problem, state, branch.free, branch.bounds, branch.stepping)


def _append(branch: "Branch", state: State, multipliers: Multipliers) -> None:
    index, before, earlier = len(branch.states), branch.states[-1], branch.multipliers[-1]
    if branch.kind == "orbit":
        turned = bool(before.tangent[-1] * state.tangent[-1] < 0)
        kinds = crossed(earlier, multipliers, turned)
    else:
        kinds = codimension_two.crossed(
            branch.kind, branch.system, (before, state), (earlier, multipliers), branch.detect
        )
    branch.states.append(state)
    branch.multipliers.append(multipliers)
    values = {name: state.solution.parameters[name] for name in branch.free}
    branch.special += [Special(kind, index, values) for kind in kinds if kind in branch.detect]


def _multipliers(branch: "Branch", state: State, collocated: CollocatedEquation | None = None) -> Multipliers:
    d = branch.system.dim
    orbit = orbit_part(state.solution, d)
    if collocated is None:
        return floquet_multipliers(branch.system, orbit, COUNT)
    # the first d equations of every system here are those of the orbit, of which they see nothing else
    blocks = [(stencil, by_value[:d, :d], by_slope[:d, :d]) for stencil, by_value, by_slope in collocated.blocks]
    return multipliers_of(orbit, blocks, COUNT)


def _resonant(branch: "Branch") -> str | None:
    """Why a curve of torus bifurcations ended with its last point: ω came close to 0 or 1, or passed it.

    Beyond is the same curve with the conjugate mode. At ω = 0 every orbit with the mode x' solves the defining system,
    and coarse meshes lead to these.
    """
    if branch.kind != "NS" or len(branch) < 2:
        return None
    before, last = (state.solution.extras[0] for state in branch.states[-2:])
    ends = [end for end in (0, 1) if abs(last - end) < CLOSE or (before - end) * (last - end) < 0]
    return RESONANT.format(ends[0]) if ends else None


def _degenerate(branch: "Branch", state: State | None) -> str | None:
    """Why the branch ended between its last point and `state`: a part that breaks a symmetry went through zero."""
    if branch.kind != "orbit" or state is None:
        return None
    solutions = branch.states[-1].solution, state.solution
    last, now = (_equidistant(solution.mesh).apply(solution.values) for solution in solutions)
    parts: list[tuple[Callable[[np.ndarray], np.ndarray], str]] = [
        (lambda x: x - x.mean(axis=0), VANISHED),
        (lambda x: x - np.roll(x, TIMES // 2, axis=0), JOINED),
    ]
    for part, reason in parts:
        first, second = part(last), part(now)
        if np.abs(second).max() < 1e-4 * np.abs(first).max() or (first * second).sum() < 0:
            return reason
    return None


@lru_cache(maxsize=2)
def _equidistant(mesh: Mesh) -> Stencil:
    return mesh.stencil(np.arange(TIMES) / TIMES)
