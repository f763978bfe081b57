"""The IEEE 14-bus test case with inverters in place of its machines, as in arXiv 2410.23667."""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from sciml.errors import ConfigError

from pnde.power_grid.admittance import series_admittances
from pnde.power_grid.grid import Inverter, PowerGrid

Bus8 = Literal["published", "corrected"]

# series admittances (p.u.) between buses numbered from 1
LINES = {
    (1, 2): 4.999131600798035 - 15.263086523179553j,
    (1, 5): 1.025897454970189 - 4.234983682334831j,
    (2, 3): 1.1350191923073958 - 4.781863151757718j,
    (2, 4): 1.686033150614943 - 5.115838325872083j,
    (2, 5): 1.7011396670944048 - 5.193927397969713j,
    (3, 4): 1.9859757099255606 - 5.0688169775939205j,
    (4, 5): 6.840980661495672 - 21.578553981691588j,
    (4, 7): -4.781943381790359j,
    (4, 9): -1.7979790715236075j,
    (5, 6): -3.967939052456154j,
    (6, 11): 1.9550285631772604 - 4.0940743442404415j,
    (6, 12): 1.525967440450974 - 3.1759639650294003j,
    (6, 13): 3.0989274038379877 - 6.102755448193116j,
    (7, 8): -5.676979846721544j,
    (7, 9): -9.09008271975275j,
    (9, 10): 3.902049552447428 - 10.365394127060915j,
    (9, 14): 1.4240054870199312 - 3.0290504569306034j,
    (10, 11): 1.8808847537003996 - 4.402943749460521j,
    (12, 13): 2.4890245868219187 - 2.251974626172212j,
    (13, 14): 1.1369941578063267 - 2.314963475105352j,
}
LOADS = {
    4: -0.478 + 0j,
    5: -0.076 - 0.016j,
    7: 0j,
    9: -0.295 - 0.166j,
    10: -0.09 - 0.058j,
    11: -0.035 - 0.018j,
    12: -0.061 - 0.016j,
    13: -0.135 - 0.058j,
    14: -0.149 - 0.05j,
}
GENERATION = {1: 2.32, 3: -0.942, 6: -0.122, 8: 0.0}
SLACK = 2


def ieee14(bus8: Bus8 = "published") -> PowerGrid:
    """14 buses: slack at bus 2, inverters at 1, 3, 6, 8, whose Q are those of the load flow; series admittances only.

    "published" reproduces the authors' data, whose inverter at bus 8 has its reactive power, 0.154873, as voltage V
    and Q = 0; "corrected" has V = 1 and that Q, so that the operating point is the load flow.

    Raises
    ------
    ConfigError
        If `bus8` is neither.
    """
    if bus8 not in get_args(Bus8):
        raise ConfigError(f"bus8={bus8!r}; choose one of {', '.join(get_args(Bus8))}.")
    grid = PowerGrid(
        Y=series_admittances(14, np.array(list(LINES)) - 1, np.array(list(LINES.values()))),
        loads={bus - 1: power for bus, power in LOADS.items()},
        inverters={bus - 1: Inverter(P) for bus, P in GENERATION.items()},
        slack=SLACK - 1,
        names=tuple(range(1, 15)),
    ).dispatched()
    if bus8 == "corrected":
        return grid
    eighth = grid.inverters[7]
    return replace(grid, inverters={**grid.inverters, 7: replace(eighth, Q=0.0, V=eighth.Q)})
