"""Convolutions as integrals: the layer itself at the base grid, an operator of second order on all others."""

import itertools
import math
from fractions import Fraction

import nn2no.local
import pytest
import torch
import torch.nn.functional as F
from nn2no.correlation import is_faster
from nn2no.errors import ResolutionWarning
from nn2no.local import (
    IntegralConv1d,
    IntegralConv2d,
    IntegralConv3d,
    extend,
    extend_axis,
    integral_conv,
    integral_conv_transpose,
    refine_kernel,
    tap_matrix,
    taps_as_tensor,
)
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor

TWO_PI = 2 * math.pi
SCALES = [Fraction(1, 4), Fraction(1, 2), Fraction(2, 3), Fraction(1), 1.3, Fraction(2), 3.7, Fraction(8)]


def waves(shape: tuple[int, ...], channels: int = 2, modes: int = 3) -> Tensor:
    """Fixed random functions of period one with |k_l| <= modes on a periodic grid."""
    generator = torch.Generator().manual_seed(5)
    k = torch.cartesian_prod(*[torch.arange(-modes, modes + 1.0, dtype=torch.float64)] * len(shape))
    k = k.reshape(-1, len(shape))
    amplitude, phase = torch.rand(2, channels, len(k), generator=generator, dtype=torch.float64)
    coords = Grid.uniform(shape, periodic=True).coords
    return (amplitude * torch.cos(TWO_PI * ((coords @ k.T)[..., None, :] + phase))).sum(-1).movedim(-1, 0)[None]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("s", SCALES)
@pytest.mark.parametrize(("taps", "dilation", "padding"), [(3, 1, 1), (4, 1, 2), (5, 2, 4), (2, 1, 0)])
def test_every_tap_keeps_its_mass_and_first_moment(s, taps, dilation, padding):
    s = s if isinstance(s, Fraction) else Fraction(s).limit_denominator(1000)
    matrix, first = tap_matrix(taps, dilation, padding, s)
    assert abs(matrix.sum(0) - 1).max() < 1e-14
    places = torch.tensor([(a * dilation - padding) * float(s) for a in range(taps)])
    nodes = torch.arange(first, first + len(matrix))
    centres = torch.as_tensor(matrix).T @ nodes.double()
    exact = s.denominator in (1, 2) or s < 1
    assert (centres - places).abs().max() / float(s) < (1e-5 if exact else 0.07)
    if s == 1:
        assert set(matrix.flatten()) == {0.0, 1.0}


@pytest.mark.parametrize("s", SCALES)
def test_constants_are_preserved_at_every_resolution(s):
    w = random(3, 2, 3, 4)
    x = torch.ones(1, 2, 40, 24, dtype=torch.float64)
    y = integral_conv(x, w, scale=(s, s), padding="same", padding_mode="circular")
    expected = w.sum((1, 2, 3)).view(1, 3, 1, 1).expand(1, 3, 40, 24)
    torch.testing.assert_close(y, expected, rtol=0, atol=2e-14 * float(w.abs().sum()))


@pytest.mark.parametrize("s", [2, 3, 5])
def test_symbol_of_a_wave(s):
    """Σ_a w_a exp(2πi m o_a) (sin(π m h0) / (s sin(π m h0/s)))² for m cycles (§2.3)."""
    n0, m = 16, 3
    w, n = random(1, 1, 5)[0, 0], n0 * s
    x = torch.exp(TWO_PI * 1j * m * torch.arange(n, dtype=torch.float64) / n)
    y = torch.complex(
        *(integral_conv(part[None, None], w[None, None], scale=(s,), padding=2, padding_mode="circular")[0, 0]
          for part in (x.real, x.imag))
    )  # fmt: skip
    offsets = (torch.arange(5, dtype=torch.float64) - 2) / n0
    taps = (w * torch.exp(TWO_PI * 1j * m * offsets)).sum()
    damping = (math.sin(math.pi * m / n0) / (s * math.sin(math.pi * m / n0 / s))) ** 2
    torch.testing.assert_close(y, taps * damping * x, rtol=0, atol=1e-13)


CASES = list(itertools.product((2, 3, 5), (1, 2, 3), (1, 2), (1, 2), ("zeros", "circular", "reflect", "replicate")))


@pytest.mark.parametrize(("k", "stride", "dilation", "groups", "mode"), CASES)
def test_at_the_base_grid_it_is_torchs_convolution(k, stride, dilation, groups, mode):
    x, w, b = random(2, 4, 12, 13), random(6, 4 // groups, k, 3), random(6)
    p = (1, 2)
    padded = x if mode == "zeros" else F.pad(x, (2, 2, 1, 1), mode=mode)
    expected = F.conv2d(padded, w, b, stride, p if mode == "zeros" else 0, dilation, groups)
    options = {"stride": stride, "padding": p, "dilation": dilation, "groups": groups, "padding_mode": mode}
    torch.testing.assert_close(integral_conv(x, w, b, scale=(1, 1), **options), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("k", "stride", "dilation", "groups", "mode"), CASES[::5])
@pytest.mark.parametrize("ends", [False, True])
def test_smoothing_and_the_original_taps_are_the_explicit_kernel(k, stride, dilation, groups, mode, ends, dtype):
    """At anisotropic whole scales, with any stride, dilation, groups and continuation."""
    scale, base = (2, 3), (12 + ends, 18 + ends)
    shape = [s * (n - ends) + ends for s, n in zip(scale, base, strict=True)]
    stride = 1 if ends and stride == 3 else stride
    x, w, b = (t.to(dtype) for t in (random(2, 4, *shape), random(6, 4 // groups, k, 3), random(6)))
    pad = [dilation * (k - 1) // 2 if stride == 1 else 2, 0 if k == 5 else dilation]
    options = {"stride": stride, "padding": pad, "dilation": dilation, "groups": groups, "padding_mode": mode}
    fast = integral_conv(x, w, b, scale=scale, ends=ends, **options)
    slow = integral_conv(x, w, b, scale=scale, ends=ends, explicit=True, **options)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(fast, slow, rtol=0, atol=tolerance * float(slow.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("k", "stride", "dilation", "groups"), [(2, 2, 1, 1), (4, 2, 1, 2), (3, 1, 2, 1), (3, 3, 1, 2)]
)
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_transposed_convolution(k, stride, dilation, groups, mode, dtype):
    """Torch's at the base grid (zeros), the explicit kernel's at others, and the adjoint of the convolution."""
    x, w, b = (t.to(dtype) for t in (random(2, 4, 6, 7), random(4, 3, k, k), random(3 * groups)))
    options = {"stride": stride, "padding": 1, "dilation": dilation, "groups": groups, "output_padding": stride - 1}
    if mode == "zeros":
        expected = F.conv_transpose2d(x, w, b, **options)
        torch.testing.assert_close(
            integral_conv_transpose(x, w, b, scale=(1, 1), **options), expected, rtol=0, atol=1e-5
        )
    fine = random(2, 4, 12, 21).to(dtype)
    fast = integral_conv_transpose(fine, w, b, scale=(2, 3), padding_mode=mode, **options)
    slow = integral_conv_transpose(fine, w, b, scale=(2, 3), padding_mode=mode, explicit=True, **options)
    assert fast.shape[2:] == tuple(
        s * ((n - 1) * stride - 2 + dilation * (k - 1) + stride) for s, n in zip((2, 3), (6, 7), strict=True)
    )
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(fast, slow, rtol=0, atol=tolerance * float(slow.abs().max()))


@pytest.mark.parametrize("call", [integral_conv, integral_conv_transpose])
def test_half_precision_holds_the_smoothing_of_large_fields(call):
    """Whose sums over s² neighbours of each axis do not fit into float16; weights and fields of normal size do."""
    x, w = 300 + random(1, 2, 64, 64), random(2, 2, 3, 3)
    options = {"scale": (16, 16), "padding": 1, "padding_mode": "circular"}
    expected = call(x, w, **options)
    tolerance = 4 * 2**-11 * float(expected.abs().max())
    torch.testing.assert_close(call(x.half(), w.half(), **options).double(), expected, rtol=0, atol=tolerance)
    with torch.autocast("cpu", torch.float16):
        half = call(x.float(), w.float(), **options)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), expected, rtol=0, atol=tolerance)


def test_circular_transposed_convolution_commutes_with_shifts():
    x, w = random(1, 2, 8, 8), random(2, 3, 4, 4)
    options = {"scale": (2, 2), "stride": 2, "padding": 1, "padding_mode": "circular"}
    y = integral_conv_transpose(x, w, **options)
    assert y.shape == (1, 3, 16, 16)
    torch.testing.assert_close(integral_conv_transpose(x.roll(3, 2), w, **options), y.roll(6, 2), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("k", "stride"), [(3, 1), (4, 2), (2, 2)])
def test_refinement_has_order_two(k, stride):
    """Self-convergence on periodic band-limited fields, over s = 2, 4, 8, 16 (row 3)."""
    w, n0 = random(3, 2, k, k), 16
    g = []
    for s in (2, 4, 8, 16):
        x = waves((n0 * s,) * 2)
        y = integral_conv(x, w, scale=(s, s), stride=stride, padding=(k - 1) // 2, padding_mode="circular")
        g.append(y[..., :: s // 2, :: s // 2])
    errors = [float((a - b).norm()) for a, b in itertools.pairwise(g)]
    assert math.log2(errors[0] / errors[-1]) / 2 >= 1.9


def test_the_limit_is_near_the_base_layer_where_the_plain_layer_is_far():
    """§2.3: random 9x9 taps at 32², |k| <= 4: 4.7 % against 121 % of the unconverted layer."""
    w, base, fine = random(1, 1, 9, 9), waves((32, 32), 1, 4), waves((256, 256), 1, 4)
    options = {"padding": 4, "padding_mode": "circular"}
    y0 = integral_conv(base, w, scale=(1, 1), **options)
    limit = integral_conv(fine, w, scale=(8, 8), **options)[..., ::8, ::8]
    raw = integral_conv(fine, w, scale=(1, 1), **options)[..., ::8, ::8]
    assert float((limit - y0).norm() / limit.norm()) < 0.1
    assert float((raw - limit).norm() / limit.norm()) > 0.5
    coarse = integral_conv(waves((16, 16), 1, 4), w, scale=(0.5, 0.5), padding="same", padding_mode="circular")
    assert float((coarse - y0[..., ::2, ::2]).norm() / y0.norm()) < 0.25


def test_refined_kernels_and_kernels_of_one_tap():
    w = random(2, 3, 3, 1)
    kernel, offsets = refine_kernel(w, (Fraction(2), Fraction(3)), padding=(1, 0))
    assert kernel.shape == (2, 3, 7, 5)
    assert offsets == (-3, -2)
    x = random(1, 3, 8, 9)
    only = random(2, 3, 1, 1)
    torch.testing.assert_close(integral_conv(x, only, scale=(2, 3)), F.conv2d(x, only))
    strided = integral_conv(x[..., :8], only, scale=(2, 2), stride=2)
    torch.testing.assert_close(strided, F.conv2d(x[..., :8], only, stride=2))


def test_grids_too_coarse_for_the_kernel_are_warned_about():
    with pytest.warns(ResolutionWarning, match="5 times as coarse"):
        g = integral_conv(random(1, 1, 8), random(1, 1, 3), scale=(Fraction(1, 5),), padding="same")
    assert g.shape == (1, 1, 8)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_layers_have_a_physical_size_in_every_dimension(dim):
    torch.manual_seed(0)
    cls = {1: IntegralConv1d, 2: IntegralConv2d, 3: IntegralConv3d}[dim]
    conv, conv_torch = cls(2, 3, 3, 1 / 8, dtype=torch.float64), {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dim]
    base = Grid.uniform((8,) * dim, periodic=True)
    f = waves(base.shape, 2, 1)
    expected = conv_torch(F.pad(f, (1, 1) * dim, mode="circular"), conv.weight, conv.bias)
    torch.testing.assert_close(conv(f, base), expected)
    limit = conv(waves((32,) * dim, 2, 1), Grid.uniform((32,) * dim, periodic=True))
    assert float((limit[(..., *[slice(None, None, 4)] * dim)] - expected).norm() / expected.norm()) < 0.2
    larger = Grid.uniform((16,) * dim, 2.0, periodic=True)  # the same spacing on a larger domain: the same taps
    f = random(1, 2, *larger.shape)
    expected = conv_torch(F.pad(f, (1, 1) * dim, mode="circular"), conv.weight, conv.bias)
    torch.testing.assert_close(conv(f, larger), expected)


def test_every_axis_has_its_spacing_and_its_dilation():
    """At the base spacings of all axes, which differ, the layer is torch's convolution with these dilations."""
    for dim, cls in ((1, IntegralConv1d), (2, IntegralConv2d), (3, IntegralConv3d)):
        shape, spacing, dilation = (9, 8, 7)[:dim], [0.1, 0.25, 0.4][:dim], [2, 1, 3][:dim]
        conv = cls(1, 2, 3, spacing, dilation=dilation, dtype=torch.float64)
        grid = Grid.uniform(shape, tuple(n * h for n, h in zip(shape, spacing, strict=True)), periodic=True)
        f = random(2, 1, *shape)
        around = F.pad(f, [d for d in reversed(dilation) for _ in range(2)], mode="circular")
        expected = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dim](around, conv.weight, conv.bias, 1, 0, dilation)
        torch.testing.assert_close(conv(f, grid), expected, rtol=0, atol=1e-13)


def test_axes_without_padding_are_continued_by_their_last_values_where_no_tap_leaves_the_field():
    w, x = random(1, 1, 2), random(1, 1, 12)
    y = integral_conv(x, w, scale=(3,), stride=2)
    torch.testing.assert_close(y, integral_conv(x, w, scale=(3,), stride=2, padding_mode="replicate"))
    ones = torch.ones(1, 1, 12, dtype=torch.float64)
    constant = integral_conv(ones, w, scale=(3,), stride=2)
    torch.testing.assert_close(constant, w.sum().expand_as(constant))


def test_layers_on_anisotropic_grids_with_walls():
    torch.manual_seed(0)
    conv = IntegralConv2d(1, 1, (3, 4), (0.1, 0.05), padding_mode="replicate", dtype=torch.float64)
    ones = torch.ones(1, 1, 24, 31, dtype=torch.float64)
    y = conv(ones, Grid.uniform(24, 2.3) * Grid.uniform(31, 1.0, periodic=True))
    torch.testing.assert_close(y, (conv.weight.sum() + conv.bias).expand_as(y))


@pytest.mark.parametrize(
    ("k", "scale", "options"),
    [
        ((3, 4), (2.5, 1.25), {}),
        ((5, 2), (3.5, 0.5), {"stride": 2}),
        ((3, 3), (1.5, 2.25), {"groups": 2, "padding_mode": "zeros"}),
        ((4, 1), (0.75, 1.5), {"padding_mode": "zeros", "dilation": 2}),
        ((3, 3), (2.5, 1), {"padding_mode": "replicate"}),
        ((5,), (2.25,), {"padding_mode": "reflect"}),
        ((2, 3, 3), (1.5, 1.5, 2.5), {"dilation": 1}),
    ],
)
def test_transforms_of_wide_kernels_are_the_explicit_kernel(k, scale, options, monkeypatch):
    """With both derivatives."""
    monkeypatch.setattr(nn2no.local, "is_faster", lambda *_: True)
    sizes = [int(8 * s) for s in scale]
    b = random(4).requires_grad_()
    x, w = random(2, 4, *sizes).requires_grad_(), random(4, 4 // options.get("groups", 1), *k).requires_grad_()
    given = {"padding": 1 if "stride" in options else "same", "padding_mode": "circular", "scale": scale, **options}
    if "stride" in options:
        w = random(4, 4, 4, 4).requires_grad_()
    fast, slow = (integral_conv(x, w, b, explicit=e, **given) for e in (False, True))
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-13 * float(slow.abs().max()))
    weights = torch.randn_like(slow)
    pairs = zip(*(torch.autograd.grad((y * weights).sum(), (x, w, b)) for y in (fast, slow)), strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * float(expected.abs().max()))
    if "stride" not in options:
        half = integral_conv(x.half(), w.half(), b.half(), **given)
        assert half.dtype == torch.float16
        torch.testing.assert_close(half.double(), slow, rtol=0, atol=4e-3 * float(slow.abs().max()))


def test_wide_kernels_are_transformed_where_it_pays():
    """k = 9 at s = 7/2 by transforms, in a twelfth of the time; k = 3 at s = 3/2 as it is, in less than half."""
    for k, s, n, pays in ((9, Fraction(7, 2), 112, True), (3, Fraction(3, 2), 96, False)):
        matrix, _ = taps_as_tensor(k, 1, k // 2, s)
        x = torch.empty(2, 16, *[n + len(matrix) - 1] * 2)
        assert is_faster(x, torch.empty(16, 16, k, k), [matrix, matrix], (1, 1), 1) == pays


def test_gradients_and_transforms():
    x, w, b = (random(*shape).requires_grad_() for shape in ((1, 2, 6, 4), (2, 2, 3, 2), (2,)))
    for scale in ((1, 1), (2, 2), (1.5, 1), (0.5, 2)):

        def conv(x, w, b, scale=scale):
            return integral_conv(x, w, b, scale=scale, padding="same", padding_mode="circular")

        assert torch.autograd.gradcheck(conv, (x, w, b))

    def transposed(x, w):
        return integral_conv_transpose(x, w, scale=(2, 1), stride=2, padding=1)

    assert torch.autograd.gradcheck(transposed, (x, random(2, 2, 4, 4).requires_grad_()))
    batch = random(3, 1, 2, 6, 4)
    mapped = torch.vmap(lambda u: integral_conv(u, w, b, scale=(2, 1), padding="same"))(batch)
    torch.testing.assert_close(mapped[1], integral_conv(batch[1], w, b, scale=(2, 1), padding="same"))


INDEX = {
    "zeros": lambda i, n: i if 0 <= i < n else None,
    "circular": lambda i, n: i % n,
    "replicate": lambda i, n: min(max(i, 0), n - 1),
    "reflect": lambda i, n: min(i % (2 * n - 2), -i % (2 * n - 2)) if n > 1 else 0,
    "symmetric": lambda i, n: min(i % (2 * n), (-1 - i) % (2 * n)),
}


@pytest.mark.parametrize("mode", INDEX)
@pytest.mark.parametrize("widths", [(1, 2), (0, 4), (4, 5), (9, 11), (-1, 1), (2, -2), (-2, 0), (-6, 12)])
@pytest.mark.parametrize("n", [1, 4, 5])
def test_continued_fields_by_index(mode, widths, n):
    """Cropped, once around or mirrored once, and further than that, as definitions on the integers say."""
    x = random(2, 3, n, 6)
    if n + sum(widths) < 1:
        return
    sources = [INDEX[mode](i, n) for i in range(-widths[0], n + widths[1])]
    expected = torch.stack([x[:, :, 0] * 0 if i is None else x[:, :, i] for i in sources], 2)
    y = extend_axis(x, 2, *widths, mode)
    assert torch.equal(y, expected)
    assert torch.equal(extend_axis(x.mT, 3, *widths, mode).mT, y)
    assert torch.equal(extend(x, (widths[0], 2), (widths[1], 3), (mode, "circular"))[..., 2:-3], y)
    assert torch.equal(torch.vmap(lambda x: extend_axis(x, 2, *widths, mode))(x[None])[0], y)


@pytest.mark.parametrize("mode", INDEX)
def test_continuation_has_two_derivatives(mode):
    x = random(1, 1, 4, 5).requires_grad_()

    def call(x: Tensor) -> Tensor:
        return extend(x, (2, 3), (1, 4), mode).square()

    assert torch.autograd.gradcheck(call, x)
    assert torch.autograd.gradgradcheck(call, x)


@pytest.mark.unchecked
@pytest.mark.parametrize("mode", INDEX)
def test_continuation_compiles_in_one_graph(mode):
    x = random(1, 2, 8, 8)
    compiled = torch.compile(extend, fullgraph=True, backend="aot_eager")
    for widths in ((2, 3), (20, -3)):
        assert torch.equal(compiled(x, widths, (1, 1), mode), extend(x, widths, (1, 1), mode))


@pytest.mark.unchecked
def test_compiles_in_one_graph():
    x, w = random(1, 2, 8, 8), random(2, 2, 3, 3)

    def conv(x, w):
        return integral_conv(x, w, scale=(2, 2), padding=1, padding_mode="circular")

    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, w), conv(x, w))


@pytest.mark.unchecked
@pytest.mark.parametrize("wide", [False, True])
def test_compiles_in_one_graph_on_grids_of_any_spacing(wide, monkeypatch):
    monkeypatch.setattr(nn2no.local, "is_faster", lambda *_: wide)
    torch.manual_seed(0)
    conv = IntegralConv2d(2, 2, 3, 0.1, dtype=torch.float64)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    for n in (16, 20, 24):
        f, grid = random(1, 2, n, n), Grid.uniform((n, n), periodic=True)
        torch.testing.assert_close(compiled(f, grid), conv(f, grid))


UNIT, TINY = Grid.uniform(16, periodic=True), Grid.uniform(16, 1e-7)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: integral_conv(random(1, 1, 9), random(1, 1, 3), scale=(2,), stride=2), ConfigError, "whole number"),
        (lambda: integral_conv(random(1, 1, 8), random(1, 1, 3), scale=(0,)), ConfigError, "positive"),
        (lambda: integral_conv(random(1, 1, 8), random(1, 1, 3), scale=(1.3,)), ConfigError, "whole number"),
        (
            lambda: integral_conv(random(1, 1, 8), random(1, 1, 3), scale=(1,), padding=1, padding_mode="wrap"),
            ConfigError,
            "choose 'zeros'",
        ),
        (
            lambda: integral_conv_transpose(random(1, 1, 8), random(1, 1, 3), scale=(1,), padding_mode="reflect"),
            ConfigError,
            "'zeros' or 'circular'",
        ),
        (lambda: IntegralConv2d(1, 1, 3, 0.0), ConfigError, "positive number"),
        (lambda: IntegralConv2d(1, 1, 0, 0.1), ConfigError, "kernel_size=0.*positive whole"),
        (lambda: IntegralConv2d(1, 1, (3, 3, 3), 0.1), ConfigError, "each of 2"),
        (lambda: IntegralConv2d(1, 1, 2.5, 0.1), ConfigError, "kernel_size=2.5"),  # type: ignore[arg-type]
        (lambda: IntegralConv1d(2, 2, 3, 0.1, groups=0), ConfigError, ", 0 groups"),
        (lambda: IntegralConv1d(1, 1, 3, 1e-9)(random(1, 1, 16), UNIT), ConfigError, "at least a millionth"),
        (lambda: IntegralConv1d(1, 1, 3, 1.0)(random(1, 1, 16), TINY), ConfigError, "more than 32 times its length"),
        (lambda: IntegralConv2d(1, 1, 3, 0.1, padding_mode="circular"), ConfigError, "periodic axes always wrap"),
        (lambda: IntegralConv2d(3, 1, 3, 0.1, groups=2), ConfigError, "groups"),
        (lambda: IntegralConv1d(1, 1, 3, 0.1)(random(1, 2, 8), Grid.uniform(8)), ShapeError, r"\(batch, 1"),
        (lambda: IntegralConv1d(1, 1, 3, 0.1)(random(1, 1, 8), Grid.chebyshev(8)), ShapeError, "equispaced"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
