"""Functions of fields as networks, for the tests of the converter."""

import math
from collections.abc import Callable

import pytest
import torch
from nn2no.conversion import convert
from sciml.grids import Grid
from torch import Tensor, nn


class Function(nn.Module):
    """A function of a field of one channel, behind a layer that says how many channels there are."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 1, bias=False).double()
        nn.init.ones_(self.first.weight)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x))


@pytest.fixture(scope="session")
def as_network():
    """A function of fields as a network."""
    return Function


@pytest.fixture(scope="session")
def operator():
    """A function of fields, converted from the periodic or closed square of n² nodes."""

    def make(function: Callable[[Tensor], Tensor], n: int = 8, periodic: bool = True, **options):
        return convert(Function(function).eval(), Grid.uniform((n, n), periodic=periodic), **options)

    return make


@pytest.fixture(scope="session")
def field():
    """A smooth function of x and y at n nodes an axis."""

    def sample(n: int, periodic: bool = True) -> Tensor:
        x = torch.arange(n, dtype=torch.float64) / (n if periodic else n - 1)
        if periodic:
            return ((2 * math.pi * x[:, None]).sin() + (2 * math.pi * x + 1).cos() + 0.5)[None, None]
        return (x[:, None] ** 2 + x**3)[None, None]

    return sample
