"""Shapes in annotations are checked while testing; tests marked `unchecked` do without."""

import os

import jaxtyping
import pytest

# the tests' matrices are small, and processes started by tests share the cores; read when torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _unchecked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("unchecked"):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
