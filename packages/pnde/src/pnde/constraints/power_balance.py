"""The powers that loads draw from a grid, and the voltage of its slack bus."""

from typing import Any

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor

from pnde._sparse import SparseJacobian
from pnde.constraints.base import Constraint
from pnde.power_grid import PowerGrid, ieee14
from pnde.power_grid.admittance import Rows, power_derivatives, powers


class PowerBalance(Constraint):
    """Powers p_k + iq_k = v_k·conj((Y v)_k) of all load buses minus their set-points, on states u = (Re v, Im v).

    Rows: p of the loads, q of the loads, and, if `slack`, real and imaginary part of v - v_slack at the slack bus.
    Without these two rows a projected field lets the slack voltage drift, even if the base leaves it alone, since
    powers depend on it.

    Parameters
    ----------
    grid
        A `PowerGrid`, or the name "ieee14" (whose two variants have the same loads).
    slack
        Whether the slack voltage is kept too.

    Raises
    ------
    ConfigError
        If `grid` is another name.
    """

    def __init__(self, grid: PowerGrid | str = "ieee14", slack: bool = True) -> None:
        super().__init__()
        if isinstance(grid, str):
            if grid != "ieee14":
                raise ConfigError(f"grid={grid!r} is unknown; choose 'ieee14', or give a PowerGrid.")
            grid = ieee14()
        N, loads = grid.n_buses, len(grid.load_buses)
        self.n, self.m, self.slack, self.slack_bus = 2 * N, 2 * loads + 2 * slack, slack, grid.slack
        Y = Rows.of(grid.Y, grid.load_buses)
        for name, tensor in Y._asdict().items():
            self.register_buffer(name, tensor, persistent=False)
        S, v = torch.as_tensor(grid.load_powers), grid.slack_voltage
        set_points = torch.cat([S.real, S.imag, S.real.new_tensor([v.real, v.imag] if slack else [])])
        self.register_buffer("set_points", set_points, persistent=False)
        # the entries of ∂p/∂a, ∂p/∂b, ∂q/∂a, ∂q/∂b, one block after the other, then the slack rows
        end = torch.arange(2 if slack else 0)
        rows = torch.cat([Y.rows, Y.rows, loads + Y.rows, loads + Y.rows, 2 * loads + end])
        columns = torch.cat([Y.columns, N + Y.columns, Y.columns, N + Y.columns, grid.slack + N * end])
        self.register_buffer("entry_rows", rows, persistent=False)
        self.register_buffer("entry_columns", columns, persistent=False)

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        self.check(u)
        parts = [*powers(self._admittance(), u)]
        if self.slack:
            parts.append(u[..., self.slack_bus :: self.n // 2])
        return torch.cat(parts, -1) - self.get_buffer("set_points").to(u.dtype)

    def jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m n"]:
        values = self._entries(u)
        flat = self.get_buffer("entry_rows") * self.n + self.get_buffer("entry_columns")
        dense = u.new_zeros(*u.shape[:-1], self.m * self.n).index_add(-1, flat, values)
        return dense.unflatten(-1, (self.m, self.n))

    def sparse_jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> SparseJacobian:
        """∂g/∂u as its entries, for `project_tangent` and `min_norm_solve` on large grids."""
        rows, columns = self.get_buffer("entry_rows"), self.get_buffer("entry_columns")
        return SparseJacobian(self._entries(u), rows, columns, (self.m, self.n))

    def _entries(self, u: Tensor) -> Tensor:
        self.check(u)
        blocks = [*power_derivatives(self._admittance(), u)]
        if self.slack:
            blocks.append(u.new_ones(*u.shape[:-1], 2))
        return torch.cat(blocks, -1)

    def _admittance(self) -> Rows:
        return Rows(*(self.get_buffer(name) for name in Rows._fields))
