"""The one training loop: any optimizer, exact resume, one file of state."""

import contextlib
import importlib.util
import itertools
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from sciml.errors import CheckpointError, ConfigError, NonFiniteLossError
from sciml.model import Model
from sciml.progress import Progress
from sciml.runtime import Runtime, gather, local_part, rng_state, scatter_like, set_rng_state
from sciml.state import load_state, save_state

Batch = Mapping[str, Tensor]
Loss = Callable[[Any, Any], Tensor | dict[str, Tensor]]


@runtime_checkable
class Loader(Protocol):
    """Batches whose order is a function of (seed, epoch), so that a position in an epoch is one number."""

    def __len__(self) -> int: ...

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Any]: ...

    def batch_length(self, index: int) -> int: ...


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during training, after the state was written."""


@dataclass(frozen=True)
class TrainerOptions:
    """How long and how to train; what to train is given to `Trainer.fit`.

    `accumulate` splits every batch into that many parts whose gradients add up to the batch's. `clip_norm` bounds
    the global gradient norm. `ema_decay` keeps an exponential moving average of the weights, which is then what is
    validated and returned. `patience` stops after that many epochs without improvement. A checkpoint is written
    every `checkpoint_steps` steps, or, where that is None, every `checkpoint_seconds`; always at the end.
    """

    epochs: int
    accumulate: int = 1
    clip_norm: float | None = None
    ema_decay: float | None = None
    patience: int | None = None
    checkpoint_steps: int | None = None
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "patience", "checkpoint_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay={self.ema_decay} must be in [0, 1)")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip_norm={self.clip_norm} must be positive; None switches clipping off")


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training says: steps done, the best monitored loss and the wall time of all its parts."""

    steps: int
    epochs: int
    best_loss: float
    time: float


class Trainer:
    """Trains a model in `directory`, from its checkpoint if there is one.

    `directory/last.safetensors` is the whole state (with the best weights so far) in one file; `directory/best/`
    holds the best model for `sciml.load`, written when a training ends or is interrupted. Metrics are appended
    to `log`, one JSON object a line.
    """

    def __init__(
        self,
        options: TrainerOptions,
        directory: Path,
        *,
        runtime: Runtime | None = None,
        name: str = "training",
        log: Path | None = None,
    ) -> None:
        self.options = options
        self.directory = Path(directory)
        self.runtime = runtime or Runtime(device="cpu")
        self.name = name
        self.log = log or self.directory / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """Path of the training state."""
        return self.directory / "last.safetensors"

    def fit(
        self,
        model: nn.Module,
        loss: Loss,
        data: Loader,
        optimizer: Callable[[nn.Module], Optimizer],
        *,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        validation: Loader | None = None,
        validation_loss: Loss | None = None,
    ) -> TrainingResult:
        """Train `model` in place; it ends with the best weights (by validation loss, else by training loss).

        The scheduler advances once an optimizer step, `ReduceLROnPlateau` once an epoch with the monitored loss. If the
        optimizer has a method `diagnostics`, the numbers by name that this returns are logged after every step. A loss
        with state, such as adaptive weights, is an `nn.Module` (given as it is, not inside a function), so that its
        state is kept in the checkpoint. A loss that needs input derivatives works in validation too.

        Raises
        ------
        NonFiniteLossError
            At the first loss that is NaN or infinite, or a gradient that the optimizer refuses with FloatingPointError,
            or when weights or every validation were; the checkpoint, if one was written before, keeps the last good
            state.
        TrainingInterrupted
            On Ctrl-C, after the state was written.
        CheckpointError
            If the checkpoint is corrupt or belongs to another model.
        """
        if len(data) == 0:
            raise ConfigError("there is no batch to train on: the data set is empty")
        for loader in (data, validation):
            self.check_shares(loader)
        objective, optim = self.runtime.setup(model, (loss, validation_loss or loss), optimizer)
        session = _Session(self, model, objective, optim, data)
        session.schedule = scheduler(optim.optimizer) if scheduler else None
        session.validation = validation
        return session.run()

    def check_shares(self, loader: Loader | None) -> None:
        """Every process must get at least one sample of every batch."""
        world = self.runtime.world
        smallest = min((loader.batch_length(i) for i in range(len(loader))), default=world) if loader else world
        if smallest < world:
            raise ConfigError(
                f"a batch of {smallest} cannot be shared by {world} processes: choose a batch size that leaves no "
                "small last batch, or drop_last=True"
            )


class _Session:
    """One call of `Trainer.fit`: the live objects and the counters that make up its state."""

    schedule: LRScheduler | None
    validation: Loader | None

    def __init__(self, trainer: Trainer, model: nn.Module, objective: Any, optim: Any, data: Loader) -> None:
        self.trainer, self.options, self.runtime = trainer, trainer.options, trainer.runtime
        self.model, self.objective, self.optim, self.data = model, objective, optim, data
        self.epoch = self.position = self.step = self.stale = 0
        self.best_loss, self.best = math.inf, None
        self.epoch_loss = self.epoch_samples = 0.0
        self.finished = False
        self.time = 0.0
        self.ema: dict[str, Tensor] | None = None
        self.interrupted = False
        self.board: Any = None

    def run(self) -> TrainingResult:
        options = self.options
        if options.ema_decay is not None:
            self.ema = {k: v.detach().clone() for k, v in self.model.state_dict().items() if v.is_floating_point()}
        if self.trainer.checkpoint.exists():
            self.restore(load_state(self.trainer.checkpoint))
        self.runtime.barrier()
        self.truncate_log()
        self.board = self.open_board()
        started = saved = time.perf_counter()
        offset = self.time
        total = options.epochs * len(self.data)
        with (
            self.catch_interrupt(),
            Progress(self.trainer.name, total, done=self.step, active=self.runtime.is_main) as bar,
        ):
            while not self.finished:
                batches = self.data.batches(self.epoch, self.position, self.runtime.rank, self.runtime.world)
                self.objective.train()
                for batch in batches:
                    value = self.update(self.runtime.to_device(batch))
                    bar.advance(loss=value)
                    self.time = offset + time.perf_counter() - started
                    due = (
                        self.step % options.checkpoint_steps == 0
                        if options.checkpoint_steps
                        else time.perf_counter() - saved > options.checkpoint_seconds and self.runtime.world == 1
                    )
                    if self.runtime.any(self.interrupted):
                        self.stop()
                    if due and self.position < len(self.data):
                        self.save()
                        saved = time.perf_counter()
                self.end_epoch()
                # the clocks of several processes differ, and all must take part
                late = self.runtime.world > 1 or time.perf_counter() - saved > options.checkpoint_seconds
                if self.finished or options.checkpoint_steps or late:
                    self.save()
                    saved = time.perf_counter()
                if self.runtime.any(self.interrupted):
                    self.stop()
        if self.best is None:
            raise NonFiniteLossError(
                f"{self.trainer.name}: no epoch had a finite {'training' if self.validation is None else 'validation'} "
                "loss: look at the data and at what the model predicts for them"
            )
        self.load_best()
        self.export()
        self.runtime.release(self.model)
        if self.board is not None:
            self.board.close()
        return TrainingResult(self.step, self.epoch, self.best_loss, self.time)

    def update(self, batch: Any) -> float:
        """One optimizer step on one global batch; returns its loss."""
        n_global = self.data.batch_length(self.position)
        value = torch.zeros(())
        first: float | None = None
        terms: dict[str, float] = {}

        def closure() -> Tensor:
            nonlocal value, first, terms
            self.optim.zero_grad()
            parts = _split(batch, self.options.accumulate)
            value = torch.zeros((), dtype=torch.float64)
            sums: dict[str, Tensor] = {}
            for i, part in enumerate(parts):
                # DDP and FSDP average over the processes: weight by this part's share of the global batch
                share = _length(part) / n_global
                with self.runtime.fabric.no_backward_sync(
                    self.objective, enabled=i < len(parts) - 1 and self.runtime.strategy != "auto"
                ):
                    computed = self.objective(part)
                    total = torch.stack(list(computed.values())).sum()
                    self.runtime.fabric.backward(total * (share * self.runtime.world))
                value = value + total.detach().double().cpu() * share
                for name, term in computed.items():
                    sums[name] = sums.get(name, torch.zeros(())) + term.detach().cpu() * share
            value = self.runtime.sum(value)
            if not bool(torch.isfinite(value)):
                raise self.not_finite(f"the loss is {value.item()}", self.step + 1)
            if first is None:
                first = float(value)
                terms = {name: float(self.runtime.sum(term)) for name, term in sums.items()}
            if self.options.clip_norm is not None:
                self.runtime.fabric.clip_gradients(self.objective, self.optim, max_norm=self.options.clip_norm)
            return value

        told: Mapping[str, float] | None = None
        try:
            self.optim.step(closure)
            if (diagnostics := getattr(self.optim.optimizer, "diagnostics", None)) is not None:
                told = diagnostics()
        except NonFiniteLossError:
            raise
        except FloatingPointError as error:
            raise self.not_finite(f"the optimizer refuses the gradient ({error})", self.step + 1) from error
        assert first is not None, "the optimizer never called its closure"
        lr = self.optim.optimizer.param_groups[0].get("lr")
        if self.schedule is not None and not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        if self.ema is not None:
            self.average()
        self.step += 1
        self.position += 1
        self.epoch_loss += first * n_global
        self.epoch_samples += n_global
        record = {"training": self.trainer.name, "step": self.step, "epoch": self.epoch + 1, "loss": first}
        if len(terms) > 1:
            record["terms"] = terms
        if isinstance(lr, int | float | Tensor):
            record["lr"] = float(lr)
        if told is not None:
            record["optimizer"] = dict(told)
        self.write(record)
        return first

    def average(self) -> None:
        assert self.ema is not None
        assert self.options.ema_decay is not None
        current = self.model.state_dict()
        for name, mean in self.ema.items():
            mean.lerp_(current[name].detach().to(mean.dtype), 1 - self.options.ema_decay)

    def not_finite(self, what: str, step: int) -> NonFiniteLossError:
        kept = self.trainer.checkpoint
        good = f"The last good state is in {kept}" if kept.exists() else "No state had been written yet"
        return NonFiniteLossError(
            f"{self.trainer.name}: {what} at step {step} (epoch {self.epoch + 1}). {good}; lower the learning rate, "
            "clip gradients, or look at the data of this batch"
        )

    def check_weights(self) -> None:
        """A finite loss may have a gradient that is not, and its weights must not be kept."""
        for name, parameter in self.model.named_parameters():
            if self.runtime.any(not bool(torch.isfinite(local_part(parameter)).all())):
                raise self.not_finite(f"the parameter {name} is not finite", self.step)

    def stop(self) -> None:
        self.save()
        self.export()
        raise TrainingInterrupted

    def end_epoch(self) -> None:
        self.check_weights()
        train_loss = self.epoch_loss / max(self.epoch_samples, 1)
        with self.averaged_weights():
            monitored = train_loss if self.validation is None else self.validate(self.validation)
            if monitored < self.best_loss:
                self.best_loss, self.best, self.stale = monitored, gather(self.model.state_dict()), 0
            else:
                self.stale += 1
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(monitored)
        record = {"training": self.trainer.name, "step": self.step, "epoch": self.epoch + 1}
        record["epoch_loss"] = train_loss
        if self.validation is not None:
            record["validation_loss"] = monitored
        self.write(record)
        self.epoch, self.position = self.epoch + 1, 0
        self.epoch_loss = self.epoch_samples = 0.0
        self.finished = self.epoch >= self.options.epochs or (
            self.options.patience is not None and self.stale >= self.options.patience
        )

    def validate(self, data: Loader) -> float:
        self.objective.eval()
        total = torch.zeros((), dtype=torch.float64)
        samples = 0
        for batch in data.batches(0, 0, self.runtime.rank, self.runtime.world):
            moved = self.runtime.to_device(batch)
            computed = self.objective(moved, 1)
            total += torch.stack(list(computed.values())).sum().detach().double().cpu() * _length(moved)
            samples += _length(moved)
        count = self.runtime.sum(torch.tensor(float(samples), dtype=torch.float64))
        if float(count) == 0:
            raise ConfigError("the validation data set is empty")
        return float(self.runtime.sum(total) / count)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, if there are any."""
        if self.ema is None:
            yield
            return
        current = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict({**current, **self.ema})
        try:
            yield
        finally:
            self.model.load_state_dict(current)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "loss": self.objective.loss_modules.state_dict(),
            "optimizer": self.optim.optimizer.state_dict(),
            "scheduler": self.schedule.state_dict() if self.schedule is not None else None,
            "ema": self.ema,
            "best": self.best,
            "rng": rng_state(),
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "stale": self.stale,
            "best_loss": self.best_loss,
            "epoch_loss": self.epoch_loss,
            "epoch_samples": self.epoch_samples,
            "finished": self.finished,
            "time": self.time,
        }

    def save(self) -> None:
        self.check_weights()
        state = gather(self.state())
        if self.runtime.is_main:
            save_state(self.trainer.checkpoint, state)

    def restore(self, state: dict[str, Any]) -> None:
        try:
            self.load_weights(state["model"])
            self.objective.loss_modules.load_state_dict(state["loss"])
            self.load_optimizer(state["optimizer"])
            if self.schedule is not None:
                self.schedule.load_state_dict(state["scheduler"])
            for name in ("epoch", "position", "step", "stale", "best_loss", "epoch_loss", "epoch_samples"):
                setattr(self, name, state[name])
            self.finished, self.time, self.best = state["finished"], state["time"], state["best"]
            if self.ema is not None:
                self.ema = {name: scatter_like(state["ema"][name], mean) for name, mean in self.ema.items()}
            set_rng_state(state["rng"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(
                f"{self.trainer.checkpoint} does not fit this training: {type(error).__name__}: {error}. "
                "Resume with the configuration it was made with, or start in an empty directory"
            ) from error
        # a run may be resumed with more epochs than it was started with
        self.finished = self.finished and (
            self.epoch >= self.options.epochs
            or (self.options.patience is not None and self.stale >= self.options.patience)
        )

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        current = self.model.state_dict()
        placed = {n: scatter_like(value, current[n]) if n in current else value for n, value in weights.items()}
        self.model.load_state_dict(placed)

    def load_optimizer(self, state: dict[str, Any]) -> None:
        optimizer: Optimizer = self.optim.optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        placed = {
            index: {
                name: scatter_like(value, parameters[index])
                if isinstance(value, Tensor) and value.shape == parameters[index].shape
                else value
                for name, value in entries.items()
            }
            for index, entries in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": placed})

    def load_best(self) -> None:
        if self.best is not None:
            self.load_weights(self.best)

    def export(self) -> None:
        weights = self.best if self.best is not None else gather(self.model.state_dict())
        if self.runtime.is_main and isinstance(self.model, Model):
            self.model.save_pretrained(self.trainer.directory / "best", weights)

    def write(self, record: dict[str, Any]) -> None:
        if self.runtime.is_main:
            self.trainer.log.parent.mkdir(parents=True, exist_ok=True)
            with self.trainer.log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            if self.board is not None:
                for name, value in record.items():
                    if isinstance(value, float):
                        self.board.add_scalar(name, value, record["step"])

    def open_board(self) -> Any:
        """A TensorBoard writer beside the log, if TensorBoard is installed."""
        if not self.runtime.is_main or importlib.util.find_spec("tensorboard") is None:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.trainer.log.parent / "tensorboard" / self.trainer.name), purge_step=self.step + 1)

    def truncate_log(self) -> None:
        """Drop the lines of this training that lie beyond the checkpoint."""
        log = self.trainer.log
        if not self.runtime.is_main or not log.exists():
            return
        kept = []
        for line in log.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the line that a kill cut short
                continue
            if not isinstance(record, dict) or record.get("training") != self.trainer.name or "step" not in record:
                kept.append(line)  # of another training, or of the user
                continue
            beyond = record["step"] > self.step or (
                "epoch_loss" in record and record["epoch"] > self.epoch and record["step"] >= self.step
            )
            if not beyond:
                kept.append(line)
        from sciml.files import write_atomically

        write_atomically(log, "".join(f"{line}\n" for line in kept))

    @contextlib.contextmanager
    def catch_interrupt(self) -> Iterator[None]:
        """Turn the first Ctrl-C into a stop after the current step; the second one ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request(number: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        previous = signal.signal(signal.SIGINT, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


def _length(batch: Any) -> int:
    if isinstance(batch, Tensor):
        return batch.shape[0]
    if isinstance(batch, Mapping):
        return _length(next(iter(batch.values())))
    return len(batch)


def _split(batch: Any, parts: int) -> list[Any]:
    """The batch cut along its first dimension into at most `parts` pieces of nearly equal length."""
    if parts == 1:
        return [batch]
    if not isinstance(batch, Mapping):
        raise ConfigError("accumulation needs batches that are dicts of tensors")
    n = _length(batch)
    bounds = [n * i // parts for i in range(parts + 1)]
    return [{name: value[a:b] for name, value in batch.items()} for a, b in itertools.pairwise(bounds) if b > a]
