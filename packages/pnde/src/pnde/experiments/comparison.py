"""What the experiments share: models trained on the same windows, and rolled out from unseen states."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import xarray
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader, Normalizer
from sciml.errors import DataError
from sciml.experiment import RunDirectory
from sciml.training import TrainerOptions
from torch import Tensor

from pnde.constraints import Constraint
from pnde.experiments.rollouts import DIVERGED, Comparisons, Rollouts, measure, merge, table
from pnde.experiments.windows import WindowLoss, window_starts, windows
from pnde.metrics import constraint_error, relative_state_error
from pnde.models import TrajectoryModel
from pnde.problems import Trajectories
from pnde.solvers import Solution, Status

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@config
class Data:
    """Trajectories for training, validation and testing, their lengths (s) and time step (s)."""

    train: PositiveInt = 40
    validation: PositiveInt = 10
    test: PositiveInt = 20
    duration: Positive = 5.0
    test_duration: Positive = 5.0
    time_step: Positive = 0.05


@config
class Training:
    """Adam on windows of `window` steps, its rate a half cosine over `decay_epochs` (default all), then constant.

    The first `free_epochs` train the field without the constraint, which then starts from these weights. Windows in
    which the condition number of G Gᵀ exceeds `largest_condition` are left out.
    """

    epochs: PositiveInt = 100
    batch_size: PositiveInt = 256
    window: PositiveInt = 5
    learning_rate: Positive = 2e-3
    final_learning_rate: NonNegative = 1e-6
    decay_epochs: PositiveInt | None = None
    free_epochs: NonNegativeInt = 0
    largest_condition: Positive | None = None
    clip_norm: Positive | None = None


@config
class Comparison:
    """Everything that determines the result. `repeats` is the number of times that all is drawn and trained anew."""

    seed: NonNegativeInt = 0
    repeats: PositiveInt = 3
    hidden: tuple[PositiveInt, ...] = (64, 64)
    skip: bool = False
    tolerance: Positive = 1e-6
    max_steps: PositiveInt = 20_000
    data: Data = Data()
    training: Training = Training()

    def __post_init__(self) -> None:
        steps = min(self.problem(time).n_steps for time in (self.data.duration, self.data.test_duration))
        if self.training.window > steps:
            raise ValueError(
                f"training.window={self.training.window} is longer than the {steps} steps of the shortest trajectory"
            )
        if self.skip and len(set(self.hidden)) > 1:
            raise ValueError(f"hidden={self.hidden}: layers with skip connections must have one width")
        slugs = [kind.slug for kind in self.kinds()]
        if twice := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
            raise ValueError(f"the models {', '.join(twice)} are compared more than once: give each rate once")

    @property
    def smallest_deviation(self) -> float:
        """Deviations of components below it are taken as 1."""
        return 0.0

    def problem(self, duration: float) -> Trajectories:
        """The problem, with trajectories of that duration."""
        raise NotImplementedError

    def kinds(self) -> "list[Kind]":
        """The models to compare."""
        raise NotImplementedError

    def measured(self) -> dict[str, Constraint]:
        """Constraints whose errors are reported, by the name of the error; the first one is drawn."""
        return {"constraint_error": self.problem(self.data.test_duration).constraint()}


@dataclass(frozen=True)
class Kind:
    """A model of a comparison: its label, how it is made, and how it is trained and solved.

    `penalty` is the weight of mean ‖g - target‖² in the loss, `event(model)` the event that ends its roll-outs.
    """

    label: str
    make: Callable[[], TrajectoryModel]
    penalty: float = 0.0
    event: Callable[[TrajectoryModel], Callable[..., Tensor]] | None = None

    @property
    def slug(self) -> str:
        """The label as the name of a directory."""
        words = self.label.lower().replace("γ=", "gamma").replace("ρ=", "rho")
        return "".join(c if c.isalnum() or c == "." else "-" for c in words).strip("-").replace("--", "-")


def compare(config: Comparison, run: RunDirectory, **solve: Any) -> Comparisons:
    """Train every kind of model in every repeat, and roll it out; `solve` are options of all solutions."""
    kinds = config.kinds()
    for kind in kinds:
        kind.make()  # what cannot be made ends the run before anything is computed
    metrics: dict[str, list[dict[str, float]]] = {kind.label: [] for kind in kinds}
    rollouts: dict[str, list[Rollouts]] = {kind.label: [] for kind in kinds}
    models: dict[str, TrajectoryModel] = {}
    for repeat in range(config.repeats):
        suffix = f"-{repeat}" if config.repeats > 1 else ""
        data = _Repeat(config, run, suffix)
        for kind in kinds:
            models[kind.label], found, measured = data.train_and_roll_out(kind, solve)
            rollouts[kind.label].append(found)
            metrics[kind.label].append({**measured, **measure(found)})
    merged = {label: merge(parts) for label, parts in rollouts.items()}
    rows = [m for kind in kinds for m in table(kind.label, merged[kind.label], metrics[kind.label])]
    return Comparisons(rows, merged, models, config.repeats)


class _Repeat:
    """The data of one repeat, and what is done with them."""

    def __init__(self, config: Comparison, run: RunDirectory, suffix: str) -> None:
        self.config, self.run, self.suffix = config, run, suffix
        problem, longer = config.problem(config.data.duration), config.problem(config.data.test_duration)
        self.constraint = problem.constraint()
        counts = (config.data.train, config.data.validation)
        dataset = run.generate(f"data{suffix}", problem, sum(counts))
        train, validation = states_of(dataset, problem).split(counts)
        t, self.train = torch.tensor(dataset["time"].values), train
        unseen = run.generate(f"test{suffix}", longer, config.data.test)
        self.test, self.t = states_of(unseen, longer), torch.tensor(unseen["time"].values)
        self.timed = self.constraint.driven or problem.switched
        self.times = t
        length = config.training.window
        seen = self.test[:, : len(t)] if len(self.t) >= len(t) else self.test
        seed = run.seed(f"batches{suffix}")
        self.batches = {
            name: BatchLoader(
                self._arrays(part, length, name == "train"),
                config.training.batch_size,
                seed=seed,
                shuffle=name == "train",
            )
            for name, part in {"train": train, "validation": validation, "test": seen}.items()
        }
        flat = train.flatten(0, 1)
        std = Normalizer(flat.shape[1], dtype=flat.dtype).fit(flat).std
        self.window, self.std = t[: length + 1], std.where(std >= config.smallest_deviation, 1)

    def _arrays(self, u: Tensor, length: int, filtered: bool) -> dict[str, Tensor]:
        arrays = {"u": windows(u, length)}
        if self.timed:
            arrays["start"] = window_starts(self.times[: u.shape[1]], len(u), length)
        limit = self.config.training.largest_condition
        if filtered and limit is not None:
            states = arrays["u"]
            times = arrays["start"][:, None].expand(states.shape[:-1]) if self.timed else None
            kept = (torch.linalg.cond(self.constraint.jacobian(times, states)) ** 2).amax(1) <= limit
            if not bool(kept.any()):
                raise ValueError(f"training.largest_condition={limit} leaves no window to train on")
            arrays = {name: value[kept] for name, value in arrays.items()}
        return arrays

    def train_and_roll_out(
        self, kind: Kind, solve: Mapping[str, Any]
    ) -> tuple[TrajectoryModel, Rollouts, dict[str, float]]:
        """One trained model of that kind, its solutions, and what its training says."""
        run, training, name = self.run, self.config.training, f"{kind.slug}{self.suffix}"
        torch.manual_seed(run.seed(f"initial weights{self.suffix}"))  # the same for every model
        model = kind.make()
        times = self.times.expand(self.train.shape[:-1]) if self.timed else None
        model.set_normalization(self.train, times, self.config.smallest_deviation)
        seconds = 0.0
        if training.free_epochs and model.constraint is not None:
            seconds = self._fit(f"{name}-free", _free(model), training.free_epochs, 0.0).time
        result = self._fit(name, model, training.epochs, kind.penalty)
        u0, t = self.test[:, 0], self.t
        solved = run.step(f"rollout-{name}", lambda: self._solve(kind, model, u0, t, solve))
        found = Rollouts(
            solved["u"],
            self.test,
            solved["solved"],
            t,
            relative_state_error(solved["u"], self.test),
            self._drifts(solved["u"]),
            {name: constraint.m for name, constraint in self.config.measured().items()},
        )
        said = {
            "window_mse": result.best_loss,
            "window_mse_test": solved["window_mse"],
            "window_mse_test_undefined": solved["window_mse_undefined"],
            "field_evaluations": float(solved["n_evaluations"]),
            "steps": float(solved["steps"].double().mean()),
            "training_time": seconds + result.time,
        }
        return model, found, said

    def _fit(self, name: str, model: Any, epochs: int, penalty: float) -> Any:
        training = self.config.training
        decay = (training.decay_epochs or epochs) * len(self.batches["train"])
        lowest = training.final_learning_rate / training.learning_rate

        def factor(step: int) -> float:
            return lowest + (1 - lowest) * (1 + np.cos(np.pi * min(step / decay, 1.0))) / 2

        return self.run.train(
            name,
            model,
            WindowLoss(self.window, self.std, penalty, self.constraint, only_solved=True),
            self.batches["train"],
            TrainerOptions(epochs=epochs, clip_norm=training.clip_norm),
            lambda m: torch.optim.Adam(m.parameters(), lr=training.learning_rate),
            scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, factor),
            validation=self.batches["validation"],
            validation_loss=WindowLoss(self.window, self.std),
        )

    @torch.no_grad()
    def _solve(
        self, kind: Kind, model: TrajectoryModel, u0: Tensor, t: Tensor, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        place = next(model.parameters()).device
        found = roll_out(kind, model, u0, t, tol=self.config.tolerance, max_steps=self.config.max_steps, **options)
        loss, losses = WindowLoss(self.window, self.std), []
        for batch in self.batches["test"].batches(0):
            moved = {name: value.to(place) for name, value in batch.items()}
            losses.append(loss.of_each(model, moved).cpu())
        each = torch.cat(losses)
        defined = each.isfinite()
        return {
            "u": found.u.cpu(),
            "solved": (found.status == Status.SUCCESS).cpu(),
            "n_evaluations": found.nfe,
            "steps": (found.n_accepted + found.n_rejected).cpu(),
            "window_mse": float(each[defined].mean()),
            "window_mse_undefined": float((~defined).sum()),
        }

    def _drifts(self, u: Tensor) -> dict[str, Tensor]:
        start = self.test[:, 0]
        return {
            name: constraint_error(constraint, u, self.t, constraint.target(self.t[0], start))
            for name, constraint in self.config.measured().items()
        }


def states_of(dataset: xarray.Dataset, problem: Trajectories) -> Tensor:
    """The states of the problem's data. DataError if their components are others, or in another order."""
    found, names = dataset["component"].values.tolist(), [name for name, _ in problem.components]
    if found != names:
        raise DataError(
            f"the components of the data are {found}, those of the problem {names}: generate the data again"
        )
    return torch.tensor(dataset["state"].values)


def roll_out(kind: Kind, model: TrajectoryModel, u0: Tensor, t: Tensor, **options: Any) -> Solution:
    """Solutions of a model of that kind, where it is; its event ends them early, with another status than SUCCESS."""
    place = next(model.parameters()).device
    event = None if kind.event is None else kind.event(model)
    return model.solve(u0.to(place), t.to(place), event=event, **options)


def _free(model: TrajectoryModel) -> TrajectoryModel:
    """The base field of a model without what the constraint makes of it; the weights are the model's."""
    free = TrajectoryModel()
    free.state_dim, free.dynamics = model.state_dim, model.base
    return free


PAPER = "Projected Neural Differential Equations for Learning Constrained Dynamics, arXiv 2410.23667"


def note(config: Comparison) -> str:
    """What a reader of the table must know."""
    anew = f", all drawn and trained anew {config.repeats} times" if config.repeats > 1 else ""
    return (
        f"Seed {config.seed}{anew}; {config.data.test} test trajectories to t = {config.data.test_duration:g}; solver "
        f"tolerance {config.tolerance:g}. field_evaluations counts calls for the whole batch, steps is the mean of a "
        "trajectory. Unsolved trajectories are in no mean; diverged are these and those whose relative state error "
        f"exceeds {DIVERGED:g}. Test windows that a model cannot solve are counted, and not in window_mse_test."
    )
