"""`sciml generate` gives the same bytes wherever it runs, and finishes what was killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dask
import pytest
from sciml.cli import main
from sciml.data import open_dataset

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "sciml", "generate", "pnde/double-pendulum", "--set", "duration=0.5", "--seed", "7"]


Generate = Callable[[Path, int, str], None]


@pytest.fixture(scope="module")
def generate(fork) -> Generate:
    """Run the command in a fork: into this store, so many samples, on this executor."""

    def run(out: Path, n: int, executor: str) -> None:
        arguments = [*COMMAND[3:], "-n", str(n), "--out", str(out), "--executor", executor]
        done = fork("import sciml.cli; sciml.cli.main()", *arguments, cwd=out.parent).ended()
        assert done.returncode == 0, done.stdout

    return run


def contents(out: Path, n: int) -> bytes:
    return open_dataset(out)["state"].values[:n].tobytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory, generate) -> bytes:
    """100 samples from one process."""
    out = tmp_path_factory.mktemp("one") / "data.zarr"
    generate(out, 100, "serial")
    return contents(out, 100)


def test_two_processes_and_more_samples_give_the_same_bytes(tmp_path, generate, expected):
    options = ["-n", "128", "--out", str(tmp_path / "data.zarr"), "--executor", "processes:2"]
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "data.zarr", 100) == expected


def test_a_dask_cluster_gives_the_same_bytes(tmp_path, generate, expected):
    distributed = pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        address = cluster.scheduler_address.removeprefix("tcp://")
        generate(tmp_path / "data.zarr", 100, f"dask://{address}")
    assert contents(tmp_path / "data.zarr", 100) == expected


def test_a_killed_generation_is_finished_by_the_same_command(tmp_path, generate, expected):
    out = tmp_path / "data.zarr"
    command = [*COMMAND, "-n", "100", "--out", str(out), "--executor", "serial"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    marks = out / "complete" / "c"
    while process.poll() is None and len(list(marks.glob("*"))) < 2:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in marks.glob("*")}
    assert len(kept) >= 2
    generate(out, 100, "processes:2")
    assert contents(out, 100) == expected
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # finished chunks were left alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "0"], "n=0 must be at least 1"),
        (["-n", "3", "--executor", "cluster"], "unknown executor 'cluster': choose one of"),
        (["-n", "3", "--set", "dampping=1"], "did you mean damping"),
        (["-n", "3", "--set", "damping=much"], "damping='much'"),
    ],
)
def test_mistakes_end_with_code_2_and_no_store(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sciml", *COMMAND[3:], *arguments, "--out", "data.zarr"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
