"""The differential convolution is a derivative of its field, and blind to constants."""

import itertools
import math
from collections.abc import Sequence

import nn2no
import pytest
import torch
from nn2no.differential import DifferentialConv, DifferentialConv2d
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor

TWO_PI = 2 * math.pi
# sizes of the base grid, odd and even, and lengths that leave no two axes the same spacing
BASES = [((16,), (1.0,)), ((9,), (0.7,)), ((12, 9), (1.0, 2.0)), ((5, 6, 4), (1.0, 1.5, 0.7))]
WAVES = (1, -1, 1)


def layer(base: float = 1 / 16, kernel_size: int = 3) -> DifferentialConv2d:
    torch.manual_seed(0)
    return DifferentialConv2d(1, 2, (base, base), kernel_size, dtype=torch.float64)


def layer_on(shape: Sequence[int], lengths: Sequence[float], kernel_size: int = 3) -> DifferentialConv:
    """Made for the periodic grid of that shape."""
    torch.manual_seed(0)
    spacing = [length / n for n, length in zip(shape, lengths, strict=True)]
    return DifferentialConv(1, 2, spacing, kernel_size, dtype=torch.float64)


def wave(grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """sin θ, cos θ and ∇θ of a phase that differs along every axis."""
    k = torch.tensor([TWO_PI * w / a.length for w, a in zip(WAVES, grid.axes, strict=False)], dtype=torch.float64)
    phase = grid.coords @ k + 0.3
    return phase.sin(), phase.cos(), k


def offsets(conv: DifferentialConv) -> Tensor:
    """(*taps, axis): (a - p) h₀."""
    dim, size = len(conv.base_spacing), conv.weight.shape[-1]
    a = torch.arange(size, dtype=torch.float64) - size // 2
    steps = torch.stack(torch.meshgrid([a] * dim, indexing="ij"), -1)
    return steps * torch.tensor(conv.base_spacing, dtype=torch.float64)


def differences(shape: Sequence[int], lengths: Sequence[float], taps: Sequence[Sequence[float]]) -> DifferentialConv:
    """The layer of that periodic grid with these three taps along each axis, and no others."""
    conv, dim = layer_on(shape, lengths), len(shape)
    weight = torch.zeros_like(conv.weight)
    for axis, line in enumerate(taps):
        weight[0, 0][tuple(slice(None) if i == axis else 1 for i in range(dim))] += torch.tensor(line).to(weight)
    conv.weight = torch.nn.Parameter(weight, requires_grad=False)
    return conv


def slope(shape: Sequence[int], lengths: Sequence[float], axis: int) -> DifferentialConv:
    """The centred difference along an axis."""
    h0 = lengths[axis] / shape[axis]
    return differences(
        shape, lengths, [(-0.5 / h0, 0, 0.5 / h0) if i == axis else (0, 0, 0) for i in range(len(shape))]
    )


def orders(errors: Sequence[float], grids: Sequence[int]) -> list[float]:
    pairs = zip(itertools.pairwise(errors), itertools.pairwise(grids), strict=True)
    return [math.log(a / b) / math.log(n / m) for (a, b), (m, n) in pairs]


@pytest.mark.parametrize(("shape", "lengths"), BASES)
@pytest.mark.parametrize("kernel_size", [3, 5])
@torch.no_grad()
def test_it_tends_to_the_directional_derivative_that_its_weights_say(shape, lengths, kernel_size):
    conv, errors, refinements = layer_on(shape, lengths, kernel_size), [], (8, 12, 18)
    direction = torch.tensordot(conv.weight[:, 0], offsets(conv), dims=len(shape))
    for s in refinements:
        grid = Grid.uniform(tuple(s * n for n in shape), lengths, periodic=True)
        f, cos, k = wave(grid)
        exact = (direction @ k).view(-1, *[1] * len(shape)) * cos
        errors.append(float((conv(f[None, None], grid)[0] - exact).norm() / exact.norm()))
    assert all(0.9 < order < 1.1 for order in orders(errors, refinements))  # one-sided weights: first order


@pytest.mark.parametrize(
    ("shape", "lengths", "axis"), [(*base, axis) for base in BASES for axis in range(len(base[0]))]
)
def test_a_centred_difference_has_second_order(shape, lengths, axis):
    conv, errors, refinements = slope(shape, lengths, axis), [], (4, 6, 9)
    for s in refinements:
        grid = Grid.uniform(tuple(s * n for n in shape), lengths, periodic=True)
        f, cos, k = wave(grid)
        errors.append(float((conv(f[None, None], grid)[0, 0] - k[axis] * cos).abs().max()))
    assert all(1.9 < order < 2.1 for order in orders(errors, refinements))


@pytest.mark.parametrize(("shape", "lengths"), BASES)
def test_second_differences_are_the_laplacian_times_the_ratio_of_spacings(shape, lengths):
    """Weights without first moments leave (h/h₀) Δf, with an error of second order relative to that."""
    squares = [(length / n) ** 2 for n, length in zip(shape, lengths, strict=True)]
    conv = differences(shape, lengths, [(1 / h2, 0, 1 / h2) for h2 in squares])
    errors, refinements = [], (4, 6, 9)
    for s in refinements:
        grid = Grid.uniform(tuple(s * n for n in shape), lengths, periodic=True)
        f, _, k = wave(grid)
        errors.append(float((s * conv(f[None, None], grid)[0, 0] + k.square().sum() * f).abs().max()))
    assert all(1.9 < order < 2.1 for order in orders(errors, refinements))


@pytest.mark.parametrize(("shape", "lengths"), BASES)
def test_two_layers_are_a_laplacian_of_second_order_on_every_grid(shape, lengths):
    """div grad, which needs no ratio of spacings."""
    gradient, errors, refinements = [slope(shape, lengths, axis) for axis in range(len(shape))], [], (4, 6, 9)
    for s in refinements:
        grid = Grid.uniform(tuple(s * n for n in shape), lengths, periodic=True)
        f, _, k = wave(grid)
        laplacian = sum(d(d(f[None, None], grid)[:, :1], grid)[0, 0] for d in gradient)
        errors.append(float((laplacian + k.square().sum() * f).abs().max()))
    assert all(1.9 < order < 2.1 for order in orders(errors, refinements))


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(("shape", "lengths"), BASES)
def test_constants_change_nothing(shape, lengths, periodic):
    spaces = tuple(n if periodic else n + 1 for n in shape)
    grid, conv = Grid.uniform(spaces, lengths, periodic=periodic), layer_on(shape, lengths)
    f = torch.randn(2, 1, *spaces, dtype=torch.float64)
    torch.testing.assert_close(conv(f + 100.0, grid), conv(f, grid), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("shape", "lengths"), BASES)
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("refined", [1, 3])
def test_moments_of_the_weights_act_on_polynomials(shape, lengths, kernel_size, refined):
    """b·x ↦ Σ w (a - p)h₀·b up to the walls; x·Bx/2 gives first and second moments alone, where no wall is in reach."""
    conv, p = layer_on(shape, lengths, kernel_size), kernel_size // 2
    grid = Grid.uniform(tuple(refined * n + 1 for n in shape), lengths)
    w, o, dim = conv.weight[:, 0], offsets(conv), len(shape)
    b = torch.arange(1.0, dim + 1, dtype=torch.float64)
    first = torch.tensordot(w, o, dims=dim)
    g = conv((grid.coords @ b)[None, None], grid)[0]
    torch.testing.assert_close(g, (first @ b).view(-1, *[1] * dim).expand_as(g), rtol=0, atol=1e-12)
    B = torch.ones(dim, dim, dtype=torch.float64) + torch.diag(b)
    g = conv((grid.coords @ B * grid.coords).sum(-1)[None, None] / 2, grid)[0]
    second = torch.tensordot(w, (o @ B * o).sum(-1), dims=dim)
    exact = torch.einsum("ol,...l->o...", first, grid.coords @ B) + second.view(-1, *[1] * dim) / (2 * refined)
    inside = (slice(None), *[slice(p, -p)] * dim)
    torch.testing.assert_close(g[inside], exact[inside], rtol=0, atol=1e-11)


@pytest.mark.parametrize(("shape", "lengths"), BASES)
def test_beyond_walls_centred_differences_have_second_order_inside_and_first_at_the_wall(shape, lengths):
    conv, inner, outer, refinements = slope(shape, lengths, 0), [], [], (8, 12, 18)
    for s in refinements:
        grid = Grid.uniform(tuple(s * n + 1 for n in shape), lengths)
        f, cos, k = wave(grid)
        error = (conv(f[None, None], grid)[0, 0] - k[0] * cos).abs()
        inner.append(float(error[1:-1].max()))
        outer.append(float(error[0].max()))
    assert all(1.9 < order < 2.1 for order in orders(inner, refinements))
    assert all(0.9 < order < 1.1 for order in orders(outer, refinements))


@pytest.mark.parametrize(("shape", "lengths"), BASES)
def test_at_the_base_spacing_it_is_the_convolution_with_weights_of_sum_zero(shape, lengths):
    grid, conv, dim = Grid.uniform(shape, lengths, periodic=True), layer_on(shape, lengths), len(shape)
    f = torch.randn(1, 1, *shape, dtype=torch.float64)
    weight = conv.weight.clone()
    weight[(..., *[1] * dim)] -= weight.flatten(2).sum(-1)
    convolve = getattr(torch.nn.functional, f"conv{dim}d")
    expected = convolve(torch.nn.functional.pad(f, [1] * (2 * dim), mode="circular"), weight)
    torch.testing.assert_close(conv(f, grid), expected, rtol=0, atol=1e-12)


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


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("shape", [(5,), (5, 4), (3, 4, 3)])
def test_gradients(shape, periodic):
    dim = len(shape)
    grid = Grid.uniform(shape, periodic=periodic)
    torch.manual_seed(0)
    conv = DifferentialConv(2, 2, [2 * axis.spacing for axis in grid.axes], dtype=torch.float64)
    f = torch.randn(1, 2, *shape, dtype=torch.float64, requires_grad=True)
    assert conv.weight.shape == (2, 2, *[3] * dim)
    assert torch.autograd.gradcheck(
        lambda f, w: torch.func.functional_call(conv, {"weight": w}, (f, grid)), (f, conv.weight)
    )


def test_the_plane_has_its_own_name():
    torch.manual_seed(0)
    general = nn2no.DifferentialConv(1, 2, (1 / 16, 1 / 16), dtype=torch.float64)
    special = layer()
    assert isinstance(special, nn2no.DifferentialConv)
    special.load_state_dict(general.state_dict())
    grid = Grid.uniform((16, 16), periodic=True)
    f = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    assert torch.equal(special(f, grid), general(f, grid))


def one_dimensional() -> DifferentialConv:
    return DifferentialConv(1, 1, (0.1,))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: layer(kernel_size=4), ConfigError, "odd number"),
        (lambda: layer(0.0), ConfigError, "give 2 positive numbers"),
        (lambda: DifferentialConv2d(1, 1, (0.1,)), ConfigError, "give 2 positive numbers"),
        (lambda: DifferentialConv(1, 1, (0.1,) * 4), ConfigError, "give 1 or 2 or 3 positive numbers"),
        (lambda: layer()(torch.randn(1, 2, 8, 8), Grid.uniform((8, 8))), ShapeError, r"\(batch, 1, nx, ny\)"),
        (lambda: one_dimensional()(torch.randn(1, 1, 8, 8), Grid.uniform((8, 8))), ShapeError, r"\(batch, 1, nx\)"),
        (lambda: layer()(torch.randn(1, 1, 8, 9), Grid.uniform((8, 9))), ConfigError, "same factor"),
        (lambda: layer()(torch.randn(1, 1, 8, 8), Grid.chebyshev((8, 8))), ShapeError, "equispaced"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
