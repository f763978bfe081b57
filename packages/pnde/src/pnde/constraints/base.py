"""What a constraint is: values, Jacobian, drift in time, and which level set a trajectory stays on."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from torch import Tensor, nn

from pnde._checks import values_are_known
from pnde._sparse import SparseJacobian

Kind = Literal["level", "conserved"]
Mode = Literal["reverse", "forward", "loop"]


def is_size(value: Any) -> bool:
    """Whether it is a whole number, at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class Constraint(nn.Module):
    """m scalar constraints g(t, u) on states of dimension n.

    Subclasses set `n` and `m` and define `forward`; `jacobian` and `time_derivative` come from automatic
    differentiation where they are not overridden. `kind` says what g is: a "level" is zero on the manifold, a
    "conserved" quantity keeps the value that it has at the start of each trajectory. A `driven` constraint depends on
    time: its `t` is one number or one for each state; other constraints ignore `t`, which may be None. `per_rate` is
    for constraints on a mechanical system, with states (q, v): the first half of their rows are positions φ(q), the
    second half ψ = `per_rate`·φ̇; None for all others.
    """

    n: int
    m: int
    kind: Kind = "level"
    driven: bool = False
    per_rate: float | None = None

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        """Values g(t, u)."""
        raise NotImplementedError

    def jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m n"]:
        """∂g/∂u.

        Raises
        ------
        ShapeError
            The last axis of `u` is not n.
        ConfigError
            `forward` does not give m values for one state, or cannot be vectorised.
        """
        self.check(u)
        try:
            return differentiate(self.forward, t if self.driven else None, u, self.m)
        except RuntimeError as error:
            if not str(error).startswith("vmap"):
                raise
            raise ConfigError(
                f"{type(self).__name__}.forward does not run under torch.func.vmap ({error}): write it without "
                "in-place changes and branches on values, or define its jacobian"
            ) from error

    def sparse_jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> SparseJacobian:
        """∂g/∂u as its entries, of constraints on many components that override this. ConfigError of all others."""
        raise ConfigError(f"{type(self).__name__} has no sparse Jacobian; choose another method than 'sparse'.")

    def time_derivative(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"] | None:
        """∂g/∂t, None where g does not depend on time."""
        if not self.driven:
            return None
        t = time_like(t, u)
        return torch.func.jvp(lambda s: self(s, u), (t,), (torch.ones_like(t),))[1]

    def target(self, t: Any, u0: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        """The values that g keeps on the trajectories from `u0` at time `t`."""
        g = self(t, u0)
        return g if self.kind == "conserved" else torch.zeros_like(g)

    def check(self, u: Tensor) -> None:
        """ShapeError where `u` holds no states of n components."""
        if u.ndim < 1 or u.shape[-1] != self.n:
            raise ShapeError(
                f"{type(self).__name__} is on states (..., {self.n}); got {tuple(u.shape)}: the last axis is the state."
            )

    def check_target(self, u: Tensor, target: Tensor) -> None:
        """ShapeError where `target` is not one row of m values or one for each state; TypeError of another dtype."""
        batch, (*rows, m) = u.shape[:-1], target.shape or (0,)
        fits = len(rows) <= len(batch) and all(a in (1, b) for a, b in zip(rows[::-1], batch[::-1], strict=False))
        if m != self.m or not fits:
            raise ShapeError(
                f"target must be (..., {self.m}), one row or one for each of the states {tuple(u.shape)}; "
                f"got {tuple(target.shape)}"
            )
        if target.dtype != u.dtype:
            raise TypeError(f"target must be {u.dtype} as the states; got {target.dtype}")


def differentiate(
    function: Callable[[Any, Tensor], Tensor],
    t: Any,
    u: Tensor,
    m: int,
    mode: Mode = "reverse",
    chunk_size: int | None = None,
) -> Float[Tensor, "*batch m n"]:
    """The Jacobian by `u` of a function of one time (or None) and one state, at every state.

    Raises
    ------
    ConfigError
        The function does not return m values.
    """
    flat = u.reshape(-1, u.shape[-1])
    times = None if t is None else times_of_states(t, u)
    if mode == "loop":
        of_state = [partial(function, None if times is None else times[i]) for i in range(len(flat))]
        graph = torch.is_grad_enabled() and (
            not values_are_known()
            or u.requires_grad
            or any(f(state).requires_grad for f, state in zip(of_state, flat, strict=True))
        )
        rows: list[Any] = [
            torch.autograd.functional.jacobian(f, state, create_graph=graph)
            for f, state in zip(of_state, flat, strict=True)
        ]
        found = torch.stack(rows) if rows else flat.new_zeros(0, m, u.shape[-1])
    else:
        over = (None if times is None else 0, 0)
        if mode == "reverse":
            jac = torch.func.jacrev(function, argnums=1, chunk_size=chunk_size)
        else:
            jac = torch.func.jacfwd(function, argnums=1)
        found = torch.func.vmap(jac, in_dims=over)(times, flat)
    if found.shape[1:] != (m, u.shape[-1]):
        raise wrong_values(tuple(found.shape[1:-1]), m, u.shape[-1])
    return found.reshape(*u.shape[:-1], m, u.shape[-1])


def wrong_values(shape: tuple[int, ...], m: int, n: int) -> ConfigError:
    """The error of a function that returns values of that shape for one state."""
    return ConfigError(
        f"the function of the constraint returns {shape} for one state ({n},); ({m},) was expected: torch.stack its "
        "values."
    )


def times_of_states(t: Any, u: Tensor) -> Tensor:
    """The time of each state, flattened, from one time or as many as states."""
    return time_like(t, u).expand(u.shape[:-1]).reshape(-1)


def time_like(t: Any, u: Tensor) -> Tensor:
    """The time or times of a driven constraint, as a tensor of the states' type. ConfigError if there is none."""
    if t is None:
        raise ConfigError("this constraint is driven, it depends on time: give t, one number or one for each state.")
    return torch.as_tensor(t, dtype=u.dtype, device=u.device)


class StackedConstraint(Constraint):
    """Several constraints on the same states, one below the other; made by `stack`."""

    def __init__(self, *parts: Constraint) -> None:
        super().__init__()
        if not parts or len({part.n for part in parts}) > 1:
            raise ConfigError(
                f"constraints on states of {[part.n for part in parts]} components cannot be stacked: give at least "
                "one, all on the same states."
            )
        self.parts = nn.ModuleList(parts)
        self.n, self.m = parts[0].n, sum(part.m for part in parts)
        self.kind = "conserved" if any(part.kind == "conserved" for part in parts) else "level"
        self.driven = any(part.driven for part in parts)

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        return torch.cat([part(t, u) for part in self.parts], -1)

    def jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m n"]:
        return torch.cat([part.jacobian(t, u) for part in self._constraints()], -2)

    def sparse_jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> SparseJacobian:
        values, rows, columns, m = [], [], [], 0
        for part in self._constraints():
            G = part.sparse_jacobian(t, u)
            values.append(G.values.expand(*u.shape[:-1], -1))
            rows.append(m + G.pattern.rows)
            columns.append(G.pattern.columns)
            m += part.m
        return SparseJacobian(torch.cat(values, -1), torch.cat(rows), torch.cat(columns), (m, self.n))

    def time_derivative(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"] | None:
        rates = [part.time_derivative(t, u) for part in self._constraints()]
        if all(rate is None for rate in rates):
            return None
        still = [u.new_zeros(*u.shape[:-1], part.m) for part in self._constraints()]
        return torch.cat([zero if rate is None else rate for rate, zero in zip(rates, still, strict=True)], -1)

    def target(self, t: Any, u0: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        return torch.cat([part.target(t, u0) for part in self._constraints()], -1)

    def _constraints(self) -> list[Constraint]:
        return list(self.parts)  # type: ignore[arg-type]


def stack(*constraints: Constraint) -> StackedConstraint:
    """All rows of several constraints on the same states. ConfigError if the states differ."""
    return StackedConstraint(*constraints)
