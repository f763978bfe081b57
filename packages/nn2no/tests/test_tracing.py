"""What tracing a network leaves behind, and what its conversion does with unusual ones."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn2no.conversion import convert
from nn2no.conversion.trace import record, untouched
from nn2no.errors import ConversionError
from sciml.errors import ShapeError
from sciml.grids import Grid
from torch import Tensor, nn


class Counter(nn.Module):
    """Writes to its buffers in place and anew, draws random numbers, and may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 1)
        self.register_buffer("last", torch.zeros(2))
        self.register_buffer("calls", torch.zeros(1))
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = torch.rand(2)
        if self.fails:
            raise ValueError("by design")
        return self.conv(x)


@pytest.mark.parametrize("fails", [False, True])
def test_tracing_leaves_buffers_and_random_numbers_as_they_were(fails):
    module, x = Counter(), torch.zeros(1, 1, 8)
    module.fails, last, state = fails, module.last, torch.get_rng_state()
    try:
        assert record(module, (x,), {}).outputs == ((1, 1, 8),)
    except ValueError:
        assert fails
    assert float(module.calls) == 0
    assert module.last is last
    assert torch.equal(last, torch.zeros(2))
    assert torch.equal(torch.get_rng_state(), state)
    with untouched(module, x):
        assert not module.conv(x).requires_grad


class Positions(nn.Module):
    """A table of positions that two modules share."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.linspace(0, 1, 8, dtype=torch.float64).reshape(1, 1, 8))
        self.again = nn.Module()
        self.again.table = self.table
        self.conv = nn.Conv1d(1, 1, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x + self.table) * 2 + self.again.table


def test_tables_of_positions_that_are_tied_are_interpolated_and_receive_gradients():
    module = Positions()
    seen = []
    module.conv.register_forward_hook(lambda *_: seen.append(1))
    op = convert(module, Grid.uniform((8,), periodic=True))
    assert op.tables == ("table",)
    seen.clear()
    x = torch.zeros(1, 1, 16, dtype=torch.float64)
    y = op(x)
    assert len(seen) == 1
    torch.testing.assert_close(y[..., ::2], module(x[..., ::2]))
    y.sum().backward()
    assert module.table.grad is not None
    assert float(module.table.grad.abs().min()) > 0
    assert module.table is module.again.table
    assert dict(module.named_parameters())["table"] is module.table


class Conditioned(nn.Module):
    """A field, another one, a number a sample, a number, and a switch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular")
        self.other = nn.Conv1d(3, 1, 5, padding=2, padding_mode="circular")

    def forward(
        self, x: Tensor, z: Tensor, t: Tensor, *, shift: Tensor | float = 0.5, widen: bool = False
    ) -> dict[str, Tensor]:
        y = self.conv(torch.cat([x, z], 1)) * t[:, None, None] + shift
        a = F.conv1d(y, self.other.weight, padding=4 if widen else 2, dilation=2 if widen else 1)
        return {"y": y, "a": a}


def field(n: int, batch: int = 1, phase: float = 0.0) -> Tensor:
    points = torch.arange(n, dtype=torch.float64) / n
    rows = torch.arange(1, batch + 1, dtype=torch.float64)[:, None]
    return torch.sin(6.283185307179586 * (points + phase) + rows)[:, None]


@pytest.mark.parametrize("training", [False, True])
def test_further_inputs_of_every_kind(training):
    module = Conditioned().double().train(training)
    example = (field(16), field(16), torch.ones(1, dtype=torch.float64))
    shift = torch.tensor(0.5, dtype=torch.float64)
    op = convert(module, Grid.uniform((16,), periodic=True), example_input=example)

    def call(m, n, batch, widen):
        t = torch.arange(1.0, batch + 1, dtype=torch.float64)
        return m(field(n, batch), z=field(n, batch, 0.2), t=t, shift=shift, widen=widen)

    for batch in (1, 3):
        for widen in (False, True):
            run = partial(call, batch=batch, widen=widen)
            torch.testing.assert_close(run(op, 16), run(module, 16), rtol=0, atol=0)
            coarse, fine, limit = (run(op, n)["y"][..., :: n // 16] for n in (32, 64, 128))
            assert float((fine - limit).norm()) < 0.3 * float((coarse - fine).norm())
            # two switches are two traces: each with its own dilation
            inner = (..., slice(8, 9))
            a = [run(op, 16 * s)["a"][..., ::s][inner] for s in (1, 16)]
            torch.testing.assert_close(a[0], a[1], rtol=0.2, atol=0.05)


def test_inputs_are_not_written_to_by_tracing():
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Conv1d(1, 1, 1))
    op = convert(module.double(), Grid.uniform((8,), periodic=True), example_input=field(8))
    x = field(16)
    op.train()
    torch.testing.assert_close(op(x.clone()), module(x.clone()))


class Outputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.out = nn.Conv1d(1, 4, 2, 2), nn.ConvTranspose1d(4, 1, 2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        tokens = self.patch(x)
        return {"field": self.out(tokens), "means": [tokens.mean(-1)], "tokens": tokens}


def test_fixed_patches_with_several_outputs():
    module = Outputs().double()
    op = convert(module, Grid.uniform((16,), periodic=True), patch="fixed")
    y = op(field(64))
    assert y["field"].shape == (1, 1, 64)
    assert y["means"][0].shape == (1, 4)
    assert y["tokens"].shape == (1, 4, 8)
    base = module(field(16))
    assert torch.equal(op(field(16))["field"], base["field"])
    torch.testing.assert_close(y["field"][..., ::4], base["field"], rtol=0.2, atol=0.1)


class Rolled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(self.conv(x), 1, -1)


class Difference(Rolled):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y.narrow(-1, 1, x.shape[-1] - 1) - y.narrow(-1, 0, x.shape[-1] - 1)


@pytest.mark.unchecked
def test_outputs_that_count_pixels_are_refused():
    with pytest.raises(ConversionError, match="counts pixels"):
        convert(Difference(), Grid.uniform((16,), periodic=True))


def test_what_cannot_be_converted_runs_as_it_is_if_that_is_asked_for():
    for module in (Rolled().double(), Difference().double()):
        op = convert(module, Grid.uniform((16,), periodic=True), strict=False)
        assert op.report.problems
        torch.testing.assert_close(op(field(64)), module(field(64)))


@pytest.mark.unchecked
@pytest.mark.parametrize("example", [torch.zeros(1, 1, 8), torch.zeros(1, 16), [torch.zeros(1, 1, 16)], ()])
def test_examples_that_are_no_fields_on_the_base_grid_are_refused(example):
    with pytest.raises(ShapeError, match="example_input must be a field"):
        convert(nn.Conv1d(1, 1, 1), Grid.uniform((16,), periodic=True), example_input=example)


def test_passes_in_several_threads_leave_the_tables_in_place():
    module = Positions()
    op = convert(module, Grid.uniform((8,), periodic=True))
    x = {n: torch.zeros(1, 1, n, dtype=torch.float64) for n in (16, 32)}
    expected = {n: op(v) for n, v in x.items()}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: op(x[16 * (1 + k % 2)]), range(200)))
    for k, y in enumerate(found):
        assert torch.equal(y, expected[16 * (1 + k % 2)])
    assert dict(module.named_parameters())["table"] is module.table
    assert isinstance(module.table, nn.Parameter)


class Applied(nn.Module):
    """A convolution, then a function."""

    def __init__(self, function: Callable[[Tensor], Tensor], dim: int = 2, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = (nn.Conv1d if dim == 1 else nn.Conv2d)(1, 2, 3, padding=1, padding_mode="circular", **options)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def plane(n: int) -> Tensor:
    x, y = field(n)[0, 0], field(n, phase=0.3)[0, 0]
    return (x[:, None] * y + y[:, None])[None, None]


@pytest.mark.parametrize(
    "part",
    [
        (lambda y: y[..., ::2, ::2]),
        (lambda y: torch.cat([y[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)),
        (lambda y: y.permute(0, 2, 3, 1)[:, 1::2, :, 0]),
        (lambda y: y[..., 2:-2, 2:-2]),
        (lambda y: y[..., 1:, :] - y[..., :-1, :]),
        (lambda y: y[:, :1, y.shape[2] // 2, -1]),
        lambda y: y - y[..., 8:9, 8:9],
        (lambda y: y[..., : y.shape[-1] // 2]),
    ],
)
def test_slices_are_parts_of_fixed_place_and_size(part):
    module = Applied(part).double()
    op = convert(module, Grid.uniform((16, 16), periodic=True))
    assert torch.equal(op(plane(16)), module(plane(16)))
    coarse, fine, limit = (op(plane(16 * s)).detach() for s in (4, 8, 16))

    def on_coarse(y: Tensor) -> Tensor:
        steps = [n // m for n, m in zip(y.shape, coarse.shape, strict=True)]
        return y[tuple(slice(0, m * k, k) for m, k in zip(coarse.shape, steps, strict=True))]

    errors = [float((on_coarse(y) - on_coarse(limit)).norm()) for y in (coarse, fine)]
    assert errors[0] / errors[1] > 3.5  # second order: 5 against a reference of twice the resolution


def test_causal_convolutions_that_are_cut_afterwards():
    module = Applied(lambda y: y, dim=1).double()
    module.conv = nn.Conv1d(1, 2, 3, padding=4, dilation=2, dtype=torch.float64)
    module.function = lambda y: y[..., :-4]
    op = convert(module, Grid.uniform((16,), periodic=False, centering="cell"))
    x = torch.ones(1, 1, 16, dtype=torch.float64)
    assert torch.equal(op(x), module(x))
    fine = op(torch.ones(1, 1, 64, dtype=torch.float64))
    assert fine.shape == (1, 2, 64)
    inside = fine[..., 20:60]  # the kernel is as wide as hats, which reach beyond the end
    torch.testing.assert_close(inside, module(x)[..., 5:15].repeat_interleave(4, -1))


def test_class_tokens_are_taken_as_they_are():
    def tokens(y: Tensor) -> Tensor:
        t = torch.cat([y.mean((2, 3))[:, None], y.flatten(2).mT], 1)
        return t[:, 1:].mT.unflatten(2, y.shape[2:]) + t[:, :1].mT[..., None]

    module = Applied(tokens).double()
    op = convert(module, Grid.uniform((16, 16), periodic=True))
    assert torch.equal(op(plane(16)), module(plane(16)))
    direct = convert(Applied(lambda y: y + y.mean((2, 3), keepdim=True)).double(), op.base_grid)
    torch.testing.assert_close(op(plane(64)), direct(plane(64)))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda y: y.sum((2, 3)), "sum over points grows"),
        (lambda y: torch.sum(y, axis=-1), "sum over points grows"),
        (lambda y: y.cumsum(-1), "running sum"),
        (lambda y: torch.diff(y), "differences of neighbouring points"),
        (lambda y: y.argmax(-1), "indices of points"),
        (
            lambda y: y.reshape(len(y), 2, y.shape[2] // 4, 4, -1, 4).mean((3, 5)),
            "patches or windows of a fixed",
        ),
        (lambda y: y.unflatten(2, (-1, 2)), "patches or windows of a fixed"),
        (lambda y: torch.constant_pad_nd(y, (1, 1)), "call torch.nn.functional.pad"),
    ],
)
def test_functions_that_count_points_are_refused(function, message):
    with pytest.raises(ConversionError, match=message):
        convert(Applied(function).double(), Grid.uniform((16, 16), periodic=True))


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.sum(1, keepdim=True),
        lambda y: y.cumsum(1),
        lambda y: y.argmax(1, keepdim=True) * y,
        lambda y: y.unflatten(1, (2, 1)).flatten(1, 2),
        lambda y: y.permute(0, 2, 3, 1).flatten(1, 2).mT.reshape(y.shape),
        lambda y: torch.stack([row[:1] for row in y]),
    ],
)
def test_the_same_functions_of_channels_and_samples_are_left_as_they_are(function):
    module = Applied(function).double()
    op = convert(module, Grid.uniform((16, 16), periodic=True))
    for batch in (1, 3):
        x = plane(32).expand(batch, -1, -1, -1)
        alone = convert(Applied(lambda y: y).double(), op.base_grid)(x)
        torch.testing.assert_close(op(x), function(alone))


def test_functional_calls_of_operators_with_tables():
    module = Positions()
    op = convert(module, Grid.uniform((8,), periodic=True))
    x, other = field(16), module.table.detach().cos()
    found = torch.func.functional_call(op, {"table": other}, (x,))
    with torch.no_grad():
        module.table.copy_(other)
    torch.testing.assert_close(found, op(x))


@pytest.mark.unchecked
def test_networks_with_converted_or_parallel_parts_are_refused():
    grid, conv = Grid.uniform((8,), periodic=True), nn.Conv1d(1, 1, 1)
    with pytest.raises(ConversionError, match="1 is already converted: put its original"):
        convert(nn.Sequential(nn.Conv1d(1, 1, 1), convert(conv, grid)), grid)
    with pytest.raises(ConversionError, match="convert the module within it"):
        convert(nn.DataParallel(conv), grid)
