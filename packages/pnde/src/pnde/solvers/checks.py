"""Checks of what a user hands to a solver."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from sciml.errors import ConfigError, ShapeError
from torch import Tensor

from pnde.solvers.tableaus import FIXED


def check_state(u0: Tensor, t: Tensor, args: Sequence[Tensor]) -> None:
    """Refuse states, times and arguments that do not fit."""
    check_tensors(u0, t)
    if u0.ndim != 2 or u0.shape[-1] < 1:
        raise ShapeError(f"u0 must be (batch, n); got {tuple(u0.shape)}")
    if t.ndim != 1 or len(t) < 2:
        raise ShapeError(f"t must be a vector of at least two times; got shape {tuple(t.shape)}")
    if not t.is_floating_point():
        raise ValueError(f"t must be of the states' dtype, {u0.dtype}; got {t.dtype}: give t.to(u0)")
    if u0.dtype not in (torch.float32, torch.float64) or t.dtype != u0.dtype:
        advice = "Split complex states into real parts" if u0.is_complex() else "Give u0.double() and t.double()"
        raise TypeError(f"u0 and t must both be float32 or both float64; got {u0.dtype} and {t.dtype}. {advice}")
    if t.device != u0.device:
        raise RuntimeError(f"u0 is on {u0.device} and t on {t.device}; move one to the other")
    for a in args:
        if a.ndim < 1 or len(a) != len(u0):
            raise ShapeError(f"args must have one row for each of the {len(u0)} samples; got {tuple(a.shape)}")
    if not bool(u0.isfinite().all()):
        bad = (~u0.isfinite().all(-1)).nonzero()[:5, 0].tolist()
        raise ValueError(f"u0 must be finite; samples {bad} have NaN or infinite entries")
    steps = t.diff()
    if not bool(((steps > 0).all() | (steps < 0).all()) & t.isfinite().all()):
        raise ValueError(f"t must be finite and strictly monotone; got {t.tolist()}")


def check_tensors(u0: Any, t: Any) -> None:
    """Refuse lists and arrays."""
    for name, x in (("u0", u0), ("t", t)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(x).__name__}: give torch.as_tensor({name})")


def check_jumps(jump_times: Sequence[float | int] | Tensor | None, t: Tensor) -> list[float]:
    """The jump times as numbers."""
    jumps = torch.as_tensor([] if jump_times is None else jump_times, dtype=t.dtype)
    if jumps.ndim != 1 or not bool(jumps.isfinite().all()):
        raise ConfigError(f"jump_times must be a vector of finite times; got {jump_times}")
    return jumps.tolist()


def check_options(
    method: str,
    rtol: float,
    atol: float,
    first_step: float | int | None,
    max_steps: int,
    substeps: int,
    retract: Any,
    retract_at: str,
    event: Any,
    jump_times: Any,
    reinitialise: Any,
) -> None:
    """Refuse options that are out of range or cannot be combined."""
    if not (0 <= rtol < math.inf and 0 < atol < math.inf):
        raise ConfigError(f"rtol={rtol} must not be negative and atol={atol} must be positive, both finite")
    if first_step is not None and not 0 < first_step < math.inf:
        raise ConfigError(f"first_step={first_step} must be positive and finite, or None")
    if not all(isinstance(count, int) and count >= 1 for count in (max_steps, substeps)):
        raise ConfigError(f"max_steps={max_steps!r} and substeps={substeps!r} must be whole numbers, at least 1")
    if retract_at not in ("step", "output"):
        raise ConfigError(f"retract_at={retract_at!r} is unknown; choose step or output")
    if retract_at == "output" and retract is None:
        raise ConfigError("retract_at='output' is for outputs that are retracted; give retract")
    if substeps != 1 and method not in FIXED:
        raise ConfigError(f"method={method!r} chooses its steps; substeps is for {', '.join(FIXED)}")
    if first_step is not None and method in FIXED:
        raise ConfigError(f"method={method!r} steps from output to output; leave out first_step, or give substeps")
    if event is not None and method in FIXED:
        raise ConfigError(f"method={method!r} has no dense output to locate events in; choose an adaptive method")
    if reinitialise is not None and jump_times is None:
        raise ConfigError("reinitialise is called after jumps; give jump_times")
