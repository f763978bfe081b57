"""Power grids of loads, grid-forming inverters and one slack bus; load flow and operating point."""

import cmath
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sciml.errors import ConfigError
from scipy.sparse import coo_array, csr_array
from scipy.sparse import vstack as sparse_vstack
from scipy.sparse.linalg import spsolve

from pnde.power_grid.admittance import Rows, power_derivatives, powers

TOLERANCE, MAX_STEPS = 1e-12, 30  # of Newton's method: largest residual (p.u.), unless rounding is more


@dataclass(frozen=True)
class Inverter:
    """Set-points P, Q, V (p.u.) of an inverter, and the constants of dispatchable virtual oscillator control.

    Its normal form is v̇ = v [C(|v|² - V²) + Γ(p - P) + H(q - Q)].
    """

    P: float | int
    Q: float | int = 0.0
    V: float | int = 1.0
    eta: float | int = 3e-3
    alpha: float | int = 5.0
    kappa: float | int = math.pi / 2

    def __post_init__(self) -> None:
        if not self.V > 0:
            raise ConfigError(f"V={self.V} of an inverter must be positive: it is the magnitude of its voltage.")

    @property
    def C(self) -> complex:
        turned = self.eta * cmath.exp(1j * self.kappa)
        return -self.alpha * self.eta / self.V**2 + turned * complex(self.P, -self.Q) / self.V**4

    @property
    def Gamma(self) -> complex:
        return -self.eta * cmath.exp(1j * self.kappa) / self.V**2

    @property
    def H(self) -> complex:
        return 1j * self.eta * cmath.exp(1j * self.kappa) / self.V**2


@dataclass(frozen=True, eq=False)
class PowerGrid:
    """A network with admittance matrix Y whose buses 0 … N - 1 are loads, inverters, and one slack bus.

    Powers p + iq = v·conj(Y v) are injections into the network, so loads are negative. A state is
    u = (Re v, Im v), shape (..., 2N), per unit.

    Parameters
    ----------
    Y
        Sparse complex (N, N).
    loads
        Power P + iQ drawn at a bus of constant power, zero where nothing is connected.
    inverters
        Inverters by bus.
    slack, slack_voltage
        The bus of fixed voltage.
    names
        Names of the buses, by default their numbers.

    Raises
    ------
    ConfigError
        If a bus is not exactly one of load, inverter and slack.
    """

    Y: csr_array
    loads: dict[int, complex | float | int]
    inverters: dict[int, Inverter]
    slack: int
    slack_voltage: complex | float | int = 1.0
    names: tuple[Any, ...] = field(default=())

    def __post_init__(self) -> None:
        kinds = sorted([*self.loads, *self.inverters, self.slack])
        if self.Y.shape != (self.n_buses, self.n_buses) or kinds != list(range(self.n_buses)):
            raise ConfigError(
                f"Y is {self.Y.shape}, loads are at {sorted(self.loads)}, inverters at {sorted(self.inverters)}, the "
                f"slack at {self.slack}: each bus of a square Y must be exactly one of them (a bus without any is a "
                "load of power 0)."
            )
        if self.names and len(self.names) != self.n_buses:
            raise ConfigError(f"{len(self.names)} names were given for {self.n_buses} buses: give one each.")
        # sums with an explicit diagonal keep it stored where it is zero
        bus = np.arange(self.n_buses)
        entries = coo_array(self.Y)
        rows, columns = (np.concatenate([index, bus]) for index in entries.coords)
        values = np.concatenate([entries.data.astype(complex), np.zeros(self.n_buses)])
        object.__setattr__(self, "Y", csr_array(coo_array((values, (rows, columns)), shape=self.Y.shape)))
        if not self.names:
            object.__setattr__(self, "names", tuple(range(self.n_buses)))

    @classmethod
    def from_pandapower(cls, net: Any, series_only: bool = True) -> "PowerGrid":
        """A network of pandapower, or the one it has under a name, by `pnde.power_grid.tables.from_pandapower`."""
        from pnde.power_grid.tables import from_pandapower

        return from_pandapower(net, series_only)

    @property
    def n_buses(self) -> int:
        return self.Y.shape[0]  # type: ignore[index]

    @cached_property
    def load_buses(self) -> np.ndarray:
        """Buses of constant power, ascending."""
        return np.array(sorted(self.loads), dtype=np.int64)

    @cached_property
    def inverter_buses(self) -> np.ndarray:
        """Buses with an inverter, ascending."""
        return np.array(sorted(self.inverters), dtype=np.int64)

    @cached_property
    def load_powers(self) -> np.ndarray:
        """P + iQ at `load_buses`."""
        return np.array([self.loads[bus] for bus in self.load_buses], dtype=np.complex128)

    def power(self, u: np.ndarray) -> np.ndarray:
        """Injections p + iq of states (..., 2N), shape (..., N)."""
        v = u[..., : self.n_buses] + 1j * u[..., self.n_buses :]
        current = (self.Y @ v.reshape(-1, self.n_buses).T).T.reshape(v.shape)
        return v * current.conj()

    def load_flow(self) -> np.ndarray:
        """The state (2N,) in which inverters feed in P at |v| = V, loads and the slack bus are at their set-points.

        Newton's method from v = 1.

        Raises
        ------
        RuntimeError
            If it does not converge: the loads may be more than the grid can carry.
        """
        held = dict.fromkeys(self.inverters, (1j, 1 + 0j, 0j))  # |v| = V instead of q = Q
        return self._balance(held)

    def operating_point(self) -> np.ndarray:
        """The equilibrium (2N,) of inverters and grid that Newton's method finds from v = 1, else from the load flow.

        Where Q of the inverters are those of the load flow, it is the load flow. Raises as `load_flow` does.
        """
        # divided by C, a residual is a voltage like those of the other buses are powers, all of order 1
        laws = {bus: (1 + 0j, x.Gamma / x.C, x.H / x.C) for bus, x in self.inverters.items()}
        try:
            return self._balance(laws)
        except RuntimeError:
            return self._balance(laws, self.load_flow())

    def dispatched(self) -> "PowerGrid":
        """The same grid with the reactive powers Q of the inverters set to those of the load flow."""
        q = np.imag(self.power(self.load_flow()))
        return replace(self, inverters={bus: replace(x, Q=float(q[bus])) for bus, x in self.inverters.items()})

    def _balance(
        self, laws: dict[int, tuple[complex, complex, complex]], start: np.ndarray | None = None
    ) -> np.ndarray:
        """u with c(|v|² - V²) + γ(p - P) + h(q - Q) = 0 for (c, γ, h) by bus, where loads have (0, 1, i).

        Newton's method from `start`, by default v = 1.
        """
        N, free = self.n_buses, np.delete(np.arange(self.n_buses), self.slack)
        c, gamma, h = np.array([laws.get(bus, (0j, 1 + 0j, 1j)) for bus in free.tolist()], dtype=np.complex128).T
        V = np.array([self.inverters[bus].V if bus in self.inverters else 0.0 for bus in free.tolist()])
        goal: dict[int, complex] = {**self.loads, **{bus: complex(x.P, x.Q) for bus, x in self.inverters.items()}}
        S = np.array([goal[bus] for bus in free.tolist()])
        rows = Rows.of(self.Y, free)
        unknown = np.concatenate([free, N + free])
        u = np.repeat([1.0, 0.0], N) if start is None else start.copy()
        u[[self.slack, N + self.slack]] = self.slack_voltage.real, self.slack_voltage.imag
        tolerance = max(TOLERANCE, 16 * np.finfo(np.float64).eps * np.abs(self.Y.data).max())
        for _ in range(MAX_STEPS):
            state = torch.as_tensor(u)
            p, q = (x.numpy() for x in powers(rows, state))
            a, b = u[free], u[N + free]
            residual = c * (a**2 + b**2 - V**2) + gamma * (p - np.real(S)) + h * (q - np.imag(S))
            if np.abs(residual).max() < tolerance:
                return u
            if not np.isfinite(residual).all():
                break
            p_a, p_b, q_a, q_b = (x.numpy() for x in power_derivatives(rows, state))
            at = (rows.rows.numpy(), rows.columns.numpy())
            own = (np.arange(len(free)), free)
            index = [np.concatenate([x, y]) for x, y in zip(at, own, strict=True)]
            blocks = [
                np.concatenate([gamma[at[0]] * p_x + h[at[0]] * q_x, 2 * c * x])
                for p_x, q_x, x in ((p_a, q_a, a), (p_b, q_b, b))
            ]
            entries = np.concatenate(blocks)
            place = (np.tile(index[0], 2), np.concatenate([index[1], N + index[1]]))
            J = coo_array((entries, place), shape=(len(free), 2 * N)).tocsr()[:, unknown]
            J = sparse_vstack([J.real, J.imag], format="csc")
            u[unknown] -= spsolve(J, np.concatenate([residual.real, residual.imag]))
        raise RuntimeError(
            f"the power balance of {N} buses did not converge in {MAX_STEPS} Newton steps: "
            "check that loads are injections (negative) per unit, and are not more than the grid can carry."
        )
