"""The disturbed IEEE 14-bus grid: draws, reference, constraint."""

import numpy as np
import pytest
import sciml
import torch
from pnde.constraints import CONSTRAINTS, PowerBalance
from pnde.fields import ProjectedField
from pnde.power_grid.dynamics import GridField, InverterField
from pnde.problems import IEEE14
from pnde.solvers import solve
from sciml.errors import ConfigError

VARIANTS = ("published", "corrected")


@pytest.mark.parametrize("bus8", VARIANTS)
def test_reference_keeps_the_power_balance_and_the_slack_voltage(bus8):
    data = sciml.create_problem("pnde/ieee14", bus8=bus8).generate(100, seed=1)
    assert data.state.shape == (100, 101, 28)
    assert data.constraint_drift.max() < 1e-10
    np.testing.assert_allclose(data.state.sel(component="re_v2"), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(data.state.sel(component="im_v2"), 0, rtol=0, atol=1e-12)
    assert set(data.unit.values) == {"p.u."}
    assert list(data.component.values[[0, 13, 14, 27]]) == ["re_v1", "re_v14", "im_v1", "im_v14"]


@pytest.mark.parametrize("bus8", VARIANTS)
def test_states_start_off_the_operating_point_and_return_to_it(bus8):
    problem = IEEE14(bus8=bus8, duration=1000.0, time_step=500.0)
    distance = np.linalg.norm(problem.generate(25).state.values - problem.grid.operating_point(), axis=-1)
    assert distance[:, 0].min() > 0.1
    assert (distance[:, -1] < 0.01 * distance[:, 0]).all()


def sundials(problem, u):
    """The differential-algebraic equation itself, at rtol = atol = 1e-11 (at 1e-9 IDA is off by 2e-8)."""
    ida = pytest.importorskip("sksundae.ida")
    grid = problem.grid
    inverters, balance = InverterField(grid), PowerBalance(grid)
    x = np.concatenate([grid.inverter_buses, grid.n_buses + grid.inverter_buses])
    y = np.setdiff1d(np.arange(28), x)

    def residual(t, u, rate, out):
        state = torch.as_tensor(np.array(u))
        out[:8] = rate[x] - inverters(None, state).numpy()[x]
        out[8:] = balance(None, state).numpy()

    solver = ida.IDA(residual, rtol=1e-11, atol=1e-11, algebraic_idx=y, max_num_steps=100_000)
    return solver.solve(problem.time, u, problem.field(0.0, u)).y


@pytest.mark.parametrize("bus8", VARIANTS)
def test_reference_and_projected_field_agree_with_sundials(bus8):
    problem = IEEE14(bus8=bus8)
    states = problem.generate(4).state.values
    expected = np.stack([sundials(problem, u[0]) for u in states])
    np.testing.assert_allclose(states, expected, rtol=0, atol=1e-8)

    field = GridField(problem.grid)
    reduced = ProjectedField(field.inverters, field.balance, metric=field.get_buffer("metric"))
    u0, t = torch.from_numpy(states[:, 0]), torch.from_numpy(problem.time)
    found = solve(reduced, u0, t, rtol=1e-9, atol=1e-9).u.numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    orthogonal = solve(ProjectedField(field.inverters, field.balance), u0, t, rtol=1e-9, atol=1e-9).u.numpy()
    assert abs(orthogonal - expected)[:, -1].max() > 0.01


def test_forces_are_uniform_in_direction_and_in_squared_length():
    draw = IEEE14().draw
    force = np.stack([draw(np.random.default_rng(i)) for i in range(500)])
    z = force[:, :14] + 1j * force[:, 14:]
    squared = abs(z) ** 2
    np.testing.assert_allclose([squared.min(), squared.max()], [0.15, 1], atol=2e-3)
    assert squared.mean() == pytest.approx(0.575, abs=4 * 0.85 / np.sqrt(12 * 7000))
    assert abs((z / abs(z)).mean()) < 4 / np.sqrt(7000)


@pytest.mark.parametrize("bus8", VARIANTS)
def test_native_solver_finds_the_reference_from_the_problem_field(bus8):
    problem = IEEE14(bus8=bus8)
    u = torch.from_numpy(problem.generate(3).state.values)
    t = torch.from_numpy(problem.time)
    found = solve(lambda t, u: torch.from_numpy(problem.field(t, u.numpy())), u[:, 0], t, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.u, u, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("options", "m"), [({}, 20), ({"grid": "ieee14", "slack": True}, 20), ({"slack": False}, 18)])
def test_models_find_the_power_balance_by_name(options, m):
    assert (CONSTRAINTS["power-balance"](**options).m, IEEE14().constraint().n) == (m, 28)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "fields", [{"bus8": "broken"}, {"bus8": ["published"]}, {"tolerance": 0.0}, {"duration": 1.05}]
)
def test_fields_out_of_range_are_named(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        IEEE14(**fields)
