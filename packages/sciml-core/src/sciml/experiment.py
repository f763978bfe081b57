"""Experiments: configuration, presets and published numbers in; a resumable run directory and a report out."""

import datetime
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from torch import nn

from sciml.config import override
from sciml.errors import ConfigError, DataError, RunInterrupted
from sciml.executors import check_executor
from sciml.files import write_atomically
from sciml.plotting import loss_curves, save_figure
from sciml.report import Bar, Metric, Published, Report
from sciml.runtime import Runtime, seed_everything
from sciml.state import load_state, save_state
from sciml.training import Trainer, TrainerOptions, TrainingResult

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

    from sciml.data import Problem

C = TypeVar("C")

__all__ = ["Bar", "Experiment", "Metric", "Published", "Report", "RunDirectory", "environment", "run"]


class RunDirectory:
    """One run on disk: its steps, trainings, seeds and figures. Killed at any moment, it goes on from there."""

    def __init__(self, path: Path, seed: int, runtime: Runtime, problem_executor: str | None = None) -> None:
        self.path, self.root_seed, self.runtime = path, seed, runtime
        self.problem_executor = problem_executor
        self.earlier = 0.0  # seconds that parts of this run took before it was resumed
        self.names: set[tuple[str, str]] = set()

    def seed(self, name: str) -> int:
        """A seed that depends on the run's seed and on `name` only: a skipped step shifts nothing."""
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        return int(np.random.SeedSequence([self.root_seed, digest]).generate_state(1, np.uint64)[0] >> 1)

    def step(self, name: str, compute: Callable[[], Any]) -> Any:
        """Result of `compute()`, done once and kept: an `xarray.Dataset`, or a tree of tensors, numbers, strings.

        The result is always the one read back from disk, so that a resumed run sees the same bits.
        Its name is told on standard error when it begins.
        """
        import xarray

        from sciml.store import to_netcdf

        self._claim("steps", name)
        folder = self.path / "steps" / name
        tree, data = folder / "result.safetensors", folder / "result.nc"
        done = tree.exists() or data.exists()
        self.runtime.barrier()  # every process has looked before the first one writes
        if not done and self.runtime.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            print(f"{name} …", file=sys.stderr, flush=True)
            started = time.perf_counter()
            seed_everything(self.seed(name))
            result = compute()
            seconds = time.perf_counter() - started
            if isinstance(result, xarray.Dataset):
                to_netcdf(result.assign_attrs(seconds=seconds), data)
            else:
                save_state(tree, {"result": result, "seconds": seconds})
        self.runtime.barrier()
        if data.exists():
            loaded = xarray.load_dataset(data, engine="h5netcdf")
            result, seconds = loaded, float(loaded.attrs.pop("seconds", 0.0))
        else:
            state = load_state(tree)
            result, seconds = state["result"], state["seconds"]
        self.earlier += seconds if done else 0.0
        return result

    def generate(self, name: str, problem: "Problem", n: int) -> "xarray.Dataset":
        """`n` samples of `problem` in the store `steps/<name>/data.zarr`, read when used.

        A resumed run computes the missing chunks only. The work goes to the executor that the run was given.
        """
        from sciml.data import generate, open_dataset

        self._claim("steps", name)
        path = self.path / "steps" / name / "data.zarr"
        clock = path.with_name("seconds.json")
        if self.runtime.is_main:
            path.parent.mkdir(parents=True, exist_ok=True)
            earlier = json.loads(clock.read_text()) if clock.exists() else 0.0
            started = time.perf_counter()
            generate(problem, n, self.seed(name), out=path, executor=self.problem_executor, progress=True)
            write_atomically(clock, json.dumps(earlier + time.perf_counter() - started))
            self.earlier += earlier
        self.runtime.barrier()
        return open_dataset(path)

    def train(
        self, name: str, model: nn.Module, loss: Any, data: Any, options: TrainerOptions, optimizer: Any, **more: Any
    ) -> TrainingResult:
        """`Trainer.fit` in `checkpoints/<name>`, resumed if it was begun; metrics go to the run's `metrics.jsonl`."""
        self._claim("trainings", name)
        seed_everything(self.seed(name))
        trainer = Trainer(
            options, self.path / "checkpoints" / name, runtime=self.runtime, name=name, log=self.path / "metrics.jsonl"
        )
        started = time.perf_counter()
        result = trainer.fit(model, loss, data, optimizer, **more)
        self.earlier += max(0.0, result.time - (time.perf_counter() - started))
        return result

    def _claim(self, kind: str, name: str) -> None:
        """Two results of one name would be one: the second is read from the first."""
        if (kind, name) in self.names:
            raise ConfigError(f"this run has two {kind} called {name!r}: give each a name of its own")
        self.names.add((kind, name))

    def figure(self, name: str, figure: "Figure") -> None:
        """Save a figure as `figures/<name>.png`."""
        if self.runtime.is_main:
            save_figure(figure, self.path / "figures" / f"{name}.png")

    def history(self, name: str | None = None) -> list[dict[str, Any]]:
        """Logged records of one training, or of all."""
        log = self.path / "metrics.jsonl"
        records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [record for record in records if name in (None, record["training"])]


@dataclass(frozen=True)
class Experiment(Generic[C]):
    """A reproducible experiment. `presets` are named configurations, `run(config, run)` computes the report.

    Resuming calls `run` again from its first line: costly work goes through `run.step` or `run.train`, and
    randomness through `run.seed(name)`. The configuration has an integer field `seed`.
    """

    run: Callable[[C, RunDirectory], Report]
    presets: Mapping[str, C]
    paper: str
    published: Sequence[Published] = ()

    def __post_init__(self) -> None:
        missing = {"smoke", "small", "paper"} - set(self.presets)
        if missing:
            raise ConfigError(f"an experiment has the presets smoke, small and paper; missing: {sorted(missing)}")

    def config(self, preset: str = "small", **overrides: Any) -> C:
        """The preset's configuration with nested overrides.

        Raises
        ------
        ConfigError
            If the preset or a field is unknown, or a value does not fit.
        """
        if preset not in self.presets:
            raise ConfigError(f"preset={preset!r} is unknown; choose one of {', '.join(self.presets)}")
        config = override(self.presets[preset], overrides)
        seed: Any = getattr(config, "seed", None)
        if not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"seed={seed!r} must be a non-negative integer")
        return config


# how a run is launched: recorded when it begins, taken up when it is resumed
OPTIONS: Mapping[str, Any] = {
    "device": "auto",
    "strategy": "auto",
    "precision": "32-true",
    "compile": False,
    "executor": "serial",
}


def run(
    name: str,
    preset: str | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    device: str | None = None,
    strategy: str | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    executor: str | None = None,
    resume: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> Report:
    """Run the experiment `name` and return its report.

    Parameters
    ----------
    preset
        One of `smoke` (seconds), `small` (minutes, the default), `paper`.
    out, resume
        A new directory for the run, or the directory of an interrupted one; default `runs/<name>/<preset>-<time>`.
    device, strategy, precision, compile
        Where and how models are trained (see `sciml.runtime.Runtime`); default "auto", "auto", "32-true", False. A
        resumed run keeps what it was begun with; another device, strategy or compilation may be given.
    executor
        Where data are generated (see `sciml.executors.get_executor`); default this process.
    overrides
        Fields of the configuration, nested: `training={"epochs": 3}`.

    Raises
    ------
    UnknownNameError
        If no installed plugin has the experiment.
    ConfigError
        If the preset, a field or a value is wrong; nothing is written then.
    RunInterrupted
        On Ctrl-C; the directory can be resumed.
    """
    given = {"device": device, "strategy": strategy, "precision": precision, "compile": compile, "executor": executor}
    return launch(name, preset, overrides, out=out, resume=resume, **given)


def launch(
    name: str,
    preset: str | None,
    overrides: Mapping[str, Any],
    *,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    **given: Any,
) -> Report:
    """`run` with the overrides as a mapping, so that a field may have the name of an argument of `run`."""
    from sciml.registry import experiments

    entry = experiments[name]
    experiment: Experiment[Any] = entry.load()
    given = {option: value for option, value in given.items() if value is not None}
    if resume is not None:
        if overrides or out is not None:
            raise ConfigError("resume continues a run as it was configured: give neither out nor overrides")
        begun, settings, kept = _read_config(Path(resume), entry.name)
        for option, asked, had in (
            ("preset", preset, begun),
            ("precision", given.get("precision"), kept.get("precision", OPTIONS["precision"])),
        ):
            if asked is not None and asked != had:
                raise ConfigError(f"{resume} was begun with {option}={had!r}, not {asked!r}: leave it out")
        preset, given = begun, {**kept, **given}
        if "WORLD_SIZE" not in os.environ and "strategy" in kept:
            given["strategy"] = "auto"  # what several processes began, one may finish
    else:
        preset, settings = preset or "small", dict(overrides)
    config = experiment.config(preset, **settings)
    options = {**OPTIONS, **given}
    executor = options.pop("executor")
    check_executor(executor)
    runtime = Runtime(**options)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    chosen = resume or out or Path("runs") / entry.name / f"{preset}-{stamp}"
    path = Path(runtime.broadcast(os.fspath(chosen)))  # the clocks of several processes differ
    if runtime.is_main and resume is None:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} exists and is not empty; choose another directory, or resume it")
        path.mkdir(parents=True, exist_ok=True)
        content = {"experiment": entry.name, "preset": preset, "config": asdict(config), "options": given}
        write_atomically(path / "config.json", json.dumps(content, indent=2) + "\n")
        write_atomically(path / "environment.json", json.dumps(environment(entry.distribution), indent=2) + "\n")
    runtime.barrier()
    started = time.perf_counter()
    directory = RunDirectory(path, config.seed, runtime, executor)
    try:
        report = experiment.run(config, directory).beside(experiment.published)
    except KeyboardInterrupt as stop:
        torchrun = f"torchrun --nproc-per-node {runtime.world} -m " if runtime.world > 1 else ""
        raise RunInterrupted(
            f"stopped; {path} keeps what was done. Go on with: "
            f"{torchrun}sciml run {entry.name} --resume {shlex.quote(str(path))}"
        ) from stop
    except ConfigError:
        if runtime.is_main and resume is None:
            _discard_if_empty(path)
        raise
    if preset == "smoke":
        report = replace(report, bars=(), notes=[*report.notes, "smoke shows that everything runs; nothing is learnt."])
    if runtime.is_main and (curves := directory.history()):
        directory.figure("training", loss_curves(curves))
    report = replace(
        report,
        experiment=entry.name,
        preset=preset,
        paper=experiment.paper,
        command=_command(entry.name, preset, experiment.presets[preset], config, options),
        config=asdict(config),
        environment=environment(entry.distribution),
        wall_time=time.perf_counter() - started + directory.earlier,
        directory=str(path),
    )
    if runtime.is_main:
        report.save(path)
    runtime.close()
    return report


def _discard_if_empty(path: Path) -> None:
    """Remove a run directory in which nothing was computed yet."""
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}
    if files <= {"config.json", "environment.json"}:
        shutil.rmtree(path)


def _read_config(path: Path, name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Preset, settings and options that the run was begun with."""
    file = path / "config.json"
    try:
        content = json.loads(file.read_text())
        found, preset = str(content["experiment"]), str(content["preset"])
        settings, options = content["config"], content.get("options", {})
        if not (isinstance(settings, dict) and isinstance(options, dict) and set(options) <= set(OPTIONS)):
            raise ValueError("config and options must be objects")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not the configuration of a run: {error}; give a run directory") from error
    if found != name:
        raise ConfigError(f"{path} is a run of {found}, not of {name}: use sciml run {found} --resume {path}")
    return preset, settings, options


def _command(name: str, preset: str, base: Any, config: Any, options: Mapping[str, Any]) -> str:
    """The command that repeats a run; options at their defaults and fields as in the preset are left out."""

    def changes(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
        for key, value in new.items():
            if isinstance(value, Mapping) and isinstance(old.get(key), Mapping):
                yield from changes(old[key], value, f"{prefix}{key}.")
            elif key not in old or value != old[key]:
                yield f"{prefix}{key}={json.dumps(value)}"

    changed = {key: value for key, value in options.items() if value != OPTIONS[key]}
    flags = "".join(f" --{key}" if value is True else f" --{key} {value}" for key, value in changed.items())
    settings = "".join(f" --set {shlex.quote(line)}" for line in changes(asdict(base), asdict(config)))
    return f"sciml run {name} --preset {preset}{flags}{settings}"


def environment(distribution: str = "sciml-core") -> dict[str, str]:
    """Versions and machine, as a reader of a report needs them; `distribution` is the plugin's."""
    import torch

    packages = dict.fromkeys((distribution, "sciml-core", "torch", "numpy", "scipy", "xarray", "lightning-fabric"))
    return {
        "python": sys.version.split()[0],
        **{package: metadata.version(package) for package in packages},
        "commit": _commit(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _commit() -> str:
    """Commit of the checkout that this file belongs to, `-dirty` with uncommitted changes."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent)

    try:
        tracked = git("ls-files", "--error-unmatch", Path(__file__).name).returncode == 0
        # a package installed inside somebody's repository is not of that repository
        return (
            git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").stdout.strip()
            if tracked
            else "a release"
        )
    except OSError:  # no git
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
