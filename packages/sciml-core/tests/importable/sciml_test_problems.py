"""Problems that worker processes can import."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import xarray
from sciml.data import Problem


@dataclass(frozen=True)
class Walk(Problem):
    """A random walk mixed by a matrix product, whose rounding depends on the number of rows and threads."""

    chunk: ClassVar[int] = 16

    n_steps: int = 7
    scale: float = 1.0

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        if log := os.environ.get("WALK_LOG"):
            with Path(log).open("a") as file:
                file.write(f"{seeds[0].spawn_key[0] // self.chunk}\n")
        steps = np.stack([np.random.default_rng(seed).normal(size=self.n_steps) for seed in seeds])
        mixing = np.cos(np.arange(self.n_steps * 300).reshape(self.n_steps, 300))
        mixed = torch.from_numpy(steps @ mixing) @ torch.from_numpy(mixing.T)
        return xarray.Dataset(
            {
                "path": (("sample", "time"), self.scale * steps.cumsum(1), {"units": "m"}),
                "mixed": (("sample", "time"), mixed.numpy()),
                "zero": (("sample",), np.full(len(seeds), -0.0)),
                "ups": (("sample",), (steps > 0).sum(1)),
                "up": (("sample",), steps[:, -1] > 0),
            },
            coords={"time": ("time", np.arange(self.n_steps) * 0.1, {"units": "s"})},
            attrs={"solver": "exact"},
        )


@dataclass(frozen=True)
class Threads(Problem):
    """Records the number of threads that it is given."""

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        return xarray.Dataset({"threads": (("sample",), np.full(len(seeds), torch.get_num_threads()))})


@dataclass(frozen=True)
class Cloud(Problem):
    """Point clouds of different sizes, padded within a chunk."""

    chunk: ClassVar[int] = 4
    ragged: ClassVar[tuple[str, ...]] = ("point",)

    largest: int = 9

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        generators = [np.random.default_rng(seed) for seed in seeds]
        sizes = np.array([generator.integers(1, self.largest + 1) for generator in generators])
        points = np.full((len(seeds), sizes.max(), 2), np.nan)
        for i, generator in enumerate(generators):
            points[i, : sizes[i]] = generator.normal(size=(sizes[i], 2))
        return xarray.Dataset(
            {"points": (("sample", "point", "axis"), points), "size": (("sample",), sizes)},
            coords={"axis": ("axis", ["x", "y"])},
        )


@dataclass(frozen=True)
class Big(Problem):
    """One megabyte a chunk."""

    chunk: ClassVar[int] = 16

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        values = np.stack([np.random.default_rng(seed).normal(size=8192) for seed in seeds])
        return xarray.Dataset({"u": (("sample", "x"), values)})


@dataclass(frozen=True)
class Failing(Problem):
    """Fails in its third chunk."""

    chunk: ClassVar[int] = 2

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        if seeds[0].spawn_key[0] == 4 and "HEALED" not in os.environ:
            raise RuntimeError("the solver diverged")
        return xarray.Dataset({"u": (("sample",), [float(seed.spawn_key[0]) for seed in seeds])})


@dataclass(frozen=True)
class Deadly(Problem):
    """Ends its process."""

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        os._exit(9)
