"""Quadrature, norms and interpolation of grids and point clouds, stated as mathematics."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid, PointCloud
from torch.utils._python_dispatch import TorchDispatchMode

EPS = torch.finfo(torch.float64).eps


def cosines(x, coefficients, period):
    """Sum of a_k cos(2 pi k x / L) + b_k sin(2 pi k x / L)."""
    return sum(
        a * torch.cos(2 * math.pi * k * x / period) + b * torch.sin(2 * math.pi * k * x / period)
        for k, (a, b) in enumerate(coefficients)
    )


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 24), start=st.floats(-2, 2), length=st.floats(0.2, 3))
@pytest.mark.parametrize(
    ("make", "degree"),
    [(Grid.chebyshev, lambda n: n - 1), (Grid.gauss_legendre, lambda n: 2 * n - 1), (Grid.uniform, lambda n: 1)],
)
def test_quadrature_is_exact_up_to_its_degree(make, degree, n, start, length):
    grid = make(n, length, origin=start)
    t = (grid.coords[..., 0] - start) / length
    for k in range(degree(n) + 1):
        integral = grid.integrate((t**k)[None, None]).item()
        assert integral == pytest.approx(length / (k + 1), rel=1e3 * n * EPS)
    assert (grid.weights > 0).all()


@pytest.mark.parametrize(("centering", "n"), [("node", 9), ("cell", 9), ("node", 8), ("cell", 1)])
def test_periodic_quadrature_is_exact_below_the_sampling_frequency(centering, n):
    grid = Grid.uniform(n, 3.0, periodic=True, centering=centering, origin=0.4)
    for k in range(1, n):
        mode = torch.cos(2 * math.pi * k * grid.coords[..., 0] / 3.0 + 0.3)
        assert abs(grid.integrate(mode[None, None]).item()) < 30 * n * EPS
    assert grid.weights.sum().item() == pytest.approx(3.0)


def test_trapezoidal_rule_converges_with_order_two():
    sizes = np.array([17, 33, 65, 129])
    errors = []
    for n in sizes:
        grid = Grid.uniform(int(n))
        errors.append(abs(grid.integrate(grid.coords[..., 0].exp()[None, None]).item() - (math.e - 1)))
    slope = np.polyfit(np.log(1 / (sizes - 1)), np.log(errors), 1)[0]
    assert slope == pytest.approx(2, abs=0.05)


def test_product_weights_and_coordinates_are_tensor_products():
    x, y = Grid.chebyshev(5, 2.0), Grid.uniform(4, 3.0, periodic=True)
    grid = x * y
    assert grid.shape == (5, 4)
    assert grid.periodic == (False, True)
    assert grid.coords.shape == (5, 4, 2)
    torch.testing.assert_close(grid.weights, torch.outer(x.weights, y.weights))
    assert torch.equal(grid.coords[:, 0, 0], x.coords[:, 0])
    assert torch.equal(grid.coords[0, :, 1], y.coords[:, 0])


def test_norms_are_those_of_the_function_at_every_resolution():
    for n in (8, 16, 33):
        grid = Grid.uniform((n, n), (2 * math.pi, 1.0), periodic=True)
        u = torch.sin(grid.coords[..., 0]).expand(2, 3, n, n)
        torch.testing.assert_close(grid.norm(u), torch.full((2,), math.sqrt(3 * math.pi)).double())
        torch.testing.assert_close(grid.inner(u, 2 * u), torch.full((2,), 6 * math.pi).double())
        torch.testing.assert_close(grid.sobolev_norm(u), torch.full((2,), math.sqrt(6 * math.pi)).double())
        torch.testing.assert_close(grid.sobolev_norm(u, 2), torch.full((2,), math.sqrt(9 * math.pi)).double())
    line = Grid.gauss_legendre(6)
    u = line.coords[..., 0][None, None]
    assert line.norm(u, 4).item() == pytest.approx(5**-0.25)
    assert line.norm(u, math.inf).item() == pytest.approx(line.coords.max().item())


@pytest.mark.parametrize("p", [1, 2, 3, 7.5, math.inf])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-38), (torch.float32, 1e37), (torch.float64, 1e-300)])
def test_norms_neither_underflow_nor_overflow(p, dtype, scale):
    u = torch.linspace(-1, 2, 15, dtype=dtype)
    eps = 100 * torch.finfo(dtype).eps
    for domain, field in ((Grid.uniform(15), u[None, None]), (PointCloud(u[:, None]), u[None, :, None])):
        small = (scale * field).requires_grad_()
        norm = domain.norm(small, p)
        torch.testing.assert_close(norm / scale, domain.norm(field, p), rtol=eps, atol=0)
        slope = torch.autograd.grad(norm.sum(), small)[0]  # homogeneous of degree 0
        expected = torch.autograd.grad(domain.norm(field.requires_grad_(), p).sum(), field)[0]
        torch.testing.assert_close(slope, expected, rtol=eps, atol=eps)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_sobolev_norms_neither_underflow_nor_overflow(scale):
    u = torch.linspace(-1, 2, 16)
    cloud, grid = PointCloud(u[:, None]), Grid.uniform(16)
    for norm, field in ((cloud.sobolev_norm, u[None, :, None]), (grid.sobolev_norm, u[None, None])):
        torch.testing.assert_close(norm(scale * field) / scale, norm(field), rtol=1e-5, atol=0)


@pytest.mark.parametrize("p", [1, 2, 3, math.inf])
def test_gradients_of_norms_are_exact_and_zero_at_zero(p):
    line = Grid.chebyshev(5)
    u = torch.randn(2, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: line.norm(v, p), (u,))
    assert torch.autograd.gradgradcheck(lambda v: line.norm(v, p), (u,))
    zero = torch.zeros_like(u, requires_grad=True)
    for norm in (line.norm(zero, p), line.sobolev_norm(zero)):
        assert torch.equal(torch.autograd.grad(norm.sum(), zero)[0], torch.zeros_like(zero))


def test_norms_of_fields_that_are_not_finite_are_not_finite():
    grid = Grid.uniform(4)
    assert grid.norm(torch.tensor([[[1.0, math.inf, 0.0, 1.0]]])).item() == math.inf
    assert math.isnan(grid.norm(torch.tensor([[[1.0, math.nan, 0.0, 1.0]]])).item())


def test_inner_product_of_complex_fields_is_hermitian_and_positive():
    grid = Grid.uniform(8, 2.0, periodic=True)
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(1, 2, 8, dtype=torch.complex128, generator=generator) for _ in range(2))
    assert grid.inner(1j * torch.ones_like(u), 1j * torch.ones_like(u)).item() == pytest.approx(4.0)
    torch.testing.assert_close(grid.inner(u, v), grid.inner(v, u).conj())
    torch.testing.assert_close(grid.inner(u, 1j * v), 1j * grid.inner(u, v))
    torch.testing.assert_close(grid.norm(u) ** 2, grid.inner(u, u).real)
    torch.testing.assert_close(PointCloud(grid.coords, grid.weights).inner(u.mT, v.mT), grid.inner(u, v))


@pytest.mark.unchecked
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_fields_of_integers_are_refused(dtype):
    grid = Grid.uniform(5)
    u = torch.ones(1, 1, 5, dtype=dtype)
    for domain, field in ((grid, u), (PointCloud(grid.coords), u.mT)):
        for use in (domain.integrate, domain.norm, lambda v, d=domain: d.inner(v, v), domain.sobolev_norm):
            with pytest.raises(ShapeError, match=f"A field of {dtype} was given.*convert it to float"):
                use(field)
        with pytest.raises(ShapeError, match="convert it to float"):
            domain.interpolate(field, grid)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 13),
    m=st.integers(1, 13),
    centering=st.sampled_from(["node", "cell"]),
    start=st.floats(-1, 1),
    seed=st.integers(0, 1000),
)
def test_fourier_interpolation_is_exact_for_resolved_modes(n, m, centering, start, seed):
    coefficients = np.random.default_rng(seed).normal(size=((n - 1) // 2 + 1, 2))
    source = Grid.uniform(n, 1.7, periodic=True, centering=centering, origin=start)
    target = Grid.uniform(m, 1.7, periodic=True)
    u = cosines(source.coords[..., 0], coefficients, 1.7)[None, None]
    exact = cosines(target.coords[..., 0], coefficients, 1.7)[None, None]
    torch.testing.assert_close(source.interpolate(u, target), exact, atol=1e4 * EPS, rtol=0)


@pytest.mark.parametrize("n", [2, 4, 8])
@pytest.mark.parametrize("m", [3, 4, 7, 16])
def test_nyquist_mode_becomes_the_cosine(n, m):
    source, target = Grid.uniform(n, 2.0, periodic=True), Grid.uniform(m, 2.0, periodic=True)
    u = torch.cos(math.pi * n / 2 * source.coords[..., 0] * 2 / 2)[None, None]
    exact = torch.cos(math.pi * n / 2 * target.coords[..., 0])[None, None]
    torch.testing.assert_close(source.interpolate(u, target), exact, atol=1e3 * EPS, rtol=0)


@pytest.mark.parametrize(("n", "m"), [(8, 16), (7, 15), (7, 12), (8, 13)])
def test_refining_and_returning_is_the_identity(n, m):
    coarse, fine = Grid.uniform((n, 5), periodic=True), Grid.uniform((m, 10), periodic=True)
    u = torch.randn(2, 3, n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    up = coarse.interpolate(u, fine)
    torch.testing.assert_close(fine.interpolate(up, coarse), u, atol=1e4 * EPS, rtol=0)


@pytest.mark.parametrize("make", [Grid.chebyshev, Grid.gauss_legendre])
def test_polynomial_axes_interpolate_their_degree_exactly(make):
    source = make((6, 5), (2.0, 1.0), origin=(-1.0, 0.0))
    points = torch.rand(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    points[:, 1] = points[:, 1].abs()

    def f(x):
        return (x[..., 0] ** 5 - x[..., 0]) * (1 + x[..., 1] ** 4)

    values = source.interpolate(f(source.coords)[None, None], points)
    assert values.shape == (1, 40, 1)
    torch.testing.assert_close(values[0, :, 0], f(points), atol=1e4 * EPS, rtol=0)


@pytest.mark.parametrize("centering", ["node", "cell"])
def test_multilinear_interpolation_reproduces_multilinear_functions_up_to_the_walls(centering):
    source = Grid.uniform((4, 5, 3), (1.0, 2.0, 1.0), centering=centering)
    target = Grid.uniform((7, 3, 6), (1.0, 2.0, 1.0))

    def f(x):
        return (1 + x[..., 0]) * (2 - x[..., 1]) * (x[..., 2] - 3)

    values = source.interpolate(f(source.coords)[None, None], target)
    torch.testing.assert_close(values, f(target.coords)[None, None], atol=1e3 * EPS, rtol=0)
    scattered = source.interpolate(f(source.coords)[None, None], target.coords.reshape(-1, 3))
    torch.testing.assert_close(scattered[0, :, 0], values.flatten(), atol=1e3 * EPS, rtol=0)


def test_interpolation_is_differentiable_and_linear():
    grid = Grid.uniform(4, periodic=True) * Grid.chebyshev(4)
    u = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    points = torch.rand(3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: grid.interpolate(v, points), (u,))
    assert torch.autograd.gradcheck(lambda v: grid.interpolate(v, Grid.uniform((3, 5))), (u,))


def test_float32_fields_stay_float32():
    grid = Grid.uniform(8, periodic=True)
    u = torch.randn(1, 1, 8)
    assert grid.integrate(u).dtype == grid.norm(u).dtype == torch.float32
    assert grid.interpolate(u, Grid.uniform(5, periodic=True)).dtype == torch.float32
    assert grid.to(dtype=torch.float32).coords.dtype == torch.float32


def test_a_grid_first_used_in_inference_still_trains():
    grid = Grid.uniform(8)
    with torch.inference_mode():
        grid.norm(torch.ones(1, 1, 8, dtype=torch.float64))
    u = torch.ones(1, 1, 8, dtype=torch.float64, requires_grad=True)
    grid.integrate(u).sum().backward()
    assert torch.equal(u.grad.squeeze(), grid.weights)


class Conversions(TorchDispatchMode):
    """Counts tensors that are converted to another type or device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def test_weights_and_matrices_are_converted_once():
    grid, other = Grid.uniform((5, 6)), Grid.uniform((7, 4))
    u = torch.ones(1, 1, 5, 6)
    with torch.inference_mode():
        first = grid.norm(u), grid.interpolate(u, other)
    with Conversions() as conversions:
        u.requires_grad_()
        (grid.norm(u) + grid.interpolate(u, other).sum()).backward()
        assert torch.equal(grid.norm(u), first[0])
        assert grid.norm(u.double()).dtype == torch.float64
    assert conversions.count == 1  # of u itself
    same = copy.deepcopy(grid)
    assert same == grid
    assert torch.equal(same.norm(u), first[0])
    assert grid.__getstate__() == Grid.uniform((5, 6)).__getstate__()  # no tensors, which may be on a device


@pytest.mark.unchecked
def test_grid_errors_say_what_to_do():
    grid = Grid.uniform(5)
    u = torch.zeros(1, 1, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"1 of 2 points lie outside .*move or drop"):
        grid.interpolate(u, torch.tensor([[0.5], [1.1]], dtype=torch.float64))
    rounded = torch.tensor([[1 + 2 * EPS]], dtype=torch.float64)
    assert grid.interpolate(u + 1, rounded).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="outside"):
        grid.interpolate(u, torch.tensor([[math.nan]], dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"\(batch, channel, 5\); got \(1, 1, 6\)"):
        grid.integrate(torch.zeros(1, 1, 6))
    with pytest.raises(ShapeError, match="2 coordinates a point"):
        grid.interpolate(u, Grid.uniform((3, 3)))
    with pytest.raises(ConfigError, match="lengths has 3 entries for 2 axes"):
        Grid.uniform((4, 4), (1.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match="length > 0"):
        Grid.uniform(4, -1.0)
    with pytest.raises(ConfigError, match="p >= 1"):
        grid.norm(u, 0.5)


def test_coordinates_give_back_their_grid():
    periodic = Grid.uniform(8, 2.0, periodic=True, origin=0.5)
    x = periodic.coords[:, 0]
    back = Grid.from_coordinates(x, periods=2.0)
    assert back.periodic == (True,)
    torch.testing.assert_close(back.coords, periodic.coords)
    assert Grid.from_coordinates(x.float()).axes[0].kind == "uniform"
    uneven = Grid.from_coordinates(torch.tensor([0.0, 0.1, 0.5, 1.0]))
    assert uneven.integrate(uneven.coords[None, None, :, 0]).item() == pytest.approx(0.5)


def test_rounding_of_float32_coordinates_is_no_extrapolation():
    exact, rounded = Grid.uniform(8, 0.3), Grid.from_coordinates(torch.linspace(0, 0.3, 9))
    for source, target in ((exact, rounded), (rounded, Grid.uniform(9, 0.3))):
        values = source.interpolate(source.coords.mT[None], target)
        torch.testing.assert_close(values, target.coords.mT[None], atol=1e-7, rtol=0)
    low = Grid.from_coordinates(torch.linspace(0, 0.7, 9))  # 0.7 is rounded down
    points = torch.tensor([[0.7]], dtype=torch.float64)
    torch.testing.assert_close(low.interpolate(low.coords.mT[None], points)[..., 0], points, atol=1e-7, rtol=0)
    uneven = Grid.from_coordinates(torch.tensor([0.0, 0.1, 0.3]))
    assert exact.interpolate(exact.coords.mT[None], uneven).shape == (1, 1, 3)
    with pytest.raises(ValueError, match="outside"):
        exact.interpolate(exact.coords.mT[None], Grid.uniform(9, 0.3 * (1 + 1e-8)))
    assert Grid.from_coordinates(torch.linspace(0, 1, 9)) == Grid.uniform(9)


@pytest.mark.unchecked
def test_an_included_periodic_endpoint_is_detected():
    with pytest.raises(ConfigError, match=r"include its endpoint.*Drop the last coordinate"):
        Grid.from_coordinates(torch.linspace(0, 2 * math.pi, 33), periods=2 * math.pi)
    with pytest.raises(ConfigError, match="not the uniform nodes of a period"):
        Grid.from_coordinates(torch.linspace(0, 1, 33), periods=3.0)
    with pytest.raises(ConfigError, match="strictly increasing"):
        Grid.from_coordinates(torch.tensor([0.0, 0.0, 1.0]))


def cloud_points(n, dim, seed=0):
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * dim).reshape(-1, dim)
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([corners, torch.rand(n, dim, dtype=torch.float64, generator=generator)])


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_delaunay_weights_integrate_linear_functions_exactly(dim):
    cloud = PointCloud(cloud_points(50, dim))
    assert (cloud.weights > 0).all()
    u = torch.cat([torch.ones(len(cloud.coords), 1), cloud.coords], dim=1)[None].double()
    exact = torch.tensor([[1.0] + [0.5] * dim], dtype=torch.float64)
    torch.testing.assert_close(cloud.integrate(u), exact, atol=1e4 * EPS, rtol=0)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("bounded", [False, True])
def test_voronoi_cells_tile_the_domain(dim, bounded):
    points = cloud_points(40, dim)
    cloud = PointCloud(points, "voronoi", bounds=[(-0.5, 1.5)] * dim if bounded else None)
    assert (cloud.weights > 0).all()
    assert cloud.weights.sum().item() == pytest.approx(2.0**dim if bounded else 1.0, rel=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_voronoi_weights_scale_with_the_volume(scale):
    points = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unit, scaled = PointCloud(points, "voronoi"), PointCloud(points * scale, "voronoi")
    torch.testing.assert_close(scaled.weights / scale**2, unit.weights, rtol=1e-8, atol=1e-12)
    assert unit.weights.sum().item() == pytest.approx(PointCloud(points).weights.sum().item(), rel=1e-10)


def test_voronoi_cells_of_a_lattice_are_its_trapezoidal_weights():
    lattice = Grid.uniform((4, 5))
    cloud = PointCloud(lattice.coords.reshape(-1, 2), "voronoi")
    torch.testing.assert_close(cloud.weights, lattice.weights.flatten(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_cloud_interpolation_reproduces_linear_functions(dim):
    cloud = PointCloud(cloud_points(50, dim))
    slope = torch.arange(1, dim + 1, dtype=torch.float64)
    u = (cloud.coords @ slope)[None, :, None].requires_grad_()
    target = Grid.uniform((4,) * dim)
    values = cloud.interpolate(u, target)
    torch.testing.assert_close(values, (target.coords @ slope)[None, None], atol=1e-12, rtol=0)
    assert torch.autograd.grad(values.sum(), u)[0].sum().item() == pytest.approx(4**dim)
    outside = cloud.interpolate(u, torch.full((1, dim), 3.0, dtype=torch.float64))
    assert outside.item() == pytest.approx(slope.sum().item())  # the corner (1, ..., 1) is nearest


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_h1_norm_of_a_linear_function_on_a_cloud(dim):
    cloud = PointCloud(cloud_points(30, dim))
    slope = torch.arange(1, dim + 1, dtype=torch.float64)
    u = (cloud.coords @ slope)[None, :, None]
    gradient = cloud.sobolev_norm(u) ** 2 - cloud.norm(u) ** 2
    assert gradient.item() == pytest.approx((slope**2).sum().item(), rel=1e-12)


def test_monte_carlo_weights_average():
    points = torch.zeros(10, 2, dtype=torch.float64)
    torch.testing.assert_close(PointCloud(points, "monte-carlo").weights, torch.full((10,), 0.1).double())
    assert PointCloud(points, "monte-carlo", volume=3.0).weights.sum().item() == pytest.approx(3.0)


@pytest.mark.unchecked
def test_cloud_errors_say_what_to_do():
    points = cloud_points(6, 2)
    with pytest.raises(ValueError, match=r"2 of 12 points repeat .*monte-carlo"):
        PointCloud(torch.cat([points, points[:2]]))
    with pytest.raises(ValueError, match=r"span no volume.*monte-carlo"):
        PointCloud(torch.linspace(0, 1, 9, dtype=torch.float64)[:, None].expand(9, 2))
    with pytest.raises(ShapeError, match="each of 10 points"):
        PointCloud(points, torch.ones(9))
    with pytest.raises(ValueError, match="2 of 10 weights are negative or not finite"):
        PointCloud(points, torch.tensor([-1.0, math.nan] + [1.0] * 8))
    with pytest.raises(ValueError, match=r"1 of 10 points .*not finite"):
        PointCloud(torch.where(torch.arange(10)[:, None] == 7, math.inf, points))
    with pytest.raises(ValueError, match="points lie outside bounds"):
        PointCloud(points, "voronoi", bounds=[(0.0, 0.5), (0.0, 1.0)])
    with pytest.raises(ConfigError, match="choose 'delaunay'"):
        PointCloud(points, "simpson")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"\(batch, 10, channel\)"):
        PointCloud(points).integrate(torch.zeros(1, 3, 10))


@pytest.mark.parametrize(("offset", "scale"), [(1e6, 1.0), (0.0, 1e-140), (-3e5, 1e3)])
def test_clouds_may_lie_anywhere_and_have_any_size(offset, scale):
    torch.manual_seed(0)
    points = torch.rand(200, 2, dtype=torch.float64)
    cloud, moved = PointCloud(points), PointCloud(points * scale + offset)
    tolerance = 1e-13 + 1e-14 * abs(offset) / scale
    torch.testing.assert_close(moved.weights / scale**2, cloud.weights, rtol=0, atol=tolerance)
    u = points.sum(-1)[None, :, None]
    inside = torch.rand(20, 2, dtype=torch.float64) / 2 + 0.25
    torch.testing.assert_close(
        moved.interpolate(u, inside * scale + offset), cloud.interpolate(u, inside), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("angle", [0.3, 1.0])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_that_rounding_puts_outside_the_hull_are_on_its_edge(angle, offset, dtype):
    c, s = math.cos(angle), math.sin(angle)
    rotation = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    torch.manual_seed(0)
    square = torch.cat([torch.rand(200, 2), torch.tensor([[0.0, 0.0], [1, 0], [0, 1], [1, 1]])]).double()
    edge = torch.stack([torch.rand(1000, dtype=torch.float64), torch.zeros(1000, dtype=torch.float64)], 1)
    cloud, points = (PointCloud((square @ rotation.T + offset).to(dtype)), (edge @ rotation.T + offset).to(dtype))
    linear = lambda x: (2 * x[:, 0] - x[:, 1]).double()[None, :, None]  # noqa: E731
    # rounding of the coordinates over the height, 1/200, of simplices at the edge
    error = (cloud.interpolate(linear(cloud.coords), points) - linear(points)).abs().max()
    assert error <= 200 * 4 * torch.finfo(dtype).eps * (1 + offset)


@pytest.mark.parametrize("rotate", [False, True])
def test_slivers_between_cospherical_points_carry_no_gradient(rotate):
    generator = torch.Generator().manual_seed(0)
    lattice = Grid.uniform((9, 9, 9)).coords.reshape(-1, 3)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))[0]
    cloud = PointCloud(lattice @ rotation if rotate else lattice)
    assert cloud.triangulation.volumes.min() < 1e-12 * cloud.triangulation.volumes.max()
    u = (lattice[:, 0] ** 2 * lattice[:, 1])[None, :, None]
    slope = cloud.sobolev_norm(u) ** 2 - cloud.norm(u) ** 2
    exact = 4 / 9 + 1 / 5  # of |∇(x²y)|² = 4x²y² + x⁴
    assert slope.item() == pytest.approx(exact, abs=1 / 8**2)  # order h²


def test_voronoi_cells_of_a_rotated_cube_tile_it():
    generator = torch.Generator().manual_seed(0)
    points = torch.cat([Grid.uniform((3, 3, 3)).coords.reshape(-1, 3), cloud_points(40, 3)[8:]])
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))[0]
    cloud, rotated = PointCloud(points, "voronoi"), PointCloud(points @ rotation, "voronoi")
    torch.testing.assert_close(rotated.weights, cloud.weights, rtol=0, atol=1e-12)
    assert rotated.weights.sum().item() == pytest.approx(1, rel=1e-12)


@pytest.mark.unchecked
def test_sizes_and_points_of_odd_types():
    assert Grid.uniform(np.int64(5)).shape == (5,)
    assert Grid.uniform((np.int32(5), 4), lengths=np.array([1.0, 2.0])).lengths == (1.0, 2.0)
    with pytest.raises(ConfigError, match="whole number of nodes"):
        Grid.uniform((5.9,))
    cloud = PointCloud(torch.rand(9, 2, dtype=torch.float64))
    u = torch.ones(1, 9, 1, dtype=torch.float64)
    for points in (torch.rand(4, 5, 2), torch.rand(2)):
        with pytest.raises(ShapeError, match=r"\(point, dim\)"):
            cloud.interpolate(u, points)
    with pytest.raises(ValueError, match="not finite"):
        cloud.interpolate(u, torch.full((1, 2), math.nan))
