"""Double pendulum in Cartesian coordinates: projected, stabilized and free neural ODEs compared."""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader, Normalizer
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory
from sciml.plotting import curves
from sciml.training import TrainerOptions
from torch import Tensor

from pnde.constraints import PendulumConstraint
from pnde.metrics import constraint_error, relative_state_error, valid_prediction_time
from pnde.models import NeuralODE, ProjectedNeuralODE, StabilizedNeuralODE
from pnde.problems import DoublePendulum

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@config
class Data:
    """Trajectories for training, validation and testing, their length (s) and time step (s)."""

    train: PositiveInt = 150
    validation: PositiveInt = 20
    test: PositiveInt = 50
    duration: Positive = 5.0
    time_step: Positive = 0.05

    def __post_init__(self) -> None:
        self.problem()

    def problem(self) -> DoublePendulum:
        """The problem with this duration and time step."""
        return DoublePendulum(duration=self.duration, time_step=self.time_step)


@config
class Training:
    """Adam with a cosine schedule on windows of `window` steps."""

    epochs: PositiveInt = 50
    batch_size: PositiveInt = 256
    window: PositiveInt = 5
    learning_rate: Positive = 2e-3
    final_learning_rate: NonNegative = 1e-6


@config
class Config:
    """Everything that determines the result."""

    seed: NonNegativeInt = 0
    hidden: tuple[PositiveInt, ...] = (128, 128, 128)
    stabilization: NonNegative = 20.0
    mechanics_damping: NonNegative = 4.0
    tolerance: Positive = 1e-6
    data: Data = Data()
    training: Training = Training()

    def __post_init__(self) -> None:
        steps = self.data.problem().n_steps
        if self.training.window > steps:
            raise ValueError(f"training.window={self.training.window} is longer than the {steps} steps of a trajectory")


def windows(u: Tensor, length: int) -> Tensor:
    """Trajectories (trajectory, time, n) cut into windows (window, length + 1, n) that share their end points."""
    return u.unfold(1, length + 1, length).flatten(0, 1).mT.contiguous()


def window_loss(t: Tensor, std: Tensor) -> Callable[[Any, dict[str, Tensor]], Tensor]:
    """Mean squared error of windows, each component in units of `std`, without the given first state."""

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        u = batch["u"]
        predicted = model(u[:, 0], t.to(u))
        return ((predicted - u)[:, 1:] / std.to(predicted)).square().mean()

    return loss


def run(config: Config, run: RunDirectory) -> Report:
    """Train the four models on the same windows and roll them out from unseen initial states."""
    counts = (config.data.train, config.data.validation, config.data.test)
    dataset = run.generate("data", config.data.problem(), sum(counts))
    train, validation, test = torch.tensor(dataset["state"].values).split(counts)
    t = torch.tensor(dataset["time"].values)
    size = config.training.batch_size
    loaders = [
        BatchLoader({"u": windows(part, config.training.window)}, size, seed=run.seed("batches"), shuffle=shuffle)
        for part, shuffle in ((train, True), (validation, False))
    ]
    flat = train.flatten(0, 1)
    std = Normalizer(flat.shape[1], dtype=flat.dtype).fit(flat).std
    loss = window_loss(t[: config.training.window + 1], std)
    kinds: dict[str, Any] = {
        "NDE": lambda **c: NeuralODE(**c),
        f"SNDE γ={config.stabilization:g}": lambda **c: StabilizedNeuralODE(**c, gamma=config.stabilization),
        "PNDE": lambda **c: ProjectedNeuralODE(**c),
        "PNDE mechanics": lambda **c: ProjectedNeuralODE(**c, metric="mechanics", gamma=config.mechanics_damping),
    }
    metrics, errors, drifts = [], {}, {}
    for label, make in kinds.items():
        name = label.lower().replace(" ", "-").replace("γ=", "gamma")
        torch.manual_seed(run.seed("initial weights"))  # the same for every model
        model: NeuralODE = make(hidden=list(config.hidden))
        model.set_normalization(flat)
        steps = config.training.epochs * len(loaders[0])
        result = run.train(
            name,
            model,
            loss,
            loaders[0],
            TrainerOptions(epochs=config.training.epochs),
            lambda m: torch.optim.Adam(m.parameters(), lr=config.training.learning_rate),
            scheduler=lambda o, steps=steps: torch.optim.lr_scheduler.CosineAnnealingLR(
                o, steps, config.training.final_learning_rate
            ),
            validation=loaders[1],
        )
        model = model.cpu()
        solved = run.step(f"rollout-{name}", lambda model=model: _rollout(model, test[:, 0], t, config.tolerance))
        measured, errors[label], drifts[label] = _evaluate(label, solved, test, t)
        metrics += [*measured, Metric("window_mse", label, result.best_loss)]
        metrics.append(Metric("training_time", label, result.time, "s"))
    panels = {"relative state error": errors, "constraint error ‖g‖": drifts}
    later = {title: {label: y[1:] for label, y in lines.items()} for title, lines in panels.items()}
    run.figure("errors-over-time", curves(t[1:], later))
    notes = [f"Seed {config.seed}; {counts[2]} test trajectories; solver tolerance {config.tolerance:g}."]
    return Report(metrics, notes, _bars(metrics))


def _rollout(model: NeuralODE, u0: Tensor, t: Tensor, tolerance: float) -> dict[str, Any]:
    solution = model.solve(u0, t, tol=tolerance, max_steps=2000)
    return {"u": solution.u, "solved": solution.solved, "n_evaluations": solution.n_evaluations}


def _evaluate(label: str, solved: dict[str, Any], test: Tensor, t: Tensor) -> tuple[list[Metric], Tensor, Tensor]:
    good = solved["solved"]
    u, reference = solved["u"][good], test[good]
    error, drift = relative_state_error(u, reference), constraint_error(PendulumConstraint(), u)
    vpt = valid_prediction_time(u, reference, t)
    found = [
        Metric("relative_state_error", label, float(error.mean())),
        Metric("relative_state_error_median", label, float(error.mean(-1).median()) if len(u) else np.nan),
        Metric("constraint_error_end", label, float(drift[:, -1].mean())),
        Metric("valid_prediction_time", label, float(vpt.mean()), "s"),
        Metric("field_evaluations", label, float(solved["n_evaluations"])),
        Metric("diverged", label, float((~good).sum()), "trajectories"),
    ]
    return found, error.mean(0), drift.mean(0)


def _bars(metrics: list[Metric]) -> list[Bar]:
    value = {(m.name, m.subject): m.value for m in metrics}
    return [
        Bar("PNDE: mean constraint error at the end", value["constraint_error_end", "PNDE"], 1e-4),
        Bar(
            "PNDE mechanics: relative state error over that of NDE",
            value["relative_state_error", "PNDE mechanics"] / value["relative_state_error", "NDE"],
            0.5,
        ),
        *(
            Bar(f"{label}: diverged trajectories, left out of every mean", value["diverged", label], 0.0)
            for label in ("PNDE", "PNDE mechanics")
        ),
    ]


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            hidden=(16, 16),
            data=Data(train=4, validation=2, test=2, duration=0.5),
            training=Training(epochs=2, batch_size=8),
        ),
        "small": Config(),
        "paper": Config(
            hidden=(1024,) * 10,
            data=Data(train=400, validation=200, test=100, time_step=0.01),
            training=Training(epochs=1000, learning_rate=1e-3),
        ),
    },
    paper="Projected Neural Differential Equations for Learning Constrained Dynamics, arXiv 2410.23667",
)
