"""Derivatives with one signature and three methods: automatic differentiation, spectral, finite differences.

`gradient`, `jacobian`, `divergence`, `curl`, `laplacian`, `hessian` and `partial` take either

* a function of points, `f: (n, d) -> (n, c)`, and points `at` (n, d), with `method="autograd"` (the default); rows of
  `f` must not depend on each other, and results are differentiable in points and parameters; or
* a field (batch, channel, *space) and a `Grid`, with `method="spectral"` or `"finite-difference"`.

Spectral means Fourier on periodic axes, differentiation matrices on Chebyshev and Gauss-Legendre axes and Fourier
continuation on other uniform axes. High spectral derivatives lose digits to rounding: in float64, second derivatives
by continuation stall at 1e-5 and third ones grow with n, fourth derivatives on 256 Chebyshev nodes have none left.
Finite differences reach order `accuracy` on every axis.

Under `torch.compile`, tables of weights break the graph: leave `fullgraph` off, except for Fourier derivatives.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jacfwd, jacrev, jvp, vmap

from sciml._axes import Axis
from sciml._stencils import (
    CONTINUATION_POINTS,
    continuation_matrix,
    differentiation_matrix,
    finite_difference_stencils,
)
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from sciml.precision import widest

Method = Literal["autograd", "spectral", "finite-difference"]
PointFunction = Callable[[Tensor], Tensor]


def partial(
    f: PointFunction | Float[Tensor, "batch channel *space"],
    at: Float[Tensor, "n d"] | Grid,
    orders: Sequence[int],
    *,
    method: Method = "autograd",
    accuracy: int = 2,
) -> Tensor:
    """The mixed partial derivative of multi-index `orders`, one entry per coordinate: (n, c) or a field.

    Raises
    ------
    ConfigError
        `f`, `at` and `method` do not fit each other, `orders` is not a multi-index, or the spectral method meets a
        non-uniform axis or one with too few nodes.
    ShapeError
        A field that is not on the grid, or a function that is not (n, d) -> (n, c).
    """
    dim = at.dim if isinstance(at, Grid) else at.shape[-1]
    if not isinstance(orders, Sequence):
        raise ConfigError(f"orders={orders!r}: give one derivative order per coordinate, a list of {dim}.")
    if len(orders) != dim or any(k < 0 for k in orders):
        raise ConfigError(f"orders={tuple(orders)}: give {dim} numbers >= 0, one derivative order per coordinate.")
    if isinstance(f, Tensor):
        _check_field(f, at, method)
        assert isinstance(at, Grid)
        for i, order in enumerate(orders):
            if order:
                f = _along_axis(f, at.axes[i], i + 2, order, method, accuracy)
        return f
    sample, x = _pointwise(f, at, method)
    for i, order in enumerate(orders):
        for _ in range(order):
            sample = _directional(sample, i)
    return vmap(sample)(x)


def jacobian(
    f: PointFunction | Float[Tensor, "batch channel *space"],
    at: Float[Tensor, "n d"] | Grid,
    *,
    method: Method = "autograd",
    accuracy: int = 2,
) -> Tensor:
    """All first derivatives: (n, c, d), of a field (batch, channel, d, *space). Raises as `partial`."""
    if isinstance(f, Tensor):
        _check_field(f, at, method)
        units = _multi_indices(f.ndim - 2, 1)
        return torch.stack([partial(f, at, e, method=method, accuracy=accuracy) for e in units], dim=2)
    sample, x = _pointwise(f, at, method)
    return vmap(jacfwd(sample))(x)


def gradient(
    f: PointFunction | Float[Tensor, "batch 1 *space"],
    at: Float[Tensor, "n d"] | Grid,
    *,
    method: Method = "autograd",
    accuracy: int = 2,
) -> Tensor:
    """The gradient of a scalar (c = 1): (n, d), of a field (batch, d, *space). Raises as `partial`."""
    if isinstance(f, Tensor):
        _check_channels(f.shape[1], 1, "gradient", "use jacobian for several channels")
        return jacobian(f, at, method=method, accuracy=accuracy)[:, 0]
    sample, x = _pointwise(f, at, method)
    result = vmap(jacrev(sample))(x)
    _check_channels(result.shape[1], 1, "gradient", "use jacobian for several channels")
    return result[:, 0]


def divergence(
    f: PointFunction | Float[Tensor, "batch d *space"],
    at: Float[Tensor, "n d"] | Grid,
    *,
    method: Method = "autograd",
    accuracy: int = 2,
) -> Tensor:
    """The divergence of a vector field (c = d): (n, 1), of a field (batch, 1, *space). Raises as `partial`."""
    if isinstance(f, Tensor):
        _check_field(f, at, method)
        units = _multi_indices(f.ndim - 2, 1)
        _check_channels(f.shape[1], len(units), "divergence", "give one component per coordinate")
        terms = [partial(f[:, i : i + 1], at, e, method=method, accuracy=accuracy) for i, e in enumerate(units)]
        return torch.stack(terms).sum(0)
    result = jacobian(f, at, method=method)
    _check_channels(result.shape[1], result.shape[2], "divergence", "give one component per coordinate")
    return result.diagonal(dim1=1, dim2=2).sum(-1, keepdim=True)


def curl(
    f: PointFunction | Float[Tensor, "batch d *space"],
    at: Float[Tensor, "n d"] | Grid,
    *,
    method: Method = "autograd",
    accuracy: int = 2,
) -> Tensor:
    """The curl of a vector field: three components in 3-D, one (∂_x v - ∂_y u) in 2-D. Raises as `partial`."""
    j = jacobian(f, at, method=method, accuracy=accuracy)
    dim = j.shape[2]
    if dim not in (2, 3):
        raise ShapeError(f"curl is defined in 2 and 3 dimensions; the coordinates have {dim}.")
    _check_channels(j.shape[1], dim, "curl", "give one component per coordinate")
    pairs = [(1, 0)] if dim == 2 else [(2, 1), (0, 2), (1, 0)]
    return torch.stack([j[:, a, b] - j[:, b, a] for a, b in pairs], dim=1)


def hessian(
    f: PointFunction | Float[Tensor, "batch channel *space"],
    at: Float[Tensor, "n d"] | Grid,
    *,
    method: Method = "autograd",
    accuracy: int = 2,
) -> Tensor:
    """All second derivatives: (n, c, d, d), of a field (batch, channel, d, d, *space). Raises as `partial`."""
    if isinstance(f, Tensor):
        _check_field(f, at, method)
        units = _multi_indices(f.ndim - 2, 1)
        second = {
            (i, j): partial(f, at, [a + b for a, b in zip(units[i], units[j])], method=method, accuracy=accuracy)
            for i in range(len(units))
            for j in range(i + 1)
        }
        rows = [torch.stack([second[max(i, j), min(i, j)] for j in range(len(units))], 2) for i in range(len(units))]
        return torch.stack(rows, dim=2)
    sample, x = _pointwise(f, at, method)
    return vmap(jacfwd(jacrev(sample)))(x)


def laplacian(
    f: PointFunction | Float[Tensor, "batch channel *space"],
    at: Float[Tensor, "n d"] | Grid,
    *,
    method: Method = "autograd",
    accuracy: int = 2,
) -> Tensor:
    """The Laplacian of every channel: (n, c), of a field (batch, channel, *space). Raises as `partial`."""
    if isinstance(f, Tensor):
        _check_field(f, at, method)
        units = _multi_indices(f.ndim - 2, 2)
        return torch.stack([partial(f, at, e, method=method, accuracy=accuracy) for e in units]).sum(0)
    return hessian(f, at, method=method).diagonal(dim1=2, dim2=3).sum(-1)


def _multi_indices(dim: int, order: int) -> list[list[int]]:
    return [[order * (i == j) for j in range(dim)] for i in range(dim)]


def _check_field(u: Tensor, at: Tensor | Grid, method: str) -> None:
    if not isinstance(at, Grid):
        raise ConfigError(f"A field is differentiated on its Grid; got {type(at).__name__}. Pass the grid.")
    if method not in ("spectral", "finite-difference"):
        raise ConfigError(
            f"method={method!r} does not differentiate fields; choose 'spectral' or 'finite-difference', or pass "
            "the function itself and points for 'autograd'."
        )
    at.check(u)
    if not u.dtype.is_floating_point:
        raise ShapeError(f"A field of {u.dtype} was given; differentiate real floating-point fields.")


def _check_channels(got: int, expected: int, name: str, advice: str) -> None:
    if got != expected:
        raise ShapeError(f"{name} takes {expected} channel(s), got {got}; {advice}.")


def _pointwise(f: PointFunction, at: Tensor | Grid, method: str) -> tuple[PointFunction, Tensor]:
    """`f` as a function of one point (d,) -> (c,), and the points."""
    if method != "autograd":
        raise ConfigError(f"method={method!r} differentiates fields on grids; a function takes method='autograd'.")
    if isinstance(at, Grid):
        raise ConfigError("A function is differentiated at points (n, d); pass grid.coords.reshape(-1, grid.dim).")
    if at.ndim != 2:
        raise ShapeError(f"The points have shape {tuple(at.shape)}; give (n, d).")

    def sample(point: Tensor) -> Tensor:
        value = f(point[None])
        if value.ndim != 2 or value.shape[0] != 1:
            raise ShapeError(f"The function maps points (1, d) to {tuple(value.shape)}; it must return (n, c).")
        return value[0]

    return sample, at


def _directional(sample: PointFunction, i: int) -> PointFunction:
    def derivative(point: Tensor) -> Tensor:
        direction = torch.zeros_like(point)
        direction[i] = 1
        return jvp(sample, (point,), (direction,))[1]

    return derivative


def _along_axis(u: Tensor, axis: Axis, dim: int, order: int, method: str, accuracy: int) -> Tensor:
    if method == "finite-difference":
        nodes, weights = finite_difference_stencils(axis, order, accuracy)
        index = torch.as_tensor(nodes.T.copy(), device=u.device)
        # one term per stencil point: never more memory than a few fields
        shape = [-1 if i == dim else 1 for i in range(u.ndim)]
        terms = (w.view(shape) * u.index_select(dim, j) for j, w in zip(index, torch.as_tensor(weights.T.copy()).to(u)))
        return sum(terms, torch.zeros_like(u))
    if axis.periodic:
        return _fourier(u, dim, axis.length, order)
    if axis.is_polynomial:
        return (u.movedim(dim, -1) @ torch.as_tensor(differentiation_matrix(axis, order)).to(u).T).movedim(-1, dim)
    if axis.kind == "uniform" and axis.n >= CONTINUATION_POINTS:
        return _continued(u, axis, dim, order)
    raise ConfigError(
        f"The spectral method takes periodic, Chebyshev, Gauss-Legendre and uniform axes of at least "
        f"{CONTINUATION_POINTS} nodes; got a {axis.kind} axis of {axis.n}. Use method='finite-difference'."
    )


def _fourier(u: Tensor, dim: int, period: float, order: int) -> Tensor:
    n = u.shape[dim]
    k = torch.arange(n // 2 + 1, dtype=u.dtype, device=u.device) * (2 * math.pi / period)
    factor = k**order
    if order % 2 and n % 2 == 0:
        factor[-1] = 0  # the Nyquist mode is a cosine, whose odd derivatives vanish at the nodes
    factor = factor * 1j**order
    # MKL of older torch takes no expanded tensors
    spectrum = torch.fft.rfft(u.contiguous(), dim=dim) * factor.view([-1 if i == dim else 1 for i in range(u.ndim)])
    return torch.fft.irfft(spectrum, n=n, dim=dim)


def _widened(u: Tensor) -> Tensor:
    """The values in float64, where their device has that."""
    return u.to(torch.promote_types(u.dtype, widest(u.device)))


def _continued(u: Tensor, axis: Axis, dim: int, order: int) -> Tensor:
    """Extend the last samples smoothly into the first ones over a gap, and differentiate the periodic result."""
    v = u.movedim(dim, -1)
    # large entries cancel to a smooth fade, whose rounding in float32 the derivative would multiply by n
    first, last = _widened(v[..., :CONTINUATION_POINTS]), _widened(v[..., -CONTINUATION_POINTS:])
    matrix = torch.as_tensor(continuation_matrix()).to(first)
    fade_out, fade_in = last @ matrix.T, (first.flip(-1) @ matrix.T).flip(-1)
    extended = torch.cat([v, (fade_out + fade_in).to(u)], dim=-1)
    period = extended.shape[-1] * axis.spacing
    return _fourier(extended, extended.ndim - 1, period, order)[..., : axis.n].movedim(-1, dim)
