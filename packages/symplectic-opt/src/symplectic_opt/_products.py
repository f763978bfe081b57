"""Scalar products over all parameters of an optimizer, wherever these lie."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate

from symplectic_opt._buckets import Bucket, wide
from symplectic_opt._motion import Products

__all__ = ["NOT_FINITE", "combine", "combine_on_device", "pieces", "products", "read"]

NOT_FINITE = (
    "a gradient is NaN or infinite{}; parameters and state are unchanged. Lower lr, clip gradients, or look at the data"
)

LARGE, TOGETHER = 2**12, 64  # entries of a tensor that is not worth a copy, and tensors that are copied together
ALONE, COPIED = 2**22, 2**24  # the like on an accelerator, where a call costs as much as a copy, in entries both
foreach: Any = torch


def products(bucket: Bucket, squares: bool, dtype: torch.dtype | None = None) -> Tensor:
    """|G|², G·r and, with `squares`, |r|², of gradients G and buffers r over all processes: (2,) or (3,) in float64.

    They are accumulated in the buffers' dtype, or in `dtype`.
    """
    gradients, buffers = bucket.gradients, bucket.buffers
    if dtype is not None:
        gradients, buffers = [g.to(dtype) for g in gradients], [r.to(dtype) for r in buffers]
    if gradients[0].device.type == "cpu":
        sums = [_squares(gradients), _dot(gradients, buffers)]
        if squares:
            sums.append(_squares(buffers))
        found = torch.stack(sums)
    else:
        found = _in_few_calls(gradients, buffers, squares)
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
    terms = [x.to(device, found[0].dtype) for x in terms]
    numbers = (terms[0] if len(terms) == 1 else torch.cat(terms)).tolist()
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


def combine_on_device(rows: list[Tensor], weights: list[Any]) -> tuple[Products, Tensor]:
    """Products with Δ = r and, as (3,), kick_square, kicked_slope and square: a number of calls that does not grow."""

    def total(factors: list[Any] | None = None) -> Tensor:
        terms = rows if factors is None else foreach._foreach_mul(rows, factors)
        return terms[0] if len(terms) == 1 else torch.stack(list(terms)).sum(0)

    plain = once = twice = together = total()
    if any(isinstance(w, Tensor) or w != 1 for w in weights):
        once, twice = total(weights), total([w * w for w in weights])
        together = torch.stack([twice[0], once[1], plain[2]])
    return Products(plain[1], once[1], once[0], twice[0], plain[2]), together


def pieces(lists: list[list[Tensor]]) -> Iterator[tuple[slice, list[Tensor]]]:
    """Slices of lists of tensors of the same shapes, with what they hold as one flat tensor a list.

    A large tensor is a piece, by itself; small ones are copied together.
    """
    sizes = [x.numel() for x in lists[0]]
    start = 0
    while start < len(sizes):
        stop, held = start + 1, sizes[start]
        while stop < len(sizes) and sizes[start] < ALONE and sizes[stop] < ALONE and held + sizes[stop] <= COPIED:
            held, stop = held + sizes[stop], stop + 1
        one = slice(start, stop)
        if stop == start + 1:
            yield one, [tensors[start].reshape(-1) for tensors in lists]
        else:
            flat = foreach._C._nn.flatten_dense_tensors([x for tensors in lists for x in tensors[one]])
            yield one, list(flat.view(len(lists), held).unbind())
        start = stop


def _in_few_calls(gradients: list[Tensor], buffers: list[Tensor], squares: bool) -> Tensor:
    sums = []
    for _, (flat, other) in pieces([gradients, buffers]):
        for g, r in zip(flat.split(2**30), other.split(2**30), strict=True):  # more entries `dot` does not take
            sums += [torch.dot(g, g), torch.dot(g, r)]
            if squares:
                sums.append(torch.dot(r, r))
    columns = 3 if squares else 2
    found = torch.stack(sums)
    return wide(found) if len(sums) == columns else wide(found).view(-1, columns).sum(0)


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
