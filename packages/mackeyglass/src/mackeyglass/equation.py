"""Delay differential equations with constant delays."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor

Value = float | int | Tensor


class DDE:
    """x'(t) = F(x(t), x(t−τ₁), …, x(t−τ_k); p) with d components and constant delays.

    Parameters
    ----------
    rhs
        F, called as ``rhs(x, x_1, …, x_k, p)`` with tensors ``(d, *batch)`` of the state and the delayed states, and
        the parameters as attributes of p: numbers, or tensors ``(*batch)``. It returns ``(d, *batch)``, made of torch
        operations, of which derivatives are taken.
    delays
        One entry a delay: the name of a parameter, or a positive number.
    parameters
        Their names and values: numbers, or tensors ``(B,)`` for a batch of systems.
    dim
        d.

    Examples
    --------
    >>> system = DDE(lambda x, x_tau, p: -p.a * x + p.b * torch.tanh(x_tau), ["tau"], dict(a=1.0, b=-2.0, tau=3.0))
    """

    def __init__(
        self,
        rhs: Callable[..., Tensor],
        delays: Sequence[str | float | int],
        parameters: Mapping[str, Value],
        dim: int = 1,
    ) -> None:
        if dim < 1:
            raise ConfigError(f"dim must be at least 1, got {dim}: it is the number of components of the state")
        unknown = [delay for delay in delays if isinstance(delay, str) and delay not in parameters]
        if not delays or unknown:
            raise ConfigError(
                f"delays must be numbers or names of parameters ({', '.join(parameters) or 'none given'}), "
                f"got {unknown or 'none'}"
            )
        _check_arguments(rhs, len(delays))
        self.rhs_function, self.delays, self.dim = rhs, tuple(delays), dim
        self.parameters: dict[str, Value] = dict(parameters)
        for delay, value in zip(self.delays, self.delay_values, strict=True):
            check_positive(delay if isinstance(delay, str) else "a delay", value)

    @property
    def delay_values(self) -> tuple[Value, ...]:
        """The delays as numbers or tensors ``(B,)``."""
        return self.delays_at(self.parameters)

    def delays_at(self, parameters: Mapping[str, Value]) -> tuple[Value, ...]:
        """The delays at given values of all parameters."""
        return tuple(parameters[delay] if isinstance(delay, str) else delay for delay in self.delays)

    def field(
        self,
        x: Float[Tensor, "d *batch"],
        delayed: Sequence[Float[Tensor, "d *batch"]],
        parameters: Mapping[str, Value],
    ) -> Float[Tensor, "d *batch"]:
        """F at states, delayed states (one tensor a delay) and values of all parameters."""
        return self.rhs_function(x, *delayed, SimpleNamespace(**parameters))

    def differential(
        self,
        x: Float[Tensor, "d *batch"],
        delayed: Sequence[Float[Tensor, "d *batch"]],
        parameters: Mapping[str, Value],
        dx: Float[Tensor, "d *batch"],
        d_delayed: Sequence[Float[Tensor, "d *batch"]],
    ) -> Float[Tensor, "d *batch"]:
        """Derivative of `field` in the direction of changes of the state and of the delayed states."""

        def field(x: Tensor, *delayed: Tensor) -> Tensor:
            return self.field(x, delayed, parameters)

        return torch.func.jvp(field, (x, *delayed), (dx, *d_delayed))[1]

    def with_parameters(self, **values: Value) -> "DDE":
        """The same equation with other values of some parameters."""
        self.check_names(values)
        return DDE(self.rhs_function, self.delays, {**self.parameters, **values}, self.dim)

    def check_names(self, names: Sequence[str] | Mapping[str, Value]) -> None:
        """Raise `ConfigError` where a name is not one of a parameter."""
        unknown = [name for name in names if name not in self.parameters]
        if unknown:
            raise ConfigError(f"no parameter is called {', '.join(unknown)}; there are {', '.join(self.parameters)}")

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{type(self).__name__}({values})"


def check_positive(name: str, value: Value) -> None:
    """Raise `ConfigError` unless a number, or every entry of a tensor, is positive and finite."""
    check_above(name, value, 0.0)


def check_above(name: str, value: Value, bound: float) -> None:
    """Raise `ConfigError` unless a number, or every entry of a tensor, is finite and greater than `bound`."""
    if isinstance(value, Tensor):
        good = bool(((value > bound) & torch.isfinite(value)).all())
    else:
        good = math.isfinite(value) and value > bound
    if not good:
        raise ConfigError(f"{name} must be finite and greater than {bound:g}, got {value}")


def _check_arguments(rhs: Callable[..., Tensor], delays: int) -> None:
    try:
        signature = inspect.signature(rhs)
    except (TypeError, ValueError):  # a builtin: its first call will show
        return
    try:
        signature.bind(*range(delays + 2))
    except TypeError:
        raise ConfigError(
            f"rhs must take the state, {delays} delayed state{'s' * (delays > 1)} and the parameters "
            f"({delays + 2} arguments), its signature is {signature}"
        ) from None
