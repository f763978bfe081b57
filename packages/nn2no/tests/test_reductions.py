"""Softmaxes, means and variances over points are integrals, or are refused, however they are written."""

import warnings
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from nn2no.conversion import convert
from nn2no.conversion.place import to_base
from nn2no.errors import ConversionError
from sciml.grids import Grid
from torch import Tensor, nn


class Softmax(nn.Module):
    """A softmax over points, and what is done with it."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor], dim: int = -1) -> None:
        super().__init__()
        self.use, self.dim = use, dim
        self.score = nn.Conv2d(1, 1, 1, bias=False).double()
        nn.init.ones_(self.score.weight)

    def forward(self, x: Tensor) -> Tensor:
        values = x.flatten(2) if self.dim == -1 else x.flatten(2).mT
        points = self.score(x).flatten(2)
        return self.use((points if self.dim == -1 else points.mT).softmax(self.dim), values)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("use", "what"),
    [
        (lambda a, v: a, "the output"),
        (lambda a, v: a.mT, "the output"),
        (lambda a, v: a * v, "the output"),
        (lambda a, v: F.avg_pool2d(a.unflatten(2, (-1, int(a.shape[2] ** 0.5))), 2), "average pooling"),
        (lambda a, v: (a * v).mean(-1), "mean"),
    ],
)
def test_a_softmax_over_points_without_a_sum_over_them_is_refused(use, what):
    """Its values fall like 1/n."""
    grid = Grid.uniform((8, 8), periodic=True)
    with pytest.raises(ConversionError, match=rf"softmax\): over points, used alone \({what}\).*values fall"):
        convert(Softmax(use), grid)
    with pytest.warns(UserWarning, match="right where a sum over the points follows"):
        op = convert(Softmax(use), grid, strict=False)
    assert not next(row for row in op.report.rows if row.kind == "softmax").supported


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(
    ("use", "dim"),
    [
        (lambda a, v: a @ v.mT, -1),
        (lambda a, v: (a * v).sum(-1), -1),
        (lambda a, v: torch.einsum("bcn,bdn->bcd", F.dropout(a, 0.0), v), -1),
        (lambda a, v: a.mT @ v, -2),
        (lambda a, v: (a * v).sum(1), 1),
    ],
)
def test_a_softmax_over_points_and_a_sum_are_a_ratio_of_integrals(use, dim, periodic, field):
    grid = Grid.uniform((9, 9), periodic=periodic)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        op = convert(Softmax(use, dim), grid)
    assert "ratio of integrals" in next(row for row in op.report.rows if row.kind == "softmax").rule
    fine = grid.uniform((18, 18) if periodic else (17, 17), periodic=periodic)
    x = field(fine.shape[0], periodic)
    expected = fine.integrate(x * x.exp()) / fine.integrate(x.exp())
    torch.testing.assert_close(op(x).flatten(), expected.flatten())


def test_shares_that_cannot_be_followed_are_warned_about():

    def use(a: Tensor, v: Tensor) -> Tensor:
        return a.log1p() @ v.mT

    with pytest.warns(UserWarning, match=r"over points, used alone \(log1p\)"):
        op = convert(Softmax(use), Grid.uniform((8, 8), periodic=True))
    assert not op.report.problems


def test_a_softmax_over_channels_acts_point_by_point(field):
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Softmax(1)).double()
    op = convert(net, Grid.uniform((8, 8), periodic=True))
    assert "unchanged" in next(row for row in op.report.rows if row.kind == "softmax").rule
    torch.testing.assert_close(op(field(16)), net(field(16)))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "function", [lambda x: F.log_softmax(x, -1), lambda x: x.logsumexp((2, 3)), lambda x: x.flatten(2).log_softmax(2)]
)
def test_logarithms_of_sums_over_points_are_refused(function, operator):
    with pytest.raises(ConversionError, match="by the logarithm"):
        operator(function)


def base_mean(x: Tensor, n0: int = 9) -> Tensor:
    """The mean over the base nodes between walls of the means over their hats."""
    s = (x.shape[-1] - 1) // (n0 - 1)
    hats = to_base(x, (Fraction(s),) * 2, (True, True))
    return hats.mean((2, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.mean((2, 3)),
        lambda y: y.flatten(2).mean(-1),
        lambda y: y.flatten(2).mT.mean(1),
        lambda y: y.permute(0, 2, 3, 1).mean((1, 2)),
        lambda y: y.mean(3).mean(2),
        lambda y: y.mean(2).mean(-1),
        lambda y: y.mean((1, 2, 3), keepdim=True)[..., 0, 0],
        lambda y: torch.mean(y).reshape(1, 1),
        lambda y: y.flatten(2).permute(2, 0, 1).mean(0),
        lambda y: torch.var_mean(y, (2, 3))[1],
    ],
)
def test_means_over_points_are_one_integral_however_they_are_written(function, operator, field):
    for s in (1, 2, 4):
        x = field(8 * s + 1, False)
        torch.testing.assert_close(operator(function, 9, periodic=False)(x), base_mean(x))


def test_axes_of_equal_sizes_keep_their_own_weights(field, as_network):
    """Of 9 and 17 nodes each, the first axis periodic, the second from wall to wall."""
    grid, x = Grid.uniform((9, 9), periodic=(True, False)), field(17, False)
    for axis, expected in ((2, x.mean(2)), (3, to_base(x, (Fraction(1), Fraction(2)), (False, True)).mean(3))):
        found = convert(as_network(lambda y, axis=axis: y.mean(axis)), grid)(x)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("batch", [3, 5])
def test_means_over_samples_stay_means(batch, field, as_network):
    """Of 3 samples, as many as an axis of 2 nodes has after refinement."""
    x = torch.cat([k**2 * field(17, False) for k in range(batch)])
    module = as_network(lambda y: y.mean(0, keepdim=True)).train()  # in training, traces have two samples
    found = convert(module, Grid.uniform((9, 9)))(x)
    torch.testing.assert_close(found, x.mean(0, keepdim=True))


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("root", [False, True])
def test_variances_over_points_are_integrals(correction, periodic, root, operator, field):
    """With the factor of the base grid, so that N₀/(N₀ - 1) is there on all grids."""
    name = "std" if root else "var"
    nets = [
        lambda y: getattr(torch, name)(y, (2, 3), correction=correction),
        lambda y: getattr(y.flatten(2), name)(-1, bool(correction)),
        lambda y: getattr(torch, f"{name}_mean")(y, (2, 3), unbiased=bool(correction))[0],
        lambda y: getattr(y, name)(bool(correction)).reshape(1, 1),
    ]
    n0 = 8 if periodic else 9
    for net in nets:
        op = operator(net, n0, periodic)
        kind = "standard deviation" if root else "variance"
        assert "integral" in next(row for row in op.report.rows if row.kind.startswith(kind)).rule
        for s in (1, 2, 4):
            x = field(8 * s if periodic else 8 * s + 1, periodic)
            mean = (lambda y: y.mean((2, 3))) if periodic else base_mean
            expected = mean((x - mean(x)[..., None, None]).square()) * n0**2 / (n0**2 - correction)
            torch.testing.assert_close(op(x), expected.sqrt() if root else expected)


@pytest.mark.parametrize("periodic", [True, False])
def test_class_tokens_keep_their_share_of_means(periodic, operator):
    def net(y: Tensor) -> Tensor:
        tokens = y.flatten(2).mT
        return torch.cat([10 * torch.ones_like(tokens[:, :1]), tokens], 1).mean(1)

    n, m = (8, 16) if periodic else (9, 17)
    found = operator(net, n, periodic)(torch.ones(1, 1, m, m, dtype=torch.float64))
    assert float(found) == pytest.approx((10 + n**2) / (1 + n**2))


def test_means_of_channels_and_points_together_are_said_to_be_plain(operator):
    op = operator(lambda y: torch.cat([y, y, y], 1).flatten(1, 2).mean(1), 9, periodic=False)
    assert "plain mean" in next(row for row in op.report.rows if row.kind == "mean").rule
