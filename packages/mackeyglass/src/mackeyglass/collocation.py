"""Collocation of periodic boundary-value problems of delay equations.

Periodic orbits and the systems that define their bifurcations are collocated by the same code. A problem states an
equation at one time, of functions with D components, of their derivatives, of both at the delayed times, and of
scalars. Automatic differentiation of that equation gives the exact Jacobian of the discretised problem.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from mackeyglass.equation import DDE
from mackeyglass.forward import jvp
from mackeyglass.mesh import Mesh, Stencil

Block = tuple[Stencil, np.ndarray, np.ndarray]  # as `CollocatedEquation` has them


@dataclass(frozen=True, eq=False)
class Solution:
    """Functions on a mesh, with scalars: an approximate or exact solution of a `Problem`.

    `values` holds the D components at the points of the mesh, time being scaled by `period`; `extras` are the scalars
    that the problem adds, `parameters` those of the delay equation.
    """

    mesh: Mesh
    values: Float[np.ndarray, "points D"]
    period: float
    extras: tuple[float, ...] = ()
    parameters: Mapping[str, float] = field(default_factory=dict)

    def vector(self, free: Sequence[str]) -> Float[np.ndarray, "unknowns"]:
        """All unknowns: values, period, extras, and the parameters named `free`."""
        scalars = [self.period, *self.extras, *(self.parameters[name] for name in free)]
        return np.concatenate([self.values.ravel(), scalars])

    def updated(self, vector: Float[np.ndarray, "unknowns"], free: Sequence[str]) -> "Solution":
        """The solution whose `vector(free)` is given."""
        size = self.values.size
        scalars = [float(value) for value in vector[size:]]
        count = 1 + len(self.extras)
        return replace(
            self,
            values=vector[:size].reshape(self.values.shape),
            period=scalars[0],
            extras=tuple(scalars[1:count]),
            parameters={**self.parameters, **dict(zip(free, scalars[count:], strict=True))},
        )

    def remeshed(self, mesh: Mesh) -> "Solution":
        """The same functions, interpolated to another mesh."""
        values = self.mesh.interpolate(self.values, mesh.points)
        values[-1] = self.values[-1]
        return replace(self, mesh=mesh, values=values)


@dataclass(frozen=True)
class Local:
    """What the equation of a problem sees: functions of D components at Q times, and a copy of scalars for each."""

    value: Float[Tensor, "D Q"]
    slope: Float[Tensor, "D Q"]  # derivative by scaled time
    delayed: Sequence[Float[Tensor, "D Q"]]  # one entry a delay
    delayed_slope: Sequence[Float[Tensor, "D Q"]]
    period: Float[Tensor, "Q"]
    extras: Sequence[Float[Tensor, "Q"]]
    parameters: Mapping[str, Float[Tensor, "Q"]]
    delays: Sequence[Tensor]  # (Q,), or () for a fixed one


@dataclass(frozen=True, eq=False)
class Condition:
    """A scalar equation: its value, and its derivative by the stored values, the period and the extras."""

    value: float
    by_values: Float[np.ndarray, "points D"]
    by_scalars: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Problem(ABC):
    """A periodic boundary-value problem for functions of D components.

    Of `system` only the form is used: values of its parameters are those of a solution.
    """

    system: DDE

    @property
    @abstractmethod
    def signs(self) -> Float[np.ndarray, "D"]:
        """By what each component is multiplied after one period: 1 or −1."""

    @abstractmethod
    def equation(self, at: Local) -> Float[Tensor, "D Q"]:
        """What has to vanish at every time; time is scaled by the period."""

    @abstractmethod
    def conditions(self, solution: Solution, reference: Solution) -> list[Condition]:
        """Scalar equations, one for each number that the problem determines; `reference` fixes phases."""


def residual(problem: Problem, solution: Solution, reference: Solution) -> Float[np.ndarray, "equations"]:
    """Equations, boundary and scalar conditions at a solution."""
    inputs = _Inputs.of(problem, solution)
    with torch.no_grad():
        equations = _equation(problem, solution, *inputs.split(inputs.values)).numpy().T
    return _all_equations(problem, solution, equations, problem.conditions(solution, reference))


def linearise(
    problem: Problem,
    solution: Solution,
    free: Sequence[str],
    reference: Solution,
    row: Float[np.ndarray, "unknowns"] | None = None,
    collocated: "CollocatedEquation | None" = None,
) -> tuple[Float[np.ndarray, "equations"], sparse.csc_array]:
    """`residual`, and its Jacobian by ``solution.vector(free)``, below which comes `row` where one is given.

    `collocated` is the collocated equation with derivatives by `free` at this solution, where it is known.
    """
    collocated = collocated or CollocatedEquation.of(problem, solution, free)
    size, components = solution.values.size, solution.values.shape[1]
    inner, ends = collocated.equations.size, np.arange(components)
    conditions = problem.conditions(solution, reference)
    value = _all_equations(problem, solution, collocated.equations, conditions)
    scalars = collocated.by_scalars.shape[1]
    full = np.zeros((len(conditions) + (row is not None), size + scalars))  # rows that meet all unknowns
    for moved, condition in zip(full, conditions, strict=False):
        moved[:size] = condition.by_values.ravel()
        moved[size : size + len(condition.by_scalars)] = condition.by_scalars
    if row is not None:
        full[-1] = row
    rows, columns, data = collocated.entries()
    rows += [inner + ends] * 2
    columns += [size - components + ends, ends]
    data += [np.ones(components), -problem.signs]
    first = inner + components
    for part, down, right in ((collocated.by_scalars, 0, size), (full, first, 0)):
        row_of, column_of = np.nonzero(part)
        rows.append(down + row_of)
        columns.append(right + column_of)
        data.append(part[row_of, column_of])
    entries = np.concatenate(data), (np.concatenate(rows), np.concatenate(columns))
    return value, sparse.csc_array(entries, shape=(first + len(full), size + scalars))


def derivative_along(
    problem: Problem,
    collocated: "CollocatedEquation",
    conditions: Sequence[Condition],
    direction: Float[np.ndarray, "unknowns"],
) -> Float[np.ndarray, "equations"]:
    """What the Jacobian makes of a direction, without the matrix."""
    scalars = direction[-collocated.by_scalars.shape[1] :]
    values = direction[: -len(scalars)].reshape(-1, len(problem.signs))
    equations = collocated.by_scalars @ scalars
    for stencil, by_value, by_slope in collocated.blocks:
        value, slope, _ = stencil.derivatives(values)
        equations += (np.einsum("ijt,tj->ti", by_value, value) + np.einsum("ijt,tj->ti", by_slope, slope)).ravel()
    scalar_equations = [
        (condition.by_values * values).sum() + np.dot(condition.by_scalars, scalars[: len(condition.by_scalars)])
        for condition in conditions
    ]
    return np.concatenate([equations, values[-1] - problem.signs * values[0], scalar_equations])


def _all_equations(
    problem: Problem, solution: Solution, equations: Float[np.ndarray, "Q D"], conditions: list[Condition]
) -> Float[np.ndarray, "equations"]:
    ends = solution.values[-1] - problem.signs * solution.values[0]
    return np.concatenate([equations.ravel(), ends, [condition.value for condition in conditions]])


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What the collocated equation reads: at the times themselves, then at each delayed time, and scalars.

    `stencils` evaluate stored values there, `flips` (Q, D) are signs from wrapping, `profiles` the functions and two
    derivatives. Rows of `values` are the first two of them, then the period, extras and parameters: each time has its
    own copy of these, so that nothing at one time depends on what is at another.
    """

    stencils: Sequence[Stencil]
    flips: Sequence[Float[np.ndarray, "Q D"]]
    profiles: Sequence[Float[np.ndarray, "3 Q D"]]
    values: Float[Tensor, "rows Q"]

    @classmethod
    def of(cls, problem: Problem, solution: Solution) -> "_Inputs":
        """At a solution."""
        mesh, period = solution.mesh, solution.period
        lags = problem.system.delays_at(solution.parameters)
        stencils = [mesh.at_gauss, *(mesh.stencil(mesh.gauss_points - float(lag) / period) for lag in lags)]
        flips = [stencil.flips(problem.signs) for stencil in stencils]
        profiles = [flip * stencil.derivatives(solution.values) for stencil, flip in zip(stencils, flips, strict=True)]
        scalars = np.array([[period, *solution.extras, *map(float, solution.parameters.values())]])
        functions = [part for profile in profiles for part in profile[:2]]
        rows = np.concatenate([*functions, scalars.repeat(len(mesh.gauss_points), 0)], axis=1).T
        return cls(stencils, flips, profiles, torch.from_numpy(np.ascontiguousarray(rows)))

    @property
    def first_scalar(self) -> int:
        """The row of the period."""
        return 2 * sum(flip.shape[1] for flip in self.flips)

    def split(self, values: Float[Tensor, "rows Q"]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Functions (D, Q) and scalars (Q) of rows like `values`."""
        functions = values[: self.first_scalar].view(2 * len(self.flips), -1, values.shape[1])
        return functions.unbind(), values[self.first_scalar :].unbind()


def _equation(
    problem: Problem, solution: Solution, functions: Sequence[Float[Tensor, "D Q"]], scalars: Sequence[Tensor]
) -> Float[Tensor, "D Q"]:
    """What has to vanish, of the functions and scalars of `_Inputs`."""
    first = 1 + len(solution.extras)
    parameters = dict(zip(solution.parameters, scalars[first:], strict=True))
    delays = [torch.as_tensor(delay, dtype=torch.float64) for delay in problem.system.delays_at(parameters)]
    state, slope, *past = functions
    period, *extras = scalars[:first]
    return problem.equation(Local(state, slope, past[::2], past[1::2], period, extras, parameters, delays))


@dataclass(frozen=True, eq=False)
class CollocatedEquation:
    """The collocated equation (Q, D) of a problem with its derivatives, before they meet the stored values.

    `blocks` are pairs of the stencil at the times themselves, then at each delayed time, with the derivatives of the
    equation by value and by slope of the functions there, each (D, D, Q), signs from wrapping included. `by_scalars`
    (Q·D, scalars) belongs to the period, the extras and the free parameters.
    """

    equations: Float[np.ndarray, "Q D"]
    blocks: Sequence[Block]
    by_scalars: Float[np.ndarray, "equations scalars"]

    @classmethod
    @torch.inference_mode(False)
    def of(cls, problem: Problem, solution: Solution, free: Sequence[str] = ()) -> "CollocatedEquation":
        """At a solution, by automatic differentiation."""
        inputs, system = _Inputs.of(problem, solution), problem.system
        first, names = inputs.first_scalar, list(solution.parameters)
        extras = 1 + len(solution.extras)
        moving = [*range(first + extras), *(first + extras + names.index(name) for name in free)]
        value, derivatives = (_backwards if system.backwards else _forwards)(problem, solution, inputs, moving)
        if np.isfinite(value).all() and not np.isfinite(derivatives).all():
            # backwards the branch that torch.where leaves out counts where it is infinite
            value, derivatives = _forwards(problem, solution, inputs, moving)
        by_functions, by_scalars = derivatives[:, :first], derivatives[:, first:].swapaxes(0, 1)
        pairs = by_functions.reshape(len(value), len(inputs.stencils), 2, -1, value.shape[1])
        pairs = pairs.transpose(1, 2, 0, 3, 4)  # by value and slope: (2, D, D, Q) for each stencil
        # the period and the delays move the times at which delayed functions are evaluated: by (τ/T²) dT − dτ/T
        lags = system.delays_at(solution.parameters)
        for delay, lag, pair, profile in zip(system.delays, lags, pairs[1:], inputs.profiles[1:], strict=True):
            change = np.einsum("oijq,oqj->iq", pair, profile[1:])
            by_scalars[0] += change * float(lag) / solution.period**2
            if delay in free:
                by_scalars[extras + free.index(delay)] -= change / solution.period
        blocks = [
            (stencil, *(pair * flip.T))
            for stencil, pair, flip in zip(inputs.stencils, pairs, inputs.flips, strict=True)
        ]
        return cls(value.T, blocks, by_scalars.T.reshape(-1, len(by_scalars)))

    def entries(self) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Rows, columns and values of the derivatives by the stored values."""
        rows, columns, data = [], [], []
        for stencil, by_value, by_slope in self.blocks:
            times, width = stencil.columns.shape
            for i, j in np.argwhere(by_value.any(axis=2) | by_slope.any(axis=2)):
                entries = by_value[i, j, :, None] * stencil.values[0] + by_slope[i, j, :, None] * stencil.values[1]
                rows.append(np.repeat(np.arange(times) * len(by_value) + i, width))
                columns.append((stencil.columns * len(by_value) + j).ravel())
                data.append(entries.ravel())
        return rows, columns, data


@torch.enable_grad()
def _backwards(
    problem: Problem, solution: Solution, inputs: _Inputs, moving: Sequence[int]
) -> tuple[Float[np.ndarray, "D Q"], Float[np.ndarray, "D moving Q"]]:
    """The equation and its derivatives by these rows of the inputs."""
    functions, scalars = inputs.split(inputs.values)
    first = inputs.first_scalar
    functions = [function.detach().requires_grad_() for function in functions]
    scalars = [scalar.detach().requires_grad_(first + k in moving) for k, scalar in enumerate(scalars)]
    value = _equation(problem, solution, functions, scalars)
    variables = [*functions, *(scalars[k - first] for k in moving[first:])]
    # what is at one time depends on nothing at another: gradients of a sum over times are derivatives at each
    gradients = [
        torch.autograd.grad(part.sum(), variables, retain_graph=True, allow_unused=True, materialize_grads=True)
        for part in value
    ]
    return value.detach().numpy(), torch.stack([torch.vstack(parts) for parts in gradients]).numpy()


def _forwards(
    problem: Problem, solution: Solution, inputs: _Inputs, moving: Sequence[int]
) -> tuple[Float[np.ndarray, "D Q"], Float[np.ndarray, "D moving Q"]]:
    """What `_backwards` gives, with a copy of all times for each derivative: slower, but without its exceptions."""
    rows, times = inputs.values.shape
    directions = torch.eye(rows, dtype=torch.float64)[:, moving].repeat_interleave(times, 1)

    def equation(values: Tensor) -> Tensor:
        return _equation(problem, solution, *inputs.split(values))

    value, found = jvp(equation, (inputs.values.repeat(1, len(moving)),), (directions,))
    return value.detach()[:, :times].numpy(), found.detach().unflatten(1, (len(moving), times)).numpy()
