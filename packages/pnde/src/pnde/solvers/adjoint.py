"""Gradients by the continuous adjoint, solved backwards with the same method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sciml.errors import ConfigError
from torch import Tensor
from torch.autograd.function import once_differentiable

from pnde._checks import in_forward_mode, values_are_known
from pnde.solvers.adaptive import Control, Integrator, Span
from pnde.solvers.fixed import inside
from pnde.solvers.runs import Run
from pnde.solvers.solution import Solution, SolveError, Status
from pnde.solvers.stepping import System, combine
from pnde.solvers.tableaus import Tableau


@dataclass
class _Call:
    field: Callable[..., Tensor]
    t: Tensor
    tableau: Tableau
    control: Control
    jumps: list[float]
    n_args: int
    solution: Solution | None = None


def solve_adjoint(
    field: Callable[..., Tensor],
    u0: Tensor,
    t: Tensor,
    args: Sequence[Tensor],
    params: Sequence[Tensor],
    tableau: Tableau,
    control: Control,
    jumps: list[float],
) -> Solution:
    """Solve, with gradients of `u0`, `args` and `params` from ȧ = -aᵀ ∂f/∂u.

    Between two outputs u and a are solved backwards together, from the stored output, so that errors of the
    reconstruction do not add up over outputs; ∫ aᵀ ∂f/∂θ dt is the method's own quadrature over the accepted steps
    and takes no part in their control (arXiv 2009.09457).
    """
    check_reverse_mode("adjoint=True", "adjoint=False")
    call = _Call(field, t, tableau, control, jumps, len(args))
    u = differentiable_once(_Adjoint.apply(call, u0, *args, *params))  # type: ignore[arg-type]
    found = call.solution
    assert found is not None
    return Solution(found.t, u, found.status, found.nfe, found.n_accepted, found.n_rejected)


def check_reverse_mode(what: str, remedy: str) -> None:
    """ConfigError inside forward mode or a transform of `torch.func`."""
    if in_forward_mode() or not values_are_known():
        raise ConfigError(
            f"{what} is for torch.autograd's reverse mode alone, not for forward mode or torch.func; choose {remedy}"
        )


def differentiable_once(u: Tensor) -> Tensor:
    """A solution whose gradients come from an adjoint equation: to differentiate these is a ConfigError."""
    found = _DifferentiableOnce.apply(u)
    assert isinstance(found, Tensor)
    return found


class _DifferentiableOnce(torch.autograd.Function):
    """The identity. `once_differentiable` refuses only where the second derivative has no other path to its inputs."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        return u.view_as(u)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise ConfigError(
                "adjoint=True has first derivatives alone, without create_graph=True; choose adjoint=False, which "
                "differentiates the steps to any order"
            )
        return cotangent


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, u0: Tensor, *tensors: Tensor) -> Tensor:
        args = tensors[: call.n_args]
        call.solution = Run(System(call.field), u0, call.t, args).solve(
            call.tableau, call.control, call.jumps, None, False
        )
        ctx.call = call
        ctx.save_for_backward(call.solution.u, *tensors)
        return call.solution.u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> Any:  # type: ignore[override]
        call, (u, *tensors) = ctx.call, ctx.saved_tensors
        args, params = tensors[: call.n_args], tensors[call.n_args :]
        valid = u.isfinite().all(-1)
        given = torch.where(valid[..., None], cotangents[0], 0)
        backward = _Backward(call, args, params)
        a = torch.zeros_like(u[:, 0])
        times = call.t.tolist()
        for k in range(len(times) - 1, 0, -1):
            rows = valid[:, k].nonzero()[:, 0]
            a = a + given[:, k]
            if len(rows):
                a[rows] = backward.interval(times[k], times[k - 1], u[rows, k], a[rows], rows)
        return None, a + given[:, 0], *backward.args_bar, *backward.params_bar


class _Backward:
    """The adjoint system (u, a) from one output to the one before, and the integrals over its steps."""

    def __init__(self, call: _Call, args: Sequence[Tensor], params: Sequence[Tensor]) -> None:
        self.call, self.args, self.params = call, args, params
        self.args_bar = [torch.zeros_like(a) if a.requires_grad else None for a in args]
        self.params_bar = [torch.zeros_like(p) for p in params]
        self.system = System(self._field)
        self.system.sign = -1 if bool(call.t[-1] > call.t[0]) else 1

    def _field(self, t: Tensor, z: Tensor, *args: Tensor) -> Tensor:
        u, a = z.detach().chunk(2, dim=-1)
        with torch.enable_grad():
            u.requires_grad_()
            f = self.call.field(t, u, *args)
            pulled = torch.autograd.grad(f, u, a, allow_unused=True)[0] if f.requires_grad else None
        return torch.cat([f.detach(), torch.zeros_like(u) if pulled is None else -pulled], dim=-1)

    def interval(self, start: float, stop: float, u: Tensor, a: Tensor, rows: Tensor) -> Tensor:
        """a at `stop`, of these rows."""
        sign, z, args = self.system.sign, torch.cat([u, a], dim=-1), [x[rows] for x in self.args]
        start, stop = sign * start, sign * stop
        jumps = {sign * jump for jump in self.call.jumps}
        nodes = [start, *sorted(jump for jump in jumps if start < jump < stop), stop]
        for left, right in zip(nodes, nodes[1:]):  # noqa: RUF007
            span = Span(left, right, *inside(left, right, left in jumps, right in jumps, z.dtype))

            def on_steps(row: Tensor, t: Tensor, h: Tensor, z: Tensor, k: Sequence[Tensor], span: Span = span) -> None:
                self._accumulate(span, rows[row], t, h, z, k)

            core = Integrator(self.system, self.call.tableau, self.call.control, on_steps=on_steps)
            core.run(z, args, span, z.new_empty(0), torch.zeros_like(rows), None)
            if bool((core.status != Status.SUCCESS).any()):
                failed = (core.status != Status.SUCCESS).nonzero()[:, 0]
                raise SolveError(
                    f"the adjoint equation could not be solved backwards from t = {sign * start:.6g} to "
                    f"{sign * stop:.6g} for samples {rows[failed[:5]].tolist()} "
                    f"({Status(int(core.status[failed[0]])).name.lower()}); adjoint=False differentiates the steps"
                )
            z = core.end
        return z.chunk(2, dim=-1)[1]

    def _accumulate(self, span: Span, rows: Tensor, t: Tensor, h: Tensor, z: Tensor, k: Sequence[Tensor]) -> None:
        """Add Σ h b_i a_iᵀ ∂f/∂(params, args) over the stages of some steps."""
        tableau, sign = self.call.tableau, self.system.sign
        times, states, cotangents = [], [], []
        for i, weight in enumerate(tableau.b):
            if weight:
                stage = z + h[:, None] * combine(k, tableau.columns[i]) if i else z
                u, a = stage.chunk(2, dim=-1)
                times.append(sign * (t + tableau.c[i] * h).clamp(span.left, span.right))
                states.append(u)
                cotangents.append(-sign * weight * h[:, None] * a)
        index = rows.repeat(len(times))
        with torch.enable_grad():
            args = [a.detach()[index].requires_grad_(a.requires_grad) for a in self.args]
            f = self.call.field(torch.cat(times), torch.cat(states), *args)
            sought = [a for a in args if a.requires_grad] + list(self.params)
            if not f.requires_grad or not sought:
                return
            bars = list(torch.autograd.grad(f, sought, torch.cat(cotangents), allow_unused=True))
        for total in self.args_bar:
            bar = bars.pop(0) if total is not None else None
            if total is not None and bar is not None:
                total.index_add_(0, index, bar)
        for total, bar in zip(self.params_bar, bars):
            if bar is not None:
                total += bar
