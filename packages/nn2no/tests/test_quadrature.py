"""Weights integrate what they claim to integrate."""

import contextlib
import math

import pytest
import torch
from nn2no.quadrature import check_weights, delaunay, for_grid, gauss_legendre, midpoint, monte_carlo, trapezoid
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor

TOLERANCE = 1e-13


def cloud(n: int, dim: int = 2) -> Tensor:
    """Random points in the unit cube and its corners, so that the hull is the cube."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * dim).reshape(-1, dim)
    generator = torch.Generator().manual_seed(n)
    return torch.cat([corners, torch.rand(n, dim, dtype=torch.float64, generator=generator)])


@pytest.mark.parametrize("rule", [trapezoid, midpoint, gauss_legendre])
def test_weights_sum_to_the_length(rule):
    assert rule(7, 3.0).sum() == pytest.approx(3, rel=TOLERANCE)


def test_trapezoid_and_midpoint_are_exact_for_linear_functions():
    nodes, cells = Grid.uniform(9, 2.0).coords[:, 0], Grid.uniform(9, 2.0, centering="cell").coords[:, 0]
    assert trapezoid(9, 2) @ (3 * nodes - 1) == pytest.approx(4, rel=TOLERANCE)
    assert midpoint(9, 2) @ (3 * cells - 1) == pytest.approx(4, rel=TOLERANCE)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_gauss_is_exact_to_degree_2n_minus_1_and_no_further(n):
    x = Grid.gauss_legendre(n, 2.0).coords[:, 0] - 1
    errors = [float(gauss_legendre(n, 2) @ x**k) - (1 + (-1) ** k) / (k + 1) for k in range(2 * n + 1)]
    assert max(map(abs, errors[:-1])) < TOLERANCE
    assert abs(errors[-1]) > 1e-6


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_delaunay_is_exact_for_linear_functions(dim):
    x = cloud(40, dim)
    slopes = torch.arange(1.0, dim + 1).double()
    w = delaunay(x)
    assert w.sum() == pytest.approx(1, rel=TOLERANCE)
    assert w @ (x @ slopes + 2) == pytest.approx(float(slopes.sum()) / 2 + 2, rel=TOLERANCE)


def test_delaunay_is_of_second_order_in_the_spacing_and_a_mean_is_not():
    """∫ sin πx sin πy over the unit square, on 4 times as many points: a quarter of the error."""
    delaunay_errors, mean_errors = [], []
    for n in (500, 2000, 8000):
        edge = torch.arange(round(math.sqrt(n)), dtype=torch.float64)[:, None] / round(math.sqrt(n))
        zero, one = torch.zeros_like(edge), torch.ones_like(edge)
        sides = [torch.cat(p, 1) for p in ((edge, zero), (one, edge), (1 - edge, one), (zero, 1 - edge))]
        x = torch.cat([cloud(n)[4:], *sides])
        phi = torch.sin(math.pi * x).prod(1)
        delaunay_errors.append(abs(float(delaunay(x) @ phi) - 4 / math.pi**2))
        mean_errors.append(abs(float(phi.mean()) - 4 / math.pi**2))
    assert delaunay_errors[0] < 4e-3
    assert 1.5 < math.log2(delaunay_errors[0] / delaunay_errors[2]) / 2 < 2.5
    assert min(mean_errors) > 5 * max(delaunay_errors[1:])


def test_grids_and_random_points():
    grid = Grid.uniform((4, 5), (1.0, 2.0)) * Grid.chebyshev(6)
    assert for_grid(grid).sum() == pytest.approx(2, rel=TOLERANCE)
    w = monte_carlo(torch.rand(3, 10, 2), 4)
    assert w.shape == (3, 10)
    torch.testing.assert_close(w.sum(-1), torch.full((3,), 4.0))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda w: check_weights(-w, 4), ValueError, "4 of 4 weights are negative"),
        (lambda w: check_weights(w * torch.nan, 4), ValueError, "not finite"),
        (lambda w: check_weights(w, 5), ShapeError, r"\(4,\).*each of 5 points"),
        (lambda w: check_weights(w, torch.rand(3, 2)), ShapeError, "each of 3 points"),
        (lambda w: check_weights(w, 4, 2), ValueError, "sum up to 1,.*volume 2: multiply them by 2"),
        (
            lambda w: delaunay(torch.tensor([[0.0, 0], [1, 0], [0, 1], [0, 1]])),
            ValueError,
            "1 of 4.*Monte Carlo weights",
        ),
        (lambda w: delaunay(torch.arange(8.0).reshape(4, 2)), ValueError, "4 points lie on a line.*monte-carlo"),
        (lambda w: monte_carlo(torch.rand(3, 2), 0), ConfigError, "volume=0"),
        (lambda w: monte_carlo(torch.ones(3, 2, dtype=torch.long)), ShapeError, "Coordinates are floating.*int64"),
    ],
)
def test_bad_weights_and_points_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.full((4,), 0.25))


def test_good_weights_pass():
    check_weights(trapezoid(9, 3.0), 9, 3)
    check_weights(delaunay(cloud(9)).float(), cloud(9), 1.0005)


@pytest.mark.unchecked
@pytest.mark.parametrize(("factor", "fine"), [(1.0005, True), (1.002, False)])
def test_weights_must_sum_to_the_volume_to_a_thousandth(factor, fine):
    w = torch.full((10,), 0.1, dtype=torch.float64) * factor
    with contextlib.nullcontext() if fine else pytest.raises(ValueError, match="sum"):
        check_weights(w, 10, 1.0)
