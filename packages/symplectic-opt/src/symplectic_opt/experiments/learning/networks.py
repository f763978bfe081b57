"""Networks trained with each optimizer: tuned on data kept for that, then trained anew from several seeds."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader
from sciml.errors import NonFiniteLossError
from sciml.experiment import Bar, Metric, Report, RunDirectory
from sciml.training import Trainer, TrainerOptions
from torch import Tensor, nn

from symplectic_opt.experiments.learning.figures import progress
from symplectic_opt.experiments.learning.methods import (
    Cell,
    Method,
    Rates,
    Tuned,
    note_on_grids,
    notes_of_ends,
    ranking,
    search,
    stochastic,
)
from symplectic_opt.problems._learning import Learning, Split

Part = dict[str, Tensor]
Fraction = Annotated[float, Field(ge=0, lt=1)]
FAILED = (NonFiniteLossError, FloatingPointError, OverflowError)


@config
class Training:
    """Everything that determines the result.

    Each method is tuned on a grid of `radius`, see `Method.cells`, and by `extra` more settings, see `search`. A
    setting is tried by trainings of `tuning_epochs` from `tuning_seeds` seeds, for which a part `validation` of the
    training data is kept aside to choose the setting by its mean loss; where that is 0, the loss of all training data
    does. Then it is trained from `repeats` other seeds: with all training data, whose loss chooses the epoch, or
    without `refit` like in tuning.
    """

    seed: NonNegativeInt = 0
    repeats: PositiveInt = 3
    epochs: PositiveInt = 20
    tuning_epochs: PositiveInt = 20
    tuning_seeds: PositiveInt = 2
    radius: NonNegativeInt = 2
    extra: NonNegativeInt = 7
    validation: Fraction = 0.1
    refit: bool = True
    batch_size: PositiveInt | None = None

    def problem(self) -> Learning:
        """Data and network."""
        raise NotImplementedError

    def split(self) -> Split:
        """All data."""
        return self.problem().data()

    def rates(self) -> Rates:
        """The centres of the grids."""
        raise NotImplementedError

    def in_time(self) -> bool:
        """Whether samples follow each other in time, so that the last are for validation, not random ones."""
        return False

    def methods(self) -> list[Method]:
        """The methods to compare."""
        return stochastic(self.rates())

    def bars(self, found: "Comparison") -> list[Bar]:
        """What is to hold."""
        return []

    def notes(self, found: "Comparison") -> list[str]:
        """What a reader must know of these data."""
        return []


@dataclass(frozen=True)
class Comparison:
    """Measured by label: losses after each epoch (repeats, epochs), and numbers of the trained networks (repeats)."""

    losses: Mapping[str, np.ndarray]
    numbers: Mapping[str, Mapping[str, np.ndarray]]

    def mean(self, name: str, label: str) -> float:
        """Mean over the repeats."""
        return float(self.numbers[label][name].mean())

    def loss(self, label: str, epoch: int) -> float:
        """Median over the repeats of the loss after that epoch."""
        return float(np.median(self.losses[label][:, epoch - 1]))


class BatchLoss(nn.Module):
    """Loss of a batch, with changed inputs where that was published and `augmented`."""

    def __init__(self, problem: Learning, augmented: bool) -> None:
        super().__init__()
        self.problem, self.augmented = problem, augmented

    def forward(self, model: Callable[[Tensor], Tensor], batch: Part) -> Tensor:
        x = batch["x"]
        if self.augmented:
            x = self.problem.augment(x, torch.default_generator)
        return self.problem.loss(model(x), batch["y"])


class Race:
    """The data of an experiment, and the trainings on them."""

    def __init__(self, config: Training, run: RunDirectory) -> None:
        self.config, self.run, self.problem = config, run, config.problem()
        data = config.split()
        n = len(data.train_input)
        kept = round(config.validation * n)
        x, y = data.train_input, data.train_target
        if kept and not config.in_time():
            order = torch.randperm(n, generator=torch.Generator().manual_seed(run.seed("validation")))
            x, y = x[order], y[order]
        self.whole, self.test = {"x": x, "y": y}, {"x": data.test_input, "y": data.test_target}
        self.part, self.aside = self.whole, self.whole
        if kept:
            self.part = {name: value[: n - kept] for name, value in self.whole.items()}
            self.aside = {name: value[n - kept :] for name, value in self.whole.items()}
        self.size = config.batch_size or self.problem.batch_size

    def tune(self, method: Method) -> Tuned:
        """The cell whose trainings have the least mean loss; the first one where none comes through with all seeds."""
        numbers = itertools.count()

        def mean(cell: Cell) -> float:
            number, seeds = next(numbers), range(self.config.tuning_seeds)
            return float(np.mean([self.tuning_loss(method, cell, f"{number}-{j}", j) for j in seeds]))

        return search(method, self.config.radius, self.config.extra, mean)

    def tuning_loss(self, method: Method, cell: Cell, name: str, seed: int) -> float:
        """Least loss of the data kept aside in a training of `tuning_epochs`, infinite where that fails.

        Its files are kept apart from the run's trainings, which are read and drawn together.
        """
        trainer = Trainer(
            TrainerOptions(epochs=self.config.tuning_epochs),
            self.run.path / "tuning" / f"{method.slug}-{name}",
            runtime=self.run.runtime,
            name=f"tuning of {method.label}: {', '.join(f'{v:.3g}' for v in cell)}",
        )
        training = self.training(method, cell, f"tuning {seed}", self.part)
        try:
            return trainer.fit(*training, **self.monitor(self.aside)).best_loss
        except FAILED:
            return math.inf

    def train(self, method: Method, cell: Cell, repeat: int) -> dict[str, float]:
        """Numbers of the network trained with that setting; NaN where the training failed."""
        part, judge = (self.whole, self.whole) if self.config.refit else (self.part, self.aside)
        model, loss, loader, optimizer = self.training(method, cell, str(repeat), part)
        name, options = f"{method.slug}-{repeat}", TrainerOptions(epochs=self.config.epochs)
        try:
            seconds = self.run.train(name, model, loss, loader, options, optimizer, **self.monitor(judge)).time
        except FAILED:
            seconds = math.nan
        found = {}
        for name, data in (("train", part), ("test", self.test)):
            numbers = self.evaluate(model, data)
            found |= {f"{name}_{key}": math.nan if math.isnan(seconds) else v for key, v in numbers.items()}
        return {**found, "training_time": seconds}

    def training(self, method: Method, cell: Cell, name: str, part: Part) -> tuple[nn.Module, Any, BatchLoader, Any]:
        """Model, loss, batches and optimizer; weights and order of batches depend on `name` alone."""
        model = self.problem.network(self.run.seed(f"weights {name}"))
        loader = BatchLoader(part, self.size, seed=self.run.seed(f"batches {name}"))
        return model, BatchLoss(self.problem, True), loader, lambda m: method.make(m.parameters(), cell)

    def monitor(self, part: Part) -> dict[str, Any]:
        """Data and loss that choose the epoch."""
        loader = BatchLoader(part, 1024, shuffle=False)
        return {"validation": loader, "validation_loss": BatchLoss(self.problem, False)}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: Part) -> dict[str, float]:
        """Loss of a part of the data, and the problem's metrics."""
        place = next(model.parameters()).device
        model.eval()
        outputs = torch.cat([model(x.to(place)).cpu() for x in part["x"].split(1024)])
        return {"loss": float(self.problem.loss(outputs, part["y"])), **self.problem.metrics(outputs, part["y"])}


def run(config: Training, run: RunDirectory) -> Report:
    """Tune each method, train with it from several seeds, and test once."""
    race = Race(config, run)
    metrics: list[Metric] = []
    at_ends, names, numbers, rows = [], {}, {}, []
    for method in config.methods():
        label, tuned = method.label, race.tune(method)
        cell = tuned.cell
        rows = [race.train(method, cell, k) for k in range(config.repeats)]
        names[label] = [f"{method.slug}-{k}" for k in range(config.repeats)]
        numbers[label] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        for name, values in numbers[label].items():
            unit = "s" if name == "training_time" else "1"
            metrics.append(Metric(name, label, float(values.mean()), unit))
            if unit == "1":
                metrics.append(Metric(f"{name}_std", label, float(values.std())))
        metrics += [Metric(name, label, float(value)) for name, value in zip(("rate", "C"), cell)]
        at_ends += [label] if tuned.at_end else []
    found = Comparison(_losses(run, names, config.epochs), numbers)
    title = f"{'training' if config.refit else 'validation'} loss (median)"
    lines = {label: np.median(values, 0) for label, values in found.losses.items()}
    run.figure("losses", progress(lines, title, "epoch"))
    measure = next((name for name in rows[0] if name.startswith("test_") and name != "test_loss"), "test_loss")
    means = {label: values[measure].mean() for label, values in numbers.items()}
    order = ranking(measure.replace("_", " "), means, largest=measure != "test_loss")
    notes = [note(config), order, *config.notes(found), *notes_of_ends(at_ends)]
    return Report(metrics, notes, config.bars(found))


def _losses(run: RunDirectory, names: Mapping[str, Sequence[str]], epochs: int) -> dict[str, np.ndarray]:
    """Losses of validation (repeats, epochs) by label; NaN from where a training failed."""
    logged = {
        (record["training"], record["epoch"]): record["validation_loss"]
        for record in run.history()
        if "validation_loss" in record
    }
    return {
        label: np.array([[logged.get((name, epoch + 1), math.nan) for epoch in range(epochs)] for name in trainings])
        for label, trainings in names.items()
    }


def note(config: Training) -> str:
    """What a reader of the table must know."""
    aside = f"{config.validation:.0%} of the training data, kept aside" if config.validation else "the training data"
    final = "with all training data, at the epoch of their least loss" if config.refit else "and chosen in the same way"
    return (
        f"Means over {config.repeats} seeds of weights and batches from {config.seed}, with standard deviations. Each "
        f"method was tuned by {config.tuning_epochs} epochs for each setting (other seeds, {config.tuning_seeds} of "
        f"them), by the least loss of {aside}; then trained {final}. {note_on_grids(config.radius, config.extra)} Test "
        "data choose nothing. Rates are constant; rate is h or the learning rate. Methods at published rates are not "
        "tuned. eBrAVO and pBrAVO decide on restarts with the next gradient, of another minibatch; in the bravo "
        "order, as their authors do, with the gradient that has just moved the weights."
    )
