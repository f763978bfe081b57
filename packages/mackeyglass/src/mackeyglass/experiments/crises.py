"""How chaos ends: it meets an unstable cycle, or a channel opens in it where a fold of cycles will be."""

from typing import Annotated

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Metric, RunDirectory
from torch import Tensor

from mackeyglass.attractors import orbit_diagram
from mackeyglass.branch import Branch, continue_branch
from mackeyglass.crossings import orbits_at
from mackeyglass.experiments.branches import found, kept, second_family
from mackeyglass.experiments.common import SYSTEM
from mackeyglass.lifetimes import attractor_distance, fit_intermittency, laminar_phases
from mackeyglass.mesh import Mesh
from mackeyglass.orbits import PeriodicOrbit
from mackeyglass.segment_map import SegmentMap

TAU_CRISIS, N_CYCLE = 1.5, 13.8  # the delay of the boundary crisis; n past it, where only the long cycle is left
CRISIS_NAME = f"crisis at τ={TAU_CRISIS:g}"
TAU_MERGED = 2.0  # the delay at which chaos ends at the fold
CHANNEL_NAME = f"channel at τ={TAU_MERGED:g}"
N_CHAOS = 12.6  # where there is nothing but chaos, at τ = 1.5
SETTLING, APART = 200, 1e-6  # delays after which members that were so far apart have nothing in common
SAMPLES, NEAR = 32, 0.1  # values of u in a period; by how much two of them a period apart differ at most
EXPONENT = 0.06  # three times its standard error, to which the variation of the mean with n adds most

BetweenFoldAndCrisis = Annotated[float, Field(gt=12.71, lt=13.27)]


@config
class Approach:
    """Chaos at τ = 1.5 is watched from `members` histories for `delays` delays, at each n. Nothing is, without n."""

    n: tuple[BetweenFoldAndCrisis, ...] = (12.9, 13.0, 13.1, 13.15, 13.2, 13.25)
    members: PositiveInt = 64
    delays: PositiveInt = 400

    def __post_init__(self) -> None:
        _enough("n", self.n)


@config
class Channel:
    """Chaos at τ = 2 and n below the fold by each of `gaps` is watched from `members` histories.

    That is for `delays`/√gap delays, so that everywhere about the same share of phases is cut by the end of the record.
    """

    gaps: tuple[Annotated[float, Field(gt=1e-6, le=0.05)], ...] = tuple(np.geomspace(2e-4, 1e-2, 13).round(6).tolist())
    members: PositiveInt = 24
    delays: PositiveInt = 100

    def __post_init__(self) -> None:
        _enough("gaps", self.gaps)


def _enough(name: str, values: tuple[float, ...]) -> None:
    if list(values) != sorted(set(values)) or len(values) in (1, 2):
        raise ValueError(f"{name}={values} must rise, and be at least 3 for a line, or none")


def distances(config: Approach, mesh: Mesh, run: RunDirectory) -> xr.Dataset:
    """Least distances of chaos from the unstable cycle beyond the fold of the long one, on the edge of its basin."""
    system = SYSTEM.with_parameters(n=N_CYCLE, tau=TAU_CRISIS)

    def around() -> Branch:
        cycle = PeriodicOrbit.from_simulation(system, mesh=mesh)
        bounds = (12.0, N_CYCLE + 0.1)
        return continue_branch(cycle, "n", bounds, direction=-1, detect=(), max_steps=150, progress=True)

    branch = kept(run, "long-cycle", around)

    def compute() -> xr.Dataset:
        # the chaos is followed from where it is alone
        risen = orbit_diagram(system, "n", [N_CHAOS, *config.n], n_transient=200, n_delays=20)
        segments = torch.from_numpy(risen["segment"].sel(direction="up").values[1:])
        least = []
        for n, segment in zip(config.n, segments, strict=True):
            saddle = next(orbit for orbit in orbits_at(branch, n) if not orbit.stable)
            segment_map = SegmentMap(system.with_parameters(n=n))
            shift = APART * torch.rand(config.members, 1, dtype=torch.float64)
            U = segment_map.trajectory(segment + shift, SETTLING)[-1]
            least.append(attractor_distance(segment_map.trajectory(U, config.delays), segment_map, saddle))
        return xr.Dataset({"distance": ("n", least)}, {"n": [*config.n]})

    return run.step("approach", compute)


def vanishing(n: Float[np.ndarray, "points"], y: Float[np.ndarray, "points"]) -> tuple[float, float]:
    """Where a line through at least 3 points is zero, and the standard error of that."""
    middle = n.mean()
    (slope, level), covariance = np.polyfit(n - middle, y, 1, cov=True)
    gradient = np.array([level / slope**2, -1 / slope])
    return float(middle - level / slope), float(np.sqrt(gradient @ covariance @ gradient))


def approach(table: xr.Dataset) -> list[Metric]:
    """The distances, and where a line through them has its zero."""
    n, distance = table["n"].values, table["distance"].values
    zero, error = vanishing(n, distance)
    return [
        *(
            Metric("least distance of chaos from the unstable cycle", f"n={value:g}, τ={TAU_CRISIS:g}", float(least))
            for value, least in zip(n, distance, strict=True)
        ),
        Metric("n, by the distances from the unstable cycle", CRISIS_NAME, zero),
        Metric("error of n, by the distances", CRISIS_NAME, error),
    ]


def phases(config: Channel, mesh: Mesh, run: RunDirectory) -> xr.Dataset:
    """Lengths of laminar phases, in units of time, before the fold at τ = 2."""
    branch = kept(run, "long-cycle-family", lambda: second_family(mesh, (11.0, 12.1), -1, detect=("LP",), max_steps=60))
    fold = found(branch, "LP")
    n = [fold.parameters["n"] - gap for gap in config.gaps]

    def compute() -> xr.Dataset:
        rows = []
        for gap, value in zip(config.gaps, n, strict=True):
            segment_map = SegmentMap(SYSTEM.with_parameters(n=value, tau=TAU_MERGED))
            constants = 0.6 + 0.6 * torch.rand(config.members, 1, dtype=torch.float64)
            U = segment_map.trajectory(segment_map.history(constants), SETTLING)[-1]
            lengths = laminar_lengths(
                segment_map, segment_map.trajectory(U, int(config.delays / gap**0.5)), fold.period
            )
            rows.append((lengths.mean(), lengths.std() / np.sqrt(len(lengths)), lengths.max(), len(lengths)))
        columns = zip(("mean", "stderr", "longest", "count"), np.array(rows).T, strict=True)
        return xr.Dataset({name: ("n", column) for name, column in columns}, {"n": n, "gap": ("n", [*config.gaps])})

    return run.step("laminar", compute).assign_attrs(fold=fold.parameters["n"])


def laminar_lengths(
    segment_map: SegmentMap, segments: Float[Tensor, "k members nodes"], period: float
) -> Float[np.ndarray, "phases"]:
    """How long, each time, all of a period is repeated up to 0.1 in u: near the ghost of a cycle of that period."""
    step = period / SAMPLES
    times = torch.arange(0, len(segments) * float(segment_map.system.tau), step, dtype=segments.dtype)
    lengths = []
    for member in range(segments.shape[1]):
        u = segment_map.evaluate(segments[:, member], times).numpy()
        change = np.abs(u[SAMPLES:] - u[:-SAMPLES])
        near = np.lib.stride_tricks.sliding_window_view(change, SAMPLES).max(axis=1) < NEAR
        lengths.append(laminar_phases(near) * step)
    return np.concatenate(lengths)


def channel(table: xr.Dataset) -> tuple[list[Metric], Bar]:
    """Mean lengths, the exponents of mean and longest ones, and where the law of mean lengths has the fold."""
    metrics = [
        Metric("mean length of laminar phases", f"{gap:g} before the fold, τ={TAU_MERGED:g}", float(mean))
        for gap, mean in zip(table["gap"].values, table["mean"].values, strict=True)
    ]
    exponents = {}
    for name, words in (("mean", "mean lengths"), ("longest", "longest phases")):
        (exponent, _), covariance = np.polyfit(np.log(table["gap"].values), np.log(table[name].values), 1, cov=True)
        exponents[name] = float(exponent)
        metrics += [
            Metric(f"exponent of {words}", CHANNEL_NAME, float(exponent)),
            Metric(f"error of the exponent of {words}", CHANNEL_NAME, float(np.sqrt(covariance[0, 0]))),
        ]
    law = fit_intermittency(table["n"].values, table["mean"].values)
    metrics += [
        Metric("n of the fold, by its defining system", CHANNEL_NAME, float(table.attrs["fold"])),
        Metric("n of the fold, by the law of mean lengths", CHANNEL_NAME, law.critical),
        Metric("error of n, by the law of mean lengths", CHANNEL_NAME, law.critical_stderr),
    ]
    claim = f"exponent of mean lengths, {CHANNEL_NAME}: distance from −1/2"
    return metrics, Bar(claim, abs(exponents["mean"] + 0.5), EXPONENT)


def figure(approached: xr.Dataset | None, laminar: xr.Dataset | None) -> Figure:
    """Distances from the unstable cycle with their line, and laminar phases with lines of the slope −1/2."""
    panels = [(draw, table) for draw, table in ((_line, approached), (_law, laminar)) if table is not None]
    result = Figure(figsize=(4.5 * len(panels), 3.5), layout="constrained")
    for axis, (draw, table) in zip(result.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axis, table)
    return result


def _line(axis: Axes, table: xr.Dataset) -> None:
    n, distance = table["n"].values, table["distance"].values
    zero, error = vanishing(n, distance)
    ends = np.array([n[0], zero])
    axis.plot(n, distance, "o", color="C0", label="chaos")
    axis.plot(ends, np.polyval(np.polyfit(n, distance, 1), ends), color="0.5", label="line")
    axis.errorbar([zero], [0], xerr=[error], fmt="k|", capsize=3, label="its zero")
    axis.set(xlabel="$n$", ylabel="least distance", title=rf"from the unstable cycle, $\tau = {TAU_CRISIS:g}$")
    axis.legend(fontsize="small")


def _law(axis: Axes, table: xr.Dataset) -> None:
    gap = table["gap"].values
    for name, color in (("longest", "C1"), ("mean", "C0")):
        lengths = table[name].values
        error = table["stderr"].values if name == "mean" else None
        axis.errorbar(gap, lengths, error, fmt="o", color=color, markersize=4)
        factor = np.exp(np.mean(np.log(lengths * gap**0.5)))
        axis.plot(gap, factor * gap**-0.5, color=color, linewidth=1, label=f"{name}: slope −1/2")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="$n_f - n$",
        ylabel="length",
        title=rf"laminar phases, $\tau = {TAU_MERGED:g}$",
    )
    axis.legend(fontsize="small")
