"""Pooling and upsampling are torch's at the base grid and functions of functions on finer ones."""

import itertools
import math
from fractions import Fraction

import nn2no.pool
import pytest
import torch
import torch.nn.functional as F
from nn2no.conversion.place import to_base
from nn2no.pool import adaptive_average, adaptive_supremum, average_pool, supremum_pool
from nn2no.upsample import pixel_shuffle, pixel_unshuffle, upsample
from sciml.errors import ConfigError
from sciml.grids import Grid
from torch import Tensor

TWO_PI = 2 * math.pi
BASE = (1, 1)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def smooth(n: int, ends: bool = False) -> Tensor:
    x, y = (Grid.uniform((n, n), periodic=not ends).coords * (1.7 if ends else TWO_PI)).unbind(-1)
    return torch.stack([torch.sin(x) + torch.cos(2 * y + 0.3), torch.cos(x - y)])[None]


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("k", "stride", "padding"), [(2, None, 0), (3, 2, 1), (3, 1, 1), (4, 3, 2), ((2, 3), (2, 1), 1)]
)
def test_at_the_base_grid_pooling_is_torchs(k, stride, padding, ceil_mode):
    x = random(2, 3, 11, 12)
    for count in (True, False):
        expected = F.avg_pool2d(x, k, stride, padding, ceil_mode, count)
        ours = average_pool(x, k, stride, padding, scale=BASE, ceil_mode=ceil_mode, count_include_pad=count)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        average_pool(x, k, stride, padding, scale=BASE, divisor=5),
        F.avg_pool2d(x, k, stride, padding, divisor_override=5),
    )
    for dilation in (1, 2):
        expected = F.max_pool2d(x, k, stride, padding, dilation, ceil_mode)
        ours = supremum_pool(x, k, stride, padding, dilation, scale=BASE, ceil_mode=ceil_mode)
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 3, (2, 5), (None, 4), 11])
def test_at_the_base_grid_adaptive_pooling_is_torchs(size):
    x = random(2, 3, 11, 12)
    for ends in (False, True):
        torch.testing.assert_close(
            adaptive_average(x, size, scale=BASE, ends=ends), F.adaptive_avg_pool2d(x, size), rtol=0, atol=1e-14
        )
        torch.testing.assert_close(adaptive_supremum(x, size, scale=BASE, ends=ends), F.adaptive_max_pool2d(x, size))


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(
    ("pool", "order"),
    [
        (lambda x, **o: average_pool(x, 2, **o), 1.9),
        (lambda x, **o: average_pool(x, 3, 2, 1, count_include_pad=False, **o), 0.9),
        (lambda x, **o: supremum_pool(x, 2, **o), 0.9),
        (lambda x, **o: supremum_pool(x, 3, 2, 1, **o), 0.9),
        (lambda x, **o: supremum_pool(x, 2, 1, 0, 2, **o), 0.9),
    ],
)
def test_pooling_converges(pool, order, ends):
    g = []
    for s in (1, 2, 4, 8, 16):
        y = pool(smooth(16 * s + ends, ends), scale=(s, s), ends=ends, periodic=not ends)
        g.append(y[..., ::s, ::s])
    errors = [float((a - b).norm() / b.norm()) for a, b in itertools.pairwise(g)]
    assert errors[0] < 0.5
    assert errors[-1] < 1e-12 or math.log2(errors[1] / errors[3]) / 2 >= order


@pytest.mark.parametrize("ends", [False, True])
def test_readouts_keep_their_number_and_converge(ends):
    for readout in (adaptive_average, adaptive_supremum):
        g = [readout(smooth(12 * s + ends, ends), (1, 3), scale=(s, s), ends=ends) for s in (1, 2, 4, 8)]
        assert all(y.shape == (1, 2, 1, 3) for y in g)
        errors = [float((a - b).norm()) for a, b in itertools.pairwise(g)]
        assert errors[-1] < max(1e-3, 0.6 * errors[0])
    constant = torch.ones(1, 1, 24 + ends, 24 + ends, dtype=torch.float64)
    torch.testing.assert_close(adaptive_average(constant, 5, scale=(2, 2), ends=ends), torch.ones(1, 1, 5, 5).double())


@pytest.mark.parametrize("n_out", [1, 4, 9])
def test_means_on_node_grids_tend_to_integrals_over_hats_with_order_two(n_out):
    """x² on 9 base nodes, each of which counts for its hat: x_i² + h²/6 inside, half hats at the ends."""
    h, errors = 1 / 8, []
    hats = (torch.arange(9, dtype=torch.float64) * h) ** 2 + h**2 / 6
    hats[-1] -= 2 * h / 3
    limit = F.adaptive_avg_pool1d(hats[None, None], n_out)
    for s in (2, 4, 8, 16):
        x = torch.linspace(0, 1, 8 * s + 1, dtype=torch.float64)[None, None] ** 2
        mean = adaptive_average(x, n_out, scale=(s,), ends=True)
        nodes = to_base(x, (Fraction(s),), (True,))
        torch.testing.assert_close(mean, F.adaptive_avg_pool1d(nodes, n_out), rtol=0, atol=1e-15)
        without = to_base(x[..., :-1], (Fraction(s),), (False,))  # the same hats, all but the last
        torch.testing.assert_close(without, nodes[..., :-1], rtol=0, atol=1e-15)
        errors.append(float((mean - limit).abs().max()))
    assert all(3.9 < a / b < 4.1 for a, b in itertools.pairwise(errors))
    coarse = adaptive_average(torch.linspace(0, 1, 5)[None, None].double(), 9, scale=(0.5,), ends=True)
    torch.testing.assert_close(coarse[0, 0], torch.linspace(0, 1, 9).double(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [2, 3])
def test_at_the_base_grid_upsampling_is_torchs(mode, factor):
    x = random(2, 3, 5, 6)
    size = (5 * factor, 6 * factor)
    torch.testing.assert_close(
        upsample(x, size, mode, scale=BASE), F.interpolate(x, scale_factor=factor, mode=mode), rtol=0, atol=1e-12
    )
    if mode == "bilinear":
        for corners in (True, False):
            torch.testing.assert_close(
                upsample(x, (9, 4), mode, corners, scale=BASE),
                F.interpolate(x, (9, 4), mode=mode, align_corners=corners),
            )


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_upsampling_converges_with_order_two_where_torchs_shift_has_order_one(mode):
    """Inside, since the ends of the interpolation are clamped."""
    ours, torchs = [], []
    for s in (2, 4, 8, 16):
        x, cut = smooth(16 * s), slice(8 * s, -8 * s, s)
        ours.append(upsample(x, (32 * s,) * 2, mode, scale=(s, s))[..., cut, cut])
        torchs.append(F.interpolate(x, scale_factor=2, mode=mode)[..., cut, cut])
    errors = [float((a - b).norm()) for a, b in itertools.pairwise(ours)]
    # the positions of "bilinear" are nodes from s = 4 on
    assert errors[-1] < 1e-12 or math.log2(errors[0] / errors[-1]) / 2 >= 1.8
    if mode != "nearest":  # which here is sampled at nodes that its error leaves out
        errors = [float((a - b).norm()) for a, b in itertools.pairwise(torchs)]
        assert 0.8 <= math.log2(errors[0] / errors[-1]) / 2 <= 1.3


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffles(factor):
    x = random(2, 2 * factor**2, 4, 5)
    torch.testing.assert_close(pixel_shuffle(x, factor, scale=BASE), F.pixel_shuffle(x, factor))
    y = random(2, 2, 4 * factor, 5 * factor)
    torch.testing.assert_close(pixel_unshuffle(y, factor, scale=BASE), F.pixel_unshuffle(y, factor))
    g = []
    for s in (4, 8, 16):
        fine = pixel_unshuffle(smooth(12 * s), factor, scale=(s, s), periodic=True)
        g.append(pixel_shuffle(fine, factor, scale=(s, s), periodic=True)[..., ::s, ::s])
    errors = [float((a - b).norm()) for a, b in itertools.pairwise(g)]
    assert errors[0] / errors[1] > 3


@pytest.mark.parametrize("s", [2, 3, Fraction(3, 2)])
def test_constants_pass_at_the_ends_of_axes_without_padding(s):
    """What reaches out of the field by less than a spacing of the base grid finds its last values, not zeros."""
    n = int(12 * s)
    ones = torch.ones(1, 4, n, n, dtype=torch.float64)
    results = [average_pool(ones, 2, scale=(s, s)), pixel_unshuffle(ones, 2, scale=(s, s))]
    if isinstance(s, int):  # nodes of a grid refined by 3/2 do not repeat themselves from one input to the next
        results += [upsample(ones, (2 * n, 2 * n), mode, scale=(s, s)) for mode in ("nearest", "bicubic")]
        results.append(pixel_shuffle(ones, 2, scale=(s, s)))
    for y in results:
        torch.testing.assert_close(y, torch.ones_like(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("s", [1, 2, 3])
def test_suprema_on_periodic_axes_are_over_windows_that_wrap(s):
    """The last window begins two spacings before the end and spans s of them."""
    x = random(1, 1, 8 * s, 6 * s)
    y = supremum_pool(x, 2, scale=(s, s), periodic=(True, False))
    rows = torch.stack([x.roll(-j, 2)[:, :, ::2] for j in range(s + 1)]).amax(0)
    columns = F.pad(rows, (0, s), value=-math.inf).unfold(3, s + 1, 2).amax(-1)
    assert torch.equal(y, columns)


@pytest.mark.parametrize("s", [1, 2, 3])
def test_nearest_upsampling_of_periodic_fields_commutes_with_shifts(s):
    x = random(1, 2, 4 * s, 5 * s)
    options = {"size": (8 * s, 10 * s), "mode": "nearest", "scale": (s, s), "periodic": True}
    y = upsample(x.roll((1, 3), (2, 3)), **options)
    torch.testing.assert_close(y, upsample(x, **options).roll((2, 6), (2, 3)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("derived", [False, True])
@pytest.mark.parametrize(
    ("k", "stride", "padding", "s"),
    [(3, 2, 1, 1), (3, 2, 1, 4), (3, 1, 1, 5), ((4, 2), (2, 3), 0, 6), (2, 2, 0, Fraction(17, 2))],
)
def test_wide_windows_are_taken_axis_by_axis_with_the_same_result(k, stride, padding, s, derived, monkeypatch):
    """Bitwise, and with the same gradient where maxima are unique; never by a pass over a box of many nodes."""
    n = int(12 * s)
    x = random(2, 3, n, n).requires_grad_(derived)
    kernel, pads = (k, k) if isinstance(k, int) else k, (padding, padding)
    window = [math.floor((ki - 1 - p) * s) + math.floor(p * s) + 1 for ki, p in zip(kernel, pads, strict=True)]
    room = [math.floor(p * s) for p in pads]
    padded = F.pad(x, [room[1], n, room[0], n], value=-math.inf)
    torchs, passes = nn2no.pool.MAX_POOL[2], []
    monkeypatch.setitem(
        nn2no.pool.MAX_POOL, 2, lambda x, window, *rest: (passes.append(window), torchs(x, window, *rest))[1]
    )
    y = supremum_pool(x, k, stride, padding, scale=(s, s))
    expected = torchs(padded, window, stride)[..., : y.shape[2], : y.shape[3]]
    assert torch.equal(y, expected)
    assert all(math.prod(window) <= 64 or min(window) == 1 for window in passes)
    if derived:
        gradients = [torch.autograd.grad(v.square().sum(), x)[0] for v in (y, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-14, atol=0)


def test_the_supremum_between_points_that_are_no_nodes_is_over_their_interval():
    """Two points at the distance of 2 spacings of the base grid are 3 nodes apart, but from -3/2 to 3/2."""
    x = random(1, 1, 12)
    y = supremum_pool(x, 2, 1, 1, 2, scale=(Fraction(3, 2),))
    expected = F.max_pool1d(x, 3, 1, 1)
    assert torch.equal(y, expected)
    nodes = supremum_pool(x, 2, 1, 0, 2, scale=(Fraction(3, 2),))  # from 0 to 3
    assert torch.equal(nodes, torch.maximum(x[..., :-3], x[..., 3:]))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "call",
    [
        lambda: upsample(random(1, 1, 4, 4), (6, 6), "nearest", scale=BASE),
        lambda: upsample(random(1, 1, 4, 4), (8, 8), "area", scale=BASE),
        lambda: average_pool(random(1, 1, 9, 9), 2, scale=(2, 2)),
    ],
)
def test_bad_input(call):
    with pytest.raises(ConfigError):
        call()
