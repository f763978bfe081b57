"""Derivatives of functions and fields: exactness, convergence orders, agreement of the methods."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sciml._stencils import fornberg_weights
from sciml.derivatives import curl, divergence, gradient, hessian, jacobian, laplacian, partial
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import nn

EPS = torch.finfo(torch.float64).eps
X3 = torch.rand(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def vortex(p):
    x, y, z = p.unbind(-1)
    return torch.stack([y * z, x**2 * z, torch.sin(x) * y], dim=-1)


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_autograd_agrees_with_the_analytic_operators():
    x, y, z = X3.unbind(-1)
    exact_curl = torch.stack([x.sin() - x**2, y - x.cos() * y, 2 * x * z - z], dim=-1)
    close(curl(vortex, X3), exact_curl, 10 * EPS)
    close(divergence(vortex, X3), torch.zeros(7, 1).double(), 10 * EPS)
    close(laplacian(vortex, X3), torch.stack([0 * x, 2 * z, -x.sin() * y], dim=-1), 10 * EPS)
    scalar = lambda p: (p**3).prod(-1, keepdim=True)  # noqa: E731
    close(gradient(scalar, X3), 3 * scalar(X3) / X3, 100 * EPS)
    close(partial(scalar, X3, (1, 0, 2)), 18 * (x**2 * y**3 * z)[:, None], 100 * EPS)
    close(hessian(scalar, X3), hessian(scalar, X3).mT, 100 * EPS)
    assert jacobian(vortex, X3).shape == (7, 3, 3)
    plane = lambda p: torch.stack([-p[:, 1], p[:, 0]], -1)  # noqa: E731
    close(curl(plane, X3[:, :2]), torch.full((7, 1), 2.0).double(), EPS)


def test_derivatives_train_the_parameters_of_a_network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    def loss():
        return laplacian(net, X3).square().mean() + partial(net, X3, (1, 1, 0)).square().mean()

    loss().backward()
    weight = net[0].weight
    slope, h = weight.grad[2, 1].item(), 1e-5
    values = []
    for step in (h, -h):
        with torch.no_grad():
            weight[2, 1] += step
            values.append(loss().item())
            weight[2, 1] -= step
    assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("n", [15, 16])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("centering", ["node", "cell"])
def test_fourier_derivative_is_exact_for_resolved_modes(n, order, centering):
    length = 3.0
    grid = Grid.uniform(n, length, periodic=True, centering=centering, origin=0.3)
    x, k = grid.coords[:, 0], 2 * math.pi * 7 / length
    exact = k**order * torch.cos(k * x + order * math.pi / 2)
    u = torch.cos(k * x)[None, None]
    close(partial(u, grid, [order], method="spectral"), exact[None, None], 10 * n * EPS * k**order)


def test_odd_derivatives_of_the_nyquist_mode_vanish_and_even_ones_do_not():
    grid = Grid.uniform(8, 2 * math.pi, periodic=True)
    u = torch.cos(4 * grid.coords[:, 0])[None, None]
    close(partial(u, grid, [1], method="spectral"), torch.zeros_like(u), 1e2 * EPS)
    close(partial(u, grid, [2], method="spectral"), -16 * u, 1e3 * EPS)


@pytest.mark.parametrize("make", [Grid.chebyshev, Grid.gauss_legendre])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_polynomial_axes_differentiate_their_degree_exactly(make, order):
    n = 9
    grid = make(n, 2.0, origin=-0.5)
    p = np.polynomial.Polynomial(np.random.default_rng(0).normal(size=n))
    x = grid.coords[:, 0].numpy()
    values, exact = torch.tensor(p(x))[None, None], torch.tensor(p.deriv(order)(x))[None, None]
    scale = values.abs().max().item() * (n**2 * 2 / 2.0) ** order  # Markov: a derivative grows by n² at most
    close(partial(values, grid, [order], method="spectral"), exact, 10 * EPS * scale)


def wave(x, order=0):
    f, s, c = torch.exp(torch.sin(3 * x + 0.5)), torch.sin(3 * x + 0.5), torch.cos(3 * x + 0.5)
    return (f, 3 * c * f, 9 * (c * c - s) * f)[order]


@pytest.mark.parametrize(("order", "slope"), [(1, 4), (2, 3)])
@pytest.mark.parametrize("centering", ["node", "cell"])
def test_fourier_continuation_converges_at_the_order_of_its_polynomials(order, slope, centering):
    sizes = np.array([32, 64, 128, 256])
    errors = []
    for n in sizes:
        grid = Grid.uniform(int(n), centering=centering)
        u = wave(grid.coords[:, 0])[None, None]
        error = partial(u, grid, [order], method="spectral")[0, 0] - wave(grid.coords[:, 0], order)
        errors.append(error.abs().max().item())
    measured = np.polyfit(np.log(1 / sizes), np.log(errors), 1)[0]
    assert measured > slope - 0.25


@pytest.mark.parametrize("accuracy", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_finite_differences_are_exact_for_matching_degree_on_any_axis(order, accuracy):
    degree = order + accuracy - 1
    generator = np.random.default_rng(order)
    uneven = np.cumsum(generator.uniform(0.5, 1.5, size=14)) / 14
    p = np.polynomial.Polynomial(generator.normal(size=degree + 1))
    for grid in (
        Grid.from_coordinates(uneven),
        Grid.uniform(14),
        Grid.uniform(14, centering="cell"),
        Grid.chebyshev(9),
    ):
        x = grid.coords[:, 0].numpy()
        values, exact = torch.tensor(p(x))[None, None], torch.tensor(p.deriv(order)(x))[None, None]
        weights = 1e3 / float(np.diff(x).min()) ** order  # bounds the sum of the stencil's weights
        close(
            partial(values, grid, [order], method="finite-difference", accuracy=accuracy),
            exact,
            EPS * weights * np.abs(p(x)).max(),
        )


@pytest.mark.parametrize("accuracy", [2, 4, 6])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("periodic", [True, False])
def test_finite_differences_converge_with_their_accuracy(order, accuracy, periodic):
    sizes = np.array([64, 96, 128, 192])
    errors = []
    for n in sizes:
        grid = Grid.uniform(int(n), 2 * math.pi / 3, periodic=periodic)
        u = wave(grid.coords[:, 0])[None, None]
        error = partial(u, grid, [order], method="finite-difference", accuracy=accuracy)[0, 0]
        errors.append((error - wave(grid.coords[:, 0], order)).abs().max().item())
    measured = np.polyfit(np.log(1 / sizes), np.log(errors), 1)[0]
    assert measured > accuracy - 0.5


@pytest.mark.parametrize(
    ("order", "accuracy", "stencil"),
    [(1, 1, (0, -0.5, 0, 0.5, 0)), (2, 2, (0, 1, -2, 1, 0)), (2, 4, (-1 / 12, 4 / 3, -5 / 2, 4 / 3, -1 / 12))],
)
def test_stencils_are_centred_inside_a_uniform_axis(order, accuracy, stencil):
    grid = Grid.uniform(9, 2.0)
    impulses = torch.eye(9, dtype=torch.float64)[:, None]
    matrix = partial(impulses, grid, [order], method="finite-difference", accuracy=accuracy)[:, 0].mT
    expected = torch.tensor(stencil, dtype=torch.float64) / 0.25**order
    for i in range(2, 7):
        close(matrix[i, i - 2 : i + 3], expected, 1e2 * EPS / 0.25**order)
        assert torch.count_nonzero(matrix[i]) == np.count_nonzero(stencil)


def test_two_point_differences_take_the_nearer_neighbour():
    grid = Grid.from_coordinates([0.0, 1.0, 1.25, 2.25, 2.5])
    impulses = torch.eye(5, dtype=torch.float64)[:, None]
    matrix = partial(impulses, grid, [1], method="finite-difference", accuracy=1)[:, 0].mT
    assert torch.equal(matrix[1], matrix[2])
    assert torch.equal(matrix[2], torch.tensor([0.0, -4, 4, 0, 0], dtype=torch.float64))
    assert torch.equal(matrix[3], torch.tensor([0.0, 0, 0, -4, 4], dtype=torch.float64))


@settings(deadline=None, max_examples=40)
@given(order=st.integers(0, 4), extra=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_fornberg_weights_satisfy_the_moment_conditions(order, extra, seed):
    size = order + extra
    offsets = np.sort(np.random.default_rng(seed).uniform(-1, 1, (3, size)) + np.arange(size) * 2.5, axis=1)
    weights = fornberg_weights(offsets, order)
    for k in range(size):
        moments = (weights * offsets**k).sum(1)
        scale = (np.abs(weights) * np.abs(offsets) ** k).sum(1).max() + 1
        assert np.allclose(moments, math.factorial(order) if k == order else 0.0, atol=1e3 * EPS * scale, rtol=0)


def test_known_stencils():
    assert np.allclose(fornberg_weights(np.array([[-1.0, 0.0, 1.0]]), 2), [[1, -2, 1]])
    assert np.allclose(fornberg_weights(np.array([[0.0, 1.0, 2.0]]), 1), [[-1.5, 2, -0.5]])


@pytest.mark.parametrize("method", ["spectral", "finite-difference"])
def test_field_operators_agree_with_autograd(method):
    tau = 2 * math.pi
    grid = Grid.uniform(12, tau, periodic=True) * Grid.chebyshev(12) * Grid.uniform(11, tau, periodic=True)

    def f(p):
        x, y, z = p.unbind(-1)
        return torch.stack([x.sin() * y**2, z.cos() * y, x.cos() * z.sin() + y**3], -1)

    def on_grid(values):
        return values.unflatten(0, grid.shape).movedim((0, 1, 2), (-3, -2, -1))[None]

    points = grid.coords.reshape(-1, 3)
    u = on_grid(f(points))
    scalar, first = u[:, :1], lambda p: f(p)[:, :1]
    # 2nd derivatives on 12 Chebyshev nodes lose n^4 eps; 6th-order differences of sines err by h^6 k^8 / 140 a term
    tolerance = 1e-10 if method == "spectral" else 5e-3
    options = {"method": method, "accuracy": 6}
    close(divergence(u, grid, **options), on_grid(divergence(f, points)), tolerance)
    close(curl(u, grid, **options), on_grid(curl(f, points)), tolerance)
    close(laplacian(u, grid, **options), on_grid(laplacian(f, points)), tolerance)
    close(jacobian(u, grid, **options), on_grid(jacobian(f, points)), tolerance)
    close(hessian(u, grid, **options), on_grid(hessian(f, points)), tolerance)
    close(gradient(scalar, grid, **options), on_grid(gradient(first, points)), tolerance)


@pytest.mark.parametrize("method", ["spectral", "finite-difference"])
def test_field_derivatives_are_differentiable_and_keep_the_dtype(method):
    grid = Grid.uniform(6) * Grid.uniform(5, periodic=True)
    u = torch.randn(2, 1, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: laplacian(v, grid, method=method), (u,), atol=1e-3, eps=1e-4)
    assert laplacian(u.float(), grid, method=method).dtype == torch.float32


@pytest.mark.unchecked
def test_errors_say_what_to_do():
    grid = Grid.uniform(4)
    u = torch.zeros(1, 1, 4, dtype=torch.float64)
    with pytest.raises(ConfigError, match="choose 'spectral' or 'finite-difference'"):
        gradient(u, grid)
    with pytest.raises(ConfigError, match="a function takes method='autograd'"):
        gradient(vortex, X3, method="spectral")
    with pytest.raises(ConfigError, match=r"pass grid\.coords\.reshape"):
        gradient(vortex, grid)
    with pytest.raises(ConfigError, match="Use method='finite-difference'"):
        gradient(u, grid, method="spectral")
    with pytest.raises(ConfigError, match="needs 5 nodes"):
        gradient(u, grid, method="finite-difference", accuracy=4)
    with pytest.raises(ShapeError, match="gradient takes 1 channel"):
        gradient(vortex, X3)
    with pytest.raises(ShapeError, match=r"must return \(n, c\)"):
        gradient(lambda p: p.sum(-1), X3)
    with pytest.raises(ShapeError, match="2 and 3 dimensions"):
        curl(u, grid, method="finite-difference")
    with pytest.raises(ConfigError, match="give 1 numbers"):
        partial(u, grid, [1, 0], method="spectral")


@pytest.mark.parametrize("n", [64, 256, 1024])
def test_fourier_continuation_in_single_precision_is_limited_by_the_rounding_of_the_data(n):
    grid = Grid.uniform(n, dtype=torch.float32)
    x = grid.coords[:, 0]
    error = (partial(torch.exp(x)[None, None], grid, [1], method="spectral")[0, 0] - torch.exp(x)).abs().max()
    assert error <= 100 * torch.finfo(torch.float32).eps * n


def test_high_spectral_derivatives_lose_digits_to_rounding():
    def error(grid, order):
        exact = grid.coords[:, 0].exp()
        return (partial(exact[None, None], grid, [order], method="spectral")[0, 0] - exact).abs().max().item()

    assert all(1e-6 < error(Grid.uniform(n), 2) < 1e-4 for n in (64, 128, 256))
    assert error(Grid.uniform(64), 3) < error(Grid.uniform(256), 3) < error(Grid.uniform(1024), 3)
    assert error(Grid.chebyshev(256), 4) > 1


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("grid", "method", "fullgraph"),
    [
        (Grid.uniform(16), "spectral", False),
        (Grid.uniform(16), "finite-difference", False),
        (Grid.chebyshev(16), "spectral", False),
        (Grid.uniform(16, periodic=True), "spectral", True),
    ],
)
def test_field_derivatives_compile_in_one_graph_where_they_need_no_table(grid, method, fullgraph):
    u = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(0))

    def slope(v):
        return gradient(v, grid, method=method)

    assert (torch._dynamo.explain(slope)(u).graph_break_count == 0) == fullgraph
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(slope, backend="aot_eager", fullgraph=fullgraph)(u), slope(u))
