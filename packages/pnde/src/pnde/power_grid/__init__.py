"""Power grids: networks, load flow, inverters. Their dynamics, which need the constraints, are in `dynamics`."""

from pnde.power_grid.grid import Inverter, PowerGrid
from pnde.power_grid.ieee14 import ieee14

__all__ = ["Inverter", "PowerGrid", "ieee14"]
