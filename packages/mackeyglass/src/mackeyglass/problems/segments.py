"""Pairs of successive segments, from which maps of segments are learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from sciml.data import Problem
from torch import Tensor

from mackeyglass.chebyshev import basis_on_panels, lobatto_nodes
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.problems._checks import check_ranges, check_whole
from mackeyglass.resolution import resolution, warn_unresolved
from mackeyglass.segment_map import SegmentMap, enough_panels

CHUNK = 2**22  # numbers held at once


@dataclass(frozen=True)
class Segments(Problem):
    """Windows of long runs: u on [t−τ, t] and on [t, t+τ], at Chebyshev–Lobatto nodes; β = 2, γ = θ = 1.

    Each sample is one run with its own n, τ and history. Datasets have the variables ``history`` and ``following``
    ``(run, window, node)`` and the times t of windows, in delays after the transient, rising along a run. Windows of
    one run overlap in time: divide them into training and test data by run or by time, never at random.

    Parameters
    ----------
    n, tau
        Ranges from which n and γτ of a run are drawn uniformly.
    windows
        Number of windows of a run, at times drawn uniformly.
    delays, transient
        Length of a run, and what is dropped before it, in delays.
    history
        Range of the constant history of a run.
    nodes
        M: segments have M + 1 values, whatever τ. Runs are computed with so many nodes in each 4/γ of a delay.

    Notes
    -----
    The attribute ``resolution`` of a dataset is about the largest relative error in a delay, of runs and of what is
    written. For M = 32 it is 1e-8 at the default n and τ.

    Raises
    ------
    ConfigError
        If a field is out of range.

    Warns
    -----
    UserWarning
        If M nodes do not resolve all segments.
    """

    sample_dim: ClassVar[str] = "run"
    chunk: ClassVar[int] = 32

    n: Sequence[float | int] = (10.0, 10.0)
    tau: Sequence[float | int] = (1.7, 1.7)
    windows: int = 20
    delays: int = 100
    transient: int = 100
    history: Sequence[float | int] = (0.5, 1.3)
    nodes: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, n=1.0, tau=0.0, history=0.0)
        check_whole(self, windows=1, delays=2, transient=0, nodes=2)

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        draws = [self._draw(np.random.default_rng(seed)) for seed in seeds]
        n, tau, starts, times = (np.stack(values) for values in zip(*draws, strict=True))
        found, worst = self._pairs(*map(torch.from_numpy, (n, tau, starts, times)))
        warn_unresolved(worst, self.nodes, torch.float64, "nodes")
        pairs = found.numpy()
        dims = ("run", "window", "node")
        value, scaled = {"units": "1", "long_name": "u"}, {"units": "1", "long_name": "time in delays"}
        return xarray.Dataset(
            {"history": (dims, pairs[:, :, 0], value), "following": (dims, pairs[:, :, 1], value)},
            {
                "n": ("run", n, {"units": "1"}),
                "tau": ("run", tau, {"units": "1", "long_name": "γτ"}),
                "start": ("run", starts, {"units": "1", "long_name": "value of the constant history"}),
                "time": (("run", "window"), times, scaled),
                "window": ("window", np.arange(self.windows)),
                "node": ("node", lobatto_nodes(self.nodes), scaled),
            },
            {
                "beta": 2.0,
                "gamma": 1.0,
                "theta": 1.0,
                "integrator": "spectral method of steps",
                "M": self.nodes,
                "resolution": worst,
            },
        )

    def _draw(self, random: np.random.Generator) -> tuple[float, float, float, np.ndarray]:
        n, tau, start = (random.uniform(low, high) for low, high in (self.n, self.tau, self.history))
        # windows of two delays, that fit into the run
        return n, tau, start, np.sort(random.uniform(1, self.delays - 1, self.windows))

    def _pairs(
        self,
        n: Float[Tensor, "run"],
        tau: Float[Tensor, "run"],
        starts: Float[Tensor, "run"],
        times: Float[Tensor, "run window"],
    ) -> tuple[Float[Tensor, "run window two nodes"], float]:
        """Segments, and the worst resolution of runs and of what is written."""
        # runs of one delay share their matrices
        delay = tau if self.tau[0] < self.tau[1] else float(self.tau[0])
        system = MackeyGlass(n=n if self.n[0] < self.n[1] else float(self.n[0]), tau=delay)
        panels = enough_panels(system)
        segment_map = SegmentMap(system, self.nodes, panels)
        U = segment_map.history(starts[:, None])
        for _ in range(self.transient):
            U = segment_map(U)
        local = torch.from_numpy(lobatto_nodes(self.nodes))
        points = times[:, :, None] + torch.cat([local - 1, local])  # between 0 and `delays`
        values, worst = torch.empty_like(points), 0.0
        chunk = max(1, CHUNK // U.numel())
        for first in range(0, self.delays, chunk):
            segments = segment_map.trajectory(U, min(chunk, self.delays - first))
            U = segments[-1]
            worst = max(worst, segment_map.resolution(segments[::8]).max().item())
            index = points.floor().long().clamp(max=self.delays - 1) - first
            inside = ((index >= 0) & (index < len(segments))).nonzero()
            for run, window, point in (part.unbind(-1) for part in inside.split(CHUNK // (4 * U.shape[-1]))):
                here = index[run, window, point]
                columns, basis = basis_on_panels(points[run, window, point] - first - here, self.nodes, panels)
                values[run, window, point] = (segments[here, run].gather(-1, columns) * basis).sum(-1)
        pairs = values.unflatten(-1, (2, -1))
        return pairs, max(worst, resolution(pairs, self.nodes).max().item())
