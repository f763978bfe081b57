"""Shapes in annotations are checked while testing; tests marked `unchecked` do without."""

import os
import sys
from collections.abc import Iterator

import jaxtyping
import pytest

# the tests' matrices are small, and processes started by tests share the cores; read when torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _unchecked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    unchecked = request.node.get_closest_marker("unchecked")
    if unchecked:
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    yield
    if unchecked and "torch._dynamo" in sys.modules:
        sys.modules["torch"].compiler.reset()  # what is compiled shares the checks' code, which has a limit of graphs
