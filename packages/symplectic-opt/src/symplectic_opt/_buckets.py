"""What moves in a step of an optimizer: parameters, gradients and buffers, sorted by where they lie."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import torch
from sciml.precision import widest
from torch import Tensor
from torch.distributed.tensor import DTensor

__all__ = ["Bucket", "Buckets", "buffer_dtype", "is_held", "local", "wide"]

foreach: Any = torch
Groups = list[dict[str, Any]]
State = MutableMapping[Tensor, Any]


@dataclass
class Bucket:
    """Parameters of one group, device, dtype and sharding with their gradients and buffers, as local real tensors.

    `owners` are the parameters as they were given, `sharding` the mesh and placements of DTensors.
    """

    group: dict[str, Any]
    sharding: tuple[Any, tuple[Any, ...]] | None = None
    owners: list[Tensor] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)
    buffers: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)

    def with_gradients(self) -> "Bucket":
        """The bucket with the gradients of the function that is minimised, in the precision of the buffers."""
        group, dtype = self.group, self.buffers[0].dtype
        gradients: list[Any] = [p.grad for p in self.owners]
        if self.sharding is not None:
            gradients = [g.redistribute(placements=self.sharding[1]) for g in gradients]
        gradients = [local(g) for g in gradients]
        if gradients[0].dtype != dtype:
            gradients = [g.to(dtype) for g in gradients]
        if group["weight_decay"] and not group["decoupled"]:
            decay = -group["weight_decay"] if group["maximize"] else group["weight_decay"]
            gradients = list(foreach._foreach_add(gradients, self.parameters, alpha=decay))
        if group["maximize"]:
            gradients = list(foreach._foreach_neg(gradients))
        return Bucket(group, self.sharding, self.owners, self.parameters, self.buffers, gradients)


class Buckets:
    """All parameters that have a gradient, in buckets; `resting` are the buffers of the others, which do not move.

    Raises
    ------
    RuntimeError
        If a gradient is sparse.
    """

    def __init__(self, groups: Groups, state: State) -> None:
        found: dict[Any, Bucket] = {}
        still = []
        for index, group in enumerate(groups):
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None or is_held(group):
                    still.append(parameter)
                    continue
                if gradient.layout != torch.strided:
                    raise RuntimeError(
                        "sparse gradients are not supported: every parameter moves in every step; use dense ones "
                        "(sparse=False) or another optimizer for these parameters"
                    )
                if not (entry := state[parameter]):
                    entry["momentum"] = torch.zeros_like(parameter, dtype=buffer_dtype(parameter.dtype))
                sharded = isinstance(parameter, DTensor)
                sharding = (parameter.device_mesh, parameter.placements) if sharded else None
                key = index, parameter.device, parameter.dtype, sharding
                if (bucket := found.get(key)) is None:
                    bucket = found[key] = Bucket(group, sharding)
                bucket.owners.append(parameter)
                bucket.parameters.append(local(parameter))
                bucket.buffers.append(local(entry["momentum"]))
        self.buckets, self.complete = list(found.values()), not still
        self.resting = [local(state[p]["momentum"]) for p in still if state.get(p)]

    def keep(self, groups: Groups, state: State) -> "Buckets | None":
        """These, for `lasts` to ask; None of DTensors and complex numbers, whose local parts are made anew."""
        if any(b.sharding is not None or b.parameters[0] is not b.owners[0] for b in self.buckets):
            return None
        self.made_for = _signature(groups), state, _buffers(state)
        return self

    def lasts(self, groups: Groups, state: State) -> bool:
        """Whether parameters, buffers and the kinds of gradients are still those that the buckets were made for."""
        (parameters, *kinds), table, buffers = self.made_for
        (now, *others) = _signature(groups)
        return state is table and kinds == others and _same(parameters, now) and _same(buffers, _buffers(state))


def _signature(groups: Groups) -> tuple[list[Tensor], list[Any], list[bool]]:
    parameters = [p for group in groups for p in group["params"]]
    kinds = [(p.dtype, p.device, None if (g := p.grad) is None else (g.device, g.layout)) for p in parameters]
    return parameters, kinds, [is_held(group) for group in groups]


def _buffers(state: State) -> list[Any]:
    return [entry.get("momentum") for entry in state.values()]


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


def is_held(group: dict[str, Any]) -> bool:
    """Whether the group's lr is zero, which a device is not asked."""
    lr = group["lr"]
    return not (group["capturable"] and isinstance(lr, Tensor)) and bool(lr == 0)


def wide(x: Any) -> Any:
    """A tensor in the widest real numbers of its device; other numbers as they are."""
    return x.to(widest(x.device)) if isinstance(x, Tensor) else x


def local(x: Tensor) -> Tensor:
    """The part of x that lies on this process, as a real tensor on the same memory."""
    x = x.to_local() if isinstance(x, DTensor) else x
    return torch.view_as_real(x) if x.is_complex() else x


def buffer_dtype(dtype: torch.dtype) -> torch.dtype:
    """At least float32: float16 overflows as momentum grows, and the recurrence of |Δ|² needs the digits."""
    return torch.promote_types(dtype, torch.float32)
