"""What several of these tests use."""

import multiprocessing
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).parents[1]
USED = (
    "dask.array",
    "distributed",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "scipy.stats",
    "sciml.cli",
    "sciml.experiment",
)

BEGIN = """
import multiprocessing, os, sys
multiprocessing.set_forkserver_preload(["pnde.problems"])  # what its own workers begin with
os.chdir(folder)
os.environ.update(environment)
sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
sys.argv = ["sciml", *arguments]
output = os.open(printed, os.O_WRONLY | os.O_CREAT)
os.dup2(output, 1)
os.dup2(output, 2)
"""


@dataclass(frozen=True)
class Started:
    """A process, and the file with what it prints."""

    process: BaseProcess
    file: Path

    def ended(self) -> subprocess.CompletedProcess[str]:
        """Its end, which this waits for."""
        self.process.join()
        return subprocess.CompletedProcess([], self.process.exitcode, self.file.read_text())


class Fork(Protocol):
    """Starts Python code in a folder, with arguments and environment variables."""

    def __call__(self, code: str, *arguments: str, cwd: Path, **environment: str) -> Started: ...


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Fork:
    """Start forks of a process which has only imported, so that they share that: what most runs use, and a plugin.

    Their `stdout` has the errors, too. They share less, but work, where the process of the tests has made such a
    process before, and see the environment of that time besides `environment`.
    """
    multiprocessing.set_forkserver_preload([*USED, "pnde.experiments.pendulums"])
    printed = tmp_path_factory.mktemp("printed")

    def start(code: str, *arguments: str, cwd: Path, **environment: str) -> Started:
        file = printed / str(len(list(printed.iterdir())))
        file.touch()
        names = {"folder": cwd, "printed": file, "arguments": arguments, "environment": environment}
        process = multiprocessing.get_context("forkserver").Process(target=exec, args=(BEGIN + code, names))
        process.start()
        return Started(process, file)

    return start


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
