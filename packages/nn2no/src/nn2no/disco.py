"""Discrete-continuous convolution: a local integral whose kernel has a physical size (arXiv:2506.10973, §3.3)."""

import functools
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn

from nn2no.local import Continuation, extend
from nn2no.scale import fixed

DiscoBasis = Literal["piecewise-linear", "zernike", "morlet"]
Boundary = Literal["zeros", "reflect"]

_LARGE = 64  # points under a kernel from which transforms are faster than the direct sum (measured on a CPU)


class DiscoConv2d(nn.Module):
    """g(y) = Σ_b W_b Σ_i ψ_b(x_i - y) f(x_i) Δ_i + bias, with ψ_b supported in the disk of a physical radius.

    The nodes y are those of the grid of `f`, any uniform grid of any spacing. Periodic axes wrap around; beyond the
    others `f` is zero or reflected. Discretely ∫ψ_b = 1 (for "zernike" and "morlet", which change sign, ∫|ψ_b| = 1).

    Parameters
    ----------
    radius
        In the units of the grid; at least about 1.5 cells of the coarsest grid, for three or more rings 2.
    kernel_shape
        "piecewise-linear": (rings n_r, angles n_φ), n_r//2·n_φ + n_r%2 functions, the hats of a polar grid.
        "zernike": (n, n), the n(n + 1)/2 polynomials of a degree below n. "morlet": (n_x, n_y), their product waves
        1, sin πx/r, cos πx/r, sin 2πx/r, … along each axis under the window cos²(πρ/2r).

    Raises
    ------
    ConfigError
        An unknown basis or boundary, or a shape or radius that is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        radius: float,
        kernel_shape: tuple[int, int] = (3, 4),
        *,
        basis: DiscoBasis = "piecewise-linear",
        boundary: Boundary = "zeros",
        bias: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if basis not in _BASES:
            raise ConfigError(f"basis={basis!r}; choose 'piecewise-linear', 'zernike' or 'morlet'.")
        if boundary not in ("zeros", "reflect"):
            raise ConfigError(f"boundary={boundary!r}; choose 'zeros' or 'reflect' (periodic axes always wrap).")
        if min(kernel_shape) < 1 or not 0 < radius < math.inf:
            raise ConfigError(f"kernel_shape={kernel_shape} and radius={radius} must be positive.")
        if basis == "zernike" and kernel_shape[0] != kernel_shape[1]:
            raise ConfigError(f"kernel_shape={kernel_shape}: Zernike polynomials have one degree; give (n, n).")
        self.in_channels, self.out_channels, self.radius = in_channels, out_channels, float(radius)
        self.basis: DiscoBasis = basis
        self.boundary: Boundary = boundary
        self.kernel_shape = (int(kernel_shape[0]), int(kernel_shape[1]))
        n_basis = len(_BASES[basis](torch.zeros(1), torch.zeros(1), self.kernel_shape))
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, n_basis, dtype=dtype) * in_channels**-0.5)
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels, dtype=dtype)) if bias else None)

    def forward(self, f: Float[Tensor, "batch channel nx ny"], grid: Grid) -> Float[Tensor, "batch out_channel nx ny"]:
        """The integral at the nodes of `grid`, on which `f` is given.

        Raises
        ------
        ShapeError
            `f` is no field on `grid` or has other channels, or the grid is not uniform and two-dimensional.
        ConfigError
            A basis function sees no node but the centre: the grid is too coarse for the radius.
        """
        grid.check(f)
        if f.ndim != 4 or f.shape[1] != self.in_channels:
            raise ShapeError(f"Expected (batch, {self.in_channels}, nx, ny); got {tuple(f.shape)}.")
        if any(axis.kind != "uniform" for axis in grid.axes):
            raise ShapeError("DiscoConv2d needs equispaced axes; interpolate to a uniform grid first.")
        hx, hy = (fixed(axis.spacing) for axis in grid.axes)
        # transforms, and weights of less than 1/64, need more than half precision
        kind = torch.float32 if f.dtype in (torch.float16, torch.bfloat16) else f.dtype
        psi = _constant_filters(self.radius, self.kernel_shape, hx, hy, self.basis, kind, f.device)
        sizes = tuple(psi.shape[1:])
        modes: list[Continuation] = []
        for dim, axis in enumerate(grid.axes, start=2):
            half_cells = axis.centering == "node" and not axis.periodic and self.boundary == "zeros"
            if half_cells:  # the trapezoidal rule of f, which is zero from the wall on
                weights = torch.as_tensor(axis.weights() / axis.spacing, dtype=f.dtype, device=f.device)
                f = f * (weights[:, None] if dim == 2 else weights)
            beyond = "zeros" if self.boundary == "zeros" else "symmetric" if axis.centering == "cell" else "reflect"
            modes.append("circular" if axis.periodic else beyond)
        widths = [size // 2 for size in sizes]
        f = extend(f, widths, widths, modes)
        if math.prod(sizes) <= _LARGE:
            kernel = torch.einsum("ocb,bxy->ocxy", self.weight, psi.to(self.weight))
            return F.conv2d(f, kernel, self.bias)
        return F.conv2d(_correlate(f, psi).to(f.dtype), self.weight.flatten(1)[..., None, None], self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, radius={self.radius}, {self.kernel_shape}, {self.basis!r}"


@functools.lru_cache(maxsize=64)
def disco_filters(
    radius: float,
    kernel_shape: tuple[int, int],
    hx: float,
    hy: float,
    basis: DiscoBasis,
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, "basis kx ky"]:
    """ψ_b(x_i - y) Δ_i, normalised, at the nodes within `radius` of a node y.

    ConfigError if a ψ_b sees none but y itself: it would be the identity, and others with it. The isotropic function
    in the middle of an odd number of rings may.
    """
    with torch.inference_mode(False):  # the cached tensor must serve training as well
        values = _sampled(radius, kernel_shape, hx, hy, basis)
        unseen = _unseen(values, kernel_shape, basis)
        if unseen:
            enough = radius
            while _unseen(_sampled(enough, kernel_shape, hx, hy, basis), kernel_shape, basis):
                enough = float(f"{1.02 * enough:.3g}")
            raise ConfigError(
                f"{unseen} of {len(values)} basis functions see no node but the centre: the radius {radius:g} spans "
                f"{radius / hx:.2g} x {radius / hy:.2g} cells, too few for kernel_shape={kernel_shape}. Refine the "
                f"grid, enlarge the radius (here {enough:g} suffices) or reduce kernel_shape."
            )
        values = values / values.abs().sum((1, 2), keepdim=True)
        return values.to(dtype=dtype, device=device)


@torch.compiler.assume_constant_result
def _constant_filters(*arguments: Any) -> Tensor:
    """`disco_filters`, which a compiled graph takes as they are."""
    return disco_filters(*arguments)


def _sampled(radius: float, shape: tuple[int, int], hx: float, hy: float, basis: DiscoBasis) -> Tensor:
    """The functions, of a maximum near one, at the nodes around the centre."""
    x, y = (h * torch.arange(-(n := math.floor(radius / h)), n + 1, dtype=torch.float64) for h in (hx, hy))
    rho, phi = torch.hypot(x[:, None], y), torch.atan2(y.expand(len(x), -1), x[:, None].expand(-1, len(y)))
    return torch.where(rho <= radius, _BASES[basis](rho / radius, phi, shape), 0.0)


def _unseen(values: Tensor, shape: tuple[int, int], basis: DiscoBasis) -> int:
    """How many functions see no node but the centre."""
    seen = values.abs() >= 1e-2
    middle = int(basis == "piecewise-linear" and shape[0] % 2)
    nx, ny = values.shape[1:]
    seen[middle:, nx // 2, ny // 2] = False
    return int((~seen.flatten(1).any(1)).sum())


def _piecewise_linear(rho: Tensor, phi: Tensor, shape: tuple[int, int]) -> Tensor:
    """Products of hats in ρ and φ; at the centre, which has no angle, their mean over the angles."""
    n_r, n_phi = shape
    dr, dphi = 2 / (n_r + 1), 2 * math.pi / n_phi
    centres = dphi * torch.arange(n_phi, dtype=rho.dtype).reshape(-1, *(1,) * rho.ndim)

    def radial(distance: Tensor, ring: float) -> Tensor:
        return (1 - (distance - ring).abs() / dr).clamp_min(0)

    def angular(angle: Tensor) -> Tensor:  # period by period: one hat alone is as wide as the circle
        turns = [(1 - (angle - centres + 2 * math.pi * k).abs() / dphi).clamp_min(0) for k in range(-2, 3)]
        return torch.where(rho == 0, 1 / n_phi, torch.stack(turns).sum(0))

    functions = [radial(rho, 0.0)[None]] if n_r % 2 else []
    for ring in range(n_r // 2):
        radius = (ring + 1) * dr if n_r % 2 else (ring + 0.5) * dr
        # the innermost of an even number of rings continues through the centre
        functions.append(radial(rho, radius) * angular(phi) + radial(-rho, radius) * angular(phi + math.pi))
    return torch.cat(functions)


def _zernike(rho: Tensor, phi: Tensor, shape: tuple[int, int]) -> Tensor:
    """Z_n^m = R_n^|m|(ρ) times cos mφ (m >= 0) or sin |m|φ, for n below the first entry of `shape`."""
    functions = []
    for n in range(shape[0]):
        for m in range(-n, n + 1, 2):
            a, b = (n + abs(m)) // 2, (n - abs(m)) // 2
            terms = [
                (-1) ** k * math.comb(n - k, k) * math.comb(n - 2 * k, b - k) * rho ** (n - 2 * k)
                for k in range(min(a, b) + 1)
            ]
            functions.append(torch.stack(terms).sum(0) * (torch.cos(m * phi) if m >= 0 else torch.sin(-m * phi)))
    return torch.stack(functions)


def _morlet(rho: Tensor, phi: Tensor, shape: tuple[int, int]) -> Tensor:
    """Products of waves along x and y under the window cos²(πρ/2)."""

    def waves(t: Tensor, n: int) -> list[Tensor]:
        return [torch.sin((i + 1) // 2 * math.pi * t) if i % 2 else torch.cos(i // 2 * math.pi * t) for i in range(n)]

    window = torch.cos(math.pi / 2 * rho.clamp_max(1)).square()
    along_x, along_y = waves(rho * torch.cos(phi), shape[0]), waves(rho * torch.sin(phi), shape[1])
    return torch.stack([window * a * b for a in along_x for b in along_y])


_BASES = {"piecewise-linear": _piecewise_linear, "zernike": _zernike, "morlet": _morlet}


def _correlate(f: Tensor, psi: Tensor) -> Tensor:
    """Σ_k ψ_b[k] f[· + k] of every channel where f is given, as (batch, channel · basis, *space), by transforms."""
    space = f.shape[-2:]
    spectrum = torch.fft.rfft2(f.to(psi.dtype))[:, :, None] * torch.fft.rfft2(psi, s=space).conj()
    nx, ny = (n - k + 1 for n, k in zip(space, psi.shape[1:], strict=True))
    return torch.fft.irfft2(spectrum, s=space)[..., :nx, :ny].flatten(1, 2)
