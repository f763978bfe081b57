"""Pendulums in Cartesian coordinates: projected, stabilized, retracted and free neural ODEs compared."""

from dataclasses import replace
from typing import Any

from pydantic import PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Report, RunDirectory

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
from pnde.models import CHNN, NDE, PNDE, PNODE, PSNDE, SNDE, AngularNDE, MetricPNDE
from pnde.models.base import substeps
from pnde.problems import NPendulum


@config
class Config(Comparison):
    """Everything that determines the result."""

    links: PositiveInt = 2
    stabilizations: tuple[NonNegative, ...] = (20.0, 200.0)
    mechanics_damping: NonNegative = 4.0
    hidden: tuple[PositiveInt, ...] = (128, 128, 128)
    data: Data = Data(train=150, validation=20, test=50)
    training: Training = Training(epochs=50)

    def problem(self, duration: float) -> NPendulum:
        return NPendulum(n_links=self.links, duration=duration, time_step=self.data.time_step)

    def kinds(self) -> list[Kind]:
        net: dict[str, Any] = {"hidden": self.hidden, "skip": self.skip}
        common = {**net, "state_dim": 4 * self.links}
        kept = {**common, "constraint": "pendulum", "constraint_config": {"n_links": self.links}}
        chnn = {name: value for name, value in kept.items() if name != "second_order"}
        return [
            Kind("NDE", lambda: NDE(**common)),
            *(Kind(f"SNDE γ={g:g}", lambda g=g: SNDE(**kept, gamma=g)) for g in self.stabilizations),
            Kind("PNDE", lambda: PNDE(**kept)),
            Kind("PSNDE γ=1", lambda: PSNDE(**kept, gamma=1.0)),
            Kind("PNODE", lambda: PNODE(**kept)),
            Kind("PNDE mechanics", lambda: MetricPNDE(**kept, gamma=self.mechanics_damping)),
            Kind("CHNN", lambda: CHNN(**chnn)),
            Kind("angular NDE", lambda: AngularNDE(**net, n_links=self.links)),
        ]


def run(config: Config, run: RunDirectory) -> Report:
    """Train all models on the same windows and roll them out from unseen initial states."""
    found = compare(config, run)
    run.figure("errors-over-time", errors_over_time(found))
    n = config.links
    run.figure("tip", phase_portraits(found, [n - 1], [2 * n - 1], names=("x of the tip [m]", "y of the tip [m]")))
    state, value = "relative_state_error", found.value
    bars = [
        Bar("PNDE: mean constraint error at the end, worst repeat", found.worst("constraint_error_end", "PNDE"), 1e-4),
        Bar(
            "PNDE mechanics: relative state error over that of NDE",
            value(state, "PNDE mechanics") / value(state, "NDE"),
            0.5,
        ),
        *(Bar(f"{label}: diverged trajectories", value("diverged", label), 0) for label in ("PNDE", "PNDE mechanics")),
    ]
    notes = [
        note(config),
        "CHNN keeps the energy, which the damping of the data takes away: training cannot lower its error at will.",
    ]
    for gamma in config.stabilizations:
        if (steps := substeps(gamma, config.data.time_step)) > 1:
            notes.append(f"SNDE γ={gamma:g} is trained with {steps} Runge-Kutta steps a time step, by its stiffness.")
    return Report(found.metrics, notes, bars)


SMOKE = Config(
    repeats=1,
    stabilizations=(200.0,),
    hidden=(16, 16),
    tolerance=1e-3,
    data=Data(train=4, validation=2, test=2, duration=0.5, test_duration=0.5),
    training=Training(epochs=2, batch_size=8),
)
LARGE = Config(
    repeats=1,
    hidden=(1024,) * 10,
    skip=True,
    data=Data(train=400, validation=200, test=100, time_step=0.01),
    training=Training(epochs=1000, decay_epochs=500, learning_rate=1e-3),
)
EXPERIMENT = Experiment(run=run, presets={"smoke": SMOKE, "small": Config(), "paper": LARGE}, paper=PAPER)
N_PENDULUM = Experiment(
    run=run,
    presets={
        "smoke": replace(SMOKE, links=4),
        "small": Config(
            links=4,
            stabilizations=(20.0,),
            data=Data(train=100, validation=20, test=50, test_duration=5.0),
            training=Training(epochs=30, batch_size=128),
        ),
        "paper": replace(LARGE, links=4),
        "paper-8": replace(LARGE, links=8),
    },
    paper=PAPER,
)
