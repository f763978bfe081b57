"""The passes over memory of an optimizer's step, tensor by tensor or by `foreach._foreach`."""

from typing import Any

import torch
from torch import Tensor

from symplectic_opt._buckets import Bucket

__all__ = ["add", "move_on_device", "scale", "zero"]

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


def move_on_device(
    bucket: Bucket, valid: Tensor, moves: Tensor, mu: Tensor, kick: Tensor, drift: Any, decay: Any
) -> None:
    """r ← μ r + kick G, q ← decay q + drift r where `valid`, with 0-dim tensors for numbers; else nothing changes.

    Of a group that does not move r ← μ r is all. Even gradients that are NaN leave no trace where they do not count.
    """
    device = bucket.parameters[0].device
    valid, moves, mu, kick = valid.to(device), (valid & moves).to(device), mu.to(device), kick.to(device)
    kicks = foreach._foreach_mul(bucket.gradients, kick)
    stays = ~moves
    for change in kicks:
        change.masked_fill_(stays, 0.0)
    foreach._foreach_mul_(bucket.buffers, torch.where(valid, mu, 1.0))
    foreach._foreach_add_(bucket.buffers, kicks)
    changes = foreach._foreach_mul(bucket.buffers, torch.where(moves, drift, 0.0))
    if decay is not None:
        foreach._foreach_mul_(bucket.parameters, torch.where(valid, decay, 1.0))
    foreach._foreach_add_(bucket.parameters, changes)
