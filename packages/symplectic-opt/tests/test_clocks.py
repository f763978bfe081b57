"""Adaptive clocks: their flows, and the trajectories that adapted integrators follow."""

import math

import numpy as np
import pytest
import torch
from sciml.errors import ConfigError
from scipy.integrate import solve_ivp
from symplectic_opt import (
    Adaptive,
    Exponential,
    ExponentialToPolynomial,
    Monitor,
    Polynomial,
    PowerClock,
    growing_steps,
    matched_rate,
    step_htvi,
    step_slc,
    step_sv,
)


def name(clock):
    """The same in every process, which that of a function is not."""
    return "Monitor" if isinstance(clock, Monitor) else str(clock)


CLOCKS = [PowerClock(1 / 3), PowerClock(2.0), ExponentialToPolynomial(0.5, 2.0), Monitor(lambda t: 1 / (1 + t))]
EXACT = CLOCKS[:3]


def run(step, system, h, n, q=1.0, t=1.0, k=1.0):
    """Positions and times (n + 1) for f = ½ k q² from rest."""
    points, r = [(q, t)], 0.0
    for _ in range(n):
        q, r, t = step(system, q, r, t, h, lambda x: k * x)
        points.append((q, t))
    return np.array(points).T


@pytest.mark.parametrize("clock", CLOCKS, ids=name)
def test_flow_solves_the_equation_of_the_clock(clock):
    found = solve_ivp(lambda _, t: [math.exp(clock.log_rate(float(t[0])))], (0, 0.3), [2.0], "DOP853", rtol=1e-13)
    assert clock.flow(2.0, 0.3) == pytest.approx(found.y[0, -1], rel=1e-11)


@pytest.mark.parametrize("clock", EXACT, ids=str)
def test_closed_flows_are_groups(clock):
    assert clock.flow(clock.flow(2.0, 0.3), 0.4) == pytest.approx(clock.flow(2.0, 0.7), rel=1e-14)
    assert clock.flow(clock.flow(2.0, 0.3), -0.3) == pytest.approx(2.0, rel=1e-14)


def test_flow_of_a_monitor_has_order_four():
    clock = Monitor(lambda t: t)  # t = t₀ e^h
    errors = [abs(clock.flow(1.0, h) - math.exp(h)) / math.exp(h) for h in (1.0, 0.5)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(5, abs=0.2)  # of one step: one more
    assert clock.flow(1.0, 0.01) == pytest.approx(math.exp(0.01), rel=1e-15)


def test_flow_of_late_times_does_not_overflow():
    clock = ExponentialToPolynomial(1.0, 0.5)
    assert clock.flow(1e4, 1.0) == 1e4
    assert clock.log_rate(1e4) == pytest.approx(math.log(0.5) - 2e4)


@pytest.mark.parametrize("clock", CLOCKS, ids=name)
def test_arrays_and_tensors_of_times_agree_with_numbers(clock):
    times = np.array([1.0, 2.0, 5.0])
    for kind in (lambda x: x, torch.from_numpy):
        for i, t in enumerate(times.tolist()):
            assert float(clock.flow(kind(times), 0.3)[i]) == pytest.approx(clock.flow(t, 0.3), rel=1e-15)
            assert float(clock.log_rate(kind(times))[i]) == pytest.approx(clock.log_rate(t), rel=1e-14)


def test_growing_steps_have_the_rates_of_the_authors():
    p, q, C, t = 6.0, 2.0, 0.1, 1.7
    adaptive = growing_steps(Polynomial(p, C), q)
    assert adaptive.drift(t) == pytest.approx(p**2 / q * t ** (-(p + q / p)), rel=1e-14)
    assert adaptive.kick(t) == pytest.approx(C * p**2 / q * t ** (2 * p - q / p), rel=1e-14)
    assert math.exp(adaptive.log_time_rate(t)) == pytest.approx(p / q * t ** (1 - q / p), rel=1e-14)
    assert adaptive.flow(t, 0.3) == pytest.approx((t ** (q / p) + 0.3) ** (p / q), rel=1e-14)
    t = run(step_slc, adaptive, 0.01, 20)[1]
    assert (np.diff(t, 2) > 0).all()


@pytest.mark.parametrize("step", [step_slc, step_htvi, step_sv])
@pytest.mark.parametrize("source", [Polynomial(6.0, 0.1), Exponential(0.7, 0.1)], ids=str)
def test_matched_rate_is_the_polynomial_member_itself(source, step):
    """In τ = e^(β/p̊) the adapted system has that member's Hamiltonian; exact flows of time keep its steps."""
    target = Polynomial(3.0, 0.1)
    adaptive = matched_rate(source, 3.0)
    tau = np.linspace(2.0, 5.0, 4)
    times = source.time_of(target.beta(tau))
    assert adaptive.log_drift(times) == pytest.approx(target.log_drift(tau), abs=1e-13)
    assert adaptive.log_kick(times) == pytest.approx(target.log_kick(tau), abs=1e-13)
    if step is step_htvi:  # its time steps by Euler's method
        return
    direct, clock = run(step, target, 0.05, 60, t=2.0)
    adapted, t = run(step, adaptive, 0.05, 60, t=float(times[0]))
    assert t == pytest.approx(source.time_of(target.beta(clock)), rel=1e-12)
    assert adapted == pytest.approx(direct, rel=1e-11)


@pytest.mark.parametrize(("step", "order"), [(step_htvi, 1), (step_slc, 2), (step_sv, 2)])
@pytest.mark.parametrize(
    "system",
    [
        growing_steps(Polynomial(6.0, 0.1), 2.0),
        matched_rate(Polynomial(2.0, 0.25), 4.0),
        matched_rate(Exponential(1.0, 0.25), 2.0),
        Adaptive(Polynomial(2.0, 0.25), Monitor(lambda t: 1 + 1 / t)),
    ],
    ids=["growing", "polynomial", "exponential", "monitor"],
)
def test_adapted_integrators_follow_the_direct_trajectory(system, step, order):
    errors = []
    for n in (200, 400, 800):
        q, t = run(step, system, 0.4 / n, n)
        errors.append(abs(q - system.exact_quadratic(1.0, 1.0, 1.0, 0.0, t)).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)
    assert np.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.05)


@pytest.mark.unchecked
def test_what_clocks_refuse():
    with pytest.raises(ConfigError, match="exponent=0 must be"):
        PowerClock(0)
    with pytest.raises(ConfigError, match="eta=-1"):
        ExponentialToPolynomial(-1, 2)
    with pytest.raises(ConfigError, match="p=7"):
        growing_steps(Polynomial(6.0), 7)
    with pytest.raises(ConfigError, match="Polynomial"):
        growing_steps(Exponential(), 2)
    with pytest.raises(ConfigError, match="no member"):
        matched_rate(growing_steps(Polynomial(6.0), 2), 2)
    for rate in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="monitor must be positive"):
            Monitor(lambda t, rate=rate: rate).flow(1.0, 0.1)


def test_loop_factor_of_a_clock_has_the_step_in_time():
    """t = τ², so that h = ½ from t = 4 is a step from 4 to (2 + ½)² = 6.25."""
    clock = Adaptive(Exponential(0.1, 2.0), PowerClock(0.5))
    expected = math.log(2.0 * 2.25**2 * 0.1**2) + 0.1 * (4.0 - 2.25)
    assert clock.log_loop_factor(4.0, 0.5) == pytest.approx(expected, rel=1e-12)
