"""Cholesky factorisation of a banded Gram matrix: O(m) steps for chains, where a row meets its neighbours only.

Bands are stored by columns with the batch last, (m, k+1, ...): each step is one operation on the whole batch.
"""

from typing import NamedTuple

import numpy as np
import torch
from sciml.errors import ConfigError
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor


class Banded(NamedTuple):
    """Rows taken in `order` have a Gram matrix with `bandwidth` entries on either side of the diagonal.

    Entries outside the band are taken to be zero. Of a constraint with a `band` of its own, as `PendulumConstraint`
    has, that holds at every state; where values can be read it is checked.
    """

    bandwidth: int
    order: tuple[int, ...]


@torch.no_grad()
def detect_band(G: Tensor, metric: Tensor | None = None) -> Banded:
    """The order of rows of G (..., m, n) by the reverse Cuthill–McKee algorithm, and the bandwidth found with it.

    Every sample counts: two rows are neighbours when they share a component in which neither is zero throughout. Rows
    that vanish at special states have more neighbours elsewhere: those of a pendulum at rest give too narrow a band.
    """
    pattern = (G != 0).reshape(-1, *G.shape[-2:]).any(0).cpu().numpy().astype(np.int64)
    support = np.eye(G.shape[-1], dtype=np.int64) if metric is None else (metric != 0).cpu().numpy().astype(np.int64)
    gram = (pattern * support if support.ndim == 1 else pattern @ support) @ pattern.T != 0
    order = reverse_cuthill_mckee(csr_array(gram), symmetric_mode=True)
    i, j = np.nonzero(gram[np.ix_(order, order)])
    return Banded(int(np.abs(i - j).max(initial=0)), tuple(int(row) for row in order))


@torch.no_grad()
def check_band(G: Tensor, metric: Tensor | None, band: Banded) -> None:
    """ConfigError if rows of G (..., m, n) that are further apart than the bandwidth have a product G W Gᵀ."""
    place = torch.tensor(band.order, device=G.device).argsort()
    far = (place[:, None] - place).abs() > band.bandwidth
    weighted = G if metric is None else G * metric if metric.ndim == 1 else G @ metric
    shared = [(rows != 0).reshape(-1, *rows.shape[-2:]).any(0).to(torch.float32) for rows in (G, weighted)]
    i, j = (far & (shared[0] @ shared[1].mT > 0)).nonzero(as_tuple=True)
    if not len(i):
        return
    squared = (G * weighted).sum(-1)
    products = (G[..., i, :] * weighted[..., j, :]).sum(-1).abs()
    rounding = 8 * G.shape[-1] * torch.finfo(G.dtype).eps * (squared[..., i] * squared[..., j]).clamp(min=0).sqrt()
    outside = (products > rounding).reshape(-1, len(i)).any(0).nonzero()[:, 0]
    if len(outside):
        pair = [int(i[outside[0]]), int(j[outside[0]])]
        raise ConfigError(
            f"the rows {pair} of G have a product, but are {int((place[pair[0]] - place[pair[1]]).abs())} apart in a "
            f"band of width {band.bandwidth}: the band was found where some of their entries vanish. Take the "
            "constraint's own band, as PendulumConstraint.band, method='banded', or detect_band at general states"
        )


def factorise(G: Tensor, weighted: Tensor, scale: bool, band: Banded) -> tuple[tuple[Tensor, ...], Tensor]:
    """L (m, k+1, ...) with s_i A_ij s_j = L Lᵀ, the scale s (m, ...), the order, and the ratio of pivots."""
    k, m = band.bandwidth, G.shape[-2]
    order = torch.tensor(band.order, device=G.device)
    rows = G.index_select(-2, order)
    weighted = rows if weighted is G else weighted.index_select(-2, order)
    diagonals = [(rows[..., : m - d, :] * weighted[..., d:, :]).sum(-1) for d in range(k + 1)]
    A = torch.stack([torch.nn.functional.pad(x, (0, m - x.shape[-1])) for x in diagonals], dim=-1)
    A = A.movedim((-2, -1), (0, 1)).contiguous()
    s = torch.where(A[:, 0] > 0, A[:, 0], 1).rsqrt() if scale else torch.ones_like(A[:, 0])
    columns = []
    for i in range(m):
        neighbours = s[i : i + k + 1]
        columns.append(torch.cat([A[i, : len(neighbours)] * neighbours * s[i], A[i, len(neighbours) :]]))
    for i, column in enumerate(columns):
        column /= column[:1].sqrt()  # a pivot that is not positive makes NaN of the rest
        for d in range(1, min(k, m - 1 - i) + 1):
            columns[i + d][: k + 1 - d] -= column[d] * column[d:]
    L = torch.stack(columns)
    pivots = L[:, 0]
    return (L, s, order), pivots.amin(0) / pivots.amax(0)


def solve(factor: tuple[Tensor, ...], residual: Tensor) -> Tensor:
    """A⁻¹ r by forward and back substitution."""
    L, s, order = factor
    m, k = L.shape[0], L.shape[1] - 1
    x = residual[..., order].movedim(-1, 0) * s
    for i in range(m):
        x[i] /= L[i, 0]
        if width := min(k, m - 1 - i):
            x[i + 1 : i + 1 + width] -= L[i, 1 : 1 + width] * x[i]
    for i in reversed(range(m)):
        if width := min(k, m - 1 - i):
            x[i] -= (L[i, 1 : 1 + width] * x[i + 1 : i + 1 + width]).sum(0)
        x[i] /= L[i, 0]
    return (x * s).movedim(0, -1)[..., order.argsort()]
