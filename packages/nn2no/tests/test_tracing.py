"""What tracing a network leaves behind, and what its conversion does with unusual ones."""

import pytest
import torch
from nn2no.conversion import convert
from nn2no.conversion.trace import record, untouched
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
        assert record(module, (x,), {}).output == (1, 1, 8)
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
