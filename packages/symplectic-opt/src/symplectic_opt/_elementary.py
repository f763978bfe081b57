"""Elementary functions of a Python number, an array or a tensor, each by its own library.

Clocks are Python floats in a driver on the host, 0-dim tensors where a device may not wait for the host, and arrays
with one entry per cell in a sweep; the formulas are written once.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["exp", "is_positive", "log", "maximum", "where"]


def exp(x: Any) -> Any:
    """e^x; of a Python number, OverflowError beyond the largest float64."""
    return x.exp() if isinstance(x, Tensor) else math.exp(x) if isinstance(x, int | float) else np.exp(x)


def log(x: Any) -> Any:
    """Natural logarithm; that of zero is -inf."""
    if isinstance(x, int | float):
        return math.log(x) if x else -math.inf
    return x.log() if isinstance(x, Tensor) else np.log(x)


def maximum(x: Any, y: float) -> Any:
    """The larger of x and a number."""
    return x.clamp(min=y) if isinstance(x, Tensor) else max(x, y) if isinstance(x, int | float) else np.maximum(x, y)


def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y."""
    if isinstance(condition, Tensor):
        return torch.where(condition, x, y)
    return (x if condition else y) if isinstance(condition, bool) else np.where(condition, x, y)


def is_positive(x: Any) -> bool:
    """Whether all entries are finite numbers above zero."""
    if isinstance(x, int | float):
        return bool(0 < x < math.inf)
    return isinstance(x, Tensor | np.ndarray | np.number) and bool((x > 0).all() and (x < math.inf).all())
