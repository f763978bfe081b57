"""The IEEE 14-bus grid back to its operating point: what the power balance does for a neural ODE."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory
from torch import Tensor

from pnde.constraints import Constraint, LinearConstraint, PowerBalance
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
    roll_out,
)
from pnde.experiments.figures import errors_over_time
from pnde.experiments.rollouts import Comparisons
from pnde.models import NDE, PNDE, PSNDE, SNDE, MetricPNDE, TrajectoryModel
from pnde.power_grid.regularity import algebraic_regularity
from pnde.problems import IEEE14
from pnde.solvers import Status

TIMES = (1.0, 5.0, 10.0)
REGULAR = 0.1  # least singular value of G_y, which is 0.82 to 0.83 along the references
BOUNDED = 1.5  # |V| over the largest one of the references, up to which a roll-out is bounded


@config
class Config(Comparison):
    """Everything that determines the result. All models but one keep the slack voltage beside the powers of the loads.

    Models are followed to `long_duration` from `long_test` of the test states as well, in steps of 1 s, with
    `long_tolerance`.
    """

    bus8: Literal["published", "corrected"] = "published"
    stabilizations: tuple[NonNegative, ...] = (0.1, 1.0, 10.0)
    long_duration: Positive = 100.0
    long_test: PositiveInt = 10
    long_tolerance: Positive = 1e-6
    hidden: tuple[PositiveInt, ...] = (96, 96)
    data: Data = Data(train=40, validation=10, test=20, duration=10.0, test_duration=10.0, time_step=0.1)
    training: Training = Training(epochs=60)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.long_duration % 1:
            raise ValueError(f"long_duration={self.long_duration} must be a whole number of steps of 1 s")

    @property
    def smallest_deviation(self) -> float:
        return 1e-4  # of the slack voltage, which is constant

    def problem(self, duration: float) -> IEEE14:
        return IEEE14(bus8=self.bus8, duration=duration, time_step=self.data.time_step)

    def measured(self) -> dict[str, Constraint]:
        return {"power_error": PowerBalance(slack=False), "slack_error": slack_voltage(self.problem(1.0))}

    def kinds(self) -> list[Kind]:
        common: dict[str, Any] = {"state_dim": 28, "hidden": self.hidden, "second_order": False, "skip": self.skip}
        kept = {**common, "constraint": "power-balance"}
        loads = {**kept, "constraint_config": {"slack": False}}
        algebraic = algebraic_components(self.problem(1.0))
        return [
            Kind("NDE", lambda: NDE(**common)),
            *(Kind(f"SNDE γ={g:g}", lambda g=g: SNDE(**kept, gamma=g)) for g in self.stabilizations),
            Kind("PNDE", lambda: PNDE(**kept)),
            Kind("PNDE, no slack rows", lambda: PNDE(**loads)),
            Kind("PSNDE γ=1", lambda: PSNDE(**kept, gamma=1.0)),
            Kind(
                "PNDE algebraic",
                lambda: MetricPNDE(**kept, metric="algebraic", algebraic=algebraic),
                event=lambda model: self._regularity(model, algebraic),
            ),
        ]

    def _regularity(self, model: TrajectoryModel, algebraic: list[int]) -> Callable[..., Tensor]:
        assert model.constraint is not None
        regular = torch.from_numpy(self.problem(1.0).grid.operating_point()).to(next(model.parameters()))
        return algebraic_regularity(model.constraint, algebraic, regular, least=REGULAR)


def slack_voltage(problem: IEEE14) -> LinearConstraint:
    """Real and imaginary part of the voltage at the slack bus, less their set-points."""
    grid = problem.grid
    rows = torch.zeros(2, 2 * grid.n_buses, dtype=torch.float64)
    rows[0, grid.slack] = rows[1, grid.n_buses + grid.slack] = 1
    v = grid.slack_voltage
    return LinearConstraint(rows, torch.tensor([v.real, v.imag], dtype=torch.float64))


def algebraic_components(problem: IEEE14) -> list[int]:
    """Components of the state at the slack bus and at the loads, as many as the constraint has rows."""
    grid = problem.grid
    buses = sorted([grid.slack, *(int(bus) for bus in grid.load_buses)])
    return [*buses, *(grid.n_buses + bus for bus in buses)]


def run(config: Config, run: RunDirectory) -> Report:
    """Train on trajectories of 10 s; roll out over the same time, and far beyond it."""
    found = compare(config, run)
    metrics = [*found.metrics, *_at_times(found, config), *_beyond(found, config, run)]
    run.figure("errors-over-time", errors_over_time(found))
    guard = (
        f"Roll-outs of PNDE algebraic end where the least singular value of G_y falls to {REGULAR:g}, and are then not "
        f"solved; up to t = {config.long_duration:g} the tolerance is {config.long_tolerance:g}."
    )
    return Report(metrics, [note(config), guard], bars(found, metrics, config))


def bars(found: Comparisons, metrics: Sequence[Metric], config: Config) -> list[Bar]:
    """What the projection is to reach."""
    value = {(m.name, m.subject): m.value for m in metrics}
    last = "relative_state_error_end"
    return [
        Bar("PNDE: relative state error at the end", value[last, "PNDE"], 0.05),
        *(
            Bar(
                f"PNDE: relative state error at the end over that of {label}",
                value[last, "PNDE"] / value[last, label],
                1.0,
            )
            for label in found.rollouts
            if label.startswith("SNDE")
        ),
        Bar("PNDE: error of the powers at the end, worst repeat", found.worst("power_error_end", "PNDE"), 1e-5),
        Bar("PNDE: drift of the slack voltage", value["slack_error_max", "PNDE"], 1e-9),
        Bar("PNDE: diverged trajectories", value["diverged", "PNDE"], 0.0),
        Bar(
            f"PNDE: trajectories with a |V| up to t = {config.long_duration:g} of {BOUNDED:g} times the references'",
            value["long_diverged", "PNDE"],
            0.0,
        ),
        Bar(
            f"PNDE: powers off their set-points at t = {config.long_duration:g}",
            value["long_power_error_end", "PNDE"],
            1e-4,
        ),
    ]


def _at_times(found: Comparisons, config: Config) -> list[Metric]:
    rows = []
    for time in TIMES:
        if time <= config.data.test_duration:
            at = int(np.argmin(np.abs(next(iter(found.rollouts.values())).t.numpy() - time)))
            rows += [
                Metric(f"relative_state_error_at_{time:g}", label, float(r.error[r.solved][:, at].mean()))
                for label, r in found.rollouts.items()
            ]
    return rows


def _beyond(found: Comparisons, config: Config, run: RunDirectory) -> list[Metric]:
    """Roll-outs of the last repeat's models over times that training never saw."""
    t = torch.arange(0, config.long_duration + 1, dtype=torch.float64)
    start = next(iter(found.rollouts.values())).reference[-config.long_test :, 0]
    bound = float(largest_voltage(next(iter(found.rollouts.values())).reference).max())
    power = PowerBalance(slack=False)
    metrics, series = [], {}
    for kind in config.kinds():
        label, model = kind.label, found.models[kind.label]

        def solve(kind: Kind = kind, model: TrajectoryModel = model) -> dict[str, Any]:
            options = {"tol": config.long_tolerance, "max_steps": config.max_steps}
            solution = roll_out(kind, model, start, t, **options)
            return {"u": solution.u.cpu(), "solved": (solution.status == Status.SUCCESS).cpu()}

        solved = run.step(f"long-{kind.slug}", solve)
        u = solved["u"]
        series[label] = (u, power(None, u).norm(dim=-1))
        reached = u[solved["solved"]]
        largest = float(largest_voltage(reached).max() / bound) if len(reached) else np.nan
        within = solved["solved"] & (largest_voltage(u) <= BOUNDED * bound)
        metrics += [
            Metric("long_diverged", label, float((~within).sum()), "trajectories"),
            Metric("long_largest_voltage", label, largest),
            Metric("long_power_error_end", label, float(power(None, reached[:, -1]).norm(dim=-1).mean())),
        ]
    run.figure("long-rollouts", _long_figure(t, series, [0, 2, 5, 7]))
    return metrics


def largest_voltage(u: Tensor) -> Tensor:
    """The largest |V| of each trajectory (trajectory, time, component), at any bus and time."""
    return torch.hypot(*u.chunk(2, -1)).flatten(1).amax(-1)


def _long_figure(t: Any, series: dict[str, Any], buses: Sequence[int]) -> Figure:
    """|V| at the inverters of one trajectory, and the departure of the loads' powers, for every model."""
    figure = Figure(figsize=(2.4 * len(series), 4.6), layout="constrained")
    axes = figure.subplots(2, len(series), squeeze=False, sharex=True)
    for column, (label, (u, power)) in enumerate(series.items()):
        a, b = u[0].chunk(2, -1)
        for bus in buses:
            axes[0, column].plot(t, torch.hypot(a, b)[:, bus], label=f"bus {bus + 1}", linewidth=0.8)
        axes[0, column].set(title=label, ylim=(0, 1.5))
        axes[1, column].semilogy(t[1:], power[:, 1:].T, linewidth=0.6)
        axes[1, column].set(xlabel="time [s]", ylim=(1e-12, 1e3))
    axes[0, 0].set(ylabel="|V| [p.u.]")
    axes[0, 0].legend(fontsize="x-small")
    axes[1, 0].set(ylabel="powers of the loads,\noff their set-points [p.u.]")
    return figure


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            repeats=1,
            hidden=(16, 16),
            tolerance=1e-3,
            stabilizations=(1.0,),
            data=Data(train=4, validation=2, test=2, duration=1.0, test_duration=1.0, time_step=0.1),
            training=Training(epochs=2, batch_size=8),
            long_duration=2.0,
            long_test=2,
            long_tolerance=1e-3,
        ),
        "small": Config(),
        "paper": Config(
            repeats=1,
            hidden=(512,) * 10,
            tolerance=1e-4,
            long_duration=500.0,
            long_test=50,
            data=Data(train=50, validation=50, test=100, duration=10.0, test_duration=10.0, time_step=0.1),
            training=Training(epochs=1000, decay_epochs=500, learning_rate=1e-3),
        ),
    },
    paper=PAPER,
)
