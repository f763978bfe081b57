"""Delaunay triangulation of scattered points: P1 weights, interpolation and gradients; Voronoi cells."""

import math
from functools import cached_property
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull, Delaunay, HalfspaceIntersection, KDTree, QhullError

_ADVICE = "Drop them, or use Monte Carlo weights ('monte-carlo' of a PointCloud), which need no triangulation."


class Triangulation:
    """Simplices over points (point, dim); in one dimension the intervals between sorted points."""

    def __init__(self, points: np.ndarray) -> None:
        # rounding inside is relative to the extent, wherever the points are and however far apart
        self.low, self.scale = points.min(0), float(np.ptp(points, axis=0).max()) or 1.0
        self.points, self.unit = points, (points - points.min(0)) / self.scale
        n, self.dim = points.shape
        repeated = n - len(np.unique(points, axis=0))
        if repeated:
            raise ValueError(f"{repeated} of {n} points repeat another one. {_ADVICE}")
        if n <= self.dim:
            raise ValueError(
                f"{n} points span no volume in {self.dim} dimensions; give at least {self.dim + 1}. {_ADVICE}"
            )
        if self.dim == 1:
            order = np.argsort(points[:, 0])
            self.simplices = np.stack([order[:-1], order[1:]], axis=1)
            return
        try:
            self.qhull = Delaunay(self.unit)
        except QhullError:
            raise ValueError(f"The {n} points lie on a line or plane and span no volume. {_ADVICE}") from None
        lost = len(self.qhull.coplanar)
        if lost:
            raise ValueError(f"{lost} of {n} points coincide with another one up to rounding. {_ADVICE}")
        self.simplices = self.qhull.simplices.astype(np.int64)

    @cached_property
    def volumes(self) -> np.ndarray:
        corners = self.unit[self.simplices]
        unit = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1])) / math.factorial(self.dim)
        return unit * self.scale**self.dim

    @cached_property
    def elements(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vertices (simplex, dim + 1), gradients of their hat functions (simplex, dim + 1, dim), volumes."""
        # slivers that cocircular points on the hull leave have no volume and no gradient
        keep = self.volumes > 1e-12 * self.volumes.max()
        corners = self.unit[self.simplices[keep]]
        rest = np.swapaxes(np.linalg.inv(corners[:, 1:] - corners[:, :1]), 1, 2)
        gradients = np.concatenate([-rest.sum(1, keepdims=True), rest], axis=1)
        return self.simplices[keep], gradients / self.scale, self.volumes[keep]

    def node_weights(self) -> np.ndarray:
        """The integrals of the hat functions: every vertex has an equal share of a simplex."""
        share = np.repeat(self.volumes / (self.dim + 1), self.dim + 1)
        return np.bincount(self.simplices.ravel(), share, minlength=len(self.points))

    def locate(self, x: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and barycentric coordinates (point, dim + 1) of `x`; outside, the nearest node alone.

        `eps` is the relative rounding of `x` and of the points, by which points on the hull may lie beyond it.
        """
        x = (x - self.low) / self.scale
        if self.dim == 1:
            starts = self.unit[self.simplices[:, 0], 0]
            index = np.clip(np.searchsorted(starts, x[:, 0], side="right") - 1, 0, len(starts) - 1)
            left, right = self.unit[self.simplices[index], 0].T
            t = (x[:, 0] - left) / (right - left)
            shares = np.stack([1 - t, t], axis=1)
            outside = (t < 0) | (t > 1)
        else:
            index = self.qhull.find_simplex(x)
            beyond = index < 0  # by rounding only, if a small pull towards the centre brings the point inside
            pull = 32 * eps * max(1.0, float(np.abs(self.points).max()) / self.scale)
            x[beyond] += pull * (self.unit.mean(0) - x[beyond])
            index[beyond] = self.qhull.find_simplex(x[beyond])
            outside = index < 0
            transform = self.qhull.transform[index]
            partial = np.einsum("mij,mj->mi", transform[:, : self.dim], x - transform[:, self.dim])
            shares = np.concatenate([partial, 1 - partial.sum(1, keepdims=True)], axis=1)
        vertices = self.simplices[index].copy()
        if outside.any():
            vertices[outside] = np.reshape(KDTree(self.unit).query(x[outside])[1], (-1, 1))
            shares[outside] = np.eye(self.dim + 1)[0]
        return vertices, shares


def voronoi_weights(mesh: Triangulation, bounds: Any = None) -> np.ndarray:
    """Volumes of the Voronoi cells within the convex hull, or within the box `bounds` (dim, 2)."""
    points, dim = mesh.points, mesh.dim
    low, high = points.min(0), points.max(0)
    if bounds is not None:
        box = np.asarray(bounds, dtype=float)
        if box.shape != (dim, 2) or not (box[:, 0] < box[:, 1]).all():
            raise ValueError(f"bounds must be {dim} pairs (lower, upper); got {np.asarray(bounds).tolist()}.")
        outside = int(((points < box[:, 0]) | (points > box[:, 1])).any(1).sum())
        if outside:
            raise ValueError(f"{outside} of {len(points)} points lie outside bounds; enlarge bounds or drop them.")
        low, high = box.T
    if dim == 1:
        order = np.argsort(points[:, 0])
        x = points[order, 0]
        walls = np.concatenate([low, (x[1:] + x[:-1]) / 2, high])
        return np.diff(walls)[np.argsort(order)]
    scale = (high - low).max()  # rounding below is then relative
    points, low, high = (points - low) / scale, 0 * low, (high - low) / scale
    if bounds is None:
        facets = ConvexHull(points).equations  # a x + b <= 0
        center = points.mean(0)
    else:
        facets = np.vstack([np.column_stack([np.eye(dim), -high]), np.column_stack([-np.eye(dim), low])])
        center = (low + high) / 2
    starts, neighbours = mesh.qhull.vertex_neighbor_vertices
    cells = (points[neighbours[a:b]] - p for p, a, b in zip(points, starts[:-1], starts[1:], strict=True))
    volumes = [_cell_volume(to, facets, p, center) for p, to in zip(points, cells, strict=True)]
    return np.array(volumes) * scale**dim


def _cell_volume(to_neighbours: np.ndarray, facets: np.ndarray, p: np.ndarray, center: np.ndarray) -> float:
    """The volume of {y : n·y <= |n|²/2 for all neighbours n, and p + y inside the facets}."""
    scale = np.linalg.norm(to_neighbours, axis=1).min()
    n = to_neighbours / scale
    bisectors = np.column_stack([n, -(n**2).sum(1) / 2])
    walls = np.column_stack([facets[:, :-1], np.minimum(facets[:, :-1] @ p + facets[:, -1], 0) / scale])
    inward = (center - p) / scale
    # no bisector is nearer than 1/2, so a step of 1/4 towards the centre is strictly inside the cell
    interior = inward * min(0.5, 0.25 / max(float(np.linalg.norm(inward)), 1e-300))
    corners = HalfspaceIntersection(np.vstack([bisectors, walls]), interior).intersections
    return float(ConvexHull(corners).volume) * scale ** len(p)
