"""A network between two resizings does at every resolution what it does on its base grid."""

import pytest
import torch
from nn2no.io_interpolation import interpolate_io
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn

BASE = Grid.uniform((16, 16), periodic=True)


def smooth(shape: tuple[int, ...]) -> Tensor:
    x, y = (2 * torch.pi * Grid.uniform(shape, periodic=True).coords).unbind(-1)
    return (x.sin() + (x + 2 * y).cos())[None, None]


def network(channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Conv2d(6, 2, 1)
    ).double()


@pytest.mark.parametrize("mode", ["fourier", "linear"])
def test_on_the_base_grid_it_is_the_network_itself(mode):
    net = network()
    f = torch.randn(3, 1, 16, 16).double()
    assert torch.equal(interpolate_io(net, BASE, mode)(f), net(f))


def test_fourier_gives_one_function_at_all_finer_sizes():
    io = interpolate_io(network(), BASE)
    expected = io(smooth((16, 16)))
    for shape in ((17, 32), (64, 33)):
        found = io(smooth(shape))
        assert found.shape == (1, 2, *shape)
        exact = BASE.interpolate(expected, Grid.uniform(shape, periodic=True))
        assert (found - exact).abs().max() < 1e-13


def test_linear_reads_values_where_grids_are_nested():
    io = interpolate_io(network(), BASE, "linear")
    torch.testing.assert_close(io(smooth((64, 32)))[..., ::4, ::2], io(smooth((16, 16))), rtol=0, atol=1e-13)


def test_linear_is_exact_for_linear_functions_between_walls():
    grid = Grid.uniform((5, 5))
    io = interpolate_io(nn.Identity(), grid, "linear")
    f = Grid.uniform((9, 13)).coords.double().sum(-1)[None, None]
    torch.testing.assert_close(io(f), f, rtol=0, atol=1e-13)


def test_trains_the_weights_of_the_network():
    net = network()
    io = interpolate_io(net, BASE)
    io(smooth((24, 24))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    assert set(io.state_dict()) == {f"module.{name}" for name in net.state_dict()}


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: interpolate_io(nn.Identity(), Grid.uniform((8, 8))), ConfigError, "mode='linear'"),
        (lambda: interpolate_io(nn.Identity(), BASE, "cubic"), ConfigError, "'fourier' or 'linear'"),
        (lambda: interpolate_io(nn.Identity(), Grid.chebyshev(8), "linear"), ConfigError, "uniform"),
        (lambda: interpolate_io(nn.Identity(), BASE)(torch.randn(1, 1, 8)), ShapeError, "2 axes"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
