"""The classical methods: their limits, bounds and equivalence."""

import numpy as np
import pytest
from scipy.special import jv
from symplectic_opt import Exponential, HeavyBall, Polynomial
from symplectic_opt.baselines import step_momentum, step_nag, step_rate_matching

A = np.diag(np.logspace(-3, 0, 20))


def gradient(x):
    return A @ x


def test_three_sequences_are_nesterovs_method():
    x = y = first = z = np.random.default_rng(0).standard_normal(20)
    k = 0
    for _ in range(200):
        first, z, _ = step_rate_matching(first, z, k, 0.9, gradient)
        x, y, k = step_nag(x, y, k, 0.9, gradient)
        assert abs(x - first).max() <= 1e-12


def test_nesterovs_method_keeps_its_bound():
    start = np.random.default_rng(0).standard_normal(20)
    x, y, k = start, start, 0
    while k < 300:
        x, y, k = step_nag(x, y, k, 1.0, gradient)
        assert x @ A @ x / 2 <= 2 * start @ start / (k + 1) ** 2


def test_nesterovs_method_tends_to_the_polynomial_member_two():
    """Its iterates at time k √lr, from rest at time zero, where x = 2 J₁(t)/t for f = ½x². The error is O(√lr)."""
    system, errors = Polynomial(2.0, 0.25), []
    for n in (400, 800, 1600):
        h, x, y, k = 6 / n, 1.0, 1.0, 0
        while k < n:
            x, y, k = step_nag(x, y, k, h**2, lambda x: x)
        exact = system.exact_quadratic(1.0, 1.0, 2 * jv(1, 1.0), -2 * jv(2, 1.0), 6.0)
        errors.append(abs(x - exact))
    assert exact == pytest.approx(jv(1, 6.0) / 3, rel=1e-12)
    assert np.log2(errors[1] / errors[2]) == pytest.approx(1, abs=0.05)


def test_momentum_is_the_exponential_member_with_its_growth_frozen():
    """μ = e^(-ηh), and the step is s(t) at one time."""
    ball, t, h, eta = HeavyBall(Exponential(0.1, 0.5)), 3.0, 0.4, 0.1
    amplitude = ball.log_amplitude(t, h)
    mu, s = np.exp(amplitude - ball.log_amplitude(t - h, h)), np.exp(ball.log_step(t, h, h, amplitude))
    assert mu == pytest.approx(np.exp(-eta * h), rel=1e-13)
    q, delta = step_momentum(np.array([1.0, 2.0]), np.array([0.3, -0.1]), s, mu, lambda q: q)
    assert q == pytest.approx(np.array([1.0, 2.0]) * (1 - s) + mu * np.array([0.3, -0.1]))
    assert delta == pytest.approx(q - np.array([1.0, 2.0]))


def test_momentum_converges_at_the_rate_of_its_parameters():
    """With Polyak's choice for curvatures in [m, L] the distance falls as √μ^k up to a factor k."""
    m, L = 1e-3, 1.0
    lr, mu = 4 / (L**0.5 + m**0.5) ** 2, ((L**0.5 - m**0.5) / (L**0.5 + m**0.5)) ** 2
    q, delta, norms = np.random.default_rng(0).standard_normal(20), np.zeros(20), []
    for _ in range(800):
        q, delta = step_momentum(q, delta, lr, mu, gradient)
        norms.append(np.linalg.norm(q))
    assert np.log(norms[799] / norms[399]) / 400 == pytest.approx(np.log(mu) / 2, abs=np.log(2) / 400 + 1e-3)
