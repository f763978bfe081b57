"""What is said about constraint rows that are linearly dependent."""

import torch
from torch import Tensor

from pnde._factorisations import square_root, times_root, weigh
from pnde.solvers.solution import SampleError


class RankDeficientConstraintError(SampleError):
    """The rows of a constraint Jacobian are linearly dependent, so that the multipliers are not unique.

    Attributes
    ----------
    samples
        Which samples, as indices into the flattened batch.
    singular_values
        Those of W^½Gᵀ in the first of them, None if its entries or their squares are not finite.
    rows
        The rows that are zero there, or without weight, or else likely duplicates: those that take part in the
        dependency.
    """

    def __init__(
        self,
        message: str,
        samples: list[int] | None = None,
        singular_values: list[float] | None = None,
        rows: list[int] | None = None,
    ) -> None:
        super().__init__(message, samples)
        self.singular_values, self.rows = singular_values, rows or []


@torch.no_grad()
def rank_error(
    G: Tensor,
    metric: Tensor | None,
    samples: Tensor,
    remedy: str = "Drop the redundant rows, or pass rank='pinv'",
) -> RankDeficientConstraintError:
    """The error for matrices G (k, m, n), which are the `samples` (k,) of a batch, with the first diagnosed."""
    first, found = G[0].double(), samples.tolist()
    where = f"{len(found)} sample(s), first {found[:5]}"
    if not first.isfinite().all():
        message = f"the constraint rows of {where}, are not finite: the state has left the domain of the constraint"
        return RankDeficientConstraintError(message, found)
    if not (weigh(metric, G[0]) * G[0]).sum(-1).isfinite().all():
        message = (
            f"the squared lengths of the constraint rows of {where}, overflow: divide the constraints by their size"
        )
        return RankDeficientConstraintError(message, found)
    weight = None if metric is None else metric.double()
    rows = times_root(first, square_root(weight))
    values = torch.linalg.svdvals(rows)
    unsupported = rows_without_support(first, weight)
    if unsupported:
        message = (
            f"G W Gᵀ is singular in {where}: the rows {unsupported} have no weighted support, W Gᵀ is zero there. "
            "Drop these rows; regularising would only hide that no admissible step meets them"
        )
        return RankDeficientConstraintError(message, found, values.tolist(), unsupported)
    zero = (rows == 0).all(-1).nonzero()[:, 0].tolist()
    if zero:
        message = (
            f"the constraint rows {zero} are zero in {where}: these constraints have no gradient there, as at an "
            "equilibrium. Leave such states, or these rows, out"
        )
        return RankDeficientConstraintError(message, found, values.tolist(), zero)
    lengths = torch.where(rows.norm(dim=-1) > 0, rows.norm(dim=-1), 1)
    null = torch.linalg.svd(rows / lengths[:, None])[0][:, -1].abs()
    partners = (null > 0.1 * null.amax()).nonzero()[:, 0].tolist()
    message = (
        f"the constraint rows are linearly dependent in {where}; singular values there: {values.tolist()}, and the "
        f"rows that depend on each other: {partners}. {remedy}"
    )
    return RankDeficientConstraintError(message, found, values.tolist(), partners)


@torch.no_grad()
def rows_without_support(G: Tensor, metric: Tensor | None) -> list[int]:
    """Rows that are not zero, but whose weighted length is, in any sample of G (..., m, n)."""
    if metric is None:
        return []
    squared, lengths = (weigh(metric, G) * G).sum(-1), G.square().sum(-1)
    rounding = 8 * G.shape[-1] * torch.finfo(G.dtype).eps * metric.abs().amax()
    bare = (squared.abs() <= rounding * lengths) & (lengths > 0)
    return bare.reshape(-1, G.shape[-2]).any(0).nonzero()[:, 0].tolist()
