"""Multilayer perceptrons, the networks within the models."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import nn


def perceptron(widths: Sequence[int], activation: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Sequential:
    """Linear layers between the widths, with the activation after all but the last."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, dtype=dtype), activation()]
    return nn.Sequential(*layers[:-1])
