"""Local maxima of solutions, where the derivative of the dense output vanishes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sciml.errors import ConfigError
from torch import Tensor

from mackeyglass.chebyshev import basis_on_panels, lobatto_nodes
from mackeyglass.segment_map import SegmentMap

GAP = 1.5e-3  # between two maxima, in units of θ, that count as different
MOST = 16  # maxima of the longest cycle that is told from chaos
STEPS = 8  # of the Illinois method; maxima feel the square of the error they leave


@dataclass(frozen=True, eq=False)
class Maxima:
    """Local maxima of trajectories in the order of time, and the times at which they occur; NaN behind the last."""

    values: Float[np.ndarray, "rows maxima"]
    times: Float[np.ndarray, "rows maxima"]

    def counts(self, gap: float = GAP) -> Int[np.ndarray, "rows"]:
        """How many different maxima each trajectory has: clusters between which there is a gap."""
        return _clusters(np.sort(self.values, axis=1), gap).max(axis=1, initial=-1) + 1

    def repeats(self, gap: float = GAP, most: int = MOST) -> Int[np.ndarray, "rows"]:
        """After how many maxima, at most `most`, they repeat up to the gap; 0 where they do not, or there is none.

        Of chaos this can be told, of the number of different maxima not: it is small for bands without gaps.
        """
        result = np.zeros(len(self.values), int)
        for c in range(min(most, self.values.shape[1] - 1), 0, -1):
            change = np.abs(self.values[:, c:] - self.values[:, :-c])
            known = (~np.isnan(change)).sum(axis=1) >= c
            result[known & ~(change > gap).any(axis=1)] = c
        return result

    def cycles(self, gap: float = GAP, most: int = MOST) -> Float[np.ndarray, "rows most"]:
        """The maxima that repeat, rising; NaN behind the last."""
        repeats, total = self.repeats(gap, most), (~np.isnan(self.values)).sum(axis=1)
        columns = (total - repeats)[:, None] + np.arange(most)
        last = np.take_along_axis(self.values, np.minimum(columns, self.values.shape[1] - 1), 1)
        return np.sort(np.where(np.arange(most) < repeats[:, None], last, np.nan), axis=1)

    def periods(self, gap: float = GAP) -> Float[np.ndarray, "rows"]:
        """Time until the maxima repeat, averaged over all repetitions; NaN where they do not."""
        repeats, total = self.repeats(gap), (~np.isnan(self.values)).sum(axis=1)
        turns = np.where(repeats > 0, (total - 1) // np.maximum(repeats, 1), 0)
        last = np.take_along_axis(self.times, (turns * repeats)[:, None], 1)[:, 0]
        return np.where(turns > 0, (last - self.times[:, 0]) / np.maximum(turns, 1), np.nan)


@torch.no_grad()
def local_maxima(segment_map: SegmentMap, segments: Float[Tensor, "k *batch nodes"]) -> Maxima:
    """Maxima on all but the first of successive segments, which gives the second one its derivative.

    Rows of the result are the flattened batch; times count from the beginning of the second segment.
    """
    slopes = segment_map.derivative(segments[:-1], segments[1:])
    size, rows = slopes.shape[-1], slopes[0, ..., 0].numel()
    values, slopes = segments[1:].reshape(-1, size), slopes.reshape(-1, size)
    event, cell = ((slopes[:, :-1] > 0) & (slopes[:, 1:] <= 0)).nonzero(as_tuple=True)
    x = _root(segment_map, slopes[event], cell)
    found = _evaluate(segment_map, values[event], x)
    row, delays = event % rows, event // rows + x
    tau = torch.as_tensor(segment_map.system.tau, dtype=x.dtype).to(x).expand(segments.shape[1:-1]).reshape(-1)
    order = row.argsort(stable=True)  # events are in the order of segments
    row, number = row[order], torch.bincount(row, minlength=rows)
    column = torch.arange(len(row), device=row.device) - (number.cumsum(0) - number)[row]
    table = torch.full((2, rows, max(1, int(number.max()))), torch.nan, dtype=torch.float64)
    table[:, row.cpu(), column.cpu()] = torch.stack([found[order], (delays * tau[event % rows])[order]]).double().cpu()
    return Maxima(table[0].numpy(), table[1].numpy())


def unit_of(system: Any) -> Float[np.ndarray, "*batch"]:
    """θ, the unit of the state; 1 for equations that have none."""
    return torch.as_tensor(system.parameters.get("theta", 1.0), dtype=torch.float64).detach().cpu().numpy()


def check_finite(segments: Float[Tensor, "*any"]) -> None:
    """Raise `ConfigError` if there are values that are infinite or no numbers."""
    if not bool(torch.isfinite(segments).all()):
        raise ConfigError("trajectories became infinite or no numbers: raise n_nodes, or take smoother histories")


def _root(
    segment_map: SegmentMap, slopes: Float[Tensor, "events nodes"], cell: Int[Tensor, "events"]
) -> Float[Tensor, "events"]:
    """Where the slope falls through zero between the nodes `cell` and `cell + 1`, as part of a delay."""
    nodes = torch.from_numpy(lobatto_nodes(segment_map.n_nodes, segment_map.panels)).to(slopes)
    left, right = nodes[cell], nodes[cell + 1]
    above, below = (slopes.gather(1, i[:, None])[:, 0] for i in (cell, cell + 1))
    x, last = left, torch.zeros_like(cell)
    for _ in range(STEPS):
        x = (left * below - right * above) / (below - above)
        slope = _evaluate(segment_map, slopes, x)
        side = torch.where(slope > 0, 1, -1)
        # an end that stays for the second time counts half, so that both ends approach the root
        half = torch.where(side == last, 0.5, 1.0)
        above, below = torch.where(side > 0, slope, half * above), torch.where(side > 0, half * below, slope)
        left, right, last = torch.where(side > 0, x, left), torch.where(side > 0, right, x), side
    return x


def _evaluate(
    segment_map: SegmentMap, values: Float[Tensor, "events nodes"], x: Float[Tensor, "events"]
) -> Float[Tensor, "events"]:
    columns, basis = basis_on_panels(x, segment_map.n_nodes, segment_map.panels)
    return (values.gather(1, columns) * basis).sum(-1)


def _clusters(ordered: Float[np.ndarray, "rows maxima"], gap: float) -> Int[np.ndarray, "rows maxima"]:
    """Number of the cluster of each of sorted values, −1 for NaN."""
    steps = np.diff(ordered, axis=1, prepend=ordered[:, :1]) > gap  # False where there is NaN
    return np.where(np.isnan(ordered), -1, steps.cumsum(axis=1))
