"""Power grids: load flow, power balance, the index-reduced field against implicit solvers, initial states."""

import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pnde.constraints import FunctionConstraint
from pnde.constraints.base import differentiate
from pnde.constraints.power_balance import PowerBalance
from pnde.fields import ProjectedField, VectorField
from pnde.power_grid import Inverter, PowerGrid, ieee14
from pnde.power_grid.admittance import series_admittances
from pnde.power_grid.dynamics import GridField, InverterField, ambient_force, ambient_states, rows, trajectories
from pnde.power_grid.regularity import algebraic_regularity
from pnde.projection import SparseJacobian, project_tangent
from pnde.solvers import Status, solve
from sciml.errors import ConfigError, ShapeError
from scipy.integrate import solve_ivp

VARIANTS = ("published", "corrected")
TIME = np.linspace(0, 10, 101)


def forces(n, n_buses=14):
    rng = np.random.default_rng(0)
    return np.stack([ambient_force(rng, n_buses) for _ in range(n)])


def complex_voltage(u):
    return u[..., : u.shape[-1] // 2] + 1j * u[..., u.shape[-1] // 2 :]


@cache
def solved(bus8, n=8):
    grid = ieee14(bus8)
    return grid, trajectories(grid, ambient_states(grid, forces(n)), TIME)


def chain(n):
    """A slack bus, then alternately loads and inverters along a line."""
    ends = np.stack([np.arange(n - 1), np.arange(1, n)], axis=-1)
    return PowerGrid(
        Y=series_admittances(n, ends, np.full(n - 1, 20 - 60j)),
        loads=dict.fromkeys(range(1, n, 2), -0.002 - 0.001j),
        inverters={bus: Inverter(0.002) for bus in range(2, n, 2)},
        slack=0,
    ).dispatched()


def test_load_flow_has_the_known_values():
    grid = ieee14("corrected")
    u = grid.load_flow()
    v, s = complex_voltage(u), grid.power(u)
    np.testing.assert_allclose(s.imag[[0, 2, 5, 7]], [-0.437150, 0.482609, 0.350072, 0.154873], rtol=0, atol=5e-7)
    np.testing.assert_allclose(abs(v[[3, 6, 13]]), [0.973257, 0.972719, 0.944949], rtol=0, atol=5e-7)
    np.testing.assert_allclose(abs(v[[0, 2, 5, 7]]), 1, rtol=0, atol=1e-12)
    assert s[1].real == pytest.approx(0.221126, abs=5e-7)
    assert s[1].imag == pytest.approx(0.472984, abs=5e-7)
    np.testing.assert_allclose(s[grid.load_buses], grid.load_powers, rtol=0, atol=1e-12)
    assert [grid.inverters[bus].Q for bus in (0, 2, 5, 7)] == pytest.approx(s.imag[[0, 2, 5, 7]], abs=1e-12)


def test_published_inverter_at_bus_8_has_its_reactive_power_as_voltage():
    published, corrected = ieee14().inverters, ieee14("corrected").inverters
    assert published[7] == Inverter(P=0.0, Q=0.0, V=corrected[7].Q)
    assert pytest.approx(0.154872814, abs=5e-10) == published[7].V
    assert {bus: published[bus] for bus in (0, 2, 5)} == {bus: corrected[bus] for bus in (0, 2, 5)}


def test_normal_form_constants():
    x = Inverter(P=2.32, Q=-0.4, V=0.9)
    eta, V = 3e-3, 0.9
    assert pytest.approx(-5 * eta / V**2 + eta * 1j * (2.32 + 0.4j) / V**4, abs=1e-17) == x.C
    assert x.Gamma == pytest.approx(-eta * 1j / V**2, abs=1e-17)
    assert pytest.approx(-eta / V**2, abs=1e-17) == x.H


@pytest.mark.parametrize("bus8", VARIANTS)
def test_operating_point_is_a_stable_equilibrium(bus8):
    grid = ieee14(bus8)
    u = torch.as_tensor(grid.operating_point())
    field = GridField(grid)
    assert field.inverters(None, u).abs().max() < 1e-13
    assert field.balance(None, u).abs().max() < 1e-11
    rates = np.linalg.eigvals(torch.autograd.functional.jacobian(lambda x: field(None, x), u).numpy()).real
    assert (rates < -1e-3).sum() == 8
    assert (abs(rates) < 1e-10).sum() == 20


def test_operating_point_is_the_load_flow_where_bus_8_is_corrected():
    grid = ieee14("corrected")
    np.testing.assert_allclose(grid.operating_point(), grid.load_flow(), rtol=0, atol=1e-10)
    published = complex_voltage(ieee14().operating_point())
    assert abs(published[7]) < 0.4 < 0.6 < abs(published[6]) < 0.7


def test_inverter_field_is_the_normal_form_and_zero_elsewhere():
    grid, u = solved("published")
    v, s = complex_voltage(u), grid.power(u)
    expected = np.zeros_like(v)
    for bus, x in grid.inverters.items():
        p, q = s[..., bus].real, s[..., bus].imag
        bracket = x.C * (abs(v[..., bus]) ** 2 - x.V**2) + x.Gamma * (p - x.P) + x.H * (q - x.Q)
        expected[..., bus] = v[..., bus] * bracket
    found = InverterField(grid)(None, torch.as_tensor(u)).numpy()
    np.testing.assert_allclose(complex_voltage(found), expected, rtol=0, atol=1e-15)
    assert not complex_voltage(found)[..., [1, *grid.load_buses]].any()


@pytest.mark.parametrize("slack", [True, False])
def test_jacobian_is_the_derivative(slack):
    balance = PowerBalance(slack=slack)
    torch.manual_seed(0)
    u = torch.randn(3, 4, 28, dtype=torch.float64)
    G = balance.jacobian(None, u)
    assert G.shape == (3, 4, 20 if slack else 18, 28)
    torch.testing.assert_close(G, differentiate(balance.forward, None, u, balance.m), rtol=0, atol=1e-12)
    v = u[..., :14] + 1j * u[..., 14:]
    Y = torch.as_tensor(ieee14().Y.toarray())
    s = (v * (v @ Y.mT).conj())[..., ieee14().load_buses] - torch.as_tensor(ieee14().load_powers)
    torch.testing.assert_close(balance(None, u)[..., :18], torch.cat([s.real, s.imag], -1), rtol=0, atol=1e-12)
    assert balance.jacobian(None, u.float()).dtype == balance(None, u.float()).dtype == torch.float32
    assert torch.autograd.gradgradcheck(lambda x: balance(None, x), u[0, :1].requires_grad_())


def test_rows_of_the_loads_are_well_conditioned_on_the_data():
    kappa = [
        torch.linalg.cond(PowerBalance(slack=False).jacobian(None, torch.as_tensor(solved(x)[1]))) for x in VARIANTS
    ]
    assert all(k.min() > 16 and k.max() < 25 for k in kappa)


@pytest.mark.parametrize("bus8", VARIANTS)
def test_ambient_states_are_consistent_and_each_its_own(bus8):
    grid = ieee14(bus8)
    states = ambient_states(grid, forces(8))
    assert PowerBalance(grid)(None, torch.as_tensor(states)).abs().max() < 1e-10
    assert np.linalg.norm(states - grid.operating_point(), axis=-1).min() > 0.1
    alone = ambient_states(grid, forces(8)[5:6])
    np.testing.assert_allclose(alone[0], states[5], rtol=0, atol=1e-9)


def test_projection_without_slack_rows_moves_the_slack_voltage():
    balance = PowerBalance(slack=False)
    u = torch.as_tensor(solved("published")[1][:, 0])
    f = torch.ones_like(u)
    f[:, [1, 15]] = 0
    assert project_tangent(balance.jacobian(None, u), f)[:, [1, 15]].abs().min() > 1e-3
    full = project_tangent(PowerBalance().jacobian(None, u), f)
    assert full[:, [1, 15]].abs().max() < 1e-14


@pytest.mark.parametrize("bus8", VARIANTS)
def test_grid_field_is_the_index_reduction(bus8):
    grid, states = solved(bus8)
    field, u = GridField(grid), torch.as_tensor(states[:, ::20])
    f, G = field.inverters(None, u), field.balance.jacobian(None, u)
    x = np.concatenate([grid.inverter_buses, 14 + grid.inverter_buses])
    y = np.setdiff1d(np.arange(28), x)
    expected = f.clone()
    expected[..., y] = -torch.linalg.solve(G[..., y], (G[..., x] @ f[..., x, None])[..., 0])
    torch.testing.assert_close(field(None, u), expected, rtol=0, atol=1e-13)
    projected = ProjectedField(InverterField(grid), PowerBalance(grid), metric=field.get_buffer("metric"))
    assert torch.equal(projected(None, u), field(None, u))
    sparse = project_tangent(field.balance.sparse_jacobian(None, u), f, metric=field.get_buffer("metric"))
    torch.testing.assert_close(sparse, expected, rtol=0, atol=1e-13)
    assert field.balance(None, torch.as_tensor(states)).abs().max() < 1e-11


def dense_reduction(grid):
    """Rates of the inverters' voltages, and loads by Newton's method, in dense complex numpy."""
    Y, inv = grid.Y.toarray(), grid.inverter_buses
    loads, S = grid.load_buses, grid.load_powers
    laws = [
        np.array([getattr(grid.inverters[bus], name) for bus in inv]) for name in ("C", "Gamma", "H", "V", "P", "Q")
    ]

    def complete(x, guess):
        v = guess.copy()
        v[inv], v[grid.slack] = x, grid.slack_voltage
        for _ in range(20):
            i = Y @ v
            residual = (v * i.conj() - S_all)[loads]
            step_a = np.diag(i.conj()) + np.diag(v) @ Y.conj()
            step_b = 1j * np.diag(i.conj()) - 1j * np.diag(v) @ Y.conj()
            J = np.concatenate([step_a[np.ix_(loads, loads)], step_b[np.ix_(loads, loads)]], axis=1)
            step = np.linalg.solve(np.concatenate([J.real, J.imag]), np.concatenate([residual.real, residual.imag]))
            v[loads] -= complex_voltage(step)
            if abs(step).max() < 1e-13:
                break
        return v

    S_all = np.zeros(grid.n_buses, dtype=complex)
    S_all[loads] = S

    def rates(v):
        C, Gamma, H, V, P, Q = laws
        s = (v * (Y @ v).conj())[inv]
        return v[inv] * (C * (abs(v[inv]) ** 2 - V**2) + Gamma * (s.real - P) + H * (s.imag - Q))

    return complete, rates


@pytest.mark.parametrize("bus8", VARIANTS)
def test_trajectories_agree_with_an_implicit_solver_on_the_differential_states(bus8):
    grid, states = solved(bus8)
    complete, rates = dense_reduction(grid)
    for u in states[:2]:
        start = complex_voltage(u[0])
        guess = [start]

        def field(t, x, guess=guess):
            guess[0] = complete(complex_voltage(x), guess[0])
            rate = rates(guess[0])
            return np.concatenate([rate.real, rate.imag])

        x = start[grid.inverter_buses]
        solution = solve_ivp(field, (0, 10), np.concatenate([x.real, x.imag]), method="Radau", rtol=1e-11, atol=1e-11)
        end = complete(complex_voltage(solution.y[:, -1]), guess[0])
        np.testing.assert_allclose(complex_voltage(u[-1]), end, rtol=0, atol=1e-8)


def test_orthogonal_projection_of_the_differential_part_is_another_field():
    grid, states = solved("published")
    u = torch.as_tensor(states[:, 0])
    field = GridField(grid)
    orthogonal = project_tangent(field.balance.jacobian(None, u), field.inverters(None, u))
    assert ((orthogonal - field(None, u)).norm(dim=-1) / field(None, u).norm(dim=-1)).min() > 0.1


class Table(dict):
    """Columns by name with an index, as pandas has them."""

    def __init__(self, index=None, **columns):
        super().__init__({name: np.array(values) for name, values in columns.items()})
        self.index = np.arange(len(next(iter(columns.values())))) if index is None else np.array(index)


def small_network(**tables):
    given = {
        "bus": Table(index=[5, 7, 9, 11], vn_kv=[110.0, 110.0, 110.0, 20.0], in_service=[True] * 4),
        "line": Table(
            from_bus=[5, 7, 5],
            to_bus=[7, 9, 9],
            length_km=[10.0, 20.0, 1.0],
            r_ohm_per_km=[0.1, 0.1, 0.1],
            x_ohm_per_km=[0.4, 0.4, 0.4],
            parallel=[1, 2, 1],
            in_service=[True, True, False],
        ),
        "trafo": Table(
            hv_bus=[9], lv_bus=[11], sn_mva=[40.0], vk_percent=[10.0], vkr_percent=[6.0], vn_lv_kv=[22.0], parallel=[1]
        ),
        "load": Table(bus=[11, 9], p_mw=[8.0, 5.0], q_mvar=[2.0, 1.0], scaling=[0.5, 1.0]),
        "gen": Table(bus=[9], p_mw=[7.0], vm_pu=[1.01], scaling=[1.0]),
        "ext_grid": Table(bus=[5], vm_pu=[1.02], va_degree=[30.0]),
    }
    return SimpleNamespace(sn_mva=100.0, **(given | tables))


def full_network():
    """Charged lines, a transformer with a tap on either winding, a phase shifter, losses, shunts."""
    network = small_network(
        trafo=Table(
            hv_bus=[9, 9],
            lv_bus=[11, 11],
            sn_mva=[40.0, 25.0],
            vn_hv_kv=[115.0, 110.0],
            vn_lv_kv=[22.0, 20.0],
            vk_percent=[10.0, 12.0],
            vkr_percent=[6.0, 1.0],
            pfe_kw=[30.0, 0.0],
            i0_percent=[0.5, 0.0],
            shift_degree=[0.0, 5.0],
            parallel=[1, 2],
            tap_side=["hv", "hv"],
            tap_pos=[2.0, -3.0],
            tap_neutral=[0.0, 0.0],
            tap_step_percent=[1.5, np.nan],
            tap_step_degree=[60.0, 0.5],
            tap_changer_type=["Symmetrical", "Ideal"],
            tap2_side=["lv", None],
            tap2_pos=[-1.0, np.nan],
            tap2_neutral=[1.0, np.nan],
            tap2_step_percent=[2.0, np.nan],
            tap2_changer_type=["Ratio", None],
        ),
        shunt=Table(bus=[7, 9], p_mw=[1.0, 2.0], q_mvar=[-8.0, 3.0], step=[2.0, 1.0], vn_kv=[100.0, np.nan]),
    )
    network.line |= {"c_nf_per_km": np.array([9.0, 10.0, 8.0]), "g_us_per_km": np.array([0.0, 0.2, 0.0])}
    network.f_hz = 50.0
    return network


def test_full_admittances_are_those_of_the_circuit():
    """Every element as a part of a larger circuit in Ω and kV, whose inner nodes are eliminated."""
    Y = np.zeros((6, 6), dtype=complex)  # the buses, then the inner nodes of the two transformers' T circuits

    def add(i, j, y, tau=1.0):
        Y[np.ix_([i, j], [i, j])] += y * np.array([[1 / abs(tau) ** 2, -1 / np.conj(tau)], [-1 / tau, 1]])

    for i, j, length, parallel, C, conductance in ((0, 1, 10, 1, 9e-9, 0), (1, 2, 20, 2, 10e-9, 0.2e-6)):
        add(i, j, parallel / (length * (0.1 + 0.4j)))
        for k in (i, j):
            Y[k, k] += parallel * length * (conductance + 2j * np.pi * 50 * C) / 2
    Y[1, 1] += 2 * (1 + 8j) / 100**2
    Y[2, 2] += (2 - 3j) / 110**2
    first = 115 * (1 + 0.03 * np.exp(1j * np.pi / 3)), 22 * (1 - 2 * 0.02)
    second = 110 * np.exp(1j * np.deg2rad(5 - 3 * 0.5)), 20.0
    for node, (high, low), S, loss, short, number in ((4, first, 40, 6, 10, 1), (5, second, 25, 1, 12, 2)):
        z = (loss + 1j * np.sqrt(short**2 - loss**2)) / 100 * low**2 / S / number
        add(2, node, 2 / z, high / low)
        add(node, 3, 2 / z)
    Y[4, 4] += (0.03 - 1j * np.sqrt(0.2**2 - 0.03**2)) / first[1] ** 2
    Y = Y[:4, :4] - Y[:4, 4:] @ np.linalg.solve(Y[4:, 4:], Y[4:, :4])
    kV = np.array([110, 110, 110, 20])
    grid = PowerGrid.from_pandapower(full_network(), series_only=False)
    np.testing.assert_allclose(grid.Y.toarray(), kV[:, None] * Y * kV / 100, rtol=0, atol=1e-12)
    s = grid.power(grid.load_flow())
    np.testing.assert_allclose(s[grid.load_buses], grid.load_powers, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["case14", "case118", "case300"])
def test_full_network_is_that_of_pandapower(name):
    pandapower = pytest.importorskip("pandapower")
    networks = pytest.importorskip("pandapower.networks")
    net = getattr(networks, name)()
    pandapower.runpp(net, tolerance_mva=1e-8, numba=False)
    grid = PowerGrid.from_pandapower(net, series_only=False)
    order = net._pd2ppc_lookups["bus"][net.bus.index.values]
    expected = net._ppc["internal"]["Ybus"][order][:, order]
    assert abs(grid.Y - expected).max() <= 1e-12
    v = net.res_bus.vm_pu.values * np.exp(1j * np.deg2rad(net.res_bus.va_degree.values))
    np.testing.assert_allclose(complex_voltage(grid.load_flow()), v, rtol=0, atol=1e-8)


def large_network(n=130):
    """A ring with chords, every fifth bus a generator, as tables."""
    rng = np.random.default_rng(0)
    near, chords = np.arange(n), rng.choice(n, (20, 2), replace=False)
    start = np.concatenate([near, chords[:, 0]])
    end = np.concatenate([(near + 1) % n, chords[:, 1]])
    count, generators = len(start), np.arange(5, n, 5)
    return SimpleNamespace(
        sn_mva=100.0,
        f_hz=50.0,
        bus=Table(vn_kv=np.full(n, 110.0)),
        line=Table(
            from_bus=start,
            to_bus=end,
            length_km=rng.uniform(5, 15, count),
            r_ohm_per_km=np.full(count, 0.1),
            x_ohm_per_km=np.full(count, 0.4),
            c_nf_per_km=np.full(count, 9.0),
            parallel=np.ones(count),
        ),
        load=Table(bus=near, p_mw=rng.uniform(0, 2, n), q_mvar=rng.uniform(0, 1, n), scaling=np.ones(n)),
        gen=Table(
            bus=generators,
            p_mw=np.full(len(generators), 5.0),
            vm_pu=np.ones(len(generators)),
            scaling=np.ones(len(generators)),
        ),
        ext_grid=Table(bus=[0], vm_pu=[1.0], va_degree=[0.0]),
    )


@pytest.mark.parametrize("network", ["tables", "case118"])
def test_large_grid_runs_through_sparse_rows(network):
    if network == "case118":
        pytest.importorskip("pandapower")
    grid = PowerGrid.from_pandapower(large_network() if network == "tables" else network, series_only=False)
    field = GridField(grid)
    assert grid.n_buses > 100
    assert isinstance(rows(field.balance, torch.as_tensor(grid.operating_point())), SparseJacobian)

    states = ambient_states(grid, forces(2, grid.n_buses), duration=0.1, tolerance=1e-10)
    u = torch.as_tensor(states)
    assert field.balance(None, u).abs().max() < 1e-12
    torch.manual_seed(0)
    v = torch.randn_like(u)
    for metric in (None, field.get_buffer("metric")):
        dense = project_tangent(field.balance.jacobian(None, u), v, metric=metric)
        sparse = project_tangent(field.balance.sparse_jacobian(None, u), v, metric=metric)
        torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-10)

    t = torch.linspace(0, 2, 3, dtype=torch.float64)
    solutions = [
        solve(
            ProjectedField(field.inverters, field.balance, metric=field.get_buffer("metric"), method=method),
            u,
            t,
            rtol=1e-8,
            atol=1e-8,
        ).u
        for method in ("sparse", "auto")
    ]
    torch.testing.assert_close(*solutions, rtol=0, atol=1e-10)
    reference = trajectories(grid, states, t.numpy(), tolerance=1e-9)
    np.testing.assert_allclose(solutions[0], reference, rtol=0, atol=1e-7)
    assert field.balance(None, solutions[0]).abs().max() < 1e-8
    assert (solutions[0][:, -1] - u).abs().max() > 0.01


class Draining(VectorField):
    """Voltages of the inverters fall to nothing at the rate 0.1."""

    def __init__(self, grid):
        super().__init__()
        self.n = 2 * grid.n_buses
        weight = torch.zeros(2, grid.n_buses, dtype=torch.float64)
        weight[:, grid.inverter_buses] = -0.1
        self.register_buffer("weight", weight.reshape(-1))

    def forward(self, t, u):
        return self.get_buffer("weight") * u


class Falling(VectorField):
    """ẋ = -1, ẏ = 0."""

    n = 2

    def forward(self, t, u):
        return u.new_tensor([-1.0, 0.0]).expand_as(u)


def test_samples_end_before_their_algebraic_states_cease_to_exist():
    """ẋ = -1, 0 = y² - x, where G_y = 2y is 0.1 as x = 0.0025; either branch of the root."""
    parabola = FunctionConstraint(lambda u: (u[1] ** 2 - u[0])[None], 2, 1)
    metric = torch.tensor([0.0, 1.0], dtype=torch.float64)
    field = ProjectedField(Falling(), parabola, metric=metric)
    t = torch.linspace(0, 2, 21, dtype=torch.float64)
    for sign in (1, -1):
        u0 = torch.tensor([[1.0, sign], [3.0, sign * 3**0.5], [0.5, sign * 0.5**0.5]], dtype=torch.float64)
        guard = algebraic_regularity(parabola, [1], u0[0], least=0.1)
        found = solve(field, u0, t, rtol=1e-9, atol=1e-9, event=guard)
        assert found.status.tolist() == [Status.EVENT, Status.SUCCESS, Status.EVENT]
        torch.testing.assert_close(found.event_time[[0, 2]], t.new_tensor([0.9975, 0.4975]), rtol=0, atol=1e-7)
        assert found.u[1, -1].tolist() == pytest.approx([1, sign], abs=1e-8)
        assert found.u[0, :10].isfinite().all()
        assert found.u[0, 10:].isnan().all()


@pytest.mark.parametrize("bus8", VARIANTS)
def test_grid_ends_before_its_voltages_collapse(bus8):
    grid = ieee14(bus8)
    balance = PowerBalance(grid)
    algebraic = np.setdiff1d(np.arange(28), np.concatenate([grid.inverter_buses, 14 + grid.inverter_buses]))
    metric = torch.zeros(28, dtype=torch.float64)
    metric[algebraic] = 1
    u0, t = torch.as_tensor(ambient_states(grid, forces(3))), torch.linspace(0, 50, 6, dtype=torch.float64)
    field, least = ProjectedField(Draining(grid), balance, metric=metric), 0.05
    guard = algebraic_regularity(balance, algebraic.tolist(), torch.as_tensor(grid.operating_point()), least=least)
    found = solve(field, u0, t, max_steps=100, event=guard)
    assert (found.status == Status.EVENT).all()
    sigma = torch.linalg.svdvals(balance.jacobian(None, found.event_u)[..., algebraic])[:, -1]
    torch.testing.assert_close(sigma, torch.full_like(sigma, least), rtol=0, atol=1e-6)
    assert balance(None, found.event_u).abs().max() < 1e-4
    unguarded = solve(field, u0, t, max_steps=100)
    assert (unguarded.status > Status.EVENT).all()


@pytest.mark.unchecked
def test_guards_that_cannot_work_are_refused():
    grid = ieee14("corrected")
    regular = torch.as_tensor(grid.operating_point())
    with pytest.raises(ConfigError, match="20 constraints"):
        algebraic_regularity(PowerBalance(grid), [1, 2], regular, least=0.1)
    with pytest.raises(ConfigError, match="positive"):
        algebraic_regularity(PowerBalance(grid), list(range(20)), regular, least=0.0)
    algebraic = np.setdiff1d(np.arange(28), np.concatenate([grid.inverter_buses, 14 + grid.inverter_buses])).tolist()
    with pytest.raises(ConfigError, match="below"):
        algebraic_regularity(PowerBalance(grid), algebraic, regular, least=100.0)


def test_tables_of_pandapower_become_a_grid():
    grid = PowerGrid.from_pandapower(small_network())
    ohm = 110**2 / 100
    y = [ohm / (1 + 4j), 2 * ohm / (2 + 8j), 1 / ((0.06 + 0.08j) * 100 / 40 * 1.1**2)]
    expected = series_admittances(4, np.array([[0, 1], [1, 2], [2, 3]]), np.array(y))
    np.testing.assert_allclose(grid.Y.toarray(), expected.toarray(), rtol=1e-14)
    assert grid.names == (5, 7, 9, 11)
    assert grid.slack == 0
    assert grid.slack_voltage == pytest.approx(1.02 * np.exp(1j * np.pi / 6))
    assert grid.loads == {1: 0, 3: pytest.approx(-0.04 - 0.01j)}
    assert pytest.approx(0.02) == grid.inverters[2].P
    assert grid.inverters[2].V == 1.01
    np.testing.assert_allclose(grid.operating_point(), grid.load_flow(), rtol=0, atol=1e-9)


def test_networks_that_cannot_be_read_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="one external grid"):
        PowerGrid.from_pandapower(small_network(ext_grid=Table(bus=[5, 7], vm_pu=[1.0, 1.0], va_degree=[0.0, 0.0])))
    with pytest.raises(ConfigError, match="trafo3w"):
        PowerGrid.from_pandapower(small_network(trafo3w=Table(hv_bus=[1])))
    load = Table(bus=[11], p_mw=[8.0], q_mvar=[2.0], scaling=[1.0], const_z_p_percent=[50.0])
    with pytest.raises(ConfigError, match="constant impedance"):
        PowerGrid.from_pandapower(small_network(load=load))
    bus = Table(index=[5, 7, 9, 11], vn_kv=[110.0, 110.0, 110.0, 20.0], in_service=[True, True, True, False])
    with pytest.raises(ConfigError, match="buses out of service"):
        PowerGrid.from_pandapower(small_network(bus=bus))
    with pytest.raises(ConfigError, match="c_nf_per_km of table line"):
        PowerGrid.from_pandapower(small_network(f_hz=50.0), series_only=False)
    monkeypatch.setitem(sys.modules, "pandapower.networks", None)
    with pytest.raises(ImportError, match="pip install pandapower"):
        PowerGrid.from_pandapower("case118")


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ieee14("broken"), "published, corrected"),
        (lambda: PowerBalance("ieee15"), "ieee14"),
        (lambda: replace(ieee14(), slack=3), "exactly one"),
        (lambda: replace(ieee14(), names=(1, 2)), "14 buses"),
        (lambda: Inverter(P=0.0, V=0.0), "positive"),
    ],
)
def test_bad_grids_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.unchecked
def test_states_of_another_grid_are_refused():
    with pytest.raises(ShapeError, match="28"):
        PowerBalance().jacobian(None, torch.zeros(3, 26, dtype=torch.float64))


def test_overloaded_grid_has_no_load_flow():
    with pytest.raises(RuntimeError, match="did not converge"):
        replace(ieee14(), loads={bus: 40 * S for bus, S in ieee14().loads.items()}).load_flow()


def test_operating_points_of_large_grids_are_found_from_the_load_flow():
    """Newton's method for the equilibrium does not converge from a flat start here."""
    pytest.importorskip("pandapower")
    grid = PowerGrid.from_pandapower("case300", series_only=False)
    np.testing.assert_allclose(grid.operating_point(), grid.load_flow(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "close"), [("case999", "case9"), ("_pp", "case118"), ("__name__", "case")])
def test_unknown_networks_of_pandapower_are_named_with_close_ones(name, close):
    pytest.importorskip("pandapower")
    with pytest.raises(ConfigError, match=f"no '{name}'; it has .*{close}"):
        PowerGrid.from_pandapower(name)
