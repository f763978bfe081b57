"""Settings in the groups of an optimizer, and what they stand for."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from sciml.errors import ConfigError
from torch import Tensor

from symplectic_opt._buckets import is_held, wide
from symplectic_opt.descent import Descent
from symplectic_opt.heavy_ball import HeavyBall
from symplectic_opt.methods import bregman_system

__all__ = ["SHARED", "Family", "check", "check_step", "decay_of", "descent_of", "leading", "weight_of"]

Family = Literal["exponential", "polynomial"]

# of the whole optimizer, which has one clock
SHARED = (
    *("family", "rate", "beta", "t0", "t_min", "integrator", "restart", "temporal_looping", "loop_test", "order"),
    *("adaptive_to", "restart_smoothing", "foreach", "capturable"),
)


def check(group: dict[str, Any]) -> None:
    """Raise ConfigError unless the settings of a group are in their ranges; numpy's numbers become Python's."""
    for name, value in group.items():
        if isinstance(value, np.generic):
            group[name] = value.item()
    for name in ("lr", "C", "rate", "beta", "t0", "t_min", "weight_decay", "restart_smoothing"):
        value = group[name]
        is_scalar = name == "lr" and isinstance(value, Tensor) and value.ndim == 0
        if isinstance(value, bool) or not (isinstance(value, int | float) or is_scalar):
            raise ConfigError(f"{name}={value!r} must be a number")
    for name in ("lr", "C", "rate"):
        if not 0 < group[name] < math.inf:
            raise ConfigError(f"{name}={group[name]!r} must be a finite number above zero")
    if not 0 <= group["weight_decay"] < math.inf:
        raise ConfigError(f"weight_decay={group['weight_decay']!r} must be a finite number, zero or above")
    smoothing = group["restart_smoothing"]
    if not 0 <= smoothing < 1 or (smoothing and group["restart"] != "gradient"):
        raise ConfigError(f"restart_smoothing={smoothing!r} must lie in [0, 1), and is for restart='gradient' only")
    if not isinstance(group["restart"], str | int | None):
        raise ConfigError(f"restart={group['restart']!r} is unknown; choose a name, a number or None")
    if not isinstance(group["adaptive_to"], int | float | None):
        raise ConfigError(
            f"adaptive_to={group['adaptive_to']!r} must be a number or None: other clocks, which no state dict holds, "
            "are for minimize"
        )
    for name in ("temporal_looping", "decoupled", "maximize", "capturable", "foreach"):
        if not (isinstance(group[name], bool) or (name == "foreach" and group[name] is None)):
            raise ConfigError(f"{name}={group[name]!r} must be True or False")
    descent_of(group)


def check_step(groups: list[dict[str, Any]]) -> None:
    """Raise ConfigError where a step, set after construction, is none; zero holds a group. No device is asked."""
    for group in groups:
        for name in ("lr", "C"):
            value = group[name]
            if isinstance(value, Tensor) and group["capturable"]:
                continue
            if not (0 if name == "lr" else 5e-324) <= value < math.inf:
                raise ConfigError(f"{name}={value!r} of a group must be a finite number above zero, or lr zero")


def leading(groups: list[dict[str, Any]], number: Callable[[Any], Tensor] | None = None) -> Any:
    """The step h of the clock: the lr of the first group that moves, by `number` where the device alone knows which."""
    rates = [group["lr"] for group in groups if not is_held(group)]
    if number is None:
        return rates[0]
    h = rates[-1]
    for lr in reversed(rates[:-1]):
        h = torch.where((x := number(lr)) != 0, x, number(h)) if isinstance(lr, Tensor) else lr
    return h


def weight_of(group: dict[str, Any], h: Any, C: Any) -> Any:
    """w = C_g/C (lr_g/h)² of a group's kick at the step h of the clock."""
    lr = group["lr"]
    return group["C"] / C * (1.0 if lr is h else (wide(lr) / wide(h)) ** 2)


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
