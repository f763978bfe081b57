"""What tracing a network leaves behind, and what its conversion does with unusual ones."""

from concurrent.futures import ThreadPoolExecutor

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
    for batch in (1, 3):
        t = torch.arange(1.0, batch + 1, dtype=torch.float64)
        for widen in (False, True):
            run = lambda n, m: m(field(n, batch), z=field(n, batch, 0.2), t=t, shift=shift, widen=widen)  # noqa: B023, E731
            torch.testing.assert_close(run(16, op), run(16, module), rtol=0, atol=0)
            coarse, fine, limit = (run(n, op)["y"][..., :: n // 16] for n in (32, 64, 128))
            assert float((fine - limit).norm()) < 0.3 * float((coarse - fine).norm())
            # two switches are two traces: each with its own dilation
            inner = (..., slice(8, 9))
            a = [run(16 * s, op)["a"][..., ::s][inner] for s in (1, 16)]
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
        return torch.diff(self.conv(x))


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
