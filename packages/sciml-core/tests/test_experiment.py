"""A run keeps how it was begun, names its results once, and leaves nothing behind where nothing was done."""

import json
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
import sciml
import torch
import xarray
from sciml.cli import main
from sciml.config import config
from sciml.data import Problem
from sciml.errors import ConfigError, RunInterrupted
from sciml.experiment import Experiment, Metric, Report
from sciml.registry import Entry, installed


@config
class Config:
    seed: int = 0
    out: float = 1.0


@dataclass(frozen=True)
class Slow(Problem):
    """Takes its time."""

    def simulate(self, seeds):
        time.sleep(0.2)
        return xarray.Dataset({"x": ("sample", np.zeros(len(seeds)))})


@pytest.fixture
def register(monkeypatch, tmp_path):
    """Register a `run` function as the experiment test/it, and work in an empty directory."""
    load = Entry.load
    monkeypatch.chdir(tmp_path)

    def add(run):
        experiment = Experiment(run=run, presets=dict.fromkeys(("smoke", "small", "paper"), Config()), paper="none")
        monkeypatch.setitem(
            installed().entries["experiments"],
            "test/it",
            Entry("experiments", "test/it", "here", "x", "sciml-core", "0"),
        )
        monkeypatch.setattr(Entry, "load", lambda self: experiment if self.module == "here" else load(self))

    return add


def report(config, run):
    return Report([Metric("out", "it", config.out)])


def test_options_are_kept_for_the_resumed_run(register, tmp_path):
    seen = []

    def run(config, run):
        seen.append((run.runtime.precision, run.problem_executor))
        if len(seen) == 1:
            raise KeyboardInterrupt
        return report(config, run)

    register(run)
    with pytest.raises(RunInterrupted, match="sciml run test/it --resume r"):
        sciml.run("test/it", "smoke", out="r", precision="bf16-mixed", executor="processes:2", device="cpu")
    with pytest.raises(ConfigError, match="begun with precision='bf16-mixed', not '32-true'"):
        sciml.run("test/it", resume="r", precision="32-true")
    with pytest.raises(ConfigError, match="begun with preset='smoke', not 'paper'"):
        sciml.run("test/it", "paper", resume="r")
    done = sciml.run("test/it", resume="r")
    assert seen == [("bf16-mixed", "processes:2")] * 2
    assert done.command == "sciml run test/it --preset smoke --device cpu --precision bf16-mixed"


def test_wall_time_of_a_resumed_run_counts_the_data(register):
    first = [True]

    def run(config, run):
        run.generate("data", Slow(), 3)
        if first.pop() if first else False:
            raise KeyboardInterrupt
        return report(config, run)

    register(run)
    with pytest.raises(RunInterrupted):
        sciml.run("test/it", out="r", device="cpu")
    assert sciml.run("test/it", resume="r").wall_time > 0.2


@pytest.mark.parametrize(
    "twice",
    [
        lambda run: [run.step("a", lambda i=i: i) for i in (1, 2)],
        lambda run: [run.generate("a", Slow(), n) for n in (1, 2)],
        lambda run: [run.step("a", lambda: 1), run.generate("a", Slow(), 1)],
    ],
)
def test_two_results_of_one_name_are_refused(register, twice):
    register(lambda config, run: twice(run))
    with pytest.raises(ConfigError, match="two steps called 'a'"):
        sciml.run("test/it", out="r", device="cpu")


def test_a_step_is_told_when_it_begins_and_not_when_it_is_read(register, capsys):
    interrupted = []

    def run(config, run):
        run.step("a", lambda: 1)
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return report(config, run)

    register(run)
    with pytest.raises(RunInterrupted):
        sciml.run("test/it", out="r", device="cpu")
    assert "a …" in capsys.readouterr().err
    sciml.run("test/it", resume="r")
    assert "a …" not in capsys.readouterr().err


def test_a_run_refused_before_it_did_anything_leaves_no_directory(register, tmp_path):
    def run(config, run):
        raise ConfigError("this cannot be")

    register(run)
    with pytest.raises(ConfigError, match="this cannot be"):
        sciml.run("test/it", device="cpu")
    with pytest.raises(ConfigError, match="unknown executor"):
        sciml.run("test/it", device="cpu", executor="cluster")
    assert list(tmp_path.rglob("config.json")) == []

    def later(config, run):
        run.step("a", lambda: torch.ones(1))
        raise ConfigError("this cannot be")

    register(later)
    with pytest.raises(ConfigError):
        sciml.run("test/it", out="kept", device="cpu")
    assert (tmp_path / "kept/steps/a").exists()


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["sciml", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_fields_may_be_called_like_arguments(register, monkeypatch, tmp_path):
    register(report)
    assert command(monkeypatch, "run", "test/it", "--set", "out=3", "--out", "r", "--device", "cpu") == 0
    assert json.loads((tmp_path / "r/report.json").read_text())["metrics"][0]["value"] == 3
    assert command(monkeypatch, "run", "test/it", "--set", "device=cpu") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"experiment": "test/it", "preset": "smoke", "config": []}', "config and options must be objects"),
        ('{"experiment": "test/it", "preset": "smoke", "config": {}, "options": {"x": 1}}', "must be objects"),
        ('{"experiment": "test/other", "preset": "smoke", "config": {}}', "is a run of test/other"),
        ("[]", "is not the configuration of a run"),
    ],
)
def test_damaged_directories_are_refused(register, monkeypatch, capsys, tmp_path, content, message):
    register(report)
    (tmp_path / "config.json").write_text(content)
    assert command(monkeypatch, "run", "test/it", "--resume", ".") == 2
    assert message in capsys.readouterr().err


def test_a_place_that_cannot_be_written_ends_in_one_line(register, monkeypatch, capsys):
    register(report)
    assert command(monkeypatch, "run", "test/it", "--device", "cpu", "--out", "/proc/nowhere/run") == 2
    assert capsys.readouterr().err.startswith("sciml: ")
