"""Points of codimension two on curves of bifurcations: cusps, fold-flips, resonances, generalised period doublings."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float
from sciml.errors import ConfigError
from scipy import linalg, optimize

from mackeyglass.bifurcations import BifurcationPoint, mode_block, orbit_part, problem_of, singular_vectors
from mackeyglass.collocation import Solution, linearise
from mackeyglass.continuation import State, weights
from mackeyglass.defining_systems import FlipProblem, OrbitProblem
from mackeyglass.equation import DDE
from mackeyglass.errors import ContinuationError
from mackeyglass.flip import FlipNormalForm, normal_form_of
from mackeyglass.floquet import Multipliers, floquet_multipliers
from mackeyglass.newton import solve

if TYPE_CHECKING:
    from mackeyglass.branch import Branch
    from mackeyglass.growth import Special

# which curves have them
KINDS = {
    "cusp": ("LP",),
    "fold-flip": ("LP", "PD"),
    "R1": ("LP", "NS"),
    "R2": ("PD", "NS"),
    "R3": ("NS",),
    "R4": ("NS",),
    "GPD": ("PD",),
}
ANGLES = {"R1": 0.0, "R2": 1.0, "R3": 2 / 3, "R4": 0.5}
_FORMS: WeakKeyDictionary[Solution, FlipNormalForm] = WeakKeyDictionary()

Test = Callable[[State], float]


@dataclass(frozen=True, eq=False)
class CodimensionTwoPoint:
    """A point of codimension two, of the kind ``cusp``, ``fold-flip``, ``R1`` … ``R4`` or ``GPD``.

    `bifurcation` is the point of the curve on which it was found, with its orbit and null vector.
    """

    kind: str
    bifurcation: BifurcationPoint

    @property
    def parameters(self) -> Mapping[str, float]:
        """Values of all parameters."""
        return self.bifurcation.parameters

    @property
    def period(self) -> float:
        """Period of the orbit."""
        return self.bifurcation.period


def crossed(
    kind: str,
    system: DDE,
    states: tuple[State, State],
    multipliers: tuple[Multipliers, Multipliers],
    detect: Collection[str] = tuple(KINDS),
) -> list[str]:
    """Kinds, of those to detect, of the points between two successive points of a curve."""
    return [name for name in _crossed(kind, system, states, multipliers, "GPD" in detect) if name in detect]


def _crossed(
    kind: str, system: DDE, states: tuple[State, State], multipliers: tuple[Multipliers, Multipliers], forms: bool
) -> list[str]:
    before, after = states
    if kind == "NS":
        angles = [state.solution.extras[0] for state in states]
        return [name for name, angle in ANGLES.items() if (angles[0] - angle) * (angles[1] - angle) < 0]
    if kind == "LP":
        kinds = ["cusp"] if before.tangent[-2:] @ after.tangent[-2:] < 0 else []
        parts = [without_closest(m, 1.0) for m in multipliers]
        kinds += ["fold-flip"] if _beyond(parts[0], -1) != _beyond(parts[1], -1) else []
        return kinds + (["R1"] if _beyond(parts[0], 1) != _beyond(parts[1], 1) else [])
    flip = _beyond(multipliers[0].values, 1) != _beyond(multipliers[1].values, 1)
    parts = [without_closest(m, -1.0) for m in multipliers]
    resonance = _beyond(parts[0], -1) != _beyond(parts[1], -1)
    kinds = {"fold-flip": flip, "R2": resonance}
    if forms:
        # left null vectors have a sign of their own, of which the coefficient does not depend;
        # it has a zero at a GPD, and poles at an R2 and at a fold-flip
        first, last = (_form(system, state.solution).coefficient for state in states)
        kinds["GPD"] = (first * last < 0) != (resonance != flip)
    return [name for name, passed in kinds.items() if passed]


def _form(system: DDE, solution: Solution) -> FlipNormalForm:
    """Computed once: along a curve each point is the end of one step and the start of the next."""
    if solution not in _FORMS:
        _FORMS[solution] = normal_form_of(system, solution)
    return _FORMS[solution]


def locate_codimension_two(branch: "Branch", special: "Special") -> CodimensionTwoPoint:
    """The point that was detected on a curve: a zero, along the curve, of a function that changes sign there.

    Raises
    ------
    ContinuationError
        If no zero was found between the two points of the curve.
    """
    if branch.kind == "orbit":
        raise ConfigError("bifurcations of a branch of orbits are located by mackeyglass.locate")
    test = _test(special.kind, branch.kind, branch.system, branch.states[special.index - 1])
    solution = zero_along(branch, special.index, test, f"the test function of a {special.kind}")
    system = branch.system.with_parameters(**solution.parameters)
    return CodimensionTwoPoint(special.kind, BifurcationPoint(branch.kind, system, solution, branch.free[0]))


def zero_along(branch: "Branch", index: int, test: Test, name: str) -> Solution:
    """Where a function changes sign between the points `index` − 1 and `index` of a branch or curve.

    Raises
    ------
    ContinuationError
        If it does not; `name` is how the function is called then.
    """
    before, after = branch.states[index - 1], branch.states[index]
    problem, free = problem_of(branch.kind, branch.system), branch.free
    row = weights(problem, before.solution, free, branch.stepping.scale) * before.tangent
    start = before.solution.vector(free)
    target = after.solution.remeshed(before.solution.mesh).vector(free)
    length = float(row @ (target - start))
    found: dict[float, State] = {}

    def value(share: float) -> float:
        guess = before.solution.updated((1 - share) * start + share * target, free)
        level = float(row @ start + share * length)
        reached = solve(problem, guess, free, reference=before.solution, row=row, level=level)
        found[share] = State(reached.solution, reached.tangent, before.ds)
        return test(found[share])

    try:
        result = optimize.root_scalar(value, bracket=(0.0, 1.0), method="brentq", xtol=1e-13)
    except ValueError as error:
        raise ContinuationError(
            f"{name} does not change sign between the points {index - 1} and {index}: "
            "follow the curve with a smaller ds_max"
        ) from error
    value(result.root)
    return found[result.root].solution


def _test(kind: str, curve: str, system: DDE, before: State) -> Test:
    """A smooth function along a curve of which the point is a zero (for R1 on folds only a sign)."""
    if kind == "cusp":
        direction = before.tangent[-2:].copy()
        return lambda state: float(direction @ state.tangent[-2:])
    if curve == "NS":
        return lambda state: state.solution.extras[0] - ANGLES[kind]
    if kind == "fold-flip":
        matrix = antiperiodic_linearisation if curve == "LP" else periodic_linearisation
        left, right = singular_vectors(matrix(system, before.solution))
        return lambda state: bordered(matrix(system, state.solution), left, right)
    if kind == "R1":
        return lambda state: (
            1.0
            - 2.0
            * _beyond(without_closest(floquet_multipliers(system, orbit_part(state.solution, system.dim)), 1.0), 1)
        )
    reference = antiperiodic_linearisation(system, before.solution)
    direction, _ = singular_vectors(reference)

    def form(state: State) -> float:
        found = normal_form_of(system, state.solution, direction)
        return found.speed if kind == "R2" else found.cubic

    return form


def bordered(matrix: Float[np.ndarray, "n n"], left: Float[np.ndarray, "n"], right: Float[np.ndarray, "n"]) -> float:
    """g of [[M, l], [rᵀ, 0]] (v, g) = (0, 1): smooth, and zero just where M is singular."""
    n = len(matrix)
    extended = np.zeros((n + 1, n + 1))
    extended[:n, :n], extended[:n, n], extended[n, :n] = matrix, left, right
    return float(linalg.solve(extended, np.append(np.zeros(n), 1.0), check_finite=False)[n])


def without_closest(multipliers: Multipliers, target: float) -> np.ndarray:
    """Multipliers without the critical one."""
    values = multipliers.values
    return np.delete(values, np.argmin(np.abs(values - target)))


def antiperiodic_linearisation(system: DDE, solution: Solution) -> np.ndarray:
    """Linearisation on functions that change sign after a period."""
    orbit = orbit_part(solution, system.dim).values
    probe = Solution(solution.mesh, np.concatenate([orbit, orbit], axis=1), solution.period, (), solution.parameters)
    _, jacobian = linearise(FlipProblem(system), probe, (), probe)
    return mode_block(jacobian.toarray(), system.dim, 1, len(solution.mesh.points))


def periodic_linearisation(system: DDE, solution: Solution) -> np.ndarray:
    """Linearisation by profile and period."""
    orbit = orbit_part(solution, system.dim)
    return linearise(OrbitProblem(system), orbit, (), orbit)[1].toarray()


def _beyond(values: np.ndarray, bound: int) -> int:
    """Parity of the number of real multipliers beyond −1 or 1."""
    real = np.abs(np.imag(values)) < 1e-9
    return int((np.real(values[real]) * bound > 1).sum() % 2)
