"""Sums over points that a network writes as products, lengths or indices: what they count on another grid.

A product, a length or an index in pixels grows as points are added, unless the network itself divides by their number
or by another such sum. Both happen, so there are two readings of each: as it is, or with the weights n₀Δ_i/|D|, which
are one on the base grid and make it an integral everywhere. `convert` takes the one that a trial on a finer grid says
is the network of the base grid.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nn2no.conversion.mean_rules import is_batch, shares_of_axis
from nn2no.conversion.place import Place
from nn2no.conversion.trace import Call
from nn2no.errors import ConversionError
from nn2no.scale import refined_size


def product(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
    """x @ y, a sum over the last axis of x."""
    x, y = a["input"], a.get("other")
    if not isinstance(y, Tensor) or not _counts(place, call, x, (x.ndim - 1,)):
        return original()
    return torch.matmul(x * _weights(place, call, x, (x.ndim - 1,)), y)


def contraction(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
    """A sum over the letters of `einsum` that its result does not have."""
    equation, operands, shapes = a["equation"], a["operands"], call.arguments["operands"]
    if "->" not in equation or len(shapes) != len(operands) or call.arguments["shares"]:
        return original()
    inputs, result = equation.replace(" ", "").split("->")
    factors = list(operands)
    for k, (letters, x) in enumerate(zip(inputs.split(","), operands, strict=True)):
        before, rest, after = letters.partition("...")
        summed = dict(enumerate(before)) | {i - len(after): c for i, c in enumerate(after)}
        later = ",".join(inputs.split(",")[k + 1 :])
        axes = [i % x.ndim for i, c in summed.items() if c not in result + later]
        if rest and rest not in result + later:
            axes += range(len(before), x.ndim - len(after))
        base = Call(call.kind, call.path, {"shares": False}, shapes[k], ())
        weighted = _counts(place, base, x, axes)
        call.counts |= base.counts
        call.scaled |= base.scaled
        if weighted:
            factors[k] = x * _weights(place, base, x, axes)
    return torch.einsum(equation, *factors)


def length(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
    """(Σ|x|^p)^(1/p)."""
    x, p, given = a["input"], a.get("p", a.get("ord")), a.get("dim")
    axes = [k % x.ndim for k in ((given,) if isinstance(given, int) else given or range(x.ndim))]
    if not _counts(place, call, x, axes) or p in (math.inf, -math.inf, "inf", "-inf"):
        return original()
    p = 2 if p in (None, "fro") else p
    if isinstance(p, str) or ("ord" in a and a.get("matrix") and a["ord"] not in (None, "fro") and len(axes) == 2):
        raise ConversionError(f"{call.path or 'the network'}: the {p} norm of a matrix of points is no integral.")
    return _length(place, call, x, axes, float(p), bool(a.get("keepdim")))


def normalised(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
    """x / max(‖x‖, ε)."""
    x, given, p = a["input"], a.get("dim", 1), a.get("p", 2.0)
    axes = [k % x.ndim for k in ((given,) if isinstance(given, int) else given)]
    if not _counts(place, call, x, axes) or p == math.inf:
        return original()
    return x / _length(place, call, x, axes, float(p), True).clamp_min(a.get("eps", 1e-12))


def _length(place: Place, call: Call, x: Tensor, axes: Sequence[int], p: float, keepdim: bool) -> Tensor:
    if p == 0:
        total = ((x != 0) * _weights(place, call, x, axes)).sum(tuple(axes), keepdim=keepdim)
        return total.to(x)
    total = (x.abs().pow(p) * _weights(place, call, x, axes)).sum(tuple(axes), keepdim=keepdim)
    return total.pow(1 / p)


def _counts(place: Place, call: Call, x: Tensor, axes: Sequence[int]) -> bool:
    """Whether a sum over these axes is over points and to be weighted; that it is over points is written down."""
    if len(call.shape) != x.ndim or call.arguments["shares"]:
        return False
    over = [k for k in axes if x.shape[k] != call.shape[k] and not is_batch(place, call, x, k)]
    call.counts |= bool(over)
    call.scaled |= bool(over)
    return bool(over) and "sums" in place.weighted


def _weights(place: Place, call: Call, x: Tensor, axes: Sequence[int]) -> Tensor:
    """n₀ times the shares of the points along these axes, to be multiplied by `x`."""
    product = torch.ones((), dtype=torch.float64)
    for axis in axes:
        n0, n = call.shape[axis], x.shape[axis]
        if n != n0 and not is_batch(place, call, x, axis):
            shares = shares_of_axis(place, n0, n, axis - 2 if x.ndim == place.dim + 2 else None)
            weights = torch.full((n,), n0 / n, dtype=torch.float64) if shares is None else n0 * shares
            product = product * weights.reshape([-1 if k == axis else 1 for k in range(x.ndim)])
    return product.to(x.device, x.real.dtype)


def counting(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
    """Indices of nodes, or with weights those that they have on the base grid, as fractions."""
    (low0, high0, step0), (low, high, step) = bounds(call.arguments), bounds(a)
    here = original()
    if (low0, high0, step0) == (low, high, step) or not all(isinstance(v, int) for v in (high0, high, step0, step)):
        return here
    fits = [
        s
        for i, s in enumerate(place.scale)
        if (low0, step0) == (low, step) and s * (high0 - low0 - place.ends[i]) + place.ends[i] == high - low
    ]
    call.counts = call.scaled = True
    if not fits or "indices" not in place.weighted:
        return here
    kind = here.dtype if here.is_floating_point() else torch.get_default_dtype()
    return low0 + (here.to(kind) - low0) / float(fits[0])


def bounds(a: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Of `arange(end)`, `arange(start, end)` or `arange(start, end, step)`."""
    start, end = a.get("start", 0), a.get("end")
    return (0, start, a.get("step", 1)) if end is None else (start, end, a.get("step", 1))


def transform(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
    """Fourier transforms keep their modes in their places."""
    call.scaled = True
    return original()


def reflection(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
    """A flip of the base grid maps node 0 to node n₀ - 1: of periodic nodes, not to the last one of another grid."""
    x, given = a["input"], a.get("dims", (0, 1))
    flipped = [k % x.ndim for k in ((given,) if isinstance(given, int) else given)]
    goes_to = {k: k for k in flipped}
    if call.kind == "rotation":
        first, second = flipped
        goes_to = ({}, {second: first}, goes_to, {first: second})[a.get("k", 1) % 4]
    changed = [k for k in goes_to if len(call.shape) != x.ndim or (k and x.shape[k] != call.shape[k])]
    if not changed:
        return original()
    call.scaled = True
    y = original()
    for axis in changed:
        i = axis - 2
        if (
            x.ndim != place.dim + 2
            or i < 0
            or refined_size(call.shape[axis], place.scale[i], place.ends[i]) != x.shape[axis]
        ):
            raise ConversionError(
                f"{call.path or 'the network'}: it reverses points that are not on an axis of a field (batch, channel, "
                "*space)."
            )
        if place.periodic[i] and place.at_nodes[i]:
            if place.scale[i].denominator != 1:
                raise ConversionError(
                    f"{call.path or 'the network'}: a flip of periodic nodes at the scale {place.scale[i]} would go "
                    "between them; refine by a whole factor."
                )
            y = y.roll(1 - int(place.scale[i]), goes_to[axis])
    return y
