"""Kernel integrals over balls and over the domain, against their formulas and their limits."""

import itertools
import math
import warnings

import nn2no.graph
import pytest
import torch
from nn2no.errors import ResolutionWarning
from nn2no.graph import GraphKernelIntegral, IntegralTransform, RadiusGraph, mollifier, radius_graph
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor

KINDS = ("linear", "linear-kernel-only", "nonlinear", "nonlinear-kernel-only")
RADIUS = 0.4


def points(n: int = 40, *, dim: int = 2, channels: int = 3, batch: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    """Fields, coordinates, weights and queries."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, dtype=torch.float64, generator=g)  # noqa: E731
    return rand(batch, n, channels) - 0.3, rand(n, dim), (0.2 + rand(n)) / n, rand(7, dim)


def layer(kind: str = "linear", **more: object) -> GraphKernelIntegral:
    torch.manual_seed(0)
    config = {"in_channels": 3, "out_channels": 3, "dim": 2, "radius": RADIUS, "dtype": torch.float64, **more}
    return GraphKernelIntegral(kernel=kind, **config)  # type: ignore[arg-type]


def variants() -> list[GraphKernelIntegral]:
    layers = [layer(kind, out_channels=2) for kind in KINDS]
    return [*layers, *(layer(kind, diagonal=True, mollified=True) for kind in ("linear", "nonlinear"))]


def label(k: GraphKernelIntegral | str) -> str:
    return k if isinstance(k, str) else f"{k.kind}-diagonal" if k.diagonal else k.kind


def brute_force(k: GraphKernelIntegral, f: Tensor, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """The sum of eqs (11), (18) and (19), pair by pair."""
    out = torch.zeros(len(f), len(y), k.out_channels, dtype=f.dtype)
    for b, i, j in itertools.product(range(len(f)), range(len(x)), range(len(y))):
        d = x[i] - y[j]
        if k.period is not None:
            box = torch.tensor(k.period, dtype=f.dtype)
            d = torch.remainder(d + box / 2, box) - box / 2
        if d.norm() >= k.radius:
            continue
        z = k.kernel.geometry(torch.cat([y[j], d / k.radius]) if k.period is None else d / k.radius)
        z = z if k.kernel.features is None else z + k.kernel.features(f[b, i])
        K = k.kernel.out(torch.nn.functional.gelu(z)) * (mollifier(d.norm() / k.radius) if k.mollified else 1)
        if k.diagonal:
            K = K * f[b, i]
        elif k.times_f:
            K = K.reshape(k.out_channels, -1) @ f[b, i]
        out[b, j] += K * w[i]
    return out / (math.pi * k.radius**2)


@pytest.mark.parametrize("k", variants(), ids=label)
def test_is_the_sum_over_pairs(k):
    f, x, w, y = points(25)
    torch.testing.assert_close(k(f, x, w, y), brute_force(k, f, x, w, y), rtol=0, atol=1e-13)


def test_is_the_sum_over_pairs_in_a_periodic_box():
    f, x, w, y = points(25)
    k = layer(period=(1.0, 0.9), out_channels=2)
    torch.testing.assert_close(k(f, x, w, y), brute_force(k, f, x, w, y), rtol=0, atol=1e-13)


def test_neighbours_are_all_pairs_within_the_radius():
    _, x, _, y = points(60)
    graph = radius_graph(x, y, RADIUS)
    near = torch.cdist(y, x) < RADIUS
    assert torch.equal(torch.stack([graph.query, graph.source]), near.nonzero().T)
    assert torch.equal(graph.start, torch.cat([torch.zeros(1), near.sum(1).cumsum(0)]).long())
    box = torch.tensor([1.0, 0.9])
    offset = (y[:, None] - x).remainder(box)
    near = torch.minimum(offset, box - offset).norm(dim=-1) < RADIUS
    graph = radius_graph(x, y, RADIUS, period=(1.0, 0.9))
    assert torch.equal(torch.stack([graph.query, graph.source]), near.nonzero().T)
    square = Grid.uniform((9, 9)).coords.reshape(-1, 2)  # of which many are at the distance of the radius: outside
    graph = radius_graph(square, square, 0.25)
    assert torch.equal(torch.stack([graph.query, graph.source]), (torch.cdist(square, square) < 0.249).nonzero().T)


@pytest.mark.parametrize("k", variants(), ids=label)
def test_splitting_a_node_changes_nothing(k):
    f, x, w, y = points()
    split = torch.cat([w, 0.3 * w[3:4]])
    split[3] *= 0.7
    difference = k(torch.cat([f, f[:, 3:4]], 1), torch.cat([x, x[3:4]]), split, y) - k(f, x, w, y)
    assert difference.abs().max() < 1e-13


@pytest.mark.parametrize("k", variants(), ids=label)
def test_permuting_the_points_permutes_the_output(k):
    f, x, w, _ = points()
    order = torch.randperm(len(x))
    difference = k(f[:, order], x[order], w[order]) - k(f, x, w)[:, order]
    assert difference.abs().max() < 1e-13


@pytest.mark.parametrize("k", variants(), ids=label)
def test_clouds_one_after_the_other_are_as_one_by_one(k):
    clouds = [points(n, batch=1, seed=n) for n in (20, 35, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResolutionWarning)  # the last cloud has one point
        alone = [k(*cloud) for cloud in clouds]
        f, x, w, y = (torch.cat([c[i] for c in clouds], 1 if i == 0 else 0) for i in range(4))
        graph = k.graph(x, y, source_offsets=[0, 20, 55, 56], query_offsets=[0, 7, 14, 21])
    torch.testing.assert_close(k(f, x, w, y, graph), torch.cat(alone, 1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [*variants(), "full-linear", "full-nonlinear"], ids=label)
def test_chunks_change_nothing(k, monkeypatch):
    """Neither values nor gradients, which the backward pass finds by computing each chunk again."""
    f, x, w, y = points()
    if isinstance(k, str):
        k = IntegralTransform(3, 2, 2, nonlinear=k == "full-nonlinear", dtype=torch.float64)
    results = []
    for entries in (2**24, 3000):
        monkeypatch.setattr(nn2no.graph, "_ENTRIES", entries)
        g = k(f.requires_grad_(), x, w, y)
        gradients = torch.autograd.grad(g.square().sum(), [f, *k.parameters()], allow_unused=True)
        results.append([g, *(t for t in gradients if t is not None)])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("k", variants(), ids=label)
def test_gradients(k):
    f, x, w, y = points(9)
    graph = k.graph(x, y)
    inputs = [t.requires_grad_() for t in (f, x, w, y)]
    assert torch.autograd.gradcheck(lambda *t: k(*t, graph), inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_with_respect_to_points_that_are_their_own_neighbours(kind):
    f, x, w, _ = points(7)
    k = layer(kind, mollified=True)
    graph = k.graph(x)
    assert (graph.source == graph.query).sum() == 7
    assert torch.autograd.gradcheck(lambda x: k(f, x, w, graph=graph), x.requires_grad_())


@pytest.mark.parametrize("k", [*variants(), "full-linear", "full-nonlinear"], ids=label)
def test_an_empty_batch_stays_empty(k):
    f, x, w, y = points()
    if isinstance(k, str):
        k = IntegralTransform(3, 2, 2, nonlinear=k == "full-nonlinear", dtype=torch.float64)
    assert k(f[:0], x, w, y).shape == (0, 7, k.out_channels)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_integral_transform_is_its_formula(nonlinear):
    f, x, w, y = points(12)
    k = IntegralTransform(3, 2, 2, nonlinear=nonlinear, dtype=torch.float64)
    expected = k.bias(y).repeat(2, 1, 1)
    for b, i, j in itertools.product(range(2), range(12), range(7)):
        z = k.kernel.geometry(torch.cat([y[j], x[i] - y[j]]))
        z = z if k.kernel.features is None else z + k.kernel.features(f[b, i])
        K = k.kernel.out(torch.nn.functional.gelu(z))
        expected[b, j] += (K if nonlinear else K.reshape(2, 3) @ f[b, i]) * w[i]
    torch.testing.assert_close(k(f, x, w, y), expected, rtol=0, atol=1e-13)
    inputs = [t.requires_grad_() for t in (f[:, :5], x[:5], w[:5], y[:2])]
    assert torch.autograd.gradcheck(lambda *t: k(*t), [t.detach().requires_grad_() for t in inputs])
    split = torch.cat([w[:-1], w[-1:] * 0.4, w[-1:] * 0.6])
    twice = k(torch.cat([f, f[:, -1:]], 1), torch.cat([x, x[-1:]]), split, y)
    torch.testing.assert_close(twice, k(f, x, w, y), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("mollified", "order"), [(False, 1.0), (True, 1.9)])
def test_converges_to_the_integral_over_the_ball(mollified, order):
    """On a line: first order, as sources jump into the ball; second order, that of the rule, with the bump."""
    k = layer(in_channels=1, out_channels=1, dim=1, radius=0.3, mollified=mollified)
    y = torch.tensor([[0.45], [0.531], [0.6]]).double()

    def g(n: int) -> Tensor:
        grid = Grid.uniform(n)
        return k(torch.exp(torch.sin(3 * grid.coords))[None], grid.coords, grid.weights, y)

    limit, sizes = g(20001), (101, 201, 401, 801, 1601)
    errors = [float((g(n) - limit).norm().detach()) for n in sizes]
    slope = math.log2(errors[0] / errors[-1]) / (len(sizes) - 1)
    assert slope >= order - 0.1 * (not mollified)
    assert errors[-1] < 2e-3


def test_equivariant_to_shifts_of_a_periodic_box():
    grid = Grid.uniform((12, 10), (1.0, 2.0), periodic=True)
    f, x, w = torch.rand(1, 120, 3, dtype=torch.float64), grid.coords.reshape(-1, 2), grid.weights.reshape(-1)
    k = layer(period=(1.0, 2.0))
    shifted = k(f.reshape(1, 12, 10, 3).roll((5, 3), (1, 2)).reshape(1, -1, 3), x, w).reshape(1, 12, 10, 3)
    torch.testing.assert_close(shifted, k(f, x, w).reshape(1, 12, 10, 3).roll((5, 3), (1, 2)), rtol=0, atol=1e-13)
    moved = k(f, x + torch.tensor([3.3, -0.7]).double(), w)  # points outside of the box are wrapped
    torch.testing.assert_close(moved, k(f, x, w), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", variants(), ids=label)
def test_single_precision(k):
    f, x, w, y = points()
    graph, double = k.graph(x, y), k(f, x, w, y)
    single = k.float()(*(t.float() for t in (f, x, w, y)), graph)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


def test_empty_neighbourhoods_give_zero_and_are_told():
    f, x, w, _ = points()
    y = torch.tensor([[0.5, 0.5], [5.0, 5.0], [9.0, 0.0], [0.4, 0.6]]).double()
    with pytest.warns(ResolutionWarning, match=r"2 of 4 queries \(50.0%\)"):
        g = layer()(f, x, w, y)
    assert (g[:, [1, 2]] == 0).all()
    assert (g[:, [0, 3]] != 0).all()
    with pytest.warns(ResolutionWarning):
        nothing = layer()(f.requires_grad_(), x, w, y[1:3])
    nothing.sum().backward()
    assert (f.grad == 0).all()


def test_points_that_fill_up_a_ragged_cloud_have_no_edge():
    x = points()[1]
    padded = torch.cat([x, torch.full((5, 2), math.nan)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = radius_graph(padded, padded, RADIUS)
    alone = radius_graph(x, x, RADIUS)
    assert torch.equal(graph.source, alone.source)
    assert graph.n_queries == len(padded)


def test_maps_over_samples():
    f, x, w, y = points()
    for k in variants():
        graph = k.graph(x, y)
        mapped = torch.func.vmap(lambda f, k=k, graph=graph: k(f[None], x, w, y, graph)[0])(f)
        torch.testing.assert_close(mapped, k(f, x, w, y), rtol=0, atol=1e-13)


@pytest.mark.unchecked
def test_compiles_in_one_graph_with_its_neighbours_and_around_the_search_for_them():
    f, x, w, y = points()
    k = layer("nonlinear", mollified=True)
    whole = torch.compile(k, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(f, x, w, y, k.graph(x, y)), k(f, x, w, y))
    torch.testing.assert_close(torch.compile(k, backend="aot_eager")(f, x, w, y), k(f, x, w, y))


def test_the_bump_ends_smoothly():
    s = torch.tensor([0.0, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    w = mollifier(s)
    assert w.tolist() == [1, 0, 0]
    assert torch.autograd.grad(w.sum(), s)[0].abs().max() == 0
    inside = torch.tensor([0.5, 1 - 1e-6], dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(mollifier(inside).sum(), inside)[0]
    torch.testing.assert_close(slope, -4 * inside * (1 - inside.square()), rtol=1e-9, atol=0)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, x, w, y: layer("mean"), ConfigError, "linear-kernel-only"),
        (lambda f, x, w, y: layer(diagonal=True, out_channels=2), ConfigError, "3 channels in and 2 out"),
        (lambda f, x, w, y: layer("linear-kernel-only", diagonal=True), ConfigError, "multiplies f"),
        (lambda f, x, w, y: layer(radius=0.0), ConfigError, "radius=0.0 must be positive"),
        (lambda f, x, w, y: layer(period=(1.0, 0.5)), ConfigError, "at most half"),
        (lambda f, x, w, y: radius_graph(x, y, -1.0), ConfigError, "radius=-1.0"),
        (lambda f, x, w, y: radius_graph(x, y, 1.0, source_offsets=[0, 3]), ShapeError, "40 sources"),
        (lambda f, x, w, y: layer()(f[0], x, w), ShapeError, r"\(batch, source, 3\).*\(40, 3\)"),
        (lambda f, x, w, y: layer()(f, x[:-1], w), ShapeError, r"\(39, 2\)"),
        (lambda f, x, w, y: layer()(f, x, w[:-1]), ShapeError, r"\(39,\)"),
        (lambda f, x, w, y: layer()(f, x, w, y, layer().graph(x)), ShapeError, "40 queries for 7 points"),
        (lambda f, x, w, y: IntegralTransform(2, 2, 2)(f, x, w), ShapeError, r"\(batch, source, 2\)"),
        (lambda f, x, w, y: layer()(f, x, -w), ValueError, "40 of 40 weights are negative"),
        (lambda f, x, w, y: layer()(f, x, w * torch.nan), ValueError, "not finite"),
        (lambda f, x, w, y: layer()((9 * f).long(), x, w), ShapeError, "real; got torch.int64"),
        (lambda f, x, w, y: IntegralTransform(3, 2, 2)(f, x, -w), ValueError, "negative"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(*points())


def test_a_graph_can_be_moved():
    _, x, _, y = points()
    graph = radius_graph(x, y, RADIUS).to("cpu")
    assert isinstance(graph, RadiusGraph)
    assert len(graph.source) == len(graph.query)
