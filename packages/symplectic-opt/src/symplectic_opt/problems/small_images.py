"""Classification of digits, in two dimensions and in one: small data that come with packages of the extra `ml`."""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from symplectic_opt.problems._common import check_whole, ml
from symplectic_opt.problems._learning import Classification, Split, perceptron


@dataclass(frozen=True)
class Digits(Classification):
    """The 1,797 handwritten digits of 8 x 8 pixels of scikit-learn, standardised, and a network 64-64-64-10.

    A fifth of each class is for the test, chosen by `seed`. Each pixel has mean 0 and variance 1 over the digits to
    train with, unless it is constant there.

    Raises
    ------
    ConfigError
        If `seed` is no whole number from 0 on.
    """

    input_dims: ClassVar[tuple[str, ...]] = ("pixel",)
    batch_size: ClassVar[int] = 64

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "seed", 0)

    def data(self) -> Split:
        return _digits(self.seed)

    def layers(self) -> nn.Module:
        return perceptron(64, 64, 64, 10)


@dataclass(frozen=True)
class MNIST1D(Classification):
    """MNIST-1D (arXiv 2011.14439): digits as curves of 40 points, made by the package `mnist1d`; network 40-64-64-10.

    4,000 curves to train with and 1,000 for the test; the default `seed` makes the published ones.

    Raises
    ------
    ConfigError
        If `seed` is no whole number from 0 on.
    """

    input_dims: ClassVar[tuple[str, ...]] = ("point",)
    batch_size: ClassVar[int] = 64

    seed: int = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "seed", 0)

    def data(self) -> Split:
        return _curves(self.seed)

    def layers(self) -> nn.Module:
        return perceptron(40, 64, 64, 10)


@lru_cache(maxsize=4)
def _digits(seed: int) -> Split:
    pixels, classes = ml("sklearn.datasets").load_digits(return_X_y=True)
    parts = ml("sklearn.model_selection").train_test_split(
        pixels, classes, test_size=0.2, stratify=classes, random_state=seed
    )
    scaler = ml("sklearn.preprocessing").StandardScaler().fit(parts[0])
    parts[:2] = map(scaler.transform, parts[:2])
    train_input, test_input, train_target, test_target = map(torch.from_numpy, parts)
    return Split(train_input.float(), train_target.long(), test_input.float(), test_target.long())


@lru_cache(maxsize=4)
def _curves(seed: int) -> Split:
    package = ml("mnist1d.data")
    arguments = package.get_dataset_args()
    arguments.seed = seed
    states = random.getstate(), np.random.get_state()  # the package draws from the global generators
    try:
        made = package.make_dataset(arguments)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    inputs = [torch.from_numpy(made[name]).float() for name in ("x", "x_test")]
    targets = [torch.from_numpy(made[name]).long() for name in ("y", "y_test")]
    return Split(inputs[0], targets[0], inputs[1], targets[1])
