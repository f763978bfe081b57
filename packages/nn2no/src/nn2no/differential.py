"""Convolutions whose stencils shrink with the grid and so become differential operators (arXiv:2402.16845)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn

from nn2no.local import CONV, extend_axis


class DifferentialConv(nn.Module):
    """g(x) = (h₀/h) [Σ_a w_a f(x + (a - p)h) - (Σ_a w_a) f(x)], p = (k - 1)/2, tends to h₀ Σ_a w_a (a - p)·∇f(x).

    The stencil moves with the spacing h of the grid; h₀ is the spacing at which it is what it was trained as. Constants
    are mapped to zero for all weights. Weights without first moments, which leave nothing of ∇f, give second
    derivatives with the factor h₀ h/2, and so on. Beyond non-periodic ends f is continued linearly.

    Parameters
    ----------
    base_spacing
        h₀ of every axis, in units of the grid's lengths; one to three of them say on how many axes the fields are.

    Raises
    ------
    ConfigError
        An even kernel size, or spacings that are not positive, or more than three of them.
    """

    dims: tuple[int, ...] = (1, 2, 3)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        base_spacing: Sequence[float],
        kernel_size: int = 3,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size={kernel_size}; give an odd number from 3 on, which has a centre.")
        if len(base_spacing) not in self.dims or not all(0 < h < math.inf for h in base_spacing):
            counts = " or ".join(map(str, self.dims))
            raise ConfigError(f"base_spacing={tuple(base_spacing)}; give {counts} positive numbers.")
        self.in_channels = in_channels
        self.base_spacing = tuple(float(h) for h in base_spacing)
        dim = len(self.base_spacing)
        bound = 1 / math.sqrt(in_channels * kernel_size**dim)
        shape = (out_channels, in_channels, *(kernel_size,) * dim)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype).uniform_(-bound, bound))

    def forward(
        self, f: Float[Tensor, "batch channel *space"], grid: Grid
    ) -> Float[Tensor, "batch out_channel *space"]:
        """The operator at the nodes of `grid`, on which `f` is given.

        Raises
        ------
        ShapeError
            `f` has other channels or axes or is no field on `grid`, or an axis is not uniform.
        ConfigError
            The axes are refined by different factors, for which one factor h₀/h has no meaning.
        """
        grid.check(f)
        dim = len(self.base_spacing)
        if f.ndim != dim + 2 or f.shape[1] != self.in_channels:
            space = ", ".join(("nx", "ny", "nz")[:dim])
            raise ShapeError(f"Expected (batch, {self.in_channels}, {space}); got {tuple(f.shape)}.")
        if any(axis.kind != "uniform" for axis in grid.axes):
            raise ShapeError("DifferentialConv needs equispaced axes; interpolate to a uniform grid first.")
        refinement = [h0 / axis.spacing for h0, axis in zip(self.base_spacing, grid.axes, strict=True)]
        if not all(math.isclose(refinement[0], r, rel_tol=1e-6) for r in refinement):
            factors = ", ".join(f"{r:g}" for r in refinement)
            raise ConfigError(
                f"The axes are refined by {factors} relative to {self.base_spacing}; refine all by the same factor."
            )
        width = self.weight.shape[-1] // 2
        for axis, line in enumerate(grid.axes, start=2):
            f = _continue(f, axis, width, line.periodic)
        total = self.weight.sum(tuple(range(2, dim + 2)), keepdim=True)
        centre = F.pad(total, (width,) * (2 * dim))
        return CONV[dim](f, (self.weight - centre) * refinement[0])

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {len(self.weight)}, kernel_size={self.weight.shape[-1]}, h0={self.base_spacing}"


class DifferentialConv2d(DifferentialConv):
    """A `DifferentialConv` with two spacings."""

    dims = (2,)


def _continue(f: Tensor, dim: int, width: int, periodic: bool) -> Tensor:
    """`width` more nodes at both ends of the axis: the same function again, or the last segment prolonged."""
    n = f.shape[dim]
    if periodic:
        return extend_axis(f, dim, width, width, "circular")
    first, last = f.narrow(dim, 0, 1), f.narrow(dim, n - 1, 1)
    shape = [1] * f.ndim
    shape[dim] = width
    steps = torch.arange(1, width + 1, dtype=f.dtype, device=f.device).view(shape)
    before = first - steps.flip(dim) * (f.narrow(dim, 1, 1) - first)
    after = last + steps * (last - f.narrow(dim, n - 2, 1))
    return torch.cat([before, f, after], dim)
