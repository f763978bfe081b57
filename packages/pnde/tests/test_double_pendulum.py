"""The double pendulum: its equations against closed forms, its fields, and the experiment on it."""

import numpy as np
import pytest
import sciml
import torch
from pnde import NDE, PNDE, SNDE, DoublePendulum, MetricPNDE, TrajectoryModel
from pnde.experiments.pendulums import EXPERIMENT, N_PENDULUM
from pnde.experiments.windows import WindowLoss
from pnde.models.base import substeps
from sciml.errors import ConfigError
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


def test_accelerations_are_those_of_the_textbook_less_the_published_damping():
    g, b = 9.81, 0.1
    p, q, w, z = 0.3, -0.5, 1.2, -0.7
    s, c = np.sin(p - q), np.cos(p - q)
    free = [
        (-3 * g * np.sin(p) - g * np.sin(p - 2 * q) - 2 * s * (z**2 + w**2 * c)) / (3 - np.cos(2 * (p - q))),
        2 * s * (2 * w**2 + 2 * g * np.cos(p) + z**2 * c) / (3 - np.cos(2 * (p - q))),
    ]
    expected = [w, z, free[0] - b * w, free[1] - b * (z - w)]
    np.testing.assert_allclose(DoublePendulum(damping=b).angular_field(np.array([p, q, w, z])), expected, rtol=1e-13)


def test_damping_takes_energy_at_every_time():
    problem = DoublePendulum(duration=2.0)
    energy = problem.energy(problem.generate(25, seed=1)["state"].values)
    assert (np.diff(energy) < 0).all()


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "fields",
    [
        {"n_links": 0},
        {"n_links": 2.0},
        {"gravity": "9.81"},
        {"damping": None},
        {"duration": -1.0},
        {"duration": 0.02},
        {"duration": 0.53},
        {"time_step": 0.0},
        {"time_step": -0.05},
        {"tolerance": 0.0},
        {"tolerance": 1e-20},
        {"tolerance": -1e-9},
    ],
    ids=str,
)
def test_fields_out_of_range_are_named(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        DoublePendulum(**fields)


@pytest.mark.parametrize(("duration", "time_step", "steps"), [(5.0, 0.05, 100), (5.0, 0.01, 500), (0.3, 0.1, 3)])
def test_a_trajectory_ends_at_its_duration(duration, time_step, steps):
    problem = DoublePendulum(duration=duration, time_step=time_step)
    assert problem.n_steps == steps
    assert problem.generate(1).time[-1] == pytest.approx(duration, rel=1e-12)


def test_the_refined_problem_differs_in_its_tolerance_alone():
    problem = DoublePendulum(damping=0.2)
    config = problem.refined().config()
    assert config.pop("tolerance") == pytest.approx(problem.tolerance / 10)
    assert config.items() <= problem.config().items()


@pytest.mark.parametrize(
    "overrides",
    [
        {"stabilizations": (float("inf"),)},
        {"mechanics_damping": float("nan")},
        {"tolerance": float("inf")},
        {"training": {"learning_rate": float("inf")}},
        {"training": {"final_learning_rate": float("inf")}},
        {"data": {"duration": float("inf")}},
        {"data": {"duration": 0.53}},
        {"training": {"window": 101}},
    ],
    ids=str,
)
def test_a_bad_configuration_writes_nothing(overrides, tmp_path):
    key, value = next(iter(overrides.items()))
    with pytest.raises(ConfigError, match=next(iter(value)) if isinstance(value, dict) else key):
        sciml.run("pnde/double-pendulum", "small", out=tmp_path / "run", device="cpu", **overrides)
    assert not (tmp_path / "run").exists()


class Euler(nn.Module):
    """One step of the field to every time: no branch on values, which tensors without values do not allow."""

    def __init__(self, model: TrajectoryModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, u0, t):
        return u0[:, None] + t[:, None] * self.model.field(u0)[:, None]


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "make",
    [
        NDE,
        SNDE,
        PNDE,
        lambda **c: MetricPNDE(**c, gamma=4.0),
    ],
    ids=["nde", "snde", "pnde", "mechanics"],
)
def test_loss_is_computed_where_model_and_batch_are(make, monkeypatch):
    """Fake tensors refuse to mix devices as a GPU does, and need none."""
    loss = WindowLoss(torch.linspace(0, 0.1, 3).double(), torch.ones(8).double())
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)  # the rank check needs values
    model = Euler(make(hidden=(4,)))
    with FakeTensorMode(allow_non_fake_inputs=True):
        moved = {name: x.to("cuda") for name, x in [*model.named_parameters(), *model.named_buffers()]}
        u = torch.ones(5, 3, 8, dtype=torch.float64, device="cuda")
        value = loss(lambda *inputs: torch.func.functional_call(model, moved, inputs), {"u": u})
    assert value.device.type == "cuda"


@pytest.mark.parametrize(
    ("gamma", "step", "steps"), [(20.0, 0.05, 1), (200.0, 0.01, 1), (200.0, 0.05, 5), (200.0, 0.0501, 6), (0.0, 1.0, 1)]
)
def test_stiff_fields_are_trained_with_as_many_steps_as_their_rate_needs(gamma, step, steps):
    assert substeps(gamma, step) == steps


def test_training_steps_damp_what_the_rate_says_however_stiff():
    """A step of γΔt = 10 would amplify violations 291 times; five of γh = 2 leave 3⁻⁵ of them, to first order."""
    model = SNDE(hidden=(4,), gamma=200.0, second_order=False)
    torch.nn.init.zeros_(model.base.net.out.weight)
    torch.nn.init.zeros_(model.base.net.out.bias)
    u0 = torch.from_numpy(DoublePendulum().to_cartesian(np.array([[0.3, 1.0, 0.0, 0.0]])))
    u0 = u0 + 1e-6 * torch.tensor([1.0, -1.0, 0.5, 2.0, 0, 0, 0, 0]).double()
    g = model.residual(model(u0, torch.tensor([0.0, 0.05, 0.1]).double())).detach().norm(dim=-1)[0]
    assert float(g[1] / g[0]) == pytest.approx(3.0**-5, rel=1e-3)


def test_presets_are_problems_that_exist():
    for preset in (*EXPERIMENT.presets.values(), *N_PENDULUM.presets.values()):
        assert preset.problem(preset.data.duration).n_steps >= preset.training.window
        assert preset.kinds()[0].make().state_dim == 4 * preset.links
