"""References of the problems: constraints kept, fields solved, analytic solutions met, starts where they should be."""

import itertools
import math

import numpy as np
import pytest
import sciml
import torch
import xarray
from pnde.problems import (
    FPUT,
    DCDCConverter,
    DoublePendulum,
    LotkaVolterra,
    NPendulum,
    QuarticPotential,
    RigidBody,
    RobotArm,
    TwoBody,
)
from pnde.problems._common import Integrated
from pnde.problems.central import eccentric_anomaly
from pnde.problems.lotka_volterra import REGIMES
from sciml.data import generate, open_dataset
from sciml.errors import ConfigError
from scipy.integrate import solve_ivp
from scipy.special import ellipj

# largest drift over 25 trajectories: rounding where the solution is exact, else that of the solver
DRIFT = {
    "pnde/double-pendulum": 1e-14,
    "pnde/n-pendulum": 3e-14,
    "pnde/two-body": 1e-14,
    "pnde/dc-dc-converter": 1e-14,
    "pnde/quartic-potential": 1e-9,
    "pnde/lotka-volterra": 1e-9,
    "pnde/rigid-body": 1e-10,
    "pnde/robot-arm": 1e-10,
    "pnde/fput": 1e-10,
}


def solved(problem, t, u0):
    """The problem's field solved from one state, step by step as tight as scipy goes."""
    found = solve_ivp(problem.field, (t[0], t[-1]), u0, method="DOP853", t_eval=t, rtol=1e-13, atol=1e-13)
    return found.y.T


@pytest.mark.parametrize("name", DRIFT)
def test_references_keep_their_constraints(name):
    data = sciml.create_problem(name).generate(25, seed=1)
    assert data.constraint_drift.max() <= DRIFT[name]
    assert data.state.dims == ("trajectory", "time", "component")
    assert data.attrs["problem"] == name
    assert "solver" in data.attrs


@pytest.mark.parametrize("name", DRIFT)
def test_fields_are_tangent_to_their_constraints(name):
    problem = sciml.create_problem(name)
    g, data = problem.constraint(), problem.generate(5)
    for i in (1, 7, 31):
        t, u = float(data.time[i]), data.state.values[:, i]
        state = torch.from_numpy(u)
        f = torch.from_numpy(problem.field(t, u))
        rate = (g.jacobian(t, state) @ f[..., None])[..., 0]
        if g.driven:
            rate = rate + g.time_derivative(t, state)
        assert rate.abs().max() <= 1e-12 * max(1, f.square().sum(-1).max())


def test_drifts_of_all_trajectories_are_stored(tmp_path):
    problem = LotkaVolterra(duration=0.1)
    n = problem.chunk + 5
    stored = open_dataset(generate(problem, n, out=tmp_path / "data"))
    xarray.testing.assert_equal(stored.load(), problem.generate(n))
    assert stored.constraint_drift.shape == (n,)


def test_drift_is_the_largest_departure_from_the_first_value():
    problem = QuarticPotential(duration=0.3)
    u = problem.generate(2).state.values
    u[1, 2] *= 1.1
    r2, v2 = (u[1, :, :2] ** 2).sum(-1), (u[1, :, 2:] ** 2).sum(-1)
    energy, momentum = v2 / 2 + r2**2 / 4, u[1, :, 0] * u[1, :, 3] - u[1, :, 1] * u[1, :, 2]
    expected = max(abs(energy - energy[0]).max(), abs(momentum - momentum[0]).max())
    drift = problem.drift(u)
    assert drift[0] < 1e-9
    assert drift[1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "problem",
    [
        NPendulum(duration=0.5),
        TwoBody(),
        FPUT(duration=5.0),
        LotkaVolterra(),
        QuarticPotential(),
        RigidBody(),
        RobotArm(duration=1.0),
        DCDCConverter(duration=1.5),
    ],
    ids=lambda p: type(p).__name__,
)
def test_trajectories_solve_the_field(problem):
    data = problem.generate(2, seed=2)
    for u in data.state.values:
        np.testing.assert_allclose(solved(problem, data.time.values, u[0]), u, rtol=0, atol=2e-9)


def test_fields_are_those_of_the_equations():
    x, y, v, w = 0.3, -0.4, 0.7, 1.1
    u = np.array([x, y, v, w])
    np.testing.assert_allclose(QuarticPotential().field(0.0, u), [v, w, -0.25 * x, -0.25 * y])
    np.testing.assert_allclose(TwoBody().field(0.0, u), [v, w, -8 * x, -8 * y])
    np.testing.assert_allclose(LotkaVolterra().field(0.0, u[2:]), [1.5 * v - v * w, v * w - 3 * w])
    np.testing.assert_allclose(LotkaVolterra().field(0.0, np.array([3.0, 1.5])), 0.0)
    body = RigidBody().field(0.0, u[:3])
    np.testing.assert_allclose(body, [0.5 * v * y, -0.875 * x * v, 0.375 * y * x], rtol=1e-12)
    chain = FPUT(n_masses=2).field(0.0, u)
    np.testing.assert_allclose(chain, [v, w, (y - 2 * x) * (1 + 0.25 * y), (x - 2 * y) * (1 - 0.25 * x)])
    converter = DCDCConverter()
    np.testing.assert_allclose(converter.field(0.2, u[:3]), [v / 0.1, 0, -x / 0.5])
    np.testing.assert_allclose(converter.field(1.5, u[:3]), [0, v / 0.2, -y / 0.5])
    np.testing.assert_allclose(converter.field(3.0, u[:3]), [v / 0.1, 0, -x / 0.5])


def test_rigid_body_moves_as_elliptic_functions_do():
    """y = (c cn, B sn, s dn) of λt where the axis of least inertia is circled, else (c dn, B sn, s cn)."""
    problem = RigidBody()
    data = problem.generate(25)
    t, cases = data.time.values, set()
    a1, a2, a3 = 0.5, -0.875, 0.375
    for u in data.state.values:
        c, s = u[0, 0], u[0, 2]
        m = a3 * c**2 / (a1 * s**2)
        cases.add(m < 1)
        if m < 1:
            rate = math.sqrt(-a1 * a2) * s
            sn, cn, dn, _ = ellipj(rate * t, m)
            exact = [c * cn, a2 * c * s / rate * sn, s * dn]
        else:
            rate = math.sqrt(-a3 * a2) * c
            sn, cn, dn, _ = ellipj(rate * t, 1 / m)
            exact = [c * dn, a2 * c * s / rate * sn, s * cn]
        np.testing.assert_allclose(u, np.stack(exact, -1), rtol=0, atol=1e-9)
    assert cases == {True, False}


def test_two_bodies_return_after_a_period_and_are_slowest_far_away():
    u = TwoBody(duration=2 * math.tau, time_step=math.tau / 64).generate(25).state.values
    np.testing.assert_allclose(u[:, 64], u[:, 0], atol=1e-13)
    np.testing.assert_allclose(u[:, 128], u[:, 0], atol=1e-13)
    e = 1 - u[:, 0, 0]
    apoapsis = np.stack([-1 - e, 0 * e, 0 * e, -np.sqrt((1 - e) / (1 + e))], -1)
    np.testing.assert_allclose(u[:, 32], apoapsis, atol=1e-13)
    assert TwoBody().time[-1] == pytest.approx(math.tau, rel=1e-12)


@pytest.mark.parametrize("e", [0.0, 0.5, 0.7, 0.9])
def test_keplers_equation_is_solved_to_rounding(e):
    mean = np.linspace(-np.pi, np.pi, 1001)
    E = eccentric_anomaly(mean, np.array(e))
    np.testing.assert_allclose(E - e * np.sin(E), mean, rtol=0, atol=1e-15)


def test_the_chain_converges_with_order_four():
    fine = FPUT(duration=5.0, substeps=64).generate(5).state.values
    errors = [abs(FPUT(duration=5.0, substeps=k).generate(5).state.values - fine).max() for k in (2, 4, 8)]
    assert np.all(np.log2(np.divide(errors[:-1], errors[1:])) > 3.8)


def test_the_energy_of_the_chain_does_not_drift_with_time():
    """Its largest error is nearly reached when all phases have occurred; one linear in time would quadruple."""
    drift = [FPUT(duration=T, substeps=2).generate(5).constraint_drift.values for T in (100.0, 400.0)]
    assert (drift[1] <= 2 * drift[0]).all()


def test_the_harmonic_chain_is_a_sum_of_modes():
    problem = FPUT(n_masses=5, alpha=0.0, duration=3.0)
    data = problem.generate(3)
    k, j = np.arange(1, 5)[:, None], np.arange(1, 6)
    shapes, frequency = np.sin(np.pi * k * j / 6), 2 * np.sin(np.pi * k[:, 0] / 12)
    a = np.linalg.lstsq(shapes.T, data.state.values[:, 0, :5].T, rcond=None)[0].T
    exact = np.einsum("bk,tk,kj->btj", a, np.cos(data.time.values[:, None] * frequency), shapes)
    np.testing.assert_allclose(data.state.values[..., :5], exact, atol=1e-8)


@pytest.mark.filterwarnings("error")
def test_a_chain_that_tears_apart_is_told():
    with pytest.raises(RuntimeError, match="alpha"):
        FPUT(alpha=5.0).generate(1)


def test_the_arm_returns_with_its_end_point():
    """p only goes back and forth on a line, hence so do the angles."""
    u = RobotArm(duration=2.0).generate(25).state.values
    np.testing.assert_allclose(u[:, 20], u[:, 0], atol=1e-9)
    np.testing.assert_allclose(u[:, 10], u[:, 0], atol=1e-9)
    np.testing.assert_allclose(u[:, 40], u[:, 0], atol=1e-9)


def test_the_arm_moves_with_the_least_speed():
    problem = RobotArm()
    u = problem.generate(5).state.values[:, 7]
    G = np.stack([-np.sin(u), np.cos(u)], -2)
    p = np.broadcast_to([-math.cos(2 * math.pi * 0.35), 0.0], (5, 2))
    least = (np.linalg.pinv(G) @ p[..., None])[..., 0]
    np.testing.assert_allclose(problem.field(0.35, u), least, atol=1e-12)


@pytest.mark.parametrize("duty", [0.0, 0.3, 0.5, 1.0])
def test_the_converter_is_exact_beyond_switches(duty):
    problem = DCDCConverter(duty=duty, duration=8.0, time_step=0.16)
    u = problem.generate(3, seed=5).state.values
    times = np.array([0.0, *problem.switch_times, 8.0])
    if 0 < duty < 1:
        np.testing.assert_allclose(times, [0, 3 * duty, 3, 3 + 3 * duty, 6, 6 + 3 * duty, 8])
    state = u[:, 0]
    for start, end in itertools.pairwise(times):
        middle = (start + end) / 2  # the field of the phase, also at its ends
        state = np.stack(
            [
                solve_ivp(
                    lambda _, y, t=middle: problem.field(t, y), (start, end), s, "DOP853", rtol=1e-13, atol=1e-13
                ).y[:, -1]
                for s in state
            ]
        )
    np.testing.assert_allclose(u[:, -1], state, atol=1e-11)


def test_the_converter_is_the_same_on_every_grid_in_time():
    fine = DCDCConverter().generate(4).state.values
    coarse = DCDCConverter(time_step=5.0).generate(4).state.values
    np.testing.assert_allclose(fine[:, ::50], coarse, atol=1e-13)


def starts(problem):
    return problem.generate(1000).state.values[:, 0]


def test_starts_fill_the_ranges_of_the_publications():
    u = starts(QuarticPotential(duration=0.1))
    assert abs(u).max() < 1
    np.testing.assert_allclose([u.min(0), u.max(0)], [[-1] * 4, [1] * 4], atol=0.02)

    u = starts(RigidBody(duration=0.1))
    phi = np.arctan2(u[:, 2], u[:, 0])
    assert ((phi > 0.5) & (phi < 1.5) & (u[:, 1] == 0)).all()
    np.testing.assert_allclose(np.hypot(u[:, 0], u[:, 2]), 1)
    np.testing.assert_allclose([phi.min(), phi.max()], [0.5, 1.5], atol=0.01)

    u = starts(TwoBody(duration=0.1, time_step=0.1))
    e = 1 - u[:, 0]
    assert ((e > 0.5) & (e < 0.7)).all()
    np.testing.assert_allclose([e.min(), e.max()], [0.5, 0.7], atol=0.002)
    np.testing.assert_allclose(u[:, 1:], np.stack([0 * e, 0 * e, np.sqrt((1 + e) / (1 - e))], -1), atol=1e-14)

    u = starts(RobotArm(duration=0.05))
    assert ((u[:, 0] > math.pi / 4) & (u[:, 0] < 3 * math.pi / 8)).all()
    np.testing.assert_array_equal(u[:, 1:], u[:, :1] * [-1, 1])

    u = starts(DCDCConverter(duration=0.1))
    assert ((u > 0) & (u < 1)).all()
    np.testing.assert_allclose([u.min(0), u.max(0)], [[0] * 3, [1] * 3], atol=0.01)

    u = starts(FPUT(n_masses=8, duration=0.1))
    modes = np.sin(np.pi * np.arange(1, 9)[:, None] * np.arange(1, 9) / 9)
    a = u[:, :8] @ modes * 2 / 9
    np.testing.assert_allclose(a[:, 4:], 0, atol=1e-14)
    np.testing.assert_allclose([a[:, :4].min(0), a[:, :4].max(0)], [[-0.5] * 4, [0.5] * 4], atol=0.01)
    assert (u[:, 8:] == 0).all()

    problem = NPendulum(duration=0.01)
    u = starts(problem)
    angles = np.arctan2(np.diff(u[:, :4], prepend=0), -np.diff(u[:, 4:8], prepend=0)) % (2 * np.pi)
    np.testing.assert_allclose([angles.min(0), angles.max(0)], [[0] * 4, [2 * np.pi] * 4], atol=0.05)
    assert (u[:, 8:] == 0).all()


@pytest.mark.parametrize("regime", REGIMES)
def test_populations_start_in_their_regime_with_bounded_invariant(regime):
    def invariant(u):
        x, y = u[..., 0], u[..., 1]
        return x - 3 * np.log(x) + y - 1.5 * np.log(y)

    u = starts(LotkaVolterra(regime=regime, duration=0.05))
    low, high = np.transpose(REGIMES[regime])
    assert ((u > low) & (u < high)).all()
    assert invariant(u).max() <= 4
    rng = np.random.default_rng(0)
    box = invariant(rng.uniform(low, high, (1000, 2)))
    assert (box > 4).any() == (regime == "predators")  # where drawing again matters
    assert invariant(u).max() == pytest.approx(min(box.max(), 4), abs=0.05)


def test_links_of_any_number_have_the_same_class():
    two, four = DoublePendulum(), NPendulum()
    assert (two.n_links, four.n_links) == (2, 4)
    assert isinstance(two, NPendulum)
    fields = {"duration": 0.2, "time_step": 0.05}
    data = [p.generate(2).state for p in (DoublePendulum(**fields), NPendulum(n_links=2, **fields))]
    np.testing.assert_array_equal(*data)
    assert list(data[0].component.values) == ["x1", "x2", "y1", "y2", "vx1", "vx2", "vy1", "vy2"]


def test_without_damping_four_links_keep_their_energy():
    problem = NPendulum(damping=0.0, duration=2.0)
    energy = problem.energy(problem.generate(10).state.values)
    np.testing.assert_allclose(energy, np.broadcast_to(energy[:, :1], energy.shape), atol=1e-7)


def test_damping_is_added_to_angular_accelerations():
    state = np.linspace(-1, 1, 8)
    omega = state[4:]
    change = NPendulum(damping=0.3).angular_field(state) - NPendulum(damping=0.0).angular_field(state)
    np.testing.assert_allclose(change, [0, 0, 0, 0, *(-0.3 * np.diff(omega, prepend=0))], atol=1e-12)


@pytest.mark.parametrize("problem", [QuarticPotential(), FPUT(), RigidBody()], ids=lambda p: type(p).__name__)
def test_a_refined_problem_differs_in_its_solver_alone(problem):
    config, refined = problem.config(), problem.refined().config()
    changed = {key for key in config if config[key] != refined[key]}
    assert changed == {"tolerance" if isinstance(problem, Integrated) else "substeps"}


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("problem", "fields"),
    [
        (NPendulum, {"n_links": 0}),
        (NPendulum, {"damping": "0.1"}),
        (QuarticPotential, {"tolerance": 1e-16}),
        (QuarticPotential, {"duration": 1.05}),
        (QuarticPotential, {"time_step": True}),
        (LotkaVolterra, {"regime": "few"}),
        (LotkaVolterra, {"regime": ["prey"]}),
        (FPUT, {"n_masses": 1.5}),
        (FPUT, {"substeps": 0}),
        (FPUT, {"alpha": None}),
        (RigidBody, {"inertia": [1.0, 2.0]}),
        (RigidBody, {"inertia": [1.0, 2.0, 0.0]}),
        (RigidBody, {"inertia": [1.0, 2.0, "3"]}),
        (RigidBody, {"inertia": 1.0}),
        (TwoBody, {"duration": -1.0}),
        (RobotArm, {"tolerance": 2.0}),
        (DCDCConverter, {"c1": 0.0}),
        (DCDCConverter, {"l3": "0.5"}),
        (DCDCConverter, {"period": -3.0}),
        (DCDCConverter, {"duty": 1.5}),
    ],
    ids=str,
)
def test_fields_out_of_range_are_named(problem, fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        problem(**fields)
