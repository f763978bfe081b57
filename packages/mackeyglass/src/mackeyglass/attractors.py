"""Attractors by their local maxima: orbit diagrams and basins."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from sciml.errors import ConfigError
from sciml.progress import Progress
from torch import Tensor

from mackeyglass.extrema import GAP, Maxima, check_finite, local_maxima, unit_of
from mackeyglass.history import History, batch_shape
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.resolution import warn_unresolved
from mackeyglass.segment_map import SegmentMap, enough_panels

STILL = 1e-6  # range, relative to the state, below which it is an equilibrium
Family = Literal["linear", "sine"] | Callable[[Tensor, Tensor, Tensor], Tensor]


def orbit_diagram(
    system: MackeyGlass,
    parameter: str,
    values: Sequence[float | int] | np.ndarray,
    *,
    history: History = 0.9,
    n_transient: int = 500,
    n_delays: int = 100,
    n_nodes: int = 32,
    progress: bool = False,
) -> xarray.Dataset:
    """Maxima on the attractor while a parameter rises through `values` and falls back again.

    Each run begins with the last segment of the run before. Where up and down differ there may be two attractors:
    see `hysteresis`. In a sweep of τ what is carried over are the values on t/τ in [−1, 0]: a history is stretched with
    its delay.

    Parameters
    ----------
    system
        Its other parameters may be ``(B,)``: B sweeps at once. So may histories ``(B, 1)`` of a single system.
    values
        Rising.
    history
        At the first value, as in `simulate`.
    n_transient, n_delays
        Delays at each value that are dropped, and recorded. Transients past a crisis last thousands of delays.

    Returns
    -------
    xarray.Dataset
        With dimensions ``direction`` (up, down), the parameter, and ``batch`` for a batch: ``maxima`` in the order of
        time (NaN behind the last), ``count`` of different ones (clusters between gaps of 1.5e-3 θ), ``kind``
        ("equilibrium" where nothing oscillates, "cycle", or "chaos" if more than 16 maxima do not repeat), ``period``
        of a cycle, ``lowest`` and ``highest`` maximum, and the last ``segment``, with which a run can go on.

    Raises
    ------
    ConfigError
        For unknown parameters, values that do not rise, too few delays, histories with several axes, equations without
        a `SegmentMap`, or if trajectories became infinite or no numbers.

    Warns
    -----
    UserWarning
        If the nodes do not resolve all solutions.
    """
    system.check_names([parameter])
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values) or not (np.diff(values) > 0).all():
        raise ConfigError("values must be a list of numbers that rise")
    _check_delays(n_transient, n_delays)
    if isinstance(system.parameters[parameter], Tensor):
        system = system.with_parameters(**{parameter: float(values[0])})
    SegmentMap(system, n_nodes)  # refuses equations that have none
    highest = system.with_parameters(**{parameter: float(values[-1])})
    panels = max(enough_panels(system), enough_panels(highest))
    first = SegmentMap(system.with_parameters(**{parameter: float(values[0])}), n_nodes, panels)
    segment = first.history(history).detach()
    batch = tuple(torch.broadcast_shapes(batch_shape(system), segment.shape[:-1]))
    if len(batch) > 1:
        raise ConfigError(f"histories of a sweep may have one axis, (batch, 1) or (batch, nodes), got {batch}")
    segment = segment.expand(*batch, -1)
    records: list[list[dict[str, np.ndarray]]] = []
    with torch.no_grad(), Progress(f"sweep of {parameter}", 2 * len(values), active=progress) as bar:
        for sweep in (values, values[::-1]):
            records.append([])
            for value in sweep.tolist():
                segment_map = SegmentMap(system.with_parameters(**{parameter: value}), n_nodes, panels)
                segment, record = _record(segment_map, segment, n_transient, n_delays)
                records[-1].append(record)
                bar.advance()
    worst = max(float(record["resolution"]) for sweep in records for record in sweep)
    warn_unresolved(worst, n_nodes, torch.float64)
    records[1].reverse()
    diagram = _diagram(records, parameter, values, batch)
    unit = unit_of(system)
    return diagram if parameter == "theta" else diagram.assign_coords(theta=(("batch",)[: unit.ndim], unit))


def hysteresis(diagram: xarray.Dataset) -> xarray.DataArray:
    """Where the attractors of a rising and of a falling parameter differ.

    By the lowest or the highest of their maxima, by 7.5e-3 θ; two chaotic ones are taken for the same.
    """
    gap = 5 * GAP * abs(diagram.coords.get("theta", 1.0))
    up, down = diagram.sel(direction="up"), diagram.sel(direction="down")
    chaos = (up["kind"] == "chaos") & (down["kind"] == "chaos")
    shifted = [abs(up[name] - down[name]) > gap for name in ("lowest", "highest")]
    return ~chaos & (shifted[0] | shifted[1])


@dataclass(frozen=True, eq=False)
class Attractor:
    """What trajectories on it have in common: `maxima` and `period` of a cycle (else none and NaN), range of maxima.

    `kind` is "equilibrium", "cycle" or "chaos".
    """

    kind: str
    maxima: Float[np.ndarray, "count"]
    period: float
    lowest: float
    highest: float


def basin(
    system: MackeyGlass,
    family: Family,
    a: Sequence[float | int] | np.ndarray,
    c: Sequence[float | int] | np.ndarray,
    *,
    n_transient: int = 1000,
    n_delays: int = 100,
    n_nodes: int = 32,
) -> tuple[xarray.Dataset, list[Attractor]]:
    """To which attractor the histories of a family with two parameters lead.

    Parameters
    ----------
    system
        A single one.
    family
        "linear": a + c·s/τ, "sine": a + c·sin(2πs/τ), or a function of a, c and s/τ in [−1, 0], all tensors.
    a, c
        Values of both: all combinations are run at once.
    n_transient, n_delays
        As in `orbit_diagram`.

    Returns
    -------
    (xarray.Dataset, list)
        ``label`` with dimensions ``a, c``, the index in the list of attractors, −1 where the history is not positive;
        and the ``count`` of different maxima. Trajectories that do not repeat are all taken for one attractor, which
        after too short a run holds transients too.

    Raises
    ------
    ConfigError
        For a batch of systems, an unknown family, values in several axes, or if no history is positive, or
        trajectories became infinite or no numbers.

    Warns
    -----
    UserWarning
        If the nodes do not resolve all solutions.
    """
    if batch_shape(system):
        raise ConfigError("a basin belongs to a single system: give its parameters as numbers")
    _check_delays(n_transient, n_delays)
    axes = [torch.as_tensor(np.asarray(values, dtype=float)) for values in (a, c)]
    if any(axis.ndim != 1 for axis in axes):
        raise ConfigError(f"a and c must be lists of numbers, got shapes {[tuple(axis.shape) for axis in axes]}")
    SegmentMap(system, n_nodes)  # refuses equations that have none
    segment_map = SegmentMap(system, n_nodes, enough_panels(system))
    A, C = torch.meshgrid(*(axis.to(segment_map.device) for axis in axes), indexing="ij")
    s = segment_map.nodes / segment_map.nodes[-1] - 1
    histories = _family(family)(A.reshape(-1, 1), C.reshape(-1, 1), s)
    positive = (histories > 0).all(-1)
    if not bool(positive.any()):
        raise ConfigError("no history of the family is positive: choose a larger than the modulus of c")
    with torch.no_grad():
        record = _record(segment_map, histories[positive].contiguous(), n_transient, n_delays)[1]
    warn_unresolved(float(record["resolution"]), n_nodes, torch.float64)
    labels, attractors = _label(record, 3 * GAP * float(unit_of(system)))
    out = {}
    for name, found, missing in (("label", labels, -1), ("count", record["count"], -1)):
        whole = np.full(len(histories), missing)
        whole[positive.cpu().numpy()] = found
        out[name] = (("a", "c"), whole.reshape(A.shape))
    return xarray.Dataset(out, {"a": axes[0].numpy(), "c": axes[1].numpy()}, _attributes(system)), attractors


def _record(segment_map: SegmentMap, segment: Tensor, n_transient: int, n_delays: int) -> tuple[Tensor, dict[str, Any]]:
    """The last segment, and what the diagram keeps of the attractor, by row of the flattened batch."""
    for done in range(0, n_transient, 64):
        segment = segment_map.trajectory(segment, min(64, n_transient - done))[-1]
    segments = torch.cat([segment[None], segment_map.trajectory(segment, n_delays)])
    maxima = local_maxima(segment_map, segments)
    check_finite(segments)
    flat = segments.flatten(1, -2) if segments.ndim > 2 else segments[:, None]
    high, low = flat.amax((0, 2)).cpu().numpy(), flat.amin((0, 2)).cpu().numpy()
    # slow approaches to an equilibrium have no maxima either
    still = (high - low <= STILL * high) | np.isnan(maxima.values).all(axis=1)
    values = np.where(still[:, None], np.nan, maxima.values)
    times = np.where(still[:, None], np.nan, maxima.times)
    unit = unit_of(segment_map.system).reshape(-1, 1)
    maxima = Maxima(values / unit, times)
    filled = np.where(np.isnan(values), -np.inf, values)
    record = {
        "maxima": values,
        "count": maxima.counts(),
        "period": maxima.periods(),
        "cycle": maxima.cycles() * unit,
        "kind": np.where(still, "equilibrium", np.where(maxima.repeats() > 0, "cycle", "chaos")),
        "highest": np.where(still, high, filled.max(axis=1, initial=-np.inf)),
        "lowest": np.where(still, low, -np.where(np.isnan(values), -np.inf, -values).max(axis=1, initial=-np.inf)),
        "segment": flat[-1].cpu().numpy(),
        "resolution": np.array(segment_map.resolution(segments[1:]).max().item()),
    }
    return segments[-1], record


def _diagram(
    records: list[list[dict[str, np.ndarray]]], parameter: str, values: np.ndarray, batch: tuple[int, ...]
) -> xarray.Dataset:
    width = max(record["maxima"].shape[1] for sweep in records for record in sweep)
    for record in (record for sweep in records for record in sweep):
        missing = width - record["maxima"].shape[1]
        record["maxima"] = np.pad(record["maxima"], ((0, 0), (0, missing)), constant_values=np.nan)
    axes = ("direction", parameter, *(("batch",) if batch else ()))
    variables = {}
    lasts = {"maxima": "event", "count": "", "kind": "", "period": "", "lowest": "", "highest": "", "segment": "node"}
    for name, last in lasts.items():
        table = np.stack([[record[name] for record in sweep] for sweep in records])
        variables[name] = ((*axes, *((last,) if last else ())), table if batch else table[:, :, 0])
    return xarray.Dataset(variables, {"direction": ["up", "down"], parameter: values})


def _label(record: dict[str, np.ndarray], gap: float) -> tuple[Int[np.ndarray, "rows"], list[Attractor]]:
    """Attractors that differ by more than a gap, and the index of that of each row."""
    kinds, highest = record["kind"], record["highest"]
    cycles = np.nan_to_num(record["cycle"])
    labels, attractors = np.full(len(kinds), -1), []
    while (rest := np.flatnonzero(labels < 0)).size:
        first = rest[0]
        same = rest[kinds[rest] == kinds[first]]
        if kinds[first] == "cycle":
            same = same[np.abs(cycles[same] - cycles[first]).max(axis=1) < gap]
        elif kinds[first] == "equilibrium":
            same = same[np.abs(highest[same] - highest[first]) < gap]
        labels[same] = len(attractors)
        maxima = record["cycle"][first]
        attractors.append(
            Attractor(
                str(kinds[first]),
                maxima[~np.isnan(maxima)],
                float(record["period"][first]),
                float(record["lowest"][same].min()),
                float(highest[same].max()),
            )
        )
    return labels, attractors


def _family(family: Family) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if callable(family):
        return family
    if family == "linear":
        return lambda a, c, s: a + c * s
    if family == "sine":
        return lambda a, c, s: a + c * torch.sin(2 * math.pi * s)
    raise ConfigError(f"family must be 'linear', 'sine' or a function of a, c and s/τ, got {family!r}")


def _check_delays(n_transient: int, n_delays: int) -> None:
    if n_transient < 1 or n_delays < 10:
        raise ConfigError(f"n_transient must be at least 1, n_delays at least 10, got {n_transient} and {n_delays}")


def _attributes(system: MackeyGlass) -> dict[str, float]:
    return {name: float(value) for name, value in system.parameters.items()}
