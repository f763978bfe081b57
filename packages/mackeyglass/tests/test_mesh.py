import numpy as np
import pytest
from mackeyglass.mesh import Mesh
from sciml.errors import ConfigError


@pytest.mark.parametrize("degree", [2, 4, 7])
def test_polynomials_of_the_degree_and_their_derivatives_are_exact(degree):
    mesh = Mesh(np.array([0.0, 0.1, 0.35, 0.8, 1.0]), degree)
    times = np.linspace(0.001, 0.999, 37)
    stencil = mesh.stencil(times)
    polynomial = np.polynomial.Polynomial(np.arange(1.0, degree + 2))
    stored = polynomial(mesh.points)[:, None]
    for order in (0, 1, 2):
        exact = (polynomial.deriv(order) if order else polynomial)(times)
        np.testing.assert_allclose(stencil.apply(stored, order)[:, 0], exact, rtol=1e-11, atol=1e-9)
    assert mesh.interpolate(stored, mesh.points) == pytest.approx(stored, abs=1e-12)


def test_times_beyond_the_period_are_wrapped_and_counted():
    mesh = Mesh.uniform(6, 4)
    stored = np.cos(2 * np.pi * mesh.points)[:, None]
    times = np.array([-1.7, -0.2, 0.3, 1.0, 2.4])
    stencil = mesh.stencil(times)
    assert stencil.wraps.tolist() == [-2, -1, 0, 1, 2]
    np.testing.assert_allclose(stencil.apply(stored)[:, 0], np.cos(2 * np.pi * times), atol=1e-4)


def test_quadratures():
    mesh = Mesh(np.array([0.0, 0.2, 0.3, 1.0]), 3)
    assert mesh.gauss_weights @ mesh.gauss_points**5 == pytest.approx(1 / 6, abs=1e-15)
    assert mesh.measure.sum() == pytest.approx(1, abs=1e-15)
    assert mesh.measure @ mesh.points == pytest.approx(0.5, abs=1e-15)
    functions = mesh.gauss_points[:, None] ** np.arange(3)
    integrals = np.tensordot(mesh.integral_rows(functions), mesh.points[:, None] ** np.arange(4), (0, 0))
    np.testing.assert_allclose(integrals, 1 / (1 + np.add.outer(np.arange(3), np.arange(4))), rtol=0, atol=1e-15)


def test_adapted_meshes_crowd_where_the_profile_is_steep_and_reduce_its_error():
    def profile(t):
        return np.tanh(30 * np.cos(2 * np.pi * t))[:, None]

    def error(mesh):
        times = np.linspace(0, 1, 2000)
        return np.abs(mesh.interpolate(profile(mesh.points), times) - profile(times)).max()

    mesh = Mesh.uniform(40, 4)
    adapted = mesh
    for _ in range(4):
        adapted = adapted.adapted(profile(adapted.points))
    assert adapted.intervals == 40
    assert error(adapted) < error(mesh) / 100
    near = np.abs(adapted.knots - 0.25).argmin()
    assert adapted.steps[near] < 0.3 / 40
    assert mesh.adapted(np.ones((161, 1))) is mesh


def test_intervals_where_a_profile_is_flat_stay_within_a_twentieth_of_the_density():
    def pulse(t):
        return np.exp(-((t - 0.5) ** 2) / 2e-4)[:, None]

    mesh = Mesh.uniform(40, 4)
    for _ in range(6):
        mesh = mesh.adapted(pulse(mesh.points))
    # the floor takes at least 1/20 of the largest density, so all of [0, 1] but the pulse at least this many intervals
    flat = ((mesh.knots[:-1] < 0.4) | (mesh.knots[1:] > 0.6)).sum()
    assert 8 <= flat < 30
    assert mesh.steps.max() < 0.12
    assert mesh.steps.max() / mesh.steps.min() < 21


def test_doubled_mesh_holds_two_copies():
    mesh = Mesh(np.array([0.0, 0.2, 0.7, 1.0]), 3)
    x = np.sin(2 * np.pi * mesh.points)
    doubled = mesh.doubled()
    twice = np.concatenate([x, x[1:]])[:, None]
    times = np.linspace(0, 0.499, 20)
    assert doubled.interpolate(twice, times) == pytest.approx(mesh.interpolate(x[:, None], 2 * times), abs=1e-13)
    assert doubled.interpolate(twice, times + 0.5) == pytest.approx(mesh.interpolate(x[:, None], 2 * times), abs=1e-12)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("knots", "degree"), [([0, 1], 4), ([0.0, 0.5, 0.4, 1.0], 4), ([0, 0.5, 2], 4), ([0, 0.5, 1], 1)]
)
def test_errors(knots, degree):
    with pytest.raises(ConfigError, match=r"knots of a mesh|degree must lie"):
        Mesh(np.array(knots, dtype=float), degree)
