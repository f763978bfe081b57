"""Networks to be trained on data."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from sciml.data import Problem
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss


class Split(NamedTuple):
    """Inputs and targets to train on and to test with, samples first."""

    train_input: Tensor
    train_target: Tensor
    test_input: Tensor
    test_target: Tensor


class Learning(Problem):
    """Base of learning problems: data, a network, and a loss.

    `generate(n, seed)` gives samples `input` and `target` drawn from the training data with replacement, and the row
    `index` of each.
    """

    input_dims: ClassVar[tuple[str, ...]]
    target_dims: ClassVar[tuple[str, ...]] = ()
    batch_size: ClassVar[int]  # as published

    def data(self) -> Split:
        """All data, in float32; classes as int64. The same tensors at each call: do not change them in place."""
        raise NotImplementedError

    def layers(self) -> nn.Module:
        """The network with its default initialisation."""
        raise NotImplementedError

    def loss(self, output: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """Mean loss of a batch."""
        raise NotImplementedError

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """What is reported of a test beside the loss."""
        return {}

    def augment(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Training inputs, changed at random where that was published."""
        return batch

    def network(self, seed: int = 0) -> nn.Module:
        """The network with weights that depend on the seed alone; random numbers elsewhere are not touched."""
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            return self.layers()
        finally:
            torch.set_rng_state(state)

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        data = self.data()
        index = [int(np.random.default_rng(seed).integers(len(data.train_input))) for seed in seeds]
        variables: dict[str, Any] = {"index": ("sample", index)}
        for name, values, dims in (
            ("input", data.train_input, self.input_dims),
            ("target", data.train_target, self.target_dims),
        ):
            variables[name] = (("sample", *dims), values[index].contiguous().numpy(), {"units": "1"})
        found = xarray.Dataset(variables)
        return found.assign_coords({dim: np.arange(found.sizes[dim]) for dim in found.dims if dim != "sample"})


class Classification(Learning):
    """Base of problems with one class per sample: cross-entropy of logits."""

    def loss(self, output: Float[Tensor, "n classes"], target: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        return cross_entropy(output, target)

    def metrics(self, output: Float[Tensor, "n classes"], target: Int[Tensor, " n"]) -> dict[str, float]:
        return {"accuracy": (output.argmax(-1) == target).double().mean().item()}


class Regression(Learning):
    """Base of problems with numbers as targets: mean squared error."""

    def loss(self, output: Float[Tensor, "n k"], target: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
        return mse_loss(output, target)


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
