"""Training at several resolutions: batches of each, drawn at random (arXiv:2506.10973, §4)."""

from collections.abc import Iterator, Sequence

import numpy as np
from sciml.data import BatchLoader
from sciml.errors import ConfigError
from torch import Tensor


class MultiResolutionLoader:
    """Every step takes a batch of one of the loaders that still have some, each as likely; an epoch ends with the last.

    The order is a function of (seed, epoch) alone. Batch lengths differ by loader, so that `batch_length` answers for
    the epoch whose `batches` were asked for last.
    """

    def __init__(self, loaders: Sequence[BatchLoader], seed: int = 0) -> None:
        if not loaders:
            raise ConfigError("loaders is empty: give one for each resolution.")
        self.loaders, self.seed = list(loaders), seed
        self.current = self.turns(0)

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def turns(self, epoch: int) -> list[tuple[int, int]]:
        """(loader, number of its batch) for every step of `epoch`."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch]))
        lengths, done, order = [len(loader) for loader in self.loaders], [0] * len(self.loaders), []
        while left := [i for i, n in enumerate(lengths) if done[i] < n]:
            i = left[int(rng.integers(len(left)))]
            order.append((i, done[i]))
            done[i] += 1
        return order

    def batch_length(self, index: int) -> int:
        """Number of samples in the global batch `index` of the current epoch."""
        loader, batch = self.current[index]
        return self.loaders[loader].batch_length(batch)

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[dict[str, Tensor]]:
        """Batches of `epoch` from number `start` on; with several processes, this rank's share of each."""
        self.current = self.turns(epoch)
        begun = [sum(i == k for k, _ in self.current[:start]) for i in range(len(self.loaders))]
        streams = [loader.batches(epoch, first, rank, world) for loader, first in zip(self.loaders, begun, strict=True)]
        return (next(streams[i]) for i, _ in self.current[start:])
