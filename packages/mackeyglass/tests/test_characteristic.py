import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mackeyglass import DDE, MackeyGlass
from mackeyglass.characteristic import characteristic_roots, generator, lambert_roots, unstable_roots
from mackeyglass.errors import ContinuationError
from mackeyglass.linearisation import Linearisation, equilibrium, jacobians, linearise_at
from sciml.errors import ConfigError, ShapeError
from scipy import linalg
from torch.autograd.functional import jacobian


def tanh_equation(a=1.0, b=-2.0, tau=1.5):
    return DDE(lambda x, y, p: -p.a * x + p.b * torch.tanh(y), ["tau"], {"a": a, "b": b, "tau": tau})


def ring(gain=-2.0, first=1.0, second=0.6):
    """Two neurons that inhibit each other, each after its own delay, and excite themselves after the first."""

    def rhs(x, y, z, p):
        return torch.stack(
            [
                -x[0] + 0.8 * torch.tanh(y[0]) + p.gain * torch.tanh(z[1]),
                -x[1] + 0.5 * torch.tanh(y[1]) + torch.tanh(z[0]),
            ]
        )

    return DDE(rhs, ["first", "second"], {"gain": gain, "first": first, "second": second}, dim=2)


def two_delays(a=1.0, b=-1.2, c=-0.9):
    return DDE(lambda x, y, z, p: -p.a * x + p.b * y + p.c * torch.sin(z), [1.0, 1.7], {"a": a, "b": b, "c": c})


def determinant(linear, values):
    decay = np.exp(-np.multiply.outer(values, linear.delays))
    matrices = np.multiply.outer(values, np.eye(linear.matrices.shape[1])) - np.tensordot(decay, linear.matrices, 1)
    return np.linalg.det(matrices)


def roots_by_newton(linear, left, right, height):
    """Roots in a rectangle from Newton's method on det Δ, started everywhere in it."""
    h, start = 1e-6, np.add.outer(np.linspace(left, right, 25), 1j * np.linspace(0, height, 60)).ravel()
    for _ in range(60):  # some of which go astray and overflow
        slope = (determinant(linear, start + h) - determinant(linear, start - h)) / (2 * h)
        step = determinant(linear, start) / slope
        start = start - step * np.minimum(1, 0.5 / np.abs(step))
    start = start[np.abs(determinant(linear, start)) < 1e-9]
    found = []
    for value in start:
        if left < value.real < right and -1e-9 < value.imag < height and all(abs(value - f) > 1e-5 for f in found):
            found.append(value)
    return np.array(found)


def winding_number(linear, left, right, height):
    """Number of roots in a rectangle around the real axis, by the argument principle."""
    corners = [left - 1j * height, right - 1j * height, right + 1j * height, left + 1j * height, left - 1j * height]
    path = np.concatenate([np.linspace(a, b, 4000) for a, b in itertools.pairwise(corners)])
    phase = np.unwrap(np.angle(determinant(linear, path)))
    assert np.abs(np.diff(phase)).max() < 0.5
    return round((phase[-1] - phase[0]) / (2 * np.pi))


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (7.0, [0.19797104 + 1.18154809j, -0.24609980 + 4.01968983j, -0.52317443 + 7.10210249j]),
        (9.65, [0.36947429 + 1.2091454j, -0.04143104 + 4.04337781j]),
    ],
)
def test_roots_of_the_mackey_glass_equation(n, expected):
    roots = characteristic_roots(MackeyGlass(n=n, tau=2.0), k=2 * len(expected))
    np.testing.assert_allclose(roots[::2], expected, rtol=0, atol=6e-9)
    np.testing.assert_array_equal(roots[1::2], roots[::2].conj())


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 3), st.floats(1.05, 6), st.floats(1.5, 40), st.floats(0.05, 8), st.floats(0.3, 3), st.booleans())
def test_roots_are_branches_of_lambert_w(gamma, ratio, n, gamma_tau, theta, positive):
    system = MackeyGlass(beta=ratio * gamma, gamma=gamma, n=n, tau=gamma_tau / gamma, theta=theta)
    state = None if positive else 0.0
    roots, exact = characteristic_roots(system, state, k=7), lambert_roots(system, state, k=7)
    np.testing.assert_allclose(roots, exact, rtol=0, atol=1e-10 * (gamma + np.abs(exact)).max())
    assert unstable_roots(system, state) == (lambert_roots(system, state, k=200).real > 0).sum()


def test_roots_scale_with_gamma():
    system = MackeyGlass(beta=0.25, gamma=0.1, n=8.0, tau=23.0, theta=1.7)
    np.testing.assert_allclose(
        characteristic_roots(system, k=9), 0.1 * characteristic_roots(system.scaled(), k=9), rtol=1e-13
    )


def test_the_origin_grows_where_production_exceeds_loss():
    assert characteristic_roots(MackeyGlass(beta=2.0), 0.0, k=1)[0].real > 0
    assert characteristic_roots(MackeyGlass(beta=0.9), 0.0, k=1)[0].real < 0


def test_eigenvalues_of_the_generator_converge_spectrally():
    linear, exact = linearise_at(MackeyGlass(n=9.65, tau=2.0)), lambert_roots(MackeyGlass(n=9.65, tau=2.0), k=1)[0]

    def error(nodes):
        return np.abs(linalg.eigvals(generator(linear, nodes)) - exact).min()

    assert error(4) > 1e-6
    assert error(8) < 1e-3 * error(4)
    assert error(16) < 1e-13


def test_generator_differentiates_exponentials():
    linear = Linearisation(np.random.default_rng(0).normal(size=(3, 2, 2)), np.array([0.0, 0.4, 1.3]))
    root, vector = 0.3 - 0.8j, np.array([1.0, 2.0 - 1j])
    nodes = 20
    theta = 1.3 * (np.cos(np.pi * np.arange(nodes + 1) / nodes) - 1) / 2
    mode = np.exp(root * theta)[:, None] * vector
    result = (generator(linear, nodes) @ mode.ravel()).reshape(-1, 2)
    np.testing.assert_allclose(result[1:], root * mode[1:], atol=1e-11)
    np.testing.assert_allclose(result[0], root * vector - linear.characteristic_matrix(root) @ vector, atol=1e-12)


@pytest.mark.parametrize("system", [tanh_equation(), ring(), two_delays()])
def test_roots_are_all_roots_in_a_half_plane(system):
    linear = linearise_at(system)
    left, right, height = -1.5, 3.0, 30.0
    roots = characteristic_roots(system, k=18)
    inside = roots[(roots.real > left) & (np.abs(roots.imag) < height)]
    assert len(inside) < len(roots)
    assert len(inside) == winding_number(linear, left, right, height)
    expected = roots_by_newton(linear, left, right, height)
    upper = inside[inside.imag >= 0]
    assert len(upper) == len(expected)
    for root in upper:
        assert np.abs(expected - root).min() < 1e-8
        assert np.linalg.svd(linear.characteristic_matrix(root), compute_uv=False)[-1] < 1e-12
    assert unstable_roots(system) == winding_number(linear, 1e-9, right, height)


def test_double_roots_are_repeated():
    pair = DDE(lambda x, y, p: -x - 2.0 * torch.tanh(y), [1.0], {}, dim=2)
    single = DDE(lambda x, y, p: -x - 2.0 * torch.tanh(y), [1.0], {})
    roots, exact = characteristic_roots(pair, k=8), lambert_roots(single, k=4)
    assert len(roots) == 8
    for root in exact:
        assert (np.abs(roots - root) < 1e-12).sum() == 2


def test_root_without_a_second_eigenvector_is_found():
    # x' = −x(t − 1)/e has the double root −1
    system = DDE(lambda x, y, p: -y / np.e, [1.0], {})
    roots = characteristic_roots(system, k=3)
    np.testing.assert_allclose(roots[:2], [-1, -1], atol=1e-7)
    assert roots[2].real < -2


def test_many_roots_and_long_delays():
    system = tanh_equation(1.0, -30.0, 12.0)
    np.testing.assert_allclose(characteristic_roots(system, k=60), lambert_roots(system, k=60), rtol=1e-11)


def test_without_delayed_influence_there_are_d_roots():
    system = DDE(lambda x, y, p: torch.stack([x[1], -x[0] - x[1] + y[0] ** 2]), [1.0], {}, dim=2)
    np.testing.assert_allclose(characteristic_roots(system, k=2)[0], -0.5 + np.sqrt(0.75) * 1j, rtol=1e-14)
    assert unstable_roots(system) == 0


def test_jacobians_are_those_of_automatic_differentiation():
    system = ring()
    x = torch.tensor([0.3, -0.7], dtype=torch.float64)
    # a constant solution has the same state at all times
    expected = jacobian(lambda *states: system.field(states[0], states[1:], system.parameters), (x, x, x))
    for a, b in zip(jacobians(system, x.numpy(), dict(system.parameters)), expected, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-14)
    slope = MackeyGlass(n=8.0, beta=1.7).equilibrium_slope()
    np.testing.assert_allclose(linearise_at(MackeyGlass(n=8.0, beta=1.7)).matrices.ravel(), [-1.0, slope], rtol=1e-13)


def test_equilibria_by_newtons_method():
    system = MackeyGlass(beta=3.0, gamma=0.7, n=6.5, theta=1.7)
    np.testing.assert_allclose(equilibrium(system, 1.5), system.positive_equilibrium(), rtol=1e-14)
    neurons = ring(gain=2.0)
    x = equilibrium(neurons, [1.0, 1.0])
    assert x.min() > 0.5
    value = neurons.field(torch.from_numpy(x), [torch.from_numpy(x)] * 2, neurons.parameters)
    assert value.abs().max() < 1e-14
    assert unstable_roots(neurons, x) == 0 < unstable_roots(neurons, [0.0, 0.0])


@pytest.mark.unchecked
def test_errors():
    with pytest.raises(ConfigError, match="no positive equilibrium for beta<=gamma"):
        characteristic_roots(MackeyGlass(beta=1.0))
    with pytest.raises(ConfigError, match=r"k=2\.5 must be a positive whole number"):
        characteristic_roots(MackeyGlass(), k=2.5)
    for find in (characteristic_roots, unstable_roots):
        with pytest.raises(ContinuationError, match="order of more than 1000; shorten them, or take lambert_roots"):
            find(MackeyGlass(n=6.0, tau=1000.0))
    with pytest.raises(ConfigError, match="k=0 must be"):
        characteristic_roots(MackeyGlass(), k=0)
    with pytest.raises(ConfigError, match="k=-1 must be"):
        lambert_roots(MackeyGlass(), k=-1)
    with pytest.raises(ConfigError, match=r"\[0.5\] is not an equilibrium"):
        characteristic_roots(MackeyGlass(), 0.5)
    with pytest.raises(ConfigError, match="nan"):
        characteristic_roots(MackeyGlass(), float("nan"))
    with pytest.raises(ShapeError, match=r"1 components, got an array of shape \(2,\)"):
        characteristic_roots(MackeyGlass(), [1.0, 1.0])
    with pytest.raises(ConfigError, match="one system, not a batch: n must be numbers"):
        characteristic_roots(MackeyGlass(n=torch.tensor([7.0, 8.0])))
    with pytest.raises(ConfigError, match="no closed form"):
        lambert_roots(ring())
    with pytest.raises(ConfigError, match="the only root is -1"):
        lambert_roots(DDE(lambda x, y, p: -x + y**2, [1.0], {}))
    with pytest.raises(ConfigError, match="overflows"):
        lambert_roots(MackeyGlass(tau=1000.0))
    with pytest.raises(ContinuationError, match="only 1 of k=3"):
        characteristic_roots(DDE(lambda x, y, p: -x + y**2, [1.0], {}), k=3)
    with pytest.raises(ContinuationError, match="no equilibrium"):
        equilibrium(DDE(lambda x, y, p: 1 + x**2 + y**2, [1.0], {}), 0.3)
