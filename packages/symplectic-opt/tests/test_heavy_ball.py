"""The heavy-ball form: the same iterates as positions and momenta give, without their overflow."""

import math

import numpy as np
import pytest
import torch
from sciml.errors import ConfigError
from scipy.optimize import brentq
from symplectic_opt import (
    Adaptive,
    Exponential,
    HeavyBall,
    Monitor,
    Polynomial,
    growing_steps,
    matched_rate,
    step_htvi,
    step_slc,
    step_sv,
)

STEPS = {"htvi": step_htvi, "slc": step_slc, "sv": step_sv}
SYSTEMS = [
    Polynomial(6.0, 0.1),
    Exponential(0.5, 0.3),
    growing_steps(Polynomial(4.0, 0.1), 2.0),
    matched_rate(Exponential(0.5, 0.3), 2.0),
    Adaptive(Polynomial(2.0, 0.25), Monitor(lambda t: 1 + 1 / t)),
]
A = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])


def name(system):
    return type(system).__name__ + (f"-{type(system.clock).__name__}" if isinstance(system, Adaptive) else "")


def gradient(q):
    return A @ q + q**3


def displacements(ball, q, h, resets=(), loops=(), t=1.0, beta=0.8, gradient=gradient):
    """Positions after each move of Δ ← μ Δ - s ∇f, with restarts and jumps of the clock before the moves listed."""
    points, delta, log_before, h_before = [q], 0 * q, None, 0.0
    for k, step in enumerate(h):
        if k:
            t = ball.advance(beta * t if k in loops else t, h_before)
        log_amplitude = ball.log_amplitude(t, step)
        mu = 0.0 if log_before is None or k in resets else math.exp(log_amplitude - log_before)
        delta = mu * delta - math.exp(ball.log_step(t, step, h_before, log_amplitude)) * gradient(points[-1])
        points.append(points[-1] + delta)
        log_before, h_before = log_amplitude, step
    return np.array(points)


def momenta(ball, q, h, resets=(), loops=(), t=1.0, beta=0.8):
    """The same with r: kicks by half the steps before and after (HTVI: by the step after), then a drift."""
    system, points, r, h_before = ball.system, [q], 0 * q, 0.0
    for k, step in enumerate(h):
        if k:
            t = ball.advance(beta * t if k in loops else t, h_before)
        r = 0 * r if k in resets else r
        r = r - (step if ball.integrator == "htvi" else (h_before + step) / 2) * system.kick(t) * gradient(points[-1])
        end = system.flow(t, step)
        drift = {
            "htvi": lambda t=t: system.drift(t),
            "slc": lambda t=t, step=step: system.drift(system.flow(t, step / 2)),
            "sv": lambda t=t, end=end: (system.drift(t) + system.drift(end)) / 2,
        }[ball.integrator]
        points.append(points[-1] + step * drift() * r)
        h_before = step
    return np.array(points)


@pytest.mark.parametrize("system", SYSTEMS, ids=name)
@pytest.mark.parametrize("integrator", STEPS)
def test_displacements_are_the_steps_of_the_integrator(integrator, system):
    """Whatever the steps: 60 of them that change, merged kicks included."""
    h = 0.02 * (1 + 0.5 * np.sin(np.arange(60.0)))
    ball = HeavyBall(system, integrator)
    q, r, t, expected = np.array([1.0, -0.5, 0.7]), np.zeros(3), 1.0, [np.array([1.0, -0.5, 0.7])]
    for step in h:
        q, r, t = STEPS[integrator](system, q, r, t, step, gradient)
        expected.append(q)
    found = displacements(ball, expected[0], h.tolist())
    assert abs(found - np.array(expected)).max() <= 1e-12 * abs(found).max()
    assert abs(found[-1] - found[0]).max() > 0.1


@pytest.mark.parametrize("system", SYSTEMS, ids=name)
@pytest.mark.parametrize("integrator", STEPS)
def test_displacements_are_those_of_momenta_through_restarts_and_loops(integrator, system):
    h = (0.02 * (1 + 0.5 * np.cos(np.arange(60.0)))).tolist()
    ball, q, script = HeavyBall(system, integrator), np.array([1.0, -0.5, 0.7]), {"resets": {9, 25}, "loops": {14, 25}}
    found, expected = displacements(ball, q, h, **script), momenta(ball, q, h, **script)
    assert abs(found - expected).max() <= 1e-12 * abs(found).max()
    assert abs(found - displacements(ball, q, h)).max() > 1e-3


def test_constant_steps_have_the_two_time_coefficients():
    t, h, C = 3.7, 0.4, 0.2
    p, eta = 6.0, 0.05
    polynomial, exponential = Polynomial(p, C), Exponential(eta, C)
    for before in (t - h, 1.3 * t):  # the second after a loop
        for system, integrator, mu, s in (
            (exponential, "slc", math.exp(-eta * (t - before)), C * (eta * h) ** 2 * math.exp(eta * (t - h / 2))),
            (exponential, "htvi", math.exp(-eta * (t - before)), C * (eta * h) ** 2 * math.exp(eta * t)),
            (
                polynomial,
                "slc",
                ((before + h / 2) / (t + h / 2)) ** (p + 1),
                C * (p * h) ** 2 * t ** (2 * p - 1) * (t + h / 2) ** (-p - 1),
            ),
            (polynomial, "htvi", (before / t) ** (p + 1), C * (p * h) ** 2 * t ** (p - 2)),
        ):
            ball = HeavyBall(system, integrator)
            log_amplitude = ball.log_amplitude(t, h)
            assert math.exp(log_amplitude - ball.log_amplitude(before, h)) == pytest.approx(mu, rel=1e-13)
            assert math.exp(ball.log_step(t, h, h, log_amplitude)) == pytest.approx(s, rel=1e-13)


def test_factors_of_the_loop_tests():
    t, h, C, p, eta = 3.7, 0.4, 0.2, 6.0, 0.05
    exponential, polynomial = HeavyBall(Exponential(eta, C)), HeavyBall(Polynomial(p, C))
    assert math.exp(exponential.log_loop_factor("paper", t, h)) == pytest.approx(
        C * (h * eta) ** 2 * math.exp(eta * (t - h)), rel=1e-13
    )
    assert math.exp(polynomial.log_loop_factor("paper", t, h)) == pytest.approx(
        C * (h * p) ** 2 * (t + h) ** (p + 1) / t, rel=1e-13
    )
    for ball in (exponential, polynomial):
        step = ball.log_step(t + h, h, h, ball.log_amplitude(t + h, h))
        assert ball.log_loop_factor("consistent", t, h) == pytest.approx(step, rel=1e-13)
    # the exponential test is s(t)|∇f| up to e^(ηh/2), the polynomial one is t² times stricter
    t, h = 300.0, 1e-3
    for ball, power in ((HeavyBall(Exponential(eta, C)), 0), (polynomial, 2)):
        difference = ball.log_loop_factor("paper", t, h) - ball.log_loop_factor("consistent", t, h)
        assert difference == pytest.approx(power * math.log(t), abs=1e-3)


@pytest.mark.parametrize("integrator", STEPS)
@pytest.mark.parametrize("system", [Exponential(), Polynomial()], ids=name)
def test_coefficients_outlive_the_momenta(system, integrator):
    t = 1e5 if isinstance(system, Exponential) else 1e40
    with pytest.raises(OverflowError):
        system.kick(t)
    ball = HeavyBall(system, integrator)
    h = 1.0 if isinstance(system, Exponential) else t / 100
    amplitude, before = ball.log_amplitude(t, h), ball.log_amplitude(t - h, h)
    assert math.exp(amplitude - before) == pytest.approx(0.99 if t == 1e5 else 0.99**7, rel=0.01)
    assert math.isfinite(ball.log_step(t, h, h, amplitude))


@pytest.mark.parametrize("integrator", STEPS)
@pytest.mark.parametrize("system", SYSTEMS, ids=name)
def test_cells_and_tensors_have_the_coefficients_of_numbers(system, integrator):
    ball = HeavyBall(system, integrator)
    t, h = np.array([1.0, 1.5, 2.0]), np.array([0.01, 0.02, 0.05])
    for kind in (lambda x: x, torch.from_numpy):
        times, steps = kind(t), kind(h)
        amplitudes = ball.log_amplitude(times, steps)
        for i, (time, step) in enumerate(zip(t.tolist(), h.tolist(), strict=True)):
            amplitude = ball.log_amplitude(time, step)
            close = {"rel": 1e-14, "abs": 1e-14}
            assert float(amplitudes[i]) == pytest.approx(amplitude, **close)
            assert float(ball.advance(times, steps)[i]) == pytest.approx(ball.advance(time, step), **close)
            found = ball.log_step(times, steps, 0 * steps, amplitudes)
            assert float(found[i]) == pytest.approx(ball.log_step(time, step, 0.0, amplitude), **close)
            for test in ("paper", "consistent"):
                expected = ball.log_loop_factor(test, time, step)
                assert float(ball.log_loop_factor(test, times, steps)[i]) == pytest.approx(expected, rel=1e-12)
    assert np.broadcast(ball.log_amplitude(1.0, h)).shape == (3,)  # one time of all cells, steps of their own


@pytest.mark.parametrize("integrator", STEPS)
@pytest.mark.parametrize("system", SYSTEMS, ids=name)
def test_tensors_never_wait_for_their_device(system, integrator):
    """Tensors without data raise where a number is asked of them."""
    t, h = torch.ones(2, dtype=torch.float64, device="meta").unbind()
    ball = HeavyBall(system, integrator)
    amplitude = ball.log_amplitude(t, h)
    for found in (
        amplitude,
        ball.advance(t, h),
        ball.log_step(t, h, h, amplitude),
        ball.log_loop_factor("paper", t, h),
        ball.log_loop_factor("consistent", t, h),
    ):
        assert found.device.type == "meta"
        assert found.shape == ()
        assert found.dtype == torch.float64


@pytest.mark.parametrize("integrator", STEPS)
@pytest.mark.parametrize("make", [lambda C: Polynomial(6.0, C), lambda C: Exponential(0.5, C)])
def test_scaled_functions_are_minimised_alike(make, integrator):
    q, c, h = np.array([1.0, -0.5, 0.7]), 37.0, [0.02] * 60
    expected = displacements(HeavyBall(make(0.3), integrator), q, h)
    found = displacements(HeavyBall(make(0.3 / c), integrator), q, h, gradient=lambda x: c * gradient(x))
    assert abs(found - expected).max() <= 1e-12 * abs(expected).max()


@pytest.mark.parametrize(
    ("system", "h", "far"),
    [(Exponential(0.01, 1.0), 5.0, 1200.0), (Polynomial(4.0, 0.1), 0.05, 60.0)],
    ids=["expo", "poly"],
)
def test_instability_sets_in_where_the_step_exceeds_its_bound(system, h, far):
    """s(t) L = 2(1 + μ) for f = ½L q², L = 1; without a loop the amplitude grows from there on."""
    ball = HeavyBall(system)

    def excess(t):
        amplitude = ball.log_amplitude(t, h)
        mu = math.exp(amplitude - ball.log_amplitude(t - h, h))
        return ball.log_step(t, h, h, amplitude) - math.log(2 * (1 + mu))

    bound = brentq(excess, 2.0, far)
    n = int(1.3 * bound / h)
    q = abs(displacements(ball, np.array([1.0]), [h] * n, gradient=lambda x: x)[:, 0])
    times = 1 + h * np.arange(n + 1)
    assert (q[times < bound] <= 1).all()
    grown = times[np.flatnonzero(q > 1)[0]]
    assert bound < grown < 1.3 * bound


def test_bound_of_the_exponential_example():
    """C = 1, η = 0.01, h = 5, L = 1: 2(1 + e^(-0.05)) = 0.0025 e^(0.01(t - 2.5)) at t = 737.8."""
    ball, t = HeavyBall(Exponential(0.01, 1.0)), 2.5 + 100 * math.log(2 * (1 + math.exp(-0.05)) / 0.0025)
    assert t == pytest.approx(737.8, abs=0.05)
    amplitude = ball.log_amplitude(t, 5.0)
    mu = math.exp(amplitude - ball.log_amplitude(t - 5, 5.0))
    assert math.exp(ball.log_step(t, 5.0, 5.0, amplitude)) == pytest.approx(2 * (1 + mu), rel=1e-13)


@pytest.mark.unchecked
def test_unknown_integrator():
    with pytest.raises(ConfigError, match="integrator='rk4' is unknown; choose one of slc, htvi, sv"):
        HeavyBall(Exponential(), "rk4")
