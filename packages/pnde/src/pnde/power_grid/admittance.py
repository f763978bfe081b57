"""Powers that flow into a network, and their derivatives, from the entries of its admittance matrix."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array, csr_array
from torch import Tensor


class Rows(NamedTuple):
    """Rows of Y_bus at some buses: entries real + i·imag at (rows, columns), where row r is that of bus buses[r]."""

    buses: Tensor
    rows: Tensor
    columns: Tensor
    real: Tensor
    imag: Tensor

    @classmethod
    def of(cls, Y: csr_array, buses: np.ndarray) -> "Rows":
        """The rows of an admittance matrix that stores its diagonal."""
        chosen = coo_array(Y[buses])
        rows, columns = (torch.as_tensor(np.array(x), dtype=torch.long) for x in chosen.coords)
        values = torch.as_tensor(chosen.data)
        return cls(torch.as_tensor(buses), rows, columns, values.real.clone(), values.imag.clone())


def admittances(
    n_buses: int,
    ends: Int[np.ndarray, "branches 2"],
    series: np.ndarray,
    *,
    first: np.ndarray | float | int = 0.0,
    second: np.ndarray | float | int = 0.0,
    ratio: np.ndarray | float | int = 1.0,
    buses: np.ndarray | float | int = 0.0,
) -> csr_array:
    """Y_bus of branches, each an ideal transformer of complex ratio τ at its first end, then y between two shunts.

    Y_ff = (y + y_f)/|τ|², Y_ft = -y/τ̄, Y_tf = -y/τ and Y_tt = y + y_t, as in MATPOWER's manual (eq. 3.2).

    Parameters
    ----------
    series, first, second
        Admittance y of each branch, and of its shunts y_f, y_t.
    ratio
        Voltage at the first end over that behind the transformer.
    buses
        Admittance from each bus to ground.
    """
    i, j = ends.T
    bus = np.arange(n_buses)
    tau = np.broadcast_to(ratio, series.shape)
    entries = [-series / np.conj(tau), -series / tau, (series + first) / np.abs(tau) ** 2, series + second]
    values = np.concatenate([*entries, np.broadcast_to(buses, n_buses)])
    place = (np.concatenate([i, j, i, j, bus]), np.concatenate([j, i, i, j, bus]))
    return csr_array(coo_array((values.astype(np.complex128), place), shape=(n_buses, n_buses)))


def series_admittances(n_buses: int, ends: Int[np.ndarray, "lines 2"], y: np.ndarray) -> csr_array:
    """Y_bus of lines with series admittances y only: Y_ij = -y_ij, Y_ii = Σ_j y_ij."""
    return admittances(n_buses, ends, y)


def currents(Y: Rows, u: Float[Tensor, "*batch n"]) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts of i = Y v at the buses of the rows, for u = (Re v, Im v)."""
    a, b = (part[..., Y.columns] for part in u.chunk(2, -1))
    g, s = Y.real.to(u.dtype), Y.imag.to(u.dtype)
    zero = u.new_zeros(*u.shape[:-1], len(Y.buses))
    return zero.index_add(-1, Y.rows, g * a - s * b), zero.index_add(-1, Y.rows, g * b + s * a)


def powers(Y: Rows, u: Float[Tensor, "*batch n"]) -> tuple[Tensor, Tensor]:
    """Active and reactive powers p + iq = v·conj(i) at the buses of the rows."""
    a, b = (part[..., Y.buses] for part in u.chunk(2, -1))
    i_r, i_i = currents(Y, u)
    return a * i_r + b * i_i, b * i_r - a * i_i


def power_derivatives(Y: Rows, u: Float[Tensor, "*batch n"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """∂p/∂a, ∂p/∂b, ∂q/∂a, ∂q/∂b at the entries of the rows, for v = a + ib.

    ∂p = [diag(i_r) + diag(a)Y_r + diag(b)Y_i, diag(i_i) - diag(a)Y_i + diag(b)Y_r] and
    ∂q = [-diag(i_i) - diag(a)Y_i + diag(b)Y_r, diag(i_r) - diag(a)Y_r - diag(b)Y_i].
    """
    a, b = (part[..., Y.buses[Y.rows]] for part in u.chunk(2, -1))
    Y_r, Y_i = Y.real.to(u.dtype), Y.imag.to(u.dtype)
    diagonal = (Y.buses[Y.rows] == Y.columns).to(u.dtype)
    i_r, i_i = (part[..., Y.rows] * diagonal for part in currents(Y, u))
    along, across = a * Y_r + b * Y_i, b * Y_r - a * Y_i
    return i_r + along, i_i + across, across - i_i, i_r - along
