"""Factorisations of the weighted Gram matrix A = G W Gᵀ of dense constraint rows G.

`factorise` returns tensors that `correct` solves with, and for each sample an estimate of the reciprocal condition
number of W^½Gᵀ: from its singular values for the SVD, from the pivots for QR and bands, from A⁻¹ too for three rows,
and from the determinant a lower bound for two rows and for Cholesky, which `sharpen` makes an estimate. Rows are scaled
to unit length by s_i = A_ii^-½ (Jacobi scaling); Cholesky and one or two rows, whose rounding errors no scaling
changes, in the estimate alone.
"""

import math

import torch
from torch import Tensor

from pnde import _banded

Factor = tuple[Tensor, ...]


def factorise(
    method: str,
    G: Tensor,
    metric: Tensor | None,
    scale: bool,
    band: _banded.Banded | None = None,
    root: Tensor | None = None,
) -> tuple[Factor, Tensor]:
    """Factor of A by `method`, and the estimate of 1/κ (...), which is not above zero where A is singular."""
    if method in ("qr", "svd"):
        root = square_root(metric) if root is None else root
        rows = times_root(G, root)
        s = _inverse_root(rows.square().sum(-1)) if scale else torch.ones_like(G[..., 0])
        scaled = rows * s[..., None]
        return _qr(scaled, root, s) if method == "qr" else _svd(scaled, root, s)
    weighted = weigh(metric, G)
    if band is not None:
        return _banded.factorise(G, weighted, scale, band)
    gram = weighted @ G.mT
    return _closed(gram, scale) if method == "closed" else _cholesky(gram, scale)


def correct(method: str, G: Tensor, metric: Tensor | None, factor: Factor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """δλ = A⁻¹ r and the step W Gᵀδλ."""
    if method == "qr":
        basis, R, s = factor  # A = S⁻¹RᵀR S⁻¹ and W Gᵀ = basis R S⁻¹
        y = torch.linalg.solve_triangular(R.mT, (s * residual)[..., None], upper=False)
        multipliers = s * torch.linalg.solve_triangular(R, y, upper=True)[..., 0]
        return multipliers, apply(basis, y[..., 0])
    if method == "svd":
        basis, sigma, V, s = factor
        y = apply(V.mT, s * residual) / sigma
        return s * apply(V, y / sigma), apply(basis, y)
    if method == "closed":
        multipliers = apply(factor[0], residual)
    elif method == "banded":
        multipliers = _banded.solve(factor, residual)
    else:
        y = torch.linalg.solve_triangular(factor[0], residual[..., None], upper=False)
        multipliers = torch.linalg.solve_triangular(factor[0].mT, y, upper=True)[..., 0]
    return multipliers, weigh(metric, apply_transposed(G, multipliers))


def _closed(gram: Tensor, scale: bool) -> tuple[Factor, Tensor]:
    """A⁻¹ for one, two or three rows, by the adjugate."""
    m = gram.shape[-1]
    if m == 1:
        return (1 / gram,), (gram / gram)[..., 0, 0]  # NaN where it is zero or not finite
    if m == 3:
        return _three(gram, scale)
    first, off, last = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
    product = first * last
    determinant = product - off.square()
    adjugate = torch.stack([last, -off, -off, first], dim=-1).unflatten(-1, (2, 2))
    inverse = adjugate / determinant[..., None, None]
    # λ_min/λ_max lies between one and four times det/(λ_min + λ_max)²; NaN where A is not positive
    return (inverse,), determinant.sqrt() / (2 * product.sqrt() if scale else first + last)


def _three(gram: Tensor, scale: bool) -> tuple[Factor, Tensor]:
    s = _inverse_root(gram.diagonal(dim1=-2, dim2=-1)) if scale else torch.ones_like(gram[..., 0])
    gram = gram * (s[..., None] * s[..., None, :])
    adjugate = torch.linalg.cross(gram.roll(-1, -2), gram.roll(-2, -2), dim=-1)  # rows of cofactors
    determinant = (gram[..., 0, :] * adjugate[..., 0, :]).sum(-1)
    minor = adjugate[..., 2, 2]
    inverse = adjugate / determinant[..., None, None]
    pivots = torch.stack([gram[..., 0, 0], minor / gram[..., 0, 0], determinant / minor], dim=-1)
    ratio = (pivots.amin(-1) / pivots.amax(-1)).sqrt()  # NaN where a pivot is not positive
    growth = inverse.square().sum((-2, -1)) * gram.square().sum((-2, -1))
    # cofactors cancel to an error of eps/det, more than κ²·eps where two singular values are small: two passes
    # leave (eps/det)², below eps where det > eps^½
    volume = determinant / gram.diagonal(dim1=-2, dim2=-1).amax(-1) ** 3
    ratio = torch.minimum(ratio, volume.clamp(min=0) ** (2 / 3))
    return (inverse * (s[..., None] * s[..., None, :]),), torch.minimum(ratio, growth**-0.25)


def _cholesky(gram: Tensor, scale: bool) -> tuple[Factor, Tensor]:
    L, info = torch.linalg.cholesky_ex(gram)
    if not scale:
        return (L,), torch.where(info == 0, 0.0, -1.0).to(L.dtype)
    # the eigenvalues of a matrix of unit diagonal sum to m, so that all but the least have a product below e, and
    # λ_min > det/e: a bound on κ² of m e/det
    pivots = L.diagonal(dim1=-2, dim2=-1) / gram.diagonal(dim1=-2, dim2=-1).sqrt()
    bound = pivots.prod(-1) / (math.e * max(gram.shape[-1], 1)) ** 0.5
    return (L,), bound.masked_fill_(info > 0, -1)


def sharpen(L: Tensor, bound: Tensor, scale: bool) -> Tensor:
    """An estimate of 1/κ from a Cholesky factor where the bound says too little; 0 where it has failed.

    Pivots alone can miss a small singular value by orders of magnitude; a step of inverse iteration from vectors
    without structure finds it.
    """
    if scale:
        L = L / torch.linalg.vector_norm(L, dim=-1, keepdim=True)
    found = torch.cholesky_solve(probes(L[..., 0]).expand(*L.shape[:-1], 3), L).square().sum((-2, -1))
    growth = found * L.square().sum(-1).square().sum(-1) / max(L.shape[-1], 1)
    estimate = torch.minimum(_spread(L.diagonal(dim1=-2, dim2=-1)), growth.clamp(min=1) ** -0.25)
    return torch.where(bound >= 0, estimate, 0)


def probes(like: Tensor) -> Tensor:
    """Three vectors without structure, (m, 3), in the dtype and on the device of a tensor (..., m)."""
    i = torch.arange(1, like.shape[-1] + 1, dtype=like.dtype, device=like.device)
    return torch.stack([(i.square() + 7 * k * i).cos() for k in range(3)], dim=-1)


def _qr(rows: Tensor, root: Tensor | None, s: Tensor) -> tuple[Factor, Tensor]:
    Q, R = torch.linalg.qr(rows.mT)
    return (_root_times(root, Q), R, s), _spread(R.diagonal(dim1=-2, dim2=-1).abs())


def _svd(rows: Tensor, root: Tensor | None, s: Tensor) -> tuple[Factor, Tensor]:
    finite = rows.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)  # LAPACK refuses the whole batch otherwise
    V, sigma, Ut = torch.linalg.svd(torch.where(finite, rows, 0), full_matrices=False)
    return (_root_times(root, Ut.mT), sigma, V, s), _spread(sigma)


def _spread(pivots: Tensor) -> Tensor:
    return pivots.amin(-1) / pivots.amax(-1) if pivots.shape[-1] else pivots.new_ones(pivots.shape[:-1])


def _inverse_root(diagonal: Tensor) -> Tensor:
    return torch.where(diagonal > 0, diagonal, 1).rsqrt()


def square_root(metric: Tensor | None) -> Tensor | None:
    """S with W = S Sᵀ: for a diagonal its square roots, else from the eigenvectors, as W may be singular."""
    if metric is None or metric.ndim == 1:
        return None if metric is None else metric.sqrt()
    values, vectors = torch.linalg.eigh(symmetric(metric))
    return vectors * values.clamp(min=0).sqrt()


def times_root(rows: Tensor, root: Tensor | None) -> Tensor:
    """Rows times S."""
    return weigh(root, rows)


def _root_times(root: Tensor | None, columns: Tensor) -> Tensor:
    if root is None:
        return columns
    return root[:, None] * columns if root.ndim == 1 else root @ columns


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector, over the batch: as a row times the transpose, for which batched products are fastest."""
    return (vector[..., None, :] @ matrix.mT)[..., 0, :]


def apply_transposed(matrix: Tensor, vector: Tensor) -> Tensor:
    """Transposed matrix times vector, over the batch."""
    return (vector[..., None, :] @ matrix)[..., 0, :]


def symmetric(metric: Tensor) -> Tensor:
    """The symmetric part of a weight, itself if it is diagonal."""
    return metric if metric.ndim == 1 else (metric + metric.mT) / 2


def weigh(metric: Tensor | None, x: Tensor) -> Tensor:
    """W applied to the last dimension."""
    if metric is None:
        return x
    return x * metric if metric.ndim == 1 else x @ metric
