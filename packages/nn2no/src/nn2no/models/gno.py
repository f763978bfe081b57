"""The graph neural operator, on clouds of any points."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from sciml.model import Example, Model
from torch import Tensor, nn

from nn2no.graph import GraphKernelIntegral, KernelKind, RadiusGraph
from nn2no.models._fields import real_type
from nn2no.quadrature import check_readable, delaunay, monte_carlo


class GNO(Model):
    """Graph neural operator (arXiv:2003.03485): layers v ↦ σ(v + ∫ K(x, ·) v(x) dx + W v) with kernels of radius r.

    Fields (batch, point, channel) with coordinates (batch | 1, point, dim) in, fields at any queries out. The value at
    a query y is an integral over the ball around y as well, so that it is the same function whatever is asked for.

    Points with a coordinate of NaN, which fill up the shorter clouds of a ragged dataset, take no part, and outputs
    there are zero.

    Parameters
    ----------
    radius
        Of all kernels, in the units of the coordinates.
    kernel, diagonal, mollified, kernel_hidden, period
        See `GraphKernelIntegral`.
    n_layers
        Layers from points to points; the integral to the queries follows them.
    volume
        Of the domain: what weights sum up to; for those of None, 1 by default. Sums of given weights are compared with
        it, or with the volume of the box of `period`.
    """

    properties = frozenset({"discretization-convergent", "torch.func"})

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        dim: int = 2,
        radius: float = 0.15,
        width: int = 24,
        n_layers: int = 3,
        kernel: KernelKind = "linear",
        diagonal: bool = True,
        mollified: bool = True,
        kernel_hidden: int = 32,
        period: Sequence[float | int] | None = None,
        volume: float | None = None,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        kind = real_type(dtype)
        if volume is None and period is not None:
            volume = math.prod(period)
        if min(in_channels, out_channels, dim, width, n_layers) < 1 or not (volume is None or volume > 0):
            raise ConfigError(
                f"in_channels={in_channels}, out_channels={out_channels}, dim={dim}, width={width}, "
                f"n_layers={n_layers}, volume={volume}: all must be positive."
            )
        self.in_channels, self.dim, self.volume = in_channels, dim, volume
        self.period = None if period is None else tuple(period)
        place = 0 if period is not None else dim
        self.lifting = nn.Sequential(
            nn.Linear(in_channels + place, 2 * width, dtype=kind), nn.GELU(), nn.Linear(2 * width, width, dtype=kind)
        )
        self.integrals = nn.ModuleList(
            GraphKernelIntegral(
                width,
                width,
                dim,
                radius,
                kernel=kernel,
                diagonal=diagonal,
                mollified=mollified,
                hidden=kernel_hidden,
                period=period,
                dtype=kind,
            )
            for _ in range(n_layers + 1)
        )
        self.skips = nn.ModuleList(nn.Linear(width, width, dtype=kind) for _ in range(n_layers))
        self.projection = nn.Sequential(
            nn.Linear(width + place, 2 * width, dtype=kind), nn.GELU(), nn.Linear(2 * width, out_channels, dtype=kind)
        )

    @classmethod
    def example(cls, resolution: int = 24) -> Example:
        """Two functions on a line, asked for at points of their own."""
        grid = Grid.uniform(resolution)
        x = grid.coords[None].float()
        f = torch.cat([torch.sin(3 * x), torch.cos(5 * x).square()])
        queries = torch.linspace(0.05, 0.95, 7)[None, :, None]
        rest = (x, grid.weights[None].float(), queries)
        refused = ((f[0], *rest), (f.expand(-1, -1, 2), *rest), (f[:, 1:], *rest), (f, x[0], *rest[1:]))
        config = {"dim": 1, "radius": 0.3, "width": 6, "n_layers": 2, "kernel_hidden": 8, "out_channels": 3}
        return Example(config, (f, *rest), refused=refused)

    def graph(
        self, coords: Float[Tensor, "cloud point dim"], queries: Float[Tensor, "cloud query dim"] | None = None
    ) -> RadiusGraph:
        """Neighbours in clouds one after the other, to be kept as long as the points are the same."""
        queries = coords if queries is None else queries
        offsets = {
            f"{name}_offsets": [i * p.shape[1] for i in range(len(p) + 1)]
            for name, p in (("source", coords), ("query", queries))
        }
        first = self.integrals[0]
        assert isinstance(first, GraphKernelIntegral)
        return first.graph(coords.flatten(0, 1), queries.flatten(0, 1), **offsets)

    def forward(
        self,
        f: Float[Tensor, "batch point channel"],
        coords: Float[Tensor, "cloud point dim"],
        weights: Float[Tensor, "cloud point"] | Literal["delaunay"] | None = None,
        queries: Float[Tensor, "cloud query dim"] | None = None,
        graph: RadiusGraph | None = None,
        query_graph: RadiusGraph | None = None,
    ) -> Float[Tensor, "batch query out_channel"]:
        """The output at `queries`, by default at the points.

        Parameters
        ----------
        weights
            Quadrature weights Δ_i, or "delaunay" to compute them here; None stands for `volume` over the number of
            points, which is right where these are uniform.
        graph, query_graph
            `self.graph(coords)` and `self.graph(coords, queries)`, where they are kept; made here by default, except
            within `torch.compile(…, fullgraph=True)`.

        Raises
        ------
        ShapeError
            Shapes that do not fit each other or the model.
        ValueError
            Delaunay weights for repeated or collinear points. Weights that are negative, not finite, or of another
            sum than the domain's volume by more than a thousandth; on the CPU, outside of compiled graphs.
        """
        self._check(f, coords, weights, queries)
        clouds, points = coords.shape[:2]
        y = coords if queries is None else queries
        graph = self.graph(coords) if graph is None else graph
        if query_graph is None:
            query_graph = graph if queries is None else self.graph(coords, y)
        real = coords.isfinite().all(-1, keepdim=True)
        asked = y.isfinite().all(-1, keepdim=True)
        w = _weights(weights, coords, real[..., 0], self.volume).to(f).reshape(-1)
        x, to = (torch.where(m, p, 0.0).to(f) for p, m in ((coords, real), (y, asked)))
        v = self.lifting(self._with_place(torch.where(real, f, 0.0), x))

        def integrate(layer: nn.Module, v: Tensor, queries: Tensor, edges: RadiusGraph) -> Tensor:
            """Each cloud on its own: all of them are one cloud, or the batch shares the only one."""
            apart = v.shape if clouds == 1 else (1, clouds * points, v.shape[-1])
            count = queries.shape[1]
            g = layer(v.reshape(apart), x.flatten(0, 1), w, queries.flatten(0, 1), edges)
            return g.reshape(len(v), count, v.shape[-1])

        *layers, last = self.integrals
        for layer, skip in zip(layers, self.skips, strict=True):
            v = F.gelu(v + integrate(layer, v, x, graph) + skip(v))
        g = self.projection(self._with_place(integrate(last, v, to, query_graph), to))
        return torch.where(asked, g, 0.0)

    def _with_place(self, v: Tensor, x: Tensor) -> Tensor:
        return v if self.period is not None else torch.cat([v, x.expand(len(v), -1, -1)], -1)

    def _check(self, f: Tensor, coords: Tensor, weights: Tensor | str | None, queries: Tensor | None) -> None:
        if f.ndim != 3 or f.shape[-1] != self.in_channels or not f.dtype.is_floating_point:
            raise ShapeError(
                f"Expected real fields (batch, point, {self.in_channels}); got {tuple(f.shape)} of {f.dtype}."
            )
        clouds, n = {1, len(f)}, f.shape[1]
        expected = {"coords": (coords, (n, self.dim)), "weights": (weights, (n,)), "queries": (queries, (self.dim,))}
        for name, (value, end) in expected.items():
            if isinstance(value, Tensor) and (
                value.ndim != len(end) + 1 + (name == "queries")
                or tuple(value.shape)[-len(end) :] != end
                or len(value) not in clouds
            ):
                shape = ", ".join(map(str, ("query", *end) if name == "queries" else end))
                raise ShapeError(
                    f"With fields {tuple(f.shape)}, {name} are ({len(f)} or 1, {shape}); got {tuple(value.shape)}."
                )
        sizes = {len(value) for value, _ in expected.values() if isinstance(value, Tensor)}
        if len(sizes) > 1:
            raise ShapeError(
                f"Coordinates, weights and queries are of {sorted(sizes)} clouds; expand those that are shared."
            )


def _weights(
    weights: Tensor | str | None, coords: Tensor, real: Tensor, volume: float | None
) -> Float[Tensor, "cloud point"]:
    if isinstance(weights, Tensor):
        weights = torch.where(real, weights, 0.0)
        check_readable(weights, volume)
        return weights
    if weights not in (None, "delaunay"):
        raise ConfigError(f"weights={weights!r}; give a tensor, 'delaunay', or None for Monte Carlo weights.")
    found = torch.zeros_like(coords[..., 0])
    for row, x, keep in zip(found, coords, real, strict=True):
        row[keep] = delaunay(x[keep]) if weights == "delaunay" else monte_carlo(x[keep], volume or 1.0)
    return found
