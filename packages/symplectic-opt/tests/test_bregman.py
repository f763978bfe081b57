"""Bregman systems: their equations, exact solutions, Lyapunov functions and changes of time."""

import math

import numpy as np
import pytest
import torch
from sciml.errors import ConfigError
from scipy.integrate import solve_ivp
from symplectic_opt import Exponential, Polynomial, time_change

SYSTEMS = [
    Polynomial(2.0, 0.25),
    Polynomial(6.0, 0.1),
    Polynomial(1.5, 3.0),
    Exponential(1.0, 0.25),
    Exponential(0.3, 2),
]


def solve(system, gradient, t0, x0, v0, times):
    """x and ẋ (time, d) at the given times by DOP853."""
    found = solve_ivp(system.ode(gradient), (t0, times[-1]), np.r_[x0, v0], "DOP853", times, rtol=1e-13, atol=1e-14).y.T
    return np.split(found, 2, axis=1)


def derivative(function, t):
    time = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    value = function(time)
    return float(torch.autograd.grad(value, time)[0]) if isinstance(value, torch.Tensor) else 0.0


def test_rates_are_those_of_the_table():
    t, p, eta, C = 1.7, 3.0, 0.4, 0.2
    polynomial, exponential = Polynomial(p, C), Exponential(eta, C)
    assert polynomial.drift(t) == pytest.approx(p * t ** (-p - 1), rel=1e-14)
    assert polynomial.kick(t) == pytest.approx(C * p * t ** (2 * p - 1), rel=1e-14)
    assert exponential.drift(t) == pytest.approx(eta * math.exp(-eta * t), rel=1e-14)
    assert exponential.kick(t) == pytest.approx(C * eta * math.exp(2 * eta * t), rel=1e-14)
    assert polynomial.damping(t) == pytest.approx((p + 1) / t, rel=1e-14)
    assert exponential.damping(t) == eta


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
def test_scaling_is_ideal_and_damping_belongs_to_it(system):
    for t in (0.5, 1.0, 7.0):
        rate = math.exp(system.alpha(t))
        assert derivative(system.beta, t) == pytest.approx(rate, rel=1e-14)
        assert derivative(system.gamma, t) == pytest.approx(rate, rel=1e-14)
        assert system.damping(t) == pytest.approx(rate - derivative(system.alpha, t), rel=1e-14)
        assert system.time_of(system.beta(t)) == pytest.approx(t, rel=1e-13)


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
def test_euler_lagrange_equation_is_that_of_the_hamiltonian(system):
    generator = torch.Generator().manual_seed(0)
    q, r = torch.randn(2, 3, dtype=torch.float64, generator=generator).requires_grad_().unbind()
    t = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def f(x):
        return (x**4).sum(-1) + x[..., 0] * x[..., 1]

    force, velocity = torch.autograd.grad(system.hamiltonian(q, r, t, f), (q, r), create_graph=True)
    # ẍ = d/dt (∂H/∂r) along q̇ = ∂H/∂r, ṙ = -∂H/∂q
    drift = system.drift(t)
    acceleration = torch.autograd.grad(drift, t)[0] * r - drift * force
    gradient = torch.func.grad(f)
    state = torch.cat([q, velocity]).detach().numpy()
    rate = system.ode(lambda x: gradient(torch.from_numpy(x)).numpy())(1.3, state)
    expected = torch.cat([velocity, acceleration]).detach().numpy()
    assert rate == pytest.approx(expected, rel=1e-13)


def test_exact_values_of_the_oscillator():
    assert Polynomial(2.0, 0.25).exact_quadratic(1.0, 1, 1.0, 0.0, 6.0) == pytest.approx(-0.12483289381, abs=5e-12)
    assert Exponential(1.0, 0.25).exact_quadratic(1.0, 1, 1.0, 0.0, 4.0) == pytest.approx(0.00794464396, abs=5e-12)


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
def test_exact_solutions_solve_the_equation(system):
    k, x0, v0 = np.array([0.1, 1.0, 4.0]), np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, -3.0])
    times = np.linspace(1.2, 3.0, 7)
    x, _ = solve(system, lambda x: k * x, 1.2, x0, v0, times)
    assert system.exact_quadratic(k, 1.2, x0, v0, times[:, None]) == pytest.approx(x, abs=1e-11)


@pytest.mark.parametrize("kind", [float, np.array, torch.tensor])
@pytest.mark.parametrize("system", SYSTEMS, ids=str)
def test_numbers_arrays_and_tensors_have_the_same_rates_without_overflow(system, kind):
    for name in ("alpha", "beta", "gamma", "log_drift", "log_kick"):
        for t in (1e-3, 1.0, 1e6):
            time = torch.tensor(t, dtype=torch.float64) if kind is torch.tensor else kind(t)
            assert float(getattr(system, name)(time)) == pytest.approx(getattr(system, name)(t), rel=1e-15)
            assert math.isfinite(getattr(system, name)(t))


def test_parameters_may_be_one_per_cell():
    p, C = np.array([2.0, 4.0, 6.0]), np.array([0.1, 1.0, 10.0])
    cells = Polynomial(p, C)
    for i in range(3):
        assert cells.kick(1.7)[i] == pytest.approx(Polynomial(float(p[i]), float(C[i])).kick(1.7), rel=1e-15)


@pytest.mark.parametrize("system", [Polynomial(2.0, 0.25), Polynomial(4.0, 0.1), Exponential(1.0, 0.25)], ids=str)
@pytest.mark.parametrize("power", [2, 4], ids=["quadratic", "quartic"])
def test_lyapunov_function_never_grows_and_bounds_the_value(system, power):
    x_star = np.array([1.0, -2.0])

    weights = np.array([1.0, 0.3])

    def f(x):
        return (x - x_star) ** power @ weights

    def gradient(x):
        return power * weights * (x - x_star) ** (power - 1)

    times = np.linspace(1, 6, 400)
    x, v = solve(system, gradient, 1.0, np.array([2.0, 1.0]), np.zeros(2), times)
    energy = system.lyapunov(x, v, times, f, x_star)
    assert np.diff(energy).max() <= 1e-9
    assert (f(x) <= energy[0] * np.exp(-system.beta(times)) + 1e-12).all()


@pytest.mark.parametrize("source", [Polynomial(6.0, 0.1), Exponential(0.7, 0.5)], ids=str)
@pytest.mark.parametrize("target", [Polynomial(2.0, 0.3), Exponential(0.4, 0.5)], ids=str)
def test_changed_time_turns_one_member_into_another(source, target):
    change = time_change(source, target)
    s0, s = 2.0, np.linspace(2.0, 5.0, 7)
    t0, v0 = change(s0), -0.4
    expected = target.exact_quadratic(3.0, s0, 1.5, v0 * derivative(change, s0), s)
    assert source.exact_quadratic(3.0, t0, 1.5, v0, change(s)) == pytest.approx(expected, abs=1e-12)


def test_changes_of_time_have_their_closed_forms():
    s = np.linspace(1, 9, 5)
    assert time_change(Polynomial(6.0, 0.1), Polynomial(2.0, 0.1))(s) == pytest.approx(s ** (2 / 6), rel=1e-14)
    assert time_change(Exponential(0.7, 0.5), Polynomial(2.0, 0.5))(s) == pytest.approx(2 / 0.7 * np.log(s), abs=1e-13)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "value", [0.0, -1.0, math.nan, math.inf, np.array([1.0, 0.0]), torch.tensor([1.0, -1.0]), "2", None]
)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda x: Polynomial(x), "p="),
        (lambda x: Polynomial(C=x), "C="),
        (lambda x: Exponential(x), "eta="),
        (lambda x: Exponential(C=x), "C="),
    ],
)
def test_parameters_must_be_positive(make, name, value):
    with pytest.raises(ConfigError, match=f"^{name}.*must be a finite number above zero"):
        make(value)


@pytest.mark.unchecked
@pytest.mark.parametrize("k", [0.0, -1.0, np.array([1.0, 0.0])])
def test_exact_solutions_are_of_convex_quadratics(k):
    with pytest.raises(ConfigError, match="k="):
        Exponential().exact_quadratic(k, 1.0, 1.0, 0.0, 2.0)


@pytest.mark.unchecked
@pytest.mark.parametrize(("t0", "t"), [(1.0, 0.0), (1.0, [2.0, -1.0]), (0.0, 1.0), (-1.0, 1.0)])
def test_exact_solutions_are_of_positive_times(t0, t):
    with pytest.raises(ConfigError, match="must be times of the system, which are above zero"):
        Polynomial().exact_quadratic(1.0, t0, 1.0, 0.0, t)


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
def test_numbers_are_points_of_one_dimension(system):
    one = np.ones(1)
    found = system.hamiltonian(1.5, 0.5, 2.0, lambda q: q * q), system.lyapunov(1.5, 0.5, 2.0, lambda q: q * q, 0.1)
    assert found[0] == system.hamiltonian(1.5 * one, 0.5 * one, 2.0, lambda q: (q * q).sum(-1))
    assert found[1] == system.lyapunov(1.5 * one, 0.5 * one, 2.0, lambda q: (q * q).sum(-1), 0.1 * one)
