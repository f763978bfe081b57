"""The flow of any vector field as a module: with a constraint's target, retraction and a choice of solvers."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import currentframe, signature
from typing import Any, Literal

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, DataError, ShapeError
from torch import Tensor, nn

from pnde.backends import InitialValueProblem, backend
from pnde.constraints import Constraint
from pnde.fields import ProjectedField, check_constraint, check_field
from pnde.retraction import Retraction, retract
from pnde.solvers import Solution, Status
from pnde.solvers.checks import check_jumps, check_options, check_state

LIBRARIES = ("pnde", "torch")


class OffManifoldWarning(UserWarning):
    """Initial states that do not satisfy the constraint, whose solutions will not either."""


def target_of(
    constraint: Constraint, u0: Float[Tensor, "batch n"], t0: Tensor, target: Tensor | None
) -> Float[Tensor, "batch m"]:
    """The values that the constraint keeps: those given, checked, or its own for `u0` at the time or times `t0`."""
    if target is None:
        target = constraint.target(t0, u0)
    elif target.shape != (len(u0), constraint.m):
        raise ShapeError(f"target must be ({len(u0)}, {constraint.m}); got {tuple(target.shape)}")
    elif target.dtype != u0.dtype:
        raise TypeError(f"target must be {u0.dtype} as u0; got {target.dtype}")
    valid = (constraint(t0, u0) + target).detach().isfinite().all(-1)
    if not bool(valid.all()):
        bad = (~valid).nonzero()[:5, 0].tolist()
        raise ValueError(
            f"the constraint has no finite value at the start of samples {bad}: u0 must lie in its domain, and target, "
            "if given, be finite"
        )
    return target


@torch.no_grad()
def warn_off_manifold(
    constraint: Constraint,
    u0: Float[Tensor, "batch n"],
    t0: Tensor,
    target: Tensor,
    atol: float,
    remedy: str,
) -> None:
    """`OffManifoldWarning` if initial states are further than 10·atol from the target; `remedy` moves them there."""
    distance = (constraint(t0, u0) - target).norm(dim=-1)
    far = (distance > 10 * atol).nonzero()[:, 0]
    if len(far):
        frame, level = currentframe(), 1  # the warning shows the first line outside of libraries
        while frame is not None and str(frame.f_globals.get("__name__")).split(".")[0] in LIBRARIES:
            frame, level = frame.f_back, level + 1
        warnings.warn(
            f"‖g(u0) - target‖ is up to {float(distance.max()):.3g}, more than 10·atol = {10 * atol:.3g}, in samples "
            f"{far[:5].tolist()}{' …' if len(far) > 5 else ''}: solutions will keep that distance, unless γ draws them "
            f"back. {remedy} initial states onto the constraint",
            OffManifoldWarning,
            stacklevel=level,
        )


def onto(
    field: Callable[..., Tensor], constraint: Constraint, t: Tensor, u: Float[Tensor, "batch n"], target: Tensor
) -> Retraction:
    """States at which the constraint has the target, in the metric that the field is projected in."""
    metric: Any = field.metric if isinstance(field, ProjectedField) else None
    return retract(constraint, u, target, t, metric=metric)


def check_weights(module: nn.Module, u0: Tensor) -> None:
    """RuntimeError if a parameter or buffer is not where `u0` is, ValueError if a parameter is not finite."""
    for name, x in (*module.named_parameters(), *module.named_buffers()):
        if x.device != u0.device:
            raise RuntimeError(f"u0 is on {u0.device}, {name} on {x.device}; move one to the other")
    finite = {name: parameter.detach().isfinite().all() for name, parameter in module.named_parameters()}
    if finite and not bool(torch.stack(list(finite.values())).all()):  # one wait for the device
        bad = [name for name, value in finite.items() if not bool(value)]
        raise ValueError(f"the parameter {bad[0]} has NaN or infinite entries")


class NeuralODE(nn.Module):
    """The solution of u̇ = field(t, u) at given times, for a batch of initial states.

    With a constraint, solutions keep its target: for a conserved quantity the value at the start of each trajectory,
    for a level zero. To the field it is an argument if it takes one of that name.

    Parameters
    ----------
    field
        A `VectorField` or any callable f(t, u), t (rows,) the time of each sample, u (rows, n); with parameters an
        `nn.Module`. Its own `constraint`, if it has one, is that of the flow.
    constraint
        Of a field that has none: `retract` then gives the post-step projection of a free field (arXiv 2505.20515).
    backend
        "native" controls the steps of each sample on its own. "torchdiffeq" has one step size for the batch, so that
        a result depends on the samples beside it. "torchode" (pip install torchode) has one a sample, and no adjoint.
    method
        "dopri5", or another of the backend's.
    rtol, atol, max_steps
        Tolerances, and the steps, accepted or rejected, that a sample may try. What fails has its status, and is NaN
        after its last valid output.
    adjoint
        Solve the continuous adjoint backwards, in memory that does not grow with the steps, instead of
        differentiating these; it has first derivatives in reverse mode alone. Retracted steps have none.
    retract
        "step": after each step and jump, the state is moved to the constraint's target along its rows, `pnde.retract`
        with Newton's method, in the metric of a `ProjectedField`; so are outputs. "output": the outputs, and states
        after jumps, alone. What retraction moves a state by is not in the estimate of a step's error: of a field that
        is not tangent to the constraint, the solution depends on the sizes of the steps.
    jump_times
        Where the field jumps. Steps end there, and the field is evaluated on the side that the step lies on.
    initial
        "check" warns of initial states further than 10·atol from the target, "retract" moves them there.

    Raises
    ------
    ConfigError
        If a name is unknown, or options are out of range or cannot be combined.
    ImportError
        If the backend is not installed.
    """

    def __init__(
        self,
        field: Callable[..., Tensor],
        *,
        constraint: Constraint | None = None,
        backend: str = "native",
        method: str = "dopri5",
        rtol: float = 1e-6,
        atol: float = 1e-6,
        adjoint: bool = False,
        retract: Literal["step", "output"] | None = None,
        jump_times: Sequence[float | int] | Tensor | None = None,
        max_steps: int = 10_000,
        initial: Literal["check", "retract"] = "check",
    ) -> None:
        super().__init__()
        own = getattr(field, "constraint", None)
        if constraint is not None and own is not None and constraint is not own:
            raise ConfigError("the field has a constraint of its own; leave out constraint=…, or stack both there")
        if constraint is not None:
            check_constraint(constraint)
        self.field, self.constraint = field, own if constraint is None else constraint
        check_field(field)
        self._check_options(backend, method, rtol, atol, adjoint, retract, max_steps, initial, jump_times)
        self.backend, self.method, self.rtol, self.atol, self.max_steps = backend, method, rtol, atol, max_steps
        self.adjoint, self.retract, self.jump_times, self.initial = adjoint, retract, jump_times, initial
        check_jumps(jump_times, torch.empty(0, dtype=torch.float64))
        takes = signature(getattr(field, "forward", field)).parameters
        self._takes_target = "target" in takes and self.constraint is not None

    def forward(
        self,
        u0: Float[Tensor, "batch n"],
        t: Float[Tensor, " time"],
        *,
        target: Float[Tensor, "batch m"] | None = None,
        strict: bool = False,
    ) -> Solution:
        """Solve from u(t[0]) = u0; the solution's `u` is (batch, time, n).

        `target` are values of the constraint to keep, by default its own for `u0`. With `strict` a sample that fails
        is an error.

        Raises
        ------
        ShapeError
            If `u0`, `t`, `target` or what the field returns has another shape.
        ValueError
            If u0, t or a parameter is not finite, or t not strictly monotone; `DataError` if `initial="retract"` does
            not reach the target.
        TypeError
            If u0 and t are not both float32 or both float64.
        SolveError
            If a sample fails and `strict`.
        """
        self._check_start(u0, t)
        if self.constraint is not None:
            target = target_of(self.constraint, u0, t[0], target)
            u0 = self._begin(u0, t, target)
        elif target is not None:
            raise ConfigError("target=… is a value of a constraint, which this flow has not; give constraint=…")
        jumps = check_jumps(self.jump_times, t)
        problem = InitialValueProblem(
            field=self._rhs,
            u0=u0,
            t=t,
            args=() if target is None else (target,),
            method=self.method,
            rtol=self.rtol,
            atol=self.atol,
            max_steps=self.max_steps,
            jumps=jumps,
            reinitialise=self._retract if jumps and self.retract else None,
            retract=self._retract if self.retract == "step" else None,
            adjoint=self.adjoint,
            params=[p for p in self.parameters() if p.requires_grad],
        )
        solution = self._solver.solve(problem)
        if self.retract == "output" and len(u0):
            assert target is not None
            solution = self._retracted(solution, target)
        if strict:
            solution.raise_for_status()
        return solution

    def extra_repr(self) -> str:
        return f"backend={self.backend!r}, method={self.method!r}, rtol={self.rtol}, atol={self.atol}"

    def _rhs(self, t: Tensor, u: Tensor, *target: Tensor) -> Tensor:
        try:
            return self.field(t, u, *target) if self._takes_target else self.field(t, u)
        except (RuntimeError, TypeError) as error:
            other = [(name, p) for name, p in self.named_parameters() if p.dtype != u.dtype]
            if not other:
                raise
            name, parameter = other[0]
            raise TypeError(
                f"u0 is {u.dtype}, the parameter {name} {parameter.dtype}, and the field fails with both ({error}): "
                f"give field.to(u0.dtype), or states of {parameter.dtype}"
            ) from error

    def _retract(self, t: Tensor, u: Tensor, target: Tensor) -> Retraction:
        assert self.constraint is not None
        return onto(self.field, self.constraint, t, u, target)

    def _retracted(self, solution: Solution, target: Tensor) -> Solution:
        """All outputs but the first on the manifold; NaN from a failure on."""
        u = solution.u
        valid = u.detach().isfinite().all(-1)
        valid[:, 0] = False
        rows, columns = valid.nonzero(as_tuple=True)
        if not len(rows):
            return solution
        found = self._retract(solution.t[columns], u[rows, columns], target[rows])
        failed = torch.zeros_like(valid).index_put((rows, columns), ~found.converged)
        u = torch.where((failed.cumsum(1) > 0)[..., None], torch.nan, u.index_put((rows, columns), found.u))
        status = torch.where(failed.any(1), int(Status.RETRACTION_FAILED), solution.status)
        return replace(solution, u=u, status=status)

    def _begin(self, u0: Tensor, t: Tensor, target: Tensor) -> Tensor:
        """Initial states, looked at or moved to the target."""
        assert self.constraint is not None
        if self.initial == "retract" and len(u0):
            found = onto(self.field, self.constraint, t[0], u0, target)
            if not bool(found.converged.all()):
                failed = (~found.converged).nonzero()[:, 0]
                raise DataError(
                    f"u0 could not be moved onto the constraint: samples {failed[:5].tolist()} are left with a "
                    f"residual of {float(found.residual[failed[0]]):.3g}. Give initial states that are nearer to it"
                )
            return found.u
        warn_off_manifold(self.constraint, u0, t[0], target, self.atol, "initial='retract' moves")
        return u0

    def _check_start(self, u0: Tensor, t: Tensor) -> None:
        check_state(u0, t, ())
        n = getattr(self.field, "n", None if self.constraint is None else self.constraint.n)
        if isinstance(n, int) and u0.shape[-1] != n:
            raise ShapeError(f"u0 must be (batch, {n}), the states of the field; got {tuple(u0.shape)}")
        check_weights(self, u0)

    def _check_options(
        self,
        name: str,
        method: str,
        rtol: float,
        atol: float,
        adjoint: bool,
        retract: str | None,
        max_steps: int,
        initial: str,
        jump_times: Any,
    ) -> None:
        if retract not in (None, "step", "output"):
            raise ConfigError(f"retract={retract!r} is unknown; choose one of step, output, None")
        if initial not in ("check", "retract"):
            raise ConfigError(f"initial={initial!r} is unknown; choose one of check, retract")
        if self.constraint is None and (retract or initial == "retract"):
            raise ConfigError("retract and initial='retract' need a constraint; give constraint=…")
        self._solver = backend(name, method, adjoint, retract == "step")
        check_options(method, rtol, atol, None, max_steps, 1, None, "step", None, None, None)
        if adjoint and retract == "step":
            raise ConfigError("retracted steps have no continuous adjoint; choose adjoint=False or retract='output'")
        if adjoint and retract and jump_times is not None and name == "native":
            raise ConfigError(
                "states that are retracted after a jump have no continuous adjoint; choose adjoint=False, "
                "backend='torchdiffeq', or no retract"
            )
        if adjoint and not isinstance(self.field, nn.Module):
            raise ConfigError("adjoint=True needs to know what to differentiate by: make the field an nn.Module")
