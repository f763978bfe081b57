"""What a network counts in points: products, lengths, indices, mirror images, transforms, sizes written into it."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from nn2no.convergence import check_discretization_convergence as check
from nn2no.conversion import convert, explain
from nn2no.errors import ConversionError
from nn2no.spectral import SpectralConv
from sciml.grids import Grid
from torch import Tensor, nn


def rule(op, kind: str) -> str:
    return next(row for row in op.report.rows if row.kind == kind).rule


def far(op) -> tuple[float, float]:
    """The difference of the base grid from a fine one, and the order."""
    report = check(op, (8, 16, 32, 64), probe=smooth(op.base_grid.periodic[0]))
    return report.base_mismatch, report.order


def smooth(periodic: bool):
    def probe(grid: Grid) -> Tensor:
        x, y = grid.coords.unbind(-1)
        if periodic:
            x, y = (2 * math.pi * x).sin(), (2 * math.pi * y + 1).cos()
        return (x + y**2 + 0.5)[None, None]

    return probe


LENGTHS = [
    lambda x: x / x.norm(dim=(2, 3), keepdim=True),
    lambda x: torch.norm(x, 2, (2, 3)),
    lambda x: torch.linalg.vector_norm(x, dim=(2, 3)),
    lambda x: torch.linalg.vector_norm(x, 3, dim=(2, 3)),
    lambda x: F.normalize(x.flatten(2), dim=-1).unflatten(2, x.shape[2:]),
    lambda x: x.flatten(2).norm(1, -1),
]
PRODUCTS = [
    lambda x: (x.flatten(2) @ x.flatten(2).mT).flatten(1),
    lambda x: torch.einsum("bcij,bdij->bcd", x, x).flatten(1),
    lambda x: torch.einsum("bc...,bd...->bcd", x, x.tanh()).flatten(1),
    lambda x: torch.bmm(x.flatten(2), x.flatten(2).mT)[:, 0],
]


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("function", LENGTHS + PRODUCTS)
def test_lengths_and_products_over_points_are_integrals(function, periodic, operator):
    """With as many points as on the base grid: of squares of band-limited periodic fields, exactly."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op = operator(function, 8 if periodic else 9, periodic)
    mismatch, order = far(op)
    exact = periodic and function in (*LENGTHS[:3], LENGTHS[4], *PRODUCTS[:2], PRODUCTS[3])
    assert mismatch < (1e-12 if exact else 0.05)
    assert exact or order > 1.8
    assert op.weighted == {"sums"}
    assert "counts the points of the base grid" in str(op.report)


@pytest.mark.parametrize(
    ("function", "kind", "reason"),
    [
        (lambda x: x.norm(dim=(2, 3)) / math.sqrt(x.shape[2] * x.shape[3]), "length", "divides by"),
        (lambda x: (x.flatten(2) @ x.flatten(2).mT)[..., 0] / x[0, 0].numel(), "product", "divides by"),
        (lambda x: x.norm(dim=(2, 3)) / x.abs().norm(dim=(2, 3)), "length", "cancels"),
        (lambda x: x + torch.arange(x.shape[-1]) / x.shape[-1], "indices of points", "divides by"),
        (lambda x: x[..., torch.arange(x.shape[-1])], "indices of points", "divides by"),
        (lambda x: x @ torch.eye(x.shape[-1], dtype=x.dtype), "product", "divides by"),
    ],
)
def test_what_the_network_divides_by_the_number_of_points_is_left_alone(function, kind, reason, operator, field):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op = operator(function)
    assert not op.weighted
    assert reason in rule(op, kind)
    x = field(16)
    torch.testing.assert_close(op(x), function(x), rtol=0, atol=0)


def test_indices_in_pixels_are_places_on_the_base_grid(operator, field):
    op = operator(lambda x: x + 0.1 * torch.arange(x.shape[-1]))
    assert op.weighted == {"indices"}
    x = field(32)
    torch.testing.assert_close(op(x), x + 0.1 * torch.arange(32) / 4)


def test_products_that_count_in_no_known_way_are_warned_about(operator):
    """The square root of their number is neither one reading nor the other."""
    with pytest.warns(UserWarning, match="product over points, whose number it may count"):
        op = operator(lambda x: (x.flatten(2) @ x.flatten(2).mT)[:, 0] / math.sqrt(x[0, 0].numel()))
    assert not op.weighted
    assert not op.report.problems


def test_layers_that_know_their_grid_are_not_asked(field):
    """Their products over points are integrals already."""
    net = nn.Sequential(SpectralConv(1, 2, (3, 3)), nn.Conv2d(2, 1, 1)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op = convert(net, Grid.uniform((8, 8), periodic=True))
    assert not op.weighted
    assert not {row.kind for row in op.report.rows} & {"product", "contraction", "indices of points"}
    for _ in range(2):  # the second time without making the matrices
        assert torch.equal(op(field(32)), net(field(32)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flip(-1),
        lambda x: torch.flip(x, (2, 3)),
        lambda x: x.flip(2, 3),
        lambda x: torch.rot90(x, 1, (2, 3)),
        lambda x: torch.rot90(x, -1, (2, 3)),
        lambda x: x.rot90(2, (-2, -1)),
        lambda x: x.rot90(4, (2, 3)),
    ],
)
def test_mirror_images_of_periodic_nodes_are_those_of_the_base_grid(function, operator, field):
    """Node i becomes n₀ - 1 - i there: x becomes -x - h₀."""
    op = operator(function)
    assert torch.equal(op(field(8)), function(field(8)))
    for s in (2, 4):
        torch.testing.assert_close(op(field(8 * s))[..., ::s, ::s], op(field(8)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("centering", ["node", "cell"])
def test_mirror_images_between_walls_are_plain(centering, as_network, field):
    grid = Grid.uniform((9, 9), centering=centering)
    n = 17 if centering == "node" else 18
    x = field(n, False)
    assert torch.equal(convert(as_network(lambda y: y.flip(2)), grid)(x), x.flip(2))


@pytest.mark.unchecked
def test_flips_of_tokens_are_refused(operator):
    with pytest.raises(ConversionError, match="not on an axis of a field"):
        operator(lambda x: x.flatten(2).flip(2))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.cat([x, x], 1).view(len(x), -1, 8, 8), "is reshaped to .* mixes other values"),
        (lambda x: x.view(len(x), -1, 8, 8), "mixes other values"),
        (lambda x: torch.cat([x, x], 1).reshape(len(x), -1, 64), "mixes other values"),
        (lambda x: torch.cat([x, x], 1).flatten(2).mT.mT.reshape(len(x), -1, 8, 8), "mixes other values"),
        (
            lambda x: F.adaptive_avg_pool2d(torch.cat([x, x], 1).view(len(x), -1, 8, 8), 1).flatten(1),
            "mixes other values",
        ),
        (lambda x: torch.cat([*x.unfold(2, 8, 8).unbind(2)], 1), "windows of pixels"),
        (lambda x: torch.fft.ifft2(torch.fft.fft2(x), s=(8, 8)).real, "nodes of the base grid on a grid of"),
        (nn.FractionalMaxPool2d(2, output_ratio=0.5), "drawn among the pixels"),
        (lambda x: x.prod(-1), "product over points"),
        (lambda x: torch.cdist(x.flatten(2), x.flatten(2) + 1), "summed over points"),
        (lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True), "antialias=True"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic", antialias=True), "antialias=True"),
        (lambda x: torch.stack([x[0, 0]] * x.shape[2])[None], "axis 1 holds other things than points"),
    ],
)
def test_sizes_and_windows_of_pixels_are_refused(function, message, operator):
    with pytest.raises(ConversionError, match=message):
        operator(function)


def test_antialiasing_makes_no_difference_to_linear_upsampling(operator, field):
    plain, smoothed = (
        operator(lambda x, a=a: F.interpolate(x, scale_factor=2, mode="bilinear", antialias=a)) for a in (False, True)
    )
    torch.testing.assert_close(smoothed(field(8)), plain(field(8)))
    assert torch.equal(smoothed(field(16)), plain(field(16)))


def test_low_modes_of_a_transform_stay_the_low_modes(operator, field):
    def low_pass(x: Tensor) -> Tensor:
        modes = torch.zeros_like(torch.fft.fft2(x))
        modes[..., :2, :2] = torch.fft.fft2(x)[..., :2, :2]
        return torch.fft.ifft2(modes).real

    op = operator(low_pass)
    assert "modes keep their places" in rule(op, "Fourier transform")
    torch.testing.assert_close(op(field(32))[..., ::4, ::4], op(field(8)))


def test_reshapes_are_only_readouts_where_points_become_numbers(operator):
    assert "unchanged" in rule(operator(lambda x: x.flatten(2)), "flattening")
    assert "readout" in rule(operator(lambda x: x.flatten(1)), "flattening")
    assert "readout" in rule(operator(lambda x: x.reshape(len(x), -1)), "flattening")


class Roll(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(x, 2, -1)


class View(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, 16, 16)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.flatten(2).mT)[0].mT.reshape(x.shape)


class Added(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(16, 16)


@pytest.mark.unchecked
def test_all_layers_that_cannot_be_converted_are_listed():
    grid = Grid.uniform((16, 16), periodic=True)
    parts = (nn.Conv2d(1, 4, 3, padding=1), Roll(), View(), Recurrent(), nn.Conv2d(4, 4, 1), Roll(), nn.Unfold(2))
    with pytest.raises(ConversionError) as caught:
        convert(nn.Sequential(*parts), grid)
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == ["1", "2", "3.rnn", "5", "6"]
    report = explain(nn.Sequential(*parts), grid)
    assert len({(row.name, row.kind) for row in report.rows}) == len(report.rows)
    assert [row.supported for row in report.rows if row.name in ("1", "2", "5", "6")] == [False] * 4


@pytest.mark.unchecked
def test_what_was_not_tried_is_said_to_be_so():
    grid = Grid.uniform((16, 16), periodic=True)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Roll(), nn.GELU(), Added(), nn.ReLU(), nn.Conv2d(4, 1, 3))
    rules = {row.name: row for row in explain(net, grid).rows}
    assert not rules["1"].supported
    assert "point by point" in rules["2"].rule
    assert not rules["3"].supported
    assert "may follow" in rules["3"].rule
    assert "not tried" in rules["4"].rule
    assert "not tried" in rules["5"].rule

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.spare = nn.Conv2d(1, 1, 1), nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    assert {r.name: r.rule for r in explain(Unused(), grid).rows}["spare"] == "is not called"
