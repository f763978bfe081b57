"""Checks of arguments that many functions have in common."""

from typing import Any

import numpy as np
import torch
from sciml.errors import ConfigError


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise `ConfigError` unless a value is a whole number, not smaller than `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        kind = "a positive whole number" if least == 1 else f"a whole number, at least {least}"
        raise ConfigError(f"{name}={value!r} must be {kind}")


def whole(name: str, value: Any, least: int = 1) -> int:
    """The same check, which whole numbers of numpy pass too."""
    value = int(value) if isinstance(value, np.integer) else value
    check_whole(name, value, least)
    return value


def check_precision(dtype: Any) -> None:
    """Raise `ConfigError` unless solutions can be computed in a dtype."""
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"dtype={dtype} must be torch.float32 or torch.float64: others are no numbers to compute in")
