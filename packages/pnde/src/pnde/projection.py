"""Orthogonal projection onto the tangent space of a constraint manifold (arXiv 2410.23667)."""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from sciml.precision import widest
from torch import Tensor

from pnde._autograd import project
from pnde._banded import Banded, check_band, detect_band
from pnde._checks import (
    broadcast,
    check_metric,
    check_options,
    check_shapes,
    check_values_can_be_read,
    values_are_known,
)
from pnde._factorisations import apply, apply_transposed, factorise, sharpen, square_root, times_root, weigh
from pnde._rank import RankDeficientConstraintError, rank_error, rows_without_support
from pnde._sparse import SparseFactor, SparseJacobian

Method = Literal["auto", "closed", "cholesky", "qr", "svd", "banded", "sparse"]
Rank = Literal["error", "pinv", "tikhonov"]
METHODS, RANKS = get_args(Method), get_args(Rank)

__all__ = [
    "METHODS",
    "RANKS",
    "Banded",
    "Method",
    "Rank",
    "RankDeficientConstraintError",
    "SparseJacobian",
    "Weight",
    "detect_band",
    "min_norm_solve",
    "project_tangent",
]


class Weight(NamedTuple):
    """A metric W that is known to be symmetric positive semidefinite, and its root S, W = S Sᵀ.

    For a metric that many projections share: checked and factorised once.
    """

    metric: Tensor
    root: Tensor

    @classmethod
    def of(cls, metric: Tensor) -> "Weight":
        """The weight of a constant metric, (n,) or (n, n). ValueError if it is not positive semidefinite."""
        check_metric(metric)
        root = square_root(metric)
        assert root is not None
        return cls(metric, root)


def project_tangent(
    G: Float[Tensor, "*#batch m n"] | SparseJacobian,
    v: Float[Tensor, "*#batch n"],
    *,
    rhs: Float[Tensor, "*#batch m"] | None = None,
    metric: "Tensor | Weight | None" = None,
    method: Method | Banded = "auto",
    passes: int | None = None,
    scale: bool = True,
    rank: Rank = "error",
    rtol: float | None = None,
) -> Float[Tensor, "*#batch n"]:
    """The vector p nearest to v with G p = -rhs: p = v - W Gᵀ(G W Gᵀ)⁻¹(G v + rhs).

    `metric` is the weight W (default the identity): its diagonal, shape (n,), or a symmetric positive semidefinite
    matrix, shape (n, n), or a `Weight` of one, which is not checked anew. W G must keep full row rank. Gradients of any
    order, `vmap` and forward mode are analytic; those of a matrix W are symmetric. A step of training may still make it
    indefinite: train A with W = A Aᵀ. Inside `torch.func` transforms and `torch.compile`, which cannot branch on
    values, neither the rank nor the metric's definiteness is checked, and `auto` does not change its factorisation:
    dependent rows then give numbers without meaning.

    Parameters
    ----------
    G
        Rows, dense; torch's sparse COO (m, n) or CSR (..., m, n) with one pattern; or a `SparseJacobian`.
    method
        "closed" (m ≤ 3, the adjugate), "cholesky", "qr", "svd", "banded" (the bandwidth detected) or `Banded` (given,
        as it must be inside transforms), for sparse G "sparse". "auto" is closed or Cholesky; the samples whose
        κ(W^½Gᵀ), estimated from the factor, exceeds eps^(-1/3) are solved by the singular value decomposition. Up to
        there two passes give errors of order κ·eps, as QR does. For float32 it computes in float64, where the device
        has that: one pass, and eps is that of float64.
    passes
        How often the solve is applied to what it left, default 2 (1 for QR, SVD, a single row, and float32 by "auto"):
        the error of one is κ²·eps.
    scale
        Whether rows are scaled to unit length before the factorisation.
    rank
        Dependent rows raise ("error"), or their dependent directions are dropped ("pinv", by singular values), or
        G W Gᵀ + δI is solved with δ = rtol² times the mean squared length of the rows ("tikhonov"). This leaves drift:
        G p + rhs = δλ, not zero.
    rtol
        Singular values, relative to the largest, that count as zero; default max(m, n)·eps. Cholesky and the closed
        forms cannot tell those below √(8·m·eps). For "tikhonov" the relative damping, default eps^(1/4).

    Raises
    ------
    ValueError
        If shapes do not fit, m >= n, `metric` is not symmetric positive semidefinite, an option is unknown, or a
        sparse `G` meets a transform or another rank.
    TypeError
        If a dtype is half precision, complex or integer, or differs between arguments.
    RuntimeError
        If arguments lie on different devices.
    RankDeficientConstraintError
        If rows are dependent and `rank="error"`, or have no weighted support and `rank="tikhonov"`.
    """
    G = SparseJacobian.from_tensor(G) if isinstance(G, Tensor) and G.layout != torch.strided else G
    metric, root = metric if isinstance(metric, Weight) else (metric, None)
    check_shapes(G, v, rhs, metric)
    check_options(G, metric, method, passes, rank, rtol, METHODS, RANKS)
    check_values_can_be_read(G, method, values_are_known())
    return _solve(G, v, rhs, metric, rank, method, passes, scale, rtol, root)[0]


def min_norm_solve(
    G: Float[Tensor, "*#batch m n"] | SparseJacobian,
    b: Float[Tensor, "*#batch m"],
    *,
    metric: "Tensor | Weight | None" = None,
    method: Method | Banded = "auto",
    passes: int | None = None,
    scale: bool = True,
    rank: Rank = "error",
    rtol: float | None = None,
) -> Float[Tensor, "*#batch n"]:
    """The shortest x with G x = b: x = W Gᵀ(G W Gᵀ)⁻¹b. Options and errors are those of `project_tangent`."""
    n = (G if isinstance(G, Tensor) else G.values).new_zeros(_columns(G))
    return project_tangent(G, n, rhs=-b, metric=metric, method=method, passes=passes, scale=scale, rank=rank, rtol=rtol)


def _solve(
    G: Tensor | SparseJacobian,
    v: Tensor,
    rhs: Tensor | None,
    metric: Tensor | None,
    rank: Rank = "error",
    method: Method | Banded = "auto",
    passes: int | None = None,
    scale: bool = True,
    rtol: float | None = None,
    root: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(p, λ), broadcast over the batch, λ in the precision of the factors; of a known weight with its `root`."""
    entries = G.values[..., None] if isinstance(G, SparseJacobian) else G
    m, n = (G.pattern.m, G.pattern.n) if isinstance(G, SparseJacobian) else G.shape[-2:]
    batch = broadcast(entries.shape[:-2], v.shape[:-1], () if rhs is None else rhs.shape[:-1])
    if metric is not None and root is None and values_are_known():
        check_metric(metric)
    v = v.expand(*batch, n)
    b = None if rhs is None else rhs.expand(*batch, m)
    if isinstance(G, SparseJacobian):
        return _solve_sparse(G, v, b, metric, passes, scale, rtol)
    G = G.expand(*batch, m, n)
    if rank == "pinv":
        root = square_root(metric) if root is None else root
        rows = times_root(G, root)
        squared = rows.square().sum(-1)
        s = torch.where(squared > 0, squared, 1).rsqrt() if scale else torch.ones_like(squared)
        inverse = torch.linalg.pinv(rows * s[..., None], rtol=_tolerance(G, rtol))  # (W^½GᵀS)⁺, transposed
        half = apply(inverse, s * (apply(G, v) if b is None else apply(G, v) + b))
        step = half if root is None else half * root if root.ndim == 1 else half @ root.mT
        return v - step, s * apply_transposed(inverse, half)
    if rank == "tikhonov":
        if values_are_known() and (rows := rows_without_support(G, metric)):
            raise RankDeficientConstraintError(
                f"the rows {rows} have no weighted support, W Gᵀ is zero there; drop them, do not regularise", rows=rows
            )
        return _damped(G, v, b, metric, method, passes, scale, rtol)
    return _solve_dense(G, v, b, metric, method, passes, scale, _tolerance(G, rtol), root=root)


def _solve_dense(
    G: Tensor,
    v: Tensor,
    b: Tensor | None,
    metric: Tensor | None,
    method: Method | Banded,
    passes: int | None,
    scale: bool,
    rtol: float,
    samples: Tensor | None = None,
    root: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    m, eps, band = G.shape[-2], torch.finfo(G.dtype).eps, None
    if method == "auto" and G.dtype != (wide := widest(G.device)):
        b, metric = (None if x is None else x.to(wide) for x in (b, metric))
        p, multipliers = _solve_dense(G.to(wide), v.to(wide), b, metric, method, passes or 1, scale, rtol, samples)
        return p.to(G.dtype), multipliers
    if method == "auto":
        # the error of two passes, (κ²·eps)², is below κ·eps up to here
        name, floor = "closed" if 0 < m <= 3 else "cholesky", eps ** (1 / 3)
    elif isinstance(method, Banded) or method == "banded":
        band = detect_band(G, metric) if method == "banded" else method
        name, floor = "banded", (8 * m * eps) ** 0.5
        if isinstance(method, Banded) and values_are_known():
            check_band(G.detach(), metric, method)
    else:
        # a squared pivot as small as 8 m eps is rounding error: the row lies in the span of the others
        name, floor = method, 0.0 if method in ("qr", "svd") else (8 * m * eps) ** 0.5
    with torch.no_grad():
        factor, ratio = factorise(name, G, metric, scale, band, root)
    count = passes or (1 if name in ("qr", "svd") or m == 1 else 2)
    found = project(G, v, b, metric, None, name, count, *factor)
    if values_are_known():
        # the one wait for the device, unless a bound leaves doubt; by now all that is usually needed is on its way
        sound = ratio > max(floor, rtol)
        if not (proven := bool(sound.all())) and name == "cholesky":
            sound = sharpen(factor[0], ratio, scale) > max(floor, rtol)
            proven = bool(sound.all())
        if not proven:
            flat = ~sound.reshape(-1)
            where = torch.arange(len(flat), device=G.device) if samples is None else samples
            if method != "auto":
                bad = flat.nonzero()[:, 0]
                raise rank_error(G.detach().reshape(-1, *G.shape[-2:])[bad], metric, where[bad])
            return _solve_apart(G, v, b, metric, passes, scale, rtol, flat, where, root)
    return found


def _solve_apart(
    G: Tensor,
    v: Tensor,
    b: Tensor | None,
    metric: Tensor | None,
    passes: int | None,
    scale: bool,
    rtol: float,
    weak: Tensor,
    samples: Tensor,
    root: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Samples whose factors are too close to singular by a better route, the others as before."""
    batch, index = G.shape[:-2], (weak.nonzero()[:, 0], (~weak).nonzero()[:, 0])

    def those(rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        found = None if b is None else b.reshape(-1, b.shape[-1])[rows]
        return G.reshape(-1, *G.shape[-2:])[rows], v.reshape(-1, v.shape[-1])[rows], found

    parts = [_solve_dense(*those(index[0]), metric, "svd", None, scale, rtol, samples[index[0]], root)]
    if len(index[1]):
        parts.append(_solve_dense(*those(index[1]), metric, "auto", passes, scale, rtol))
    back = torch.cat(index).argsort()
    p, multipliers = (torch.cat(x)[back] for x in zip(*parts, strict=True))
    return p.reshape(*batch, -1), multipliers.reshape(*batch, -1)


def _damped(
    G: Tensor,
    v: Tensor,
    b: Tensor | None,
    metric: Tensor | None,
    method: Method | Banded,
    passes: int | None,
    scale: bool,
    rtol: float | None,
) -> tuple[Tensor, Tensor]:
    """(G W Gᵀ + δI)λ = G v + b as the projection with rows [G, √δ I] and the weight diag(W, I)."""
    m, n = G.shape[-2:]
    squared = (weigh(metric, G) * G).sum(-1).mean(-1)
    # rows that all vanish are damped by rtol itself
    damping = (torch.finfo(G.dtype).eps ** 0.25 if rtol is None else rtol) * torch.where(squared > 0, squared, 1).sqrt()
    one = torch.eye(m, dtype=G.dtype, device=G.device)
    if metric is not None:
        metric = torch.cat([metric, one.diagonal()]) if metric.ndim == 1 else torch.block_diag(metric, one)
    rows = torch.cat([G, damping[..., None, None] * one], dim=-1)
    p, multipliers = _solve_dense(
        rows, torch.cat([v, v.new_zeros(*v.shape[:-1], m)], dim=-1), b, metric, method, passes, scale, 0.0
    )
    return p[..., :n], multipliers


def _solve_sparse(
    G: SparseJacobian,
    v: Tensor,
    b: Tensor | None,
    metric: Tensor | None,
    passes: int | None,
    scale: bool,
    rtol: float | None,
) -> tuple[Tensor, Tensor]:
    values, pattern = G.values, G.pattern
    full = values.expand(*v.shape[:-1], values.shape[-1])
    if values.ndim > 1:
        values = full
    factor = SparseFactor(values, pattern, metric, scale)
    floor = max((8 * pattern.m * torch.finfo(torch.float64).eps) ** 0.5, 0.0 if rtol is None else rtol)
    weak = (~(factor.ratio > floor)).reshape(-1).nonzero()[:, 0].to(v.device)
    if len(weak):
        dense = values.new_zeros(pattern.m, pattern.n).index_put(
            (pattern.rows, pattern.columns), values.detach().reshape(-1, values.shape[-1])[weak[0]], accumulate=True
        )
        raise rank_error(dense[None], metric, weak, "Drop the redundant rows")
    return project(full, v, b, metric, pattern, factor, passes or 2)


def _tolerance(G: Tensor, rtol: float | None) -> float:
    return max(G.shape[-2:]) * torch.finfo(G.dtype).eps if rtol is None else rtol


def _columns(G: Tensor | SparseJacobian) -> int:
    return G.pattern.n if isinstance(G, SparseJacobian) else G.shape[-1]
