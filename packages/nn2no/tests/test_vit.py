"""A vision transformer is tied to its pixels; with patches of fixed physical size it is an operator."""

import itertools
import math

import pytest
import torch
from nn2no.attention import QuadratureAttention
from nn2no.fourier import Line, line_of
from nn2no.models._fields import sample_field
from nn2no.models.vit import ViT, ViTNO, averages, hats
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor

CONFIG = {"base_resolution": (12, 8), "patch": 4, "width": 12, "n_layers": 2, "heads": 2, "hidden": 16}


def pair(**config: object) -> tuple[ViT, ViTNO]:
    """Both with the same weights."""
    torch.manual_seed(0)
    operator = ViTNO(**{**CONFIG, "dtype": "float64", **config}).requires_grad_(False)  # type: ignore[arg-type]
    config.pop("periodic", None)
    network = ViT(**{**CONFIG, "dtype": "float64", **config}).requires_grad_(False)  # type: ignore[arg-type]
    network.load_state_dict(operator.state_dict())
    return network, operator


def smooth(*shape: int) -> Tensor:
    return sample_field(shape).double()


@pytest.mark.parametrize("periodic", [True, False])
def test_the_operator_is_the_network_at_the_base_resolution(periodic: bool) -> None:
    network, operator = pair(periodic=periodic)
    f = torch.randn(2, 1, 12, 8, dtype=torch.float64)
    assert torch.equal(operator(f), network(f))
    grid = Grid.uniform((12, 8), (2.0, 3.0), periodic=periodic)
    torch.testing.assert_close(operator(f, grid), network(f), rtol=1e-12, atol=1e-13)


def test_the_operator_converges_and_the_network_does_not() -> None:
    """The operator in second order, from the base resolution on, as seen at the base nodes."""
    network, operator = pair()
    limit = operator(smooth(12 * 32, 8 * 32))[..., ::32, ::32]
    errors = [
        float((operator(smooth(12 * s, 8 * s))[..., ::s, ::s] - limit).norm() / limit.norm()) for s in (1, 2, 4, 8)
    ]
    assert all(3.5 < a / b < 4.8 for a, b in itertools.pairwise(errors)), errors
    far = float((network(smooth(24, 16))[..., ::2, ::2] - limit).norm() / limit.norm())
    assert far > 10 * errors[1]


@pytest.mark.parametrize("shape", [(13, 9), (18, 11), (31, 50), (7, 5)])
def test_sizes_need_not_be_multiples(shape: tuple[int, int]) -> None:
    _, operator = pair()
    to = Grid.uniform((12, 8), periodic=True)
    limit = operator(smooth(24 * 16, 16 * 16), to=to)
    far = float((operator(torch.zeros(1, 1, 12, 8).double()) - limit).norm())
    errors = [float((operator(smooth(*(n * s for n in shape)), to=to) - limit).norm()) for s in (1, 4)]
    assert errors[0] < far / 2
    assert errors[1] < errors[0] / 8


@pytest.mark.parametrize(
    "grid",
    [Grid.uniform((40, 33)), Grid.uniform((24, 40), centering="cell"), Grid.chebyshev((60, 50)), Grid.uniform((9, 7))],
    ids=["nodes", "cells", "chebyshev", "coarse"],
)
def test_one_operator_on_grids_of_every_kind(grid: Grid) -> None:
    _, operator = pair(periodic=False)
    to, fine = Grid.uniform((12, 8)), Grid.uniform((11 * 30 + 1, 7 * 30 + 1))
    f = lambda g: torch.exp(g.coords[..., 0] - g.coords[..., 1] ** 2)[None, None]  # noqa: E731
    limit, zero = operator(f(fine), fine, to), operator(0 * f(to))
    assert (operator(f(grid), grid, to) - limit).norm() < 0.1 * (zero - limit).norm()
    assert operator(f(grid), grid).shape == (1, 1, *grid.shape)


@pytest.mark.parametrize("n", [5, 11, 12, 19, 24, 60])
@pytest.mark.parametrize("periodic", [True, False])
def test_constants_and_the_base_grid_are_kept(n: int, periodic: bool) -> None:
    line, device = Line(n, periodic), torch.device("cpu")
    for rows in (averages(line, 12, 0.0, device), hats(line, 12, 0.0, device)):
        assert (rows.sum(1) - 1).abs().max() < 1e-14
        assert (rows >= 0).all()
        if n == 12:
            assert torch.allclose(rows, torch.eye(12, dtype=torch.float64), atol=1e-14)
    cheb = line_of(Grid.chebyshev(n).axes[0])
    assert (averages(cheb, 12, 0.0, device).sum(1) - 1).abs().max() < 1e-14


def test_encoding_has_the_symbol_of_the_hat() -> None:
    """A wave of m periods is damped by (sin(πm/n) / (s sin(πm/(ns))))², the limit being sinc²(m/n)."""
    n, s, m = 12, 5, 3
    rows = averages(Line(n * s), n, 0.0, torch.device("cpu"))
    wave = torch.cos(2 * math.pi * m * torch.arange(n * s, dtype=torch.float64) / (n * s))
    symbol = (math.sin(math.pi * m / n) / (s * math.sin(math.pi * m / (n * s)))) ** 2
    torch.testing.assert_close(rows @ wave, symbol * wave[::s], rtol=0, atol=1e-13)


def test_patches_are_tokens_of_equal_measure_and_so_is_the_class_token() -> None:
    """Attention with the rule for atoms is the plain one of the network, whatever the resolution of the input."""
    _, operator = pair()
    theirs = operator.layers[0].attention  # type: ignore[union-attr]
    ours = QuadratureAttention(12, 2, n_atoms=1, base_points=6, dtype=torch.float64).requires_grad_(False)
    ours.query.weight.copy_(theirs.in_proj_weight[:12])
    ours.key_value.weight.copy_(theirs.in_proj_weight[12:])
    ours.query.bias.copy_(theirs.in_proj_bias[:12])
    ours.key_value.bias.copy_(theirs.in_proj_bias[12:])
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    z = torch.randn(2, 7, 12, dtype=torch.float64)
    weights = torch.full((1, 6), 1 / 6, dtype=torch.float64)  # of the patches, in a domain of unit measure
    torch.testing.assert_close(ours(z, weights), theirs(z, z, z)[0], rtol=1e-12, atol=1e-13)


def test_positions_are_interpolated_at_other_sizes() -> None:
    network, _ = pair()
    assert network(smooth(24, 8)).shape == (2, 1, 24, 8)
    ramp = torch.arange(6, dtype=torch.float64).view(3, 2).flatten()
    network.positions[0, 1:] = ramp[:, None]
    table = network._positions((6, 4))
    assert torch.equal(table[:, :1], network.positions[:, :1])
    torch.testing.assert_close(table[0, 1:].mean(), ramp.mean())


def test_sizes_of_the_paper() -> None:
    """63.9 million numbers at 128²."""
    paper = {"base_resolution": (128, 128), "patch": 16, "width": 768, "n_layers": 12, "heads": 12, "hidden": 1900}
    with torch.device("meta"):
        for cls in (ViT, ViTNO):
            model = cls(**paper)  # type: ignore[arg-type]
            assert sum(p.numel() for p in model.parameters()) == pytest.approx(63.9e6, abs=0.05e6)
            assert model.positions.shape == (1, 65, 768)
        small = ViT()
    assert (small.patch, len(small.layers), small.positions.shape) == (4, 4, (1, 65, 64))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ViT(base_resolution=(12, 10)), ConfigError, "multiples"),
        (lambda: ViT(base_resolution=(12,)), ConfigError, "two sizes"),
        (lambda: ViT(heads=3), ConfigError, "divide the width"),
        (lambda: ViT(heads=0), ConfigError, "divide the width"),
        (lambda: ViTNO(periodic=(True,)), ConfigError, "one for each"),
        (lambda: ViT(dtype="half"), ConfigError, "half"),
        (lambda: pair()[0](torch.ones(1, 1, 13, 8)), ShapeError, "pad it"),
        (lambda: pair()[0](torch.ones(1, 12, 8)), ShapeError, r"\(batch, 1, n1, n2\)"),
        (lambda: pair()[1](torch.ones(1, 2, 12, 8)), ShapeError, r"\(batch, 1, n1, n2\)"),
        (lambda: pair()[1](torch.ones(1, 1, 12, 8), Grid.uniform((4, 4))), ShapeError, "4, 4"),
    ],
)
def test_bad_input(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
