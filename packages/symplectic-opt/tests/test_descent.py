"""When momentum is forgotten and time set back."""

import math

import pytest
import torch
from symplectic_opt import Descent, Exponential, HeavyBall, Polynomial

F64 = torch.float64


def test_velocity_restarts_wait_for_two_displacements():
    descent = Descent(HeavyBall(Exponential()), restart="velocity", looping=False)
    state, _ = descent.first(4.0, 1.0, 1.0)
    state, move = descent.next(state._replace(speed=9.0), 4.0, 0.0, 1.0, 1.0, 1.0)
    assert move.mu > 0  # one displacement alone
    state, move = descent.next(state._replace(speed=9.0), 4.0, 0.0, 1.0, 1.0, 1.0)
    assert (move.mu, state.restarts) == (0, 1)
    state, move = descent.next(state._replace(speed=9.0), 4.0, 0.0, 1.0, 1.0, 1.0)
    assert move.mu > 0


def test_a_restart_keeps_the_clock():
    descent = Descent(HeavyBall(Exponential()), looping=False)
    state, _ = descent.first(4.0, 1.0, 1.0)
    for slope in (-1.0, 1.0, -1.0, 1.0):
        state, move = descent.next(state, 4.0, slope, 1.0, 1.0, 1.0)
        assert (move.mu == 0) == (slope > 0)
    assert (state.t, state.restarts) == (17.0, 2)


def test_time_is_set_back_no_further_than_its_least():
    descent = Descent(HeavyBall(Polynomial()), beta=0.5, t_min=0.8)
    state, _ = descent.first(0.25, 1.0, 1.0)
    state, _ = descent.next(state, 0.25, -1.0, 1e9, 1.0, 1.0)
    assert (state.t, state.loops) == (0.8 + 0.25, 1)


@pytest.mark.parametrize("test", ["paper", "consistent"])
@pytest.mark.parametrize("system", [Exponential(0.05, 2.0), Polynomial(4.0, 0.3)])
def test_tests_of_instability(system, test):
    t, h = 3.0, 0.5
    factor = math.exp(HeavyBall(system).log_loop_factor(test, t, h))
    if test == "consistent":  # the step that the next kick makes
        expected = h**2 * system.kick(t + h) * system.drift(t + 1.5 * h)
    elif isinstance(system, Exponential):
        expected = 2.0 * h**2 * 0.05**2 * math.exp(0.05 * (t - h))
    else:
        expected = 0.3 * h**2 * 4**2 * (t + h) ** 5 / t
    assert factor == pytest.approx(expected, rel=1e-13)


def bravo(gradient, x0, family, *, rate, C, h, beta, steps):
    """The authors' stochastic optimizer: kick, drift, time, then restart and loop with the gradient of the kick."""
    q, r, t = x0.clone(), torch.zeros_like(x0), 1.0
    points = []
    for _ in range(steps):
        G = gradient(q)
        if family == "expo":
            r = r - h * C * rate * math.exp(2 * rate * t) * G
            delta = h * rate * math.exp(-rate * (t + h / 2)) * r
            unstable = C * h**2 * rate**2 * math.exp(rate * (t - h)) * G.norm() > delta.norm()
        else:
            r = r - h * C * rate * t ** (2 * rate - 1) * G
            delta = h * rate * (t + h / 2) ** (-rate - 1) * r
            unstable = C * h**2 * rate**2 * (t + h) ** (rate + 1) * G.norm() > t * delta.norm()
        q = q + delta
        if G @ delta > 0:
            r = torch.zeros_like(r)
        t = t + h
        t = max(1e-3, beta * t) if unstable else t
        points.append(q)
    return torch.stack(points)


@pytest.mark.parametrize(
    ("family", "system", "rate", "C", "h"),
    [("expo", Exponential(0.02, 0.5), 0.02, 0.5, 6.0), ("poly", Polynomial(6.0, 0.1), 6.0, 0.1, 0.25)],
)
def test_order_of_the_stochastic_optimizers(family, system, rate, C, h):
    scale = torch.logspace(-2, 0, 12, dtype=F64)
    x0 = torch.randn(12, dtype=F64, generator=torch.Generator().manual_seed(0))
    expected = bravo(lambda x: scale * x, x0, family, rate=rate, C=C, h=h, beta=0.8, steps=80)
    descent = Descent(HeavyBall(system), order="bravo")
    x, points, state = x0, [], None
    delta = torch.zeros_like(x0)
    for _ in range(80):
        G = scale * x
        if state is None:
            state, move = descent.first(h, float(G.norm()), 0.0)
        else:
            state, move = descent.next(state, h, float(G @ delta), float(G.norm()), float(delta.norm()), 0.0)
        delta = move.mu * delta - math.exp(move.log_step) * G
        x = x + delta
        points.append(x)
    assert state.restarts > 3
    assert state.loops > 3
    assert (torch.stack(points) - expected).abs().amax() <= 1e-12


@pytest.mark.parametrize("order", ["canonical", "bravo"])
@pytest.mark.parametrize("system", [Exponential(0.05), Polynomial(4.0, 0.1)])
def test_without_force_the_clock_stands_and_friction_acts(system, order):
    """As long as no force acts every step has the friction of the next one, and steps may change."""
    descent = Descent(HeavyBall(system), restart=None, order=order)
    state, _ = descent.first(0.5, 1e-6, 1.0)
    state, _ = descent.next(state, 0.5, 0.0, 1e-6, 1.0, 1.0)
    state, _ = descent.next(state, 0.5, 0.0, 0.0, 1.0, 1.0)
    t = state.t
    for h_before, h in ((0.5, 0.5), (0.5, 0.3), (0.3, 0.4), (0.4, 0.4)):
        state, move = descent.next(state, h, 0.0, 0.0, 1.0, 1.0)
        a, b = (system.drift(x) for x in (t + h_before / 2, t + h_before + h / 2))
        if order == "bravo":
            a, b = a**2 / system.drift(t + 1.5 * h_before), system.drift(t + h / 2)
        assert move.mu == pytest.approx(b / a * h / h_before, rel=1e-13)
        assert move.log_step == -math.inf
        assert state.t == t
    state, move = descent.next(state, 0.4, -1.0, 1e-9, 1.0, 1.0)
    assert state.t == pytest.approx(t + 0.4)
    assert move.log_step > -math.inf


@pytest.mark.parametrize("order", ["canonical", "bravo"])
def test_without_force_displacements_shrink_after_loops_too(order):
    descent = Descent(HeavyBall(Exponential(0.02)), restart=None, loop_test="consistent", order=order)
    state, _ = descent.first(1.0, 1e-9, 1.0)
    before = state.loops
    for _ in range(60):
        state, _ = descent.next(state, 1.0, 0.0, 1e-9, 1.0, 1.0)
    state, _ = descent.next(state, 1.0, 0.0, 1.0, 0.0, 1.0)
    assert state.loops == before + 1
    state, _ = descent.next(state, 1.0, 0.0, 0.0, 1.0, 1.0)
    for _ in range(3):
        state, move = descent.next(state, 1.0, 0.0, 0.0, 1.0, 1.0)
        assert move.mu == pytest.approx(math.exp(-0.02), rel=1e-13)


def test_without_looping_time_goes_on():
    descent = Descent(HeavyBall(Exponential()), looping=False)
    state, _ = descent.first(4.0, 0.0, 1.0)
    for _ in range(10):
        state, move = descent.next(state, 4.0, 0.0, 0.0, 1.0, 1.0)
    assert (state.t, move.log_step) == (41.0, -math.inf)


def test_tensors_decide_as_numbers():
    single = Descent(HeavyBall(Polynomial(6.0, 0.1)))
    many = Descent(HeavyBall(Polynomial(torch.full((3,), 6.0, dtype=F64), torch.full((3,), 0.1, dtype=F64))))
    h = torch.full((3,), 0.2, dtype=F64)
    one, _ = single.first(0.2, 1.0, 1.0)
    cells, _ = many.first(h, torch.ones_like(h), torch.ones_like(h))
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        slope, norm, speed = (float(x) for x in torch.randn(3, generator=generator))
        given = (slope, abs(norm), abs(speed), 1.0)
        one, move = single.next(one, 0.2, *given)
        cells, moves = many.next(cells, h, *(x * torch.ones_like(h) for x in given))
        assert torch.allclose(moves.mu, torch.full_like(h, move.mu), rtol=1e-13)
        assert torch.allclose(moves.log_step, torch.full_like(h, move.log_step), rtol=1e-13)
        assert all(torch.allclose(x, torch.full_like(h, y), rtol=1e-13) for x, y in zip(cells, one, strict=True))
    assert one.loops > 3
    assert one.restarts > 3
