"""The passes over memory of an optimizer's step, tensor by tensor or by `foreach._foreach`."""

from typing import Any

import torch
from torch import Tensor

from symplectic_opt._buckets import Bucket
from symplectic_opt._products import pieces

__all__ = ["add", "move_on_device", "rest_on_device", "scale", "zero"]

foreach: Any = torch


def add(targets: list[Tensor], others: list[Tensor], factor: float, together: bool) -> None:
    """x ← x + factor y."""
    if together:
        foreach._foreach_add_(targets, others, alpha=factor)
    else:
        for x, y in zip(targets, others, strict=True):
            x.add_(y, alpha=factor)


def scale(targets: list[Tensor], factor: Any, together: bool) -> None:
    """x ← factor x."""
    if together:
        foreach._foreach_mul_(targets, factor)
    else:
        for x in targets:
            x.mul_(factor)


def zero(targets: list[Tensor], together: bool) -> None:
    """x ← 0."""
    if together:
        foreach._foreach_zero_(targets)
    else:
        for x in targets:
            x.zero_()


def rest_on_device(buffers: list[Tensor], mu: Tensor) -> None:
    """r ← μ r of buffers anywhere, by a call for each device and dtype."""
    alike: dict[Any, list[Tensor]] = {}
    for buffer in buffers:
        alike.setdefault((buffer.device, buffer.dtype), []).append(buffer)
    for (device, dtype), found in alike.items():
        foreach._foreach_mul_(found, mu.to(device, dtype))


def move_on_device(bucket: Bucket, moves: Tensor, mu: Tensor, kick: Tensor, decay: Any) -> None:
    """r ← μ r + kick G, q ← decay q + r, with 0-dim tensors for numbers; of a bucket that does not move r ← μ r is all.

    Even gradients that are NaN leave no trace where they do not count. What is made on the way is as large as `pieces`.
    """
    device, dtype = bucket.buffers[0].device, bucket.buffers[0].dtype  # another dtype would cost a call a tensor
    stays, drift = (~moves).to(device), moves.to(device, dtype)
    mu, kick = mu.to(device, dtype), kick.to(device)
    shrink = None if decay is None else (1 + drift * (decay - 1)).to(dtype)
    for part, (flat,) in pieces([bucket.gradients]):
        buffers, parameters = bucket.buffers[part], bucket.parameters[part]
        change = (flat * kick).masked_fill_(stays, 0.0)
        foreach._foreach_mul_(buffers, mu)
        foreach._foreach_add_(buffers, unflatten(change, buffers))
        if shrink is not None:
            foreach._foreach_mul_(parameters, shrink)
        foreach._foreach_add_(parameters, foreach._foreach_mul(buffers, drift))


def unflatten(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Parts of a flat tensor in the shapes of others."""
    if len(like) == 1:
        return [flat.view(like[0].shape)]
    return list(foreach._C._nn.unflatten_dense_tensors(flat, like))
