"""Attention on another grid than the base grid: ratios of integrals over more or fewer tokens."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nn2no.attention import attention_bias, with_atoms
from nn2no.conversion.norm_rules import node_weights
from nn2no.conversion.place import Place, token_grid
from nn2no.conversion.trace import Call
from nn2no.errors import ConversionError


def _log_weights(place: Place, call: Call, n0: int, n: int, like: Tensor) -> Tensor | None:
    """log of the weights of the tokens, atoms first; None if all are equal."""
    found = token_grid(place, n0, n)
    if found is None:
        raise ConversionError(
            f"{call.path}: {n0} tokens on the base grid are {n} here, which is no grid of patches with up to 8 atoms "
            "(class or register tokens) before it."
        )
    atoms, fine, base = found
    if (not atoms and not any(place.ends)) or place.options.attention == "torch":
        return None
    x = like.new_empty((1, 1, *fine))
    weights = node_weights(place, x)
    weights = like.new_ones(fine) if weights is None else weights
    w = (weights / weights.sum()).reshape(1, -1)
    return attention_bias(with_atoms(w, atoms, math.prod(base)))[0, 0, 0]


def attention(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    key, mask = a["key"], a.get("attn_mask")
    if mask is not None and mask.shape[-1] not in (1, key.shape[-2]):
        raise ConversionError(
            f"{call.path}: an attention mask or table of relative positions of {tuple(mask.shape)} has a fixed number "
            "of points; pass the table in position_params, or leave it out."
        )
    bias = None if key.shape[-2] == call.shape[-2] else _log_weights(place, call, call.shape[-2], key.shape[-2], key)
    if bias is None:
        return original()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=key.dtype).masked_fill(~mask, -math.inf)
    rows = bias.expand(a["query"].shape[-2], -1)
    rest = {k: v for k, v in a.items() if k not in ("query", "key", "value", "attn_mask")}
    return F.scaled_dot_product_attention(
        a["query"], key, a["value"], attn_mask=rows if mask is None else mask + rows, **rest
    )


def multi_head(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Any:
    key = a["key"]  # (source, batch, channel)
    bias = None if len(key) == call.shape[0] else _log_weights(place, call, call.shape[0], len(key), key)
    if bias is None:
        return original()
    if a.get("attn_mask") is not None or a.get("key_padding_mask") is not None:
        raise ConversionError(f"{call.path}: masks of multi-head attention have a fixed number of points.")
    masked = {**a, "attn_mask": bias.expand(len(a["query"]), -1), "is_causal": False}
    return F.multi_head_attention_forward(**masked)


def softmax(place: Place, call: Call, a: dict[str, Any], original: Callable[[], Any]) -> Tensor:
    x, dim = a["input"], a.get("dim")
    if dim is None or len(call.shape) != x.ndim or x.shape[dim] == call.shape[dim]:
        call.note = "over other axes than the points: unchanged"
        return original()
    call.over_points = True
    bias = _log_weights(place, call, call.shape[dim], x.shape[dim], x)
    if bias is None:
        return original()
    bias = bias.reshape([-1 if k == dim % x.ndim else 1 for k in range(x.ndim)])
    return torch.softmax(x + bias, dim, dtype=a.get("dtype"))
