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
        equations = _equation(problem, solution, inputs.functions, inputs.scalars).numpy().T
    return _all_equations(problem, solution, equations, problem.conditions(solution, reference))


def linearise(
    problem: Problem, solution: Solution, free: Sequence[str], reference: Solution
) -> tuple[Float[np.ndarray, "equations"], sparse.csc_array]:
    """`residual`, and its Jacobian by ``solution.vector(free)``."""
    collocated = CollocatedEquation.of(problem, solution, free)
    size, components = solution.values.size, solution.values.shape[1]
    inner, ends = collocated.equations.size, np.arange(components)
    conditions = problem.conditions(solution, reference)
    value = _all_equations(problem, solution, collocated.equations, conditions)
    rows, columns, data = collocated.entries()
    rows += [inner + ends] * 2
    columns += [size - components + ends, ends]
    data += [np.ones(components), -problem.signs]
    by_scalars = np.zeros((len(value), collocated.by_scalars.shape[1]))
    by_scalars[:inner] = collocated.by_scalars
    for row, condition in enumerate(conditions, inner + components):
        (moved,) = np.nonzero(condition.by_values.ravel())
        rows.append(np.full(len(moved), row))
        columns.append(moved)
        data.append(condition.by_values.ravel()[moved])
        by_scalars[row, : len(condition.by_scalars)] = condition.by_scalars
    row, column = np.nonzero(by_scalars)
    rows.append(row)
    columns.append(size + column)
    data.append(by_scalars[row, column])
    entries = np.concatenate(data), (np.concatenate(rows), np.concatenate(columns))
    return value, sparse.csc_array(entries, shape=(len(value), size + by_scalars.shape[1]))


def _all_equations(
    problem: Problem, solution: Solution, equations: Float[np.ndarray, "Q D"], conditions: list[Condition]
) -> Float[np.ndarray, "equations"]:
    ends = solution.values[-1] - problem.signs * solution.values[0]
    return np.concatenate([equations.ravel(), ends, [condition.value for condition in conditions]])


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What the collocated equation reads: at the times themselves, then at each delayed time, and scalars.

    `stencils` evaluate stored values there, `flips` (Q, D) are signs from wrapping, `profiles` the functions and two
    derivatives, `functions` the tensors of the first two of them, `scalars` the period, extras and parameters.
    """

    stencils: Sequence[Stencil]
    flips: Sequence[Float[np.ndarray, "Q D"]]
    profiles: Sequence[Float[np.ndarray, "3 Q D"]]
    functions: Sequence[Float[Tensor, "D Q"]]
    scalars: Sequence[Float[Tensor, "Q"]]

    @classmethod
    def of(cls, problem: Problem, solution: Solution) -> "_Inputs":
        """At a solution."""
        mesh, period = solution.mesh, solution.period
        lags = problem.system.delays_at(solution.parameters)
        stencils = [mesh.at_gauss, *(mesh.stencil(mesh.gauss_points - float(lag) / period) for lag in lags)]
        flips = [problem.signs ** (stencil.wraps[:, None] % 2) for stencil in stencils]
        profiles = [flip * stencil.derivatives(solution.values) for stencil, flip in zip(stencils, flips, strict=True)]
        functions = [torch.from_numpy(profile.T.copy()) for pair in profiles for profile in pair[:2]]
        # each time has its own copy of the scalars: nothing at one time depends on what is at another
        scalars = torch.tensor([period, *solution.extras, *solution.parameters.values()], dtype=torch.float64)
        return cls(stencils, flips, profiles, functions, scalars.expand(len(mesh.gauss_points), -1).unbind(1))


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
    blocks: Sequence[tuple[Stencil, np.ndarray, np.ndarray]]
    by_scalars: Float[np.ndarray, "equations scalars"]

    @classmethod
    @torch.inference_mode(False)
    def of(cls, problem: Problem, solution: Solution, free: Sequence[str] = ()) -> "CollocatedEquation":
        """At a solution, by automatic differentiation."""
        inputs, system = _Inputs.of(problem, solution), problem.system
        names, first = list(solution.parameters), 1 + len(solution.extras)
        moving = [*range(first), *(first + names.index(name) for name in free)]
        value, derivatives = (_backwards if system.backwards else _forwards)(problem, solution, inputs, moving)
        if np.isfinite(value).all() and not all(np.isfinite(part).all() for part in derivatives):
            # backwards the branch that torch.where leaves out counts where it is infinite
            value, derivatives = _forwards(problem, solution, inputs, moving)
        by_functions = np.stack(derivatives[: -len(moving)])  # (2 + 2k, D, D, Q)
        by_scalars = np.stack(derivatives[-len(moving) :])  # (scalars, D, Q)
        pairs = by_functions.reshape(len(inputs.stencils), 2, *by_functions.shape[1:])
        # the period and the delays move the times at which delayed functions are evaluated: by (τ/T²) dT − dτ/T
        lags = system.delays_at(solution.parameters)
        for delay, lag, pair, profile in zip(system.delays, lags, pairs[1:], inputs.profiles[1:], strict=True):
            change = np.einsum("oijq,oqj->iq", pair, profile[1:])
            by_scalars[0] += change * float(lag) / solution.period**2
            if delay in free:
                by_scalars[first + free.index(delay)] -= change / solution.period
        blocks = [
            (stencil, *(pair * flip.T))
            for stencil, pair, flip in zip(inputs.stencils, pairs, inputs.flips, strict=True)
        ]
        return cls(value.T, blocks, by_scalars.T.reshape(-1, len(moving)))

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
) -> tuple[Float[np.ndarray, "D Q"], list[np.ndarray]]:
    """The equation, and its derivatives by each function (D, D, Q) and by scalars of these indices (D, Q)."""
    functions = [function.clone().requires_grad_() for function in inputs.functions]
    scalars = [scalar.clone().requires_grad_(k in moving) for k, scalar in enumerate(inputs.scalars)]
    variables = [*functions, *(scalars[k] for k in moving)]
    value = _equation(problem, solution, functions, scalars)
    # what is at one time depends on nothing at another: gradients of a sum over times are derivatives at each
    gradients = [
        torch.autograd.grad(part.sum(), variables, retain_graph=True, allow_unused=True, materialize_grads=True)
        for part in value
    ]
    return value.detach().numpy(), [torch.stack(parts).numpy() for parts in zip(*gradients, strict=True)]


def _forwards(
    problem: Problem, solution: Solution, inputs: _Inputs, moving: Sequence[int]
) -> tuple[Float[np.ndarray, "D Q"], list[np.ndarray]]:
    """What `_backwards` gives, with a copy of all times for each derivative: slower, but without its exceptions."""
    functions, scalars = inputs.functions, [scalar[None] for scalar in inputs.scalars]
    rows = [*(len(function) for function in functions), *(int(k in moving) for k in range(len(scalars)))]
    ends, count = np.cumsum(rows), sum(rows)
    copies = tuple(part.repeat(1, count) for part in (*functions, *scalars))
    tangents = tuple(torch.zeros(len(part), count, functions[0].shape[1], dtype=part.dtype) for part in copies)
    for tangent, end, size in zip(tangents, ends, rows, strict=True):
        tangent[range(size), range(end - size, end)] = 1

    def equation(*parts: Tensor) -> Tensor:
        changed = [part[0] for part in parts[len(functions) :]]
        return _equation(problem, solution, parts[: len(functions)], changed)

    value, found = jvp(equation, copies, tuple(tangent.flatten(1) for tangent in tangents))
    found = found.detach().unflatten(1, (count, -1)).numpy()
    parts = np.split(found, ends[:-1], axis=1)
    by_scalars = [parts[len(functions) + k][:, 0] for k in moving]
    return value.detach()[:, : functions[0].shape[1]].numpy(), [*parts[: len(functions)], *by_scalars]
