"""Poisson's equation on clouds of points of several densities, with its exact solution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from sciml.data import Problem
from sciml.errors import ConfigError

from nn2no.quadrature import delaunay

DENSITIES = ("mixed", "uniform", "clustered", "graded")
IN_CLUSTER = 0.7


@dataclass(frozen=True)
class PoissonCloud(Problem):
    """The map f ↦ u of −Δu = f on (0, 1)² with u = 0 on the boundary, known at scattered points.

    f = Σ_{m,n ≤ `max_mode`} a_mn sin mπx sin nπy with a_mn ~ N(0, 1)/(1 + m² + n²), so that u has the coefficients
    a_mn/(π²(m² + n²)) exactly. Everything is dimensionless.

    Between `min_points` and `max_points` points lie inside, equally likely numbers, and 4√n equispaced ones on the
    boundary with the corners, so that `weights`, those of Delaunay, add up to the area. `density` is "uniform",
    "clustered" (70 % of the points inside are in a quarter of the square, drawn at random), "mixed" (either, equally
    likely) or "graded" (density proportional to x^(-1/2) from a side drawn at random). The clouds are ragged: entries
    beyond the number of points `n` of a sample are NaN.
    """

    chunk: ClassVar[int] = 16
    ragged: ClassVar[tuple[str, ...]] = ("point",)

    min_points: int = 600
    max_points: int = 1000
    density: str = "mixed"
    max_mode: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.min_points <= self.max_points:
            raise ConfigError(
                f"min_points={self.min_points} and max_points={self.max_points}; give 1 <= min_points <= max_points"
            )
        if self.density not in DENSITIES:
            raise ConfigError(f"density={self.density!r} is unknown; choose one of {', '.join(DENSITIES)}")
        if self.max_mode < 1:
            raise ConfigError(f"max_mode={self.max_mode} must be at least 1")

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        # as long as the largest possible cloud, so that a sample is the same whatever it is generated with
        length = self.max_points + len(boundary_points(self.max_points))
        coords = np.full((len(seeds), length, 2), np.nan)
        fields = {name: np.full((len(seeds), length), np.nan) for name in ("f", "u", "weights")}
        counts = np.zeros(len(seeds), np.int64)
        for i, seed in enumerate(seeds):
            rng = np.random.default_rng(seed)
            a = sine_coefficients(rng, self.max_mode)
            x = self.cloud(rng)
            counts[i] = n = len(x)
            coords[i, :n] = x
            fields["f"][i, :n], fields["u"][i, :n] = source_and_solution(a, x)
            fields["weights"][i, :n] = delaunay(torch.as_tensor(x)).numpy()
        dims = ("sample", "point")
        names = {"f": "source", "u": "solution", "weights": "Delaunay quadrature weights"}
        variables: dict[str, Any] = {
            name: (dims, fields[name], {"units": "1", "long_name": long}) for name, long in names.items()
        }
        variables["x"] = ((*dims, "axis"), coords, {"units": "1", "long_name": "coordinates of the points"})
        variables["n"] = ("sample", counts, {"units": "1", "long_name": "number of points"})
        return xarray.Dataset(
            variables, coords={"axis": ["x", "y"]}, attrs={"solver": "exact sine series", "density": self.density}
        )

    def cloud(self, rng: np.random.Generator) -> Float[np.ndarray, "point axis"]:
        """Points inside, then points on the boundary."""
        n = int(rng.integers(self.min_points, self.max_points + 1))
        density = ("uniform", "clustered")[rng.integers(2)] if self.density == "mixed" else self.density
        return np.concatenate([interior_points(rng, n, density), boundary_points(n)])


def interior_points(rng: np.random.Generator, n: int, density: str) -> Float[np.ndarray, "{n} 2"]:
    """Independent points of one density (see `PoissonCloud`) in the open unit square."""
    x = rng.uniform(size=(n, 2))
    if density == "clustered":
        corner = rng.integers(2, size=2) / 2
        inside = rng.uniform(size=n) < IN_CLUSTER
        x[inside] = corner + x[inside] / 2
        # the others are outside of the quarter: fold those that fell into it over into the three that are left
        strays = np.flatnonzero(~inside & (np.abs(x - corner - 0.25) < 0.25).all(1))
        shift = np.array([[0.5, 0], [0, 0.5], [0.5, 0.5]])[rng.integers(3, size=len(strays))]
        x[strays] = (x[strays] + shift) % 1
    elif density == "graded":
        side, axis = rng.integers(2, size=2)
        x[:, axis] = np.abs(side - x[:, axis] ** 2)
    return x


def boundary_points(n: int) -> Float[np.ndarray, "point 2"]:
    """4 round(√n) equispaced points around the unit square, the corners among them: the spacing of n points inside."""
    m = round(math.sqrt(n))
    t = np.arange(m) / m
    zero, one = np.zeros(m), np.ones(m)
    return np.stack([np.concatenate([t, one, 1 - t, zero]), np.concatenate([zero, t, one, 1 - t])], axis=1)


def sine_coefficients(rng: np.random.Generator, max_mode: int) -> Float[np.ndarray, "{max_mode} {max_mode}"]:
    """Random a_mn of the source, m and n from 1."""
    k = np.arange(1, max_mode + 1)
    return rng.standard_normal((max_mode, max_mode)) / (1 + k[:, None] ** 2 + k**2)


def source_and_solution(
    a: Float[np.ndarray, "mode mode"], x: Float[np.ndarray, "point 2"]
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """f = Σ a_mn sin mπx sin nπy and u = Σ a_mn/(π²(m² + n²)) sin mπx sin nπy at the points."""
    k = np.arange(1, len(a) + 1)
    sines = np.sin(np.pi * k * x[:, :, None])  # (point, axis, mode)
    sines[(x == 0) | (x == 1)] = 0
    inverse = a / (np.pi**2 * (k[:, None] ** 2 + k**2))
    f, u = (np.einsum("pm,mn,pn->p", sines[:, 0], c, sines[:, 1], optimize=True) for c in (a, inverse))
    return f, u
