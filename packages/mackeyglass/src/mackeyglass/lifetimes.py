"""How long chaos lasts past a crisis, how close an attractor is to a cycle, and the laws of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from sciml.errors import ConfigError
from sciml.progress import Progress
from scipy.optimize import curve_fit
from scipy.spatial import KDTree
from torch import Tensor

from mackeyglass.extrema import check_finite, local_maxima, unit_of
from mackeyglass.history import History, batch_shape
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.orbits import PeriodicOrbit
from mackeyglass.resolution import warn_unresolved
from mackeyglass.segment_map import SegmentMap, enough_panels

BLOCK = 10  # delays after which it is looked who has jumped
SETTLING = 100  # delays before the clock starts
CONFIRMATION = 40  # delays for which all maxima have to be those of the cycle
TOLERANCE = 0.01  # of them, in units of θ


@dataclass(frozen=True, eq=False)
class Lifetimes:
    """Times until the jump to the cycle, or until the end of the run where `jumped` is False.

    `mean` is that of the exponential law, to which lives without memory lead: all the time lived, divided by the
    number of jumps; so runs that ended before the jump are used, too, up to when a jump could still be confirmed.
    It is infinite if none jumped. `stderr` is mean/√jumps. `excluded` counts the members that were on the cycle
    before the clock started.
    """

    times: Float[np.ndarray, "members"]
    jumped: Bool[np.ndarray, "members"]
    mean: float
    stderr: float
    excluded: int


def transient_lifetime(
    system: MackeyGlass,
    target: PeriodicOrbit | Float[np.ndarray, "count"],
    n_members: int = 100,
    *,
    n_delays: int = 10_000,
    history: History | None = None,
    seed: int = 0,
    n_nodes: int = 32,
    progress: bool = False,
) -> Lifetimes:
    """How long trajectories stay away from a stable cycle.

    A jump is that to the given cycle, not to any: periodic windows of the chaos are no end of it. It is when all maxima
    begin to be those of the cycle up to 0.01 θ, and are for 40 delays; every 10 delays it is looked. The clock starts
    after 100 delays; who is on the cycle by then was never chaotic and is left out.

    Parameters
    ----------
    system
        A single one.
    target
        The cycle, or its maxima.
    n_members
        Trajectories, all run at once, fewer and fewer.
    n_delays
        After which the run ends, at least 80. Jumps in its last 40 cannot be confirmed: nor do these count as lived.
    history
        As in `simulate`, one for each member if there are several; by default constants between 0.5 and 1.3 of the
        positive equilibrium.

    Raises
    ------
    ConfigError
        For a batch of systems, a target without maxima, if no member was chaotic, or if trajectories became infinite or
        no numbers.

    Warns
    -----
    UserWarning
        If the nodes do not resolve all solutions.
    """
    if batch_shape(system):
        raise ConfigError("lifetimes belong to a single system: give its parameters as numbers")
    maxima = np.asarray(target.maxima() if isinstance(target, PeriodicOrbit) else target, dtype=float)
    if maxima.ndim != 1 or not maxima.size or not np.isfinite(maxima).all():
        raise ConfigError("target must be a PeriodicOrbit or the list of its maxima")
    if n_members < 1 or n_delays < 2 * CONFIRMATION:
        raise ConfigError(
            f"n_members must be at least 1 and n_delays {2 * CONFIRMATION}, got {n_members} and {n_delays}"
        )
    segment_map = SegmentMap(system, n_nodes, enough_panels(system))
    U = _histories(segment_map, system, history, n_members, seed)
    blocks = math.ceil((SETTLING + n_delays) / BLOCK)
    unit = float(unit_of(system))
    worst, since = 0.0, np.full(n_members, blocks)  # the block with which each began to follow the cycle
    running = np.arange(n_members)
    with torch.no_grad(), Progress("lifetimes", blocks, active=progress) as bar:
        for block in range(blocks):
            segments = torch.cat([U[None], segment_map.trajectory(U, BLOCK)])
            U = segments[-1]
            check_finite(U)
            worst = max(worst, segment_map.resolution(U).max().item())
            follows = _follows(local_maxima(segment_map, segments).values / unit, maxima / unit)
            since[running] = np.where(follows, np.minimum(since[running], block), blocks)
            left = (block + 1 - since[running]) * BLOCK < CONFIRMATION
            running, U = running[left], U[torch.from_numpy(left).to(U.device)]
            bar.advance()
            if not len(running):
                break
    warn_unresolved(worst, n_nodes, torch.float64)
    jumped = np.ones(n_members, bool)
    jumped[running] = False  # also those that follow it, but not for long enough
    since[running] = blocks - CONFIRMATION // BLOCK  # the last block with which a jump is confirmed by the end
    begin = SETTLING // BLOCK
    chaotic = since > begin
    if not chaotic.any():
        raise ConfigError("all members were on the cycle from the beginning: give histories that lead to the chaos")
    times = (since[chaotic] - begin) * BLOCK * float(system.tau)
    return _lifetimes(times, jumped[chaotic], int((~chaotic).sum()))


def _lifetimes(times: np.ndarray, jumped: np.ndarray, excluded: int) -> Lifetimes:
    jumps = int(jumped.sum())
    mean = float(times.sum() / jumps) if jumps else math.inf
    return Lifetimes(times, jumped, mean, mean / math.sqrt(jumps) if jumps else math.inf, excluded)


def _histories(
    segment_map: SegmentMap, system: MackeyGlass, history: History | None, members: int, seed: int
) -> Float[Tensor, "members nodes"]:
    if history is None:
        if not isinstance(system, MackeyGlass):
            raise ConfigError(
                f"give histories: a {type(system).__name__} has no positive equilibrium to draw them around"
            )
        draws = torch.rand(members, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        history = float(system.positive_equilibrium()) * (0.5 + 0.8 * draws).to(segment_map.device)
    U = segment_map.history(history)
    if U.ndim > 2 or (U.ndim == 2 and len(U) != members):
        raise ConfigError(f"give one history, or one for each of {members} members, got {tuple(U.shape[:-1])}")
    return U.expand(members, -1).contiguous()


def _follows(values: Float[np.ndarray, "rows maxima"], target: np.ndarray) -> Bool[np.ndarray, "rows"]:
    """Whether there are maxima and all are some of the target's."""
    near = (np.abs(values[..., None] - target) < TOLERANCE).any(-1) | np.isnan(values)
    return np.logical_and(near.all(axis=1), ~np.isnan(values).all(axis=1))


def attractor_distance(
    segments: Float[Tensor, "k *batch nodes"], segment_map: SegmentMap, orbit: PeriodicOrbit, points: int = 16
) -> float:
    """Least distance of trajectories from a cycle: √(mean square) over `points` of a delay, at all phases.

    At a boundary crisis it vanishes for the unstable cycle on the boundary. With 2 points it is that in the plane of
    u(t) and u(t − τ), where curves cross that do not meet: it vanishes before.

    Parameters
    ----------
    segments
        Successive ones, as `segment_map.trajectory` gives them.
    """
    tau = float(segment_map.system.tau)
    stride = math.ceil(15 / (points - 1))
    per_delay = stride * (points - 1)
    samples = 16 * len(orbit.samples) // 10
    phases = np.arange(samples) / samples * orbit.period
    cycle = orbit.profile((phases[:, None] + np.linspace(0, tau, points)).ravel())[:, 0].reshape(samples, points)
    times = torch.arange(len(segments) * per_delay + 1, dtype=torch.float64, device=segments.device) * (tau / per_delay)
    u = segment_map.evaluate(segments, times).cpu()
    windows = u.unfold(-1, per_delay + 1, 1)[..., ::stride].reshape(-1, points).numpy()
    tree = KDTree(cycle)
    near = tree.query(windows[::points])[0].min()
    # most windows are farther than that, which is quickly seen
    least = tree.query(windows, distance_upper_bound=near)[0].min()
    return float(min(near, least) / math.sqrt(points))


@dataclass(frozen=True)
class PowerLaw:
    """y = factor · |x − critical|^exponent, with the standard errors of exponent and critical value."""

    critical: float
    exponent: float
    factor: float
    critical_stderr: float
    exponent_stderr: float


def fit_crisis(
    n: Float[np.ndarray, "points"] | Sequence[float | int],
    mean: Float[np.ndarray, "points"] | Sequence[float | int],
    stderr: Float[np.ndarray, "points"] | Sequence[float | int],
) -> PowerLaw:
    """Mean lifetimes past a crisis, ∝ (n − n_c)^exponent with a negative exponent: a fit of log mean.

    Raises
    ------
    ConfigError
        For fewer than 4 points, or lifetimes that are not finite.
    """
    n, mean, stderr = (np.asarray(values, dtype=float) for values in (n, mean, stderr))
    if len(n) < 4 or not (np.isfinite(mean) & np.isfinite(stderr) & (stderr > 0)).all():
        raise ConfigError("the law has three unknowns: give at least 4 finite lifetimes with their errors")

    def law(n: np.ndarray, log_gap: float, exponent: float, log_factor: float) -> np.ndarray:
        return log_factor + exponent * np.log(n - (n.min() - math.exp(log_gap)))

    span = float(np.ptp(n))
    start = (math.log(span / len(n)), -1.0, math.log(float(mean.min())) + math.log(span))
    best, covariance = curve_fit(law, n, np.log(mean), start, stderr / mean, absolute_sigma=True, maxfev=20_000)
    gap, errors = math.exp(best[0]), np.sqrt(np.diag(covariance))
    return PowerLaw(float(n.min() - gap), float(best[1]), math.exp(best[2]), float(gap * errors[0]), float(errors[1]))


def fit_intermittency(
    n: Float[np.ndarray, "points"] | Sequence[float | int], length: Float[np.ndarray, "points"] | Sequence[float | int]
) -> PowerLaw:
    """Lengths of laminar phases before a fold at n_f, ∝ (n_f − n)^{−1/2}: 1/length² is a line whose zero is n_f.

    Raises
    ------
    ConfigError
        For fewer than 3 points.
    """
    if len(n) < 3:
        raise ConfigError(f"give at least 3 points, got {len(n)}")
    (slope, level), covariance = np.polyfit(n, np.asarray(length, dtype=float) ** -2.0, 1, cov=True)
    critical = -level / slope
    gradient = np.array([-critical / slope, -1 / slope])
    return PowerLaw(critical, -0.5, 1 / math.sqrt(-slope), float(np.sqrt(gradient @ covariance @ gradient)), 0.0)


def laminar_phases(near: Bool[np.ndarray, "times"] | Sequence[bool]) -> Float[np.ndarray, "phases"]:
    """Lengths of the runs of True, without those that begin or end with the record."""
    near = np.asarray(near, dtype=bool)
    edges = np.flatnonzero(np.diff(near.astype(int)))
    begins, ends = edges[~near[edges]], edges[near[edges]]
    ends = ends[ends > begins[0]] if len(begins) else ends[:0]
    return (ends - begins[: len(ends)]).astype(float)
