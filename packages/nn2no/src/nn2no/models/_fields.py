"""What the models share: types by name, the check of their inputs, and a function to sample for their examples."""

import math
from collections.abc import Sequence

import torch
from sciml.errors import ConfigError, ShapeError
from torch import Tensor


def real_type(name: str) -> torch.dtype:
    """float32 or float64 by name. ConfigError for others."""
    if name not in ("float32", "float64"):
        raise ConfigError(f"dtype={name!r}; choose 'float32' or 'float64'.")
    return getattr(torch, name)


def check_field(f: Tensor, channels: int, dim: int) -> None:
    """ShapeError unless `f` is a real field with so many channels and axes."""
    if f.ndim != dim + 2 or f.shape[1] != channels or not f.dtype.is_floating_point:
        space = ", ".join(f"n{i + 1}" for i in range(dim))
        raise ShapeError(f"Expected a real field (batch, {channels}, {space}); got {tuple(f.shape)} of {f.dtype}.")


def sample_field(shape: Sequence[int], *, batch: int = 2, periodic: bool = True) -> Tensor:
    """(batch, 1, *shape): smooth functions of period one, the same ones at every resolution."""
    ends = [n if periodic else n - 1 for n in shape]
    axes = [torch.arange(n, dtype=torch.float64) / end for n, end in zip(shape, ends, strict=True)]
    x = torch.meshgrid(*axes, indexing="ij")
    samples = []
    for b in range(batch):
        phases = [2 * math.pi * (b + 1) * axis + 0.3 * b + i for i, axis in enumerate(x)]
        samples.append(torch.stack([p.sin() for p in phases]).sum(0) + torch.stack([p.cos() for p in phases]).prod(0))
    return torch.stack(samples)[:, None].float()
