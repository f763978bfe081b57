"""Resampling is exact for what both grids resolve, and gives back what it enlarged."""

import math

import pytest
import torch
from nn2no.resample import Antialiased, FourierResize, LinearResize, fourier_resize, interpolate_along, linear_resize
from sciml.errors import ConfigError, ShapeError
from torch import Tensor


def waves(shape: tuple[int, ...], modes: int, centering: str = "node", dtype: torch.dtype = torch.float64) -> Tensor:
    """One fixed random function with |k_l| <= modes, sampled on a periodic grid."""
    generator = torch.Generator().manual_seed(3)
    k = torch.cartesian_prod(*[torch.arange(-modes, modes + 1.0, dtype=torch.float64)] * len(shape))
    k = k.reshape(-1, len(shape))
    amplitude, phase = torch.rand(2, len(k), generator=generator, dtype=torch.float64)
    shift = 0.5 if centering == "cell" else 0.0
    axes = [(torch.arange(n, dtype=torch.float64) + shift) / n for n in shape]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    return (amplitude * torch.cos(2 * math.pi * (x @ k.T + phase))).sum(-1)[None, None].to(dtype)


@pytest.mark.parametrize("centering", ["node", "cell"])
@pytest.mark.parametrize(
    ("old", "new"), [((8,), (13,)), ((13,), (8,)), ((9, 8), (16, 7)), ((7, 12), (10, 30)), ((7, 8, 9), (9, 7, 8))]
)
def test_band_limited_fields_are_resized_exactly(old, new, centering):
    resized = fourier_resize(waves(old, 3, centering), new, centering=centering)
    torch.testing.assert_close(resized, waves(new, 3, centering), rtol=0, atol=1e-13 * float(resized.abs().max()))


@pytest.mark.parametrize("centering", ["node", "cell"])
@pytest.mark.parametrize("old", [5, 8])
@pytest.mark.parametrize("new", [8, 9, 11, 16, 24])
def test_reducing_what_was_enlarged_gives_it_back(old, new, centering):
    torch.manual_seed(0)
    f = torch.randn(2, 3, old, old + 1, dtype=torch.float64)
    large = fourier_resize(f, (new, new + 1), centering=centering)
    back = fourier_resize(large, f.shape[2:], centering=centering)
    torch.testing.assert_close(back, f, rtol=0, atol=1e-13)


def test_enlarging_interpolates():
    torch.manual_seed(0)
    f = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(fourier_resize(f, (18, 21))[..., ::3, ::3], f, rtol=0, atol=1e-13)


def test_modes_beyond_the_new_grid_are_dropped_and_not_aliased():
    n = torch.arange(32, dtype=torch.float64)
    f = torch.cos(2 * math.pi * 7 * n / 32)[None, None]
    assert fourier_resize(f, (10,)).abs().max() < 1e-13
    assert (f[..., ::4].abs().max()) > 0.5  # what sampling makes of it


@pytest.mark.parametrize(
    ("periodic", "centering", "old", "new"),
    [
        (False, "node", (9, 5), (17, 12)),
        (False, "cell", (8, 5), (20, 10)),
        (False, "cell", (20, 10), (8, 5)),
        (False, "node", (17, 12), (9, 5)),
    ],
)
def test_linear_functions_are_resized_exactly(periodic, centering, old, new):
    def plane(shape: tuple[int, ...]) -> Tensor:
        x = [((torch.arange(n) + 0.5) / n if centering == "cell" else torch.linspace(0, 1, n)).double() for n in shape]
        return (2 * x[0][:, None] - x[1] + 0.3)[None, None]

    resized = linear_resize(plane(old), new, periodic=periodic, centering=centering)
    torch.testing.assert_close(resized, plane(new), rtol=0, atol=1e-6)


@pytest.mark.parametrize("centering", ["node", "cell"])
def test_linear_resizing_on_periodic_axes_has_order_two_and_commutes_with_shifts(centering):
    errors = []
    for n in (32, 64):
        f, exact = (waves((m, m), 2, centering) for m in (n, 3 * n))
        resized = linear_resize(f, (3 * n, 3 * n), periodic=True, centering=centering)
        shifted = linear_resize(f.roll(1, 2), (3 * n, 3 * n), periodic=True, centering=centering)
        torch.testing.assert_close(shifted, resized.roll(3, 2), rtol=0, atol=1e-13)
        errors.append(float((resized - exact).norm() / exact.norm()))
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_modules_multiply_the_number_of_nodes_or_intervals():
    x = torch.randn(1, 2, 8, 9)
    assert FourierResize(2)(x).shape == (1, 2, 16, 18)
    assert FourierResize(0.5)(x, (3, 4)).shape == (1, 2, 3, 4)
    assert LinearResize(2)(x).shape == (1, 2, 15, 17)
    assert LinearResize(2, periodic=(True, False))(x).shape == (1, 2, 16, 17)
    assert LinearResize(2, centering="cell")(x).shape == (1, 2, 16, 18)


def test_gradients_and_types():
    x = torch.randn(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: fourier_resize(u, (6, 4)), x)
    assert torch.autograd.gradcheck(lambda u: fourier_resize(u, (7, 3), centering="cell"), x)
    assert torch.autograd.gradcheck(lambda u: linear_resize(u, (6, 4), periodic=(True, False)), x)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert fourier_resize(x.to(dtype), (6, 4)).dtype == dtype


def test_antialiased_activation_is_the_operator_that_the_plain_one_only_approaches():
    """A square of a resolved field has modes that the grid cannot hold: they are dropped, not folded back."""
    f, fine = (waves((n,), 3) for n in (8, 64))
    exact = fourier_resize(fine.square(), (8,))
    torch.testing.assert_close(Antialiased(torch.square)(f), exact, rtol=0, atol=1e-12)
    assert (f.square() - exact).abs().max() > 0.1


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: fourier_resize(torch.randn(1, 2, 8), (4, 4)), ShapeError),
        (lambda: fourier_resize(torch.randn(1, 2, 8, dtype=torch.complex64), (4,)), ShapeError),
        (lambda: linear_resize(torch.randn(1, 2, 8), (0,)), ConfigError),
        (lambda: fourier_resize(torch.randn(1, 2, 8), (4.5,)), ConfigError),
        (lambda: fourier_resize(torch.randn(1, 2, 8), (4,), centering="foo"), ConfigError),
        (lambda: linear_resize(torch.randn(1, 2, 8), (4,), centering="foo"), ConfigError),
        (lambda: FourierResize(0), ConfigError),
        (lambda: FourierResize(2, centering="foo"), ConfigError),
        (lambda: LinearResize(-1.0), ConfigError),
        (lambda: LinearResize(math.inf), ConfigError),
        (lambda: LinearResize(2, centering="foo"), ConfigError),
        (lambda: Antialiased(torch.relu, 0), ConfigError),
        (lambda: Antialiased(torch.relu, 1.5), ConfigError),
    ],
)
def test_bad_input(call, error):
    with pytest.raises(error):
        call()


def test_linear_interpolation_along_an_axis_wraps_around_or_continues_the_outer_segments():
    x = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64).view(1, 1, 3, 1).expand(1, 1, 3, 2)
    at = torch.tensor([-0.5, 0.25, 2.0, 2.5], dtype=torch.float64)
    for periodic, expected in ((True, [2.0, 0.25, 4.0, 2.0]), (False, [-0.5, 0.25, 4.0, 5.5])):
        y = interpolate_along(x, 2, at, periodic)
        assert y.shape == (1, 1, 4, 2)
        assert y[0, 0, :, 1].tolist() == expected
    assert torch.equal(interpolate_along(x, 2, at.numpy(), False), y)
    assert torch.equal(interpolate_along(x[:, :, :1], 2, at, False), x[:, :, :1].expand(1, 1, 4, 2))
