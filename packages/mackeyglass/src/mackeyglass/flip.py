"""The normal form of period doublings: whether the orbits of twice the period are stable where they are born."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import linalg
from torch import Tensor

from mackeyglass.bifurcations import BifurcationPoint, mode_block, orbit_part, singular_vectors
from mackeyglass.collocation import CollocatedEquation, Solution, linearise
from mackeyglass.defining_systems import FlipProblem, OrbitProblem
from mackeyglass.equation import DDE
from mackeyglass.forward import jvp


@dataclass(frozen=True)
class FlipNormalForm:
    """Two numbers of a period doubling, found with the left null vector w of L.

    Where orbits x + εv + O(ε²) of twice the period exist, the multiplier −e^λ of the orbit that doubles has
    λ = ε² cubic/speed + O(ε⁴), and they have the multiplier e^{−4λ} to that order.

    Attributes
    ----------
    cubic
        w · (terms of third order in v). Zero at a generalised period doubling.
    speed
        w · ∂_λL v, zero where −1 is a double multiplier (a 1:2 resonance).
    """

    cubic: float
    speed: float

    @property
    def coefficient(self) -> float:
        """cubic/speed: positive for a supercritical doubling, negative for a subcritical one."""
        return self.cubic / self.speed

    @property
    def supercritical(self) -> bool:
        """Whether the orbits of twice the period exist where the one that doubles is unstable."""
        return self.coefficient > 0


def flip_normal_form(point: BifurcationPoint) -> FlipNormalForm:
    """By Lyapunov–Schmidt reduction of the collocated equations at a period doubling of ∫vᵀv dt = 1.

    With x + εv + ε²h and the period T + ε²T₂ the terms of order ε² are L(h, T₂) = ½D²F[v, v], and those of order ε³
    must be orthogonal to w.
    """
    return normal_form_of(point.system, point.solution)


def normal_form_of(
    system: DDE, solution: Solution, orientation: Float[np.ndarray, "equations"] | None = None
) -> FlipNormalForm:
    """`flip_normal_form` of a solution of `FlipProblem`; w has a positive product with `orientation`."""
    d, points = system.dim, len(solution.mesh.points)
    problem, orbit = FlipProblem(system), orbit_part(solution, system.dim)
    mode = solution.values[:, d:]
    _, jacobian = linearise(problem, solution, (), solution)
    dense = jacobian.toarray()
    left, _ = singular_vectors(mode_block(dense, d, 1, points))
    if orientation is not None and left @ orientation < 0:
        left = -left
    left = left[: len(solution.mesh.gauss_points) * d]

    second, third = _taylor(problem, solution)
    _, square = linearise(OrbitProblem(system), orbit, (), orbit)
    right = np.concatenate([second.ravel() / 2, np.zeros(d + 1)])
    response = linalg.solve(square.toarray(), right)
    direction = np.concatenate([response[:-1].reshape(points, d), np.zeros((points, d))], axis=1)
    change = (dense @ np.append(direction.ravel(), response[-1]))[: 2 * left.size].reshape(-1, 2 * d)[:, d:]
    cubic = left @ (change - third / 6).ravel()

    collocated = CollocatedEquation.of(problem, solution)
    shifted = collocated.blocks[0][0].apply(mode) / solution.period
    for lag, (stencil, by_value, _) in zip(system.delays_at(solution.parameters), collocated.blocks[1:], strict=True):
        shifted -= lag / solution.period * np.einsum("ijq,qj->qi", by_value[d:, d:], stencil.apply(mode))
    return FlipNormalForm(float(cubic), float(left @ shifted.ravel()))


def _taylor(problem: FlipProblem, solution: Solution) -> tuple[Float[np.ndarray, "Q d"], Float[np.ndarray, "Q d"]]:
    """D²F[v, v] and D³F[v, v, v] at the Gauss points."""
    system, mesh, d = problem.system, solution.mesh, problem.system.dim
    lags = system.delays_at(solution.parameters)
    stencils = [mesh.at_gauss, *(mesh.stencil(mesh.gauss_points - lag / solution.period) for lag in lags)]
    values = [stencil.flips(problem.signs) * stencil.apply(solution.values) for stencil in stencils]
    states = [torch.from_numpy(value[:, :d].T.copy()) for value in values]
    modes = [torch.from_numpy(value[:, d:].T.copy()) for value in values]
    one = torch.ones((), dtype=torch.float64)

    def along(size: Tensor) -> Tensor:
        moved = [state + size * mode for state, mode in zip(states, modes, strict=True)]
        return system.field(moved[0], moved[1:], solution.parameters)

    def derivative(function, size: Tensor) -> Tensor:
        return jvp(function, (size,), (one,))[1]

    def second(size: Tensor) -> Tensor:
        return derivative(lambda s: derivative(along, s), size)

    two, three = jvp(second, (torch.zeros((), dtype=torch.float64),), (one,))
    return two.numpy().T, three.numpy().T
