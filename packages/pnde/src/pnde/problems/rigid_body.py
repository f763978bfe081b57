"""A body that turns freely."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sciml.errors import ConfigError

from pnde.constraints import RigidBodyInvariants
from pnde.problems._common import Integrated


@dataclass(frozen=True)
class RigidBody(Integrated):
    """Euler's equations of a free body, in its frame, from y = (cos φ, 0, sin φ), φ uniform on (0.5, 1.5).

    ẏ₁ = (1/I₃ - 1/I₂) y₃y₂ and so on for the angular momenta y; |y|² and the energy ½ Σ y²/I are kept. The solution
    is known in Jacobi's elliptic functions, which test the reference (arXiv 2306.09739). Without units.

    Parameters
    ----------
    inertia
        Principal moments I.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    accuracy: ClassVar[float] = 1e-9

    inertia: Sequence[float] = (1.6, 1.0, 2 / 3)
    duration: float = 10.0
    time_step: float = 0.1
    tolerance: float = 1e-11

    def __post_init__(self) -> None:
        moments = self.inertia
        numbers = isinstance(moments, list | tuple) and all(type(moment) in (int, float) for moment in moments)
        if not numbers or len(moments) != 3 or not min(moments) > 0:
            raise ConfigError(f"inertia={moments!r}: give three positive moments")
        super().__post_init__()

    @property
    def components(self) -> Sequence[tuple[str, str]]:
        return [("y1", "1"), ("y2", "1"), ("y3", "1")]

    def constraint(self) -> RigidBodyInvariants:
        return RigidBodyInvariants(self.inertia, casimir=True, energy=True)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        phi = rng.uniform(0.5, 1.5)
        return np.array([np.cos(phi), 0.0, np.sin(phi)])

    def field(self, t: Any, u: np.ndarray) -> np.ndarray:
        return np.cross(u, u / np.asarray(self.inertia))
