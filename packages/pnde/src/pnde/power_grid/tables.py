"""Networks of pandapower: series impedances, loads, generators and the external grid, read from their tables."""

from importlib import import_module
from typing import Any

import numpy as np
from sciml.errors import ConfigError

from pnde.power_grid.admittance import series_admittances
from pnde.power_grid.grid import Inverter, PowerGrid

UNREAD = ("trafo3w", "impedance", "ward", "xward", "dcline", "switch", "storage", "motor", "asymmetric_load", "svc")


def from_pandapower(net: Any) -> PowerGrid:
    """A network as a `PowerGrid` per unit of its `sn_mva`, from series impedances only.

    Lines and two-winding transformers are series admittances: their charging, shunts, taps and phase shifts are left
    out. Generators become inverters with their P (less loads at their bus) and V, and Q of the load flow; all other
    buses but that of the external grid, the slack, are loads. Needs no pandapower unless `net` is a name.

    Parameters
    ----------
    net
        A pandapower network, or the name of one of `pandapower.networks`, such as "case118".

    Raises
    ------
    ImportError
        If a name is given and pandapower is not installed.
    ConfigError
        If the network has not one external grid, or elements in service that are not read.
    """
    if isinstance(net, str):
        try:
            net = getattr(import_module("pandapower.networks"), net)()
        except ImportError as error:
            raise ImportError(
                f"the network {net!r} needs pandapower, which cannot be imported ({error}): pip install pandapower"
            ) from error
    unread = [name for name in UNREAD if len(_column(net, name))]
    if unread or len(_column(net, "ext_grid")) != 1:
        raise ConfigError(
            f"the network has {len(_column(net, 'ext_grid'))} external grids in service and elements in "
            f"{unread or 'no unread table'}: exactly one external grid is needed, and buses, lines, two-winding "
            "transformers, loads and generators alone are read; replace the others by those."
        )
    number = {bus: i for i, bus in enumerate(_column(net, "bus").tolist())}
    level = dict(zip(number, _column(net, "bus", "vn_kv"), strict=True))

    def place(name: str, column: str = "bus") -> np.ndarray:
        return np.array([number[bus] for bus in _column(net, name, column)], dtype=np.int64)

    base = float(net.sn_mva)

    # z in Ω over V²/S
    ohm = np.array([level[bus] ** 2 / base for bus in _column(net, "line", "from_bus")])
    r, x, length, parallel = (
        _column(net, "line", name) for name in ("r_ohm_per_km", "x_ohm_per_km", "length_km", "parallel")
    )
    lines = parallel * ohm / ((r + 1j * x) * length)
    rated, short, loss, low, parallel = (
        _column(net, "trafo", name) for name in ("sn_mva", "vk_percent", "vkr_percent", "vn_lv_kv", "parallel")
    )
    # short-circuit impedance on the transformer's rating, brought to that of the network
    z = (loss + 1j * np.sqrt(short**2 - loss**2)) / 100 * base / rated
    z = z * (low / np.array([level[bus] for bus in _column(net, "trafo", "lv_bus")])) ** 2
    ends = [[place("line", "from_bus"), place("line", "to_bus")], [place("trafo", "hv_bus"), place("trafo", "lv_bus")]]
    Y = series_admittances(len(number), np.concatenate(ends, axis=1).T, np.concatenate([lines, parallel / z]))

    power = np.zeros(len(number), dtype=np.complex128)
    for name, sign in (("load", -1), ("sgen", 1)):
        given = _column(net, name, "p_mw") + 1j * _column(net, name, "q_mvar")
        np.add.at(power, place(name), sign * given * _column(net, name, "scaling") / base)
    np.add.at(power, place("gen"), _column(net, "gen", "p_mw") * _column(net, "gen", "scaling") / base)
    slack = int(place("ext_grid")[0])
    voltage = _column(net, "ext_grid", "vm_pu")[0] * np.exp(1j * np.deg2rad(_column(net, "ext_grid", "va_degree")[0]))
    held = dict(zip(place("gen").tolist(), _column(net, "gen", "vm_pu").tolist(), strict=True))
    held.pop(slack, None)
    return PowerGrid(
        Y=Y,
        loads={bus: complex(power[bus]) for bus in range(len(number)) if bus not in held and bus != slack},
        inverters={bus: Inverter(P=float(np.real(power[bus])), V=V) for bus, V in held.items()},
        slack=slack,
        slack_voltage=complex(voltage),
        names=tuple(number),
    ).dispatched()


def _column(net: Any, name: str, column: str | None = None) -> Any:
    """A column of the rows in service, by default the numbers of these rows; empty where there is no such table."""
    table = getattr(net, name, None)
    if table is None or not len(table.index):
        return np.zeros(0)
    used = np.asarray(table["in_service"], dtype=bool) if "in_service" in table else np.ones(len(table.index), bool)
    return np.asarray(table.index if column is None else table[column])[used]
