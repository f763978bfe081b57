"""What every registered problem promises.

A problem may have a method `refined() -> Problem`, the same problem with half the step or a tighter tolerance, and a
class variable `accuracy`: the largest relative difference that its reference solver claims. Then this is measured;
without `refined()` the check is skipped, and pytest says so. A problem of files that users must have names them in a
class variable `needs`: then it must ask for them by a `DataError`, and what is checked of its samples is skipped.
"""

import atexit
import contextlib
import dataclasses
import functools
import json
import os
import sys
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import xarray
from sciml.data import Problem, simulate_chunk
from sciml.errors import ConfigError, DataError
from sciml.executors import get_executor
from sciml.registry import Entry

from sciml_testkit.errors import ConformanceError, require


def build(entry: Entry) -> Problem:
    """The problem with the defaults of all its fields."""
    cls = entry.load()
    require(
        isinstance(cls, type) and issubclass(cls, Problem),
        f"{entry.name}: {entry.module}:{entry.attribute} is {cls!r}; register a subclass of sciml.data.Problem",
    )
    try:
        return cls()
    except ConfigError as error:
        raise ConformanceError(f"{entry.name}: {error}") from error


def with_data(entry: Entry) -> Problem | None:
    """The problem if its samples can be made here; in a test, a skip if they need files."""
    problem: Any = build(entry)
    if not (needs := getattr(problem, "needs", "")):
        return problem
    try:
        problem.generate(1)
    except DataError:
        if "PYTEST_CURRENT_TEST" in os.environ:  # outside a test nobody catches the exception that skipping is
            pytest.skip(f"{entry.name} needs {needs}, so its samples are not checked")
        return None
    except Exception as error:
        raise ConformanceError(
            f"{entry.name}: without {needs} it raises {error!r}; raise sciml.errors.DataError that says what to give"
        ) from error
    raise ConformanceError(f"{entry.name}: it needs {needs}, but makes samples by default; leave `needs` out")


@functools.lru_cache(maxsize=1)
def two_processes(path: tuple[str, ...]) -> Executor:
    """Two processes that all checks share, since each imports torch; others where modules are found elsewhere."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(get_executor("processes", 2))


def check_fields_are_json(entry: Entry, tmp_path: Path) -> None:
    """The problem made from its own configuration is the same problem."""
    problem = build(entry)
    config = json.loads(json.dumps(problem.config()))
    again: Any = type(problem)(**config)
    require(again.config() == problem.config(), f"{entry.name}: its fields change when they are read back from JSON")
    require(dataclasses.is_dataclass(problem), f"{entry.name}: a problem is a frozen dataclass")


def check_dataset_is_described(entry: Entry, tmp_path: Path) -> None:
    """Samples come first, every variable with numbers has units, every other dimension coordinates."""
    if (problem := with_data(entry)) is None:
        return
    data = problem.generate(1)
    for name, variable in data.data_vars.items():
        if problem.sample_dim in variable.dims and variable.dtype.kind in "fc":
            require("units" in variable.attrs, f"{entry.name}: the variable {name} has no units ('1' if it has none)")
            require(bool(np.isfinite(variable.values).all()) or problem.ragged, f"{entry.name}: {name} is not finite")
    for dim in data.sizes:
        require(
            dim == problem.sample_dim or dim in problem.ragged or dim in data.coords,
            f"{entry.name}: the dimension {dim} has no coordinates",
        )
    for name, coordinate in data.coords.items():
        require(
            coordinate.dtype.kind not in "fc" or "units" in coordinate.attrs,
            f"{entry.name}: the coordinate {name} has no units ('1' if it has none)",
        )


def check_samples_do_not_depend_on_where_they_are_computed(entry: Entry, tmp_path: Path) -> None:
    """The same bytes in this process, in two others, in another order, and as the first of more samples."""
    if (problem := with_data(entry)) is None:
        return
    n = 2 * problem.chunk
    here = problem.generate(n, seed=3)
    later = simulate_chunk(1, problem, 3)
    rows = {problem.sample_dim: slice(problem.chunk, None)}
    same(here.isel(rows), later, entry, "depend on the call, or on the order in which chunks are computed")
    same(
        here, problem.generate(n, seed=3, executor=two_processes(tuple(sys.path))), entry, "depend on the worker count"
    )
    fewer = {problem.sample_dim: slice(0, max(1, problem.chunk // 2))}
    first = problem.generate(max(1, problem.chunk // 2), seed=3)
    same(here.isel(fewer), first, entry, "depend on how many are asked for")
    other = problem.generate(1, seed=4)
    require(
        any(
            not np.array_equal(other[name], here.isel({problem.sample_dim: slice(0, 1)})[name])
            for name in other.data_vars
        ),
        f"{entry.name}: its data do not depend on the seed",
    )


def check_reference_solver_has_converged(entry: Entry, tmp_path: Path) -> None:
    """The refined problem has the same solution, to the accuracy that the problem claims.

    It stands last: where it skips, `sciml_testkit.check` inside a test has done all the others.
    """
    if (problem := cast(Any, with_data(entry))) is None:
        return
    if not hasattr(problem, "refined"):
        if "PYTEST_CURRENT_TEST" in os.environ:  # outside a test nobody catches the exception that skipping is
            pytest.skip(f"{entry.name} has no refined(), so the convergence of its reference solver is not measured")
        return
    require(hasattr(problem, "accuracy"), f"{entry.name}: with refined() it needs a class variable accuracy")
    coarse, fine = (p.generate(problem.chunk, seed=0) for p in (problem, problem.refined()))
    for name in coarse.data_vars:
        a, b = coarse[name].values, fine[name].values
        if a.dtype.kind in "fc":
            error = float(np.abs(a - b).max() / max(np.abs(b).max(), np.finfo(b.dtype).tiny))
            require(
                error <= problem.accuracy,
                f"{entry.name}: refined, {name} changes by {error:.1e} (relative); it claims {problem.accuracy:.1e}",
            )


def same(a: xarray.Dataset, b: xarray.Dataset, entry: Entry, what: str) -> None:
    """Require equal bytes in all variables."""
    for name in a.data_vars:
        equal = a[name].dtype == b[name].dtype and a[name].values.tobytes() == b[name].values.tobytes()
        require(
            equal,
            f"{entry.name}: its data {what} ({name} differs). Draw sample i from seeds[i] alone, and let nothing in "
            "simulate depend on the process, the time or earlier calls",
        )
