"""Standard functions of few variables."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from symplectic_opt.problems._objective import Function, Objective, ObjectiveInDimension, constant


@dataclass(frozen=True)
class Log2d(Objective):
    """x₁ + x₂² - log(x₁x₂) for positive x, from (5, 5) (arXiv 2207.11460); random starts are uniform on (1, 9)².

    Parameters
    ----------
    absolute
        With log|x₁x₂|, which is defined beside the axes, has a second minimizer (1, -1/√2), and is unbounded below
        as x₁ → -∞. Iterates that cross an axis need it.
    """

    absolute: bool = False

    @property
    def dim(self) -> int:
        return 2

    @property
    def start(self) -> Float[Tensor, " d"]:
        return constant(5.0, 2)

    @property
    def minimizers(self) -> Float[Tensor, "count d"]:
        found = torch.tensor([[1.0, math.sqrt(0.5)], [1.0, -math.sqrt(0.5)]], dtype=torch.float64)
        return found if self.absolute else found[:1]

    @property
    def minimum(self) -> float:
        return 1.5 + 0.5 * math.log(2)

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        def f(x: Tensor) -> Tensor:
            inside = x.abs() if self.absolute else x
            return x[..., 0] + x[..., 1] ** 2 - inside.log().sum(-1)

        return f

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(1, 9, 2)

    def domain(self, x: Float[Tensor, "*batch d"]) -> Bool[Tensor, "*batch"]:
        return super().domain(x) & ((x != 0) if self.absolute else (x > 0)).all(-1)


@dataclass(frozen=True)
class XLogX(ObjectiveInDimension):
    """Σ xᵢ log xᵢ for positive x, from 5·1 (arXiv 2207.11460); random starts are uniform on (1, 9)^d."""

    minimizer: ClassVar[float] = 1 / math.e
    dimension: int = 5

    @property
    def start(self) -> Float[Tensor, " d"]:
        return constant(5.0, self.dim)

    @property
    def minimum(self) -> float:
        return -self.dim / math.e

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        return lambda x: (x * x.log()).sum(-1)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(1, 9, self.dim)

    def domain(self, x: Float[Tensor, "*batch d"]) -> Bool[Tensor, "*batch"]:
        return super().domain(x) & (x > 0).all(-1)


@dataclass(frozen=True)
class Rosenbrock(ObjectiveInDimension):
    """Σ 100(xᵢ₊₁ - xᵢ²)² + (1 - xᵢ)², a curved valley, from (-1.2, 1, -1.2, 1, …); random starts uniform on (-2, 2)^d.

    From four dimensions on there is a local minimum near (-1, 1, 1, …) besides.
    """

    least: ClassVar[int] = 2
    minimizer: ClassVar[float] = 1.0
    dimension: int = 2

    @property
    def start(self) -> Float[Tensor, " d"]:
        return torch.tensor([-1.2, 1.0], dtype=torch.float64).repeat(-(-self.dim // 2))[: self.dim]

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        return lambda x: (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-2, 2, self.dim)


@dataclass(frozen=True)
class Beale(Objective):
    """(1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)², from (1, 1); random starts uniform on (-1, 1)²."""

    @property
    def dim(self) -> int:
        return 2

    @property
    def start(self) -> Float[Tensor, " d"]:
        return constant(1.0, 2)

    @property
    def minimizers(self) -> Float[Tensor, "count d"]:
        return torch.tensor([[3.0, 0.5]], dtype=torch.float64)

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        def f(point: Tensor) -> Tensor:
            x, y = point[..., 0], point[..., 1]
            return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2

        return f

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, 2)


@dataclass(frozen=True)
class Ackley(ObjectiveInDimension):
    """-20 exp(-0.2 √(mean x²)) - exp(mean cos 2πx) + 20 + e, from 2·1; random starts uniform on (-5, 5)^d.

    Many local minima on the way to 0, where it has a kink.
    """

    dimension: int = 2

    @property
    def start(self) -> Float[Tensor, " d"]:
        return constant(2.0, self.dim)

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        def f(x: Tensor) -> Tensor:
            # the norm, unlike the root of a sum, has the derivative 0 at 0
            radius = torch.linalg.vector_norm(x, dim=-1) / math.sqrt(self.dim)
            waves = (2 * torch.pi * x).cos().mean(-1)
            return 20 * (1 - (-0.2 * radius).exp()) + (math.e - waves.exp())

        return f

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-5, 5, self.dim)


@dataclass(frozen=True)
class Rastrigin(ObjectiveInDimension):
    """Σ xᵢ² + 10(1 - cos 2πxᵢ), a lattice of local minima, from 2.5·1; random starts uniform on (-5.12, 5.12)^d."""

    dimension: int = 2

    @property
    def start(self) -> Float[Tensor, " d"]:
        return constant(2.5, self.dim)

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        return lambda x: (x**2 + 10 * (1 - (2 * torch.pi * x).cos())).sum(-1)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-5.12, 5.12, self.dim)
