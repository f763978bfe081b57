"""What means and variances over points become on another grid than the base grid."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nn2no.conversion.place import Place, token_grid
from nn2no.conversion.trace import Call
from nn2no.pool import hat_means
from nn2no.scale import Scale

PLAIN = "a plain mean over points that are no axis of the grid and no grid of tokens: of first order between walls"


def mean(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    """The mean over the base nodes of the means over their hats."""
    x, axes = a["input"], _axes(a)
    shares = _shares(place, call, x, axes)
    return original() if shares is None else _mean(x, shares, axes, bool(a.get("keepdim")), a.get("dtype"))


def spread(root: bool, with_mean: bool) -> Callable[..., Any]:
    """The rule for variances or, with `root`, standard deviations; with `with_mean` for pairs of them and means.

    The factor N₀/(N₀ - 1) of unbiased ones is that of the base grid, so that all grids agree.
    """

    def rule(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
        if isinstance(a.get("dim"), bool):  # var(x, unbiased)
            a = {**{k: v for k, v in a.items() if k != "dim"}, "unbiased": a["dim"]}
        x, axes, keep = a["input"], _axes(a), bool(a.get("keepdim"))
        unbiased = a["unbiased"] if a.get("unbiased") is not None else True
        correction = a["correction"] if a.get("correction") is not None else float(unbiased)
        shares = _shares(place, call, x, axes)
        mu = x.mean(axes, keepdim=True) if shares is None else _mean(x, shares, axes, True)
        square = (x - mu).square()
        variance = square.mean(axes, keepdim=keep) if shares is None else _mean(square, shares, axes, keep)
        count = math.prod(x.shape[k] if is_batch(place, call, x, k) else call.shape[k] for k in axes)
        variance = variance * (count / (count - correction))
        result = variance.sqrt() if root else variance
        return (result, mu if keep else mu.squeeze(axes)) if with_mean else result

    return rule


def _axes(a: dict[str, Any]) -> tuple[int, ...]:
    given, ndim = a.get("dim"), a["input"].ndim
    given = (given,) if isinstance(given, int) else given or range(ndim)
    return tuple(k % ndim for k in given)


def _mean(x: Tensor, shares: Tensor, axes: tuple[int, ...], keepdim: bool, dtype: torch.dtype | None = None) -> Tensor:
    # half precision does not hold the shares of many points
    y = x.to(dtype or torch.promote_types(x.dtype, torch.float32))
    return (y * shares.to(y)).sum(axes, keepdim=keepdim).to(dtype or x.dtype)


def is_batch(place: Place, call: Call, x: Tensor, axis: int) -> bool:
    """Whether an axis is that of the samples: the first, but in tensors (point, sample, channel)."""
    points_first = len(call.shape) > 2 and x.shape[1] == place.batch != x.shape[0] and call.shape[1] <= 2
    return axis == 0 and not points_first


def _shares(place: Place, call: Call, x: Tensor, axes: Sequence[int]) -> Tensor | None:
    """The shares of the points in a mean, to be multiplied by `x`, on the CPU; None if all are equal."""
    if x.ndim != len(call.shape):
        return None
    found: dict[int, Tensor] = {}
    for axis in axes:
        n0, n = call.shape[axis], x.shape[axis]
        if n == n0 or is_batch(place, call, x, axis):
            continue
        shares = shares_of_axis(place, n0, n, axis - 2 if x.ndim == place.dim + 2 else None)
        if shares is None:
            call.note = PLAIN if any(place.ends) else None
        elif not torch.equal(shares, shares[:1].expand(n)):
            found[axis] = shares
    if not found:
        return None
    product = torch.ones((), dtype=torch.float64)
    for axis in axes:
        shape = [x.shape[axis] if k == axis else 1 for k in range(x.ndim)]
        product = product * found.get(axis, torch.full((x.shape[axis],), 1 / x.shape[axis])).reshape(shape)
    return product


def shares_of_axis(place: Place, n0: int, n: int, own: int | None) -> Tensor | None:
    """The shares of points along an axis of a tensor, of the grid (best its `own`) or of tokens; None if of neither."""
    shares = _of_an_axis(place, n0, n, own)
    return _of_tokens(place, n0, n) if shares is None else shares


def _of_an_axis(place: Place, n0: int, n: int, own: int | None) -> Tensor | None:
    """The shares of the nodes of the axis of the grid that n0 and n nodes are possible on, best its `own`."""
    order = sorted(range(place.dim), key=lambda i: i != own)
    fits = [i for i in order if place.scale[i] * (n0 - place.ends[i]) + place.ends[i] == n]
    return _line(n, n0, place.scale, place.ends, fits[0]) if fits else None


def _of_tokens(place: Place, n0: int, n: int) -> Tensor | None:
    """The shares of tokens: each atom counts as on the base grid."""
    if (found := token_grid(place, n0, n)) is None:
        return None
    atoms, fine, base = found
    shares = torch.ones(1, dtype=torch.float64)
    for i, (m, m0) in enumerate(zip(fine, base, strict=True)):
        shares = (shares[:, None] * _line(m, m0, place.scale, place.ends, i)).flatten()
    return torch.cat([torch.full((atoms,), 1 / n0), shares * ((n0 - atoms) / n0)])


def _line(n: int, n0: int, scale: Scale, ends: Sequence[bool], i: int) -> Tensor:
    if not ends[i] or n0 == 1:
        return torch.full((n,), 1 / n, dtype=torch.float64)
    return torch.as_tensor(hat_means(n, n0, scale[i], True)).mean(0)
