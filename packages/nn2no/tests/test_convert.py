"""A converted network is itself on its base grid, and one operator on all grids."""

import copy
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from nn2no.conversion import convert, explain
from nn2no.conversion.place import to_base
from nn2no.errors import ConversionError
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn

TWO_PI = 2 * math.pi


def waves(*shape: int, channels: int = 1, modes: int = 3, ends: bool = False, lengths: float = 1.0) -> Tensor:
    """Fixed smooth random functions; with `ends` on nodes that include both ends, and not periodic there."""
    generator = torch.Generator().manual_seed(5)
    k = torch.cartesian_prod(*[torch.arange(-modes, modes + 1.0, dtype=torch.float64)] * len(shape))
    k = k.reshape(-1, len(shape)) * (0.37 if ends else 1.0)
    amplitude, phase = torch.rand(2, channels, len(k), generator=generator, dtype=torch.float64)
    coords = Grid.uniform(shape, lengths, periodic=not ends).coords
    return (amplitude * torch.cos(TWO_PI * ((coords @ k.T)[..., None, :] + phase))).sum(-1).movedim(-1, 0)[None] / 4


def square(n: int, periodic: bool = True, dim: int = 2, **options: object) -> Grid:
    return Grid.uniform((n,) * dim, periodic=periodic, **options)  # type: ignore[arg-type]


class UNet(nn.Module):
    """Two levels, with everything: strides, pools, norms, shared and functional layers."""

    def __init__(
        self, up: str = "bilinear", pool: str = "avg", activation: Callable[[Tensor], Tensor] = F.gelu
    ) -> None:
        super().__init__()
        same = {"padding": "same", "padding_mode": "circular"}
        self.first = nn.Conv2d(1, 6, 3, **same)
        self.down = nn.Conv2d(6, 8, 3, 2, 1, padding_mode="circular")
        self.norm, self.batch = nn.GroupNorm(2, 8), nn.BatchNorm2d(6)
        self.middle = nn.Conv2d(8, 8, 3, **same)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, padding_mode="circular")
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.last = nn.Conv2d(14, 2, 5, **same)
        self.mode, self.pool, self.activation = up, pool, activation

    def forward(self, x: Tensor) -> Tensor:
        a = self.activation(self.batch(self.first(x)))
        b = self.activation(self.norm(self.down(a)))
        pooled = F.avg_pool2d(b, 2) if self.pool == "avg" else F.max_pool2d(b, 2)
        c = self.activation(self.dilated(self.middle(self.middle(pooled))))
        b = b + F.interpolate(c, size=b.shape[2:], mode=self.mode)
        u = self.up(b) if self.mode == "nearest" else F.interpolate(b, scale_factor=2, mode=self.mode)
        return self.last(torch.cat([u, a], 1))


def net(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=0.3) if p.ndim > 1 else nn.init.normal_(p, 0.5, 0.1)
    return module.double().eval()


def changes(op: nn.Module, field: Callable[[int], Tensor], scales: tuple[int, ...], ends: int = 0) -> list[float]:
    """‖u_s - u_2s‖ / ‖u_2s‖ at the nodes of the coarsest grid, for doubled scales."""
    found = []
    with torch.no_grad():
        for s in scales:
            y = op(field(s))
            stride = s // scales[0]
            found.append(y[(..., *[slice(None, None, stride)] * (y.ndim - 2))])
    return [float((a - b).norm() / b.norm()) for a, b in itertools.pairwise(found)]


def order(errors: list[float]) -> float:
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


@pytest.mark.parametrize("up", ["bilinear", "nearest"])
@pytest.mark.parametrize("pool", ["avg", "max"])
def test_on_the_base_grid_nothing_changes_and_on_finer_ones_it_converges(up, pool):
    module = net(UNet(up, pool))
    op = convert(module, square(16))
    x = waves(16, 16)
    assert torch.equal(op(x), module(x))
    errors = changes(op, lambda s: waves(16 * s, 16 * s), (2, 4, 8, 16))
    assert order(errors) >= (1.8 if pool == "avg" else 0.9)
    raw = changes(module, lambda s: waves(16 * s, 16 * s), (1, 16))
    assert changes(op, lambda s: waves(16 * s, 16 * s), (1, 16))[0] < raw[0]


def test_the_raw_network_is_another_map_on_every_grid():
    module = net(UNet())
    coarse, fine = (m(waves(n, n)) for m, n in ((module, 16), (module, 64)))
    assert float((coarse - fine[..., ::4, ::4]).norm() / coarse.norm()) > 0.1


def test_coarser_and_fractional_grids():
    module = net(UNet())
    op = convert(module, square(16))
    for n in (8, 12, 20, 24, 36):
        assert op(waves(n, n)).shape == (1, 2, n, n)
    base = op(waves(16, 16))
    between = op(waves(24, 24))
    fine = op(waves(64, 64))
    limit = fine[..., ::8, ::8]
    assert float((between[..., ::3, ::3] - limit).norm() / limit.norm()) < float(
        (base[..., ::2, ::2] - limit).norm() / limit.norm()
    )


@pytest.mark.parametrize("dim", [1, 3])
def test_other_dimensions(dim):
    conv, pool = {1: (nn.Conv1d, nn.AvgPool1d), 3: (nn.Conv3d, nn.AvgPool3d)}[dim]
    up = nn.Upsample(scale_factor=2, mode={1: "linear", 3: "trilinear"}[dim])
    norm = nn.InstanceNorm1d if dim == 1 else nn.InstanceNorm3d
    module = net(nn.Sequential(
        conv(1, 4, 3, padding=1, padding_mode="circular"), norm(4), nn.GELU(), pool(2),
        conv(4, 4, 3, padding=1, padding_mode="circular"), nn.GELU(), up,
    ))  # fmt: skip
    op = convert(module, square(8, dim=dim))
    x = waves(*[8] * dim, modes=1)
    assert torch.equal(op(x), module(x))
    inside = (..., *[slice(2, -2)] * dim)  # linear interpolation is clamped at the ends
    found = [op(waves(*[8 * s] * dim, modes=1))[(..., *[slice(None, None, s)] * dim)][inside] for s in (2, 4, 8)]
    errors = [float((a - b).norm()) for a, b in itertools.pairwise(found)]
    assert errors[0] / errors[1] > 3


def test_anisotropic_refinement_of_rectangles():
    module = net(UNet())
    op = convert(module, Grid.uniform((16, 24), (1.0, 1.5), periodic=True))
    x = waves(16, 24, lengths=1.0)
    assert torch.equal(op(x), module(x))
    assert op(waves(32, 72)).shape == (1, 2, 32, 72)
    wide = [op(waves(16, 24 * s))[..., ::s] for s in (2, 4, 8)]
    assert (wide[1] - wide[2]).norm() < 0.4 * (wide[0] - wide[1]).norm()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
def test_grids_with_both_ends(mode):
    """Sizes s (n - 1) + 1, and norms by trapezoids."""
    module = net(nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode=mode), nn.GroupNorm(2, 4), nn.GELU(),
        nn.Conv2d(4, 4, 3, 2, 1, padding_mode=mode), nn.GELU(), nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.ConvTranspose2d(4, 2, 3, 2, 1),
    ))  # fmt: skip
    op = convert(module, square(17, periodic=False))
    field = lambda s: waves(16 * s + 1, 16 * s + 1, ends=True)  # noqa: E731
    assert torch.equal(op(field(1)), module(field(1)))
    assert op(field(2)).shape == (1, 2, 33, 33)
    assert order(changes(op, field, (2, 4, 8, 16))) >= (
        0.4 if mode == "zeros" else 0.9
    )  # zeros are a jump of the field


def test_cell_grids_and_other_domains_of_the_same_spacing():
    module = net(UNet())
    op = convert(module, square(16, centering="cell"))
    assert op(waves(32, 32)).shape == (1, 2, 32, 32)
    x = waves(32, 32)
    larger = Grid.uniform((32, 32), 2.0, periodic=True, centering="cell")  # the same spacing on twice the lengths
    assert torch.equal(op(x, larger), module(x))
    with pytest.raises(ShapeError, match="of one kind"):
        op(x, Grid.uniform((32, 32)))


class Token(nn.Module):
    """A vision transformer with a class token and a table of positions."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, 2)
        self.table, self.cls = nn.Parameter(torch.zeros(1, 65, 8)), nn.Parameter(torch.zeros(1, 1, 8))
        self.qkv, self.kind = nn.Linear(8, 24), attention
        self.multi = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.out = nn.LayerNorm(8), nn.ConvTranspose2d(8, 1, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x)
        shape = y.shape[2:]
        t = torch.cat([self.cls.expand(len(x), -1, -1), y.flatten(2).mT], 1) + self.table
        n = self.norm(t)
        if self.kind == "multi-head":
            t = t + self.multi(n, n, n, need_weights=False)[0]
        else:
            q, k, v = (z.unflatten(-1, (2, 4)).transpose(1, 2) for z in self.qkv(n).chunk(3, -1))
            fused = F.scaled_dot_product_attention
            a = fused(q, k, v) if self.kind == "fused" else (q @ k.mT / 2).softmax(-1) @ v
            t = t + a.transpose(1, 2).flatten(2)
        t = t + t[:, :1]  # what the class token has gathered
        return self.out(t[:, 1:].mT.unflatten(-1, shape))


@pytest.mark.parametrize("kind", ["fused", "explicit", "multi-head"])
def test_attention_of_class_tokens_and_tables_of_positions(kind):
    module = net(Token(kind))
    op = convert(module, square(16))
    assert op.tables == ("table",)
    x = waves(16, 16)
    assert torch.equal(op(x), module(x))
    # the table is piecewise linear
    errors = changes(op, lambda s: waves(16 * s, 16 * s), (2, 4, 8))
    assert order(errors) >= 1.4
    plain = convert(module, square(16), attention="torch")
    assert float((plain(waves(64, 64)) - op(waves(64, 64))).norm() / op(waves(64, 64)).norm()) > 1e-3
    assert changes(op, lambda s: waves(16 * s, 16 * s), (1, 8))[0] < 0.5


def test_patches_of_a_fixed_size_keep_their_number():
    module = net(Token("fused"))
    op = convert(module, square(16), patch="fixed")
    seen = []
    module.norm.register_forward_hook(lambda m, i, o: seen.append(o.shape[1]))
    errors = changes(op, lambda s: waves(16 * s, 16 * s), (1, 2, 4, 8))
    assert set(seen) == {65}
    assert errors[-1] < 0.5 * errors[1]  # piecewise linear outputs
    named = convert(module, square(16), patch=["patch"])
    torch.testing.assert_close(named(waves(32, 32)), op(waves(32, 32)))


def test_readouts_of_functions():
    """Global means, adaptive pooling, and a dense layer on all points."""
    for tail in (
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)),
        nn.Sequential(nn.AdaptiveMaxPool2d((1, 2)), nn.Flatten(), nn.Linear(8, 3)),
        nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 64, 3)),
        nn.Sequential(nn.LPPool2d(2, 2), nn.Flatten(), nn.Linear(4 * 64, 3)),
        nn.Sequential(nn.PixelUnshuffle(2), nn.PixelShuffle(2), nn.Flatten(), nn.Linear(4 * 256, 3)),
    ):
        module = net(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.GELU(), tail))
        op = convert(module, square(16))
        x = waves(16, 16)
        assert torch.equal(op(x), module(x))
        results = [op(waves(16 * s, 16 * s)) for s in (1, 2, 4, 8, 16)]
        errors = [float((a - b).norm() / b.norm()) for a, b in itertools.pairwise(results)]
        assert errors[-1] < max(1e-3, 0.7 * errors[-2])
        assert errors[0] < 0.5


class Squeeze(nn.Module):
    """Channels weighed by global means, and a branch from a readout back to the grid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
        self.gate, self.wide = nn.Conv2d(4, 4, 1), nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        gate = self.gate(y.mean((2, 3), keepdim=True))
        mixed = self.wide(y.mean((2, 3))[:, None])[:, 0]  # a convolution over channels is not one over space
        pooled = F.interpolate(F.adaptive_avg_pool2d(y, 4), size=y.shape[2:], mode="bilinear")
        return y * torch.sigmoid(gate) + mixed[..., None, None] + pooled


def test_what_is_not_on_the_grid_is_left_alone():
    module = net(Squeeze())
    op = convert(module, square(16))
    assert torch.equal(op(waves(16, 16)), module(waves(16, 16)))
    assert order(changes(op, lambda s: waves(16 * s, 16 * s), (2, 4, 8, 16))) >= 0.9


@pytest.mark.parametrize(
    ("conv", "near"), [("integral", 0.15), ("kernel-interp", 0.6), ("differential", 0.25), ("spectral", 0.05)]
)
def test_rules_for_convolutions(conv, near):
    module = net(nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.GELU(),
        nn.Conv2d(4, 1, 3, padding=1, padding_mode="circular"),
    ))  # fmt: skip
    op = convert(module, square(16), conv=conv)
    assert torch.equal(op(waves(16, 16)), module(waves(16, 16)))
    assert changes(op, lambda s: waves(16 * s, 16 * s, modes=2), (1, 8))[0] < near


def test_circular_override_makes_zero_padding_periodic():
    zeros = net(nn.Conv2d(1, 1, 3, padding=1))
    circular = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular").double()
    circular.load_state_dict(zeros.state_dict())
    for n in (16, 32):
        x = waves(n, n)
        a = convert(zeros, square(16), padding_mode="circular")(x)
        torch.testing.assert_close(a, convert(circular, square(16))(x))


def test_antialiased_activations():
    module = net(UNet(activation=F.relu))
    x = waves(16, 16)
    plain, filtered = (convert(module, square(16), activation=a)(x) for a in ("pointwise", "antialiased"))
    assert 1e-4 < float((plain - filtered).norm() / plain.norm()) < 0.3


def test_weights_are_shared_and_states_load_both_ways():
    module, other = net(UNet()), UNet().double()
    op = convert(module, square(16))
    assert list(op.state_dict()) == list(module.state_dict())
    other.load_state_dict(op.state_dict())
    op.load_state_dict(UNet().double().state_dict())
    for a, b in zip(op.parameters(), module.parameters(), strict=True):
        assert a is b
    assert {id(p) for p in nn.Sequential(op).parameters()} == {id(p) for p in module.parameters()}
    op.float()
    assert module.first.weight.dtype == torch.float32
    twin = copy.deepcopy(op)
    assert twin.original() is not module
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert next(module.parameters()).abs().sum() > 0
    x = waves(32, 32).float()
    assert not torch.equal(twin(x), op(x))
    op.train()
    assert module.training
    assert module.first.training
    assert op.original() is module


def test_gradients_at_the_base_grid_are_the_networks_and_flow_at_others():
    module = net(UNet())
    op = convert(module, square(16))
    x = waves(16, 16)
    first = torch.autograd.grad(op(x).square().sum(), [*op.parameters()], allow_unused=True)
    second = torch.autograd.grad(module(x).square().sum(), [*module.parameters()], allow_unused=True)
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    conv = net(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    fine = convert(conv, square(4))
    y = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fine, y)
    assert torch.autograd.gradcheck(lambda w: F.conv2d(y.detach(), w), net(nn.Conv2d(1, 1, 3)).weight)
    fine(y).square().sum().backward()
    assert conv.weight.grad.abs().sum() > 0


def test_training_mode_and_its_statistics():
    """Batch statistics are those of the finer grid, once; random numbers and statistics are not touched by tracing."""
    module = net(UNet()).train()
    state = torch.get_rng_state()
    op = convert(module, square(16))
    assert torch.equal(torch.get_rng_state(), state)
    assert int(module.batch.num_batches_tracked) == 0
    op(waves(32, 32).expand(3, -1, -1, -1))
    assert int(module.batch.num_batches_tracked) == 1
    other = net(UNet()).train()
    other(waves(16, 16).expand(3, -1, -1, -1))
    torch.testing.assert_close(module.batch.running_mean, other.batch.running_mean, rtol=0.05, atol=0.01)


def test_batches_and_float32():
    op = convert(net(UNet()), square(16))
    x = torch.cat([waves(32, 32), waves(32, 32).roll(3, 2)])
    torch.testing.assert_close(op(x)[1:], op(x[1:]))
    single = copy.deepcopy(op).float()
    torch.testing.assert_close(single(x.float()).double(), op(x), rtol=1e-5, atol=1e-4)


@pytest.mark.unchecked
def test_vmap():
    op = convert(net(UNet()), square(16))
    x = torch.stack([waves(32, 32), waves(32, 32).roll(3, 2)])
    op(x[0])
    torch.testing.assert_close(torch.vmap(op)(x)[1], op(x[1]))


@pytest.mark.unchecked
def test_exports_to_one_graph_that_compiles_and_compiling_it_directly_does_no_harm():
    op, x = convert(net(UNet()), square(16)), waves(32, 32)
    expected = op(x)
    graph = torch.export.export(op, (x,), strict=False).module()
    compiled = torch.compile(graph, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    eager = torch.compile(op, backend="aot_eager")
    torch.testing.assert_close(eager(x), expected)
    torch.testing.assert_close(eager(waves(16, 16)), op(waves(16, 16)))


def test_explain_says_what_would_happen_and_changes_nothing():
    module = net(UNet())
    report = explain(module, square(16))
    rules = {(row.name, row.kind): row.rule for row in report.rows}
    assert "fixed physical size" in rules["first", "convolution"]
    assert ("", "interpolation") in rules
    assert report.problems == ()
    assert "becomes" in str(report)
    assert "TorchFunction" not in str(module.forward)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv2d(1, 4, 1), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.conv(x).flatten(2).mT)[0]


class Hard(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).view(len(x), 4, 256)


class Windows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).unflatten(2, (-1, 4)).unflatten(4, (-1, 4))  # b c i p j q
        t = y.permute(0, 2, 4, 3, 5, 1).flatten(0, 2).flatten(1, 2)[:, None]
        return F.scaled_dot_product_attention(t, t, t)


class Rolled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(self.conv(x), 2, 2)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Recurrent(), r"rnn \(lstm\): a recurrence over points"),
        (Hard(), "fails on a finer grid with RuntimeError: shape"),
        (Windows(), "windows of a fixed number of points"),
        (Rolled(), "shift by a number of pixels"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2, return_indices=True)), "return_indices"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.Unfold(2)), "patches of pixels"),
        (torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 1))), "compiled by TorchScript"),
    ],
)
def test_what_cannot_be_converted_is_named_with_its_reason(module, message):
    module = module.double().eval()
    with pytest.raises(ConversionError, match=message):
        convert(module, square(16))
    report = explain(module, square(16))
    assert report.problems
    assert convert(module, square(16), strict=False).report.problems


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: convert(convert(net(UNet()), square(16)), square(16)), ConversionError, "already converted"),
        (lambda: convert(net(UNet()), Grid.chebyshev((16, 16))), ConfigError, "equispaced"),
        (lambda: convert(net(UNet()), 16), ConfigError, "Grid.uniform.*got 16"),
        (lambda: convert(torch.relu, square(16)), ConversionError, "torch.nn.Module, got builtin"),
        (lambda: convert(net(UNet()), square(16), conv="fast"), ConfigError, "conv='fast'; choose one of"),
        (lambda: convert(net(UNet()), square(16), patch="big"), ConfigError, "patch='big'"),
        (lambda: convert(net(UNet()), square(16, False), activation="antialiased"), ConfigError, "periodic"),
        (lambda: convert(net(UNet()), square(16), position_params=["pos"]), ConversionError, "no parameter pos"),
        (lambda: convert(net(UNet()), square(15)), ConversionError, "does not run on an input"),
        (lambda: convert(nn.GELU(), square(16)), ConversionError, "example_input"),
        (lambda: convert(net(UNet()), square(16), conv="differential"), ConversionError, "amplify noise"),
        (lambda: convert(net(UNet()), square(16))(torch.randn(1, 16, 16)), ShapeError, "with 2 axes"),
        (lambda: convert(net(UNet()), square(16))(torch.ones(1, 1, 16, 16).long()), ShapeError, "int64"),
        (lambda: convert(net(UNet()), square(16))(waves(18, 18)), ConversionError, "nearest size is (16|20)"),
        (lambda: convert(net(UNet()), square(16))(waves(32, 32), square(16)), ShapeError, "16, 16"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_dropout_of_values_is_warned_about_while_training():
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Dropout(0.5))
    with pytest.warns(UserWarning, match="white noise"):
        convert(module.train(), square(8))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_padded_field_that_is_changed_in_place_is_what_the_convolution_reads(mode):
    class Padded(nn.Module):
        def __init__(self, inplace: bool) -> None:
            super().__init__()
            self.conv, self.inplace = nn.Conv2d(2, 3, 3), inplace

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.relu(F.pad(x, (1, 1, 1, 1), mode="circular"), inplace=self.inplace))

    first, second = Padded(True), Padded(False)
    second.load_state_dict(first.state_dict())
    grid, x = Grid.uniform((8, 8), periodic=True), torch.randn(1, 2, 16, 16)
    with mode():
        assert torch.equal(convert(first, grid)(x), convert(second, grid)(x))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_fixed_patches_with_padding_read_the_padded_means(padding_mode):
    conv = nn.Conv2d(1, 2, 2, stride=2, padding=1, padding_mode=padding_mode).double()
    op = convert(conv, Grid.uniform((8, 8), centering="cell"), patch="fixed")
    x = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(op(x), conv(to_base(x, (Fraction(2),) * 2, (False, False))), rtol=0, atol=1e-14)


def test_padding_of_channels_of_tokens_is_left_alone():
    """Linear attention whose denominator is a channel of ones put beside the values: a ratio of quadratures."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Conv2d(2, 12, 1)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).reshape(len(x), 1, 12, -1).mT.chunk(3, -1)
            kv = torch.exp(k).mT @ F.pad(v, (0, 1), value=1.0)
            out = torch.exp(q) @ kv
            return (out[..., :-1] / out[..., -1:]).mT.reshape(len(x), 4, *x.shape[2:])

    op = convert(Linear().double(), square(32))
    coarse, fine = op(waves(32, 32, channels=2)), op(waves(64, 64, channels=2))
    torch.testing.assert_close(fine[..., ::2, ::2], coarse, rtol=0, atol=1e-12)
