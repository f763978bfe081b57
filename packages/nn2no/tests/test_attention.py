"""Attention is a ratio of integrals: it does not see how its sources are sampled."""

import math

import pytest
import torch
from nn2no.attention import QuadratureAttention, attention_bias, quadrature_attention, with_atoms
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

KINDS = ["softmax", "linear"]


def tokens(sources: int = 7, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, d, dtype=torch.float64) for n, d in ((5, 4), (sources, 4), (sources, 6)))
    return tuple(t.to(dtype) for t in (q, k, v, 0.1 + torch.rand(2, sources, dtype=torch.float64)))


def test_softmax_and_linear_attention_are_their_formulas() -> None:
    q, k, v, w = tokens()
    e = w[:, None, None] * torch.exp(q @ k.mT / math.sqrt(4))
    assert torch.allclose(quadrature_attention(q, k, v, w), e @ v / e.sum(-1, keepdim=True), rtol=1e-13)
    moments = torch.einsum("bs,bhsd,bhse->bhde", w / w.sum(-1, keepdim=True), k, v)
    assert torch.allclose(quadrature_attention(q, k, v, w, kind="linear"), q @ moments, rtol=1e-12)
    narrow = quadrature_attention(q, k, v[..., :2], w, scale=1.3)
    assert torch.allclose(narrow, scaled_dot_product_attention(
        q, k, v[..., :2], attn_mask=attention_bias(w), scale=1.3), rtol=1e-12)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_equal_weights_change_nothing(kind: str) -> None:
    q, k, v, _ = tokens()
    plain = quadrature_attention(q, k, v, kind=kind)
    weighted = quadrature_attention(q, k, v, torch.full((1, 7), 0.3, dtype=q.dtype), kind=kind)
    assert torch.allclose(plain, weighted, rtol=1e-13)
    if kind == "softmax":
        assert torch.equal(plain, scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_splitting_a_source_changes_nothing(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    q, k, v, w = tokens(dtype=dtype)
    split = torch.cat([w, w[:, 3:4] * 0.3], 1)
    split[:, 3] *= 0.7
    g = quadrature_attention(q, *(torch.cat([t, t[:, :, 3:4]], 2) for t in (k, v)), split, kind=kind)
    assert (g - quadrature_attention(q, k, v, w, kind=kind)).abs().max() < tolerance
    # weights on the query side, after the sum, do not see the source twice as one
    ratio = quadrature_attention(q, *(torch.cat([t, t[:, :, 3:4]], 2) for t in (k, v)), kind=kind)
    assert (ratio - quadrature_attention(q, k, v, kind=kind)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_sources_and_padding_change_nothing(kind: str) -> None:
    q, k, v, w = tokens()
    g, order = quadrature_attention(q, k, v, w, kind=kind), torch.randperm(7)
    permuted = quadrature_attention(q, k[:, :, order], v[:, :, order], w[:, order], kind=kind)
    assert (permuted - g).abs().max() < 1e-13
    k, v, w = (torch.cat([t, f * torch.ones_like(t)], d) for t, f, d in ((k, 50.0, 2), (v, 9.0, 2), (w, 0.0, 1)))
    k.requires_grad_()
    padded = quadrature_attention(q, k, v, w, kind=kind)
    assert (padded - g).abs().max() < 1e-13
    padded.sum().backward()
    assert torch.isfinite(k.grad).all()
    assert (k.grad[:, :, 7:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_converges_to_the_integral_at_the_order_of_the_quadrature(kind: str) -> None:
    def g(grid: Grid) -> torch.Tensor:
        x = grid.coords[None, None]
        q, k, v = torch.tensor([0.3, 0.8]).double()[None, None, :, None], torch.sin(2 * x), torch.exp(x)
        return quadrature_attention(q, k, v, grid.weights[None], kind=kind, scale=1.0)

    exact = g(Grid.gauss_legendre(40))
    errors = [(g(Grid.uniform(n)) - exact).abs().max() for n in (33, 65)]
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.05


@torch.no_grad()
def test_atoms_keep_their_share_in_refinement() -> None:
    attention = QuadratureAttention(8, 2, n_atoms=1, base_points=16, dtype=torch.float64)
    cls = torch.ones(1, 1, 8, dtype=torch.float64)

    def readout(n: int, weighted: bool = True) -> torch.Tensor:
        x = torch.linspace(-1, 1, 2 * n + 1, dtype=torch.float64)[1::2, None] * torch.arange(8.0).double()
        sequence = torch.cat([cls, torch.sin(x)[None]], 1)
        if weighted:
            return attention(sequence)[:, 0]
        q, k, v = (
            t.unflatten(-1, (2, -1)).transpose(1, 2)
            for t in (attention.query(sequence), *attention.key_value(sequence).chunk(2, -1))
        )
        return attention.out(quadrature_attention(q, k, v).transpose(1, 2).flatten(2))[:, 0]

    limit = readout(1024)
    assert torch.equal(readout(16), readout(16, weighted=False))
    errors = [float((readout(n) - limit).norm() / limit.norm()) for n in (16, 32)]
    assert errors[1] < errors[0] / 3.5 < 1e-2
    assert (readout(1024, weighted=False) - limit).norm() / limit.norm() > 10 * errors[0]
    assert torch.allclose(attention(torch.cat([cls, cls.expand(-1, 32, -1)], 1), torch.full((1, 32), 0.25).double()),
                          attention(torch.cat([cls, cls.expand(-1, 32, -1)], 1)), rtol=1e-13)  # fmt: skip
    assert torch.allclose(with_atoms(torch.full((1, 32), 0.25), 2, 16)[0, :3], torch.tensor([0.5, 0.5, 0.25]))


def test_is_torchs_multi_head_attention_on_a_uniform_grid() -> None:
    ours, theirs = (
        QuadratureAttention(8, 2, dtype=torch.float64),
        nn.MultiheadAttention(8, 2, batch_first=True).double(),
    )
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    assert torch.allclose(ours(x), theirs(x, x, x)[0], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_layer_splits_permutes_and_crosses(kind: str) -> None:
    attention = QuadratureAttention(6, 2, kind=kind, source_channels=3, dtype=torch.float64)
    x, y, w = torch.randn(2, 4, 6).double(), torch.randn(2, 7, 3).double(), torch.rand(1, 7).double()
    g, order = attention(x, w, y), torch.randperm(7)
    assert (attention(x, w[:, order], y[:, order]) - g).abs().max() < 1e-13
    halves = attention(x, torch.cat([w, w], 1) / 2, torch.cat([y, y], 1))
    assert (halves - g).abs().max() < 1e-13
    assert (attention(x.flip(1), w, y) - g.flip(1)).abs().max() < 1e-13
    itself = QuadratureAttention(6, 2, kind=kind, dtype=torch.float64)
    w = torch.rand(2, 4).double()
    assert (itself(x.flip(1), w.flip(1)) - itself(x, w).flip(1)).abs().max() < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_with_respect_to_features_and_weights(kind: str) -> None:
    q, k, v, w = (t.requires_grad_() for t in tokens(4))
    assert torch.autograd.gradcheck(lambda *t: quadrature_attention(*t, kind=kind), (q, k, v, w))


@pytest.mark.unchecked
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_in_one_graph_and_maps_and_runs_in_half_precision(kind: str) -> None:
    attention = QuadratureAttention(8, 2, kind=kind, n_atoms=1, base_points=4)
    x, w = torch.randn(2, 9, 8), torch.rand(1, 8)
    expected = attention(x, w)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, w), expected, atol=1e-6)
    assert torch.allclose(torch.func.vmap(lambda x: attention(x[None], w)[0])(x), expected, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(attention(x, w).float(), expected, atol=2e-2)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: QuadratureAttention(8, kind="cosine"), ConfigError, "softmax"),
        (lambda a: QuadratureAttention(8, 3), ConfigError, "divisor"),
        (lambda a: QuadratureAttention(8, n_atoms=1), ConfigError, "both"),
        (lambda a: a(torch.ones(2, 5, 7)), ShapeError, r"\(batch, point, 8\); got \(2, 5, 7\)"),
        (lambda a: a(torch.ones(5, 8)), ShapeError, "batch, point"),
        (lambda a: a(torch.ones(2, 5, 8), torch.ones(1, 4)), ShapeError, r"\(1, 4\).*\(2, 5\).*sources"),
        (lambda a: a(torch.ones(2, 5, 8), torch.ones(5)), ShapeError, r"\(5,\)"),
        (lambda a: a(torch.ones(2, 5, 8), torch.tensor([[1.0, -1, 1, 1, 1]])), ValueError, "1 of 5 weights are neg"),
        (lambda a: a(torch.ones(2, 5, 8), torch.full((2, 5), torch.nan)), ValueError, "not finite"),
        (lambda a: a(torch.ones(2, 5, 8, dtype=torch.long)), ShapeError, "must be real.*int64"),
        (lambda a: QuadratureAttention(8, 0), ConfigError, "no 0 equal heads"),
    ],
)
def test_wrong_input_is_named(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(QuadratureAttention(8))
