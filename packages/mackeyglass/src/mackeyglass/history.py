"""Initial functions of delay equations: the state on [−τ_max, 0]."""

import numbers
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from torch import Tensor

from mackeyglass.equation import DDE, is_batched
from mackeyglass.mackey_glass import MackeyGlass

History = float | int | Tensor | Callable[[Tensor], Tensor]


def batch_shape(system: object) -> tuple[int, ...]:
    """Shape in which the tensors among a system's parameters broadcast: ``()`` or ``(B,)``."""
    shapes = {value.shape for value in tensors_of(system)}
    return tuple(torch.broadcast_shapes(*shapes)) if shapes else ()


def tensors_of(system: Any) -> list[Tensor]:
    """The tensors among a system's parameters; those of a module with linear decay are γ and τ."""
    values = system.parameters.values() if isinstance(system, DDE) else (system.gamma, system.tau)
    return [value for value in values if isinstance(value, Tensor)]


def sample_history(
    history: History, system: object, times: Float[Tensor, "*tau times"], *, on_nodes: str | None = None
) -> Float[Tensor, "d *batch times"]:
    """Values of an initial function at times t ≤ 0, checked.

    Parameters
    ----------
    history
        A number; a tensor ``(times,)`` or ``(*batch, times)`` of values at `times`, or ``(*batch, 1)`` of constants; or
        a function of such times that returns one. With d > 1 components tensors begin with an axis of length d.
    system
        Its parameters give the shape of the batch unless the history has a larger one.
    times
        On their dtype and device the values will be; they differ by sample where delays do.
    on_nodes
        What a tensor's values belong to, for the message of errors; None where a tensor makes no sense.

    Raises
    ------
    ConfigError
        For integers, another device, values that are not finite, or values without power xⁿ (x ≤ 0, n not whole).
    ShapeError
        Where shapes do not fit.

    Warns
    -----
    UserWarning
        If a history is zero and the equation rests there: its solution is zero.
    """
    dim = system.dim if isinstance(system, DDE) else 1
    values = _evaluate(history, dim, times, on_nodes)
    expected = "(times,) or (batch, times)" if dim == 1 else f"({dim}, times) or ({dim}, batch, times)"
    expected += f" with {times.shape[-1]} {on_nodes or 'times'}, or 1 for constants"
    if values.ndim < 2 or values.shape[0] != dim or values.shape[-1] not in (1, times.shape[-1]):
        raise ShapeError(f"a history of shape {_shape(values, dim)} does not fit: expected {expected}")
    try:
        batch = torch.broadcast_shapes(values.shape[1:-1], batch_shape(system), times.shape[:-1])
    except RuntimeError:
        raise ShapeError(
            f"a history of shape {_shape(values, dim)} does not fit a batch of {tuple(batch_shape(system))} systems: "
            f"expected {expected}"
        ) from None
    values = values.reshape(dim, *(1,) * (len(batch) + 2 - values.ndim), *values.shape[1:])
    values = values.to(times.dtype).expand(dim, *batch, times.shape[-1]).contiguous()
    if not values.numel():
        raise ShapeError(f"a history of shape {_shape(values, dim)} has no samples: give at least one")
    _check_values(values, system)
    return values


def _evaluate(history: History, dim: int, times: Tensor, on_nodes: str | None) -> Tensor:
    """Values with the axis of components first."""
    known = isinstance(history, float | int | numbers.Real | Tensor) or callable(history)
    if isinstance(history, bool) or not known:
        raise ConfigError(
            f"a history must be a number, a tensor or a function of times, got {type(history).__name__}: "
            "convert arrays by torch.as_tensor"
        )
    if isinstance(history, float | int | numbers.Real):
        return torch.full((dim, 1), float(history), dtype=times.dtype, device=times.device)
    if not isinstance(history, Tensor):
        history = history(times)
        if not isinstance(history, Tensor):
            raise ConfigError(f"the history function must return a tensor, it returned {type(history).__name__}")
    elif on_nodes is None and history.shape[-1:] != (1,):
        raise ConfigError(
            "this solver has no fixed nodes: give the history as a function of time or as constants (*batch, 1)"
        )
    if not history.is_floating_point():
        raise ConfigError(
            f"values of a history must be floating-point numbers, got {history.dtype}: convert by .double()"
        )
    if history.device != times.device:
        raise ConfigError(f"the history lies on {history.device}, the system on {times.device}: move one of them")
    return history[None] if dim == 1 else history


def _shape(values: Tensor, dim: int) -> tuple[int, ...]:
    return tuple(values.shape[1:] if dim == 1 else values.shape)


def _rests_at_zero(system: Any, like: Float[Tensor, "d *batch"]) -> bool:
    zero = torch.zeros_like(like)
    if not isinstance(system, DDE):
        return not bool(system.production(zero[0]).any())
    return not bool(system.field(zero, [zero] * len(system.delays), system.parameters).any())


def _check_values(values: Tensor, system: object) -> None:
    if is_batched(values):  # they cannot be asked
        return
    if not bool(torch.isfinite(values).all()):
        raise ConfigError("the history has values that are infinite or not a number: check it on [-tau, 0]")
    if bool((values == 0).all(-1).all(0).any()) and _rests_at_zero(system, values[..., 0]):
        warnings.warn("a history is zero on all of [-tau, 0]: so is its solution", UserWarning, stacklevel=4)
    if not isinstance(system, MackeyGlass) or (not isinstance(system.n, Tensor) and system.n == int(system.n)):
        return
    if bool(((values <= 0).any(-1) & (values != 0).any(-1)).any()):
        raise ConfigError(
            f"the history must be positive: its least value is {values.min().item() + 0.0:g}, of which no power "
            f"n={system.n} exists (only whole numbers n, not given as tensors, admit other histories)"
        )
