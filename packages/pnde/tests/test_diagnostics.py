"""Diagnostics against numpy, and against what the fields are known to be."""

import numpy as np
import pytest
import torch
from pnde import (
    PNDE,
    PNODE,
    SNDE,
    ConstrainedMechanics,
    FunctionConstraint,
    LinearConstraint,
    MetricPNDE,
    MLPField,
    NeuralODE,
    PendulumConstraint,
    ProjectedField,
    SecondOrderField,
    StabilizedField,
    VectorField,
    stack,
)
from pnde.diagnostics import diagnose, drift_rate
from pnde.problems import NPendulum
from sciml.errors import ConfigError, ShapeError

F64 = torch.float64


def pendulum_states(links=4, samples=6):
    data = NPendulum(links, duration=0.5, time_step=0.5).generate(samples, seed=0)
    return torch.tensor(data.state.values).flatten(0, 1)


def base(n=16, seed=0):
    torch.manual_seed(seed)
    return SecondOrderField(n, torch.nn.Linear(n, n // 2, dtype=F64))


@pytest.mark.parametrize("kind", ["identity", "diagonal", "dense", "mechanics"])
def test_conditioning_and_normal_part_are_those_of_numpy(kind):
    u, constraint = pendulum_states(), PendulumConstraint(4)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(16, dtype=F64, generator=generator) + 0.1
    A = torch.randn(16, 16, dtype=F64, generator=generator)
    metric = {"diagonal": weights, "dense": A @ A.mT + torch.eye(16, dtype=F64)}.get(kind)
    if kind == "mechanics":
        field = ConstrainedMechanics(base(), constraint, inverse_mass=weights[8:])
        W, rows = np.diag(np.r_[np.zeros(8), weights[8:].numpy()]), slice(4, None)
    else:
        field = ProjectedField(base(), constraint, metric=metric)
        W = np.eye(16) if metric is None else np.diag(weights) if metric.ndim == 1 else metric.numpy()
        rows = slice(None)
    found = diagnose(field, None, u)
    for i, state in enumerate(u):
        G = constraint.jacobian(None, state).numpy()[rows]
        f = field.base(None, state).detach().numpy()
        gram = G @ W @ G.T
        unit = gram / np.sqrt(np.outer(gram.diagonal(), gram.diagonal()))
        taken = W @ G.T @ np.linalg.solve(gram, G @ f)
        assert float(found.condition[i]) == pytest.approx(np.linalg.cond(gram), rel=1e-8)
        assert float(found.scaled_condition[i]) == pytest.approx(np.linalg.cond(unit), rel=1e-8)
        assert float(found.normal_part[i]) == pytest.approx(np.linalg.norm(taken) / np.linalg.norm(f), rel=1e-9)
    assert float(found.drift.max()) <= 1e-12


def test_a_failed_state_is_no_number_and_a_singular_one_infinite():
    field, u = ProjectedField(base(8), PendulumConstraint(2)), pendulum_states(2, 2)[:4].clone()
    expected = diagnose(field, None, u)
    u[1], u[2] = torch.nan, 0
    found = diagnose(field, None, u)
    for name in ("condition", "scaled_condition", "normal_part", "drift"):
        values = getattr(found, name)
        assert values[1].isnan()
        torch.testing.assert_close(values[[0, 3]], getattr(expected, name)[[0, 3]])
    assert float(found.condition[2]) == float(found.scaled_condition[2]) == torch.inf


def test_masses_of_one_need_not_be_given():
    found = diagnose(ConstrainedMechanics(base(), PendulumConstraint(4)), None, pendulum_states())
    ones = diagnose(
        ConstrainedMechanics(base(), PendulumConstraint(4), inverse_mass=torch.eye(8)), None, pendulum_states()
    )
    torch.testing.assert_close(found.normal_part, ones.normal_part)
    torch.testing.assert_close(found.condition, ones.condition)


def test_scaling_helps_where_velocities_are_large():
    """κ(GGᵀ) grows with the speed; with rows of unit length it does not."""
    found = diagnose(ProjectedField(base(), PendulumConstraint(4)), None, pendulum_states())
    assert bool((found.scaled_condition <= found.condition * (1 + 1e-12)).all())
    assert float(found.scaled_condition.max()) < 30 < float(found.condition.max())


def test_a_projected_field_is_tangent():
    field = ProjectedField(base(), PendulumConstraint(4))

    class Tangent(VectorField):
        n = 16

        def forward(self, t, u):
            return field(t, u)

    assert (
        float(diagnose(ProjectedField(Tangent(), field.constraint), None, pendulum_states()).normal_part.max()) <= 1e-12
    )


def test_the_normal_part_of_a_driven_constraint_is_what_the_field_loses():
    driven = FunctionConstraint(lambda t, u: u[:1] - t.sin() * u[1:2], 3, 1, driven=True)
    torch.manual_seed(0)
    field = ProjectedField(MLPField(3, (4,), dtype=F64), driven)
    t, u = torch.tensor([0.3, 2.0], dtype=F64), torch.randn(2, 3, dtype=F64)
    with torch.no_grad():
        f = field.base(t, u)
        expected = (f - field(t, u)).norm(dim=-1) / f.norm(dim=-1)
    torch.testing.assert_close(diagnose(field, t, u).normal_part, expected)


def test_drift_is_from_the_target():
    circle = FunctionConstraint(lambda u: u.square().sum()[None], 2, 1, kind="conserved")
    field = StabilizedField(MLPField(2, (4,), dtype=F64), circle, 1.0)
    u = torch.tensor([[3.0, 4.0], [1.0, 0.0]], dtype=F64)
    assert diagnose(field, None, u, torch.tensor([[24.0], [1.5]], dtype=F64)).drift.tolist() == [1.0, 0.5]
    assert diagnose(field, None, u).drift.isnan().all()
    level = LinearConstraint(torch.tensor([[3.0, 0.0, 4.0]], dtype=F64))
    both = stack(FunctionConstraint(lambda u: u.square().sum()[None], 3, 1, kind="conserved"), level)
    u = torch.randn(4, 3, dtype=F64)
    torch.testing.assert_close(
        diagnose(ProjectedField(MLPField(3, dtype=F64), both), None, u).drift, (u @ level.A[0]).abs()
    )


def test_drift_of_many_constraints_is_their_norm():
    u = torch.tensor([[3.0, 4.0, 0.0]], dtype=F64)
    field = ProjectedField(MLPField(3, (4,), dtype=F64), LinearConstraint(torch.eye(2, 3, dtype=F64)))
    assert diagnose(field, None, u).drift.tolist() == [5.0]


@pytest.mark.parametrize("make", [MetricPNDE, PNDE, SNDE, PNODE])
def test_models_and_flows_are_diagnosed_as_their_fields(make):
    model, u = make(hidden=(8,)), pendulum_states(links=2)
    if make is PNODE:  # whose field is free: what an orthogonal projection would take
        field = ProjectedField(model.base, model.constraint)
        flow = NeuralODE(model.dynamics, constraint=model.constraint)
    else:
        field = model.dynamics
        flow = NeuralODE(field)
    expected = diagnose(field, None, u)
    for found in (diagnose(model, None, u), diagnose(flow, None, u)):
        torch.testing.assert_close(found.normal_part, expected.normal_part)
        torch.testing.assert_close(found.condition, expected.condition)


def test_drift_rate_is_the_slope_of_numpys_fit():
    t = torch.linspace(0, 3, 20, dtype=F64)
    drift = torch.rand(5, 20, dtype=F64) * (0.7 * t).exp()
    for growth, y in (("exponential", drift.log()), ("linear", drift)):
        expected = [np.polyfit(t, row, 1)[0] for row in y]
        np.testing.assert_allclose(drift_rate(t, drift, growth=growth), expected, rtol=1e-10)
    assert float(drift_rate(t, 2e-9 * (1.7 * t).exp())) == pytest.approx(1.7, rel=1e-12)
    assert float(drift_rate(t, 1e-9 + 3e-8 * t, growth="linear")) == pytest.approx(3e-8, rel=1e-9)


def test_drift_rate_leaves_out_what_has_no_logarithm():
    t = torch.linspace(0, 3, 20, dtype=F64)
    drift = torch.stack([1e-6 * t.exp()] * 3)
    drift[0, 0] = 0
    drift[1, 15:] = torch.nan
    drift[2, 1:] = torch.nan
    found = drift_rate(t, drift)
    torch.testing.assert_close(found[:2], torch.ones(2, dtype=F64), rtol=1e-10, atol=0)
    assert found[2].isnan()


@pytest.mark.unchecked
def test_wrong_inputs_are_named():
    t = torch.linspace(0, 1, 3, dtype=F64)
    with pytest.raises(ConfigError, match="SecondOrderField has no constraint"):
        diagnose(base(), None, pendulum_states())
    with pytest.raises(ShapeError, match="16"):
        diagnose(ProjectedField(base(), PendulumConstraint(4)), None, torch.zeros(3, 8, dtype=F64))
    with pytest.raises(ShapeError, match=r"\.\.\., 3"):
        drift_rate(t, torch.zeros(2, 4, dtype=F64))
    with pytest.raises(ConfigError, match="exponential, linear"):
        drift_rate(t, torch.zeros(2, 3, dtype=F64), growth="cubic")
