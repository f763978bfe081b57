import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from mackeyglass import DDE, MackeyGlass
from mackeyglass.mackey_glass import hill, hill_slope
from sciml.errors import ConfigError, ShapeError
from torch.autograd.functional import jacobian


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("n", [1.5, 4, 7, 9.65, 20.0])
def test_hill_is_its_formula_with_its_slope(n):
    x = torch.linspace(0.05, 2.5, 20, dtype=torch.float64)
    theta = 1.3
    torch.testing.assert_close(hill(x, n, theta), theta**n * x / (theta**n + x**n), rtol=1e-14, atol=0)
    slope = jacobian(lambda x: hill(x, n, theta).sum(), x)
    torch.testing.assert_close(hill_slope(x, n, theta), slope, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n", [100, 100.5, 1.5])
def test_hill_neither_overflows_nor_loses_its_derivatives(n):
    x = tensor(0.0, 1e-200, 0.5, 1.0, 1e4, 1e300)
    f, slope = hill(x, n), jacobian(lambda x: hill(x, n).sum(), x)
    torch.testing.assert_close(f[:2], x[:2], rtol=1e-14, atol=0)
    torch.testing.assert_close(slope, hill_slope(x, n), rtol=1e-12, atol=1e-300)
    assert slope[0] == 1
    assert torch.isfinite(f).all()


def test_hill_of_negative_arguments():
    x = tensor(-0.5, -2.0)
    torch.testing.assert_close(hill(x, 4), x / (1 + x**4))
    torch.testing.assert_close(hill(x, 5), x / (1 + x**5))
    torch.testing.assert_close(hill_slope(x, 5), jacobian(lambda x: hill(x, 5).sum(), x))
    assert hill(x, 4.5).isnan().all()


def test_absorbing_interval_and_equilibrium():
    system = MackeyGlass(beta=2.0, gamma=1.0, n=9.65, tau=2.0)
    lower, upper = system.absorbing_interval()
    assert upper == pytest.approx(1.4335692441, abs=1e-10)
    assert lower == pytest.approx(0.0860545587, abs=1e-10)
    other = MackeyGlass(beta=3.0, gamma=0.7, n=6.5, theta=1.7)
    u = torch.as_tensor(other.positive_equilibrium(), dtype=torch.float64)
    assert other.rhs(u, u).abs() < 1e-14
    assert other.production_slope(u) == pytest.approx(other.equilibrium_slope(), abs=1e-13)
    assert MackeyGlass().equilibria() == (0.0, 1.0)
    assert MackeyGlass(beta=0.5).equilibria() == (0.0,)


def test_scaled_has_the_same_field():
    system = MackeyGlass(beta=0.3, gamma=0.1, n=8.2, tau=17.0, theta=2.5)
    scaled = system.scaled()
    u, u_tau = tensor(1.0, 2.0, 3.0), tensor(2.0, 0.3, 4.0)
    derivative = scaled.rhs(u / 2.5, u_tau / 2.5) * 2.5 * 0.1
    torch.testing.assert_close(derivative, system.rhs(u, u_tau), rtol=1e-13, atol=1e-15)
    assert scaled.tau == pytest.approx(1.7)


def test_general_equation_and_its_instance_agree():
    system = MackeyGlass(beta=2.1, gamma=0.9, n=7.3, tau=1.5, theta=1.2)
    general = DDE(
        lambda x, x_tau, p: p.beta * p.theta**p.n * x_tau / (p.theta**p.n + x_tau**p.n) - p.gamma * x,
        ["tau"],
        system.parameters,
    )
    x, x_tau = tensor(0.3, 1.0, 2.0)[None], tensor(0.8, 0.1, 1.4)[None]
    expected = general.field(x, [x_tau], general.parameters)
    torch.testing.assert_close(system.field(x, [x_tau], system.parameters), expected)
    torch.testing.assert_close(system.rhs(x, x_tau), expected)
    assert general.delay_values == system.delay_values == (1.5,)
    assert general.with_parameters(tau=2.5).delay_values == system.with_parameters(tau=2.5).delay_values == (2.5,)


def test_batches_of_systems_broadcast_against_states():
    beta = torch.linspace(1.5, 2.5, 4, dtype=torch.float64)
    systems, u = MackeyGlass(beta=beta, n=beta + 6), torch.full((4,), 0.9, dtype=torch.float64)
    rows = [MackeyGlass(beta=b, n=b + 6).rhs(u[:1], u[:1]) for b in beta.tolist()]
    torch.testing.assert_close(systems.rhs(u, u), torch.cat(rows))
    lower, upper = systems.absorbing_interval()
    assert torch.is_tensor(lower)
    assert torch.is_tensor(upper)
    assert lower[1].item() == MackeyGlass(beta=beta[1].item(), n=beta[1].item() + 6).absorbing_interval()[0]


@pytest.mark.unchecked
@pytest.mark.parametrize("name", ["beta", "gamma", "theta", "tau", "n"])
@pytest.mark.parametrize("value", [-1.0, 0.0, math.nan, math.inf, torch.tensor([2.0, -1.0])])
def test_values_outside_their_domains_are_named(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be finite and greater than"):
        MackeyGlass(**{name: value})


@pytest.mark.unchecked
def test_errors():
    with pytest.raises(ConfigError, match="n must be finite and greater than 1"):
        MackeyGlass(n=1)
    with pytest.raises(ConfigError, match="no positive equilibrium for beta<=gamma"):
        MackeyGlass(beta=1.0).positive_equilibrium()
    with pytest.raises(ConfigError, match="no positive equilibrium"):
        MackeyGlass(beta=torch.tensor([2.0, 0.5])).equilibrium_slope()
    with pytest.raises(ConfigError, match="differ in their number of equilibria"):
        MackeyGlass(beta=torch.tensor([2.0, 0.5])).equilibria()
    with pytest.raises(ConfigError, match="not an invariant interval"):
        MackeyGlass(n=2.0, beta=1.1).absorbing_interval()
    with pytest.raises(ConfigError, match="no parameter is called m"):
        MackeyGlass().with_parameters(m=3.0)
    with pytest.raises(ConfigError, match="names of parameters"):
        DDE(lambda x, y, p: x, ["lag"], {"tau": 1.0})
    with pytest.raises(ConfigError, match="tau must be finite and greater than 0"):
        DDE(lambda x, y, p: x, ["tau"], {"tau": -1.0})
    with pytest.raises(ConfigError, match="2 delayed states and the parameters"):
        DDE(lambda x, y, p: x, ["tau", 0.5], {"tau": 1.0})
    with pytest.raises(ConfigError, match="dim=0 must be a positive whole number"):
        DDE(lambda x, y, p: x, ["tau"], {"tau": 1.0}, dim=0)


def two(x, y, p):
    return torch.stack([x[1], -p.a * y[0]])


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("rhs", "dim", "error", "message"),
    [
        (lambda x, y, p: -p.b * y, 1, ConfigError, "no parameter is called b; there are a, tau"),
        (lambda x, y, p: [x[1], y[0]], 2, ConfigError, r"rhs must return a tensor \(2, 3\) .* it returned a list"),
        (lambda x, y, p: x[0], 2, ShapeError, r"rhs must return a tensor \(2, 3\) .* it returned \(3,\)"),
        (lambda x, y, p: x[0], 1, ShapeError, r"rhs must return a tensor \(1, 3\) .* it returned \(3,\)"),
        (lambda x, y, p: np.tanh(y), 1, ConfigError, "must be made of torch operations"),
        (lambda x, y, p: -math.sin(y[0]) * x, 1, ConfigError, "must be made of torch operations"),
    ],
)
@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_what_a_right_hand_side_returns_is_checked(rhs, dim, error, message):
    with pytest.raises(error, match=message):
        DDE(rhs, ["tau"], {"a": 1.0, "tau": 1.0}, dim)


def test_right_hand_sides_are_called_with_the_batch_of_the_parameters():
    shapes = []

    def rhs(x, y, p):
        shapes.append(x.shape)
        return two(x, y, p)

    system = DDE(rhs, ["tau"], {"a": torch.ones(4), "tau": 1.0}, dim=2)
    system.with_parameters(a=2.0).with_parameters(tau=3.0)
    assert shapes == [(2, 4)]  # other values need no other call


def test_an_error_within_a_right_hand_side_stays_what_it_is():
    with pytest.raises(AttributeError, match="nonsense"):
        DDE(lambda x, y, p: x.nonsense, [1.0], {})
    layer = torch.nn.Linear(1, 1)  # takes float32 alone
    DDE(lambda x, y, p: layer(x.T).T, [1.0], {})


@pytest.mark.unchecked
@pytest.mark.parametrize("value", ["9.65", [8.0, 9.0], np.array([8.0, 9.0]), None, True])
def test_parameters_that_are_no_numbers_are_named(value):
    hint = ".*torch.as_tensor" if isinstance(value, list | np.ndarray) else ""
    with pytest.raises(ConfigError, match=f"n must be a number or a tensor of numbers{hint}"):
        MackeyGlass(n=value)
    with pytest.raises(ConfigError, match=f"b must be a number or a tensor of numbers{hint}"):
        DDE(lambda x, y, p: p.b * x, [1.0], {"b": value})
    with pytest.raises(ConfigError, match=f"tau must be a number or a tensor of numbers{hint}"):
        MackeyGlass().with_parameters(tau=value)


def test_tensors_of_different_batches_are_listed():
    with pytest.raises(ShapeError, match=r"with one B, got n \(3,\), tau \(2,\)"):
        MackeyGlass(n=tensor(8, 9, 10), tau=tensor(1, 2))
    with pytest.raises(ShapeError, match=r"with one B, got a \(3,\), tau \(2,\)"):
        DDE(two, [1.0], {"a": tensor(8, 9, 10), "tau": tensor(1, 2)}, dim=2)


def test_the_first_derivative_of_a_program_warns_of_nothing():
    program = (
        "import torch, mackeyglass; x = torch.ones(1, 1, dtype=torch.float64)\n"
        "system = mackeyglass.DDE(lambda x, y, p: -x + torch.tanh(y), [1.0], {})\n"
        "assert system.differential(x, [x], {}, x, [0 * x]).item() == -1"
    )
    command = [sys.executable, "-W", "error::FutureWarning", "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""


def test_right_hand_sides_take_numbers():
    system, u = MackeyGlass(), tensor(1.2, 0.3)
    torch.testing.assert_close(system.rhs(1.2, 0.3), system.rhs(u[0], u[1]), rtol=0, atol=0)
    torch.testing.assert_close(system.drhs(1, 0.3)[1], system.drhs(u[0], u[1])[1], rtol=0, atol=0)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("delays", "parameters", "dim", "message"),
    [
        ("tau", {"tau": 1.0}, 1, r"must be a list, one entry a delay: \['tau'\]"),
        (["tau"], {"tau": 1.0}, 1.5, "dim=1.5"),
        (["tau"], {"tau": 1.0, "a": math.nan}, 1, "a must be finite, got nan"),
    ],
)
def test_equations_of_wrong_make_are_refused(delays, parameters, dim, message):
    with pytest.raises(ConfigError, match=message):
        DDE(lambda x, y, p: -y, delays, parameters, dim)
