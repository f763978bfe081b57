"""Runs survive SIGKILL at any moment, and the command line refuses typos without leaving anything behind."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sciml.cli import app, main

DRIVER = '''
"""Run an experiment, and again: killed and resumed at the k-th replacement of a file, or logged step, of some names.

Each run is a fork of this process, which has only imported so far. Prints the exit status of each, negative if killed.
"""
import json, os, signal, sys, traceback
import torch, sciml, sciml.training
from sciml.config import config
from sciml.data import BatchLoader
from sciml.experiment import Experiment, Metric, Report
from sciml.registry import Entry, installed

name, folder, moments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
where, left = None, 0

def count(place):
    global left
    if where and where in str(place):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

replace, write = os.replace, sciml.training._Session.write

def replacing(source, target, **more):
    count(target)
    replace(source, target, **more)

def writing(self, record):
    write(self, record)
    count(f"step of {record['training']}")

os.replace, sciml.training._Session.write = replacing, writing

@config
class Config:
    seed: int = 0

def run(config, run):
    x = run.step("data", lambda: torch.randn(40, 3, dtype=torch.float64))
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    options = sciml.training.TrainerOptions(epochs=4, checkpoint_steps=1)
    loss = lambda m, b: (m(b["x"]) - b["x"].prod(-1, keepdim=True)).square().mean()
    optimizer = lambda m: torch.optim.LBFGS(m.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")
    result = run.train("lbfgs", model, loss, BatchLoader({"x": x}, 10), options, optimizer)
    weights = run.step("weights", lambda: {"total": sum(p.sum() for p in model.parameters()).detach()})
    return Report([Metric("best", "lbfgs", result.best_loss), Metric("sum", "weights", float(weights["total"]))])

experiment = Experiment(run=run, presets=dict.fromkeys(("smoke", "small", "paper"), Config()), paper="none")
installed().entries["experiments"]["pnde/lbfgs"] = Entry("experiments", "pnde/lbfgs", "here", "x", "pnde", "0")
load = Entry.load
Entry.load = lambda self: experiment if self.module == "here" else load(self)

def drive(**how):
    if (child := os.fork()) == 0:
        try:
            sciml.run(name, "smoke", device="cpu", **how)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

changes = {} if name == "pnde/lbfgs" else {"hidden": [8]}
codes = [drive(out=f"{folder}/whole", **changes)]
cut = {"out": f"{folder}/cut", **changes}
for where, left in [*moments, (None, 0)]:
    codes.append(drive(**cut))
    cut = {"resume": f"{folder}/cut"}
print(json.dumps(codes))
'''


def numbers(directory: Path) -> list[tuple[str, str, float]]:
    metrics = json.loads((directory / "report.json").read_text())["metrics"]
    return [(m["name"], m["subject"], m["value"]) for m in metrics if "time" not in m["name"]]


MOMENTS = {
    "pnde/double-pendulum": [
        ("data.zarr", 6),
        ("step of nde", 2),
        ("/pnde/last.safetensors", 1),
        ("rollout-pnde/", 1),
        ("report.json", 1),
    ],
    "pnde/lbfgs": [
        ("data/", 1),
        ("step of lbfgs", 3),
        ("last.safetensors", 7),
        ("weights/", 1),
        ("report.html", 1),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MOMENTS)
def test_run_killed_again_and_again_ends_with_the_same_metrics(tmp_path, fork, name):
    moments = MOMENTS[name]
    driver = fork(DRIVER, name, str(tmp_path), json.dumps(moments), cwd=tmp_path).ended()
    assert driver.returncode == 0, driver.stdout
    assert json.loads(driver.stdout.splitlines()[-1]) == [0, *[-signal.SIGKILL] * len(moments), 0]
    command = json.loads((tmp_path / "whole" / "report.json").read_text())["command"]
    assert ("--set 'hidden=[8]'" in command) == (name == "pnde/double-pendulum")
    assert json.loads((tmp_path / "cut" / "report.json").read_text())["command"] == command
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path, fork):
    start = ["run", "pnde/double-pendulum", "--preset", "smoke", "--set", "training.epochs=6", "--set", "hidden=[8]"]
    command = [sys.executable, "-m", "sciml", *start, "--out", "cut"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "cut" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Go on with: sciml run pnde/double-pendulum --resume cut" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "cut" / "checkpoints" / "nde" / "best" / "model.safetensors").exists()
    before = (tmp_path / "cut" / "metrics.jsonl").read_text()
    resumed = fork(
        "import sciml.cli; sciml.cli.main()", "run", "pnde/double-pendulum", "--resume", "cut", cwd=tmp_path
    ).ended()
    assert resumed.returncode == 0, resumed.stdout
    after = (tmp_path / "cut" / "metrics.jsonl").read_text()
    assert after.startswith(before)
    records = [json.loads(line) for line in after.splitlines()]
    trained = [(r["training"], r["epoch"]) for r in records if "epoch_loss" in r]
    names = dict.fromkeys(name for name, _ in trained)
    assert "pnde" in names
    assert trained == [(name, epoch) for name in names for epoch in range(1, 7)]  # each once, none left out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pnde/double-pendulum", "--set", "trainning.epochs=3"], "trainning is not a field: did you mean training"),
        (["pnde/double-pendulum", "--set", "training.epochs=many"], "training.epochs='many': "),
        (
            ["pnde/double-pendulum", "--set", "training.window=1000"],
            "training.window=1000 is longer than the 100 steps",
        ),
        (["pnde/double-pendulum", "--set", "data.train=0"], "data.train=0: input should be greater than 0"),
        (["pnde/double-pendulum", "--set", "seed=-1"], "seed=-1: input should be greater than or equal to 0"),
        (["pnde/double-pendulum", "--resume", "nowhere"], "nowhere/config.json is not the configuration of a run"),
        (["pnde/double-pendulum", "--device", "tpu"], "device='tpu' is unknown"),
        (["pnde/double-pendulum", "--preset", "large"], "preset='large' is unknown"),
        (["pnde/duoble-pendulum"], "Did you mean pnde/double-pendulum"),
        (["noble/pvalb"], 'pip install "sciml[noble]=='),
    ],
)
def test_typos_end_with_code_2_one_line_and_no_directory(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sciml", "run", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("sciml: ")
    assert message in errors
    assert list(tmp_path.iterdir()) == []


def test_a_typo_ends_the_process_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "sciml", "run", "pnde/double-pendulum", "--set", "seed=-1"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == "sciml: seed=-1: input should be greater than or equal to 0\n"
    assert list(tmp_path.iterdir()) == []


def test_run_and_report_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    app(["run", "pnde/double-pendulum", "--preset", "smoke", "--out", "run"], standalone_mode=False)
    assert (tmp_path / "run" / "figures" / "errors-over-time.png").exists()
    capsys.readouterr()
    app(["report", "run"], standalone_mode=False)
    assert "constraint_error_end" in capsys.readouterr().out
    assert "data:image/png;base64" in (tmp_path / "run" / "report.html").read_text()
