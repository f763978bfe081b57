"""Checks of the arguments and inputs of models."""

from collections.abc import Sequence
from typing import Any

import torch
from sciml.errors import ConfigError, ShapeError
from torch import Tensor

from mackeyglass.arguments import check_whole

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def check_dtype(dtype: Any) -> torch.dtype:
    """The dtype of a name, or ConfigError."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def check_sizes(hidden: Any = (), **sizes: Any) -> None:
    """ConfigError where an argument, or a width of hidden layers, is no positive whole number."""
    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise ConfigError(f"hidden={hidden!r} must list the widths of the hidden layers")
    sizes |= {f"hidden[{i}]": width for i, width in enumerate(hidden)}
    for name, value in sizes.items():
        check_whole(name, value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """ConfigError where an argument is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")


def check_tensor(what: str, value: Tensor, shape: str, dtype: torch.dtype, ndim: int, last: int | None = None) -> None:
    """ShapeError, or TypeError for another dtype, unless `value` has that many axes and that last one."""
    if value.ndim != ndim or (last is not None and value.shape[-1] != last):
        raise ShapeError(f"{what} must be {shape}, got {tuple(value.shape)}")
    if value.dtype != dtype:
        raise TypeError(f"{what} must be {dtype}, as the model is, got {value.dtype}: convert it")
