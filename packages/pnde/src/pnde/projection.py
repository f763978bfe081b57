"""Orthogonal projection onto the tangent space of a constraint manifold (arXiv 2410.23667)."""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Rank = Literal["error", "pinv"]
RANKS = get_args(Rank)


class RankDeficientConstraintError(ValueError):
    """The rows of a constraint Jacobian are linearly dependent, so that the multipliers are not unique."""


def project_tangent(
    G: Float[Tensor, "*#batch m n"],
    v: Float[Tensor, "*#batch n"],
    *,
    rhs: Float[Tensor, "*#batch m"] | None = None,
    metric: Tensor | None = None,
    rank: Rank = "error",
) -> Float[Tensor, "*#batch n"]:
    """The vector p nearest to v with G p = -rhs: p = v - W Gᵀ(G W Gᵀ)⁻¹(G v + rhs).

    `metric` is the weight W (default the identity): its diagonal, shape (n,), or a symmetric positive semidefinite
    matrix, shape (n, n). W G must keep full row rank. Gradients of any order, `vmap` and forward mode are analytic.
    Inside `torch.func` transforms and `torch.compile`, which cannot branch on values, neither the rank nor the
    metric's definiteness is checked: dependent rows then give numbers without meaning.

    Raises
    ------
    ValueError
        If shapes do not fit, m >= n, `metric` is not symmetric positive semidefinite, or `rank` is unknown.
    TypeError
        If a dtype is half precision, complex or integer, or differs between arguments.
    RankDeficientConstraintError
        If rows are dependent and `rank="error"`; `rank="pinv"` drops the dependent directions instead.
    """
    _check(G, v, rhs, metric, rank)
    return _solve(G, v, rhs, metric, rank)[0]


def min_norm_solve(
    G: Float[Tensor, "*#batch m n"], b: Float[Tensor, "*#batch m"], *, rank: Rank = "error"
) -> Float[Tensor, "*#batch n"]:
    """The shortest x with G x = b: x = Gᵀ(G Gᵀ)⁻¹b. Raises as `project_tangent` does."""
    return project_tangent(G, torch.zeros_like(G[..., 0, :]), rhs=-b, rank=rank)


def _solve(G: Tensor, v: Tensor, rhs: Tensor | None, metric: Tensor | None, rank: Rank) -> tuple[Tensor, Tensor]:
    batch = torch.broadcast_shapes(G.shape[:-2], v.shape[:-1], () if rhs is None else rhs.shape[:-1])
    # inside torch.compile and torch.func transforms nothing can branch on values
    concrete = not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is None  # type: ignore
    if concrete and metric is not None:
        _check_metric(metric)
    G, v = G.expand(*batch, *G.shape[-2:]), v.expand(*batch, v.shape[-1])
    b = torch.zeros_like(G[..., 0]) if rhs is None else rhs.expand(*batch, G.shape[-2])
    if rank == "pinv":
        gram = _weigh(metric, G) @ G.mT
        multipliers = _apply(torch.linalg.pinv(gram, hermitian=True, rtol=_gram_rtol(G)), _apply(G, v) + b)
        return v - _weigh(metric, _apply(G.mT, multipliers)), multipliers
    with torch.no_grad():
        factor, scale, info = _factorize(G, metric)
    if concrete:
        _check_rank(factor, info, G)
    p, multipliers = _Projection.apply(G, v, b, metric, factor, scale)  # type: ignore[misc]
    return p, multipliers


class _Projection(torch.autograd.Function):
    """(p, λ) with λ = (G W Gᵀ)⁻¹(G v + b) and p = v - W Gᵀλ.

    λ is an output: read back from the context, it would be a constant to the second derivative. `factor` and
    `scale` are the scaled Cholesky factorisation of G W Gᵀ, shared with every derivative.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(G: Tensor, v: Tensor, b: Tensor, metric: Tensor | None, factor: Tensor, scale: Tensor) -> Any:
        multipliers, p = torch.zeros_like(b), v
        for _ in range(2):  # the second pass removes the error κ(G)²·eps of the normal equations
            residual = (_apply(G, p) + b) * scale
            multipliers = multipliers + torch.cholesky_solve(residual[..., None], factor)[..., 0] * scale
            p = v - _weigh(metric, _apply(G.mT, multipliers))
        return p, multipliers

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        G, _, _, metric, factor, scale = inputs
        p, multipliers = output
        ctx.save_for_backward(G, p, multipliers, metric, factor, scale)
        ctx.save_for_forward(G, p, multipliers, metric, factor, scale)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        w, nu = cotangents
        G, p, multipliers, metric, factor, scale = ctx.saved_tensors
        weighted, mu = _Projection.apply(G, _weigh(metric, w), -nu, metric, factor, scale)  # type: ignore[misc]
        v_bar = w - _apply(G.mT, mu)
        G_bar = -mu[..., None] * p[..., None, :] - multipliers[..., None] * weighted[..., None, :]
        return G_bar, v_bar, -mu, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        G, p, multipliers, metric, factor, scale = ctx.saved_tensors
        G_dot, v_dot, b_dot, *_ = tangents
        v_dot = torch.zeros_like(p) if v_dot is None else v_dot
        b_dot = torch.zeros_like(multipliers) if b_dot is None else b_dot
        if G_dot is not None:
            v_dot = v_dot - _weigh(metric, _apply(G_dot.mT, multipliers))
            b_dot = b_dot + _apply(G_dot, p)
        return _Projection.apply(G, v_dot, b_dot, metric, factor, scale)  # type: ignore[misc]


def _factorize(G: Tensor, metric: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Cholesky factor of G W Gᵀ scaled to unit diagonal, the scale, and the status of each matrix."""
    gram = _weigh(metric, G) @ G.mT
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal, 1).rsqrt()
    factor, info = torch.linalg.cholesky_ex(gram * scale[..., None] * scale[..., None, :])
    return factor, scale, info


def _check_rank(factor: Tensor, info: Tensor, G: Tensor) -> None:
    pivots = factor.diagonal(dim1=-2, dim2=-1).amin(-1) if factor.shape[-1] else torch.ones_like(info, dtype=G.dtype)
    # a pivot of the scaled matrix this small is rounding error: the row lies in the span of the others
    bad = (info != 0) | ~(pivots.square() > 8 * G.shape[-2] * torch.finfo(G.dtype).eps)
    if bad.any():
        which = bad.reshape(-1).nonzero()[:, 0]
        finite = torch.isfinite(G.reshape(-1, *G.shape[-2:])[which[0]]).all()
        values = (
            torch.linalg.svdvals(G.detach().reshape(-1, *G.shape[-2:])[which[0]]).tolist() if finite else "not finite"
        )
        raise RankDeficientConstraintError(
            f"the constraint rows are linearly dependent in {len(which)} sample(s), first {which[:5].tolist()}; "
            f"singular values there: {values}. Drop the redundant rows, or pass rank='pinv'"
        )


@torch.no_grad()
def _check_metric(metric: Tensor) -> None:
    if metric.ndim == 1:
        proper = (metric >= 0).all() & metric.isfinite().all()
    else:
        rounding = 8 * len(metric) * torch.finfo(metric.dtype).eps * metric.abs().amax()
        shifted = metric + rounding * torch.eye(len(metric), dtype=metric.dtype, device=metric.device)
        symmetric = ((metric - metric.mT).abs() <= rounding).all()
        proper = symmetric & (torch.linalg.cholesky_ex(shifted).info == 0) & metric.isfinite().all()
    if not proper:
        raise ValueError(
            f"metric {tuple(metric.shape)} must be finite and, as a vector, without negative entries, as a matrix, "
            "symmetric positive semidefinite: give the weight W itself, for mechanics the inverse of the mass matrix"
        )


def _gram_rtol(G: Tensor) -> float:
    return max(G.shape[-2:]) * torch.finfo(G.dtype).eps


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _weigh(metric: Tensor | None, x: Tensor) -> Tensor:
    """W applied to the last dimension."""
    if metric is None:
        return x
    return x * metric if metric.ndim == 1 else x @ metric


def _check(G: Tensor, v: Tensor, rhs: Tensor | None, metric: Tensor | None, rank: str) -> None:
    if rank not in RANKS:
        raise ValueError(f"rank={rank!r} is unknown; choose one of {', '.join(RANKS)}")
    if G.ndim < 2 or v.ndim < 1 or G.shape[-1] != v.shape[-1]:
        raise ValueError(f"G must be (..., m, n) and v (..., n); got {tuple(G.shape)} and {tuple(v.shape)}")
    m, n = G.shape[-2:]
    if m >= n:
        raise ValueError(f"{m} constraints in {n} dimensions leave no tangent direction; G has shape {tuple(G.shape)}")
    if rhs is not None and (rhs.ndim < 1 or rhs.shape[-1] != m):
        raise ValueError(f"rhs must be (..., {m}), one number per constraint; got {tuple(rhs.shape)}")
    shapes = {"G": G.shape[:-2], "v": v.shape[:-1]} | ({} if rhs is None else {"rhs": rhs.shape[:-1]})
    try:
        torch.broadcast_shapes(*shapes.values())
    except RuntimeError:
        found = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"the batch shapes do not match: {found}") from None
    if metric is not None and tuple(metric.shape) not in ((n,), (n, n)):
        raise ValueError(f"metric must be ({n},) or ({n}, {n}); got {tuple(metric.shape)}")
    kinds = {name: x.dtype for name, x in (("G", G), ("v", v), ("rhs", rhs), ("metric", metric)) if x is not None}
    if G.dtype not in (torch.float32, torch.float64) or len(set(kinds.values())) > 1:
        found = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise TypeError(f"all arguments must be float32 or all float64; got {found}")
