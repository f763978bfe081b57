"""The energy of the extended phase space: conserved as far as a symplectic method of order 2 conserves it."""

import numpy as np
import pytest
from symplectic_opt import (
    Adaptive,
    Exponential,
    Monitor,
    Polynomial,
    growing_steps,
    matched_rate,
    step_slc,
)
from symplectic_opt.energy import extended_energy, initial_time_momentum, step_slc_extended

SYSTEMS = [
    Polynomial(2.0, 0.25),
    Exponential(1.0, 0.25),
    growing_steps(Polynomial(4.0, 0.1), 2.0),
    matched_rate(Exponential(0.5, 0.25), 2.0),
    Adaptive(Exponential(0.5, 0.25), Monitor(lambda t: 1 + 1 / t)),
]
START = np.array([1.0, -0.5, 0.7])


def name(system):
    return type(system).__name__ + (f"-{type(system.clock).__name__}" if isinstance(system, Adaptive) else "")


def f(q):
    return np.cosh(q).sum(-1) + q.sum(-1) ** 2 / 2


def gradient(q):
    return np.sinh(q) + q.sum()


def drift_of_energy(system, n, length=0.5):
    """The largest |H̄| on the way, relative to g H."""
    q, r, t = START, np.zeros(3), 1.0
    r_t, largest = initial_time_momentum(system, q, r, t, f), 0.0
    assert extended_energy(system, q, r, t, r_t, f) == pytest.approx(0, abs=1e-15)
    for _ in range(n):
        q, r, t, r_t = step_slc_extended(system, q, r, t, r_t, length / n, f, gradient)
        error = extended_energy(system, q, r, t, r_t, f) / system.hamiltonian(q, r, t, f)
        largest = max(largest, abs(error))
    return largest


@pytest.mark.parametrize("system", SYSTEMS, ids=name)
def test_slopes_are_derivatives(system):
    t, e = 1.7, 1e-5
    for slope, rate in zip(
        system.log_slopes(t), (system.log_drift, system.log_kick, system.log_time_rate), strict=True
    ):
        assert slope == pytest.approx((rate(t + e) - rate(t - e)) / (2 * e), abs=1e-9)


@pytest.mark.parametrize("system", SYSTEMS, ids=name)
def test_momentum_of_time_does_not_act(system):
    q, r, t = START, np.array([0.1, 0.4, -0.3]), 1.2
    expected = step_slc(system, q, r, t, 0.1, gradient)
    found = step_slc_extended(system, q, r, t, 123.0, 0.1, f, gradient)
    assert (found[0] == expected[0]).all()
    assert (found[1] == expected[1]).all()
    assert found[2] == expected[2]


@pytest.mark.parametrize("system", SYSTEMS[:4], ids=name)
def test_extended_step_is_symplectic(system):
    """In (q, t, r, rᵗ), by complex steps."""
    z, columns = np.array([0.3, -0.2, 0.5, 1.2, 0.1, 0.4, -0.3, -0.6], dtype=complex), []
    for i in range(8):
        moved = z.copy()
        moved[i] += 1e-30j
        q, r, t, r_t = step_slc_extended(system, moved[:3], moved[4:7], moved[3], moved[7], 0.1, f, gradient)
        columns.append(np.r_[q, t, r, r_t].imag / 1e-30)
    M, J = np.stack(columns, axis=1), np.block([[np.zeros((4, 4)), np.eye(4)], [-np.eye(4), np.zeros((4, 4))]])
    assert abs(M.T @ J @ M - J).max() <= 1e-14 * abs(M).max() ** 2


@pytest.mark.parametrize("system", SYSTEMS, ids=name)
def test_energy_is_conserved_to_order_two(system):
    errors = [drift_of_energy(system, n) for n in (100, 200)]
    assert errors[1] < 1e-4
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)
