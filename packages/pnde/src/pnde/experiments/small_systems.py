"""The problems of the stabilized neural ODE (arXiv 2306.09739): a top, a planet, an arm and a converter."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory
from torch import Tensor

from pnde.constraints import CentralMotion, Constraint, RigidBodyInvariants
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
from pnde.experiments.figures import errors_over_time, phase_portraits
from pnde.fields import ProjectedField, VectorField
from pnde.models import HNN, NDE, PNDE, PSNDE, SNDE
from pnde.problems import DCDCConverter, RigidBody, RobotArm, TwoBody
from pnde.solvers import solve


@config
class _Small(Comparison):
    stabilization: NonNegative = 8.0
    tolerance: Positive = 1e-8
    hidden: tuple[PositiveInt, ...] = (64, 64)

    def network(self) -> dict[str, Any]:
        """Arguments of all models."""
        raise NotImplementedError

    def kept(self) -> dict[str, Any]:
        """Arguments of the models with the constraint."""
        raise NotImplementedError

    def kinds(self) -> list[Kind]:
        free = {"hidden": self.hidden, "skip": self.skip, **self.network()}
        kept, gamma = {**free, **self.kept()}, self.stabilization
        return [
            Kind("NDE", lambda: NDE(**free)),
            Kind(f"SNDE γ={gamma:g}", lambda: SNDE(**kept, gamma=gamma)),
            Kind("PNDE", lambda: PNDE(**kept)),
            Kind("PSNDE γ=1", lambda: PSNDE(**kept, gamma=1.0)),
        ]


@config
class RigidBodyConfig(_Small):
    """Everything that determines the result. The models keep the Casimir, one of them the energy too."""

    data: Data = Data(train=30, validation=10, test=20, duration=10.0, test_duration=50.0, time_step=0.1)
    training: Training = Training(epochs=150)

    def problem(self, duration: float) -> RigidBody:
        return RigidBody(duration=duration, time_step=self.data.time_step)

    def measured(self) -> dict[str, Constraint]:
        return {"casimir_error": RigidBodyInvariants(), "energy_error": RigidBodyInvariants(casimir=False, energy=True)}

    def network(self) -> dict[str, Any]:
        return {"state_dim": 3, "second_order": False}

    def kept(self) -> dict[str, Any]:
        return {"constraint": "rigid-body"}

    def kinds(self) -> list[Kind]:
        both = {"hidden": self.hidden, "skip": self.skip, **self.network(), "constraint": "rigid-body"}
        options = {"casimir": True, "energy": True}
        return [*super().kinds(), Kind("PNDE, energy too", lambda: PNDE(**both, constraint_config=options))]


@config
class TwoBodyConfig(_Small):
    """Everything that determines the result. The models keep the angular momentum, one of them the energy too."""

    data: Data = Data(train=30, validation=10, test=20, duration=6.3, test_duration=12.6, time_step=0.1)
    training: Training = Training(epochs=300, window=3)

    def problem(self, duration: float) -> TwoBody:
        return TwoBody(duration=duration, time_step=self.data.time_step)

    def measured(self) -> dict[str, Constraint]:
        momentum = CentralMotion("newton", energy=False, angular_momentum=True)
        return {"angular_momentum_error": momentum, "energy_error": CentralMotion("newton")}

    def network(self) -> dict[str, Any]:
        return {"state_dim": 4}

    def kept(self, energy: bool = False) -> dict[str, Any]:
        options = {"potential": "newton", "energy": energy, "angular_momentum": True}
        return {"constraint": "central-motion", "constraint_config": options}

    def kinds(self) -> list[Kind]:
        free = {"hidden": self.hidden, "skip": self.skip, **self.network()}
        return [
            *super().kinds(),
            Kind("PNDE, energy too", lambda: PNDE(**free, **self.kept(energy=True))),
            Kind("HNN", lambda: HNN(**free)),
        ]


@config
class RobotArmConfig(_Small):
    """Everything that determines the result."""

    data: Data = Data(train=20, validation=5, test=20, duration=5.0, test_duration=10.0, time_step=0.05)
    training: Training = Training(epochs=150)

    def problem(self, duration: float) -> RobotArm:
        return RobotArm(duration=duration, time_step=self.data.time_step)

    def network(self) -> dict[str, Any]:
        return {"state_dim": 3, "second_order": False, "inputs": "arm-and-target"}

    def kept(self) -> dict[str, Any]:
        return {"constraint": "end-point-motion"}


@config
class ConverterConfig(_Small):
    """Everything that determines the result. Windows must not contain a switch, so a phase is a number of them."""

    data: Data = Data(train=30, validation=10, test=20, duration=15.0, test_duration=30.0, time_step=0.1)
    training: Training = Training(epochs=150)

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = self.problem(self.data.duration)
        length, phase = self.training.window * self.data.time_step, problem.duty * problem.period
        if abs(phase / length - round(phase / length)) > 1e-9:
            raise ValueError(f"training.window: windows of {length} s do not divide a phase of the switch, {phase} s")

    def problem(self, duration: float) -> DCDCConverter:
        return DCDCConverter(duration=duration, time_step=self.data.time_step)

    def network(self) -> dict[str, Any]:
        return {"state_dim": 3, "second_order": False, "inputs": "state-and-switch"}

    def kept(self) -> dict[str, Any]:
        return {"constraint": "converter-energy"}


def run(config: _Small, run: RunDirectory) -> Report:
    """Train on short windows, roll out from unseen states."""
    problem = config.problem(config.data.test_duration)
    jumps = {"jump_times": problem.switch_times.tolist()} if isinstance(problem, DCDCConverter) else {}
    found = compare(config, run, **jumps)
    unit = "" if problem.time_units == "1" else f" [{problem.time_units}]"
    run.figure("errors-over-time", errors_over_time(found, xlabel=f"time{unit}"))
    if isinstance(problem, TwoBody):
        run.figure("phase", phase_portraits(found, [0], [1]))
    metrics, bars = list(found.metrics), []
    error = next(iter(config.measured()))
    for label in [label for label in found.rollouts if label.startswith(("PNDE", "PSNDE"))]:
        bars += [
            Bar(f"{label}: {error.replace('_', ' ')} at any time", found.value(f"{error}_max", label), 1e-6),
            Bar(f"{label}: diverged trajectories", found.value("diverged", label), 0),
        ]
    if isinstance(problem, RobotArm):
        off = run.step("zero-base", lambda: zero_base(problem, found.rollouts["PNDE"].reference))
        metrics.append(Metric("state_error_max", "zero base, projected", off, "rad"))
        bars.append(Bar("the zero field, projected: largest error of an angle", off, 1e-8))
    return Report(metrics, [note(config)], bars)


class _Zero(VectorField):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        return torch.zeros_like(u)


def zero_base(problem: RobotArm, reference: Tensor) -> float:
    """How far the projection of the zero field is from the arm: nothing is learned, the constraint says it all."""
    constraint, t = problem.constraint(), torch.from_numpy(problem.time)
    field = ProjectedField(_Zero(3), constraint)
    target = constraint.target(t[0], reference[:, 0])
    found = solve(field, reference[:, 0], t, args=(target,), rtol=1e-11, atol=1e-11)
    return float((found.u - reference).abs().max())


def _experiment(small: _Small) -> Experiment:
    """Presets: `paper` has the sizes of arXiv 2306.09739."""
    smoke_data = replace(small.data, train=4, validation=2, test=2, duration=1.5, test_duration=1.5)
    return Experiment(
        run=run,
        presets={
            "smoke": replace(
                small,
                repeats=1,
                hidden=(16, 16),
                tolerance=1e-3,
                data=smoke_data,
                training=replace(small.training, epochs=2),
            ),
            "small": small,
            "paper": replace(
                small,
                repeats=1,
                hidden=(128, 128),
                data=replace(small.data, train=30, validation=10, test=100),
                training=replace(small.training, epochs=1000, learning_rate=1e-3, final_learning_rate=1e-5),
            ),
        },
        paper=f"{PAPER}; problems of Stabilized Neural Differential Equations, arXiv 2306.09739",
    )


RIGID_BODY = _experiment(RigidBodyConfig())
TWO_BODY = _experiment(TwoBodyConfig())
ROBOT_ARM = _experiment(RobotArmConfig())
CONVERTER = _experiment(ConverterConfig())
