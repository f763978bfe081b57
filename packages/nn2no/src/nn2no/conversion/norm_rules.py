"""Normalisation on another grid than the base grid: statistics as integrals."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nn2no.conversion.place import Place, from_base
from nn2no.conversion.trace import Call
from nn2no.errors import ConversionError
from nn2no.fourier import Line, volume_shares
from nn2no.norms import quadrature_batch_norm, quadrature_norm


def node_weights(place: Place, x: Tensor) -> Tensor | None:
    """Shares of the nodes of a field, by the trapezoidal rule; None where all weigh the same."""
    if not any(place.ends) or place.options.norm == "torch":
        return None
    # a single node stands for the whole axis
    lines = [Line(n, periodic=not end or n == 1) for n, end in zip(x.shape[2:], place.ends, strict=True)]
    return volume_shares(lines, x)


def group_norm(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    if place.scale_of(call, a["input"]) is None or (w := node_weights(place, a["input"])) is None:
        return original()
    options = {"weight": a.get("weight"), "bias": a.get("bias"), "eps": a.get("eps", 1e-5)}
    return quadrature_norm(a["input"], w, groups=a["num_groups"], **options)


def instance_norm(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x = a["input"]
    if place.scale_of(call, x) is None or (w := node_weights(place, x)) is None or not a.get("use_input_stats", True):
        return original()
    return quadrature_norm(x, w, groups=x.shape[1], weight=a.get("weight"), bias=a.get("bias"), eps=a.get("eps", 1e-5))


def batch_norm(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x = a["input"]
    if not a.get("training", False) or place.scale_of(call, x) is None or (w := node_weights(place, x)) is None:
        return original()
    return quadrature_batch_norm(
        x,
        w,
        running_mean=a.get("mean"),
        running_var=a.get("var"),
        weight=a.get("weight"),
        bias=a.get("bias"),
        momentum=a.get("momentum", 0.1),
        eps=a.get("eps", 1e-5),
    )


def layer_norm(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x, shape = a["input"], tuple(a["normalized_shape"])
    if tuple(x.shape[-len(shape) :]) == shape:
        return original()  # over channels, at each point
    s = place.scale_of(call, x)
    if s is None or len(shape) != place.dim + 1:
        raise ConversionError(f"{call.path}: normalisation over {shape} is neither over channels nor over space.")
    w = node_weights(place, x)
    y = quadrature_norm(x, w, groups=1, eps=a.get("eps", 1e-5))
    tables = [a.get("weight"), a.get("bias")]
    weight, bias = (None if t is None else from_base(t[None], list(x.shape[2:]), s, place.periodic) for t in tables)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
