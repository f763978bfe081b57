"""Fourier neural operators are functions of functions; their parameters are those of the paper's models."""

import itertools

import pytest
import torch
from nn2no.embedding import CoordinateEmbedding
from nn2no.models.fno import FNO, LocalNO
from nn2no.pointwise import ChannelLinear, ChannelMLP
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn


def smooth(*shape: int) -> Tensor:
    grid = Grid.uniform(shape, periodic=True)
    phases = (2 * torch.pi * grid.coords).unbind(-1)
    return torch.stack([p.sin() for p in phases]).sum(0)[None, None]


def small(**config: object) -> FNO:
    torch.manual_seed(0)
    return FNO(**{"n_modes": (3, 3), "width": 6, "n_layers": 2, "dtype": "float64", **config})  # type: ignore[arg-type]


@pytest.mark.parametrize("shapes", [((24,), (33,)), ((24, 25), (48, 49)), ((12, 13, 14), (24, 25, 26))])
def test_one_function_at_odd_and_even_sizes_of_every_dimension(shapes):
    model = small(n_modes=(3,) * len(shapes[0]))
    a, b = (model(smooth(*shape)) for shape in shapes)
    fine = Grid.uniform(shapes[1], periodic=True)
    difference = Grid.uniform(shapes[0], periodic=True).interpolate(a, fine) - b
    assert float(fine.norm(difference) / fine.norm(b)) < 2e-3


@pytest.mark.parametrize("shape", [(16,), (16, 16), (64, 64), (8, 9, 10)])
def test_an_empty_batch_stays_empty(shape):
    for padding in (0.0, 0.25):
        model = small(n_modes=(3,) * len(shape), periodic=padding == 0, padding=padding)
        assert model(torch.zeros(0, 1, *shape, dtype=torch.float64)).shape == (0, 1, *shape)


def test_the_output_can_be_asked_for_on_another_grid():
    model, fine = small(), Grid.uniform((48, 50), periodic=True)
    f = smooth(24, 24)
    g = model(f, to=fine)
    assert g.shape == (1, 1, 48, 50)
    torch.testing.assert_close(g, model(smooth(48, 50)), rtol=0, atol=1e-3)
    with pytest.raises(ShapeError):
        model(f, grid=fine)


def test_equivariant_to_shifts_with_periodic_or_no_coordinates_but_not_with_raw_ones():
    f = smooth(16, 16)
    for kind, moves in (("none", True), ("raw", False)):
        model = small(embedding=kind)
        error = (model(f.roll(5, 2)) - model(f).roll(5, 2)).abs().max()
        assert (float(error) < 1e-12) == moves


def test_embedded_coordinates():
    f = torch.zeros(2, 1, 4, 5)
    grid = Grid.uniform(4, periodic=True) * Grid.uniform(5, 3.0)
    raw = CoordinateEmbedding("raw")(f, grid)
    torch.testing.assert_close(raw[0, 1, :, 0], torch.arange(4) / 4)
    torch.testing.assert_close(raw[1, 2, 0], torch.linspace(0, 1, 5))
    wave = CoordinateEmbedding("periodic")(f, grid)
    assert wave.shape == (2, 4, 4, 5)
    torch.testing.assert_close(wave[0, 1, :, 0], torch.tensor([1.0, 0.0, -1.0, 0.0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(wave[0, 3, 0], torch.linspace(0, 1, 5))
    assert CoordinateEmbedding("none")(f, grid) is f
    chebyshev = CoordinateEmbedding("raw")(torch.zeros(1, 1, 5), Grid.chebyshev(5, 2.0))
    torch.testing.assert_close(chebyshev[0, 1], (Grid.chebyshev(5).coords[:, 0]).float())


def test_a_channel_map_is_a_convolution_of_size_one():
    linear, conv = ChannelLinear(3, 4), nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        conv.weight.copy_(linear.weight[..., None, None])
        conv.bias.copy_(linear.bias)  # type: ignore[union-attr]
    x, more = torch.randn(2, 3, 5, 6), torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(linear(x), conv(x))
    torch.testing.assert_close(linear(x, more), conv(x) + more)
    assert ChannelMLP(3, 8, 2)(x).shape == (2, 2, 5, 6)


def test_padding_serves_fields_that_are_not_periodic():
    """Of second order, like the trapezoidal rule, for a field with different ends."""
    model, outputs = small(n_modes=(3,), periodic=False, padding=0.25, embedding="raw"), []
    for n in (33, 65, 129):
        x = torch.linspace(0, 1, n, dtype=torch.float64)
        outputs.append(model(torch.exp(x)[None, None])[..., :: (n - 1) // 32])
    a, b = (float((u - v).norm()) for u, v in itertools.pairwise(outputs))
    assert 3.5 < a / b < 4.5


def test_antialiased_activations_are_closer_to_equivariance_under_half_a_spacing():
    """Frequencies that the grid cannot hold are what breaks it."""
    grid, errors = Grid.uniform((8, 8), periodic=True), []
    points = (grid.coords + torch.tensor([1 / 16, 0.0])).reshape(-1, 2)

    def shifted(u: Tensor) -> Tensor:
        return grid.interpolate(u, points).transpose(1, 2).reshape(u.shape)

    for antialiased in (False, True):
        model = small(antialiased=antialiased, embedding="none")
        f = smooth(8, 8)
        errors.append(float((model(shifted(f)) - shifted(model(f))).norm().detach()))
    assert errors[1] < errors[0]


def test_local_branches_act():
    base = LocalNO.example().config
    f = LocalNO.example().inputs[0]
    torch.manual_seed(0)
    local = LocalNO(**{**base, "dtype": "float64"})
    assert [len(b.local) for b in local.blocks] == [1, 2]
    before = local(f.double())
    with torch.no_grad():
        for block in local.blocks:
            for branch in block.local:
                branch.weight.zero_()
    assert (local(f.double()) - before).abs().max() > 1e-3


def test_sizes_of_the_paper():
    """65.0, 66.0 and 66.2 million numbers; our symmetric set of modes has 65 x 33 where theirs has 64 x 33."""
    count = lambda m: sum(p.numel() for p in m.parameters()) / 1e6  # noqa: E731
    with torch.device("meta"):
        fno = FNO(n_modes=(32, 32), width=62, lifting_ratio=4.13, projection_ratio=4.13, embedding="raw")
        same = {"n_modes": (20, 20), "width": 99, "lifting_ratio": 2.59, "projection_ratio": 2.59, "embedding": "raw"}
        differential = LocalNO(**same, integral_layers=(), differential_layers=(3,))
        integral = LocalNO(**same, kernel_shape=(2, 4))
    assert count(fno) == pytest.approx(65.0 + 4 * 62**2 * 33 * 2 / 1e6, abs=0.05)
    extra = 4 * 99**2 * 21 * 2 / 1e6
    assert count(differential) == pytest.approx(66.0 + extra, abs=0.15)
    assert count(integral) == pytest.approx(66.2 + extra, abs=0.15)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FNO(n_modes=(3, 3), periodic=(True,)), ConfigError, "one entry of periodic"),
        (lambda: FNO(periodic=False, antialiased=True), ConfigError, "antialiased"),
        (lambda: FNO(embedding="grid"), ConfigError, "choose 'periodic', 'raw' or 'none'"),
        (lambda: FNO(dtype="float16"), ConfigError, "float16"),
        (lambda: LocalNO(n_modes=(3,)), ConfigError, "planar"),
        (lambda: LocalNO(differential_layers=(4,)), ConfigError, "no layer 4"),
        (lambda: FNO(n_modes=(3, 3))(torch.randn(1, 2, 8, 8)), ShapeError, r"\(batch, 1, n1, n2\)"),
        (lambda: ChannelLinear(2, 2)(torch.randn(1, 3, 8)), ShapeError, r"\(batch, 2, \*space\)"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
