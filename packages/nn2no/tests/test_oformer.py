"""Linear attention and a spectral branch: an operator on grids of every kind."""

import itertools
import math

import pytest
import torch
from nn2no.models._fields import sample_field
from nn2no.models.oformer import OFormer, RotaryAttention, rotary_turns, rotate
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor


def small(**config: object) -> OFormer:
    torch.manual_seed(0)
    given = {"n_modes": (3, 3), "width": 8, "heads": 2, "n_layers": 2, "dtype": "float64", **config}
    return OFormer(**given).requires_grad_(False)  # type: ignore[arg-type]


def differences(model: OFormer, sizes: tuple[int, ...], periodic: bool = True) -> list[float]:
    """‖u_N - u_2N‖ / ‖u_2N‖ as functions."""
    outputs = []
    for n in sizes:
        grid = Grid.uniform((n, n), periodic=periodic)
        f = sample_field((n, n), periodic=periodic).double() + (0 if periodic else torch.exp(grid.coords[..., 0]))
        outputs.append((model(f), grid))
    return [
        float(fine.norm(coarse.interpolate(u, fine) - v).max() / fine.norm(v).max())
        for (u, coarse), (v, fine) in itertools.pairwise(outputs)
    ]


def test_spectral_on_the_torus() -> None:
    errors = differences(small(), (16, 32, 64, 128))
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 8
    assert errors[2] < errors[1] / 16  # faster than the fourth order


def test_second_order_on_other_grids() -> None:
    errors = differences(small(periodic=False), (17, 33, 65, 129), periodic=False)
    assert all(3.3 < a / b < 4.3 for a, b in itertools.pairwise(errors)), errors


def test_published_angles_jump_where_a_periodic_axis_closes() -> None:
    errors = differences(small(embedding="raw"), (32, 64, 128))
    assert all(1.3 < a / b < 1.8 for a, b in itertools.pairwise(errors)), errors


def test_equivariant_to_shifts_of_the_torus() -> None:
    f = sample_field((16, 12)).double()
    for embedding, moves in (("periodic", True), ("raw", False)):
        model = small(embedding=embedding)
        assert (float((model(f.roll((5, 2), (2, 3))) - model(f).roll((5, 2), (2, 3))).abs().max()) < 1e-12) == moves


def test_grids_in_one_and_three_dimensions_and_with_other_nodes() -> None:
    for dim in (1, 3):
        model = small(n_modes=(2,) * dim, width=12)
        assert model(torch.randn(2, 1, *[6] * dim, dtype=torch.float64)).shape == (2, 1, *[6] * dim)
    model, outputs = small(n_modes=(3,), periodic=False), []
    points = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)[:, None]
    for grid in (Grid.chebyshev(120), Grid.gauss_legendre(130)):
        outputs.append(grid.interpolate(model(torch.exp(grid.coords.mT)[None], grid), points))
    # the fields are analytic, and so are both interpolants; waves of ten turns are what they have to resolve
    assert (outputs[0] - outputs[1]).abs().max() < 1e-8


def test_empty_batches() -> None:
    for periodic in (True, False):
        assert small(periodic=periodic, out_channels=3)(torch.ones(0, 1, 8, 9).double()).shape == (0, 3, 8, 9)


def test_products_of_rotated_vectors_depend_on_differences_of_points() -> None:
    q, k = torch.randn(2, 8, dtype=torch.float64)
    x = torch.tensor([[0.1, 0.7], [0.4, 0.2]], dtype=torch.float64)

    def product(points: Tensor) -> Tensor:
        turns = rotary_turns(points, 2, [False, False])
        return (rotate(q.expand(2, 8), turns)[0] * rotate(k.expand(2, 8), turns)[1]).sum()

    torch.testing.assert_close(product(x + torch.tensor([0.3, -0.1])), product(x))
    assert (product(x) - product(x.flip(1))).abs() > 1e-3
    whole = rotary_turns(torch.ones(1, 2, dtype=torch.float64), 55, [True, False])
    torch.testing.assert_close(whole[0, 0], torch.ones(55, dtype=torch.complex128))
    angles = 64 * torch.tensor([1, 10000 ** (-108 / 110)], dtype=torch.float64)
    torch.testing.assert_close(whole[0, 1, [0, 54]], torch.exp(1j * angles))


def test_attention_is_its_formula_and_splitting_a_node_changes_nothing() -> None:
    torch.manual_seed(0)
    attention = RotaryAttention(6, 2, 4, torch.float64)
    u, w = torch.randn(2, 5, 6, dtype=torch.float64), torch.rand(1, 5, dtype=torch.float64)
    x = torch.rand(5, 1, dtype=torch.float64)
    turns = rotary_turns(x, 2, [False])
    cos, sin, heads = turns[:, 0].real, turns[:, 0].imag, []
    for h in range(2):
        q, k, v = (
            u @ linear.weight[4 * h : 4 * h + 4].T for linear in (attention.query, attention.key, attention.value)
        )
        k, v = ((t - t.mean(-1, True)) / (t.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() for t in (k, v))
        # a pair has a channel of the first half and one of the second
        q, k = (torch.cat([a * cos - b * sin, a * sin + b * cos], -1) for a, b in (q.chunk(2, -1), k.chunk(2, -1)))
        heads.append(torch.einsum("byc,bxc,bxd,ax->byd", q, k, v, w / w.sum()))
    torch.testing.assert_close(attention(u, turns, w), attention.out(torch.cat(heads, -1)))
    part = torch.cat([w[:, :4], 0.3 * w[:, 4:], 0.7 * w[:, 4:]], 1)
    split = attention(torch.cat([u, u[:, 4:]], 1), torch.cat([turns, turns[4:]]), part)
    assert (split[:, :5] - attention(u, turns, w)).abs().max() < 1e-13


def test_heads_begin_near_multiples_of_the_identity() -> None:
    attention = RotaryAttention(6, 2, 4, torch.float64)
    for linear in (attention.query, attention.key, attention.value):
        for weight in linear.weight.detach().chunk(2):
            assert (weight - 0.5 * torch.eye(4, 6)).abs().max() <= 0.5 * math.sqrt(6 / (4 + 6))


def test_gradients() -> None:
    attention = RotaryAttention(4, 1, 4, torch.float64)
    u = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.rand(1, 3, dtype=torch.float64, requires_grad=True)
    turns = rotary_turns(torch.rand(3, 2, dtype=torch.float64), 1, [True, False])
    assert torch.autograd.gradcheck(lambda u, w: attention(u, turns, w), (u, w))


def test_size_of_the_paper() -> None:
    """68.9 million numbers; our symmetric set of modes has 17 x 9 where theirs has 16 x 9."""
    with torch.device("meta"):
        model = OFormer(n_modes=(8, 8), width=220, heads=16, n_layers=4)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(68.9e6 + 4 * 220**2 * 9 * 2, abs=0.05e6)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: small(width=6), ConfigError, "multiple of 4"),
        (lambda: small(periodic=(True,)), ConfigError, "one entry"),
        (lambda: small(embedding="none"), ConfigError, "'periodic' or 'raw'"),
        (lambda: small()(torch.ones(1, 2, 8, 8)), ShapeError, r"\(batch, 1, n1, n2\)"),
        (lambda: small()(torch.ones(1, 1, 8, 8), Grid.uniform((4, 4))), ShapeError, "4, 4"),
    ],
)
def test_bad_input(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
