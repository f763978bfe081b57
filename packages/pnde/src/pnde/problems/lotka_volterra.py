"""Predators and their prey."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from sciml.errors import ConfigError

from pnde.constraints import LotkaVolterraInvariant
from pnde.problems._common import Integrated

REGIMES = {  # ranges of prey and predators
    "moderate": ((0.8, 3.0), (0.5, 2.5)),
    "predators": ((0.3, 1.0), (2.0, 4.0)),
    "prey": ((3.0, 6.0), (0.3, 1.0)),
    "both": ((3.0, 6.0), (2.0, 4.0)),
}
LARGEST_INVARIANT = 4.0


@dataclass(frozen=True)
class LotkaVolterra(Integrated):
    """ẋ = 1.5x - xy, ẏ = xy - 3y: x prey and y predators, from populations with H ≤ 4 (arXiv 2410.23667).

    H = x - 3 ln x + y - 1.5 ln y is kept. Populations are drawn uniformly where the `regime` says, and drawn again
    while H > 4, which occurs with few prey and many predators only. Without units.

    Parameters
    ----------
    regime
        "moderate" as in training; "predators", "prey" or "both", of which there are more.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    accuracy: ClassVar[float] = 1e-9

    regime: str = "moderate"
    duration: float = 5.0
    time_step: float = 0.05
    tolerance: float = 1e-11

    def __post_init__(self) -> None:
        if not isinstance(self.regime, str) or self.regime not in REGIMES:
            raise ConfigError(f"regime={self.regime!r} is unknown; choose from {', '.join(REGIMES)}")
        super().__post_init__()

    @property
    def components(self) -> Sequence[tuple[str, str]]:
        return [("prey", "1"), ("predators", "1")]

    def constraint(self) -> LotkaVolterraInvariant:
        return LotkaVolterraInvariant()

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        (low, high), invariant = np.transpose(REGIMES[self.regime]), self.constraint()
        while True:
            u = rng.uniform(low, high)
            if invariant(None, torch.from_numpy(u)).item() <= LARGEST_INVARIANT:
                return u

    def field(self, t: Any, u: np.ndarray) -> np.ndarray:
        x, y = u[..., 0], u[..., 1]
        return np.stack([1.5 * x - x * y, x * y - 3 * y], axis=-1)
