"""Delay differential equations with constant delays."""

import copy
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from torch import Tensor

from mackeyglass.arguments import whole
from mackeyglass.forward import jvp

Value = float | int | Tensor


class DDE:
    """x'(t) = F(x(t), x(t−τ₁), …, x(t−τ_k); p) with d components and constant delays.

    Parameters
    ----------
    rhs
        F, called as ``rhs(x, x_1, …, x_k, p)`` with tensors ``(d, *batch)`` of the state and the delayed states, and
        the parameters as attributes of p: numbers, or tensors ``(*batch)``. It returns ``(d, *batch)``, made of torch
        operations, of which derivatives are taken. It is called with ones, to check that.
    delays
        One entry a delay: the name of a parameter, or a positive number.
    parameters
        Their names and values: numbers, or tensors ``(B,)`` for a batch of systems.
    dim
        d.

    Raises
    ------
    ConfigError, ShapeError
        For parameters that are no numbers or delays that are not positive, and if F has other arguments, reads unknown
        parameters, is not made of torch operations, or returns another shape.

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
        dim = whole("dim", dim)
        if isinstance(delays, str):
            raise ConfigError(f"delays must be a list, one entry a delay: [{delays!r}], not {delays!r}")
        unknown = [d for d in delays if (d not in parameters if isinstance(d, str) else not _is_number(d))]
        if not delays or unknown:
            raise ConfigError(
                f"delays must be numbers or names of parameters ({', '.join(parameters) or 'none given'}), "
                f"got {unknown or 'none'}"
            )
        _check_arguments(rhs, len(delays))
        self.rhs_function, self.delays, self.dim = rhs, tuple(delays), dim
        self.parameters: dict[str, Value] = dict(parameters)
        self._check_parameters()
        for name, value in self.parameters.items():
            if not is_batched(value) and not bool(torch.as_tensor(value).isfinite().all()):
                raise ConfigError(f"{name} must be finite, got {value}")
        self._check_field()

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

        return jvp(field, (x, *delayed), (dx, *d_delayed))[1]

    def with_parameters(self, **values: Value) -> "DDE":
        """The same equation with other values of some parameters."""
        self.check_names(values)
        changed = copy.copy(self)
        changed.parameters = {**self.parameters, **values}
        changed._check_parameters()
        return changed

    def check_names(self, names: Sequence[str] | Mapping[str, Value]) -> None:
        """Raise `ConfigError` where a name is not one of a parameter."""
        unknown = [name for name in names if name not in self.parameters]
        if unknown:
            raise ConfigError(f"no parameter is called {', '.join(unknown)}; there are {', '.join(self.parameters)}")

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{type(self).__name__}({values})"

    def _check_parameters(self) -> None:
        for name, value in self.parameters.items():
            check_number(name, value)
        check_batch(self.parameters)
        for delay, value in zip(self.delays, self.delay_values, strict=True):
            check_positive(delay if isinstance(delay, str) else "a delay", value)

    def _check_field(self) -> None:
        """Call F once: with a batch, as methods do, and tensors of which derivatives are taken."""
        tensors = [value for value in self.parameters.values() if isinstance(value, Tensor)]
        batch = torch.broadcast_shapes(*(value.shape for value in tensors)) or (3,)
        device = tensors[0].device if tensors else None
        states = torch.ones(
            len(self.delays) + 1, self.dim, *batch, dtype=torch.float64, device=device, requires_grad=True
        )
        x, *delayed = states.unbind(0)
        try:
            found = self.rhs_function(x, *delayed, SimpleNamespace(**self.parameters))
        except Exception as error:
            if isinstance(error, AttributeError) and isinstance(error.obj, SimpleNamespace):
                self.check_names([str(error.name)])
            if "numpy()" in str(error) or "to Python scalars" in str(error):
                raise ConfigError(f"rhs must be made of torch operations like torch.tanh: {error}") from error
            if isinstance(error, RuntimeError):
                return  # it wants another dtype, perhaps: its first use will show
            raise
        shape = (self.dim, *batch)
        expected = f"a tensor {shape} from states {shape}, that is (d, *batch) with d={self.dim}"
        if not isinstance(found, Tensor):
            raise ConfigError(f"rhs must return {expected}, it returned a {type(found).__name__}: use torch.stack")
        if found.shape != shape:
            raise ShapeError(f"rhs must return {expected}, it returned {tuple(found.shape)}")

    @cached_property
    def backwards(self) -> bool:
        """Whether reverse mode is to be used for derivatives of F: not where it lacks some that forward mode has.

        `torch.no_grad` hides them from it. Told by one derivative, in a random direction at random states.
        """
        names = list(self.parameters)
        values = [float(torch.as_tensor(value).double().mean()) for value in self.parameters.values()]
        with torch.inference_mode(False), torch.enable_grad():
            generator = torch.Generator().manual_seed(0)

            def drawn(*shape: int) -> Tensor:
                return torch.randn(*shape, dtype=torch.float64, generator=generator)

            states = 1 + 0.3 * drawn(len(self.delays) + 1, self.dim, 8)
            points = states, torch.tensor(values, dtype=torch.float64)[:, None].repeat(1, 8)
            along, weights = tuple(drawn(*part.shape) for part in points), drawn(self.dim, 8)

            def weighted(states: Tensor, parameters: Tensor) -> Tensor:
                found = self.field(states[0], states[1:].unbind(0), dict(zip(names, parameters, strict=True)))
                return (weights * found).sum()

            try:
                forwards = float(jvp(weighted, points, along)[1])
            except Exception:  # what has no derivatives in forward mode
                return True
            try:
                leaves = [part.clone().requires_grad_() for part in points]
                found = torch.autograd.grad(weighted(*leaves), leaves, allow_unused=True, materialize_grads=True)
            except Exception:  # what has none in reverse mode
                return False
            backwards = float(sum((part * tangent).sum() for part, tangent in zip(found, along, strict=True)))
        return math.isclose(forwards, backwards, rel_tol=1e-4)


def check_number(name: str, value: object) -> None:
    """Raise `ConfigError` unless a parameter is a real number or a tensor of them."""
    if not _is_number(value) and not (isinstance(value, Tensor) and value.dtype != torch.bool):
        hint = ": convert it by torch.as_tensor" if isinstance(value, np.ndarray | list | tuple) else ""
        raise ConfigError(
            f"{name} must be a number or a tensor of numbers, got {value!r} ({type(value).__name__}){hint}"
        )


def check_batch(parameters: Mapping[str, Value]) -> None:
    """Raise `ShapeError` where the tensors among parameters are not of one batch."""
    shapes = {name: tuple(value.shape) for name, value in parameters.items() if isinstance(value, Tensor)}
    if len(set(shapes.values())) > 1:
        try:
            torch.broadcast_shapes(*shapes.values())
        except RuntimeError:
            listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ShapeError(f"parameters must be numbers or tensors (B,) with one B, got {listed}") from None


def check_positive(name: str, value: Value) -> None:
    """Raise `ConfigError` unless a number, or every entry of a tensor, is positive and finite."""
    check_above(name, value, 0.0)


def check_above(name: str, value: Value, bound: float) -> None:
    """Raise `ConfigError` unless a number, or every entry of a tensor, is finite and greater than `bound`."""
    check_number(name, value)
    if is_batched(value):  # its entries cannot be asked
        return
    if isinstance(value, Tensor):
        good = bool(((value > bound) & torch.isfinite(value)).all())
    else:
        good = math.isfinite(value) and value > bound
    if not good:
        raise ConfigError(f"{name} must be finite and greater than {bound:g}, got {value}")


def is_batched(value: object) -> bool:
    """Whether `torch.func.vmap` acts on a tensor, possibly below other transformations."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while isinstance(value, Tensor) and functorch.is_functorch_wrapped_tensor(value):
        if functorch.is_batchedtensor(value):
            return True
        value = functorch.get_unwrapped(value)
    return False


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


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
