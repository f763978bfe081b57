"""The chaotic series on which forecasting is compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import xarray
from sciml.data import Problem

from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.problems._checks import check_not_negative, check_numbers, check_ranges, check_whole
from mackeyglass.simulation import simulate

HISTORY = "constant, drawn uniformly from the range of the field history"


@dataclass(frozen=True)
class TimeSeries(Problem):
    """Samples of solutions on the attractor, in classic units: u' = −0.1u + 0.2f(u(t−τ)), n = 10, τ = 17 or 30.

    Datasets have the variable ``u (series, time)``, unscaled: `forecasting.squash` is the transform tanh(u − 1) that
    some of the literature applies.

    Parameters
    ----------
    tau, n, beta, gamma
        Of the equation. The classic benchmarks have τ = 17 (dimension 2.1) and τ = 30 (3.6).
    time_step
        Between samples, in the units of τ.
    length
        Number of samples of a series.
    transient
        Time before the first sample, which is dropped.
    history
        Range of the constant history of a series.
    nodes
        M of the `SegmentMap`.

    Notes
    -----
    Series are reproducible bit for bit. As trajectories they are exact to `accuracy` for the default length; chaos
    makes errors of rounding grow by e^{λ₁t} (λ₁ = 0.0051 at τ = 17), so that beyond some 6000 time units any two
    accurate solvers give different series of the same attractor.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    sample_dim: ClassVar[str] = "series"
    chunk: ClassVar[int] = 4
    accuracy: ClassVar[float] = 1e-6

    tau: float | int = 17.0
    n: float | int = 10.0
    beta: float | int = 0.2
    gamma: float | int = 0.1
    time_step: float | int = 1.0
    length: int = 1000
    transient: float | int = 1000.0
    history: Sequence[float | int] = (0.5, 1.3)
    nodes: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, tau=0.0, n=1.0, beta=0.0, gamma=0.0, time_step=0.0)
        check_not_negative(self, "transient")
        check_whole(self, length=1, nodes=2)
        check_ranges(self, history=0.0)

    def system(self) -> MackeyGlass:
        """The equation."""
        return MackeyGlass(beta=self.beta, gamma=self.gamma, n=self.n, tau=self.tau)

    def refined(self) -> "TimeSeries":
        """The same problem with twice the nodes."""
        return replace(self, nodes=2 * self.nodes)

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        low, high = self.history
        starts = np.array([np.random.default_rng(seed).uniform(low, high) for seed in seeds])
        times = self.transient + self.time_step * np.arange(self.length)
        end = float(times[-1]) or self.tau
        found = simulate(
            self.system(), torch.from_numpy(starts)[:, None], (0.0, end), saveat=times, n_per_delay=self.nodes
        )
        dims, classic = ("series", "time"), {"units": "1", "long_name": "time in the units of the delay"}
        return xarray.Dataset(
            {"u": (dims, found["u"].values, {"units": "1", "long_name": "u/θ"})},
            {
                "time": ("time", times - self.transient, classic),
                "tau": ("series", np.full(len(seeds), float(self.tau)), classic),
                "n": ("series", np.full(len(seeds), float(self.n)), {"units": "1"}),
                "seed": ("series", [seed.spawn_key[-1] for seed in seeds], {"long_name": "number of the series' seed"}),
                "start": ("series", starts, {"units": "1", "long_name": "value of the constant history"}),
            },
            {
                **{name: float(value) for name, value in self.system().parameters.items()},
                "integrator": "spectral method of steps (mackeyglass.SegmentMap)",
                "M": self.nodes,
                "panels": found.attrs["panels"],
                "resolution": found.attrs["resolution"],
                "history": HISTORY,
                "transient": float(self.transient),
            },
        )
