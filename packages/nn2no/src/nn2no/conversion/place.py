"""The grid that a pass of a network happens on, and what tensors are on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from nn2no.conversion.trace import Call
from nn2no.errors import ConversionError
from nn2no.local import PaddingMode, along
from nn2no.pool import hat_means
from nn2no.resample import interpolate_along
from nn2no.scale import Ends, Scale, refined_size


class OffGridError(ConversionError):
    """A tensor of neither the base size nor the refined one: something before the call does not follow the grid."""


@dataclass(frozen=True)
class Options:
    """How `convert` was asked to treat each kind of layer."""

    conv: str
    norm: str
    attention: str
    pool: str
    patch: str | tuple[str, ...]
    activation: str
    padding_mode: str | None


@dataclass(frozen=True)
class Border:
    """What a padded tensor was made of: the field on a grid finer by `scale`, and widths of the base grid."""

    padded: Tensor
    field: Tensor
    scale: Scale
    widths: list[tuple[int, int]]
    mode: PaddingMode
    version: int

    @property
    def intact(self) -> bool:
        """Whether the padded tensor was not changed since."""
        return self.padded._version == self.version


@dataclass
class Place:
    """Where a pass happens: the scale of its grid to the base grid, and what kind of axes both have."""

    base: tuple[int, ...]
    scale: Scale
    ends: Ends
    periodic: tuple[bool, ...]
    options: Options
    batch: int = 1
    weighted: frozenset[str] = frozenset()  # which of "sums" and "indices" count the points of the base grid
    at_nodes: tuple[bool, ...] = (True,) * 3  # whether periodic axes have a node, or a cell, where they begin
    borders: dict[int, Border] = field(default_factory=dict)  # by the identity of the padded tensor

    @property
    def dim(self) -> int:
        return len(self.base)

    def refined(self, n: int, axis: int) -> int:
        """The size of an axis on this grid that has `n` nodes on the base grid."""
        return refined_size(n, self.scale[axis], self.ends[axis])

    def scale_of(self, call: Call, x: Tensor) -> Scale | None:
        """The scale of the tensor that a call is given, axis by axis; None if it is as on the base grid.

        An axis of the base size holds no points of the field, such as the result of a readout.

        Raises
        ------
        OffGridError
            The tensor has neither the base size nor the refined one.
        """
        n0, n = call.shape[2:], tuple(x.shape[2:])
        if n == n0:
            return None
        if len(n0) != self.dim or len(n) != self.dim:
            raise OffGridError(
                f"{call.path or 'the network'}: the {call.kind} of {call.shape} on the base grid gets {tuple(x.shape)} "
                f"here, but only tensors (batch, channel, *space) with {self.dim} axes are functions on the grid."
            )
        found = []
        for axis, (a, b) in enumerate(zip(n0, n, strict=True)):
            if b == a:
                found.append(Fraction(1))
            elif self.scale[axis] * (a - self.ends[axis]) + self.ends[axis] == b:
                found.append(self.scale[axis])
            else:
                raise OffGridError(
                    f"{call.path or 'the network'}: the {call.kind} of an axis of {a} nodes gets {b} nodes at scale "
                    f"{float(self.scale[axis]):g}; some operation before it does not follow the grid."
                )
        return tuple(found)

    def modes(self, padded: Sequence[bool], mode: PaddingMode = "zeros") -> list[PaddingMode]:
        """How each axis is continued: as the layer says, but periodically where it reads nothing beyond the ends."""
        override = self.options.padding_mode == "circular"
        around = [
            wrap and mode == "zeros" and (override or not border)
            for wrap, border in zip(self.periodic, padded, strict=True)
        ]
        return ["circular" if wraps else mode for wraps in around]


def to_base(x: Tensor, s: Scale, ends: Ends) -> Tensor:
    """The means of a field over the hats of the nodes of the base grid."""
    for axis, (si, end) in enumerate(zip(s, ends, strict=True), start=2):
        if si == 1:
            continue
        n = x.shape[axis]
        n0 = refined_size(n, 1 / si, end)
        x = along(x, axis, torch.as_tensor(hat_means(n, n0, si, end)).to(x))
    return x


def from_base(x: Tensor, size: list[int], s: Scale, periodic: tuple[bool, ...]) -> Tensor:
    """The piecewise linear function with these values at the nodes of the base grid."""
    for axis, (n, si, wrap) in enumerate(zip(size, s, periodic, strict=True), start=2):
        n0 = x.shape[axis]
        if n == n0:
            continue
        position = torch.arange(n, dtype=torch.float64) / float(si)
        x = interpolate_along(x, axis, position if wrap else position.clamp_max(n0 - 1), wrap)
    return x


def token_grid(place: Place, n0: int, n: int | None = None) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """How many of `n0` tokens on the base grid are atoms, and the grids of the others, here (`n` in all) and there."""
    for atoms in range(9):
        for ratio in range(1, max(place.base) + 1):
            if any((size - end) % ratio for size, end in zip(place.base, place.ends, strict=True)):
                continue
            base = [(size - end) // ratio + end for size, end in zip(place.base, place.ends, strict=True)]
            fine = [s * (t - e) + e for t, s, e in zip(base, place.scale, place.ends, strict=True)]
            if math.prod(base) != n0 - atoms or any(f.denominator != 1 for f in fine):
                continue
            if n is None or math.prod(fine) == n - atoms:
                return atoms, tuple(int(f) for f in fine), tuple(base)
    return None
