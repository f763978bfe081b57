"""What the experiments share: models trained on the same windows, rolled out from unseen states, and measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader, Normalizer
from sciml.experiment import Metric, RunDirectory
from sciml.plotting import curves
from sciml.training import TrainerOptions
from torch import Tensor

from pnde.constraints import Constraint
from pnde.metrics import constraint_error, relative_state_error, valid_prediction_time
from pnde.models import TrajectoryModel
from pnde.problems import Trajectories

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
        steps = self.problem(self.data.duration).n_steps
        self.problem(self.data.test_duration)
        if self.training.window > steps:
            raise ValueError(f"training.window={self.training.window} is longer than the {steps} steps of a trajectory")

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

    `penalty` is the weight of mean ‖g - target‖² in the loss, `options` are those of `TrajectoryModel.solve`.
    """

    label: str
    make: Callable[[], TrajectoryModel]
    penalty: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The label as the name of a directory."""
        words = self.label.lower().replace("γ=", "gamma").replace("ρ=", "rho")
        return "".join(c if c.isalnum() or c == "." else "-" for c in words).strip("-").replace("--", "-")


@dataclass(frozen=True)
class Rollouts:
    """Solutions (trajectory, time, n) of one kind from the test states of all repeats, beside the reference.

    `error` is the relative state error and `drifts` are the errors of the constraints, (trajectory, time).
    """

    u: Tensor
    reference: Tensor
    solved: Tensor
    t: Tensor
    error: Tensor
    drifts: dict[str, Tensor]


@dataclass(frozen=True)
class Comparisons:
    """What `compare` found: the metrics, the roll-outs by label, and the models of the last repeat."""

    metrics: list[Metric]
    rollouts: dict[str, Rollouts]
    models: dict[str, TrajectoryModel]
    repeats: int

    def value(self, name: str, label: str) -> float:
        """The metric of that name and subject."""
        (found,) = (m.value for m in self.metrics if (m.name, m.subject) == (name, label))
        return found

    def each(self, name: str, label: str) -> list[float]:
        """The metric in every repeat."""
        if self.repeats == 1:
            return [self.value(name, label)]
        return [self.value(f"{name}, repeat {r}", label) for r in range(self.repeats)]

    def worst(self, name: str, label: str) -> float:
        """The largest value over the repeats; NaN if one is."""
        return float(np.max(self.each(name, label)))


def windows(u: Tensor, length: int) -> Tensor:
    """Trajectories (trajectory, time, n) cut into windows (window, length + 1, n) that share their end points."""
    return u.unfold(1, length + 1, length).flatten(0, 1).mT.contiguous()


def window_starts(t: Tensor, trajectories: int, length: int) -> Tensor:
    """Time at which each of these windows starts."""
    starts = t[: len(t) - length : length]
    return starts.expand(trajectories, -1).flatten()


class WindowLoss:
    """Mean squared error of windows, each component in units of `std`, without the given first state.

    `penalty` weights the mean of ‖g - target‖² of `constraint`. Windows whose batch has `start` begin at that time.
    With `only_solved`, windows that the model leaves (of a positive state, say) or cannot solve do not count.
    """

    def __init__(
        self,
        t: Tensor,
        std: Tensor,
        penalty: float = 0.0,
        constraint: Constraint | None = None,
        only_solved: bool = False,
    ) -> None:
        self.t, self.std, self.penalty, self.constraint, self.only_solved = t, std, penalty, constraint, only_solved

    def __call__(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        u, t, start = batch["u"], self.t.to(batch["u"]), batch.get("start")
        predicted = _predict(model, u, t, start)
        if self.only_solved:
            solved = predicted.detach().isfinite().all(-1).all(-1)
            if bool(solved.any()) and not bool(solved.all()):  # anew, as NaN times zero in a gradient is NaN
                u, start = u[solved], None if start is None else start[solved]
                predicted = _predict(model, u, t, start)
        loss = ((predicted - u)[:, 1:] / self.std.to(predicted)).square().mean()
        if self.penalty and self.constraint is not None:
            times = t.expand(u.shape[:-1]) if start is None else start[:, None] + t
            g = self.constraint(times, predicted) - self.constraint.target(times[:, 0], u[:, 0])[:, None]
            loss = loss + self.penalty * g.square().sum(-1).mean()
        return loss


def _predict(model: Any, u: Tensor, t: Tensor, start: Tensor | None) -> Tensor:
    return model(u[:, 0], t) if start is None else model(u[:, 0], t, None, start)


def compare(config: Comparison, run: RunDirectory, **solve: Any) -> Comparisons:
    """Train every kind of model in every repeat, and roll it out; `solve` are options of all solutions."""
    kinds = config.kinds()
    metrics: dict[str, list[dict[str, float]]] = {kind.label: [] for kind in kinds}
    rollouts: dict[str, list[Rollouts]] = {kind.label: [] for kind in kinds}
    models: dict[str, TrajectoryModel] = {}
    for repeat in range(config.repeats):
        suffix = f"-{repeat}" if config.repeats > 1 else ""
        data = _Repeat(config, run, suffix)
        for kind in kinds:
            models[kind.label], found, measured = data.train_and_roll_out(kind, solve)
            rollouts[kind.label].append(found)
            metrics[kind.label].append({**measured, **_measure(found)})
    merged = {label: _merge(parts) for label, parts in rollouts.items()}
    table = [m for kind in kinds for m in _table(kind.label, merged[kind.label], metrics[kind.label])]
    return Comparisons(table, merged, models, config.repeats)


class _Repeat:
    """The data of one repeat, and what is done with them."""

    def __init__(self, config: Comparison, run: RunDirectory, suffix: str) -> None:
        self.config, self.run, self.suffix = config, run, suffix
        problem, longer = config.problem(config.data.duration), config.problem(config.data.test_duration)
        self.constraint = problem.constraint()
        counts = (config.data.train, config.data.validation)
        dataset = run.generate(f"data{suffix}", problem, sum(counts))
        train, validation = torch.tensor(dataset["state"].values).split(counts)
        t, self.train = torch.tensor(dataset["time"].values), train
        unseen = run.generate(f"test{suffix}", longer, config.data.test)
        self.test, self.t = torch.tensor(unseen["state"].values), torch.tensor(unseen["time"].values)
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
        if training.free_epochs and model.base is not model.dynamics:
            seconds = self._fit(f"{name}-free", _free(model), training.free_epochs, 0.0).time
        result = self._fit(name, model, training.epochs, kind.penalty)
        u0, t = self.test[:, 0], self.t
        solved = run.step(f"rollout-{name}", lambda: self._solve(model, u0, t, {**solve, **kind.options}))
        found = Rollouts(
            solved["u"],
            self.test,
            solved["solved"],
            t,
            relative_state_error(solved["u"], self.test),
            self._drifts(solved["u"]),
        )
        said = {
            "window_mse": result.best_loss,
            "window_mse_test": solved["window_mse"],
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
    def _solve(self, model: TrajectoryModel, u0: Tensor, t: Tensor, options: Mapping[str, Any]) -> dict[str, Any]:
        place = next(model.parameters()).device
        options = {"tol": self.config.tolerance, "max_steps": self.config.max_steps, **options}
        found = model.solve(u0.to(place), t.to(place), **options)
        loss, losses, sizes = WindowLoss(self.window, self.std), [], []
        for batch in self.batches["test"].batches(0):
            moved = {name: value.to(place) for name, value in batch.items()}
            losses.append(float(loss(model, moved)))
            sizes.append(len(batch["u"]))
        return {
            "u": found.u.cpu(),
            "solved": found.solved.cpu(),
            "n_evaluations": found.nfe,
            "steps": (found.n_accepted + found.n_rejected).cpu(),
            "window_mse": float(np.average(losses, weights=sizes)),
        }

    def _drifts(self, u: Tensor) -> dict[str, Tensor]:
        start = self.test[:, 0]
        return {
            name: constraint_error(constraint, u, self.t, constraint.target(self.t[0], start))
            for name, constraint in self.config.measured().items()
        }


def _free(model: TrajectoryModel) -> TrajectoryModel:
    """The base field of a model without what the constraint makes of it; the weights are the model's."""
    free = TrajectoryModel()
    free.state_dim, free.dynamics = model.state_dim, model.base
    return free


def _measure(found: Rollouts) -> dict[str, float]:
    """Numbers of one repeat. Diverged trajectories are counted, and are in none of the means."""
    good = found.solved
    error, u, reference = found.error[good], found.u[good], found.reference[good]
    drifts: dict[str, float] = {}
    for name, values in found.drifts.items():
        drift = values[good]
        defined = drift.isfinite()
        last = torch.where(defined[:, -1], drift[:, -1], torch.nan)
        drifts |= {
            f"{name}_end": float(last.nanmean()),
            f"{name}_max": float(drift[defined].max()) if bool(defined.any()) else np.nan,
            f"{name}_mse": float(drift[defined].square().mean()),
            f"{name}_undefined": float((~defined).any(-1).sum()),
        }
    return {
        "relative_state_error": float(error.mean()),
        "relative_state_error_median": float(error.mean(-1).median()) if len(u) else np.nan,
        "relative_state_error_end": float(error[:, -1].mean()),
        "state_mse": float((u - reference).square().mean()),
        **drifts,
        "valid_prediction_time": float(valid_prediction_time(u, reference, found.t).mean()) if len(u) else np.nan,
        "diverged": float((~good).sum()),
    }


UNITS = {"valid_prediction_time": "s", "training_time": "s", "diverged": "trajectories"}


def _table(label: str, merged: Rollouts, repeats: Sequence[Mapping[str, float]]) -> list[Metric]:
    """Means over the repeats (sums of counts, the largest of maxima), and the headlines of each repeat."""
    rows = []
    for name in repeats[0]:
        values = np.array([repeat[name] for repeat in repeats])
        if name == "diverged" or name.endswith("_undefined"):
            combined = values.sum()
        else:
            combined = values.max() if name.endswith("_max") else values.mean()
        rows.append(Metric(name, label, float(combined), UNITS.get(name, "1")))
        if name == "relative_state_error":
            means = merged.error[merged.solved].mean(-1)
            half = 1.96 * float(means.std()) / len(means) ** 0.5 if len(means) > 1 else np.nan
            rows.append(Metric("relative_state_error_ci95", label, half))
    if len(repeats) > 1:
        headlines = ["relative_state_error", "window_mse", *(f"{name}_end" for name in merged.drifts)]
        rows += [
            Metric(f"{name}, repeat {r}", label, repeat[name]) for name in headlines for r, repeat in enumerate(repeats)
        ]
    return [row for row in rows if not (row.name.endswith("_undefined") and row.value == 0)]


def _merge(parts: Sequence[Rollouts]) -> Rollouts:
    states = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in ("u", "reference", "solved", "error")
    }
    drifts = {name: torch.cat([part.drifts[name] for part in parts]) for name in parts[0].drifts}
    return Rollouts(t=parts[0].t, drifts=drifts, **states)


def errors_over_time(found: Comparisons, xlabel: str = "time [s]", median: bool = False) -> Figure:
    """State and constraint error over time, means (or medians) over all solved trajectories, by label."""
    middle = (lambda x: x.nanmedian(0).values) if median else (lambda x: x.nanmean(0))
    word = "median" if median else "mean"
    t = next(iter(found.rollouts.values())).t
    drawn = next(iter(next(iter(found.rollouts.values())).drifts))
    panels = {f"{word} relative state error": {}, f"{word} {drawn.replace('_', ' ')}": {}}
    for label, rollout in found.rollouts.items():
        good = rollout.solved
        for panel, values in zip(panels.values(), (rollout.error[good], rollout.drifts[drawn][good]), strict=True):
            panel[label] = middle(values)[1:]
    return curves(t[1:], panels, xlabel=xlabel)


def phase_portraits(
    found: Comparisons, x: Sequence[int], y: Sequence[int], *, sample: int = 0, names: tuple[str, str] = ("x", "y")
) -> Figure:
    """One test trajectory in the plane of two components (sums of them, where several are given), by label."""
    figure = Figure(figsize=(2.6 * len(found.rollouts), 2.9), layout="constrained")
    axes = figure.subplots(1, len(found.rollouts), squeeze=False, sharex=True, sharey=True)[0]
    for axis, (label, rollout) in zip(axes, found.rollouts.items(), strict=True):
        for states, style in ((rollout.reference[sample], "k-"), (rollout.u[sample], "C1-")):
            axis.plot(states[:, list(x)].sum(-1), states[:, list(y)].sum(-1), style, linewidth=0.7)
        axis.set(title=label, xlabel=names[0])
    reference = next(iter(found.rollouts.values())).reference[sample]
    for components, limit in ((x, axes[0].set_xlim), (y, axes[0].set_ylim)):
        values = reference[:, list(components)].sum(-1)
        low, high = float(values.min()), float(values.max())
        limit(low - 0.4 * (high - low), high + 0.4 * (high - low))
    axes[0].set(ylabel=names[1])
    return figure


PAPER = "Projected Neural Differential Equations for Learning Constrained Dynamics, arXiv 2410.23667"


def note(config: Comparison) -> str:
    """What a reader of the table must know."""
    anew = f", all drawn and trained anew {config.repeats} times" if config.repeats > 1 else ""
    return (
        f"Seed {config.seed}{anew}; {config.data.test} test trajectories to t = {config.data.test_duration:g}; solver "
        f"tolerance {config.tolerance:g}. field_evaluations counts calls for the whole batch, steps is the mean of a "
        "trajectory. Diverged trajectories are in no mean."
    )
