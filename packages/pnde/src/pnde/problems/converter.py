"""A lossless DC-to-DC converter, whose switch turns over periodically."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sciml.errors import ConfigError

from pnde.constraints import ConverterEnergy
from pnde.problems._common import Trajectories, check_numbers


@dataclass(frozen=True)
class DCDCConverter(Trajectories):
    """V̇₁ = (1-s)I/C₁, V̇₂ = sI/C₂, İ = -((1-s)V₁ + sV₂)/L₃: a coil at one capacitor, then at the other.

    The switch s is 0 during the part `duty` of each `period`, and 1 during the rest. Voltages and current start
    uniform on (0, 1); the energy ½(C₁V₁² + C₂V₂² + L₃I²) is kept (arXiv 2306.09739). Each phase is a harmonic
    oscillation, so that states are exact to rounding, also beyond jumps of the field: nothing is left to refine.
    Capacitances in F, inductance in H, times in s.

    Raises
    ------
    ConfigError
        If a field is out of range.
    """

    solver: ClassVar[str] = "harmonic oscillations between switches"
    time_units: ClassVar[str] = "s"
    drift_units: ClassVar[str] = "J"
    switched: ClassVar[bool] = True

    c1: float = 0.1
    c2: float = 0.2
    l3: float = 0.5
    period: float = 3.0
    duty: float = 0.5
    duration: float = 15.0
    time_step: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self, "c1", "c2", "l3", "period", positive=True)
        check_numbers(self, "duty")
        if not 0 <= self.duty <= 1:
            raise ConfigError(f"duty={self.duty} must lie in [0, 1]: it is a part of the period")
        super().__post_init__()

    @property
    def components(self) -> Sequence[tuple[str, str]]:
        return [("V1", "V"), ("V2", "V"), ("I", "A")]

    @property
    def switch_times(self) -> np.ndarray:
        """Times within the duration at which the field jumps, increasing."""
        starts = np.arange(int(self.duration / self.period) + 1) * self.period
        times = np.stack([starts, starts + self.duty * self.period], axis=-1).ravel()
        return times[(times > 0) & (times < self.duration)]

    def constraint(self) -> ConverterEnergy:
        return ConverterEnergy(float(self.c1), float(self.c2), float(self.l3))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(0, 1, 3)

    def switch(self, t: Any) -> np.ndarray:
        """s at times `t`; at a switch, its value afterwards."""
        return np.where(np.remainder(t, self.period) / self.period < self.duty, 0.0, 1.0)

    def field(self, t: Any, u: np.ndarray) -> np.ndarray:
        s, (v1, v2, current) = self.switch(t), np.moveaxis(u, -1, 0)
        return np.stack(
            [(1 - s) * current / self.c1, s * current / self.c2, -((1 - s) * v1 + s * v2) / self.l3], axis=-1
        )

    def solve(self, start: np.ndarray) -> np.ndarray:
        first = self.duty * self.period
        cycles, within = np.divmod(self.time, self.period)
        u, states = start, []
        for cycle in range(int(cycles[-1]) + 1):
            times = within[cycles == cycle, None]
            early = self.oscillate(u, np.minimum(times, first), 0)
            states.append(self.oscillate(early, np.maximum(times - first, 0), 1))
            u = self.oscillate(self.oscillate(u, first, 0), self.period - first, 1)
        return np.moveaxis(np.concatenate(states), 0, 1)

    def oscillate(self, u: np.ndarray, t: Any, capacitor: int) -> np.ndarray:
        """States (..., 3) a time `t` later, while the coil is at `capacitor` 0 or 1."""
        c = (self.c1, self.c2)[capacitor]
        angle, impedance = t / np.sqrt(self.l3 * c), np.sqrt(self.l3 / c)
        v, current = u[..., capacitor], u[..., 2]
        turned = [
            np.cos(angle) * v + np.sin(angle) * impedance * current,
            np.cos(angle) * current - np.sin(angle) * v / impedance,
        ]
        other = np.broadcast_to(u[..., 1 - capacitor], turned[0].shape)
        return np.stack([turned[0], other, turned[1]] if capacitor == 0 else [other, *turned], axis=-1)
