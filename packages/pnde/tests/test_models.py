"""Trajectories stay where the theory says, the reference is converged, and models survive saving."""

import numpy as np
import pytest
import sciml
import torch
from pnde import (
    CFINDE,
    CHNN,
    HNN,
    NDE,
    PNDE,
    PNODE,
    PSNDE,
    SNDE,
    AngularNDE,
    DCDCConverter,
    DoublePendulum,
    MetricPNDE,
    PendulumConstraint,
    RobotArm,
    Status,
)
from pnde.models.angular import to_angles
from pnde.models.inputs import StateAndSwitch
from sciml.errors import ConfigError, ShapeError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def initial_states(samples: int = 16) -> torch.Tensor:
    angles = torch.rand(samples, 2, dtype=torch.float64) * 2 * torch.pi
    states = torch.cat([angles, torch.zeros_like(angles)], dim=-1).numpy()
    return torch.from_numpy(DoublePendulum().to_cartesian(states))


def test_drift_follows_the_tolerance_of_the_solver():
    model, u0 = PNDE(hidden=(64, 64)), initial_states()
    t = torch.linspace(0, 10, 51, dtype=torch.float64)
    tolerances = np.array([1e-6, 1e-8, 1e-10])
    drift = [float(PendulumConstraint()(None, model.solve(u0, t, tol=tol).u).norm(dim=-1).max()) for tol in tolerances]
    assert (np.array(drift) <= 500 * tolerances).all()
    assert 0.8 <= np.polyfit(np.log(tolerances), np.log(drift), 1)[0] <= 1.25


def test_drift_of_the_training_solver_is_of_fourth_order():
    model, u0 = PNDE(hidden=(16, 16)), initial_states(4)
    drift = []
    for steps in (40, 80, 160):
        u = model(u0, torch.linspace(0, 2, steps + 1, dtype=torch.float64))
        drift.append(float(PendulumConstraint()(None, u[:, -1]).norm(dim=-1).max()))
    assert np.log2(drift[0] / drift[1]) >= 3.7
    assert np.log2(drift[1] / drift[2]) >= 3.7


@pytest.mark.parametrize("kind", [SNDE, PSNDE])
def test_violations_decay_at_the_rate_gamma(kind):
    """Exact for the stabilised field without a base, and for the projected one with any base."""
    model = kind(hidden=(8,), gamma=3.0, second_order=False)
    if kind is SNDE:
        torch.nn.init.zeros_(model.base.net.out.weight)
        torch.nn.init.zeros_(model.base.net.out.bias)
    u0 = initial_states(5) + 0.05 * torch.randn(5, 8, dtype=torch.float64)
    t = torch.linspace(0, 2, 5, dtype=torch.float64)
    g = PendulumConstraint()(None, model.solve(u0, t, tol=1e-10).u)
    expected = g[:, :1] * torch.exp(-3 * t)[:, None]
    torch.testing.assert_close(g, expected, rtol=0, atol=1e-8)


def test_mechanics_relaxes_both_levels_as_a_critically_damped_oscillator():
    """φ̇ = 2ψ and φ̈ = -2γφ̇ - γ²φ, whatever the network gives."""
    gamma = 3.0
    model = MetricPNDE(hidden=(8,), gamma=gamma)
    u0 = initial_states(5) + 0.05 * torch.randn(5, 8, dtype=torch.float64)
    t = torch.linspace(0, 2, 9, dtype=torch.float64)
    phi, psi = PendulumConstraint()(None, model.solve(u0, t, tol=1e-10).u).split(2, dim=-1)
    time, phi0, rate0 = t[:, None], phi[:, :1], 2 * psi[:, :1]
    slope = rate0 + gamma * phi0
    decay = torch.exp(-gamma * time)
    torch.testing.assert_close(phi, (phi0 + slope * time) * decay, rtol=0, atol=1e-8)
    torch.testing.assert_close(2 * psi, (rate0 - gamma * slope * time) * decay, rtol=0, atol=1e-8)


@pytest.mark.parametrize("second_order", [False, True])
def test_the_network_sees_components_of_zero_mean_and_unit_deviation(second_order):
    model = NDE(hidden=(), second_order=second_order)
    u = torch.tensor([3.0, 0.1, 20.0, 1.0, 2.0, 5.0, 0.3, 7.0]).double() * torch.randn(50, 8).double() + 4
    u[:, 2] = -1.5  # constant: shifted, not scaled
    model.set_normalization(u)
    torch.nn.init.eye_(model.base.net.out.weight)
    torch.nn.init.zeros_(model.base.net.out.bias)
    seen = model.base(None, u)[:, 4:] if second_order else model.base(None, u)
    expected = (u - u.mean(0)) / u.std(0, correction=0).where(u.std(0) > 1e-9, 1.0)
    torch.testing.assert_close(seen, expected[:, :4] if second_order else expected)


def test_one_sample_is_normalised_by_its_mean_alone():
    model = NDE(hidden=(4,))
    model.set_normalization(initial_states(1))
    assert torch.equal(model.base.net.std, torch.ones(8, dtype=torch.float64))
    assert model.base(None, initial_states(3)).isfinite().all()


@pytest.mark.unchecked
@pytest.mark.parametrize("u", [torch.ones(8), torch.ones(3, 7), torch.ones(0, 8), torch.full((3, 8), torch.nan)])
def test_statistics_of_bad_samples_are_refused(u):
    with pytest.raises(ValueError, match=r"expected 8|must be \(sample, 8\)|at least one sample"):
        NDE(hidden=(4,)).set_normalization(u.double())


def test_retracted_steps_end_on_the_manifold_in_training_too():
    model, u0, t = PNODE(hidden=(8,)), initial_states(5), torch.linspace(0, 1, 11, dtype=torch.float64)
    outputs = model(u0, t)
    assert model.residual(outputs).abs().max() <= 1e-11
    assert model.residual(model.solve(u0, t).u).abs().max() <= 1e-11
    assert NDE(hidden=(8,))(u0, t)[:, -1].sub(outputs[:, -1]).norm() > 0.01  # it does something
    outputs.square().mean().backward()
    assert model.base.net.out.weight.grad.norm() > 0


@pytest.mark.parametrize("retract", ["step", "output"])
def test_any_model_with_a_constraint_can_be_retracted(retract):
    model, u0, t = SNDE(hidden=(8,)), initial_states(5), torch.linspace(0, 1, 11, dtype=torch.float64)
    assert model.residual(model.solve(u0, t).u).abs().max() > 1e-4
    assert model.residual(model.solve(u0, t, retract=retract).u).abs().max() <= 1e-11


def test_a_free_model_has_nothing_to_retract_to():
    with pytest.raises(ConfigError, match="needs a constraint, which NDE has not"):
        NDE(hidden=(8,)).solve(initial_states(2), torch.tensor([0.0, 1.0]).double(), retract="step")


def test_learned_invariants_are_kept():
    model = CFINDE(state_dim=4, hidden=(8,), second_order=False, invariants=2)
    u0, t = torch.randn(5, 4, dtype=torch.float64), torch.linspace(0, 3, 4, dtype=torch.float64)
    model.set_normalization(u0)
    values = model.constraint(None, model.solve(u0, t, tol=1e-10).u)
    assert (values - values[:, :1]).abs().max() <= 1e-8
    assert model.solve(u0, t).u.sub(u0[:, None]).norm(dim=-1)[:, -1].min() > 1e-3


def test_a_hamiltonian_model_keeps_its_energy():
    model, u0 = HNN(state_dim=4, hidden=(16,)), torch.randn(5, 4, dtype=torch.float64)
    model.set_normalization(u0)
    energy = model.dynamics.hamiltonian(model.solve(u0, torch.linspace(0, 5, 6).double(), tol=1e-10).u)
    assert (energy - energy[:, :1]).abs().max() <= 1e-8


def test_angular_model_with_the_exact_accelerations_is_the_pendulum():
    problem = DoublePendulum(duration=1.0, tolerance=1e-12)
    data = problem.generate(6, seed=1)
    u, t = torch.tensor(data["state"].values), torch.tensor(data["time"].values)

    def exact(x: torch.Tensor) -> torch.Tensor:
        sine, cosine, speeds = x.split(2, -1)
        state = torch.cat([torch.atan2(sine, cosine), speeds], -1)
        return torch.from_numpy(problem.angular_field(state.numpy()))[..., 2:]

    model = AngularNDE(hidden=(4,))
    model.dynamics.net.forward = exact
    assert (model.solve(u[:, 0], t, tol=1e-11).u - u).abs().max() <= 1e-7
    field = torch.from_numpy(problem.field(None, u.numpy()))
    torch.testing.assert_close(model.field(u), field, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["cFINDE", "HNN", "angular"])
def test_every_network_of_a_model_sees_normalised_components(kind):
    """Sines and cosines of angles alone are seen as they are."""
    u = initial_states(50)
    u[:, 4:] = 3 + 20 * torch.randn(50, 4, dtype=torch.float64)
    if kind == "angular":
        model = AngularNDE(hidden=(4,))
        model.set_normalization(u)
        net, angular = model.dynamics.net, to_angles(u)
        seen = torch.cat([angular[:, :2].sin(), angular[:, :2].cos(), angular[:, 2:]], -1)
        mean = torch.cat([torch.zeros(4).double(), seen[:, 4:].mean(0)])
        std = torch.cat([torch.ones(4).double(), seen[:, 4:].std(0, correction=0)])
    else:
        model = CFINDE(hidden=(4,)) if kind == "cFINDE" else HNN(hidden=(4,))
        model.set_normalization(u)
        net = model.invariants if kind == "cFINDE" else model.dynamics.hamiltonian
        mean, std = u.mean(0), u.std(0, correction=0)
    torch.testing.assert_close(net.mean, mean)
    torch.testing.assert_close(net.std, std)


@pytest.mark.parametrize("gamma", [0.0, 3.0])
def test_semi_explicit_reduction_relaxes_at_the_rate_gamma(gamma):
    options = {"state_dim": 3, "hidden": (8,), "second_order": False, "constraint": "rigid-body"}
    model = MetricPNDE(**options, metric="algebraic", algebraic=[2], gamma=gamma)
    u, target = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 1, dtype=torch.float64)
    rate = (model.field(u, None, target) * u).sum(-1, keepdim=True)  # of ½|u|²
    torch.testing.assert_close(rate, -gamma * (u.square().sum(-1, keepdim=True) / 2 - target), rtol=0, atol=1e-11)


def test_semi_explicit_reduction_leaves_the_differential_components_to_the_network():
    model = MetricPNDE(
        state_dim=3, hidden=(8,), second_order=False, constraint="rigid-body", metric="algebraic", algebraic=[2]
    )
    u = torch.randn(5, 3, dtype=torch.float64)
    field = model.field(u)
    assert torch.equal(field[:, :2], model.base(None, u)[:, :2])
    assert (field * u).sum(-1).abs().max() <= 1e-12


@pytest.mark.parametrize("kind", [NDE, SNDE, PNDE, PSNDE, PNODE])
def test_windows_start_at_their_own_time(kind):
    """A window that starts at a time is the solution over the times from there on, its target included."""
    options = {"state_dim": 3, "hidden": (8,), "second_order": False, "inputs": "arm-and-target"}
    model = kind(**options, **({} if kind is NDE else {"constraint": "end-point-motion"}))
    u0 = torch.from_numpy(np.stack([RobotArm().draw(np.random.default_rng(i)) for i in range(3)]))
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    for k in (0, 3, 15):
        window = model(u0, t[:6], None, t[k].expand(3))
        torch.testing.assert_close(window, model(u0, t[k : k + 6]), rtol=0, atol=1e-11)


def test_a_switch_is_seen_from_inside_the_window():
    """Between switches each window sees one side, up to its very ends."""
    problem = DCDCConverter(duration=6.0)
    model = NDE(state_dim=3, hidden=(4,), second_order=False, inputs="state-and-switch")
    seen = []
    model.base.net.forward = lambda x: seen.append(x[:, 3]) or torch.zeros_like(x[:, :3])
    start = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.5]).double()
    model(torch.ones(8, 3).double(), torch.arange(6).double() * problem.time_step, None, start)
    assert (torch.stack(seen[1:]) == torch.tensor([0, 0, 0, 1, 1, 1, 0, 1]).double()).all()


def test_the_switch_is_thrown_at_the_end_of_its_duty():
    t, u = torch.tensor([0.0, 1.25, 1.5, 2.75, 3.0, 4.5]).double(), torch.zeros(6, 3).double()
    assert StateAndSwitch(3)(t, u)[:, 3].tolist() == [0, 0, 1, 1, 0, 1]


def test_deviations_of_rounding_are_not_scaled():
    model, u = NDE(state_dim=2, hidden=(4,), second_order=False), torch.randn(50, 2, dtype=torch.float64)
    u[:, 1] = 1 + 1e-7 * u[:, 1]
    model.set_normalization(u, smallest=1e-4)
    assert model.base.net.std[1] == 1
    assert model.base.net.std[0] == pytest.approx(float(u[:, 0].std(correction=0)))


def test_an_event_ends_a_sample():
    model = PNDE(state_dim=3, hidden=(8,), second_order=False, constraint="rigid-body")
    u0, t = torch.randn(4, 3, dtype=torch.float64), torch.linspace(0, 50, 6, dtype=torch.float64)
    model.set_normalization(u0)
    found = model.solve(u0, t, event=lambda t, u, target: t - 20 + 0 * target[:, 0])
    assert (found.status == Status.EVENT).all()
    torch.testing.assert_close(found.event_time, torch.full((4,), 20.0).double(), rtol=0, atol=1e-6)
    assert found.u[:, :3].isfinite().all()
    assert found.u[:, 3:].isnan().all()


def test_targets_may_be_given():
    model = PSNDE(state_dim=3, hidden=(8,), second_order=False, constraint="rigid-body", gamma=5.0)
    u0, t = torch.randn(4, 3, dtype=torch.float64), torch.linspace(0, 8, 3, dtype=torch.float64)
    target = torch.full((4, 1), 0.7, dtype=torch.float64)
    end = model.constraint(None, model.solve(u0, t, target=target, tol=1e-10).u[:, -1])
    torch.testing.assert_close(end, target, rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match=r"target must be \(4, 1\); got \(4, 2\)"):
        model.solve(u0, t, target=torch.zeros(4, 2).double())


@pytest.mark.parametrize("kind", [CHNN, PNODE, PNDE, PSNDE, SNDE])
def test_fields_of_models_take_a_target_where_it_counts(kind):
    """Of those that are not drawn to the constraint it changes nothing."""
    model, u = kind(hidden=(4,)), initial_states(2)
    fields = [model.field(u, None, torch.full((2, 4), c).double()) for c in (0.0, 0.1)]
    assert torch.equal(fields[0], model.field(u))
    assert torch.equal(fields[1], fields[0]) is (kind in (CHNN, PNODE, PNDE))


@pytest.mark.unchecked
@pytest.mark.parametrize("kind", [CHNN, PNODE, PNDE])
def test_targets_of_other_samples_are_refused(kind):
    model, u0, t = kind(hidden=(4,)), initial_states(2), torch.tensor([0.0, 0.1]).double()
    wrong = torch.zeros(3, 4).double()
    calls = (lambda: model.field(u0, None, wrong), lambda: model.residual(u0, None, wrong), lambda: model(u0, t, wrong))
    for call in (*calls, lambda: model.solve(u0, t, target=wrong)):
        with pytest.raises(ShapeError, match=r"target must be .* 4\).*got \(3, 4\)"):
            call()


@pytest.mark.parametrize("kind", [NDE, HNN, AngularNDE])
def test_a_model_without_constraint_has_no_target(kind):
    model, u0, t = kind(hidden=(4,)), initial_states(2), torch.tensor([0.0, 0.1]).double()
    target = torch.zeros(2, 4).double()
    calls = (lambda: model.field(u0, None, target), lambda: model(u0, t, target))
    for call in (*calls, lambda: model.solve(u0, t, target=target)):
        with pytest.raises(ConfigError, match=rf"constraint, which {kind.__name__} has not"):
            call()


def test_parameters_of_a_model_are_finite():
    model = PNDE(hidden=(4,))
    with torch.no_grad():
        model.base.net.out.bias[1] = torch.nan
    with pytest.raises(ValueError, match=r"base\.net\.out\.bias has NaN"):
        model.solve(initial_states(2), torch.tensor([0.0, 1.0]).double())


def test_gauss_principle_gives_the_exact_pendulum_for_free_fall():
    """With unit masses and gravity as the only acceleration, metric (a) leaves nothing to learn."""

    class FreeFall(torch.nn.Module):
        def forward(self, u):
            return torch.tensor([0.0, 0.0, -9.81, -9.81], dtype=u.dtype).expand(*u.shape[:-1], 4)

    problem = DoublePendulum(damping=0.0, duration=1.0, tolerance=1e-12)
    data = problem.generate(6, seed=1)
    u, t = torch.from_numpy(data["state"].values), torch.from_numpy(data["time"].values)
    model = MetricPNDE(hidden=(4,))
    model.base.net = FreeFall()
    model.register_parameter("kind", torch.nn.Parameter(torch.zeros(1).double()))
    solved = model.solve(u[:, 0], t, tol=1e-11).u
    assert (solved - u).abs().max() <= 1e-7


def test_reference_conserves_energy_and_constraints_and_is_converged():
    problem = DoublePendulum(damping=0.0, duration=2.0)
    u = problem.generate(5, seed=0)["state"].values
    energy = problem.energy(u)
    assert np.abs(energy - energy[:, :1]).max() <= 1e-8
    assert PendulumConstraint()(None, torch.from_numpy(u)).abs().max() <= 1e-12
    finer = DoublePendulum(damping=0.0, duration=2.0, tolerance=1e-12).generate(5, seed=0)["state"].values
    assert np.abs(u - finer).max() <= 1e-7


def test_samples_do_not_depend_on_their_number():
    problem = DoublePendulum(duration=0.2)
    few, many = problem.generate(3, seed=4), problem.generate(30, seed=4)
    np.testing.assert_array_equal(few["state"].values, many["state"].values[:3])


def test_one_unsolvable_sample_does_not_disturb_the_others():
    model = NDE(state_dim=2, hidden=(4,), second_order=False)
    model.base.net.forward = torch.square  # blows up at t = 1/u0
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    u0 = torch.tensor([[0.1, 0.1], [5.0, 5.0], [0.2, 0.2]], dtype=torch.float64)
    solution = model.solve(u0, t, tol=1e-8, max_steps=200)
    assert solution.solved.tolist() == [True, False, True]
    torch.testing.assert_close(solution.u[[0, 2], -1], u0[[0, 2]] / (1 - u0[[0, 2]]), rtol=1e-6, atol=0)
    assert solution.status[1] in (Status.MAX_STEPS, Status.STEP_UNDERFLOW)
    assert solution.u[1, 0].isfinite().all()
    assert solution.u[1, 1:].isnan().all()


@pytest.mark.parametrize("name", ["pnde/nde", "pnde/snde", "pnde/pnde"])
def test_saved_model_is_the_same_field(name, tmp_path):
    model = sciml.models[name].load()(hidden=[8, 8])
    model.set_normalization(initial_states())
    model.save_pretrained(tmp_path)
    loaded = sciml.load(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    u = initial_states()
    assert torch.equal(loaded.field(u), model.field(u))


@pytest.mark.parametrize(
    ("u0", "t", "error", "message"),
    [
        (torch.ones(2, 7).double(), torch.tensor([0.0, 1.0]).double(), ValueError, r"must be \(batch, 8\)"),
        (torch.ones(2, 8), torch.tensor([0.0, 1.0]).double(), TypeError, "float64"),
        (torch.ones(2, 8).double(), torch.tensor([0.0, 1.0]), TypeError, "got torch.float64 and torch.float32"),
        (torch.ones(2, 8).double(), torch.tensor([0.0, 0.0]).double(), ValueError, "strictly monotone"),
        (torch.ones(2, 8).double(), torch.tensor([0.0, torch.inf]).double(), ValueError, "t must be finite"),
        (torch.ones(2, 8).double(), torch.tensor([0.0]).double(), ValueError, "at least two times"),
        (torch.full((2, 8), torch.nan).double(), torch.tensor([0.0, 1.0]).double(), ValueError, "NaN"),
        (torch.ones(2, 8).double(), torch.arange(3), ValueError, r"give t\.to\(u0\)"),
        (torch.ones(2, 8) + 0j, torch.tensor([0.0, 1.0]), TypeError, "Split complex"),
        (torch.ones(2, 8).half(), torch.tensor([0.0, 1.0]).half(), TypeError, r"u0\.double\(\)"),
    ],
)
@pytest.mark.unchecked
def test_bad_input_is_named(u0, t, error, message):
    with pytest.raises(error, match=message):
        NDE(hidden=(4,)).solve(u0, t)


@pytest.mark.parametrize("options", [{"tol": 0.0}, {"tol": -1e-6}, {"tol": float("nan")}, {"max_steps": 0}])
@pytest.mark.filterwarnings("error")  # of nothing else before
def test_bad_options_of_the_solver_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        PNDE(hidden=(4,)).solve(torch.ones(2, 8).double(), torch.tensor([0.0, 1.0]).double(), **options)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "config",
    [
        {"gamma": -1.0},
        {"gamma": "much"},
        {"constraint": "rope"},
        {"constraint": ["pendulum"]},
        {"constraint_config": {"links": 2}},
        {"constraint_config": 2},
        {"dtype": "float16"},
        {"hidden": 64},
        {"hidden": "abc"},
        {"hidden": [8, 0]},
        {"hidden": [8.0]},
        {"metric": "euclid"},
        {"algebraic": [0, 1, 2, 3]},
        {"algebraic": None, "metric": "algebraic"},
        {"constraint": "power-balance", "state_dim": 28},
        {"algebraic": [0, 1, 2, 8], "metric": "algebraic"},
        {"network": "transformer"},
        {"network": "chain-conv", "skip": True},
        {"inputs": "weather"},
        {"inputs_config": {"period": 2.0}},
        {"inputs_config": {"period": "x"}, "inputs": "state-and-switch"},
        {"constraint_config": {"inertia": ["a", "b", "c"]}, "constraint": "rigid-body"},
        {"second_order": "no"},
        {"state_dim": 6},
        {"state_dim": 7},
        {"state_dim": "8"},
    ],
    ids=str,
)
def test_bad_configuration_is_named(config):
    with pytest.raises(ConfigError, match=next(iter(config))):
        MetricPNDE(**{"hidden": (4,), **config})


@pytest.mark.unchecked
@pytest.mark.parametrize("n_links", [0, 2.0, "2", True])
def test_a_constraint_needs_a_number_of_links(n_links):
    with pytest.raises(ConfigError, match="n_links"):
        PNDE(hidden=(4,), constraint_config={"n_links": n_links})


@pytest.mark.unchecked
def test_a_chain_has_a_whole_number_of_masses():
    with pytest.raises(ConfigError, match=r"n_masses=4\.0"):
        PNDE(hidden=(4,), constraint="fput-energy", constraint_config={"n_masses": 4.0})
