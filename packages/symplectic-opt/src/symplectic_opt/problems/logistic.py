"""Logistic regression: real measurements of tumours, and two clouds of points in the plane."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from scipy.optimize import linprog
from scipy.special import expit
from torch import Tensor
from torch.nn.functional import softplus

from symplectic_opt.problems._common import Real, check_number, check_whole, ml, newton
from symplectic_opt.problems._objective import Function, Objective, RandomObjective, constant


@dataclass(frozen=True)
class LogisticRegression(Objective):
    """Mean logistic loss + ½ penalty |w|² on the 569 tumours of scikit-learn's `load_breast_cancer`, from 0.

    The 30 features are standardised and a column of ones added. Random starts are drawn from N(0, 1). Needs the extra
    `ml`.

    Raises
    ------
    ConfigError
        If `penalty` is not positive.
    """

    penalty: Real = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "penalty", 0)

    @property
    def dim(self) -> int:
        return 31

    @property
    def start(self) -> Float[Tensor, " d"]:
        return constant(0.0, self.dim)

    @property
    def minimizers(self) -> Float[Tensor, "count d"]:
        return torch.from_numpy(_penalised(float(self.penalty)))[None]

    @property
    def minimum(self) -> float:
        return self.function()(self.minimizers)[0].item()

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        signed = torch.from_numpy(_tumours()).to(device, dtype)
        return lambda w: softplus(-(w @ signed.T)).mean(-1) + self.penalty / 2 * (w * w).sum(-1)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal(self.dim)


@dataclass(frozen=True)
class Blobs(RandomObjective):
    """Σ log(1 + e^(-y wᵀx)) over two clouds of 250 points of scikit-learn's `make_blobs`, from (1, 1).

    Centres are uniform on (-2, 2)², the standard deviation about them is 0.5, labels are y = ±1 (arXiv 2207.11460).
    `generate` draws clouds that no line through 0 separates: of others the loss has no minimizer. Needs the extra
    `ml`.

    Raises
    ------
    ConfigError
        If `seed` is no whole number from 0 on; when the minimum is asked for of clouds that can be separated.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "seed", 0)

    @property
    def dim(self) -> int:
        return 2

    @property
    def start(self) -> Float[Tensor, " d"]:
        return constant(1.0, 2)

    def data(self) -> tuple[Float[Tensor, "500 2"], Float[Tensor, "500"]]:
        """The points and their labels ±1."""
        points, labels = _clouds(self.seed)
        return torch.from_numpy(points), torch.from_numpy(labels)

    @property
    def minimizers(self) -> Float[Tensor, "count d"]:
        return torch.from_numpy(_separating(self.seed))[None]

    @property
    def minimum(self) -> float:
        return self.function()(self.minimizers)[0].item()

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        points, labels = self.data()
        signed = (labels[:, None] * points).to(device, dtype)
        return lambda w: softplus(-(w @ signed.T)).sum(-1)

    def random_instance(self, rng: np.random.Generator) -> RandomObjective:
        while True:
            found = super().random_instance(rng)
            if not _is_separable(found.seed):
                return found


def _derivatives(signed: np.ndarray, penalty: float) -> Any:
    """Value, gradient and Hessian of Σ log(1 + e^(-wᵀs)) + ½ penalty |w|²."""

    def at(w: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        margin = signed @ w
        wrong = expit(-margin)
        value = np.logaddexp(0, -margin).sum() + penalty / 2 * w @ w
        hessian = (signed.T * (wrong * expit(margin))) @ signed + penalty * np.eye(len(w))
        return value, penalty * w - wrong @ signed, hessian

    return at


@lru_cache(maxsize=1)
def _tumours() -> np.ndarray:
    """Rows y (x, 1)."""
    features, classes = ml("sklearn.datasets").load_breast_cancer(return_X_y=True)
    standardised = (features - features.mean(0)) / features.std(0)
    return (2 * classes - 1.0)[:, None] * np.column_stack([standardised, np.ones(len(classes))])


@lru_cache(maxsize=8)
def _penalised(penalty: float) -> np.ndarray:
    signed = _tumours()
    return newton(_derivatives(signed, penalty * len(signed)), np.zeros(signed.shape[1]))


@lru_cache(maxsize=64)
def _clouds(seed: int) -> tuple[np.ndarray, np.ndarray]:
    points, classes = ml("sklearn.datasets").make_blobs(
        [250, 250], n_features=2, center_box=(-2, 2), cluster_std=0.5, random_state=seed
    )
    return points, 2.0 * classes - 1


@lru_cache(maxsize=64)
def _is_separable(seed: int) -> bool:
    points, labels = _clouds(seed)
    signed = labels[:, None] * points
    found = linprog(np.zeros(2), A_ub=-signed, b_ub=-np.ones(len(signed)), bounds=(None, None), method="highs")
    return found.status == 0


@lru_cache(maxsize=64)
def _separating(seed: int) -> np.ndarray:
    if _is_separable(seed):
        raise ConfigError(
            f"seed={seed}: a line through 0 separates these clouds, so that the loss has no minimizer; choose another"
        )
    points, labels = _clouds(seed)
    return newton(_derivatives(labels[:, None] * points, 0.0), np.zeros(2))
