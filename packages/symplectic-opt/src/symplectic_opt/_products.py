"""Scalar products over all parameters of an optimizer, wherever these lie."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate

from symplectic_opt._buckets import Bucket, wide
from symplectic_opt._motion import Products

__all__ = ["NOT_FINITE", "combine", "products", "read"]

NOT_FINITE = (
    "a gradient is NaN or infinite{}; parameters and state are unchanged. Lower lr, clip gradients, or look at the data"
)

LARGE, TOGETHER = 2**12, 64  # entries of a tensor that is not worth a copy, and tensors that are copied together
foreach: Any = torch


def products(bucket: Bucket, squares: bool, dtype: torch.dtype | None = None) -> Tensor:
    """|G|², G·r and, with `squares`, |r|², of gradients G and buffers r over all processes: (2,) or (3,) in float64.

    They are accumulated in the buffers' dtype, or in `dtype`.
    """
    gradients, buffers = bucket.gradients, bucket.buffers
    if dtype is not None:
        gradients, buffers = [g.to(dtype) for g in gradients], [r.to(dtype) for r in buffers]
    sums = [_squares(gradients), _dot(gradients, buffers)]
    if squares:
        sums.append(_squares(buffers))
    found = torch.stack(sums)
    if bucket.sharding is None:
        return found
    mesh, placements = bucket.sharding
    parts = [Replicate() if placement.is_replicate() else Partial() for placement in placements]
    return DTensor.from_local(found, mesh, parts, run_check=False).full_tensor()


def read(buckets: list[Bucket], squares: bool, loss: Any) -> tuple[list[list[float]], float]:
    """The products of each bucket and the loss, by one transfer from the device.

    Raises
    ------
    FloatingPointError
        If a gradient or the loss is not finite.
    """
    rows, value = _transfer([products(bucket, squares) for bucket in buckets], loss)
    # products leave the range of float32 before gradients do; all processes must ask the same buckets again
    doubtful = [i for i, row in enumerate(rows) if not all(map(math.isfinite, row)) or row[0] <= 1e-30]
    if doubtful:
        wide, _ = _transfer([products(buckets[i], squares, torch.float64) for i in doubtful], None)
        for i, row in zip(doubtful, wide, strict=True):
            rows[i] = row
    if not all(math.isfinite(x) for row in rows for x in row):
        raise FloatingPointError(NOT_FINITE.format(" in this step"))
    if math.isnan(value):
        raise FloatingPointError("the loss is NaN; parameters and state are unchanged")
    return rows, value


def _transfer(found: list[Tensor], loss: Any) -> tuple[list[list[float]], float]:
    columns, device = len(found[0]), found[0].device
    terms = [*found]
    if isinstance(loss, Tensor):
        terms.append(loss.detach().reshape(1))
    numbers = torch.cat([x.to(device, found[0].dtype) for x in terms]).tolist()
    rows = [numbers[i : i + columns] for i in range(0, columns * len(found), columns)]
    return rows, numbers[-1] if isinstance(loss, Tensor) else float(loss or 0.0)


def combine(rows: list[Any], weights: list[Any], scale: Any, square: Any) -> Products:
    """Products with Δ = scale r; |Δ|² as given where rows lack it."""
    pairs = list(zip(rows, weights, strict=True))
    return Products(
        slope=scale * sum(row[1] for row in rows),
        kicked_slope=scale * sum(w * row[1] for row, w in pairs),
        kicked_square=sum(w * row[0] for row, w in pairs),
        kick_square=sum(w * w * row[0] for row, w in pairs),
        square=scale**2 * sum(row[2] for row in rows) if len(rows[0]) > 2 else square,
    )


def _squares(tensors: list[Tensor]) -> Tensor:
    norms = foreach._foreach_norm(tensors)
    return wide(norms[0] if len(norms) == 1 else torch.stack(norms)).square().sum()


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Σ a·b; small tensors are copied into one, since a call for each would take longer."""
    large = [x.numel() > LARGE or len(a) == 1 for x in a]
    terms = [_dot_of_one(x, y) for x, y, alone in zip(a, b, large, strict=True) if alone]
    small = [[x for x, alone in zip(tensors, large, strict=True) if not alone] for tensors in (a, b)]
    for i in range(0, len(small[0]), TOGETHER):
        terms.append(torch.dot(*(foreach._C._nn.flatten_dense_tensors(x[i : i + TOGETHER]) for x in small)))
    return wide(terms[0] if len(terms) == 1 else torch.stack(terms)).sum()


def _dot_of_one(a: Tensor, b: Tensor) -> Tensor:
    if a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.view(-1), b.view(-1))
    return (a * b).sum()
