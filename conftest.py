"""Shapes in annotations are checked while testing; tests marked `unchecked` do without."""

import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import pytest

# the tests' matrices are small, and processes started by tests share the cores; read when torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHECKED_CALLS = 3  # of each function in each test: checks take longer than most functions


class Test:
    """The number of the test that runs, or of what runs between tests."""

    number = 0


def first_calls_checked(fn: Any = None, *, typechecker: Any, jaxtyped: Callable[..., Any] = jaxtyping.jaxtyped) -> Any:
    """`jaxtyping.jaxtyped`, which jaxtyping applies to all functions of the packages, for first calls alone."""
    if fn is None:
        return functools.partial(first_calls_checked, typechecker=typechecker)
    if inspect.isclass(fn):
        if dataclasses.is_dataclass(fn) and "__init__" in vars(fn):
            dataclass: Any = fn
            dataclass.__init__ = first_calls_checked(fn.__init__, typechecker=typechecker)
        return fn
    if not inspect.isfunction(fn):
        return jaxtyped(fn, typechecker=typechecker)
    if "<locals>" in fn.__qualname__:
        return fn  # made anew by each call of the function around it, checks too
    checked: Any = None  # made by the first call: many functions have none
    test = calls = 0

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checked, test, calls
        if jaxtyping.config.jaxtyping_disable:
            return fn(*args, **kwargs)
        if test != Test.number:
            test, calls = Test.number, 0
        calls += 1
        if calls > CHECKED_CALLS:
            return fn(*args, **kwargs)
        checked = checked or jaxtyped(fn, typechecker=typechecker)
        return checked(*args, **kwargs)

    return call


jaxtyping.jaxtyped = first_calls_checked


@pytest.fixture(autouse=True)
def _checks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Test.number += 1
    unchecked = request.node.get_closest_marker("unchecked")
    if unchecked:
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    yield
    Test.number += 1
    if unchecked and "torch._dynamo" in sys.modules:
        sys.modules["torch"].compiler.reset()  # what is compiled shares the checks' code, which has a limit of graphs
