"""Networks of pandapower, read from their tables: branches, shunts, loads, generators and the external grid."""

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from sciml.errors import ConfigError
from scipy.sparse import csr_array

from pnde.power_grid.admittance import admittances
from pnde.power_grid.grid import Inverter, PowerGrid

UNREAD = (
    *("trafo3w", "impedance", "ward", "xward", "dcline", "switch", "storage", "motor"),
    *("asymmetric_load", "asymmetric_sgen", "svc", "ssc", "tcsc", "vsc", "line_dc"),
)
# columns whose entries must be zero, false or missing, and what they would say
UNREAD_COLUMNS = {
    ("load", "const_z_p_percent"): "loads of constant impedance",
    ("load", "const_z_q_percent"): "loads of constant impedance",
    ("load", "const_i_p_percent"): "loads of constant current",
    ("load", "const_i_q_percent"): "loads of constant current",
    ("gen", "slack"): "generators that are slack buses",
    ("trafo", "tap_dependency_table"): "tap changers with a table",
    ("shunt", "step_dependency_table"): "shunts with a table",
}


def from_pandapower(net: Any, series_only: bool = True) -> PowerGrid:
    """A network as a `PowerGrid` per unit of its `sn_mva`.

    Generators become inverters with their P (less loads at their bus) and V, and Q of the load flow; all other buses
    but that of the external grid, the slack, are loads. Elements out of service are left out. Needs no pandapower
    unless `net` is a name.

    Parameters
    ----------
    net
        A pandapower network, or the name of one of `pandapower.networks`, such as "case118".
    series_only
        Whether lines and two-winding transformers are series admittances alone, as in arXiv 2410.23667. Otherwise
        Y_bus is that of pandapower's load flow (transformers as T circuits, with phase shifts): charging of lines,
        magnetisation, taps and shunts too.

    Raises
    ------
    ImportError
        If a name is given and pandapower is not installed.
    ConfigError
        If pandapower has no network of that name, or it has not one external grid, or elements in service that are
        not read.
    """
    if isinstance(net, str):
        net = _named(net)()
    bus = _Table(net, "bus")
    number = {name: i for i, name in enumerate(bus.index.tolist())}
    line, trafo, shunt, load, sgen, gen, external = (
        _Table(net, name, number) for name in ("line", "trafo", "shunt", "load", "sgen", "gen", "ext_grid")
    )
    _check(net, number, {"load": load, "gen": gen, "trafo": trafo, "shunt": shunt}, len(external.index))
    base, level = float(net.sn_mva), bus["vn_kv"]
    Y = _series(line, trafo, level, base) if series_only else _full(net, line, trafo, shunt, level, base)

    power = np.zeros(len(number), dtype=np.complex128)
    for table, sign in ((load, -1), (sgen, 1)):
        given = (table["p_mw"] + 1j * table["q_mvar"]) * table["scaling"]
        np.add.at(power, table.bus("bus"), sign * given / base)
    np.add.at(power, gen.bus("bus"), gen["p_mw"] * gen["scaling"] / base)
    slack = int(external.bus("bus")[0])
    voltage = external["vm_pu"][0] * np.exp(1j * np.deg2rad(external["va_degree"][0]))
    held = dict(zip(gen.bus("bus").tolist(), gen["vm_pu"].tolist(), strict=True))
    held.pop(slack, None)
    return PowerGrid(
        Y=Y,
        loads={i: complex(power[i]) for i in range(len(number)) if i not in held and i != slack},
        inverters={i: Inverter(P=float(np.real(power[i])), V=V) for i, V in held.items()},
        slack=slack,
        slack_voltage=complex(voltage),
        names=tuple(number),
    ).dispatched()


def _named(name: str) -> Callable[[], Any]:
    """What makes the network of that name."""
    try:
        networks = import_module("pandapower.networks")
    except ImportError as error:
        raise ImportError(
            f"the network {name!r} needs pandapower, which cannot be imported ({error}): pip install pandapower"
        ) from error
    make = getattr(networks, name, None)
    if name.startswith("_") or not callable(make):
        known = [word for word in dir(networks) if not word.startswith("_") and callable(getattr(networks, word))]
        close = difflib.get_close_matches(name, known, n=5) or ["case9", "case118"]
        raise ConfigError(f"pandapower.networks has no {name!r}; it has {', '.join(close)}, and others")
    return make


class _Table:
    """The rows of a table that are in service, at buses that are: none where there is no such table."""

    def __init__(self, net: Any, name: str, number: dict[Any, int] | None = None) -> None:
        self.name, self.number = name, number or {}
        self.columns: Any = getattr(net, name, None)
        if self.columns is None:
            self.columns, index = {}, np.zeros(0, dtype=np.int64)
        else:
            index = np.asarray(self.columns.index)
        used = np.ones(len(index), dtype=bool)
        if "in_service" in self.columns:
            used &= np.asarray(self.columns["in_service"], dtype=bool)
        if number is not None and "bus" in self.columns:
            used &= np.array([bus in number for bus in np.asarray(self.columns["bus"]).tolist()], dtype=bool)
        self.used, self.index = used, index[used]

    def entries(self, column: str) -> list[Any]:
        """Entries as they are, None where the column is missing."""
        if column not in self.columns:
            return [None] * len(self.index)
        return np.asarray(self.columns[column])[self.used].tolist()

    def get(self, column: str, default: float = np.nan) -> np.ndarray:
        """Numbers, the default where they are missing."""
        given = [x if isinstance(x, int | float) else np.nan for x in self.entries(column)]
        numbers = np.array(given, dtype=np.float64)
        return np.where(np.isnan(numbers), default, numbers)

    def __getitem__(self, column: str) -> np.ndarray:
        """Numbers. ConfigError where any is missing."""
        numbers = self.get(column)
        if np.isnan(numbers).any():
            rows = self.index[np.isnan(numbers)].tolist()
            raise ConfigError(f"the network has no numbers in column {column} of table {self.name} in rows {rows[:5]}.")
        return numbers

    def words(self, column: str) -> np.ndarray:
        """Words, None where they are missing."""
        given = np.full(len(self.index), None, dtype=object)
        given[:] = [x if isinstance(x, str) else None for x in self.entries(column)]
        return given

    def bus(self, column: str) -> np.ndarray:
        """Places of the buses in a column."""
        return np.array([self.number[bus] for bus in self.entries(column)], dtype=np.int64)


def _check(net: Any, number: dict[Any, int], tables: dict[str, _Table], external: int) -> None:
    unread = [name for name in UNREAD if len(_Table(net, name).index)]
    for (name, column), what in UNREAD_COLUMNS.items():
        if tables[name].get(column, 0.0).any() and what not in unread:
            unread.append(what)
    for name, ends in (("line", ("from_bus", "to_bus")), ("trafo", ("hv_bus", "lv_bus"))):
        table = _Table(net, name)
        if any(bus not in number for end in ends for bus in table.entries(end)):
            unread.append(f"branches of {name} that end at buses out of service")
    if unread or external != 1:
        raise ConfigError(
            f"the network has {external} external grids in service and elements in {unread or 'no unread table'}: "
            "exactly one external grid is needed, and buses, lines, two-winding transformers, shunts, loads of "
            "constant power and generators alone are read; replace the others by those."
        )


def _series(line: _Table, trafo: _Table, level: np.ndarray, base: float) -> csr_array:
    """Y_bus of the series admittances, with the rated voltages of transformers."""
    z = _short_circuit(trafo, trafo["vn_lv_kv"], level, base)
    y = np.concatenate([_line_series(line, level, base), 1 / z])
    return admittances(len(level), _ends(line, trafo), y)


def _full(net: Any, line: _Table, trafo: _Table, shunt: _Table, level: np.ndarray, base: float) -> csr_array:
    """Y_bus with charging of lines, taps, magnetisation of transformers, and shunts."""
    charging = line.get("g_us_per_km", 0.0) * 1e-6 + 2j * np.pi * float(net.f_hz) * line["c_nf_per_km"] * 1e-9
    charging = charging * line["length_km"] * line["parallel"] * level[line.bus("from_bus")] ** 2 / base

    high, low = _windings(trafo)
    nominal = level[trafo.bus("hv_bus")] / level[trafo.bus("lv_bus")]
    ratio = high / low / nominal * np.exp(1j * np.deg2rad(trafo.get("shift_degree", 0.0)))
    z = _short_circuit(trafo, np.abs(low), level, base)
    y = _magnetisation(trafo, np.abs(low), level, base)
    # the T circuit z_h, y, z_l as the equivalent Π
    r, x = trafo.get("leakage_resistance_ratio_hv", 0.5), trafo.get("leakage_reactance_ratio_hv", 0.5)
    z_h = r * np.real(z) + 1j * x * np.imag(z)
    z_l = z - z_h
    between = z + z_h * z_l * y

    grounded = np.zeros(len(level), dtype=np.complex128)
    at = shunt.bus("bus")
    rated = shunt.get("vn_kv")
    rated = np.where(np.isnan(rated), level[at], rated)
    power = (shunt["p_mw"] - 1j * shunt["q_mvar"]) * shunt["step"]
    np.add.at(grounded, at, power * (level[at] / rated) ** 2 / base)
    return admittances(
        len(level),
        _ends(line, trafo),
        np.concatenate([_line_series(line, level, base), 1 / between]),
        first=np.concatenate([charging / 2, z_l * y / between]),
        second=np.concatenate([charging / 2, z_h * y / between]),
        ratio=np.concatenate([np.ones(len(charging)), ratio]),
        buses=grounded,
    )


def _ends(line: _Table, trafo: _Table) -> np.ndarray:
    branches = [[line.bus("from_bus"), line.bus("to_bus")], [trafo.bus("hv_bus"), trafo.bus("lv_bus")]]
    return np.concatenate(branches, axis=1).T


def _line_series(line: _Table, level: np.ndarray, base: float) -> np.ndarray:
    z = (line["r_ohm_per_km"] + 1j * line["x_ohm_per_km"]) * line["length_km"] / line["parallel"]
    return level[line.bus("from_bus")] ** 2 / base / z  # z in Ω over V²/S


def _short_circuit(trafo: _Table, low: np.ndarray, level: np.ndarray, base: float) -> np.ndarray:
    """Impedances of transformers, from their rating to that of the network, at the low-voltage side."""
    short, loss = trafo["vk_percent"], trafo["vkr_percent"]
    z = (loss + 1j * np.sign(short) * np.sqrt(short**2 - loss**2)) / 100
    return z * base / trafo["sn_mva"] * (low / level[trafo.bus("lv_bus")]) ** 2 / trafo["parallel"]


def _magnetisation(trafo: _Table, low: np.ndarray, level: np.ndarray, base: float) -> np.ndarray:
    """Iron losses and magnetising reactance of transformers; currents below the losses are raised to them."""
    losses = trafo.get("pfe_kw", 0.0) / 1000
    apparent = trafo.get("i0_percent", 0.0) / 100 * trafo["sn_mva"]
    power = losses - 1j * np.sqrt(np.maximum(apparent**2 - losses**2, 0))
    return power / base * (level[trafo.bus("lv_bus")] / low) ** 2 * trafo["parallel"]


def _windings(trafo: _Table) -> tuple[np.ndarray, np.ndarray]:
    """Voltages of the high and the low winding at the position of their taps, complex for a phase."""
    windings = {"hv": trafo["vn_hv_kv"].astype(np.complex128), "lv": trafo["vn_lv_kv"].astype(np.complex128)}
    for tap in ("tap", "tap2"):
        steps = trafo.get(f"{tap}_pos", 0.0) - trafo.get(f"{tap}_neutral", 0.0)
        percent, degree = trafo.get(f"{tap}_step_percent", 0.0), trafo.get(f"{tap}_step_degree", 0.0)
        kind, side = trafo.words(f"{tap}_changer_type"), trafo.words(f"{tap}_side")
        # an ideal phase shifter steps by an angle, or by the length of the chord
        angle = np.where(degree != 0, np.deg2rad(degree) * steps, 2 * np.arcsin(steps * percent / 200))
        factor = np.ones(len(steps), dtype=np.complex128)
        factor = np.where(kind == "Ideal", np.exp(1j * angle), factor)
        stepped = (kind == "Ratio") | (kind == "Symmetrical")
        factor = np.where(stepped, 1 + steps * percent / 100 * np.exp(1j * np.deg2rad(degree)), factor)
        for name in windings:
            windings[name] = windings[name] * np.where(side == name, factor, 1)
    return windings["hv"], windings["lv"]
