"""Rules of the converter that other tests pass by: masks, values of borders, statistics, strides of slices, options."""

import math
import warnings
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from nn2no import ResolutionWarning
from nn2no.alternatives import interpolated_kernel
from nn2no.conversion import convert
from nn2no.conversion.local_rules import padding
from nn2no.conversion.norm_rules import node_weights
from nn2no.conversion.place import Options, Place
from nn2no.conversion.rules import ACTIVATIONS
from nn2no.conversion.trace import Call
from nn2no.errors import ConversionError
from nn2no.resample import fourier_resize
from nn2no.spectral import SpectralConv
from sciml.grids import Grid
from torch import Tensor, nn


@pytest.mark.parametrize(
    "name", ["hardtanh", "logsigmoid", "softsign", "hardsigmoid", "tanhshrink", "softshrink", "hardshrink", "elu"]
)
def test_functional_nonlinearities_are_evaluated_on_a_finer_grid(name, operator):
    _assert_antialiased(getattr(F, name), operator)


@pytest.mark.parametrize(
    "function",
    [
        nn.PReLU(dtype=torch.float64),
        nn.Threshold(0.1, 0.0),
        nn.ReLU(inplace=True),
        nn.Hardtanh(-0.5, 0.5),
        nn.Softsign(),
        nn.LogSigmoid(),
        nn.Tanhshrink(),
        nn.Hardsigmoid(),
        lambda x: 2.0**x,
        lambda x: 1 / (x + 9),
        lambda x: x / (x + 9),
        lambda x: torch.maximum(x, 0 * x),
        torch.abs,
        torch.exp,
        lambda x: x**2,
        lambda x: x * x,
        lambda x: torch.mul(x, x + 1),
        lambda x: x.clamp(min=0),
        lambda x: x.cos(),
        lambda x: F.glu(torch.cat([x, x], 1), 1),
    ],
)
def test_nonlinearities_of_modules_and_tensors_are_evaluated_on_a_finer_grid(function, operator):
    _assert_antialiased(function, operator)


def _assert_antialiased(function: Callable[[Tensor], Tensor], operator) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 16, 16, dtype=torch.float64)  # whose products the grid cannot hold
    fine = fourier_resize(x, (32, 32))
    with torch.no_grad():
        expected = fourier_resize(function(fine), (16, 16))
        found = operator(function, 16, activation="antialiased")(x)
        pointwise = function(x.clone())
    torch.testing.assert_close(found, expected)
    assert (found - pointwise).abs().max() > 1e-3


@pytest.mark.parametrize("write", [F.relu_, lambda x: F.relu(x, inplace=True), lambda x: x.mul_(x), lambda x: x.exp_()])
def test_what_writes_into_a_field_does_so_after_filtering(write, operator):
    def function(x: Tensor) -> Tensor:
        y = x.clone()
        write(y)
        return y

    _assert_antialiased(function, operator)


def test_products_with_numbers_and_gates_are_linear_and_left_alone(operator, field):
    x, gate = field(16), torch.rand(1, 1, 1, 1, dtype=torch.float64)
    found = operator(lambda y: 2 * y * gate, 16, activation="antialiased")(x)
    assert torch.equal(found, 2 * x * gate)
    assert torch.Tensor.__mul__ not in ACTIVATIONS


@pytest.mark.parametrize("dims", [(2, 3), 2, (3,), -1])
def test_means_over_axes_of_a_field_between_walls_are_integrals_of_second_order(dims, operator, field):
    """The limit is the mean over the base nodes of the means over their hats."""
    found = [
        operator(lambda y: y.mean(dims, keepdim=True), 9, periodic=False)(field(8 * s + 1, False)) for s in (4, 8, 16)
    ]
    if dims == (2, 3):
        ends = [found[i].squeeze() for i in range(3)]
    else:  # the other axis is refined: compare at its middle
        ends = [f.squeeze()[(f.numel() - 1) // 2] for f in found]
    first, second = abs(float(ends[1] - ends[0])), abs(float(ends[2] - ends[1]))
    assert first / second == pytest.approx(4, rel=0.1)


def attention(mask: Callable[[int], Tensor | None]) -> Callable[[Tensor], Tensor]:
    """One query attends to all points of a field between walls."""

    def call(x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        n = tokens.shape[1]
        query = torch.ones(1, 1, 1, dtype=x.dtype)
        return F.scaled_dot_product_attention(query, tokens, tokens, attn_mask=mask(n))

    return call


@pytest.mark.parametrize("kind", ["none", "additive", "boolean"])
def test_masks_stay_beside_the_weights_of_the_points(kind, operator, field):
    """A mask of one column holds for all points: of scores it changes nothing, a closed one lets nothing through."""
    masks = {
        "none": lambda n: None,
        "additive": lambda n: torch.full((1, 1), 0.7, dtype=torch.float64),
        "boolean": lambda n: torch.ones(1, 1, dtype=torch.bool),
    }
    n, x = 5, field(9, False)
    found = operator(attention(masks[kind]), n, periodic=False)(x)
    trapezoid = torch.ones(9, dtype=torch.float64)
    trapezoid[0] = trapezoid[-1] = 0.5
    values = x.flatten()
    weights = (trapezoid[:, None] * trapezoid).flatten() * values.exp()
    torch.testing.assert_close(found.flatten()[0], (weights * values).sum() / weights.sum())


def test_a_closed_boolean_mask_lets_nothing_through(operator, field):
    mask = torch.zeros(1, 1, dtype=torch.bool)
    found = operator(attention(lambda n: mask), 5, periodic=False, strict=False)(field(9, False))
    assert (found == 0).all()


def test_an_additive_mask_of_all_queries_is_added_to_the_weights(operator, field):
    """A mask with a row for each of two queries: one as it is, one of minus infinity."""
    mask = torch.tensor([[0.0], [-math.inf]], dtype=torch.float64)

    def call(x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return F.scaled_dot_product_attention(torch.ones(1, 2, 1, dtype=x.dtype), tokens, tokens, attn_mask=mask)

    found = operator(call, 5, periodic=False, strict=False)(field(9, False))
    assert found[0, 0] != 0
    assert found[0, 1] == 0


def test_borders_keep_their_value(operator):
    kernel = torch.ones(1, 1, 3, 3, dtype=torch.float64) / 9

    def net(x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), value=7.0), kernel)

    for s in (1, 2, 4):
        x = torch.full((1, 1, 8 * s, 8 * s), 7.0, dtype=torch.float64)
        torch.testing.assert_close(operator(net)(x), x)


def test_strided_slices_keep_their_step(operator, field):
    found = operator(lambda x: x[..., ::4, ::2])(field(16))
    torch.testing.assert_close(found, field(16)[..., ::4, ::2])


def test_running_statistics_follow_their_momentum_between_walls(field):
    grid = Grid.uniform((9, 9))
    module = nn.Sequential(nn.BatchNorm2d(1, momentum=0.25)).double().train()
    op = convert(module, grid, example_input=field(9, False))
    module[0].reset_running_stats()
    x = field(33, False) + 3
    op(x)
    mean = grid.uniform((33, 33)).integrate(x)
    assert float(module[0].running_mean) == pytest.approx(0.25 * float(mean))


def test_readouts_return_to_the_grid_linearly(operator, field):
    def net(x: Tensor) -> Tensor:
        return F.interpolate(F.adaptive_avg_pool2d(x, 4), size=x.shape[2:], mode="bilinear", align_corners=True)

    found = operator(net, 9, periodic=False)(field(17, False))
    assert float(found.diff(n=2, dim=2).abs().amax()) > 1e-3  # kinks at the base nodes alone
    inside = found.diff(n=2, dim=2)[..., 0::2, :]
    assert float(inside.abs().max()) < float(found.diff(n=2, dim=2)[..., 1::2, :].abs().max())


@pytest.mark.parametrize(("conv", "kind"), [("kernel-interp", "linear"), ("kernel-interp-fourier", "fourier")])
def test_kernels_are_resized_as_asked(conv, kind, field):
    torch.manual_seed(0)
    module = nn.Conv2d(1, 1, 5, padding=2, padding_mode="circular").double()
    x, s = field(32), 2
    y = convert(module, Grid.uniform((16, 16), periodic=True), conv=conv)(x)
    wide = F.pad(x, (4, 4, 4, 4), mode="circular")
    expected = F.conv2d(wide, interpolated_kernel(module.weight, s, kind), module.bias)
    torch.testing.assert_close(y, expected)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("module", "base", "message"),
    [
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), 80, "10 times as coarse"),
        (SpectralConv(1, 1, (7, 7)), 16, r"8 nodes holds the modes \|k\| <= 3 only: those up to 7 are left out"),
    ],
)
def test_warnings_of_coarse_grids_can_be_made_errors(module, base, message):
    """The strict mode of layers: each pass raises, and names what would be left out."""
    op = convert(module, Grid.uniform((base, base), periodic=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResolutionWarning)
        for _ in range(2):
            with pytest.raises(ResolutionWarning, match=message):
                op(torch.zeros(1, 1, 8, 8))


def test_borders_that_end_between_nodes_are_interpolated():
    """A border of one base node on a grid 3/4 as fine is 3/4 wide: the field at -3/4, 1/4, ... there."""

    n = 6
    place = Place(
        (8,), (Fraction(3, 4),), (False,), (True,), Options("integral", *["torch"] * 3, "ratio", "pointwise", None)
    )
    x = torch.arange(n, dtype=torch.float64)[None, None]
    call = Call("padding", "", {"pad": (1, 1), "mode": "circular"}, (1, 1, 8), (1, 1, 10))
    found = padding(place, call, {"input": x, "pad": (1, 1), "mode": "circular"}, lambda: x)
    expected = [x[..., -1] * 0.75 + x[..., 0] * 0.25]
    torch.testing.assert_close(found[..., 0], expected[0])
    torch.testing.assert_close(found[..., 2], x[..., 1] * 0.75 + x[..., 2] * 0.25)


def test_a_single_node_stands_for_the_whole_axis(operator):
    place = Place((9, 9), (Fraction(2),) * 2, (True, True), (False, False), operator(lambda y: y).options)
    weights = node_weights(place, torch.zeros(1, 1, 17, 1, dtype=torch.float64))
    torch.testing.assert_close(weights[:, 0], Grid.uniform(17).weights)


def test_steps_between_walls_stay_as_wide(operator, field):
    """In steps of 3 from the node 2 of 9 on: 2, 5, 8; twice as fine 4, 7, 10, 13, 16."""
    found = operator(lambda x: x[..., 2::3], 9, periodic=False)(field(17, False))
    torch.testing.assert_close(found, field(17, False)[..., 4::3])


@pytest.mark.unchecked
def test_slices_that_would_go_on_beyond_the_last_cell_are_refused(as_network):
    """The cells 1, 4, 7 of 8 would be 2, 5, 8, 11, 14, 17 of 16."""
    with pytest.raises(ConversionError, match="no counterpart on 16 nodes"):
        convert(as_network(lambda x: x[..., 1::3]), Grid.uniform((8, 8), centering="cell"))
