"""Operators that encode their input as numbers and decode a function of the point: DeepONet and NOMAD."""

import abc
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid, PointCloud
from sciml.model import Example, Model
from torch import Tensor, nn

from nn2no.embedding import CoordinateEmbedding
from nn2no.encoding import (
    CoordinateFeatures,
    FunctionDecoder,
    FunctionEncoder,
    LearnedBasis,
    NonlinearDecoder,
    mlp,
    points_of,
)
from nn2no.fourier import lines_of, volume_shares
from nn2no.models._fields import check_field, real_type, sample_field

EncoderKind = Literal["integral", "sensors"]


class BranchOperator(Model, abc.ABC):
    """An operator whose `Branch` makes numbers of the input and whose `decode` makes values at points of them."""

    branch: "Branch"

    @property
    def in_channels(self) -> int:
        """Of the fields that it takes."""
        return self.branch.in_channels

    @property
    def lengths(self) -> list[float]:
        """Of the domain."""
        return self.branch.lengths

    @property
    def periodic(self) -> list[bool]:
        """Which axes of the domain close."""
        return self.branch.periodic

    @abc.abstractmethod
    def decode(
        self, w: Float[Tensor, "batch number"], coords: Float[Tensor, "cloud point dim"]
    ) -> Float[Tensor, "batch point channel"]:
        """The output at points, which are the same for all samples (cloud = 1) or not."""

    @classmethod
    def example(cls, resolution: int = 16) -> Example:
        """Few functions and a smooth field of one channel."""
        f = sample_field((resolution, resolution))
        refused = ((f[0],), (f[:, :, 0],), (f.expand(-1, 2, -1, -1),), (f.to(torch.complex64),))
        return Example({"n_functions": 6, "width": 16, "frequencies": 2}, (f,), refused=refused)

    def forward(
        self,
        f: Float[Tensor, "batch *field"],
        grid: Grid | PointCloud | None = None,
        queries: Float[Tensor, "*cloud query dim"] | None = None,
    ) -> Float[Tensor, "batch *out_field"]:
        """The output as a field where `f` is one, or (batch, query, channel) at `queries` (query, dim) or with a batch.

        Raises
        ------
        ShapeError
            `f` has other channels or axes, is no field on `grid`, or is not real; or queries of another shape.
        """
        dim = self.branch.dim
        if queries is not None and (
            queries.ndim not in (2, 3) or queries.shape[-1] != dim or queries.shape[:-2] not in ((), (len(f),))
        ):
            raise ShapeError(
                f"Queries are points (query, {dim}) or ({len(f)}, query, {dim}); got {tuple(queries.shape)}."
            )
        w, nodes = self.branch(f, grid)
        if queries is not None:
            return self.decode(w, queries if queries.ndim == 3 else queries[None])
        g = self.decode(w, nodes)
        return g if isinstance(grid, PointCloud) else g.mT.unflatten(2, f.shape[2:])


class Branch(nn.Module):
    """From a function to numbers: inner products with learned functions, or values at sensors, and a network."""

    def __init__(
        self,
        in_channels: int,
        outputs: int,
        *,
        encoder: EncoderKind,
        sensors: Sequence[int] | None,
        n_functions: int,
        width: int,
        n_layers: int,
        lengths: Sequence[float | int],
        periodic: bool | Sequence[bool],
        frequencies: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        if encoder not in ("integral", "sensors") or (sensors is None) != (encoder == "integral"):
            raise ConfigError(
                f"encoder={encoder!r} with sensors={sensors}: choose 'integral' without, or 'sensors' with the number "
                "of sensors along each axis."
            )
        dim = len(lengths)
        box = {"lengths": lengths, "periodic": periodic, "frequencies": frequencies}
        features = CoordinateFeatures(dim, **box)
        self.in_channels, self.dim, self.lengths, self.periodic = in_channels, dim, features.lengths, features.periodic
        self.embedding = CoordinateEmbedding("raw")
        self.integral: FunctionEncoder | None = None
        self.sensors: Grid | None = None
        if sensors is None:
            basis = LearnedBasis(dim, n_functions, hidden=width, n_layers=n_layers, dtype=dtype, **box)
            self.integral, size = FunctionEncoder(basis), n_functions
        else:
            self.sensors, size = Grid.uniform(sensors, self.lengths, periodic=self.periodic), math.prod(sensors)
        self.network = mlp(in_channels * size, width, n_layers, outputs, dtype=dtype)

    def forward(self, f: Tensor, grid: Grid | PointCloud | None) -> tuple[Tensor, Tensor]:
        """The numbers (batch, number) and the coordinates (1, point, dim) of the nodes of `f`."""
        if not isinstance(grid, PointCloud):
            check_field(f, self.in_channels, self.dim)
        elif f.ndim != 3 or f.shape[2] != self.in_channels or not f.dtype.is_floating_point:
            raise ShapeError(
                f"Expected a real field (batch, point, {self.in_channels}); got {tuple(f.shape)} of {f.dtype}."
            )
        values, coords, weights = self._uniform(f) if grid is None else points_of(f, grid)
        if self.integral is not None:
            v = self.integral.on_points(values, coords, weights / math.prod(self.lengths))
        else:
            assert self.sensors is not None
            domain = grid or Grid.uniform(tuple(f.shape[2:]), self.lengths, periodic=self.periodic)
            v = domain.interpolate(f, self.sensors)
        return self.network(v.flatten(1)), coords

    def _uniform(self, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `points_of` gives on the uniform grid of the domain, in a form that can be compiled."""
        lines = lines_of(f, None, self.periodic)
        coords = self.embedding.append(f.new_empty((1, 0, *f.shape[2:])), lines).flatten(2).mT * f.new_tensor(
            self.lengths
        )
        weights = volume_shares(lines, f) * math.prod(self.lengths)
        return f.flatten(2).mT, coords, weights.reshape(1, -1)


class DeepONet(BranchOperator):
    """g_c(y) = Σ_j w_cj(f) β_j(y) + b_c: branch network w, trunk network β (arXiv:1910.03193).

    Fields of any resolution in. The branch sees their inner products with learned functions, or ("sensors", as first
    published) their values, interpolated, at the nodes of a fixed grid.

    Parameters
    ----------
    sensors
        Of the encoder "sensors": their number along each axis.
    n_functions
        Of the trunk, and of the encoder "integral".
    width, n_layers
        Hidden layers of all networks.
    lengths, periodic
        Of the domain. Coordinates, also of grids and queries, are in the same units.
    frequencies
        Sinusoids an axis that networks of the coordinates get (see `CoordinateFeatures`).
    """

    properties = frozenset({"discretization-convergent", "torch.compile", "torch.func"})

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        encoder: EncoderKind = "integral",
        sensors: Sequence[int] | None = None,
        n_functions: int = 64,
        width: int = 128,
        n_layers: int = 2,
        lengths: Sequence[float | int] = (1.0, 1.0),
        periodic: bool | Sequence[bool] = True,
        frequencies: int = 4,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        kind = real_type(dtype)
        self.branch = Branch(
            in_channels,
            out_channels * n_functions,
            encoder=encoder,
            sensors=sensors,
            n_functions=n_functions,
            width=width,
            n_layers=n_layers,
            lengths=lengths,
            periodic=periodic,
            frequencies=frequencies,
            dtype=kind,
        )
        trunk = LearnedBasis(
            len(lengths),
            n_functions,
            hidden=width,
            n_layers=n_layers,
            lengths=lengths,
            periodic=periodic,
            frequencies=frequencies,
            dtype=kind,
        )
        self.decoder = FunctionDecoder(trunk)
        self.bias = nn.Parameter(torch.zeros(out_channels, dtype=kind))

    def decode(
        self, w: Float[Tensor, "batch number"], coords: Float[Tensor, "cloud point dim"]
    ) -> Float[Tensor, "batch point channel"]:
        return self.decoder.at_points(w.unflatten(1, (len(self.bias), -1)), coords) + self.bias


class NOMAD(BranchOperator):
    """g(y) = N(w(f), y): as DeepONet, with a network of w and y for decoder (arXiv:2206.03551).

    Parameters
    ----------
    n_functions
        Of the encoder "integral", and the number of components of w.
    """

    properties = frozenset({"discretization-convergent", "torch.compile", "torch.func"})

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        encoder: EncoderKind = "integral",
        sensors: Sequence[int] | None = None,
        n_functions: int = 64,
        width: int = 128,
        n_layers: int = 2,
        lengths: Sequence[float | int] = (1.0, 1.0),
        periodic: bool | Sequence[bool] = True,
        frequencies: int = 4,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        kind = real_type(dtype)
        self.branch = Branch(
            in_channels,
            n_functions,
            encoder=encoder,
            sensors=sensors,
            n_functions=n_functions,
            width=width,
            n_layers=n_layers,
            lengths=lengths,
            periodic=periodic,
            frequencies=frequencies,
            dtype=kind,
        )
        features = CoordinateFeatures(len(lengths), lengths=lengths, periodic=periodic, frequencies=frequencies)
        self.decoder = NonlinearDecoder(
            n_functions, features, out_channels, hidden=width, n_layers=n_layers, dtype=kind
        )

    def decode(
        self, w: Float[Tensor, "batch number"], coords: Float[Tensor, "cloud point dim"]
    ) -> Float[Tensor, "batch point channel"]:
        return self.decoder.at_points(w, coords)
