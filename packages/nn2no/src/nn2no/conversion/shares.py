"""What becomes of a softmax over points: its values are shares of the points, which fall as points are added.

A sum over the points makes them a ratio of integrals, as in attention; alone they are no function.
"""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

SUMS = {"matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "mv", "einsum", "tensordot", "baddbmm", "sum"}
# linear in the shares, or other views of them
LINEAR = {
    *("__get__", "__getitem__", "view", "reshape", "transpose", "permute", "movedim", "swapaxes", "flatten", "narrow"),
    *("unflatten", "unsqueeze", "squeeze", "expand", "expand_as", "chunk", "split", "select", "stack", "cat", "clone"),
    *("to", "type", "type_as", "float", "double", "half", "bfloat16", "contiguous", "detach", "dropout", "dropout_"),
    *("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__", "div", "div_", "__truediv__", "masked_fill"),
    *("masked_fill_", "where", "add", "__add__", "__radd__", "sub", "__sub__", "neg", "__neg__", "linear", "pad"),
    *("repeat", "repeat_interleave", "index_select", "gather", "copy_", "t", "mT", "unbind", "softmax"),
}


class Shares:
    """Follows the outputs of softmaxes through a pass; what happens to one is written down in its call."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[weakref.ref[Tensor], Any]] = {}

    def source(self, values: Any) -> Any:
        """The softmax that one of these tensors holds shares of, or None."""
        for t in tree_leaves(values):
            if isinstance(t, Tensor) and (found := self.known.get(id(t))) is not None and found[0]() is t:
                return found[1]
        return None

    def begin(self, output: Tensor, call: Any) -> None:
        self.known[id(output)] = weakref.ref(output), call

    def follow(self, func: Callable[..., Any], inputs: Any, output: Any, kind: str | None) -> Any:
        """After a call: the softmax whose shares it summed up, or None."""
        if not self.known:
            return None
        source, name = self.source(inputs), getattr(func, "__name__", "")
        tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
        if source is None or not tensors or name.startswith("new_") or name.endswith("_like"):
            return None
        if name in SUMS:
            source.uses.add("sum")
            return source
        if name in LINEAR:
            for t in tensors:
                self.begin(t, source)
        else:
            source.uses.add(f"alone: {kind}" if kind else name)
        return None

    def end(self, outputs: Any) -> None:
        for t in tree_leaves(outputs):
            if (source := self.source(t)) is not None:
                source.uses.add("alone: the output")
