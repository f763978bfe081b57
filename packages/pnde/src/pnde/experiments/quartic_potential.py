"""A point in a quartic potential: which of its two invariants to keep."""

from typing import Any

from sciml.config import config
from sciml.experiment import Bar, Experiment, Report, RunDirectory

from pnde.constraints import CentralMotion, Constraint
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
from pnde.models import CFINDE, HNN, NDE, PNDE, PSNDE, SNDE
from pnde.problems import QuarticPotential


@config
class Config(Comparison):
    """Everything that determines the result. The projected models keep the energy, "PNDE, E and L" both invariants."""

    stabilizations: tuple[NonNegative, ...] = (0.1, 1.0, 10.0)
    data: Data = Data(train=100, validation=20, test=50, duration=10.0, test_duration=50.0, time_step=0.1)
    training: Training = Training(epochs=80)

    def problem(self, duration: float) -> QuarticPotential:
        return QuarticPotential(duration=duration, time_step=self.data.time_step)

    def measured(self) -> dict[str, Constraint]:
        momentum = CentralMotion(energy=False, angular_momentum=True)
        return {"energy_error": CentralMotion(), "angular_momentum_error": momentum}

    def kinds(self) -> list[Kind]:
        common: dict[str, Any] = {"state_dim": 4, "hidden": self.hidden, "skip": self.skip}
        kept = {**common, "constraint": "central-motion"}
        both = {**kept, "constraint_config": {"energy": True, "angular_momentum": True}}
        return [
            Kind("NDE", lambda: NDE(**common)),
            *(Kind(f"SNDE γ={g:g}", lambda g=g: SNDE(**kept, gamma=g)) for g in self.stabilizations),
            Kind("PNDE", lambda: PNDE(**kept)),
            Kind("PNDE, E and L", lambda: PNDE(**both)),
            Kind("PSNDE γ=1", lambda: PSNDE(**kept, gamma=1.0)),
            Kind("HNN", lambda: HNN(**common)),
            Kind("cFINDE", lambda: CFINDE(**common, invariants=2)),
        ]


def run(config: Config, run: RunDirectory) -> Report:
    """Train on short windows, follow unseen trajectories, and measure the errors of both invariants."""
    found = compare(config, run)
    run.figure("errors-over-time", errors_over_time(found, xlabel="time"))
    run.figure("phase", phase_portraits(found, [0], [1]))
    value, worst = found.value, found.worst
    state = "relative_state_error"
    others = [label for label in found.rollouts if label.startswith(("NDE", "SNDE")) or label == "PNDE"]
    bars = [
        Bar("PNDE: error of the energy at the end, worst repeat", worst("energy_error_end", "PNDE"), 1e-4),
        Bar(
            "PNDE: error of the energy at the end over that of NDE",
            value("energy_error_end", "PNDE") / value("energy_error_end", "NDE"),
            0.01,
        ),
        Bar("PNDE: state error over that of NDE", value(state, "PNDE") / value(state, "NDE"), 1.15),
        Bar(
            "PNDE, E and L: state error over the least of NDE, SNDE and PNDE",
            value(state, "PNDE, E and L") / min(value(state, label) for label in others),
            1.0,
        ),
        *(Bar(f"{label}: diverged trajectories", value("diverged", label), 0) for label in ("PNDE", "PNDE, E and L")),
    ]
    return Report(found.metrics, [note(config)], bars)


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            repeats=1,
            hidden=(16, 16),
            tolerance=1e-3,
            data=Data(train=4, validation=2, test=2, duration=1.0, test_duration=1.0, time_step=0.1),
            training=Training(epochs=2, batch_size=8),
        ),
        "small": Config(),
        "paper": Config(
            repeats=1,
            hidden=(512,) * 4,
            data=Data(train=400, validation=100, test=100, duration=10.0, test_duration=100.0, time_step=0.01),
            training=Training(epochs=1000, decay_epochs=500, learning_rate=1e-3),
        ),
    },
    paper=PAPER,
)
