"""Problems that generate data, and the batches that training reads."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from threadpoolctl import threadpool_limits
from torch import Tensor

from sciml.errors import ConfigError, ShapeError


class Problem:
    """Base of all problems: a frozen dataclass of JSON fields, whose `simulate` computes one chunk of samples.

    Sample i draws from `SeedSequence(seed, spawn_key=(i,))` and is the same whatever the executor, the number of
    workers and `n`. Chunks are computed whole and single-threaded, the last one is then cut.
    """

    sample_dim: ClassVar[str] = "sample"
    chunk: ClassVar[int] = 64

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        """One chunk of samples, batched, `sample_dim` first."""
        raise NotImplementedError(f"{type(self).__name__} must define simulate(seeds)")

    def config(self) -> dict[str, Any]:
        """The fields as JSON.

        Raises
        ------
        ConfigError
            If the problem is no dataclass or a field is not JSON.
        """
        if not dataclasses.is_dataclass(self):
            raise ConfigError(f"{type(self).__name__} must be a frozen dataclass")
        fields = dataclasses.asdict(self)
        try:
            return json.loads(json.dumps(fields, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the fields of {type(self).__name__} must be JSON: {error}") from error

    def generate(self, n: int, seed: int = 0, *, executor: Executor | None = None) -> xarray.Dataset:
        """`n` samples in memory, computed in this process or by `executor`.

        Raises
        ------
        ConfigError
            If `n` is not positive or `seed` is negative.
        """
        if n < 1 or seed < 0:
            raise ConfigError(f"n={n} must be at least 1, and seed={seed} must not be negative")
        indices = range(-(-n // self.chunk))
        run = map if executor is None else executor.map
        chunks = list(run(simulate_chunk, [self] * len(indices), [seed] * len(indices), indices))
        joined = xarray.concat(chunks, self.sample_dim, data_vars="minimal", coords="minimal", combine_attrs="override")
        joined = joined.isel({self.sample_dim: slice(0, n)})
        return joined.assign_attrs(problem=type(self).__name__, config=json.dumps(self.config()), seed=seed)


def simulate_chunk(problem: Problem, seed: int, index: int) -> xarray.Dataset:
    """Chunk `index` of the problem's samples, computed whole with one thread."""
    samples = range(index * problem.chunk, (index + 1) * problem.chunk)
    seeds = [np.random.SeedSequence(seed, spawn_key=(i,)) for i in samples]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return problem.simulate(seeds)
    finally:
        torch.set_num_threads(threads)


class BatchLoader:
    """Batches of tensors that share their first dimension, in an order that depends on (seed, epoch) only."""

    def __init__(self, tensors: Mapping[str, Tensor], batch_size: int, seed: int = 0, *, shuffle: bool = True) -> None:
        lengths = {name: len(value) for name, value in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ShapeError(f"the tensors differ in their first dimension: {lengths}")
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1")
        self.tensors, self.batch_size, self.seed, self.shuffle = dict(tensors), batch_size, seed, shuffle
        self.n = next(iter(lengths.values()))

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def batch_length(self, index: int) -> int:
        """Number of samples in the global batch `index`."""
        return min(self.batch_size, self.n - index * self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Indices of the samples in the order of `epoch`."""
        if not self.shuffle:
            return torch.arange(self.n)
        key = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
        return torch.randperm(self.n, generator=torch.Generator().manual_seed(key))

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[dict[str, Tensor]]:
        """Batches of `epoch` from number `start` on; with several processes, this rank's share of each."""
        for chosen in self.order(epoch).split(self.batch_size)[start:]:
            mine = chosen.tensor_split(world)[rank]
            yield {name: value[mine] for name, value in self.tensors.items()}
