"""The boundary-value problems of periodic orbits and of their bifurcations (arXiv 2203.00181, §2).

With time scaled by the period T an orbit solves x'/T = F(x(t), x(t − τ/T)). Its linearisation by (x, T) is

    L(v, b) = v'/T − F₀v − ΣⱼFⱼv(t − τⱼ/T) + b ∂_T(…),    ∂_T(…) = −x'/T² − ΣⱼFⱼ x'(t − τⱼ/T) τⱼ/T².
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mackeyglass.collocation import Condition, Local, Problem, Solution


class OrbitProblem(Problem):
    """A periodic orbit: x and T, with the phase fixed by ∫x_ref'ᵀ(x − x_ref)dt = 0."""

    @property
    def signs(self) -> Float[np.ndarray, "D"]:
        return np.ones(self.system.dim)

    def equation(self, at: Local) -> Float[Tensor, "D Q"]:
        return at.slope / at.period - self.system.field(at.value, at.delayed, at.parameters)

    def conditions(self, solution: Solution, reference: Solution) -> list[Condition]:
        return [_phase(solution, reference, self.system.dim)]


class FoldProblem(Problem):
    """A fold of periodic orbits: an orbit and a vector (v, b) of its linearisation by profile and period, b the extra.

    The change of the period along the null vector is part of it. Scaling: ∫vᵀv dt + b² = 1.
    """

    @property
    def signs(self) -> Float[np.ndarray, "D"]:
        return np.ones(2 * self.system.dim)

    def equation(self, at: Local) -> Float[Tensor, "D Q"]:
        d, period, (stretch,) = self.system.dim, at.period, at.extras
        orbit = at.slope[:d] / period - self.system.field(at.value[:d], [x[:d] for x in at.delayed], at.parameters)
        moved = [
            x[d:] + stretch * x_slope[:d] * delay / period**2
            for x, x_slope, delay in zip(at.delayed, at.delayed_slope, at.delays, strict=True)
        ]
        change = self.system.differential(at.value[:d], [x[:d] for x in at.delayed], at.parameters, at.value[d:], moved)
        return torch.cat([orbit, at.slope[d:] / period - stretch * at.slope[:d] / period**2 - change])

    def conditions(self, solution: Solution, reference: Solution) -> list[Condition]:
        d, (stretch,) = self.system.dim, solution.extras
        norm = _norm(solution, slice(d, 2 * d))
        return [
            _phase(solution, reference, d),
            _orthogonal(solution, reference, d),
            Condition(norm.value + stretch**2, norm.by_values, (0.0, 2 * stretch)),
        ]


class FlipProblem(Problem):
    """A period doubling: an orbit and a vector v of its linearisation with v(t + 1) = −v(t), ∫vᵀv dt = 1."""

    @property
    def signs(self) -> Float[np.ndarray, "D"]:
        return np.repeat([1.0, -1.0], self.system.dim)

    def equation(self, at: Local) -> Float[Tensor, "D Q"]:
        d, delayed = self.system.dim, [x[: self.system.dim] for x in at.delayed]
        orbit = at.slope[:d] / at.period - self.system.field(at.value[:d], delayed, at.parameters)
        change = self.system.differential(
            at.value[:d], delayed, at.parameters, at.value[d:], [x[d:] for x in at.delayed]
        )
        return torch.cat([orbit, at.slope[d:] / at.period - change])

    def conditions(self, solution: Solution, reference: Solution) -> list[Condition]:
        d = self.system.dim
        return [_phase(solution, reference, d), _norm(solution, slice(d, 2 * d))]


class TorusProblem(Problem):
    """A torus (Neimark–Sacker) bifurcation: multipliers e^{±iπω}, with ω the extra.

    The mode (u + iv)e^{iπωt} has periodic u, v; ∫uᵀu + vᵀv dt = 1, and ∫u_refᵀv − v_refᵀu dt = 0 fixes its phase. At a
    period doubling ω = 1.
    """

    @property
    def signs(self) -> Float[np.ndarray, "D"]:
        return np.ones(3 * self.system.dim)

    def equation(self, at: Local) -> Float[Tensor, "D Q"]:
        d, period, (angle,) = self.system.dim, at.period, at.extras
        delayed = [x[:d] for x in at.delayed]
        orbit = at.slope[:d] / period - self.system.field(at.value[:d], delayed, at.parameters)
        u, v = at.value[d : 2 * d], at.value[2 * d :]
        turned_u, turned_v = [], []
        for x, delay in zip(at.delayed, at.delays, strict=True):
            phase = torch.pi * angle * delay / period
            cos, sin = torch.cos(phase), torch.sin(phase)
            turned_u.append(cos * x[d : 2 * d] + sin * x[2 * d :])
            turned_v.append(cos * x[2 * d :] - sin * x[d : 2 * d])
        rotation = torch.pi * angle / period
        change_u = self.system.differential(at.value[:d], delayed, at.parameters, u, turned_u)
        change_v = self.system.differential(at.value[:d], delayed, at.parameters, v, turned_v)
        return torch.cat(
            [
                orbit,
                at.slope[d : 2 * d] / period - rotation * v - change_u,
                at.slope[2 * d :] / period + rotation * u - change_v,
            ]
        )

    def conditions(self, solution: Solution, reference: Solution) -> list[Condition]:
        d = self.system.dim
        mode = reference.mesh.at_gauss.apply(reference.values[:, d:])
        rows = np.zeros_like(solution.values)
        rows[:, d:] = solution.mesh.integral_rows(np.concatenate([-mode[:, d:], mode[:, :d]], axis=1))
        turn = Condition(float((rows * solution.values).sum()), rows, ())
        return [_phase(solution, reference, d), _norm(solution, slice(d, 3 * d)), turn]


@lru_cache(maxsize=2)  # of the reference of one solution with Newton's method, which asks many times
def _slope_rows(solution: Solution) -> Float[np.ndarray, "points D"]:
    """Rows of the integrals over one period of products with the derivatives by scaled time."""
    return solution.mesh.integral_rows(solution.mesh.at_gauss.apply(solution.values, 1))


def _phase(solution: Solution, reference: Solution, d: int) -> Condition:
    rows = np.zeros_like(solution.values)
    rows[:, :d] = _slope_rows(reference)[:, :d]
    return Condition(float((rows * (solution.values - reference.values)).sum()), rows, ())


def _orthogonal(solution: Solution, reference: Solution, d: int) -> Condition:
    rows = np.zeros_like(solution.values)
    rows[:, d:] = _slope_rows(reference)[:, :d]
    return Condition(float((rows * solution.values).sum()), rows, ())


def _norm(solution: Solution, components: slice) -> Condition:
    rows = np.zeros_like(solution.values)
    rows[:, components] = 2 * solution.mesh.integral_rows(solution.mesh.at_gauss.apply(solution.values[:, components]))
    return Condition(float((rows * solution.values).sum() / 2 - 1), rows, ())
