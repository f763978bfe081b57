"""Settings in the groups of an optimizer, and what they stand for."""

import functools
import math
from typing import Any, Literal

import torch
from sciml.errors import ConfigError

from symplectic_opt._buckets import wide
from symplectic_opt.descent import Descent
from symplectic_opt.heavy_ball import HeavyBall
from symplectic_opt.methods import bregman_system

__all__ = ["SHARED", "Family", "check", "decay_of", "descent_of", "widest"]

Family = Literal["exponential", "polynomial"]

# of the whole optimizer, which has one clock
SHARED = (
    *("family", "rate", "beta", "t0", "t_min", "integrator", "restart", "temporal_looping", "loop_test", "order"),
    *("adaptive_to", "restart_smoothing", "foreach", "capturable"),
)


def check(group: dict[str, Any]) -> None:
    """Raise ConfigError unless the settings of a group are in their ranges."""
    for name in ("lr", "C", "rate"):
        if not 0 < group[name] < math.inf:
            raise ConfigError(f"{name}={group[name]!r} must be a finite number above zero")
    if not 0 <= group["weight_decay"] < math.inf:
        raise ConfigError(f"weight_decay={group['weight_decay']!r} must be a finite number, zero or above")
    descent_of(group)


def descent_of(group: dict[str, Any]) -> Descent:
    """The method that a group's settings describe."""
    names = ("family", "C", "rate", "adaptive_to", "integrator", "restart", "temporal_looping", "loop_test", "beta")
    make = _made.__wrapped__ if torch.compiler.is_compiling() else _made  # dynamo warns of caches
    return make(*(group[name] for name in (*names, "t0", "t_min", "order")))


@functools.lru_cache(typed=True)
def _made(
    family: Any, C: Any, rate: Any, adaptive_to: Any, integrator: Any, restart: Any, looping: Any, loop_test: Any,
    beta: Any, t0: Any, t_min: Any, order: Any,
) -> Descent:  # fmt: skip
    coefficients = HeavyBall(bregman_system(family, C, rate, adaptive_to), integrator)
    return Descent(coefficients, restart, looping, loop_test, beta, t0, t_min, order)


def decay_of(group: dict[str, Any]) -> Any:
    """λ lr of a decoupled decay."""
    return group["weight_decay"] * wide(group["lr"]) if group["weight_decay"] and group["decoupled"] else None


def widest(device: torch.device) -> torch.dtype:
    """The widest real numbers of a device."""
    return torch.float32 if device.type == "mps" else torch.float64
