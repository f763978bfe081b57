"""What every registered experiment promises."""

import atexit
import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import sciml
from sciml.experiment import Experiment
from sciml.registry import Entry
from sciml.runtime import Runtime

from sciml_testkit.errors import ConformanceError, require


def build(entry: Entry) -> Experiment:
    """The registered experiment."""
    experiment = entry.load()
    require(
        isinstance(experiment, Experiment),
        f"{entry.name}: {entry.module}:{entry.attribute} is {experiment!r}; register an instance of sciml.Experiment",
    )
    return experiment


def check_presets_and_published_numbers(entry: Entry, tmp_path: Path) -> None:
    """The presets are configurations of one class that survive JSON; paper and published numbers have their sources."""
    experiment = build(entry)
    require(experiment.paper.strip(), f"{entry.name}: paper is empty; name title and arXiv id")
    require(
        len({type(c) for c in experiment.presets.values()}) == 1, f"{entry.name}: its presets are of several classes"
    )
    for preset, config in experiment.presets.items():
        require(
            isinstance(getattr(config, "seed", None), int), f"{entry.name}: the preset {preset} has no integer seed"
        )
        settings = json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
        require(
            experiment.config(preset, **settings) == config,
            f"{entry.name}: the preset {preset} changes when it is read back from JSON",
        )
    for number in experiment.published:
        require(number.source.strip(), f"{entry.name}: the published {number.name} of {number.subject} has no source")


def check_smoke_runs_on_an_accelerator(entry: Entry, tmp_path: Path) -> None:
    """`smoke` ends with a report that has metrics on an accelerator too, where there is one."""
    build(entry)
    if Runtime("auto").device == Runtime("cpu").device:
        return
    report = sciml.run(entry.name, "smoke", out=tmp_path / "run", device="auto")
    require(report.metrics, f"{entry.name}: its report has no metrics")


def check_smoke_runs_resumes_and_reports(entry: Entry, tmp_path: Path) -> None:
    """`smoke` ends with a report; killed twice and resumed, it ends with the same metrics, bit for bit."""
    build(entry)
    whole, *parts = _driver().statuses(entry, tmp_path)
    last = "\n".join((tmp_path / "log").read_text().splitlines()[-15:])
    require(whole == 0, f"{entry.name}: its preset smoke fails:\n{last}")
    for file in ("config.json", "environment.json", "report.json", "report.md", "report.html"):
        require((tmp_path / "whole" / file).is_file(), f"{entry.name}: a run leaves no {file}")
    expected = metrics(tmp_path / "whole")
    require(expected, f"{entry.name}: its report has no metrics")
    *killed, resumed = parts
    for k, status in enumerate(killed):
        require(status != 1, f"{entry.name}: cannot resume: a run killed at moment {k - 1} fails when resumed:\n{last}")
        require(
            status == -signal.SIGKILL,
            f"{entry.name}: two runs with one configuration write different files, so that it could not be killed at "
            "the same place: draw random numbers from run.seed(name), and let nothing depend on the time",
        )
    require(resumed == 0, f"{entry.name}: cannot resume: killed at the last moment, it fails when resumed:\n{last}")
    found = metrics(tmp_path / "killed")
    different = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
    require(
        not different,
        f"{entry.name}: cannot resume: killed at two moments and resumed, it ends with other metrics "
        f"({', '.join(map(' of '.join, different[:3]))}). Costly or random work goes through run.step, "
        "run.generate or run.train, randomness through run.seed(name)",
    )


class _Driver:
    """A process that runs experiments and kills them; it has imported torch once for all of them."""

    def __init__(self) -> None:
        search = os.pathsep.join([*filter(None, sys.path), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "sciml_testkit.interrupt"]
        pipe, variables = subprocess.PIPE, {**os.environ, "PYTHONPATH": search}
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=variables)
        atexit.register(self.process.kill)

    def statuses(self, entry: Entry, folder: Path) -> list[int]:
        """Exit statuses of the runs of an experiment."""
        request = {
            "entry": dataclasses.astuple(entry),
            "folder": str(folder.absolute()),
            "path": [*filter(None, sys.path)],
            "cwd": os.getcwd(),
            "env": dict(os.environ),
        }
        assert self.process.stdin
        assert self.process.stdout
        answer: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        if answer.get("folder") != request["folder"]:  # none, or that of a request whose answer was not waited for
            self.process.kill()
            _driver.cache_clear()
            raise ConformanceError(
                f"{entry.name}: the process that runs experiments ended, with the status {self.process.wait()}"
            )
        return answer["statuses"]


@functools.cache
def _driver() -> _Driver:
    return _Driver()


def metrics(folder: Path) -> dict[tuple[str, str], float | str]:
    """Metrics of a run, without those of clocks."""
    rows = json.loads((folder / "report.json").read_text())["metrics"]
    return {(m["name"], m["subject"]): m["value"] for m in rows if not any(w in m["name"] for w in ("time", "speed"))}
