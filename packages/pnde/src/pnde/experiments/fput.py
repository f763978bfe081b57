"""A chain of masses and weakly nonlinear springs: one constraint on many components."""

from typing import Any

from pydantic import PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory

from pnde.constraints import FPUTEnergy
from pnde.experiments.comparison import (
    PAPER,
    Comparison,
    Data,
    Kind,
    NonNegative,
    Positive,
    Training,
    compare,
    note,
)
from pnde.experiments.figures import errors_over_time
from pnde.models import HNN, NDE, PNDE, PSNDE, SNDE
from pnde.problems import FPUT


@config
class Config(Comparison):
    """Everything that determines the result. The convolutions have `layers` hidden layers of `channels`."""

    n_masses: PositiveInt = 16
    channels: PositiveInt = 32
    layers: PositiveInt = 2
    stabilization: NonNegative = 10.0
    tolerance: Positive = 1e-8
    hidden: tuple[PositiveInt, ...] = (128, 128)
    data: Data = Data(train=30, validation=10, test=20, duration=20.0, test_duration=100.0, time_step=0.1)
    training: Training = Training(epochs=60)

    def problem(self, duration: float) -> FPUT:
        return FPUT(n_masses=self.n_masses, duration=duration, time_step=self.data.time_step)

    def kinds(self) -> list[Kind]:
        n = 2 * self.n_masses
        dense: dict[str, Any] = {"state_dim": n, "hidden": self.hidden, "skip": self.skip}
        conv: dict[str, Any] = {"state_dim": n, "hidden": (self.channels,) * self.layers, "network": "chain-conv"}
        energy = {"constraint": "fput-energy", "constraint_config": {"n_masses": self.n_masses}}
        return [
            Kind("NDE", lambda: NDE(**dense)),
            Kind("PNDE", lambda: PNDE(**dense, **energy)),
            Kind("NDE, convolutions", lambda: NDE(**conv)),
            Kind(
                f"SNDE γ={self.stabilization:g}, convolutions",
                lambda: SNDE(**conv, **energy, gamma=self.stabilization),
            ),
            Kind("PNDE, convolutions", lambda: PNDE(**conv, **energy)),
            Kind("PSNDE γ=1, convolutions", lambda: PSNDE(**conv, **energy, gamma=1.0)),
            Kind("HNN", lambda: HNN(**dense)),
        ]


def run(config: Config, run: RunDirectory) -> Report:
    """Train on short windows and follow chains five times as long as the training trajectories."""
    found = compare(config, run)
    run.figure("errors-over-time", errors_over_time(found, xlabel="time"))
    energy, drift = FPUTEnergy(config.n_masses), {}
    for label, r in found.rollouts.items():
        start = energy(None, r.reference[:, 0]).abs()
        drift[label] = float((r.drifts["constraint_error"] / start)[r.solved, -1].mean())
    metrics = [*found.metrics, *(Metric("relative_energy_drift_end", label, x) for label, x in drift.items())]
    bars = [
        bar
        for what in ("", ", convolutions")
        for bar in (
            Bar(f"PNDE{what}: drift of H over H at the end", drift[f"PNDE{what}"], 1e-5),
            Bar(
                f"NDE{what}: drift of H over that of PNDE{what}",
                drift[f"NDE{what}"] / drift[f"PNDE{what}"],
                50,
                at_least=True,
            ),
            Bar(f"PNDE{what}: diverged trajectories", found.value("diverged", f"PNDE{what}"), 0),
        )
    ]
    return Report(metrics, [note(config)], bars)


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            repeats=1,
            n_masses=4,
            hidden=(16, 16),
            tolerance=1e-3,
            channels=4,
            data=Data(train=4, validation=2, test=2, duration=1.0, test_duration=1.0, time_step=0.1),
            training=Training(epochs=2, batch_size=8),
        ),
        "small": Config(),
        "paper": Config(
            repeats=1,
            n_masses=128,
            hidden=(512,) * 4,
            channels=64,
            layers=4,
            data=Data(train=400, validation=100, test=100, duration=20.0, test_duration=1000.0, time_step=0.1),
            training=Training(epochs=1000, decay_epochs=500, learning_rate=1e-3),
        ),
    },
    paper=PAPER,
)
