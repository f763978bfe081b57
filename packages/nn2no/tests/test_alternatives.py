"""Three other rules for convolutions: each is the layer itself at the base grid, and what it says on others."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from nn2no.alternatives import (
    interpolated_kernel,
    kernel_interpolation_conv,
    kernel_interpolation_conv_transpose,
    moment_conv,
    moment_matrix,
    resized_conv,
)
from nn2no.local import integral_conv
from sciml.errors import ConfigError
from sciml.grids import Grid
from torch import Tensor

TWO_PI = 2 * math.pi


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def waves(n: int, modes: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    k = torch.cartesian_prod(*[torch.arange(-modes, modes + 1.0, dtype=torch.float64)] * 2)
    amplitude, phase = torch.rand(2, len(k), generator=generator, dtype=torch.float64)
    coords = Grid.uniform((n, n), periodic=True).coords
    return (amplitude * torch.cos(TWO_PI * (coords @ k.T + phase))).sum(-1)[None, None]


@pytest.mark.parametrize("conv", [kernel_interpolation_conv, moment_conv, resized_conv])
@pytest.mark.parametrize("stride", [1, 2])
def test_at_the_base_grid_each_is_the_layer(conv, stride):
    x, w, b = random(2, 4, 8, 8), random(6, 2, 3, 3), random(6)
    expected = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), w, b, stride, groups=2)
    y = conv(x, w, b, scale=(1, 1), stride=stride, padding=1, groups=2, padding_mode="circular")
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("k", "s", "size"), [(3, 2, 5), (9, 4, 33), (4, 2, 7), (3, 0.5, 2), (1, 8, 1)])
def test_interpolated_kernels_keep_their_sum_on_average(k, s, size):
    w = torch.ones(1, 1, k, k, dtype=torch.float64)
    for kind in ("linear", "fourier"):
        kernel = interpolated_kernel(w, s, kind)
        assert kernel.shape == (1, 1, size, size)
        torch.testing.assert_close(kernel.sum(), w.sum())


def test_kernel_interpolation_is_farther_from_the_base_layer_than_the_integral():
    """§2.3: random 9x9 taps, 32², |k| <= 4; 24.6 % against 4.7 %."""
    w, base = random(1, 1, 9, 9), waves(32)
    expected = F.conv2d(F.pad(base, (4,) * 4, mode="circular"), w)
    options = {"padding": 4, "padding_mode": "circular"}
    errors = {}
    for name, conv in (("interpolated", kernel_interpolation_conv), ("integral", integral_conv)):
        y = conv(waves(256), w, scale=(8, 8), **options)[..., ::8, ::8]
        errors[name] = float((y - expected).norm() / y.norm())
    assert errors["integral"] < 0.1 < errors["interpolated"] < 0.5


def test_kernel_interpolation_of_transposed_convolutions_has_the_refined_size():
    x, w = random(1, 2, 8, 8), random(2, 3, 4, 4)
    base = kernel_interpolation_conv_transpose(x, w, scale=(1, 1), stride=2, padding=2)
    expected = F.pad(F.conv_transpose2d(x, w, stride=2, padding=2), (1, 1, 1, 1))
    torch.testing.assert_close(base, expected)
    fine = kernel_interpolation_conv_transpose(random(1, 2, 16, 16), w, scale=(2, 2), stride=2, padding=2)
    assert fine.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("s", [Fraction(1), Fraction(2), Fraction(3, 2), Fraction(1, 2)])
def test_moments_are_kept(s):
    w, nodes = random(3).numpy(), torch.arange(-1, 2).numpy()
    finer = moment_matrix(3, s) @ w
    for q in range(3):
        assert (finer * (nodes / float(s)) ** q).sum() == pytest.approx((w * nodes.astype(float) ** q).sum(), abs=1e-12)


def test_moment_stencils_converge_with_order_two_and_start_near_their_limit():
    w, g = random(1, 1, 3, 3), []
    for s in (1, 2, 4, 8, 16):
        y = moment_conv(waves(32 * s), w, scale=(s, s), padding=1, padding_mode="circular")
        g.append(y[..., ::s, ::s])
    errors = [float((a - b).norm() / b.norm()) for a, b in itertools.pairwise(g)]
    assert errors[0] < 0.15
    assert math.log2(errors[1] / errors[3]) / 2 >= 1.9


def test_the_fourier_multiplier_is_one_function_on_every_grid_that_holds_the_field():
    w = random(2, 1, 3, 3)
    options = {"padding": 1, "stride": 2}
    base = resized_conv(waves(32), w, scale=(1, 1), **options)
    for s in (Fraction(2), Fraction(3, 2), Fraction(3)):
        fine = resized_conv(waves(int(32 * s)), w, scale=(s, s), **options)
        torch.testing.assert_close(
            Grid.uniform((16, 16), periodic=True).interpolate(base, Grid.uniform(tuple(fine.shape[2:]), periodic=True)),
            fine, rtol=0, atol=1e-11,
        )  # fmt: skip


@pytest.mark.unchecked
@pytest.mark.parametrize(("k", "padding"), [(5, 2), (2, 0), (3, 0)])
def test_large_stencils_are_refused(k, padding):
    with pytest.raises(ConfigError, match="amplify noise"):
        moment_conv(random(1, 1, 8, 8), random(1, 1, k, k), scale=(2, 2), padding=padding)
