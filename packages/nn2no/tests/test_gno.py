"""A graph neural operator is one function of functions, whatever the points."""

import math
import warnings

import pytest
import torch
from nn2no.errors import ResolutionWarning
from nn2no.models.gno import GNO
from nn2no.quadrature import delaunay
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor


def gno(**config: object) -> GNO:
    torch.manual_seed(0)
    base = {"radius": 0.35, "width": 5, "n_layers": 2, "kernel_hidden": 8, "dtype": "float64"}
    return GNO(**{**base, **config})  # type: ignore[arg-type]


def clouds(n: int = 60, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Fields, points and Delaunay weights of several clouds in the unit square."""
    generator = torch.Generator().manual_seed(n)
    x = torch.rand(batch, n, 2, dtype=torch.float64, generator=generator)
    x[:, :4] = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    return torch.sin(3 * x).sum(-1, keepdim=True), x, torch.stack([delaunay(cloud) for cloud in x])


@pytest.mark.parametrize("mollified", [True, False])
def test_node_splitting_and_order_of_points_change_nothing(mollified):
    f, x, w = clouds()
    model, order = gno(mollified=mollified), torch.randperm(60)
    g = model(f, x, w)
    assert (model(f[:, order], x[:, order], w[:, order]) - g[:, order]).abs().max() < 1e-13
    split = torch.cat([w, 0.3 * w[:, 5:6]], 1)
    split[:, 5] *= 0.7
    twice = model(*(torch.cat([t, t[:, 5:6]], 1) for t in (f, x)), split)
    assert (twice[:, :60] - g).abs().max() < 1e-13
    assert (twice[:, 60] - g[:, 5]).abs().max() < 1e-13


def test_clouds_of_a_batch_are_apart():
    f, x, w = clouds()
    model = gno()
    together = model(f, x, w, x[:, :7])
    for i in range(2):
        alone = model(f[i : i + 1], x[i : i + 1], w[i : i + 1], x[i : i + 1, :7])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-13)


def test_a_shared_cloud_is_as_one_for_each():
    f, x, w = clouds()
    shared = gno()(f, x[:1], w[:1])
    torch.testing.assert_close(shared, gno()(f, x[:1].repeat(2, 1, 1), w[:1].repeat(2, 1)), rtol=0, atol=1e-13)


def test_queries_at_the_points_give_the_output_at_the_points():
    f, x, w = clouds()
    torch.testing.assert_close(gno()(f, x, w, x[:, 10:20]), gno()(f, x, w)[:, 10:20], rtol=0, atol=1e-13)


def test_kept_graphs_are_those_that_it_makes():
    f, x, w = clouds()
    model, y = gno(), x[:, :9]
    torch.testing.assert_close(model(f, x, w, y, model.graph(x), model.graph(x, y)), model(f, x, w, y), rtol=0, atol=0)


def test_points_that_fill_up_a_ragged_cloud_change_nothing():
    f, x, w = clouds()
    model = gno()
    padded = [torch.cat([t, torch.full_like(t[:, :3], math.nan)], 1) for t in (f, x, w)]
    g = model(*padded)
    torch.testing.assert_close(g[:, :60], model(f, x, w), rtol=0, atol=1e-13)
    assert (g[:, 60:] == 0).all()
    g.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    for choice in ("delaunay", None):
        torch.testing.assert_close(model(*padded[:2], choice)[:, :60], model(f, x, choice), rtol=0, atol=1e-13)


def test_weights_are_monte_carlo_by_default_and_delaunay_by_name():
    f, x, w = clouds()
    torch.testing.assert_close(gno()(f, x, "delaunay"), gno()(f, x, w), rtol=0, atol=1e-13)
    torch.testing.assert_close(gno(volume=2.0)(f, x), gno()(f, x, torch.full_like(w, 2 / 60)), rtol=0, atol=1e-13)


def test_equivariant_to_shifts_of_a_periodic_box():
    grid = Grid.uniform((8, 8), periodic=True)
    x, w, f = grid.coords.reshape(1, -1, 2), grid.weights.reshape(1, -1), torch.rand(1, 64, 1, dtype=torch.float64)
    model = gno(period=(1.0, 1.0))
    roll = lambda v: v.reshape(1, 8, 8, 1).roll((3, 1), (1, 2)).reshape(1, 64, 1)  # noqa: E731
    torch.testing.assert_close(model(roll(f), x, w), roll(model(f, x, w)), rtol=0, atol=1e-13)


@torch.no_grad()
def test_converges_where_the_points_become_denser_whatever_their_density():
    """Points drawn towards one side: with Delaunay weights to one limit, with equal ones to another."""
    model, y = gno(mollified=True), torch.tensor([[[0.3, 0.4], [0.7, 0.2], [0.5, 0.8]]]).double()

    def g(n: int, power: float, choice: str | None = "delaunay") -> Tensor:
        u = Grid.uniform((n, n)).coords.reshape(1, -1, 2)
        x = torch.stack([u[..., 0] ** power, u[..., 1]], -1)
        return model(torch.sin(3 * x).sum(-1, keepdim=True), x, choice, y)

    limit = g(60, 1.0)
    errors = [float((g(n, 2.0) - limit).norm() / limit.norm()) for n in (15, 30)]
    assert errors[1] < errors[0] / 2.5
    unweighted = [float((g(n, 2.0, None) - limit).norm() / limit.norm()) for n in (15, 30)]
    assert unweighted[1] > max(unweighted[0] / 1.5, 3 * errors[1])


def test_empty_batches():
    """Of one shared cloud, and of as many clouds as fields; their gradients are zero."""
    f, x, w = clouds()
    model = gno()
    for points in (x[:1], x[:0]):
        g = model(f[:0], points, w[: len(points)], points[:, :7])
        assert g.shape == (0, 7, 1)
        g.sum().backward()
        assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_queries_without_neighbours_are_told():
    f, x, w = clouds()
    with pytest.warns(ResolutionWarning, match=r"2 of 2 queries \(100.0%\)"):
        g = gno(radius=0.01)(f, x, w, torch.tensor([[[0.5, 2.0]], [[2.0, 0.5]]]).double())
    assert g.isfinite().all()


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, x, w: gno(width=0), ConfigError, "width=0"),
        (lambda f, x, w: gno(dtype="float16"), ConfigError, "float16"),
        (lambda f, x, w: gno(radius=-1.0), ConfigError, "radius=-1.0"),
        (lambda f, x, w: gno()(f.expand(-1, -1, 2), x), ShapeError, r"\(batch, point, 1\); got \(2, 60, 2\)"),
        (lambda f, x, w: gno()(f, x[:, :9], w), ShapeError, r"coords are \(2 or 1, 60, 2\); got \(2, 9, 2\)"),
        (lambda f, x, w: gno()(f, x, w[0]), ShapeError, r"weights are \(2 or 1, 60\); got \(60,\)"),
        (lambda f, x, w: gno()(f, x, w, x[..., :1]), ShapeError, r"queries are \(2 or 1, query, 2\)"),
        (lambda f, x, w: gno()(f, x, w[:1]), ShapeError, "expand those"),
        (lambda f, x, w: gno()(f, x, "mean"), ConfigError, "'delaunay', or None"),
        (lambda f, x, w: gno()(f, 0 * x, "delaunay"), ValueError, "59 of 60 points repeat"),
        (lambda f, x, w: gno()(f, x, -w), ValueError, "120 of 120 weights are negative"),
        (lambda f, x, w: gno()(f, x, w * math.nan), ValueError, "not finite"),
        (lambda f, x, w: gno(volume=1.0)(f, x, 100 * w), ValueError, "sum up to 100,.*volume 1"),
        (lambda f, x, w: gno(period=(1.0, 2.0))(f, x, w), ValueError, "sum up to 1,.*volume 2"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResolutionWarning)
        with pytest.raises(error, match=message):
            call(*clouds())
