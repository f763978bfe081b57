"""Sparse constraint rows: the Gram matrix and its factors by SciPy on the CPU, products and derivatives by torch."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from pnde._factorisations import probes


class SparseJacobian:
    """Constraint rows (*batch, m, n) with one sparsity pattern: entries `values` (*batch, nnz) at (rows, columns).

    Differentiable in `values` to every order. Torch's own sparse tensors are taken too, but torch differentiates
    their values once only.
    """

    def __init__(self, values: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> None:
        if rows.shape != columns.shape or rows.ndim != 1 or values.ndim < 1 or values.shape[-1] != len(rows):
            raise ValueError(
                f"rows and columns must be (nnz,) and values (..., nnz); got {tuple(rows.shape)}, "
                f"{tuple(columns.shape)} and {tuple(values.shape)}"
            )
        for name, index, size in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
            if len(index) and not bool((index.amin() >= 0) & (index.amax() < size)):
                raise ValueError(f"{name} must lie in 0 … {size - 1}; got {int(index.amin())} … {int(index.amax())}")
        self.values, self.pattern = values, Pattern(rows, columns, *shape)

    @classmethod
    def from_tensor(cls, G: Tensor) -> "SparseJacobian":
        """Entries of a sparse COO matrix (m, n), or of CSR matrices (..., m, n) that share their pattern."""
        m, n = G.shape[-2:]
        if G.layout == torch.sparse_coo:
            if G.dense_dim() or G.ndim != 2:
                raise ValueError(f"a sparse COO matrix must be (m, n); got {tuple(G.shape)}; a batch can be CSR")
            G = G.coalesce()
            rows, columns = G.indices().unbind(0)
            return cls(G.values(), rows, columns, (m, n))
        if G.layout != torch.sparse_csr:
            raise ValueError(f"G must be dense, sparse COO or sparse CSR; got {G.layout}")
        crow, columns = G.crow_indices().reshape(-1, m + 1), G.col_indices().reshape(-1, G.col_indices().shape[-1])
        if not bool((crow == crow[:1]).all() & (columns == columns[:1]).all()):
            raise ValueError("all matrices of a sparse batch must share their pattern; give the union, with zeros")
        rows = torch.arange(m, device=G.device).repeat_interleave(crow[0].diff())
        return cls(G.values(), rows, columns[0], (m, n))


@dataclass(frozen=True)
class Pattern:
    """Where the entries are, with the products that need only that."""

    rows: Tensor
    columns: Tensor
    m: int
    n: int

    def apply(self, values: Tensor, x: Tensor) -> Tensor:
        """G x."""
        terms = values * x[..., self.columns]
        return terms.new_zeros((*terms.shape[:-1], self.m)).index_add(-1, self.rows, terms)

    def apply_transposed(self, values: Tensor, y: Tensor) -> Tensor:
        """Gᵀ y."""
        terms = values * y[..., self.rows]
        return terms.new_zeros((*terms.shape[:-1], self.n)).index_add(-1, self.columns, terms)

    def outer(self, y: Tensor, x: Tensor) -> Tensor:
        """y xᵀ at the entries."""
        return y[..., self.rows] * x[..., self.columns]


class SparseFactor:
    """LU factors of the scaled Gram matrices of a batch, in float64.

    `ratio` are estimates of 1/κ(W^½Gᵀ) by pivots and a step of inverse iteration, as of `_factorisations.sharpen`.
    """

    def __init__(self, values: Tensor, pattern: Pattern, metric: Tensor | None, scale: bool) -> None:
        entries = values.detach().double().cpu().numpy().reshape(math.prod(values.shape[:-1]), values.shape[-1])
        index = (pattern.rows.cpu().numpy(), pattern.columns.cpu().numpy())
        W = None if metric is None else metric.detach().double().cpu().numpy()
        weight = None if W is None else diags_array(W) if W.ndim == 1 else csr_array(W)
        self.factors: list[SuperLU | None] = []
        self.scales = np.ones((len(entries), pattern.m))
        ratios = np.zeros(len(entries))
        starts = probes(torch.ones(pattern.m, dtype=torch.float64)).numpy()
        for i, entry in enumerate(entries):
            G = csr_array((entry, index), shape=(pattern.m, pattern.n))
            gram = (G if weight is None else G @ weight) @ G.T
            diagonal = gram.diagonal()
            if scale:
                self.scales[i] = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
            S = diags_array(self.scales[i])
            scaled = (S @ gram @ S).tocsc()
            self.factors.append(None)
            if not np.isfinite(entry).all():
                continue
            try:  # symmetric positive definite: pivots on the diagonal, an order that keeps the factor sparse
                factor = splu(
                    scaled,
                    permc_spec="MMD_AT_PLUS_A",
                    diag_pivot_thresh=0.0,
                    options={"SymmetricMode": True},
                )
            except RuntimeError:  # exactly singular
                continue
            pivots = factor.U.diagonal()
            self.factors[-1] = factor
            if not pattern.m:
                ratios[i] = 1
                continue
            growth = np.square(factor.solve(starts)).sum() * np.square(scaled.diagonal()).mean()
            ratios[i] = min(np.sqrt(max(pivots.min() / pivots.max(), 0)), max(growth, 1) ** -0.25)
        self.ratio = torch.from_numpy(ratios).reshape(values.shape[:-1])

    def solve(self, residual: Tensor) -> Tensor:
        """A⁻¹ r for r (*batch, m) on the batch that was factorised, or (*more, *batch, m)."""
        if not residual.numel():
            return torch.zeros_like(residual)
        flat = residual.detach().double().cpu().numpy().reshape(-1, len(self.factors), residual.shape[-1])
        solution = np.empty_like(flat)
        for i, (factor, s) in enumerate(zip(self.factors, self.scales, strict=True)):
            if factor is None:
                solution[:, i] = np.nan
            else:
                solution[:, i] = (s[:, None] * factor.solve(np.ascontiguousarray((flat[:, i] * s).T))).T
        return torch.from_numpy(solution).reshape(residual.shape).to(residual)
