"""Integrals against learned kernels, over a ball of fixed radius or the whole domain (arXiv:2506.10973, §3.1, §3.4)."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sciml.errors import ConfigError, ShapeError
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nn2no.errors import ResolutionWarning
from nn2no.quadrature import check_readable

KernelKind = Literal["linear", "linear-kernel-only", "nonlinear", "nonlinear-kernel-only"]

_ENTRIES = 2**24  # numbers in one intermediate of a chunk


@dataclass(frozen=True)
class RadiusGraph:
    """The edges from sources x_i to queries y_j with |x_i - y_j| < r, by query, made with `radius_graph`.

    Attributes
    ----------
    source, query
        Indices of both ends of each edge; `query` ascends.
    start
        The edges of query j are those from start[j] to start[j + 1].
    """

    source: Int[Tensor, " edge"]
    query: Int[Tensor, " edge"]
    start: Int[Tensor, " query_plus_one"]

    @property
    def n_queries(self) -> int:
        """The number of queries, those without neighbours included."""
        return len(self.start) - 1

    def to(self, device: torch.device | str) -> "RadiusGraph":
        """The same graph on another device."""
        return RadiusGraph(self.source.to(device), self.query.to(device), self.start.to(device))


def radius_graph(
    sources: Float[Tensor, "source dim"],
    queries: Float[Tensor, "query dim"],
    radius: float | int,
    *,
    source_offsets: Sequence[int] | None = None,
    query_offsets: Sequence[int] | None = None,
    period: Sequence[float | int] | None = None,
) -> RadiusGraph:
    """All pairs nearer than `radius`, a length in the units of the coordinates, never a number of neighbours.

    Several clouds are given one after the other, with offsets (0, n_1, n_1 + n_2, …) of their sources and queries;
    edges stay within a cloud. A point with a coordinate of NaN, as fills up ragged datasets, has no edge.

    Parameters
    ----------
    period
        Lengths of a box that is periodic along every axis.

    Raises
    ------
    ConfigError
        A radius that is not positive or, with `period`, larger than half of it: a source would count once only.
    ShapeError
        Offsets that do not cover the points, or of different numbers of clouds.

    Warns
    -----
    ResolutionWarning
        With the fraction of the queries that have no neighbour; integrals over their balls are zero.
    """
    if not 0 < radius < math.inf or (period is not None and 2 * radius > min(period)):
        raise ConfigError(f"radius={radius} must be positive and, in a periodic box, at most half of {period}.")
    starts = [[0, len(p)] if o is None else list(o) for p, o in ((sources, source_offsets), (queries, query_offsets))]
    if [s[-1] for s in starts] != [len(sources), len(queries)] or len(starts[0]) != len(starts[1]):
        raise ShapeError(
            f"Offsets {starts[0]} of {len(sources)} sources and {starts[1]} of {len(queries)} queries: they start with "
            "0, end with the number of points, and have one entry more than there are clouds."
        )
    x, y = (p.detach().cpu().double().numpy() for p in (sources, queries))
    real = np.asarray(np.isfinite(y).all(axis=1))
    found, counts = [np.empty(0, np.int64)], np.zeros(len(y), np.int64)
    for a, b, c, d in zip(starts[0], starts[0][1:], starts[1], starts[1][1:], strict=False):
        keep, ask = a + np.flatnonzero(np.isfinite(x[a:b]).all(axis=1)), c + np.flatnonzero(real[c:d])
        if not len(keep) or not len(ask):
            continue
        wrapped = (x[keep], y[ask]) if period is None else (_wrap(x[keep], period), _wrap(y[ask], period))
        tree = KDTree(wrapped[0], boxsize=period)
        # the ball is open: on its sphere mollified kernels vanish, and others must decide somehow
        pairs = KDTree(wrapped[1], boxsize=period).sparse_distance_matrix(
            tree, radius * (1 - 1e-12), output_type="ndarray"
        )
        counts[ask] = np.bincount(pairs["i"], minlength=len(ask))
        found.append(keep[pairs["j"][np.argsort(pairs["i"] * len(keep) + pairs["j"])]])
    empty = int((counts[real] == 0).sum())
    if empty:
        warnings.warn(
            f"{empty} of {int(real.sum())} queries ({empty / real.sum():.1%}) have no source within {radius:g}: their "
            "integrals are zero. Use a larger radius, or more points.",
            ResolutionWarning,
            stacklevel=2,
        )
    as_tensor = lambda a: torch.as_tensor(a, device=queries.device)  # noqa: E731
    start = np.concatenate([[0], np.cumsum(counts)])
    return RadiusGraph(
        as_tensor(np.concatenate(found)), as_tensor(np.repeat(np.arange(len(y)), counts)), as_tensor(start)
    )


# compiled code leaves to search: how many edges there are depends on the coordinates
_search: Callable[..., RadiusGraph] = torch.compiler.disable(radius_graph)  # type: ignore[assignment]


def mollifier(s: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The bump (1 - s²)², continuously differentiable with w(0) = 1 and w(1) = w'(1) = 0."""
    return _bump(s.square())


def _bump(square: Tensor) -> Tensor:
    return (1 - square).clamp_min(0).square()


class Kernel(nn.Module):
    """K(x, y) or K(x, y, f(x)), a perceptron with one hidden layer; its input is y (if `place`) and (x - y)/`scale`."""

    def __init__(
        self, dim: int, features: int, hidden: int, out: int, scale: float | int, place: bool, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.scale, self.place = scale, place
        self.geometry = nn.Linear(dim * (1 + place), hidden, dtype=dtype)
        self.features = nn.Linear(features, hidden, bias=False, dtype=dtype) if features else None
        self.out = nn.Linear(hidden, out, dtype=dtype)

    def hidden(self, offset: Tensor, y: Tensor, from_f: Tensor | None = None) -> Tensor:
        """Values of the hidden layer at pairs (*pair); `from_f` (batch, *pair, hidden) is what f(x) adds."""
        z = self.geometry(torch.cat([y, offset / self.scale], -1) if self.place else offset / self.scale)
        return F.gelu(z if from_f is None else z + from_f)


class GraphKernelIntegral(nn.Module):
    """g(y) = |B_r|⁻¹ Σ_{|x_i - y| < r} K(x_i, y[, f(x_i)]) f(x_i) Δ_i w(|x_i - y|/r), eqs (11), (18) and (19).

    The radius is a length, and each *source* counts by its quadrature weight: the sum converges to an integral over the
    ball, whatever the density of the points. Its volume |B_r| is a constant that makes g of the size of f. A term
    W f(y) is the model's.

    Parameters
    ----------
    kernel
        "linear": K(x, y) f(x). "linear-kernel-only": K(x, y). "nonlinear": K(x, y, f(x)) f(x).
        "nonlinear-kernel-only": K(x, y, f(x)).
    diagonal
        K f is a product of each channel with its own kernel instead of one with a matrix; far cheaper.
    mollified
        Multiply by the bump w of `mollifier`, so that sources enter and leave the ball smoothly; without, w = 1.
    period
        Lengths of a box that is periodic along every axis. K then depends on x - y alone.

    Raises
    ------
    ConfigError
        An unknown kernel, a diagonal one for different numbers of channels, or a radius that does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dim: int,
        radius: float | int,
        *,
        kernel: KernelKind = "linear",
        diagonal: bool = False,
        mollified: bool = False,
        hidden: int = 32,
        period: Sequence[float | int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kernel not in ("linear", "linear-kernel-only", "nonlinear", "nonlinear-kernel-only"):
            raise ConfigError(
                f"kernel={kernel!r}; choose 'linear', 'linear-kernel-only', 'nonlinear' or 'nonlinear-kernel-only'."
            )
        self.times_f = not kernel.endswith("only")
        if diagonal and not (self.times_f and in_channels == out_channels):
            raise ConfigError(
                f"diagonal=True with kernel={kernel!r}, {in_channels} channels in and {out_channels} out: a diagonal "
                "kernel multiplies f, with as many channels out as in."
            )
        if not 0 < radius < math.inf or (period is not None and (len(period) != dim or 2 * radius > min(period))):
            raise ConfigError(
                f"radius={radius} must be positive and, in a periodic box of {dim} lengths, at most half of {period}."
            )
        self.in_channels, self.out_channels, self.dim, self.radius = in_channels, out_channels, dim, radius
        self.kind, self.diagonal, self.mollified = kernel, diagonal, mollified
        self.period = None if period is None else tuple(period)
        self.ball = math.pi ** (dim / 2) / math.gamma(dim / 2 + 1) * radius**dim
        matrix = self.times_f and not diagonal
        features = in_channels if kernel.startswith("nonlinear") else 0
        out = out_channels * in_channels if matrix else out_channels
        self.kernel = Kernel(dim, features, hidden, out, radius, period is None, dtype)

    def graph(
        self,
        sources: Float[Tensor, "source dim"],
        queries: Float[Tensor, "query dim"] | None = None,
        **offsets: Sequence[int] | None,
    ) -> RadiusGraph:
        """The neighbours for this layer's radius and box (see `radius_graph`), to be kept as long as the points."""
        queries = sources if queries is None else queries
        return _search(sources, queries, self.radius, period=self.period, **offsets)

    def forward(
        self,
        f: Float[Tensor, "batch source channel"],
        coords: Float[Tensor, "source dim"],
        weights: Float[Tensor, " source"],
        queries: Float[Tensor, "query dim"] | None = None,
        graph: RadiusGraph | None = None,
    ) -> Float[Tensor, "batch query out_channel"]:
        """The integral at `queries`, by default at the sources; the batch shares the points.

        The graph is made here by default, by a search that compiled code leaves for: `torch.compile` with
        `fullgraph=True` needs it from `self.graph`. Clouds that differ are given one after the other, as a batch of
        one, with the graph of all of them. Memory is bounded: edges are summed up in chunks, which the backward pass
        computes again.

        Raises
        ------
        ShapeError
            Shapes that do not fit each other, a field that is not real, or a graph of other points.
        ValueError
            Weights that are negative or not finite; on the CPU, outside of compiled graphs.
        """
        _check(f, coords, weights, self.in_channels, self.dim)
        y = coords if queries is None else queries
        graph = self.graph(coords, y) if graph is None else graph
        if graph.n_queries != len(y):
            raise ShapeError(f"The graph has {graph.n_queries} queries for {len(y)} points; make it for these points.")
        from_f = None if self.kernel.features is None else self.kernel.features(f)
        w = weights.to(f)[:, None]
        fw = f * w if self.times_f else w[None]
        width = self.kernel.out.out_features + self.kernel.out.in_features
        size = max(1, _ENTRIES // (width * (1 if from_f is None else max(1, len(f)))))

        given = (coords, y, fw, *([] if from_f is None else [from_f]))
        chunks = list(zip(graph.source.split(size), graph.query.split(size), strict=True))
        parts = [_recomputed(self._sum_over_edges, *chunk, *given, when=len(chunks) > 1) for chunk in chunks]
        return functools.reduce(torch.add, parts).expand(len(f), -1, -1) / self.ball

    def _sum_over_edges(
        self, source: Tensor, query: Tensor, x: Tensor, y: Tensor, fw: Tensor, from_f: Tensor | None = None
    ) -> Tensor:
        terms = self._terms(x[source], y[query], fw[:, source], None if from_f is None else from_f[:, source])
        return terms.new_zeros(*terms.shape[:1], len(y), self.out_channels).index_add(1, query, terms)

    def _terms(self, x: Tensor, y: Tensor, fw: Tensor, from_f: Tensor | None) -> Tensor:
        """K(x, y[, f]) [f] Δ w at each edge: (batch, edge, out_channel)."""
        offset = x - y
        if self.period is not None:
            box = offset.new_tensor(self.period)
            offset = offset - box * torch.round(offset / box)
        K = self.kernel.out(self.kernel.hidden(offset, y, from_f))
        if self.mollified:
            # of s², as the distance itself has no derivative where a query is a source
            K = K * _bump(offset.square().sum(-1, keepdim=True) / self.radius**2)
        if not self.times_f or self.diagonal:
            return K * fw
        product = "emc,bec->bem" if from_f is None else "bemc,bec->bem"
        return torch.einsum(product, K.unflatten(-1, (self.out_channels, self.in_channels)), fw)

    def extra_repr(self) -> str:
        flags = f"diagonal={self.diagonal}, mollified={self.mollified}"
        return f"{self.in_channels}, {self.out_channels}, radius={self.radius:g}, kernel={self.kind!r}, {flags}"


class IntegralTransform(nn.Module):
    """g(y) = Σ_i K(x_i, y) f(x_i) Δ_i + b(y) over all of the domain, a fully connected layer made an operator (§3.1).

    K(x, y), a matrix, and b are perceptrons. The nonlinear variant is g(y) = Σ_i K(x_i, y, f(x_i)) Δ_i + b(y). The cost
    is that of all pairs; their values are never all in memory.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dim: int,
        *,
        nonlinear: bool = False,
        hidden: int = 32,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.dim, self.nonlinear = in_channels, out_channels, dim, nonlinear
        out = out_channels if nonlinear else out_channels * in_channels
        self.kernel = Kernel(dim, in_channels if nonlinear else 0, hidden, out, 1.0, True, dtype)
        self.bias = nn.Sequential(
            nn.Linear(dim, hidden, dtype=dtype), nn.GELU(), nn.Linear(hidden, out_channels, dtype=dtype)
        )

    def forward(
        self,
        f: Float[Tensor, "batch source channel"],
        coords: Float[Tensor, "source dim"],
        weights: Float[Tensor, " source"],
        queries: Float[Tensor, "query dim"] | None = None,
    ) -> Float[Tensor, "batch query out_channel"]:
        """The integral at `queries`, by default at the sources; errors as of `GraphKernelIntegral`."""
        _check(f, coords, weights, self.in_channels, self.dim)
        y = coords if queries is None else queries
        from_f = None if self.kernel.features is None else self.kernel.features(f)[:, None]
        w = weights.to(f)
        fw = f * w[:, None]
        size = max(1, _ENTRIES // max(1, len(coords) * self.kernel.out.in_features * (len(f) if self.nonlinear else 1)))

        def rows(y: Tensor) -> Tensor:
            """g(y) - b(y); K = A h + a is linear in the hidden h, so Σ_i A h_i f_i Δ_i = A Σ_i h_i (f_i Δ_i)."""
            h = self.kernel.hidden(coords - y[:, None], y[:, None].expand(-1, len(coords), -1), from_f)
            if self.nonlinear:
                return torch.einsum("bqsh,s->bqh", h, w) @ self.kernel.out.weight.T + w.sum() * self.kernel.out.bias
            A, a = (t.unflatten(0, (self.out_channels, -1)) for t in (self.kernel.out.weight, self.kernel.out.bias))
            moments = torch.einsum("qsh,bsc->bqhc", h, fw)
            return torch.einsum("mch,bqhc->bqm", A, moments) + (fw.sum(1) @ a.T)[:, None]

        chunks = y.split(size)
        return torch.cat([_recomputed(rows, part, when=len(chunks) > 1) for part in chunks], 1) + self.bias(y)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, nonlinear={self.nonlinear}"


def _recomputed(function: Callable[..., Tensor], *arguments: Tensor, when: bool) -> Tensor:
    """`function(*arguments)`; `when` its intermediates are too many to keep, the backward pass computes them again."""
    if when and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)  # type: ignore[return-value]
    return function(*arguments)


def _wrap(x: np.ndarray, period: Sequence[float]) -> np.ndarray:
    box = np.asarray(period, float)
    wrapped = np.mod(x, box)
    return np.where(wrapped < box, wrapped, 0.0)  # mod of a tiny negative number rounds up to the period


def _check(f: Tensor, coords: Tensor, weights: Tensor, channels: int, dim: int) -> None:
    n = len(coords) if coords.ndim else 0
    if f.ndim != 3 or tuple(f.shape[1:]) != (n, channels) or tuple(coords.shape[1:]) != (dim,) or weights.shape != (n,):
        raise ShapeError(
            f"Expected f (batch, source, {channels}), coordinates (source, {dim}) and weights (source); got "
            f"{tuple(f.shape)}, {tuple(coords.shape)} and {tuple(weights.shape)}."
        )
    if not (f.dtype.is_floating_point and coords.dtype.is_floating_point):
        raise ShapeError(f"Fields and coordinates are real; got {f.dtype} and {coords.dtype}: convert them to float.")
    check_readable(weights)
