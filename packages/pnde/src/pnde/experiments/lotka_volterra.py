"""Predators and prey over many periods: what a kept invariant does for a neural ODE."""

from typing import Any

from sciml.config import config
from sciml.experiment import Bar, Experiment, Published, Report, RunDirectory

from pnde.experiments.comparison import (
    PAPER,
    Comparison,
    Data,
    Kind,
    NonNegative,
    Training,
    compare,
    note,
)
from pnde.experiments.figures import errors_over_time, phase_portraits
from pnde.models import NDE, PNDE, PNODE, PSNDE, SNDE
from pnde.problems import LotkaVolterra


@config
class Config(Comparison):
    """Everything that determines the result."""

    stabilization: NonNegative = 10.0
    penalty: NonNegative = 1.0
    regime: str = "moderate"
    data: Data = Data(test_duration=50.0)
    training: Training = Training(batch_size=128)

    def problem(self, duration: float) -> LotkaVolterra:
        return LotkaVolterra(regime=self.regime, duration=duration, time_step=self.data.time_step)

    def kinds(self) -> list[Kind]:
        common: dict[str, Any] = {"state_dim": 2, "hidden": self.hidden, "second_order": False, "skip": self.skip}
        kept = {**common, "constraint": "lotka-volterra"}
        gamma = self.stabilization
        return [
            Kind("NDE", lambda: NDE(**common)),
            Kind(f"NDE, penalty ρ={self.penalty:g}", lambda: NDE(**common), penalty=self.penalty),
            Kind(f"SNDE γ={gamma:g}", lambda: SNDE(**kept, gamma=gamma)),
            Kind("PNDE", lambda: PNDE(**kept)),
            Kind("PSNDE γ=1", lambda: PSNDE(**kept, gamma=1.0)),
            Kind("PNODE", lambda: PNODE(**kept)),
        ]


def run(config: Config, run: RunDirectory) -> Report:
    """Train all models on short windows and follow them over ten times the length of the training trajectories."""
    found = compare(config, run)
    run.figure("errors-over-time", errors_over_time(found, xlabel="time"))
    run.figure("phase", phase_portraits(found, [0], [1], names=("prey", "predators")))
    bars = [
        Bar("PNDE: mean relative state error, worst repeat", found.worst("relative_state_error", "PNDE"), 0.15),
        Bar(
            "PNDE: mean relative state error over that of NDE",
            found.value("relative_state_error", "PNDE") / found.value("relative_state_error", "NDE"),
            1 / 3,
        ),
        Bar("PNDE: error of H at the end, worst repeat", found.worst("constraint_error_end", "PNDE"), 1e-4),
        Bar("PNDE: diverged trajectories", found.value("diverged", "PNDE"), 0),
    ]
    return Report(found.metrics, [note(config)], bars)


COMMENT = "comments of the authors' code"
EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            repeats=1,
            hidden=(16, 16),
            tolerance=1e-3,
            data=Data(train=4, validation=2, test=2, duration=0.5, test_duration=1.0),
            training=Training(epochs=2, batch_size=16),
        ),
        "small": Config(),
        "paper": Config(
            repeats=1,
            hidden=(512,) * 6,
            data=Data(train=400, validation=100, test=100, test_duration=100.0, time_step=0.01),
            training=Training(epochs=1000, decay_epochs=500, learning_rate=1e-3),
        ),
    },
    paper=PAPER,
    published=[
        Published("window_mse", "NDE", 8.02e-7, "1", COMMENT),
        Published("window_mse_test", "NDE", 2.59e-6, "1", COMMENT),
        Published("window_mse", "PNDE", 6.29e-7, "1", COMMENT),
        Published("window_mse_test", "PNDE", 2.33e-6, "1", COMMENT),
    ],
)
