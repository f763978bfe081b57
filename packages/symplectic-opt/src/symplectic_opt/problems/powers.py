"""Quadratic and quartic functions of many variables."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from symplectic_opt.problems._common import Real, check_number, check_whole
from symplectic_opt.problems._objective import Function, ObjectiveInDimension, constant


@dataclass(frozen=True)
class Quadratic(ObjectiveInDimension):
    """½ xᵀAx, A = V diag(λ) Vᵀ, λ logarithmically spaced from 1/condition to 1, from x ~ N(0, 1) as random starts.

    Parameters
    ----------
    rotated
        Whether V is a random orthogonal matrix, made of `seed`; otherwise it is I, and a value costs O(d) instead of
        O(d²). Methods that are equivariant under rotations see no difference.
    seed
        That of V and of `start`.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    dimension: int = 100
    condition: Real = 1e3
    rotated: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "condition", 1)
        check_whole(self, "seed", 0)

    @property
    def eigenvalues(self) -> Float[Tensor, " d"]:
        """λ, in increasing order."""
        return torch.from_numpy(np.logspace(-np.log10(self.condition), 0, self.dim))

    @property
    def start(self) -> Float[Tensor, " d"]:
        return torch.from_numpy(self.draw(np.random.default_rng(self.seed)))

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        eigenvalues = self.eigenvalues.to(device, dtype)
        if not self.rotated:
            return lambda x: (eigenvalues * x**2).sum(-1) / 2
        V = _rotation(self.dim, self.seed).to(device, dtype)
        return lambda x: (eigenvalues * (x @ V) ** 2).sum(-1) / 2

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal(self.dim)


@dataclass(frozen=True)
class CorrelatedQuadratic(ObjectiveInDimension):
    """½ xᵀBx, B_ij = √(ij)/2^|i-j|, from x uniform on (-1, 1)^d as random starts; `seed` is that of `start`."""

    dimension: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "seed", 0)

    @property
    def start(self) -> Float[Tensor, " d"]:
        return torch.from_numpy(self.draw(np.random.default_rng(self.seed)))

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        root = torch.arange(1, self.dim + 1, dtype=torch.float64).sqrt()
        B = (root[:, None] * root * correlation(self.dim, 0.5)).to(device, dtype)
        return lambda x: ((x @ B) * x).sum(-1) / 2

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, self.dim)


@dataclass(frozen=True)
class Quartic(ObjectiveInDimension):
    """[(x - 1)ᵀΣ(x - 1)]², Σ_ij = 0.9^|i-j|: convex, flat at its minimum; from x ~ 2 + 0.1 N(0, 1) as random starts."""

    minimizer: ClassVar[float] = 1.0
    dimension: int = 50

    @property
    def start(self) -> Float[Tensor, " d"]:
        # the legacy generator, by which the published one is reproduced
        return torch.from_numpy(2 + 0.1 * np.random.RandomState(0).standard_normal(self.dim))

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        sigma = correlation(self.dim, 0.9).to(device, dtype)
        return lambda x: (((x - 1) @ sigma) * (x - 1)).sum(-1) ** 2

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return 2 + 0.1 * rng.standard_normal(self.dim)


@dataclass(frozen=True)
class QuarticSum(ObjectiveInDimension):
    """Σ i xᵢ⁴, from 1; random starts are uniform on (0.5, 1.5)^d."""

    dimension: int = 50

    @property
    def start(self) -> Float[Tensor, " d"]:
        return constant(1.0, self.dim)

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        weights = torch.arange(1, self.dim + 1, device=device, dtype=dtype)
        return lambda x: (weights * x**4).sum(-1)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(0.5, 1.5, self.dim)


@dataclass(frozen=True)
class NesterovChain(ObjectiveInDimension):
    """½[x₁² + Σ(xᵢ - xᵢ₊₁)² + x_d²] - x₁, from 0: the hardest convex quadratic for first-order methods.

    Each gradient reaches one more variable; the curvature is below 4 and the condition number grows as d². The
    minimizer is xᵢ = 1 - i/(d + 1) (Nesterov, Introductory Lectures on Convex Optimization, 2.1.2). Random starts are
    drawn from N(0, 1).
    """

    dimension: int = 100

    @property
    def start(self) -> Float[Tensor, " d"]:
        return constant(0.0, self.dim)

    @property
    def minimizers(self) -> Float[Tensor, "count d"]:
        return (1 - torch.arange(1, self.dim + 1, dtype=torch.float64) / (self.dim + 1))[None]

    @property
    def minimum(self) -> float:
        return -0.5 * self.dim / (self.dim + 1)

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        def f(x: Tensor) -> Tensor:
            ends = x[..., 0] ** 2 + x[..., -1] ** 2
            return (ends + (x.diff(dim=-1) ** 2).sum(-1)) / 2 - x[..., 0]

        return f

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal(self.dim)


def correlation(dim: int, base: float) -> Float[Tensor, "d d"]:
    """base^|i-j|."""
    i = torch.arange(dim, dtype=torch.float64)
    return base ** (i[:, None] - i).abs()


@lru_cache(maxsize=4)
def _rotation(dim: int, seed: int) -> Tensor:
    """A random orthogonal matrix, uniformly distributed."""
    normal = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,))).standard_normal((dim, dim))
    Q, R = np.linalg.qr(normal)
    return torch.from_numpy(Q * np.sign(np.diag(R)))
