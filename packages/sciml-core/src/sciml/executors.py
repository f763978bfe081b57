"""Where embarrassingly parallel work runs, always behind `concurrent.futures.Executor`."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

from sciml.errors import ConfigError
from sciml.registry import own_version

CHOICES = "serial, processes, processes:<workers>, dask://<host>:<port>, mpi"


class SerialExecutor(Executor):
    """Runs each call in this process at the moment it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def get_executor(spec: str | Executor | None = None, workers: int | None = None) -> Iterator[Executor]:
    """The executor that `spec` names, shut down at the end; an `Executor` is passed through and stays open.

    Parameters
    ----------
    spec
        None or `"serial"`: this process (scripts often lack the `__main__` guard that processes need).
        `"processes"` or `"processes:4"`: processes on this machine. `"dask://host:port"`: a running Dask
        scheduler. `"mpi"`: the ranks of `mpirun -n N python -m mpi4py.futures …`.
    workers
        Number of processes; default all cores. For `"mpi"` the number of ranks used.

    Raises
    ------
    ConfigError
        If `spec` is unknown, the number of workers is not positive, the scheduler does not answer, or the
        extra that it needs is not installed.
    """
    if isinstance(spec, Executor):
        yield spec
        return
    kind, argument = check_executor(spec)
    if kind == "processes" and argument:
        workers = int(argument)
    if workers is not None and workers < 1:
        raise ConfigError(f"an executor needs at least 1 worker, not {workers}")
    if kind == "serial":
        yield SerialExecutor()
    elif kind == "processes":
        with _shutdown(_processes(workers)) as executor:
            yield executor
    elif kind == "dask":
        with _dask(argument.strip("/")) as executor:
            yield executor
    else:
        with _shutdown(_mpi(workers)) as executor:
            yield executor


def check_executor(spec: str | None) -> tuple[str, str]:
    """The kind that `spec` names and its argument, without making anything. ConfigError if it is malformed."""
    kind, _, argument = ("serial" if spec is None else spec).partition(":")
    if kind == "processes" and argument and not (argument.isdecimal() and int(argument) > 0):
        raise ConfigError(f"executor {spec!r}: expected a number of workers, for instance processes:4")
    if not (
        (kind in ("serial", "mpi") and not argument)
        or kind == "processes"
        or (kind == "dask" and argument.startswith("//") and argument.strip("/"))
    ):
        raise ConfigError(f"unknown executor {spec!r}: choose one of {CHOICES}")
    return kind, argument


def capacity(executor: Executor) -> int:
    """Number of calls worth keeping in flight: enough that no worker waits for the next one."""
    if isinstance(executor, SerialExecutor):
        return 1
    client = getattr(executor, "_client", None)
    names = ("_max_workers", "num_workers")  # concurrent.futures, mpi4py.futures
    workers = sum(client.nthreads().values()) if client else max(getattr(executor, name, 0) for name in names)
    return 2 * (workers or os.cpu_count() or 1)


def _processes(workers: int | None) -> Executor:
    # a forked child inherits locks held by torch's and zarr's threads, so never "fork"
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    return ProcessPoolExecutor(
        workers or os.cpu_count(), mp_context=multiprocessing.get_context(method), initializer=_start_worker
    )


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the parent, which then shuts us down
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # a killed parent cannot tell its workers to stop
        os._exit(1)


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise _missing("dask", "distributed", error) from error
    try:
        client = Client(f"tcp://{address}", timeout=10)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler answers at {address}: start one with `dask scheduler`") from error
    with client, _shutdown(client.get_executor(pure=False)) as executor:
        yield executor


def _mpi(workers: int | None) -> Executor:
    try:
        from mpi4py.futures import MPIPoolExecutor  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _missing("mpi", "mpi", error) from error
    return MPIPoolExecutor(workers)


@contextlib.contextmanager
def _shutdown(executor: Executor) -> Iterator[Executor]:
    try:
        yield executor
    finally:
        executor.shutdown(wait=True)


def _missing(kind: str, extra: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"executor {kind!r} needs an extra that is not installed ({error}): "
        f'pip install "sciml-core[{extra}]=={own_version()}"'
    )
