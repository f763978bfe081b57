"""A function of one variable, learnt from noisy values."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from symplectic_opt.problems._common import check_whole
from symplectic_opt.problems._learning import Regression, Split, perceptron


@dataclass(frozen=True)
class DataFitting(Regression):
    """y = 10x|cos 2x| + 10 e^(-sin x) + 0.2 N(0, 1) at 500 equidistant x from -2 to 2 (arXiv 2207.11460).

    Targets of the test are values without noise, midway between. The network has the widths 1-1-64-64-1, no
    activation after its first layer, and 4,355 parameters.

    Raises
    ------
    ConfigError
        If `seed`, that of the noise, is no whole number from 0 on.
    """

    input_dims: ClassVar[tuple[str, ...]] = ("variable",)
    target_dims: ClassVar[tuple[str, ...]] = ("value",)
    batch_size: ClassVar[int] = 32

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "seed", 0)

    def data(self) -> Split:
        x = np.linspace(-2, 2, 500)
        between = (x[1:] + x[:-1]) / 2
        y = exact(x) + 0.2 * np.random.default_rng(self.seed).standard_normal(500)
        return Split(*(torch.from_numpy(v).float()[:, None] for v in (x, y, between, exact(between))))

    def layers(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 1), *perceptron(1, 64, 64, 1))


def exact(x: np.ndarray) -> np.ndarray:
    """10x|cos 2x| + 10 e^(-sin x)."""
    return 10 * x * np.abs(np.cos(2 * x)) + 10 * np.exp(-np.sin(x))
