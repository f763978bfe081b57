"""Normalisation is torch's on uniform grids, an integral on all others."""

import math

import pytest
import torch
from nn2no.norms import QuadratureNorm, quadrature_norm
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import nn

KINDS = ["instance", "group", "layer", "batch"]
TORCH = {
    "instance": lambda: nn.GroupNorm(6, 6).double(),
    "group": lambda: nn.GroupNorm(3, 6).double(),
    "layer": lambda: nn.GroupNorm(1, 6).double(),
    "batch": lambda: nn.BatchNorm2d(6).double(),
}


def make(kind: str, **options) -> QuadratureNorm:
    groups = 3 if kind == "group" else None
    norm = QuadratureNorm(6, kind, groups=groups, dtype=torch.float64, **options)
    torch.manual_seed(1)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def field(n: int = 7, m: int = 9) -> torch.Tensor:
    torch.manual_seed(0)
    return 2 + torch.randn(4, 6, n, m, dtype=torch.float64)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch_on_uniform_periodic_and_cell_grids(kind: str, periodic: bool) -> None:
    x, norm, reference = field(), make(kind), TORCH[kind]()
    grid = Grid.uniform(x.shape[2:], (1.0, 3.0), periodic=periodic, centering="cell")
    reference.load_state_dict(norm.state_dict())
    expected = reference(x)
    assert (norm(x, grid.weights) - expected).abs().max() < 1e-13
    assert torch.equal(make(kind)(x), expected)
    if kind == "batch":
        n = x[:, 0].numel()
        assert torch.allclose(norm.running_mean, reference.running_mean, rtol=1e-13)
        biased = (norm.running_var - 0.9) * n / (n - 1) + 0.9
        assert torch.allclose(biased, reference.running_var, rtol=1e-13)
        assert torch.equal(norm.eval()(x, grid.weights), nn.functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias))  # fmt: skip


def test_layer_norm_over_space_and_instance_norm_are_torchs() -> None:
    x = field()
    uniform = torch.ones(x.shape[2:], dtype=torch.float64)
    assert (quadrature_norm(x, uniform, groups=1) - nn.functional.layer_norm(x, x.shape[1:])).abs().max() < 1e-13
    assert (quadrature_norm(x, uniform, groups=6) - nn.functional.instance_norm(x)).abs().max() < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_splitting_a_node_changes_nothing(kind: str) -> None:
    x, w = field()[..., 0], torch.rand(7, dtype=torch.float64)
    split = torch.cat([x, x[..., 2:3]], -1)
    parts = torch.cat([w, w[2:3] * 0.3])
    parts[2] *= 0.7
    assert (make(kind)(split, parts)[..., :7] - make(kind)(x, w)).abs().max() < 1e-13
    a = make(kind).float()(split.float(), parts.float())[..., :7] - make(kind).float()(x.float(), w.float())
    assert a.abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_each_cloud_of_a_batch_has_its_own_weights(kind: str) -> None:
    x, w = field()[..., 0].transpose(1, 2), torch.rand(4, 7, dtype=torch.float64)
    order = torch.randperm(7)
    norm = make(kind, channel_dim=-1)
    y = norm(x, w)
    assert (norm(x[:, order], w[:, order]) - y[:, order]).abs().max() < 1e-13
    if kind != "batch":
        assert torch.allclose(y[1:2], norm(x[1:2], w[1:2]), rtol=1e-12, atol=1e-13)
        padded = norm(torch.cat([x, 99 + x], 1), torch.cat([w, 0 * w], 1))
        assert (padded[:, :7] - y).abs().max() < 1e-13


def test_on_node_grids_order_two_where_the_plain_mean_has_order_one() -> None:
    def error(n: int, weighted: bool) -> float:
        grid = Grid.uniform(n)
        x = grid.coords[:, 0]
        f = torch.exp(x)[None, None]
        mean, square = math.e - 1, (math.e**2 - 1) / 2
        exact = (f - mean) / math.sqrt(square - mean**2)
        return float((quadrature_norm(f, grid.weights if weighted else None, groups=1, eps=0.0) - exact).abs().max())

    for weighted, order in ((True, 2), (False, 1)):
        slope = math.log2(error(65, weighted) / error(129, weighted))
        assert abs(slope - order) < 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_weights_that_it_cannot_hold(kind: str, dtype: torch.dtype) -> None:
    """Of a small domain with many nodes, where a square of the field is infinite in float16."""
    x = 400 * field(60, 70)
    w = 1e-12 * (0.5 + torch.rand(60, 70, dtype=torch.float64))
    expected = make(kind)(x, w)
    half = make(kind).to(dtype)(x.to(dtype), w)
    assert half.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps * float(expected.detach().abs().max())
    torch.testing.assert_close(half.double(), expected, rtol=0, atol=tolerance)


def test_batch_statistics_with_weights_of_each_sample() -> None:
    """Σ_bi w_bi f_bi / Σ_bi w_bi by loops, whatever the sums of the weights of the samples."""
    x, norm = field(3, 2), make("batch")
    w = torch.rand(4, 3, 2, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.2, 3.0])[:, None, None]
    y = norm(x, w)
    for c in range(6):
        mean = sum(float((w[b] * x[b, c]).sum()) for b in range(4)) / float(w.sum())
        variance = sum(float((w[b] * (x[b, c] - mean) ** 2).sum()) for b in range(4)) / float(w.sum())
        expected = (x[:, c] - mean) / math.sqrt(variance + 1e-5) * norm.weight[c] + norm.bias[c]
        torch.testing.assert_close(y[:, c], expected, rtol=1e-12, atol=1e-12)
        assert float(norm.running_mean[c]) == pytest.approx(0.1 * mean, rel=1e-12)
        assert float(norm.running_var[c]) == pytest.approx(0.9 + 0.1 * variance, rel=1e-12)
    repeated = make("batch")(x, w[:1].expand(4, 3, 2))
    torch.testing.assert_close(make("batch")(x, w[:1]), repeated, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: str) -> None:
    x, w = field(3, 2)[:2].requires_grad_(), torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    norm = make(kind)
    assert torch.autograd.gradcheck(lambda x, w, a, b: torch.func.functional_call(
        norm, {"weight": a, "bias": b}, (x, w)), (x, w, norm.weight, norm.bias))  # fmt: skip


@pytest.mark.unchecked
def test_compiles_in_one_graph_and_maps() -> None:
    x, w, norm = field(), torch.rand(7, 9, dtype=torch.float64), make("group")
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, w), norm(x, w))
    mapped = torch.func.vmap(lambda x: norm(x[None], w)[0])(x)
    assert torch.allclose(mapped, norm(x, w), rtol=1e-12)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: QuadratureNorm(6, "spectral"), ConfigError, "instance"),
        (lambda: QuadratureNorm(6, "group"), ConfigError, "groups"),
        (lambda: QuadratureNorm(6, "layer", groups=2), ConfigError, "groups"),
        (lambda: QuadratureNorm(6, "group", groups=4), ConfigError, "divisor"),
        (lambda: QuadratureNorm(6, channel_dim=2), ConfigError, "channel_dim"),
        (lambda: make("layer")(field()[:, :5]), ShapeError, r"6 channels; got \(4, 5, 7, 9\)"),
        (lambda: make("layer")(field(), torch.ones(7, 8)), ShapeError, r"\(7, 8\).*\(1, 7, 9\)"),
        (lambda: make("layer")(field()[0, 0]), ShapeError, "batch"),
        (lambda: make("batch")(field(), -torch.ones(7, 9)), ValueError, "63 of 63 weights are negative"),
        (lambda: make("layer")(field(), torch.ones(7, 9) / 0), ValueError, "not finite"),
        (lambda: make("layer")(field().to(torch.complex64), torch.ones(7, 9)), ShapeError, "real field.*complex64"),
        (lambda: make("layer")(torch.ones(4, 6, 7, 9, dtype=torch.long)), ShapeError, "real field.*int64"),
        (lambda: QuadratureNorm(6, "group", groups=0), ConfigError, "no 0 equal groups"),
    ],
)
def test_wrong_input_is_named(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
