"""The projection as one differentiable function of rows, vector, right-hand side and weight (arXiv 2410.23667).

With A = G W Gᵀ: λ = A⁻¹(G v + b) and p = v - W Gᵀλ.
"""

from inspect import signature
from typing import Any, no_type_check

import torch
from torch import Tensor

from pnde._checks import in_forward_mode, in_nested_forward_modes, values_are_known
from pnde._factorisations import apply, apply_transposed, correct, symmetric, weigh
from pnde._sparse import Pattern, SparseFactor


def project(G: Tensor, v: Tensor, b: Tensor | None, metric: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    """(p, λ) with derivatives of all orders; `rest` is what follows in `ReverseProjection.forward`. No b is zero."""
    known, compiling = values_are_known(), torch.compiler.is_compiling()
    if (known or compiling) and not _is_differentiated(G, v, b, metric):  # dynamo of torch 2.11 takes no Function here
        return Projection.forward(G, v, b, metric, *rest)
    if metric is not None:
        metric = symmetric(metric)  # and so its derivatives are
    if not (known or compiling) and in_nested_forward_modes():
        return _project_plainly(G, v, b, metric, *rest)
    kind = ReverseProjection if compiling else Projection
    return kind.apply(G, v, b, metric, *rest)  # type: ignore[return-value]


def _is_differentiated(*tensors: Tensor | None) -> bool:
    """Whether a derivative may be asked for, by either mode. To call a `Function` takes as long as a small solve."""
    reverse = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    return reverse or in_forward_mode()


def _project_plainly(
    G: Tensor,
    v: Tensor,
    b: Tensor | None,
    metric: Tensor | None,
    pattern: None,
    solver: str,
    passes: int,
    *factor: Tensor,
) -> tuple[Tensor, Tensor]:
    """(p, λ) by operations of torch: the `jvp` of a `Function` does not see the tangents of an outer forward mode."""
    weighted = weigh(metric, G)
    multipliers, p = None, v
    for _ in range(max(passes, 2)):
        change = torch.linalg.solve_ex(weighted @ G.mT, _residual(None, G, p, b)[..., None])[0][..., 0]
        multipliers = change if multipliers is None else multipliers + change
        p = p - apply_transposed(weighted, change)
    assert multipliers is not None
    return p, multipliers


@no_type_check  # dynamo cannot trace the shape checks of the tests here
class ReverseProjection(torch.autograd.Function):
    """(p, λ) of (G, v, b, W). `pattern` is None for dense G; `solver` names the factorisation of `factor`, or is it.

    λ is an output: read back from the context, it would be a constant to the second derivative. The factorisation is
    shared with every derivative, which are values of the same function. torch.compile takes no function that has a
    forward mode; it gets this one.
    """

    @staticmethod
    def forward(
        G: Tensor,
        v: Tensor,
        b: Tensor | None,
        metric: Tensor | None,
        pattern: Pattern | None,
        solver: str | SparseFactor,
        passes: int,
        *factor: Tensor,
    ) -> Any:
        multipliers, p = None, v
        for _ in range(passes):  # the second pass removes the error κ(G)²·eps of the normal equations
            residual = _residual(pattern, G, p, b)
            if isinstance(solver, str):
                change, step = correct(solver, G, metric, factor, residual)
            else:
                change = solver.solve(residual)
                step = weigh(metric, _transposed_times(pattern, G, change))
            multipliers = change if multipliers is None else multipliers + change
            p = p - step
        return p, multipliers

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        G, _, b, metric, ctx.pattern, ctx.solver, ctx.passes, *factor = inputs
        p, multipliers = output
        ctx.has_b = b is not None
        ctx.save_for_backward(G, p, multipliers, metric, *factor)
        ctx.save_for_forward(G, p, multipliers, metric, *factor)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        w, nu = cotangents
        G, p, multipliers, metric, *factor = ctx.saved_tensors
        # μ = A⁻¹(G W w - ν), v̄ = w - Gᵀμ, Ḡ = -μ pᵀ - λ (W v̄)ᵀ, b̄ = -μ
        weighted, mu = project(G, weigh(metric, w), -nu, metric, ctx.pattern, ctx.solver, ctx.passes, *factor)
        v_bar = w - _transposed_times(ctx.pattern, G, mu)
        G_bar = metric_bar = None
        if ctx.needs_input_grad[0]:
            G_bar = -_outer(ctx.pattern, mu, p) - _outer(ctx.pattern, multipliers, weighted)
        if metric is not None and ctx.needs_input_grad[3]:
            normal = _transposed_times(ctx.pattern, G, multipliers)  # W̄ = -v̄ (Gᵀλ)ᵀ, summed over the batch
            pairs = v_bar * normal if metric.ndim == 1 else v_bar[..., :, None] * normal[..., None, :]
            metric_bar = -pairs.reshape(-1, *metric.shape).sum(0)
        return G_bar, v_bar, -mu if ctx.has_b else None, metric_bar, None, None, None, *[None] * len(factor)


@no_type_check
class Projection(ReverseProjection):
    """The same with forward mode and `vmap`."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        G, p, multipliers, metric, *factor = ctx.saved_tensors
        G_dot, v_dot, b_dot, metric_dot, *_ = tangents
        v_dot = torch.zeros_like(p) if v_dot is None else v_dot
        if G_dot is not None:
            v_dot = v_dot - weigh(metric, _transposed_times(ctx.pattern, G_dot, multipliers))
            b_dot = _residual(ctx.pattern, G_dot, p, b_dot)
        if metric_dot is not None:
            v_dot = v_dot - weigh(metric_dot, _transposed_times(ctx.pattern, G, multipliers))
        return project(G, v_dot, b_dot, metric, ctx.pattern, ctx.solver, ctx.passes, *factor)


# torch asks for it at every call
Projection.forward.__signature__ = signature(Projection.forward)  # type: ignore[attr-defined]


def _times(pattern: Pattern | None, G: Tensor, x: Tensor) -> Tensor:
    return apply(G, x) if pattern is None else pattern.apply(G, x)


def _residual(pattern: Pattern | None, G: Tensor, p: Tensor, b: Tensor | None) -> Tensor:
    return _times(pattern, G, p) if b is None else _times(pattern, G, p) + b


def _transposed_times(pattern: Pattern | None, G: Tensor, y: Tensor) -> Tensor:
    return apply_transposed(G, y) if pattern is None else pattern.apply_transposed(G, y)


def _outer(pattern: Pattern | None, y: Tensor, x: Tensor) -> Tensor:
    return y[..., None] * x[..., None, :] if pattern is None else pattern.outer(y, x)
