"""Integrators on positions and momenta: symplectic, reversible, of their orders, and as fast as their system."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from symplectic_opt import (
    Adaptive,
    Exponential,
    Monitor,
    Polynomial,
    growing_steps,
    matched_rate,
    step_htvi,
    step_rk4,
    step_slc,
    step_sv,
)

DIRECT = [Polynomial(2.0, 0.25), Exponential(1.0, 0.25)]
ADAPTIVE = [
    growing_steps(Polynomial(4.0, 0.1), 2.0),
    matched_rate(Exponential(0.5, 0.25), 2.0),
    Adaptive(Exponential(0.5, 0.25), Monitor(lambda t: 1 + 1 / t)),
]
SYMPLECTIC = [step_htvi, step_slc, step_sv]


def name(system):
    return type(system).__name__ + (f"-{type(system.clock).__name__}" if isinstance(system, Adaptive) else "")


def gradient(q):
    """Of Σ cosh qᵢ + ½(q₁ + … + q_d)²; analytic."""
    return np.sinh(q) + q.sum()


def jacobian(step, system, q, r, t, h):
    """Of the map (q, r) → (q, r) by complex steps."""
    z, columns = np.concatenate([q, r]).astype(complex), []
    for i in range(z.size):
        moved = z.copy()
        moved[i] += 1e-30j
        q1, r1, _ = step(system, *np.split(moved, 2), t, h, gradient)
        columns.append(np.concatenate([q1, r1]).imag / 1e-30)
    return np.stack(columns, axis=1)


def defect(step, system):
    d = 3
    q, r = np.array([0.3, -0.2, 0.5]), np.array([0.1, 0.4, -0.3])
    M = jacobian(step, system, q, r, 1.2, 0.1)
    J = np.block([[np.zeros((d, d)), np.eye(d)], [-np.eye(d), np.zeros((d, d))]])
    return abs(M.T @ J @ M - J).max()


@pytest.mark.parametrize("system", DIRECT + ADAPTIVE, ids=name)
@pytest.mark.parametrize("step", SYMPLECTIC)
def test_steps_are_symplectic(step, system):
    assert defect(step, system) <= 1e-14


def test_runge_kutta_is_not_symplectic():
    assert defect(step_rk4, DIRECT[0]) > 1e-9


def end(step, system, n, t0=1.0, length=2.0):
    """x at t₀ + length for f = ½x² from x = 1 at rest."""
    q, r, t = 1.0, 0.0, t0
    for _ in range(n):
        q, r, t = step(system, q, r, t, length / n, lambda x: x)
    return q, t


@pytest.mark.parametrize("system", DIRECT, ids=name)
@pytest.mark.parametrize(("step", "order"), [(step_htvi, 1), (step_slc, 2), (step_sv, 2), (step_rk4, 4)])
def test_orders_against_the_exact_solution(step, order, system):
    errors = []
    for n in (100, 200) if step is step_rk4 else (400, 800, 1600):
        q, t = end(step, system, n)
        assert t == pytest.approx(3.0, rel=1e-12)
        errors.append(abs(q - system.exact_quadratic(1.0, 1.0, 1.0, 0.0, 3.0)))
    assert np.log2(errors[-2] / errors[-1]) == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize("system", DIRECT + ADAPTIVE[:2], ids=name)
@pytest.mark.parametrize("step", [step_slc, step_sv])
def test_hundred_steps_there_and_back(step, system):
    h = 0.005 if isinstance(system, Adaptive) else 0.02
    q0, r0 = np.array([0.3, -0.2, 0.5]), np.zeros(3)
    q, r, t = q0, r0, 1.0
    for _ in range(100):
        q, r, t = step(system, q, r, t, h, gradient)
    assert abs(q - q0).max() > 0.01
    for _ in range(100):
        q, r, t = step(system, q, r, t, -h, gradient)
    assert t == pytest.approx(1.0, abs=1e-12)
    assert abs(q - q0).max() <= 1e-11
    assert abs(r - r0).max() <= 1e-11


def test_symplectic_euler_does_not_return():
    q, r, t = 1.0, 0.0, 1.0
    for h in [0.02] * 100 + [-0.02] * 100:
        q, r, t = step_htvi(DIRECT[0], q, r, t, h, lambda x: x)
    assert abs(q - 1) > 1e-3


@pytest.mark.parametrize("p", [2.0, 4.0])
@pytest.mark.parametrize("step", SYMPLECTIC)
def test_values_fall_at_the_rate_of_the_member(step, p):
    """f = [(x - 1)ᵀΣ(x - 1)]² is flat at its minimum, so that its curvature helps no rate."""
    d, C, h, n = (50, 1e-2, 0.02, 800) if p == 2 else (50, 1e-3, 0.005, 800)
    index = np.arange(d)
    sigma = 0.9 ** abs(index[:, None] - index)
    q, r, t = 2 + 0.1 * np.random.RandomState(0).randn(d), np.zeros(d), 1.0
    system, times, values = Polynomial(p, C), [], []
    for _ in range(n):
        q, r, t = step(system, q, r, t, h, lambda x: 4 * ((x - 1) @ sigma @ (x - 1)) * (sigma @ (x - 1)))
        times.append(t)
        values.append(((q - 1) @ sigma @ (q - 1)) ** 2)
    envelope = np.maximum.accumulate(values[::-1])[::-1]
    late = np.array(times) > times[-1] / 4
    slope = np.polyfit(np.log(np.array(times)[late]), np.log(envelope[late]), 1)[0]
    assert slope <= -0.9 * p  # the least that is proved; measured -2.0 p


@pytest.mark.parametrize("system", DIRECT + ADAPTIVE[:1], ids=name)
def test_runge_kutta_solves_the_euler_lagrange_equation(system):
    q, r, t = np.array([0.3, -0.2, 0.5]), np.zeros(3), 1.0
    x0, h = q, 0.001 if isinstance(system, Adaptive) else 0.0025
    for _ in range(400):
        q, r, t = step_rk4(system, q, r, t, h, gradient)
    base = system.system if isinstance(system, Adaptive) else system
    solved = solve_ivp(base.ode(gradient), (1.0, t), np.r_[x0, np.zeros(3)], "DOP853", rtol=1e-12, atol=1e-13)
    assert q == pytest.approx(solved.y[:3, -1], abs=1e-8)
    assert base.drift(t) * r == pytest.approx(solved.y[3:, -1], abs=1e-7)
