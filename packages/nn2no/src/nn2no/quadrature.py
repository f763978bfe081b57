"""Quadrature weights Δ_i, with ΣΔ_i = |D| and Σ φ(x_i) Δ_i ≈ ∫_D φ (arXiv:2506.10973, §2.1 and Alg. 1).

The nodes that the rules of one dimension weigh are those of `sciml.grids.Grid`; a tensor grid has products of them.
"""

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid, PointCloud
from torch import Tensor


def trapezoid(n: int, length: float | int = 1.0) -> Float[Tensor, " {n}"]:
    """For n nodes from wall to wall of [0, length]; exact for linear functions, of second order for smooth ones."""
    return Grid.uniform(n, length).weights


def midpoint(n: int, length: float | int = 1.0) -> Float[Tensor, " {n}"]:
    """For the centres of n equal cells of [0, length], or n periodic nodes; exact for linear functions on cells."""
    return Grid.uniform(n, length, centering="cell").weights


def gauss_legendre(n: int, length: float | int = 1.0) -> Float[Tensor, " {n}"]:
    """For the n Gauss-Legendre nodes of [0, length]; exact for polynomials of degree 2n - 1."""
    return Grid.gauss_legendre(n, length).weights


def delaunay(coords: Float[Tensor, "point dim"]) -> Float[Tensor, " point"]:
    """For any points: the integrals of the hat functions of their Delaunay triangulation, exact for linear functions.

    They cover the convex hull only: give points on the boundary. ValueError for repeated or collinear points, for
    which there is `monte_carlo`.
    """
    return PointCloud(coords).weights


def monte_carlo(coords: Float[Tensor, "*batch point dim"], volume: float | int = 1.0) -> Float[Tensor, "*batch point"]:
    """|D|/n for n points that are independent and uniform in a domain of that volume; of order 1/2."""
    if not coords.dtype.is_floating_point:
        raise ShapeError(f"Coordinates are floating, as their weights will be; got {coords.dtype}.")
    if not volume > 0:
        raise ConfigError(f"volume={volume} must be positive: it is that of the domain.")
    return coords.new_full(coords.shape[:-1], volume / coords.shape[-2])


def for_grid(grid: Grid) -> Float[Tensor, "*space"]:
    """The weights of the grid's own rule: trapezoidal, midpoint, Clenshaw-Curtis or Gauss-Legendre on each axis."""
    return grid.weights


def check_weights(
    weights: Float[Tensor, " any"],
    coords_or_n: Float[Tensor, "point dim"] | int,
    volume: float | int | None = None,
) -> None:
    """Raise unless there is one finite weight >= 0 for each point and, with `volume`, their sum is |D| to 1e-3.

    Raises
    ------
    ShapeError
        Another number of weights than points.
    ValueError
        Weights that are negative, not finite, or of another sum.
    """
    coords = torch.zeros(coords_or_n, 1) if isinstance(coords_or_n, int) else coords_or_n
    PointCloud(coords, weights)
    total = float(weights.double().sum())
    if volume is not None and not abs(total - volume) <= 1e-3 * volume:
        raise ValueError(
            f"The weights sum up to {total:.6g}, the domain has the volume {volume:.6g}: multiply them by "
            f"{volume / total if total else float('nan'):.6g}, or add points on the boundary, which the convex hull of "
            "a Delaunay triangulation needs."
        )


def check_readable(weights: Float[Tensor, "*clouds point"] | None, volume: float | int | None = None) -> None:
    """`check_weights`, cloud by cloud, of what a layer is given, where reading it costs nothing.

    Weights on an accelerator, for which the program would have to wait, and those within `torch.compile` or a transform
    of `torch.func` pass unread.
    """
    if weights is None or not weights.numel() or weights.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if torch._C._functorch.peek_interpreter_stack() is not None:  # type: ignore[attr-defined]
        return
    clouds = weights.detach().reshape(1 if volume is None else -1, -1 if volume is None else weights.shape[-1])
    for cloud in clouds:
        check_weights(cloud, len(cloud), volume)
