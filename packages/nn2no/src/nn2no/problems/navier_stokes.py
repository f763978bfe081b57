"""Forced two-dimensional turbulence: pairs of a random forcing and the vorticity that it has stirred up."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from sciml.data import Problem
from sciml.errors import ConfigError

from nn2no.problems._vorticity import SCHEMES, solve_vorticity

VARIANCE = 27.0


@dataclass(frozen=True)
class NavierStokes(Problem):
    """The map f ↦ ω(T) of ∂ₜω + u·∇ω = Δω/Re + f from rest, on the periodic square [0, 2π)² (spec of 2506.10973, data).

    `x` is the forcing, `y` the vorticity at T = `duration`; everything is dimensionless. One seed is the same forcing
    on every grid. The default Reynolds number 100 is that of the preset `small`: there 64² nodes resolve the vorticity
    to 3e-4, while at Re = 500, of the preset `paper`, they do to 1.1 % and 128² to 4e-4.

    Tensors are made on torch's default device: `with torch.device(…): problem.generate(…)` computes elsewhere.
    """

    chunk: ClassVar[int] = 16
    accuracy: ClassVar[float] = 1e-6

    resolution: int = 64
    reynolds: float = 100.0
    duration: float = 5.0
    scheme: str = "if-rk4"
    cfl: float = 0.5
    max_step: float = 0.05
    dtype: str = "float64"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.resolution, int) or self.resolution < 4:
            raise ConfigError(f"resolution={self.resolution} must be a whole number, at least 4")
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f"dtype={self.dtype!r}; choose 'float32' or 'float64'")
        if self.scheme not in SCHEMES:
            raise ConfigError(f"scheme={self.scheme!r} is unknown; choose one of {', '.join(SCHEMES)}")
        for name in ("reynolds", "duration", "cfl", "max_step"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive")

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        forcing = torch.as_tensor(sample_forcing(seeds, self.resolution), dtype=getattr(torch, self.dtype))
        vorticity = solve_vorticity(
            torch.zeros_like(forcing),
            forcing,
            reynolds=self.reynolds,
            duration=self.duration,
            scheme=self.scheme,  # type: ignore[arg-type]
            cfl=self.cfl,
            max_step=self.max_step,
        )
        nodes = 2 * math.pi * np.arange(self.resolution) / self.resolution
        dims = ("sample", "x1", "x2")
        return xarray.Dataset(
            {
                "x": (dims, forcing.numpy(force=True), {"units": "1", "long_name": "forcing of the vorticity"}),
                "y": (dims, vorticity.numpy(force=True), {"units": "1", "long_name": "vorticity at the end"}),
            },
            coords={dim: (dim, nodes, {"units": "1", "period": 2 * math.pi}) for dim in dims[1:]},
            attrs={"solver": f"pseudo-spectral, {self.scheme}", "reynolds": self.reynolds, "duration": self.duration},
        )

    def refined(self) -> "NavierStokes":
        """The same problem with half the time step."""
        return replace(self, cfl=self.cfl / 2, max_step=self.max_step / 2)


def sample_forcing(seeds: Sequence[np.random.SeedSequence], resolution: int) -> Float[np.ndarray, "sample x1 x2"]:
    """√2 σ Σ_{k≠0} (|k|² + 9)⁻² Re[(ξ_k + iη_k) exp(ik·x)], σ² = 27, ξ and η standard normal, |k_l| < resolution/2.

    This reads the covariance 27 (−Δ + 9)⁻⁴ of the data family (arXiv:2310.00120) so that the rms is 0.27. The
    numbers are drawn in shells of max |k_l|, from the inner ones outward: on a finer grid only modes are added.
    """
    k1, k2 = _shells((resolution - 1) // 2)
    amplitude = math.sqrt(2 * VARIANCE) * (k1**2 + k2**2 + 9.0) ** -2
    spectrum = np.zeros((len(seeds), resolution, resolution), complex)
    for row, seed in zip(spectrum, seeds, strict=True):
        xi, eta = np.random.default_rng(seed).standard_normal((len(k1), 2)).T
        row[k1, k2] = amplitude * (xi + 1j * eta)
    return np.fft.ifft2(spectrum, norm="forward").real.copy()


@functools.lru_cache(maxsize=8)
def _shells(radius: int) -> tuple[Any, Any]:
    """All wave numbers with 0 < max |k_l| <= radius, shell by shell, in an order that every radius shares."""
    m = np.arange(-radius, radius + 1)
    k1, k2 = (k.ravel() for k in np.meshgrid(m, m, indexing="ij"))
    order = np.argsort(np.maximum(abs(k1), abs(k2)), kind="stable")[1:]
    return k1[order], k2[order]
