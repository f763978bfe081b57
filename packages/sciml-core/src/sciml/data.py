"""Problems that generate data, and the batches that training reads."""

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from sciml import store
from sciml.errors import ConfigError, DataError, ShapeError
from sciml.executors import capacity, get_executor
from sciml.progress import Progress
from sciml.store import open_dataset as open_dataset
from sciml.store import to_netcdf as to_netcdf

_ONE_AT_A_TIME = threading.Lock()


class Problem:
    """Base of all problems: a frozen dataclass of JSON fields, whose `simulate` computes one chunk of samples.

    Sample i draws from `SeedSequence(seed, spawn_key=(i,))` and is the same, bit for bit, whatever the executor,
    the number of workers and `n`. Chunks are computed whole and single-threaded, the last one is then cut.
    `ragged` names the dimensions whose length may differ from chunk to chunk.
    """

    sample_dim: ClassVar[str] = "sample"
    chunk: ClassVar[int] = 64
    ragged: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *_: Any, **__: Any) -> Any:
        parameters = getattr(cls, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            raise ConfigError(f"{cls.__name__} must be a frozen dataclass: decorate it with @dataclass(frozen=True)")
        for f in dataclasses.fields(cls):  # type: ignore[arg-type]
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise ConfigError(f"{cls.__name__}.{f.name} has no default: every field of a problem needs one")
        if cls.chunk < 1:
            raise ConfigError(f"{cls.__name__}.chunk={cls.chunk} must be at least 1")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self.config()

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        """One chunk of samples, batched, `sample_dim` first."""
        raise NotImplementedError(f"{type(self).__name__} must define simulate(seeds)")

    def config(self) -> dict[str, Any]:
        """The fields as JSON.

        Raises
        ------
        ConfigError
            If a field is not JSON.
        """
        plain = {}
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            try:
                plain[f.name] = json.loads(json.dumps(value, allow_nan=False))
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"{type(self).__name__}.{f.name}={value!r} must be JSON (finite numbers, strings, booleans, "
                    f"None, lists and dicts of these): {error}"
                ) from error
        return plain

    def generate(
        self, n: int, seed: int = 0, *, executor: str | Executor | None = None, progress: bool = False
    ) -> xarray.Dataset:
        """`n` samples in memory, computed in this process or where `executor` says (see `get_executor`).

        Raises
        ------
        ConfigError
            If `n` is not positive or `seed` is negative.
        DataError
            If `simulate` returns a dataset of the wrong shape.
        """
        attributes = _attributes(self, n, seed)
        parts: dict[int, xarray.Dataset] = {}
        with _workers(executor, attributes["problem"]) as pool:
            indices = list(range(-(-n // self.chunk)))
            tasks = _each(pool, simulate_chunk, indices, (self, seed), attributes["problem"], progress)
            for index, part in tasks:
                parts[index] = part
        ordered = [parts[index] for index in indices]
        return store.join(ordered, attributes).load()


def generate(
    problem: Problem,
    n: int,
    seed: int = 0,
    *,
    out: str | os.PathLike[str],
    executor: str | Executor | None = None,
    name: str | None = None,
    progress: bool = False,
) -> Path:
    """`n` samples in one Zarr store, which may be larger than memory; `open_dataset` reads it.

    Each chunk is written where it is computed, then marked complete. Run again after a crash, only the chunks
    without mark are computed; with a larger `n`, the store grows. On a cluster `out` is on a shared file system.

    Parameters
    ----------
    out
        Path of the store, new or existing.
    name
        Recorded as the name of the problem; default its registered name, else its class.

    Raises
    ------
    ConfigError
        If `n` is not positive or `seed` is negative.
    DataError
        If `out` is no store, or one of another problem, configuration, seed or chunk, or holds more samples.
    """
    attributes = _attributes(problem, n, seed, name)
    path = Path(out).absolute()
    existing = store.header(path)
    with _workers(executor, attributes["problem"]) as pool:
        if existing is None:
            pool.submit(_create_store, problem, seed, path, attributes).result()
        else:
            store.extend(path, attributes)
        for _ in _each(pool, _write_chunk, store.missing(path), (problem, seed, path), attributes["problem"], progress):
            pass
    return path


def simulate_chunk(index: int, problem: Problem, seed: int) -> xarray.Dataset:
    """Chunk `index` of the problem's samples, computed whole with one thread.

    Raises
    ------
    DataError
        If `simulate` returns another number of samples, attributes of names that stores need, or `sample_dim` is not
        first.
    """
    samples = range(index * problem.chunk, (index + 1) * problem.chunk)
    seeds = [np.random.SeedSequence(seed, spawn_key=(i,)) for i in samples]
    # the limits are those of the process: a second thread would lift them while the first still computes
    with _ONE_AT_A_TIME:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with threadpool_limits(1):
                data = problem.simulate(seeds)
        finally:
            torch.set_num_threads(threads)
    dim, kind = problem.sample_dim, type(problem).__name__
    if data.sizes.get(dim) != len(seeds):
        raise DataError(f"{kind}.simulate returned {dict(data.sizes)}; expected {dim}={len(seeds)}")
    for name, variable in data.variables.items():
        if dim in variable.dims[1:]:
            raise DataError(f"{kind}.simulate returned {name} with dims {variable.dims}; {dim} must be first")
    if taken := sorted({*store.IDENTITY, "format", "samples"}.intersection(data.attrs)):
        raise DataError(f"{kind}.simulate returned attributes {', '.join(taken)}, which stores set: use other names")
    return data


def _create_store(problem: Problem, seed: int, path: Path, attributes: dict[str, Any]) -> None:
    store.create(path, attributes, simulate_chunk(0, problem, seed))


def _write_chunk(index: int, problem: Problem, seed: int, path: Path) -> None:
    store.write(path, index, simulate_chunk(index, problem, seed))


def _attributes(problem: Problem, n: int, seed: int, name: str | None = None) -> dict[str, Any]:
    if n < 1 or seed < 0:
        raise ConfigError(f"n={n} must be at least 1, and seed={seed} must not be negative")
    from sciml.registry import problems

    cls = type(problem)
    registered = [e.name for e in problems.values() if (e.module, e.attribute) == (cls.__module__, cls.__qualname__)]
    return {
        "format": store.FORMAT,
        "problem": name or (registered[0] if registered else cls.__qualname__),
        "config": json.dumps(problem.config(), sort_keys=True),
        "seed": seed,
        "samples": n,
        "sample_dim": problem.sample_dim,
        "chunk": problem.chunk,
        "ragged": list(problem.ragged),
    }


@contextlib.contextmanager
def _workers(spec: str | Executor | None, name: str) -> Iterator[Executor]:
    try:
        with get_executor(spec) as pool:
            yield pool
    except BrokenExecutor as error:
        raise DataError(
            f"a worker process of {name} ended abruptly: out of memory, or killed, or the calling script lacks "
            '`if __name__ == "__main__":`. A store keeps its finished chunks: run again to compute the others.'
        ) from error


def _each(
    pool: Executor, fn: Any, indices: Sequence[int], arguments: tuple[Any, ...], name: str, progress: bool
) -> Iterator[tuple[int, Any]]:
    """(index, fn(index, *arguments)) as they finish, with a bounded number in flight."""
    left, limit = iter(indices), capacity(pool)
    running: dict[Future[Any], int] = {}
    try:
        with Progress(name, len(indices), active=progress) as bar:
            while True:
                while len(running) < limit and (index := next(left, None)) is not None:
                    running[pool.submit(fn, index, *arguments)] = index
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index = running.pop(future)
                    result = future.result()
                    bar.advance()
                    yield index, result
    finally:
        for future in running:
            future.cancel()


class Normalizer(nn.Module):
    """(x - mean) / std for each component along dimension `dim`; its statistics are saved with the model.

    A component whose standard deviation is at most `eps` times its largest absolute value is constant but for
    rounding: it is shifted and not scaled.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, n_components: int, *, dim: int = 1, eps: float = 1e-7, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.register_buffer("mean", torch.zeros(n_components, dtype=dtype))
        self.register_buffer("std", torch.ones(n_components, dtype=dtype))

    def fit(self, data: Tensor | Iterator[Tensor]) -> "Normalizer":
        """Take mean and standard deviation (population) from a tensor, or from batches in one pass.

        Raises
        ------
        ShapeError
            If the number of components differs.
        DataError
            If there is no data or it is not finite.
        """
        count, mean, square, largest = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
        for batch in [data] if isinstance(data, Tensor) else data:
            if batch.shape[self.dim] != len(self.mean):
                raise ShapeError(
                    f"dimension {self.dim} of {tuple(batch.shape)} has {batch.shape[self.dim]} components; "
                    f"expected {len(self.mean)}"
                )
            values = batch.detach().to(device="cpu", dtype=torch.float64).movedim(self.dim, 0).flatten(1)
            m = values.shape[1]
            if m == 0:
                continue
            # Chan, Golub & LeVeque (1983), eq. (2.1): update of the sum of squared deviations
            delta = values.mean(1) - mean
            square = square + values.var(1, correction=0) * m + delta**2 * (count * m / (count + m))
            mean = mean + delta * (m / (count + m))
            largest = torch.maximum(largest, values.abs().amax(1))
            count += m
        if count == 0 or not bool(torch.isfinite(mean).all() and torch.isfinite(square).all()):
            raise DataError("a normalizer needs at least one sample, and finite ones only")
        std = (square / count).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std <= self.eps * largest, 1.0, std))
        return self

    def forward(self, x: Tensor) -> Tensor:
        return (x - self._along(self.mean, x)) / self._along(self.std, x)

    def inverse(self, x: Tensor) -> Tensor:
        """The field whose normalised form is `x`."""
        return x * self._along(self.std, x) + self._along(self.mean, x)

    def _along(self, value: Tensor, x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[self.dim] = -1
        return value.view(shape)


class ArrayDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Variables of an xarray dataset as tensors, read from the store when a sample is asked for.

    Real numbers are given as `dtype`, complex ones as the complex type of that precision; integers and booleans stay
    as they are, since indices are not exact in floating point. With `dtype=None` nothing is converted.

    Raises
    ------
    ConfigError
        If a variable is not in the dataset, or is neither number nor boolean; if `dtype` is not real floating-point.
    ShapeError
        If the variables do not share their first dimension.
    """

    def __init__(
        self, dataset: xarray.Dataset, variables: Sequence[str], dtype: torch.dtype | None = torch.float32
    ) -> None:
        if unknown := [name for name in variables if name not in dataset.variables]:
            raise ConfigError(
                f"no variable {', '.join(unknown)}: the dataset has {', '.join(sorted(map(str, dataset)))}"
            )
        self.arrays = {name: dataset[name].variable for name in variables}
        if wrong := {name: str(a.dtype) for name, a in self.arrays.items() if a.dtype.kind not in "biufc"}:
            raise ConfigError(f"tensors hold numbers and booleans, not {wrong}: convert or leave out these variables")
        if dtype is not None and not dtype.is_floating_point:
            raise ConfigError(f"dtype={dtype} must be a real floating-point type, or None to convert nothing")
        if len({(a.dims[:1], a.shape[:1]) for a in self.arrays.values()}) != 1:
            sizes = {name: dict(array.sizes) for name, array in self.arrays.items()}
            raise ShapeError(f"the variables must share their first dimension: {sizes}")
        self.dtype = dtype

    def __len__(self) -> int:
        return next(iter(self.arrays.values())).shape[0]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return {name: value[0] for name, value in self.read(torch.tensor([index % len(self)])).items()}

    def read(self, indices: Tensor) -> dict[str, Tensor]:
        """The samples `indices` as one batch; each chunk of the store is read once."""
        unique, inverse = np.unique(indices.numpy(), return_inverse=True)
        return {name: self._tensor(np.asarray(array[unique].values)[inverse]) for name, array in self.arrays.items()}

    def _tensor(self, values: np.ndarray) -> Tensor:
        if self.dtype is None or values.dtype.kind not in "fc":
            return torch.as_tensor(values)
        return torch.as_tensor(values, dtype=self.dtype.to_complex() if values.dtype.kind == "c" else self.dtype)


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """Permutation of `n` samples, a function of (seed, epoch) alone."""
    key = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
    return torch.randperm(n, generator=torch.Generator().manual_seed(key))


class BatchLoader:
    """Batches of samples, from tensors or an `ArrayDataset`, in an order that depends on (seed, epoch) only."""

    def __init__(
        self,
        source: Mapping[str, Tensor] | ArrayDataset,
        batch_size: int,
        seed: int = 0,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1 or seed < 0:
            raise ConfigError(f"batch_size={batch_size} must be at least 1, and seed={seed} must not be negative")
        self.source = source if isinstance(source, ArrayDataset) else dict(source)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        if isinstance(self.source, ArrayDataset):
            self.n = len(self.source)
        else:
            lengths = {name: len(value) for name, value in self.source.items()}
            if len(set(lengths.values())) != 1:
                raise ShapeError(f"the tensors differ in their first dimension: {lengths}")
            self.n = next(iter(lengths.values()))
        self.used = self.n - self.n % batch_size if drop_last else self.n
        if self.used == 0:
            raise ConfigError(f"{self.n} samples make no batch of {batch_size}: lower batch_size or keep the last one")

    def __len__(self) -> int:
        return -(-self.used // self.batch_size)

    def batch_length(self, index: int) -> int:
        """Number of samples in the global batch `index`."""
        return min(self.batch_size, self.used - index * self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Indices of the samples in the order of `epoch`."""
        order = epoch_order(self.n, self.seed, epoch) if self.shuffle else torch.arange(self.n)
        return order[: self.used]

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[dict[str, Tensor]]:
        """Batches of `epoch` from number `start` on; with several processes, this rank's share of each.

        The shares differ by at most one sample.

        Raises
        ------
        ConfigError
            If the last batch has fewer samples than there are processes: the mean over no sample is NaN.
        """
        last = self.batch_length(len(self) - 1)
        if last < world:
            raise ConfigError(
                f"the last batch has {last} of {self.used} samples, too few for {world} processes: "
                f"change batch_size={self.batch_size}, or leave it out with drop_last=True"
            )
        for chosen in self.order(epoch).split(self.batch_size)[start:]:
            mine = chosen.tensor_split(world)[rank]
            if isinstance(self.source, ArrayDataset):
                yield self.source.read(mine)
            else:
                yield {name: value[mine] for name, value in self.source.items()}
