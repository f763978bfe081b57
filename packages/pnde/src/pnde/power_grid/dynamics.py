"""Dynamics of a power grid: inverters, the exact index-reduced field of the DAE, reference trajectories."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor

from pnde.constraints.power_balance import PowerBalance
from pnde.fields import VectorField
from pnde.power_grid.admittance import Rows, powers
from pnde.power_grid.grid import PowerGrid
from pnde.projection import SparseJacobian, project_tangent

SPARSE_FROM = 100  # buses, from where sparse rows of a batch of 25 states take no longer than dense ones


class InverterField(VectorField):
    """v̇ = v [C(|v|² - V²) + Γ(p - P) + H(q - Q)] at the inverters of a grid, zero at its other buses.

    States and rates are (Re v, Im v), shape (..., 2N); time in seconds.
    """

    def __init__(self, grid: PowerGrid) -> None:
        super().__init__()
        self.n = 2 * grid.n_buses
        everywhere = Rows.of(grid.Y, np.arange(grid.n_buses))
        for name, tensor in everywhere._asdict().items():
            self.register_buffer(name, tensor, persistent=False)
        # zero coefficients at the other buses make their rates zero
        for name in ("C", "Gamma", "H", "V", "P", "Q"):
            values = np.zeros(grid.n_buses, dtype=complex)
            values[grid.inverter_buses] = [getattr(grid.inverters[bus], name) for bus in grid.inverter_buses]
            both = torch.as_tensor(np.stack([np.real(values), np.imag(values)]))
            self.register_buffer(name, both if name in ("C", "Gamma", "H") else both[0], persistent=False)

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        p, q = powers(Rows(*(self.get_buffer(name) for name in Rows._fields)), u)
        C, Gamma, H, V, P, Q = (self.get_buffer(x).to(u.dtype) for x in ("C", "Gamma", "H", "V", "P", "Q"))
        a, b = u.chunk(2, -1)
        excess = a.square() + b.square() - V.square()
        growth, turning = (C[i] * excess + Gamma[i] * (p - P) + H[i] * (q - Q) for i in (0, 1))
        return torch.cat([a * growth - b * turning, a * turning + b * growth], -1)


class GridField(VectorField):
    """The ordinary differential equation of a grid: inverters, with the voltages of loads following at constant power.

    With differential x (the inverters' voltages) and algebraic y (all others) of ẋ = f(x, y), 0 = g(x, y), it is
    ẏ = -G_y⁻¹G_x f, exact index reduction, written as the projection of f with the weight W = diag(0_x, I_y). It ceases
    to exist where G_y is singular: RankDeficientConstraintError of `project_tangent`.
    """

    def __init__(self, grid: PowerGrid) -> None:
        super().__init__()
        self.grid, self.inverters, self.balance, self.n = (
            grid,
            InverterField(grid),
            PowerBalance(grid),
            2 * grid.n_buses,
        )
        algebraic = torch.ones(2, grid.n_buses, dtype=torch.float64)
        algebraic[:, grid.inverter_buses] = 0
        self.register_buffer("metric", algebraic.reshape(-1), persistent=False)

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        metric = self.get_buffer("metric").to(u.dtype)
        return project_tangent(rows(self.balance, u), self.inverters(t, u), metric=metric)


def rows(balance: PowerBalance, u: Tensor) -> Tensor | SparseJacobian:
    """∂g/∂u, sparse for large grids."""
    large = balance.n > 2 * SPARSE_FROM
    return balance.sparse_jacobian(None, u) if large else balance.jacobian(None, u)


def trajectories(
    grid: PowerGrid, start: Float[np.ndarray, "batch n"], time: Float[np.ndarray, " time"], tolerance: float = 1e-11
) -> Float[np.ndarray, "batch time n"]:
    """Solutions of a grid from consistent states, all together by DOP853 at rtol = atol = `tolerance`.

    Raises RuntimeError if the solver does not reach the last time: algebraic states can cease to exist.
    """
    return _solve(GridField(grid), start, time, tolerance)


def ambient_force(rng: np.random.Generator, n_buses: int) -> Float[np.ndarray, " n"]:
    """At each bus a vector (Re, Im) of length √U(0.15, 1) and uniform direction."""
    length, angle = np.sqrt(rng.uniform(0.15, 1, n_buses)), rng.uniform(0, 2 * np.pi, n_buses)
    return np.concatenate([length * np.cos(angle), length * np.sin(angle)])


def ambient_states(
    grid: PowerGrid, forces: Float[np.ndarray, "batch n"], duration: float = 0.2, tolerance: float = 1e-12
) -> Float[np.ndarray, "batch n"]:
    """Consistent states near the operating point: du/dτ = P(u) F from it for τ in [0, duration].

    P projects onto the tangent space of the whole power balance; the forces F are constant, usually draws of
    `ambient_force` ("ambient forcing", arXiv 2410.23667).
    """
    F, balance = torch.as_tensor(forces), PowerBalance(grid)
    start = np.tile(grid.operating_point(), (len(forces), 1))
    end = _solve(lambda t, u: project_tangent(rows(balance, u), F), start, np.array([0.0, duration]), tolerance)
    return end[:, -1]


def _solve(field: Callable[..., Tensor], start: np.ndarray, time: np.ndarray, tolerance: float) -> np.ndarray:
    """States (batch, time, n) of u̇ = field(t, u)."""
    with torch.no_grad():
        solution = solve_ivp(
            lambda t, y: field(t, torch.as_tensor(y).reshape(start.shape)).numpy().ravel(),
            (time[0], time[-1]),
            start.ravel(),
            method="DOP853",
            t_eval=time,
            rtol=tolerance,
            atol=tolerance,
        )
    if not solution.success:
        raise RuntimeError(f"the reference solver failed: {solution.message}")
    return np.moveaxis(solution.y.reshape(*start.shape, -1), -1, 1)
