"""The front door: solve an initial value problem for a batch, each sample on its own."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor, nn

from pnde.solvers.adaptive import Control
from pnde.solvers.adjoint import solve_adjoint
from pnde.solvers.checks import check_jumps, check_options, check_state
from pnde.solvers.runs import Run
from pnde.solvers.solution import Solution
from pnde.solvers.stepping import System
from pnde.solvers.tableaus import FIXED, tableau


def solve(
    field: Callable[..., Tensor],
    u0: Float[Tensor, "batch n"],
    t: Float[Tensor, " time"],
    *,
    args: Sequence[Tensor] = (),
    method: str = "dopri5",
    rtol: float = 1e-6,
    atol: float = 1e-6,
    first_step: float | int | None = None,
    max_steps: int = 10_000,
    substeps: int = 1,
    jump_times: Sequence[float | int] | Tensor | None = None,
    reinitialise: Callable[..., Any] | None = None,
    retract: Callable[..., Any] | None = None,
    retract_at: Literal["step", "output"] = "step",
    event: Callable[..., Tensor] | None = None,
    adjoint: bool = False,
    params: Sequence[Tensor] | None = None,
    strict: bool = False,
) -> Solution:
    """Solve u̇ = field(t, u, *args) from u(t[0]) = u0 by an explicit Runge–Kutta method.

    Adaptive methods control the step of each sample on its own, by the root mean square of its own error: the
    result of a sample does not depend on the samples beside it, up to what `field` itself rounds differently in
    batches of different sizes. Samples that reach the end are no longer evaluated.

    Parameters
    ----------
    field
        Called as field(t, u, *args), t (rows,) the time of each sample, u (rows, n), where rows are the samples still
        integrated; returns (rows, n). Broadcast over components with `t[:, None]`. Where it raises `SampleError`, as
        projections do for dependent constraints, these samples end, with status NONFINITE if no smaller step helps.
    u0, t
        Initial states, and output times, strictly monotone in either direction.
    args
        Tensors with one row a sample (constraint targets, say); the functions get the rows of their samples.
    method
        Adaptive "dopri5", "tsit5" (order 5, dense output of order 4), "dopri8" (8 and 5), "bosh3" (3 and 3); on the
        grid of outputs "rk4", "midpoint", "euler", each interval cut into `substeps`.
    rtol, atol
        A step is accepted if rms(error / (atol + rtol·max(|u|, |u₁|))) ≤ 1 over a sample's components.
    first_step
        Size of the first step, default Hairer's rule for each sample.
    max_steps
        Steps, accepted or rejected, that each sample may try, those of fixed size among them.
    jump_times
        Times where the field jumps. Steps end exactly there and nothing is carried over; the field is never
        evaluated at the jump itself but on the side that the step lies on. Times outside (t[0], t[-1]) are ignored.
    reinitialise
        Called as reinitialise(t, u, *args) after each jump, returns the state to go on with, say projected onto the
        constraints that hold from there, in one of the forms of `retract`. An output at a jump time is the state after
        it.
    retract, retract_at
        retract(t, u, *args) returns the nearest valid state, or (state, converged), or an object with `u` and
        `converged`. Outputs after the first are always retracted; with "step" each accepted step too, the field then
        evaluated anew.
    event
        event(t, u, *args) gives a number a sample, (rows,); its first change of sign ends that sample, with
        status EVENT, its outputs up to there, and the time found by bisection of the dense output. Two changes
        inside one step are not seen, nor is one that `reinitialise` makes. A zero at the start is no event.
    adjoint, params
        False: autograd differentiates the accepted steps (discretise, then optimise; step sizes and event times are
        constants), to any order, in forward mode too, and inside `torch.func` transforms but `vmap`: `solve` takes the
        whole batch. True: the continuous adjoint is solved backwards to the same tolerances, in memory that does not
        grow with the number of steps; first derivatives reach `u0`, `args` and `params` (default: the parameters of
        `field`), and to ask for others is a `ConfigError`. No gradient reaches `t`, either way.
    strict
        Raise `SolveError` if a sample fails; otherwise it is NaN after its last valid output, with its status.

    Returns
    -------
    Solution
        States (batch, time, n), status and numbers of steps of each sample.

    Raises
    ------
    ShapeError
        If shapes do not fit, or t has fewer than two times.
    ValueError
        If u0 or t is not finite, or t not strictly monotone; `ConfigError` for options that are unknown, out of range
        or cannot be combined.
    TypeError
        If u0 and t are not both float32 or both float64.
    SolveError
        If a sample fails and `strict`.

    Notes
    -----
    Dormand & Prince (1980); Tsitouras (2011); Bogacki & Shampine (1989); step size control, first step and dense
    output after Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, II.4 and II.6.
    """
    check_state(u0, t, args)
    found = tableau(method)
    check_options(
        method, rtol, atol, first_step, max_steps, substeps, retract, retract_at, event, jump_times, reinitialise
    )
    jumps = check_jumps(jump_times, t)
    control = Control(rtol, atol, first_step, max_steps, substeps)
    if adjoint:
        if retract is not None or event is not None or reinitialise is not None or method in FIXED:
            raise ConfigError("adjoint=True needs an adaptive method without retract, event or reinitialise")
        if params is None:
            if not isinstance(field, nn.Module):
                raise ConfigError("adjoint=True needs params=…, the tensors to differentiate: field is no nn.Module")
            params = [p for p in field.parameters() if p.requires_grad]
        solution = solve_adjoint(field, u0, t, args, params, found, control, jumps)
    else:
        run = Run(System(field, retract, event), u0, t, args)
        solution = run.solve(found, control, jumps, reinitialise, retract_at == "step")
    if strict:
        solution.raise_for_status()
    return solution
