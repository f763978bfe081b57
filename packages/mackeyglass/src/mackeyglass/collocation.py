"""Collocation of periodic boundary-value problems of delay equations.

Periodic orbits and the systems that define their bifurcations are collocated by the same code. A problem states an
equation at one time, of functions with D components, of their derivatives, of both at the delayed times, and of
scalars. Automatic differentiation of that equation gives the exact Jacobian of the discretised problem.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from mackeyglass.equation import DDE
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
    """What the equation of a problem sees: functions of D components at Q times, and scalars, one copy a time."""

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


def linearise(
    problem: Problem, solution: Solution, free: Sequence[str], reference: Solution
) -> tuple[Float[np.ndarray, "equations"], sparse.csc_array]:
    """Equations, boundary and scalar conditions at a solution, and their Jacobian by ``solution.vector(free)``."""
    collocated = CollocatedEquation.of(problem, solution, free)
    values, signs = solution.values, problem.signs
    size, components = values.size, values.shape[1]
    inner, ends = collocated.equations.size, np.arange(components)
    conditions = problem.conditions(solution, reference)
    value = np.concatenate(
        [collocated.equations.ravel(), values[-1] - signs * values[0], [condition.value for condition in conditions]]
    )
    rows, columns, data = collocated.entries()
    rows += [inner + ends] * 2
    columns += [size - components + ends, ends]
    data += [np.ones(components), -signs]
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
    @torch.enable_grad()
    def of(cls, problem: Problem, solution: Solution, free: Sequence[str] = ()) -> "CollocatedEquation":
        """At a solution, by automatic differentiation."""
        mesh, values, period, system = solution.mesh, solution.values, solution.period, problem.system
        lags = [float(lag) for lag in system.delays_at(solution.parameters)]
        here = mesh.at_gauss
        there = [mesh.stencil(mesh.gauss_points - lag / period) for lag in lags]
        flips = [problem.signs ** (stencil.wraps[:, None] % 2) for stencil in there]  # (Q, D)
        delayed = [flip * stencil.derivatives(values) for stencil, flip in zip(there, flips, strict=True)]
        profiles = [here.derivatives(values), *delayed]  # each (3, Q, D), of which derivatives 0 and 1 enter
        functions = [torch.from_numpy(profile.T.copy()) for pair in profiles for profile in pair[:2]]
        # each time has its own copy of the scalars: nothing at one time depends on what is at another
        numbers = torch.tensor([period, *solution.extras, *solution.parameters.values()], dtype=torch.float64)
        scalars = numbers.expand(len(here.columns), -1).unbind(1)
        names, first = list(solution.parameters), 1 + len(solution.extras)
        moving = [*scalars[:first], *(scalars[first + names.index(name)] for name in free)]

        def equation() -> Tensor:
            parameters = dict(zip(names, scalars[first:], strict=True))
            delays = [torch.as_tensor(delay) for delay in system.delays_at(parameters)]
            state, slope, *past = functions
            at = Local(state, slope, past[::2], past[1::2], scalars[0], scalars[1:first], parameters, delays)
            return problem.equation(at)

        value, gradients = _with_gradients(equation, [*functions, *moving])
        by_functions = np.stack(gradients[: len(functions)])  # (2 + 2k, D, D, Q)
        by_scalars = np.stack(gradients[len(functions) :])  # (scalars, D, Q)
        # the period and the delays move the times at which delayed functions are evaluated: by (τ/T²) dT − dτ/T
        for index, (delay, lag) in enumerate(zip(system.delays, lags, strict=True)):
            parts = by_functions[2 + 2 * index : 4 + 2 * index]
            change = np.einsum("oijq,oqj->iq", parts, delayed[index][1:])
            by_scalars[0] += change * lag / period**2
            if delay in free:
                by_scalars[first + free.index(delay)] -= change / period
        blocks = [(here, *by_functions[:2])]
        for index, (stencil, flip) in enumerate(zip(there, flips, strict=True)):
            by_value, by_slope = by_functions[2 + 2 * index : 4 + 2 * index] * flip.T
            blocks.append((stencil, by_value, by_slope))
        return cls(value.T, blocks, by_scalars.T.reshape(value.size, len(moving)))

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


def _with_gradients(
    equation: Callable[[], Float[Tensor, "D Q"]], inputs: Sequence[Float[Tensor, "... Q"]]
) -> tuple[Float[np.ndarray, "D Q"], list[np.ndarray]]:
    """What an equation gives at each of Q times, and its derivatives (D, …, Q) by what it reads at the same time."""
    for part in inputs:
        part.requires_grad_()
    value = equation()
    # the gradient of a sum over times holds the derivatives at every one of them
    gradients = [
        torch.autograd.grad(part.sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
        for part in value
    ]
    return value.detach().numpy(), [torch.stack(parts).numpy() for parts in zip(*gradients, strict=True)]
