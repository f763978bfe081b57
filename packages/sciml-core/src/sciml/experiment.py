"""Experiments: configuration, presets and published numbers in; a resumable run directory and a report out."""

import datetime
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from torch import nn

from sciml.config import override
from sciml.errors import ConfigError, DataError
from sciml.files import write_atomically
from sciml.report import Metric, Published, Report
from sciml.runtime import Runtime, seed_everything
from sciml.state import load_state, save_state
from sciml.training import Trainer, TrainerOptions, TrainingResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

C = TypeVar("C")

__all__ = ["Experiment", "Metric", "Published", "Report", "RunDirectory", "environment", "run"]


class RunDirectory:
    """One run on disk: its steps, trainings, seeds and figures. Killed at any moment, it goes on from there."""

    def __init__(self, path: Path, seed: int, runtime: Runtime) -> None:
        self.path, self.root_seed, self.runtime = path, seed, runtime

    def seed(self, name: str) -> int:
        """A seed that depends on the run's seed and on `name` only: a skipped step shifts nothing."""
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        return int(np.random.SeedSequence([self.root_seed, digest]).generate_state(1, np.uint64)[0] >> 1)

    def step(self, name: str, compute: Callable[[], Any]) -> Any:
        """Result of `compute()`, done once and kept: an `xarray.Dataset`, or a tree of tensors, numbers, strings.

        The result is always the one read back from disk, so that a resumed run sees the same bits.
        """
        import xarray

        folder = self.path / "steps" / name
        tree, data = folder / "result.safetensors", folder / "result.nc"
        if not tree.exists() and not data.exists() and self.runtime.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            seed_everything(self.seed(name))
            result = compute()
            if isinstance(result, xarray.Dataset):
                temporary = folder / f".{data.name}.{os.getpid()}"
                result.to_netcdf(temporary, engine="h5netcdf")
                os.replace(temporary, data)
            else:
                save_state(tree, {"result": result})
        self.runtime.barrier()
        if data.exists():
            return xarray.load_dataset(data, engine="h5netcdf")
        return load_state(tree)["result"]

    def train(
        self, name: str, model: nn.Module, loss: Any, data: Any, options: TrainerOptions, optimizer: Any, **more: Any
    ) -> TrainingResult:
        """`Trainer.fit` in `checkpoints/<name>`, resumed if it was begun; metrics go to the run's `metrics.jsonl`."""
        seed_everything(self.seed(name))
        trainer = Trainer(
            options, self.path / "checkpoints" / name, runtime=self.runtime, name=name, log=self.path / "metrics.jsonl"
        )
        return trainer.fit(model, loss, data, optimizer, **more)

    def figure(self, name: str, figure: "Figure") -> None:
        """Save a figure as `figures/<name>.png`."""
        folder = self.path / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.{os.getpid()}.png"
        figure.savefig(temporary, dpi=100, bbox_inches="tight")
        os.replace(temporary, folder / f"{name}.png")

    def history(self, name: str) -> list[dict[str, Any]]:
        """Logged records of one training."""
        log = self.path / "metrics.jsonl"
        records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [record for record in records if record["training"] == name]


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
        return override(self.presets[preset], overrides)


def run(
    name: str,
    preset: str = "small",
    *,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    strategy: str = "auto",
    resume: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> Report:
    """Run the experiment `name` and return its report; `out` is a new directory, `resume` one of an earlier run.

    Raises
    ------
    UnknownNameError
        If no installed plugin has the experiment.
    ConfigError
        If the preset, a field or a value is wrong; nothing is written then.
    """
    from sciml.registry import experiments

    entry = experiments[name]
    experiment: Experiment[Any] = entry.load()
    if resume is not None:
        path = Path(resume)
        if overrides or out is not None:
            raise ConfigError("resume continues a run as it was configured: give neither out nor overrides")
        preset, settings = _read_config(path, entry.name)
        config = experiment.config(preset, **settings)
    else:
        config = experiment.config(preset, **overrides)
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        path = Path(out) if out is not None else Path("runs") / entry.name / f"{preset}-{stamp}"
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} exists and is not empty; choose another directory, or resume it")
    runtime = Runtime(device, strategy)
    if runtime.is_main and resume is None:
        path.mkdir(parents=True, exist_ok=True)
        content = {"experiment": entry.name, "preset": preset, "config": asdict(config)}
        write_atomically(path / "config.json", json.dumps(content, indent=2) + "\n")
        write_atomically(path / "environment.json", json.dumps(environment(), indent=2) + "\n")
    runtime.barrier()
    started = time.perf_counter()
    report = experiment.run(config, RunDirectory(path, config.seed, runtime)).beside(experiment.published)
    report = replace(
        report,
        experiment=entry.name,
        preset=preset,
        paper=experiment.paper,
        command=_command(entry.name, preset, overrides),
        config=asdict(config),
        environment=environment(),
        wall_time=time.perf_counter() - started,
        directory=str(path),
    )
    if runtime.is_main:
        report.save(path)
    runtime.close()
    return report


def _read_config(path: Path, name: str) -> tuple[str, dict[str, Any]]:
    file = path / "config.json"
    try:
        content = json.loads(file.read_text())
        found, preset, settings = content["experiment"], content["preset"], content["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not the configuration of a run: {error}; give a run directory") from error
    if found != name:
        raise ConfigError(f"{path} is a run of {found}, not of {name}: use sciml run {found} --resume {path}")
    return preset, settings


def _command(name: str, preset: str, overrides: Mapping[str, Any]) -> str:
    def flat(changes: Mapping[str, Any], prefix: str = "") -> list[str]:
        lines = []
        for key, value in changes.items():
            if isinstance(value, Mapping):
                lines += flat(value, f"{prefix}{key}.")
            else:
                lines.append(f"{prefix}{key}={json.dumps(value)}")
        return lines

    settings = "".join(f" --set {shlex.quote(line)}" for line in flat(overrides))
    return f"sciml run {name} --preset {preset}{settings}"


def environment() -> dict[str, str]:
    """Versions and machine, as a reader of a report needs them."""
    import torch

    packages = ("sciml-core", "torch", "numpy", "scipy", "xarray", "lightning-fabric")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return {
        "python": sys.version.split()[0],
        **{package: metadata.version(package) for package in packages},
        "commit": commit.stdout.strip() if commit.returncode == 0 else "not a git checkout",
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
