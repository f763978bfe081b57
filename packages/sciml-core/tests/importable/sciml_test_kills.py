"""Generations that are killed."""

import contextlib
import importlib
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sciml_test_problems
import xarray
from sciml.data import generate, open_dataset
from sciml.errors import DataError
from sciml.registry import installed


def in_child(work: Callable[[], Any], errors: Path) -> int:
    """Exit status of `work()` in a fork, negative if killed; AssertionError with what it raises, by that file."""
    if (child := os.fork()) == 0:
        try:
            work()
        except BaseException:
            errors.write_text(traceback.format_exc())
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status <= 0, errors.read_text()
    return status


def kill_at_every_rename(folder: Path, name: str, before: int, after: int) -> int:
    """Kill a generation before its k-th rename, for every k, and finish it in another process each time.

    Takes a scratch directory, the class of the problem, the number of samples of a first, undisturbed generation (0:
    none) and of the one that is killed. Returns the number of renames.
    """
    problem = getattr(sciml_test_problems, name)()
    first, out, errors = folder / "first" / "x.zarr", folder / "killed" / "x.zarr", folder / "errors"
    importlib.import_module("dask.array")  # or every fork would do it, and look for plugins
    installed(), xarray.backends.list_engines()
    expected = problem.generate(after)
    replace = os.replace

    def generate_until(last: int) -> None:
        count = 0

        def counted(source: Any, target: Any, **kwargs: Any) -> None:
            nonlocal count
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target, **kwargs)

        os.replace = counted
        generate(problem, after, out=out)

    def finish(last: int) -> None:
        with contextlib.suppress(DataError):
            read = open_dataset(out).load()
            assert read.identical(problem.generate(before)), "an unfinished store was read"
        generate(problem, after, out=out)
        assert open_dataset(out).load().identical(expected), f"the store differs that was killed at rename {last}"
        left = [path.name for path in out.parent.iterdir() if path != out]
        assert not left, f"left behind: {left}"

    if before:
        assert in_child(lambda: generate(problem, before, out=first), errors) == 0
    for last in range(1, 1000):
        shutil.rmtree(out, ignore_errors=True)
        if before:
            shutil.copytree(first, out)
        status = in_child(lambda last=last: generate_until(last), errors)
        if status == 0:
            return last - 1
        assert status == -signal.SIGKILL
        assert in_child(lambda last=last: finish(last), errors) == 0
    raise AssertionError("it never ends")
