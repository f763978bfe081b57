"""Constraints from what users have: a function, a matrix, a network."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor, nn

from pnde.constraints.base import Constraint, Kind, Mode, differentiate, is_size, times_of_states, wrong_values


class FunctionConstraint(Constraint):
    """A function `fn(u)` of one state (n,), or `fn(t, u)` if `driven`, that returns m numbers.

    Parameters
    ----------
    n, m
        Numbers of components of a state and of constraints.
    kind
        "level" if it is zero on the manifold, "conserved" if trajectories keep its initial value.
    jac
        Its Jacobian (m, n) with the same arguments; by default that of automatic differentiation.
    mode
        How that is computed: "reverse" (m backward passes, which "auto" chooses) or "forward" (n forward passes), all
        states together, or "loop", state by state, for functions that `torch.func.vmap` does not take. By time, a
        driven function is differentiated forwards: if it cannot be, override `time_derivative`.
    chunk_size
        Backward passes at once, default all of them: fewer take less memory.

    Raises
    ------
    ConfigError
        Sizes that leave no tangent direction, or an unknown kind or mode; when called, a function that returns
        another number of values, or that cannot be vectorised.
    """

    def __init__(
        self,
        fn: Callable[..., Tensor],
        n: int,
        m: int,
        *,
        kind: Kind = "level",
        jac: Callable[..., Tensor] | None = None,
        mode: Mode | Literal["auto"] = "auto",
        chunk_size: int | None = None,
        driven: bool = False,
    ) -> None:
        super().__init__()
        if not (is_size(m) and is_size(n) and m < n):
            raise ConfigError(f"{m} constraints on {n} components: give at least one, and fewer than components.")
        modes = ("auto", *get_args(Mode))
        if kind not in get_args(Kind) or mode not in modes:
            raise ConfigError(
                f"kind={kind!r}, mode={mode!r}; choose from {', '.join(get_args(Kind))} and {', '.join(modes)}"
            )
        self.fn, self.jac, self.n, self.m, self.kind = fn, jac, n, m, kind
        self.mode: Mode | Literal["auto"] = mode
        self.driven, self.chunk_size = driven, chunk_size

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        self.check(u)
        if u.numel() == 0:
            return u.new_zeros(*u.shape[:-1], self.m)
        g = self._each(self._of_one, t, u)
        if g.shape[-1:] != (self.m,) or g.ndim != u.ndim:
            raise wrong_values(tuple(g.shape[u.ndim - 1 :]), self.m, self.n)
        return g

    def jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m n"]:
        self.check(u)
        if u.numel() == 0:
            return u.new_zeros(*u.shape[:-1], self.m, self.n)
        if self.jac is not None:
            jac = self.jac
            found = self._each(lambda s, x: jac(s, x) if self.driven else jac(x), t, u)
            if found.shape != (*u.shape[:-1], self.m, self.n):
                raise ConfigError(
                    f"jac returns {tuple(found.shape[u.ndim - 1 :])} for one state ({self.n},); ({self.m}, {self.n}) "
                    "was expected, a row for each constraint."
                )
            return found
        mode: Mode = "reverse" if self.mode == "auto" else self.mode  # m < n
        return self._vectorised(
            lambda: differentiate(self._of_one, t if self.driven else None, u, self.m, mode, self.chunk_size)
        )

    def time_derivative(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"] | None:
        try:
            return super().time_derivative(t, u)
        except RuntimeError as error:
            raise ConfigError(
                f"the function of the constraint cannot be differentiated by time ({error}): make it of torch's "
                "operations, or override time_derivative"
            ) from error

    def _of_one(self, t: Any, u: Tensor) -> Tensor:
        return self.fn(t, u) if self.driven else self.fn(u)

    def _each(self, function: Callable[[Any, Tensor], Tensor], t: Any, u: Tensor) -> Tensor:
        """The function at every state."""
        flat, times = u.reshape(-1, self.n), times_of_states(t, u) if self.driven else None
        if self.mode == "loop":
            states = [function(None if times is None else times[i], x) for i, x in enumerate(flat)]
            found = torch.stack(states)
        else:
            over = (None if times is None else 0, 0)
            found = self._vectorised(lambda: torch.func.vmap(function, in_dims=over)(times, flat))
        return found.reshape(*u.shape[:-1], *found.shape[1:])

    def _vectorised(self, compute: Callable[[], Tensor]) -> Tensor:
        try:
            return compute()
        except RuntimeError as error:
            if self.mode == "loop":
                raise
            raise ConfigError(
                f"the function of the constraint does not run under torch.func.vmap ({error}): write it without "
                "in-place changes and branches on values, pass mode='loop', or its Jacobian as jac="
            ) from error


class LinearConstraint(Constraint):
    """g(u) = A u - b for a matrix A (m, n): "conserved" keeps A u where it is, "level" at b (default zero)."""

    def __init__(self, A: Float[Tensor, "m n"], b: Float[Tensor, " m"] | None = None, *, kind: Kind = "level") -> None:
        super().__init__()
        if A.ndim != 2 or len(A) >= A.shape[1] or (b is not None and b.shape != A.shape[:1]):
            raise ConfigError(
                f"A {tuple(A.shape)} and b {None if b is None else tuple(b.shape)} must be (m, n) and (m,), m < n."
            )
        if kind not in get_args(Kind):
            raise ConfigError(f"kind={kind!r}; choose from {', '.join(get_args(Kind))}")
        self.m, self.n, self.kind = *A.shape, kind
        self.register_buffer("A", A)
        self.register_buffer("b", A.new_zeros(len(A)) if b is None else b)

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        self.check(u)
        return u @ self.get_buffer("A").mT.to(u.dtype) - self.get_buffer("b").to(u.dtype)

    def jacobian(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m n"]:
        self.check(u)
        return self.get_buffer("A").to(u.dtype).expand(*u.shape[:-1], self.m, self.n)


class LearnedConstraint(Constraint):
    """Invariants that are learned with the dynamics: a network from states (..., n) to m numbers (FINDE, ICLR 2023)."""

    kind = "conserved"

    def __init__(self, net: nn.Module, n: int, m: int) -> None:
        super().__init__()
        if not (is_size(m) and is_size(n) and m < n):
            raise ConfigError(f"{m} invariants of {n} components: give at least one, and fewer than components.")
        self.net, self.n, self.m = net, n, m

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        self.check(u)
        return self.net(u)
