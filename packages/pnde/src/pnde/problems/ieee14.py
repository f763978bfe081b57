"""The IEEE 14-bus grid, disturbed, on its way back to the operating point."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch

from pnde.constraints.power_balance import PowerBalance
from pnde.power_grid.dynamics import GridField, ambient_force, ambient_states, trajectories
from pnde.power_grid.grid import PowerGrid
from pnde.power_grid.ieee14 import Bus8, ieee14
from pnde.problems._common import Integrated


@dataclass(frozen=True)
class IEEE14(Integrated):
    """Voltages of 14 buses: inverters at 1, 3, 6, 8, the slack at 2, loads of constant power (arXiv 2410.23667).

    States are u = (Re v, Im v). Each starts from the operating point, moved along the manifold of the power balance
    by a constant random force ("ambient forcing"), and keeps the 18 powers of the loads and the slack voltage, all of
    them levels. The differential-algebraic equation is solved as the ordinary one of its exact index reduction.
    Voltages per unit, times in s.

    Parameters
    ----------
    bus8
        "published": the inverter at bus 8 as in the authors' data, with V = 0.1549; "corrected": with V = 1, so that
        the operating point is the load flow. See `pnde.power_grid.ieee14`.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    solver: ClassVar[str] = "scipy DOP853 on the index-reduced equation"
    title: ClassVar[str] = "voltage"
    time_units: ClassVar[str] = "s"
    drift_units: ClassVar[str] = "p.u."
    accuracy: ClassVar[float] = 1e-9

    bus8: Bus8 = "published"
    duration: float = 10.0
    time_step: float = 0.1
    tolerance: float = 1e-11

    def __post_init__(self) -> None:
        super().__post_init__()
        ieee14(self.bus8)

    @property
    def grid(self) -> PowerGrid:
        """The grid with its inverters."""
        return _field(self.bus8).grid

    @property
    def components(self) -> Sequence[tuple[str, str]]:
        return [(f"{part}_v{bus}", "p.u.") for part in ("re", "im") for bus in self.grid.names]

    def constraint(self) -> PowerBalance:
        return PowerBalance("ieee14", slack=True)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return ambient_force(rng, self.grid.n_buses)

    def solve(self, start: np.ndarray) -> np.ndarray:
        states = ambient_states(self.grid, start, tolerance=self.tolerance)
        return trajectories(self.grid, states, self.time, self.tolerance)

    def field(self, t: Any, u: np.ndarray) -> np.ndarray:
        return _field(self.bus8)(t, torch.from_numpy(np.ascontiguousarray(u))).numpy()


@cache
def _field(bus8: Bus8) -> GridField:
    return GridField(ieee14(bus8))
