"""Functions to minimise, with where to start and what is to be found."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Bool, Float
from sciml.data import Problem
from sciml.errors import ConfigError, ShapeError
from torch import Tensor

from symplectic_opt.problems._common import check_whole

Function = Callable[[Tensor], Tensor]


class Objective(Problem):
    """Base of functions f: R^d → R whose minimum is known; numbers have no units.

    `generate(n, seed)` gives random starting points `start` (sample, component) with f there (`start_value`), the
    `minimizer` nearest to each, and the `minimum`. Subclasses write f as a formula on tensors (*batch, d) without
    in-place operations, so that automatic differentiation and `torch.func` apply.
    """

    chunk: ClassVar[int] = 16

    @property
    def dim(self) -> int:
        """Number of components d."""
        raise NotImplementedError

    @property
    def start(self) -> Float[Tensor, " d"]:
        """The published starting point; where that is random, one draw from its distribution."""
        raise NotImplementedError

    @property
    def minimizers(self) -> Float[Tensor, "count d"]:
        """All points where f is smallest."""
        raise NotImplementedError

    @property
    def minimum(self) -> float:
        """The smallest value of f; 0 where a subclass does not say otherwise."""
        return 0.0

    def formula(self, dtype: torch.dtype, device: torch.device) -> Function:
        """f, with its constants of this type on this device."""
        raise NotImplementedError

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A random starting point (d,)."""
        raise NotImplementedError

    def domain(self, x: Float[Tensor, "*batch d"]) -> Bool[Tensor, "*batch"]:
        """Whether f is defined at each point; elsewhere its values are not finite."""
        return x.isfinite().all(-1)

    def function(self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Function:
        """f from points (*batch, d) of this type and device to values (*batch).

        Raises
        ------
        ShapeError
            When called on points of another number of components.
        ConfigError
            When called on points of another type.
        """
        f, dim = self.formula(dtype, torch.device(device)), self.dim

        def value(x: Tensor) -> Tensor:
            if x.shape[-1:] != (dim,):
                raise ShapeError(
                    f"{type(self).__name__} is a function of {dim} components, the last dimension of x; "
                    f"its shape is {tuple(x.shape)}"
                )
            if x.dtype != dtype:
                raise ConfigError(f"this is a function of {dtype}, and x of {x.dtype}: make it by function({x.dtype})")
            return f(x)

        return value

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        start = torch.from_numpy(np.stack([self.draw(np.random.default_rng(seed)) for seed in seeds]))
        nearest = torch.cdist(start, self.minimizers).argmin(1)
        return described(
            start=start.numpy(),
            start_value=self.function()(start).numpy(),
            minimizer=self.minimizers[nearest].numpy(),
            minimum=np.full(len(seeds), self.minimum),
        )


class ObjectiveInDimension(Objective):
    """Base of functions that exist in every dimension from `least` on, with one minimizer c·1.

    Raises
    ------
    ConfigError
        If the dimension is smaller than `least` or no whole number.
    """

    least: ClassVar[int] = 1
    minimizer: ClassVar[float] = 0.0
    dimension: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "dimension", self.least)

    @property
    def dim(self) -> int:
        return self.dimension

    @property
    def minimizers(self) -> Float[Tensor, "count d"]:
        return constant(self.minimizer, self.dim)[None]


class RandomObjective(Objective):
    """Base of functions made of random numbers, one for each `seed`; they start from a fixed point.

    `generate(n, seed)` gives n of them: `instance` (sample) is the seed that makes one, with its `minimizer` and
    `minimum`.
    """

    chunk: ClassVar[int] = 4
    seed: int

    def random_instance(self, rng: np.random.Generator) -> "RandomObjective":
        """One of these functions."""
        return dataclasses.replace(self, seed=int(rng.integers(2**31)))  # type: ignore[type-var]

    def simulate(self, seeds: Sequence[np.random.SeedSequence]) -> xarray.Dataset:
        instances = [self.random_instance(np.random.default_rng(seed)) for seed in seeds]
        return described(
            instance=np.array([one.seed for one in instances]),
            minimizer=np.stack([one.minimizers[0].numpy() for one in instances]),
            minimum=np.array([one.minimum for one in instances]),
        )


def constant(value: float, dim: int) -> Float[Tensor, " d"]:
    """The point value·1."""
    return torch.full((dim,), value, dtype=torch.float64)


def described(**variables: Any) -> xarray.Dataset:
    """Variables (sample) or (sample, component) without units."""
    data = xarray.Dataset(
        {name: (("sample", "component")[: value.ndim], value, {"units": "1"}) for name, value in variables.items()}
    )
    return data.assign_coords(component=np.arange(data.sizes["component"]))
