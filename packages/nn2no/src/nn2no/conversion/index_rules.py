"""What slices, reshapes and reductions along the axes of the grid become on another grid than the base grid."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch

from nn2no.conversion.local_rules import REORDERED
from nn2no.conversion.place import Place
from nn2no.conversion.trace import Call, by_axis
from nn2no.errors import ConversionError
from nn2no.scale import refined_size

POINTS = {
    "sum": "a sum over points grows with their number: write a mean; if the network itself divides by their number, "
    "pass strict=False",
    "running sum": "a running sum over points grows with their number; if the network itself divides by it, pass "
    "strict=False",
    "logarithm of a softmax": "it falls by the logarithm of the number of points: subtract log(mean(exp)) over them",
    "logarithm of a sum": "it grows by the logarithm of the number of points: write the logarithm of a mean",
    "product of values": "a product over points vanishes or grows without bound: write exp of a mean of logarithms",
    "difference": "differences of neighbouring points vanish as they come closer; write them as a convolution",
    "position of an extremum": "indices of points are no functions",
}


def over_points(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
    """Reductions that mean something else on every grid, unless they are over other axes."""
    if call.arguments["shares"]:
        return original()  # of the points, as a softmax gives them: a ratio of integrals
    x, axes = a["input"], a.get("dim", -1 if call.kind == "difference" else None)
    axes = range(x.ndim) if axes is None else [axes] if isinstance(axes, int) else axes
    if len(call.shape) == x.ndim and any(d % x.ndim > 0 and x.shape[d] != call.shape[d] for d in axes):
        raise ConversionError(f"{call.path or 'the network'}: {POINTS[call.kind]}.")
    return original()


def _first_axis(place: Place, base: Sequence[int], here: Sequence[int]) -> int | None:
    """Where the axes of the grid begin: behind the channels, or before them; None if a tensor is on no grid."""
    for first in (2, 1):
        pairs = [*zip(base[first:], here[first:], place.scale, place.ends, strict=False)]
        if len(base) == len(here) == place.dim + 2 and all(s * (n0 - e) + e == n for n0, n, s, e in pairs):
            return first
    return None


def slicing(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
    """Slices from where they begin on the base grid, as long as there, in steps of as many nodes."""
    x = a["input"]
    first = None if x.is_complex() else _first_axis(place, call.shape, x.shape)  # modes stay in their places
    wanted, given = by_axis(call.arguments["index"], len(call.shape)), by_axis(a["index"], x.ndim)
    if first is None or wanted is None or given is None:
        return original()  # tokens, for instance: those before the grid of patches are in their place
    for i in range(place.dim):
        axis, s, end = first + i, place.scale[i], place.ends[i]
        n0, n, chosen = call.shape[axis], x.shape[axis], wanted[axis]
        if chosen == slice(None):
            continue
        nodes = range(n0)[chosen] if isinstance(chosen, slice) else range(n0)[chosen % n0 :][:1]
        if not nodes:
            continue
        # one node is a point, and stays one
        begin, count = s * nodes[0], 1 if len(nodes) == 1 else refined_size(len(nodes), s, end)
        last = begin + nodes.step * (count - 1)
        around = place.periodic[i] and (place.base[i] % n0 == 0 or n0 % place.base[i] == 0)
        if begin.denominator != 1 or (last >= n and not around):
            raise ConversionError(
                f"{call.path or 'the network'}: a slice of {len(nodes)} of {n0} nodes, from the one at {nodes[0]} on, "
                f"has no counterpart on {n} nodes."
            )
        rows = (int(begin) + nodes.step * torch.arange(count, device=x.device)) % n
        x = x.index_select(axis, rows)
        given[axis] = slice(None) if isinstance(chosen, slice) else 0
    return x[tuple(given)]


def reshaping(flattening: Callable[..., Any]) -> Callable[..., Any]:
    """The rule for `flattening`, after a check that no axis of points is cut into pieces of a fixed number of them."""

    def rule(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
        x = a["input"]
        first = _first_axis(place, call.shape, x.shape)
        if first is not None and len(call.output) > x.ndim:
            y = original()
            call.note = REORDERED
            for axis in range(first, first + place.dim):
                _check_pieces(call, axis, call.shape, call.output, x.shape, y.shape)
            _check_order(call, x.shape, y.shape)
            return y
        y = flattening(place, call, a, original)
        if call.note == REORDERED:
            _check_order(call, x.shape, y.shape)
        return y

    return rule


def _check_order(call: Call, here: Sequence[int], out: Sequence[int]) -> None:
    """ConversionError if axes that are reshaped on their own on the base grid are mixed with others."""
    before, after = (
        [[*accumulate((1, *shape), mul)] for shape in pair] for pair in ((call.shape, call.output), (here, out))
    )
    if [len(c) for c in before] != [len(c) for c in after]:
        return
    pairs = [zip(base, now, strict=True) for base, now in zip(before, after, strict=True)]
    given, made = ({}, {})
    for found, pair in zip((given, made), pairs, strict=True):
        for base, now in pair:
            found.setdefault(base, set()).add(now)
    if any(not given[count] & made[count] for count in given.keys() & made.keys()):
        raise ConversionError(
            f"{call.path or 'the network'}: {call.shape} is reshaped to {call.output} on the base grid, but "
            f"{tuple(here)} to {tuple(out)} here, which mixes other values; sizes of the base grid must not be written "
            "into the code: take them from x.shape."
        )


def _check_pieces(call: Call, axis: int, *shapes: Sequence[int]) -> None:
    """ConversionError if an axis becomes several, the last of them as long as on the base grid."""
    base, base_out, here, out = shapes
    before = math.prod(base[:axis])
    left = next((k for k in range(len(base_out) + 1) if math.prod(base_out[:k]) == before), None)
    if left is None or base[axis] == here[axis]:
        return
    right = next((k for k in range(left, len(base_out) + 1) if math.prod(base_out[left:k]) == base[axis]), None)
    if right is not None and any(base_out[k] == out[k] > 1 for k in range(left + 1, right)):
        raise ConversionError(
            f"{call.path or 'the network'}: {tuple(base)} is reshaped to {tuple(base_out)}, into patches or windows of "
            "a fixed number of points, which have no physical size; use a convolution whose stride is its kernel."
        )
