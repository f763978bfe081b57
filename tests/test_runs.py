"""Runs survive SIGKILL at any moment, and the command line refuses typos without leaving anything behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = """
import os, signal, sys
import sciml
moment, seen, replace = int(sys.argv[1]), 0, os.replace
def counting(*arguments):
    global seen
    seen += 1
    if seen == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*arguments)
os.replace = counting
resume = sys.argv[3] == "resume"
where = {"resume" if resume else "out": sys.argv[2]}
changes = {} if resume else {"hidden": [8], "data": {"duration": 0.5}}
sciml.run("pnde/double-pendulum", "smoke", device="cpu", **where, **changes)
print(seen)
"""


def drive(moment: int, directory: Path, how: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(moment), str(directory), how]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def numbers(directory: Path) -> list[tuple[str, str, float]]:
    metrics = json.loads((directory / "report.json").read_text())["metrics"]
    return [(m["name"], m["subject"], m["value"]) for m in metrics if "training_time" not in m["name"]]


@pytest.mark.slow
def test_run_killed_at_any_moment_ends_with_the_same_metrics(tmp_path):
    undisturbed = drive(-1, tmp_path / "whole", "new")
    assert undisturbed.returncode == 0, undisturbed.stderr
    total = int(undisturbed.stdout.split()[-1])
    # the data (3), the first training's state (4), a later one's, an evaluation, and the report's last file
    for moment in (3, 4, total // 2, total - 5, total):
        directory = tmp_path / str(moment)
        assert drive(moment, directory, "new").returncode == -signal.SIGKILL
        resumed = drive(-1, directory, "resume")
        assert resumed.returncode == 0, resumed.stderr
        assert numbers(directory) == numbers(tmp_path / "whole")


def sciml(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sciml", *arguments], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pnde/double-pendulum", "--set", "trainning.epochs=3"], "trainning is not a field: did you mean training"),
        (["pnde/double-pendulum", "--set", "training.epochs=many"], "training.epochs='many': "),
        (["pnde/double-pendulum", "--preset", "large"], "preset='large' is unknown"),
        (["pnde/duoble-pendulum"], "Did you mean pnde/double-pendulum"),
        (["noble/pvalb"], 'pip install "sciml[noble]=='),
    ],
)
def test_typos_end_with_code_2_one_line_and_no_directory(tmp_path, arguments, message):
    result = sciml("run", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_run_and_report_commands(tmp_path):
    run = sciml("run", "pnde/double-pendulum", "--preset", "smoke", "--out", "run", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run" / "figures" / "errors-over-time.png").exists()
    report = sciml("report", "run", cwd=tmp_path)
    assert "constraint_error_end" in report.stdout
    assert "data:image/png;base64" in (tmp_path / "run" / "report.html").read_text()
