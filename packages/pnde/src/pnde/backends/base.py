"""What a backend is asked to solve, and this package's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pnde.solvers import ADAPTIVE, FIXED, Solution, solve


@dataclass(frozen=True)
class InitialValueProblem:
    """u̇ = field(t, u, *args), u(t[0]) = u0, and how to solve it.

    `t` of the field has one time a row, `args` one row a sample. `jumps` are times where the field jumps, after which
    `reinitialise(t, u, *args)` gives the state to go on with; `retract` follows each step. `params` are what the
    adjoint differentiates by beside u0 and args.
    """

    field: Callable[..., Tensor]
    u0: Tensor
    t: Tensor
    args: Sequence[Tensor] = ()
    method: str = "dopri5"
    rtol: float = 1e-6
    atol: float = 1e-6
    max_steps: int = 10_000
    jumps: Sequence[float] = ()
    reinitialise: Callable[..., Any] | None = None
    retract: Callable[..., Any] | None = None
    adjoint: bool = False
    params: Sequence[Tensor] = ()


class Backend:
    """A solver: `methods`, which of them the adjoint and `retract` go with, and `solve`."""

    methods: tuple[str, ...]
    retracts = False
    adjoint_methods: tuple[str, ...] = ()

    def solve(self, problem: InitialValueProblem) -> Solution:
        raise NotImplementedError


class Native(Backend):
    """`pnde.solve`: each sample has its own steps."""

    methods = (*ADAPTIVE, *FIXED)
    retracts = True
    adjoint_methods = tuple(ADAPTIVE)

    def solve(self, problem: InitialValueProblem) -> Solution:
        p = problem
        options: dict[str, Any] = {"adjoint": True, "params": p.params} if p.adjoint else {}
        if p.jumps:
            options |= {"jump_times": p.jumps, "reinitialise": p.reinitialise}
        return solve(
            p.field,
            p.u0,
            p.t,
            args=p.args,
            method=p.method,
            rtol=p.rtol,
            atol=p.atol,
            max_steps=p.max_steps,
            retract=p.retract,
            **options,
        )
