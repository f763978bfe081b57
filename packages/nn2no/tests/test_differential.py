"""The differential convolution is a derivative of its field, and blind to constants."""

import itertools
import math

import pytest
import torch
from nn2no.differential import DifferentialConv2d
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid

TWO_PI = 2 * math.pi


def layer(base: float = 1 / 16, kernel_size: int = 3) -> DifferentialConv2d:
    torch.manual_seed(0)
    return DifferentialConv2d(1, 2, (base, base), kernel_size, dtype=torch.float64)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_it_tends_to_the_directional_derivative_that_its_weights_say(kernel_size):
    conv, errors = layer(kernel_size=kernel_size), []
    a = torch.arange(kernel_size, dtype=torch.float64) - kernel_size // 2
    bx = (conv.weight[:, 0] * a[:, None]).sum((1, 2)) / 16
    by = (conv.weight[:, 0] * a).sum((1, 2)) / 16
    for n in (64, 128, 256):
        grid = Grid.uniform((n, n), periodic=True)
        x, y = grid.coords.unbind(-1)
        g = conv(torch.sin(TWO_PI * x + 2 * TWO_PI * y)[None, None], grid)
        slope = TWO_PI * torch.cos(TWO_PI * x + 2 * TWO_PI * y)
        exact = bx[:, None, None] * slope + by[:, None, None] * 2 * slope
        errors.append(float((g[0] - exact).abs().max() / exact.abs().max()))
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(errors))  # one-sided weights: first order


def test_a_centred_stencil_has_second_order():
    conv, errors = layer(), []
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, 2, 1], conv.weight[0, 0, 0, 1] = 0.5, -0.5
    for n in (32, 64):
        grid = Grid.uniform((n, n), periodic=True)
        x = grid.coords[..., 0]
        error = conv(torch.sin(TWO_PI * x)[None, None], grid)[0, 0] * 16 - TWO_PI * torch.cos(TWO_PI * x)
        errors.append(float(error.abs().max()))
    assert 3.8 < errors[0] / errors[1] < 4.2


@pytest.mark.parametrize("periodic", [True, False])
def test_constants_change_nothing_and_planes_are_differentiated_exactly(periodic):
    grid = Grid.uniform((12, 12), periodic=periodic)
    f = torch.randn(2, 1, 12, 12, dtype=torch.float64)
    conv = layer(grid.axes[0].spacing)
    torch.testing.assert_close(conv(f + 100.0, grid), conv(f, grid), rtol=0, atol=1e-11)
    if not periodic:
        plane = (2 * grid.coords[..., 0] - grid.coords[..., 1])[None, None]
        g = conv(plane, grid)
        torch.testing.assert_close(g, g[..., :1, :1].expand_as(g), rtol=0, atol=1e-12)


def test_at_the_base_spacing_it_is_the_convolution_with_weights_of_sum_zero():
    grid, conv = Grid.uniform((16, 16), periodic=True), layer()
    f = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    weight = conv.weight.clone()
    weight[..., 1, 1] -= weight.sum((-2, -1))
    expected = torch.nn.functional.conv2d(torch.nn.functional.pad(f, (1, 1, 1, 1), mode="circular"), weight)
    torch.testing.assert_close(conv(f, grid), expected)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_fields_are_continued_linearly_beyond_walls(kernel_size):
    """f(-j) = f₀ - j (f₁ - f₀), and so at the other end and along the other axis."""
    grid, conv, p = Grid.uniform((6, 7)), layer(1.0, kernel_size), kernel_size // 2
    conv.base_spacing = (3 / 5, 3 / 6)
    f = torch.randn(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def at(values: torch.Tensor, i: int) -> torch.Tensor:
        if i < 0:
            return values[0] + i * (values[1] - values[0])
        n = len(values)
        return values[i] if i < n else values[-1] + (i - n + 1) * (values[-1] - values[-2])

    wide = torch.stack([at(f, i) for i in range(-p, 6 + p)])
    wide = torch.stack([at(wide.T, j) for j in range(-p, 7 + p)], 1)
    expected = torch.zeros(2, 6, 7, dtype=torch.float64)
    for a, b in itertools.product(range(kernel_size), repeat=2):
        expected += 3 * conv.weight[:, 0, a, b, None, None] * (wide[a : a + 6, b : b + 7] - f)
    torch.testing.assert_close(conv(f[None, None], grid)[0], expected, rtol=0, atol=1e-12)


def test_cells_need_not_be_square():
    """Spacings (1/48, 1/32) where the layer was made for (1/12, 1/8): four times as fine along both axes."""
    torch.manual_seed(0)
    conv = DifferentialConv2d(1, 2, (1 / 12, 1 / 8), dtype=torch.float64)
    grid = Grid.uniform((48, 64), (1.0, 2.0), periodic=True)
    f = torch.randn(1, 1, 48, 64, dtype=torch.float64)
    expected = torch.zeros(1, 2, 48, 64, dtype=torch.float64)
    for a, b in itertools.product(range(3), repeat=2):
        expected += 4 * conv.weight[:, 0, a, b, None, None] * (f.roll((1 - a, 1 - b), (2, 3)) - f)
    torch.testing.assert_close(conv(f, grid), expected, rtol=0, atol=1e-12)


def test_gradients():
    grid, conv = Grid.uniform((5, 5)), layer(0.25)
    f = torch.randn(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f, w: torch.func.functional_call(conv, {"weight": w}, (f, grid)), (f, conv.weight)
    )


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: layer(kernel_size=4), ConfigError, "odd number"),
        (lambda: layer(0.0), ConfigError, "two positive numbers"),
        (lambda: layer()(torch.randn(1, 2, 8, 8), Grid.uniform((8, 8))), ShapeError, r"\(batch, 1, nx, ny\)"),
        (lambda: layer()(torch.randn(1, 1, 8, 9), Grid.uniform((8, 9))), ConfigError, "same factor"),
        (lambda: layer()(torch.randn(1, 1, 8, 8), Grid.chebyshev((8, 8))), ShapeError, "equispaced"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
