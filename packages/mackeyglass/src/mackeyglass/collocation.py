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
    """What the equation of a problem sees: functions of D components at K × Q (copies × times), and scalars (K, 1)."""

    value: Float[Tensor, "D K Q"]
    slope: Float[Tensor, "D K Q"]  # derivative by scaled time
    delayed: Sequence[Float[Tensor, "D K Q"]]  # one entry a delay
    delayed_slope: Sequence[Float[Tensor, "D K Q"]]
    period: Float[Tensor, "K 1"]
    extras: Sequence[Float[Tensor, "K 1"]]
    parameters: Mapping[str, Float[Tensor, "K 1"]]
    delays: Sequence[Tensor]  # (K, 1), or () for a fixed one


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
    def equation(self, at: Local) -> Float[Tensor, "D K Q"]:
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
    def of(cls, problem: Problem, solution: Solution, free: Sequence[str] = ()) -> "CollocatedEquation":
        """At a solution, by automatic differentiation."""
        mesh, values, period, system = solution.mesh, solution.values, solution.period, problem.system
        lags = [float(lag) for lag in system.delays_at(solution.parameters)]
        here = mesh.at_gauss
        there = [mesh.stencil(mesh.gauss_points - lag / period) for lag in lags]
        flips = [problem.signs ** (stencil.wraps[:, None] % 2) for stencil in there]  # (Q, D)
        delayed = [
            [flip * stencil.apply(values, order) for order in range(3)]
            for stencil, flip in zip(there, flips, strict=True)
        ]
        functions = [here.apply(values), here.apply(values, 1)]
        functions += [part for parts in delayed for part in parts[:2]]
        point = torch.from_numpy(np.stack(functions).transpose(0, 2, 1).copy())  # (2 + 2k, D, Q)
        kinds, components, times = point.shape
        names = list(solution.parameters)
        first = 1 + len(solution.extras)
        scalars = torch.tensor([period, *solution.extras, *solution.parameters.values()], dtype=torch.float64)
        moving = [*range(first), *(first + names.index(name) for name in free)]

        count = kinds * components
        tangent = torch.zeros(count + len(moving), kinds, components, times, dtype=torch.float64)
        tangent[:count] = torch.eye(count, dtype=torch.float64).reshape(count, kinds, components, 1)
        scalar_tangent = torch.zeros(count + len(moving), len(scalars), dtype=torch.float64)
        scalar_tangent[range(count, count + len(moving)), moving] = 1
        # the period and the delays move the times at which delayed functions are evaluated: by (τ/T²) dT − dτ/T
        for index, (delay, lag) in enumerate(zip(system.delays, lags, strict=True)):
            moves = [(0, lag / period**2)]
            if delay in free:
                moves.append((first + free.index(delay), -1 / period))
            for position, move in moves:
                for order in (0, 1):
                    change = torch.from_numpy(delayed[index][order + 1].T.copy())
                    tangent[count + position, 2 + 2 * index + order] = move * change

        def equation(functions: Tensor, scalars: Tensor) -> Tensor:
            columns = [column[:, None] for column in scalars.unbind(1)]
            parameters = dict(zip(names, columns[first:], strict=True))
            parts = functions.permute(1, 2, 0, 3).unbind(0)
            delays = [torch.as_tensor(delay) for delay in system.delays_at(parameters)]
            at = Local(parts[0], parts[1], parts[2::2], parts[3::2], columns[0], columns[1:first], parameters, delays)
            return problem.equation(at)

        copies = (point.repeat(len(tangent), 1, 1, 1), scalars.repeat(len(tangent), 1))
        value, derivative = (part.numpy() for part in jvp(equation, copies, (tangent, scalar_tangent)))
        by_functions = derivative[:, :count].reshape(components, kinds, components, times)
        blocks = [(here, by_functions[:, 0], by_functions[:, 1])]
        for index, (stencil, flip) in enumerate(zip(there, flips, strict=True)):
            blocks.append((stencil, by_functions[:, 2 + 2 * index] * flip.T, by_functions[:, 3 + 2 * index] * flip.T))
        by_scalars = derivative[:, count:].transpose(2, 0, 1).reshape(times * components, len(moving))
        return cls(value[:, 0].T, blocks, by_scalars)

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
