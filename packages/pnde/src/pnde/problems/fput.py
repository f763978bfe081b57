"""The chain of Fermi, Pasta, Ulam and Tsingou."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pnde.constraints import FPUTEnergy
from pnde.problems._common import Trajectories, check_numbers, check_whole

# Yoshida (Phys. Lett. A 150, 1990), order 4: three leapfrog steps of these parts of the step
OUTER = 1 / (2 - 2 ** (1 / 3))
PARTS = (OUTER, 1 - 2 * OUTER, OUTER)
MODES = 4


@dataclass(frozen=True)
class FPUT(Trajectories):
    """The α-FPUT chain ẍ_j = (x_{j+1} - 2x_j + x_{j-1})(1 + α(x_{j+1} - x_{j-1})) with fixed ends.

    States are (x_1 … x_N, v_1 … v_N). It starts at rest in Σ_k a_k sin(πkj/(N+1)), k = 1 … 4, with a_k uniform on
    (-½, ½). The energy is kept to the order of the reference, Yoshida's symplectic one of order 4 with `substeps`
    steps in each `time_step`. Without units.

    Raises
    ------
    ConfigError
        If a field is out of range.
    RuntimeError
        While it is solved, if the chain tears apart, as its cubic potential allows at large α.
    """

    solver: ClassVar[str] = "Yoshida, order 4"
    accuracy: ClassVar[float] = 1e-8

    n_masses: int = 16
    alpha: float = 0.25
    duration: float = 20.0
    time_step: float = 0.1
    substeps: int = 20

    def __post_init__(self) -> None:
        check_whole(self, "n_masses")
        check_whole(self, "substeps")
        check_numbers(self, "alpha")
        super().__post_init__()

    @property
    def components(self) -> Sequence[tuple[str, str]]:
        return [(f"{name}{j + 1}", "1") for name in ("x", "v") for j in range(self.n_masses)]

    def constraint(self) -> FPUTEnergy:
        return FPUTEnergy(self.n_masses, float(self.alpha))

    def refined(self) -> "FPUT":
        """The same problem solved with half the step."""
        return replace(self, substeps=2 * self.substeps)

    def solver_settings(self) -> dict[str, float]:
        return {"step": self.time_step / self.substeps}

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        amplitudes = rng.uniform(-0.5, 0.5, MODES)
        j = np.arange(1, self.n_masses + 1) / (self.n_masses + 1)
        x = (amplitudes[:, None] * np.sin(np.pi * np.arange(1, MODES + 1)[:, None] * j)).sum(0)
        return np.concatenate([x, np.zeros_like(x)])

    def force(self, x: np.ndarray) -> np.ndarray:
        """Accelerations at displacements (..., N)."""
        stretch = np.diff(x, axis=-1, prepend=0.0, append=0.0)
        return np.diff(stretch + self.alpha * stretch**2, axis=-1)

    def field(self, t: Any, u: np.ndarray) -> np.ndarray:
        x, v = np.split(u, 2, axis=-1)
        return np.concatenate([v, self.force(x)], axis=-1)

    def solve(self, start: np.ndarray) -> np.ndarray:
        x, v = np.split(start, 2, axis=-1)
        states, force = [start], self.force(x)
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(self.n_steps):
                x, v, force = self.step(x, v, force)
                states.append(np.concatenate([x, v], axis=-1))
        if not np.isfinite(states[-1]).all():
            raise RuntimeError(f"a chain with alpha={self.alpha} tears apart before {self.duration}: lower alpha")
        return np.stack(states, axis=1)

    def step(self, x: np.ndarray, v: np.ndarray, force: np.ndarray) -> tuple[np.ndarray, ...]:
        """(x, v, force) one `time_step` later."""
        h = self.time_step / self.substeps
        for part in PARTS * self.substeps:
            v = v + part * h / 2 * force
            x = x + part * h * v
            force = self.force(x)
            v = v + part * h / 2 * force
        return x, v, force
