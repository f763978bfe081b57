"""What several of these tests use."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def uv() -> Callable[..., str]:
    """Run uv on its cache, which `make setup` has filled; online only if something is not there."""
    program = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    if not Path(program).exists():
        pytest.skip("uv is neither on the path nor in .uv/: make setup")

    def call(*arguments: str | Path) -> str:
        command = [program, *map(str, arguments)]
        ran = subprocess.run([*command, "--offline"], capture_output=True, text=True, cwd=ROOT)
        if ran.returncode:
            ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return call
