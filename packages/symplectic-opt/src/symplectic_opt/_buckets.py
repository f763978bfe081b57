"""What moves in a step of an optimizer: parameters, gradients and buffers, sorted by where they lie."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

__all__ = ["Bucket", "buckets_of", "buffer_dtype", "local", "resting", "wide", "widest"]

foreach: Any = torch
WIDEST: dict[torch.device, torch.dtype] = {}


@dataclass
class Bucket:
    """Parameters of one group, device, dtype and sharding with their gradients and buffers, as local real tensors.

    `weight` is the group's w = C_g/C (lr_g/h)², `sharding` the mesh and placements of DTensors.
    """

    group: dict[str, Any]
    weight: Any
    sharding: tuple[Any, tuple[Any, ...]] | None = None
    parameters: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    buffers: list[Tensor] = field(default_factory=list)

    def prepare(self) -> None:
        """Make the gradients those of the function that is minimised, in the precision of the buffers."""
        group, dtype = self.group, self.buffers[0].dtype
        if self.gradients[0].dtype != dtype:
            self.gradients = [g.to(dtype) for g in self.gradients]
        if group["weight_decay"] and not group["decoupled"]:
            decay = -group["weight_decay"] if group["maximize"] else group["weight_decay"]
            self.gradients = list(foreach._foreach_add(self.gradients, self.parameters, alpha=decay))
        if group["maximize"]:
            self.gradients = list(foreach._foreach_neg(self.gradients))


def buckets_of(groups: list[dict[str, Any]], state: MutableMapping[Tensor, Any]) -> tuple[list[Bucket], bool]:
    """The buckets of all parameters that have a gradient, and whether these are all parameters.

    Raises
    ------
    RuntimeError
        If a gradient is sparse.
    """
    found: dict[Any, Bucket] = {}
    complete, lead = True, groups[0]
    for index, group in enumerate(groups):
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None or _is_held(group):
                complete = False
                continue
            if gradient.layout != torch.strided:
                raise RuntimeError(
                    "sparse gradients are not supported: every parameter moves in every step; use dense ones "
                    "(sparse=False) or another optimizer for these parameters"
                )
            entry = state[parameter]
            if not entry:
                entry["momentum"] = torch.zeros_like(parameter, dtype=buffer_dtype(parameter))
            sharding = None
            if isinstance(parameter, DTensor):
                sharding = parameter.device_mesh, parameter.placements
                gradient = gradient.redistribute(placements=parameter.placements)
            key = index, parameter.device, parameter.dtype, sharding
            if (bucket := found.get(key)) is None:
                weight = 1.0 if group is lead else group["C"] / lead["C"] * (wide(group["lr"]) / wide(lead["lr"])) ** 2
                bucket = found[key] = Bucket(group, weight, sharding)
            bucket.parameters.append(local(parameter))
            bucket.gradients.append(local(gradient))
            bucket.buffers.append(local(entry["momentum"]))
    for bucket in found.values():
        bucket.prepare()
    return list(found.values()), complete


def resting(groups: list[dict[str, Any]], state: MutableMapping[Tensor, Any]) -> list[Tensor]:
    """The buffers of parameters that do not move in this step."""
    still = [p for group in groups for p in group["params"] if p.grad is None or _is_held(group)]
    return [local(state[p]["momentum"]) for p in still if state.get(p)]


def _is_held(group: dict[str, Any]) -> bool:
    return not isinstance(group["lr"], Tensor) and group["lr"] == 0


def wide(x: Any) -> Any:
    """A tensor in the widest real numbers of its device; other numbers as they are."""
    return x.to(widest(x.device)) if isinstance(x, Tensor) else x


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has none."""
    if device not in WIDEST:
        try:
            WIDEST[device] = torch.zeros((), dtype=torch.float64, device=device).dtype
        except TypeError:
            WIDEST[device] = torch.float32
    return WIDEST[device]


def local(x: Tensor) -> Tensor:
    """The part of x that lies on this process, as a real tensor on the same memory."""
    x = x.to_local() if isinstance(x, DTensor) else x
    return torch.view_as_real(x) if x.is_complex() else x


def buffer_dtype(parameter: Tensor) -> torch.dtype:
    """At least float32: float16 overflows as momentum grows, and the recurrence of |Δ|² needs the digits."""
    return torch.promote_types(parameter.dtype, torch.float32)
