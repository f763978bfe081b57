"""Derivatives in one direction or all, by forward-mode differentiation."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor


def jvp(function: Callable[..., Any], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Any:
    """`torch.func.jvp`, whose first use in a program does not warn of what torch does inside."""
    _prepare()
    return torch.func.jvp(function, primals, tangents)


@cache
def _prepare() -> None:
    """The first derivative makes torch compile formulas of its own, by what it tells users not to use any more."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        torch.func.jvp(torch.clone, (torch.zeros(()),), (torch.zeros(()),))


def jacobian(function: Callable[[Tensor], Any], at: Tensor) -> Any:
    """`torch.func.jacfwd`, in the same way: derivatives by all entries of `at` in one pass, along the last axis."""
    _prepare()
    return torch.func.jacfwd(function)(at)
