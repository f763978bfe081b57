"""The point with the least weighted distance to many others."""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from symplectic_opt.problems._common import check_number, check_whole
from symplectic_opt.problems._objective import Function, RandomObjective, constant


@dataclass(frozen=True)
class FermatWeber(RandomObjective):
    """Σ wᵢ |yᵢ - x| for points yᵢ uniform on (-10, 10)^d and weights wᵢ uniform on (0, 1), from 1.

    Convex, with a kink at each yᵢ. Published with 5000 points in 1000 dimensions (arXiv 2207.11460). The minimizer is
    found by Weiszfeld's iteration x ← Σ (wᵢ/|yᵢ - x|) yᵢ / Σ wᵢ/|yᵢ - x| until a step is at most `tolerance` times
    the largest coordinate of the points.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    accuracy: ClassVar[float] = 1e-9

    dimension: int = 200
    points: int = 1000
    seed: int = 0
    tolerance: float = 1e-12

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "dimension", 2)
        check_whole(self, "points", 3)
        check_whole(self, "seed", 0)
        check_number(self, "tolerance", 0)

    @property
    def dim(self) -> int:
        return self.dimension

    @property
    def start(self) -> Float[Tensor, " d"]:
        return constant(1.0, self.dim)

    def data(self) -> tuple[Float[Tensor, "points d"], Float[Tensor, " points"]]:
        """The points and their weights."""
        generator = torch.Generator().manual_seed(self.seed)
        points = 20 * torch.rand(self.points, self.dim, generator=generator, dtype=torch.float64) - 10
        return points, torch.rand(self.points, generator=generator, dtype=torch.float64)

    @property
    def minimizers(self) -> Float[Tensor, "count d"]:
        return _weiszfeld(self)[None]

    @property
    def minimum(self) -> float:
        return self.function()(_weiszfeld(self)).item()

    def refined(self) -> "FermatWeber":
        """The same problem solved to a tenth of the tolerance."""
        return dataclasses.replace(self, tolerance=self.tolerance / 10)

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        points, weights = (values.to(device, dtype) for values in self.data())
        return lambda x: torch.linalg.vector_norm(x[..., None, :] - points, dim=-1) @ weights


@lru_cache(maxsize=64)
def _weiszfeld(problem: FermatWeber) -> Tensor:
    points, weights = problem.data()
    x = weights @ points / weights.sum()
    for _ in range(10_000):
        pull = weights / torch.linalg.vector_norm(points - x, dim=-1)
        step = pull @ points / pull.sum() - x
        x = x + step
        if torch.linalg.vector_norm(step) <= problem.tolerance * points.abs().max():
            return x
    raise RuntimeError(f"Weiszfeld's iteration has not converged to {problem.tolerance}")
