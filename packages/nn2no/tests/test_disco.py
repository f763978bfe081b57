"""The discrete-continuous convolution has a kernel of physical size and tends to its integral."""

import functools
import itertools
import math
import re

import pytest
import torch
from nn2no.disco import DiscoConv2d, disco_filters
from nn2no.models.fno import LocalNO
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor

CPU = torch.device("cpu")


def field(grid: Grid) -> Tensor:
    x, y = (2 * math.pi * c / length for c, length in zip(grid.coords.unbind(-1), grid.lengths, strict=True))
    return torch.stack([torch.sin(x) * torch.cos(2 * y), torch.cos(x + y) + 0.3])[None]


def layer(radius: float = 0.2, shape: tuple[int, int] = (3, 4), **options: object) -> DiscoConv2d:
    torch.manual_seed(0)
    conv = DiscoConv2d(2, 3, radius, shape, dtype=torch.float64, **options)  # type: ignore[arg-type]
    torch.nn.init.normal_(conv.bias)
    return conv


def square(n: int, periodic: bool = True, **options: object) -> Grid:
    return Grid.uniform((n, n), periodic=periodic, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1), (2, 4), (3, 4), (4, 1), (5, 6)])
def test_piecewise_linear_functions_are_counted_and_normalised(shape):
    psi = disco_filters(0.3, shape, 0.02, 0.03, "piecewise-linear", torch.float64, CPU)
    assert len(psi) == shape[0] // 2 * shape[1] + shape[0] % 2
    torch.testing.assert_close(psi.sum((1, 2)), torch.ones(len(psi), dtype=torch.float64))
    assert psi.min() >= 0


def test_piecewise_linear_functions_are_a_partition_of_unity_inside():
    """Hats on all rings and angles add up to one, up to the outermost ring."""
    from nn2no.disco import _piecewise_linear

    rho, phi = torch.rand(50, dtype=torch.float64), 6 * torch.rand(50, dtype=torch.float64) - 3
    for shape in ((3, 4), (4, 5), (5, 6)):
        outermost = (shape[0] // 2) * 2 / (shape[0] + 1) - (0 if shape[0] % 2 else 1 / (shape[0] + 1))
        total = _piecewise_linear(rho * outermost, phi, shape).sum(0)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def test_zernike_polynomials_are_orthogonal_on_the_disk():
    from nn2no.disco import _zernike

    r, w = (torch.as_tensor(a) for a in __import__("numpy").polynomial.legendre.leggauss(20))
    rho, weight = (r + 1) / 2, w / 2
    phi = 2 * math.pi * torch.arange(24, dtype=torch.float64) / 24
    values = _zernike(rho[:, None].expand(-1, 24), phi.expand(20, -1), (5, 5))
    gram = torch.einsum("ars,brs,r->ab", values, values, weight * rho) / 24
    assert len(values) == 15
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=0, atol=1e-13)


def test_it_is_its_sum():
    """Σ_b W_b Σ_i ψ_b(x_i - y) f(x_i) Δ_i by loops, on an anisotropic periodic grid."""
    grid, conv = Grid.uniform((9, 12), (1.0, 2.0), periodic=True), layer(0.3)
    hx, hy = 1 / 9, 2 / 12
    psi = disco_filters(0.3, (3, 4), hx, hy, "piecewise-linear", torch.float64, CPU)
    f = torch.randn(1, 2, 9, 12, dtype=torch.float64)
    expected = conv.bias.view(1, 3, 1, 1).expand(1, 3, 9, 12).clone()
    (cx, cy) = (n // 2 for n in psi.shape[1:])
    for i, j in itertools.product(range(psi.shape[1]), range(psi.shape[2])):
        expected += torch.einsum("ocb,b,ncxy->noxy", conv.weight, psi[:, i, j], f.roll((cx - i, cy - j), (2, 3)))
    torch.testing.assert_close(conv(f, grid), expected)


def polar_hats(dx: Tensor, dy: Tensor, r: float, n_r: int, n_phi: int) -> list[Tensor]:
    """(1 - |ρ - ρ_b|/dr)₊ (1 - |φ - φ_b|/dφ)₊ with dr = 2r/(n_r + 1), dφ = 2π/n_φ; at ρ = 0 the mean of all angles."""
    rho, phi, dr, dphi = torch.hypot(dx, dy), torch.atan2(dy, dx), 2 * r / (n_r + 1), 2 * math.pi / n_phi

    def hat(rho: Tensor, phi: Tensor, ring: float, angle: float) -> Tensor:
        turn = ((phi - angle + math.pi) % (2 * math.pi) - math.pi).abs()  # periodic
        across = torch.where(rho == 0, 1 / n_phi, (1 - turn / dphi).clamp_min(0))
        return (1 - (rho - ring).abs() / dr).clamp_min(0) * across

    functions = [(1 - rho / dr).clamp_min(0)] if n_r % 2 else []
    for i, j in itertools.product(range(n_r // 2), range(n_phi)):
        if n_r % 2:
            functions.append(hat(rho, phi, (i + 1) * dr, j * dphi))
        else:
            ring = (i + 0.5) * dr
            functions.append(hat(rho, phi, ring, j * dphi) + hat(-rho, phi + math.pi, ring, j * dphi))
    return functions


def wave_products(dx: Tensor, dy: Tensor, r: float, n_x: int, n_y: int) -> list[Tensor]:
    """1, sin πx/r, cos πx/r, sin 2πx/r, … along each axis, under cos²(πρ/2r)."""
    window = (math.pi * torch.hypot(dx, dy) / (2 * r)).cos() ** 2
    waves = [
        lambda t: torch.ones_like(t),
        lambda t: torch.sin(math.pi * t / r),
        lambda t: torch.cos(math.pi * t / r),
        lambda t: torch.sin(2 * math.pi * t / r),
        lambda t: torch.cos(2 * math.pi * t / r),
    ]
    return [window * waves[i](dx) * waves[j](dy) for i, j in itertools.product(range(n_x), range(n_y))]


def disk_polynomials(dx: Tensor, dy: Tensor, r: float, n: int, _: int) -> list[Tensor]:
    """Those of a degree below 3, in x = ρ cos φ and y = ρ sin φ."""
    x, y = dx / r, dy / r
    return [torch.ones_like(x), y, x, 2 * x * y, 2 * (x**2 + y**2) - 1, x**2 - y**2][: n * (n + 1) // 2]


@pytest.mark.parametrize("walls", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    ("basis", "functions", "shape"),
    [
        ("piecewise-linear", polar_hats, (3, 5)),
        ("piecewise-linear", polar_hats, (2, 3)),
        ("piecewise-linear", polar_hats, (4, 5)),
        ("morlet", wave_products, (4, 5)),
        ("zernike", disk_polynomials, (3, 3)),
    ],
)
def test_it_is_its_formula_pair_by_pair(basis, functions, shape, walls):
    """Of nodes x and y on an anisotropic grid, with Δ_i of the trapezoidal rule at walls, where f ends."""
    r, conv = 0.45, layer(0.45, shape, basis=basis)
    grid = Grid.uniform(17, 1.0, periodic=not walls[0]) * Grid.uniform(13, 1.2, periodic=not walls[1])
    f = torch.randn(1, 2, 17, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    hx, hy = (axis.spacing for axis in grid.axes)
    steps = torch.arange(-9, 10, dtype=torch.float64)
    lattice = torch.meshgrid(hx * steps, hy * steps, indexing="ij")
    dx, dy = (c[:, None] - c for c in grid.coords.reshape(-1, 2).unbind(-1))  # x_i - y_j
    dx = dx if walls[0] else (dx + 0.5) % 1.0 - 0.5
    dy = dy if walls[1] else (dy + 0.6) % 1.2 - 0.6
    expected = conv.bias.view(1, 3, 1).expand(1, 3, 17 * 13).clone()
    pairs = zip(functions(*lattice, r, *shape), functions(dx, dy, r, *shape), strict=True)
    inside = torch.hypot(*lattice) <= r
    for b, (everywhere, psi) in enumerate(pairs):
        mass = (everywhere * inside).abs().sum() * hx * hy
        psi = torch.where(torch.hypot(dx, dy) <= r, psi, 0.0) / mass
        g = torch.einsum("nci,i,ij->ncj", f.flatten(2), grid.weights.flatten(), psi)
        expected += torch.einsum("oc,ncj->noj", conv.weight[:, :, b], g)
    torch.testing.assert_close(conv(f, grid).flatten(2), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [16, 40])  # few points under the kernel are summed, many transformed
def test_equivariant_to_shifts_on_periodic_grids(n):
    conv, grid = layer(0.2), square(n)
    f = torch.randn(2, 2, n, n, dtype=torch.float64)
    torch.testing.assert_close(conv(f.roll((3, -2), (2, 3)), grid), conv(f, grid).roll((3, -2), (2, 3)))


@pytest.mark.parametrize("basis", ["piecewise-linear", "zernike", "morlet"])
def test_refinement_converges_to_the_integral(basis):
    conv, coarse = layer(0.2, (3, 3), basis=basis), square(20)
    *g, limit = (conv(field(square(n)), square(n))[..., :: n // 20, :: n // 20] for n in (20, 160, 320))
    errors = [float(coarse.norm(a - limit) / coarse.norm(limit)) for a in g]
    assert errors[0] < 0.05
    assert math.log2(errors[0] / errors[1]) / 3 >= 1  # Zernike polynomials end with a jump


def test_the_kernel_keeps_its_size_where_a_pixel_kernel_halves():
    conv = layer(0.2)
    a, b = (conv(field(square(n)), square(n))[..., :: n // 32, :: n // 32] for n in (32, 64))
    frozen = conv(field(square(64)), Grid.uniform((64, 64), 2.0, periodic=True))[..., ::2, ::2]  # 32² pixels as before
    size = float(square(32).norm(b))
    assert float(square(32).norm(a - b)) < 0.05 * size
    assert float(square(32).norm(frozen - b)) > 0.1 * size


def test_boundaries():
    """Zeros lower the integral near walls, reflection keeps constants; both on node and cell grids."""
    for centering in ("node", "cell"):
        grid = square(33, periodic=False, centering=centering)
        ones = torch.ones(1, 2, 33, 33, dtype=torch.float64)
        conv = layer(0.2, boundary="reflect")
        inside = (conv.weight.sum((1, 2)) + conv.bias).view(1, 3, 1, 1).expand(1, 3, 33, 33)
        torch.testing.assert_close(conv(ones, grid), inside)
        conv = layer(0.2, boundary="zeros")
        g = conv(ones, grid)
        torch.testing.assert_close(g[..., 8:-8, 8:-8], inside[..., 8:-8, 8:-8])
        assert (g - inside)[..., 0, :].abs().max() > 0.1


def test_gradients_and_types():
    conv, grid = DiscoConv2d(1, 2, 0.3, (2, 3), dtype=torch.float64), square(8)
    f = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)

    def call(f: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (f, grid))

    assert torch.autograd.gradcheck(call, (f, conv.weight))
    assert conv.float()(f.float().detach(), grid).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [16, 40])  # few points under the kernel are summed, many transformed
def test_half_precision(n, dtype):
    conv, grid = layer(0.2), square(n)
    f = field(grid)
    expected = conv(f, grid)
    half = conv.to(dtype)(f.to(dtype), grid)
    assert half.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps * float(expected.detach().abs().max())
    torch.testing.assert_close(half.double(), expected, rtol=0, atol=tolerance)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(layer(0.2).float()(f.float(), grid).double(), expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(layer(0.2).float()(f.to(dtype), grid).double(), expected, rtol=0, atol=tolerance)


def test_local_operators_have_independent_functions_from_sixteen_nodes_on():
    branch = LocalNO(n_modes=(3, 3), width=4).blocks[0].local[0]
    for n in (16, 17, 32, 64):
        psi = disco_filters(branch.radius, branch.kernel_shape, 1 / n, 1 / n, "piecewise-linear", torch.float64, CPU)
        assert torch.linalg.matrix_rank(psi.flatten(1)) == len(psi)


@pytest.mark.unchecked
@pytest.mark.parametrize("radius", [0.2, 0.4])  # few points under the kernel are summed, many transformed
def test_compiles_in_one_graph(radius):
    conv = layer(radius)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    for n in (16, 20, 24):
        f = torch.randn(1, 2, n, n, dtype=torch.float64)
        torch.testing.assert_close(compiled(f, square(n)), conv(f, square(n)))


@pytest.mark.parametrize(("shape", "cells"), [((2, 4), 0.8), ((2, 4), 1.0), ((4, 3), 1.6), ((3, 4), 0.7)])
def test_functions_that_see_the_centre_alone_are_refused_and_the_radius_that_it_tells_suffices(shape, cells):
    """They would all be the identity."""
    filters = functools.partial(disco_filters, kernel_shape=shape, basis="piecewise-linear", dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"here ([\d.]+) suffices") as found:
        filters(radius=0.1 * cells, hx=0.1, hy=0.1, device=CPU)
    enough = float(re.search(r"here ([\d.]+) suffices", str(found.value))[1])
    assert enough < 0.25
    psi = filters(radius=enough, hx=0.1, hy=0.1, device=CPU)
    assert torch.linalg.matrix_rank(psi.flatten(1)) == len(psi)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: DiscoConv2d(1, 1, 0.1, basis="fourier"), ConfigError, "piecewise-linear"),
        (lambda: DiscoConv2d(1, 1, 0.1, boundary="wrap"), ConfigError, "reflect"),
        (lambda: DiscoConv2d(1, 1, 0.0), ConfigError, "radius=0"),
        (lambda: DiscoConv2d(1, 1, 0.1, (2, 3), basis="zernike"), ConfigError, "one degree"),
        (lambda: DiscoConv2d(1, 1, 0.1)(torch.randn(1, 1, 8, 8), square(8)), ConfigError, "4 of 5 .* see no node"),
        (lambda: layer(0.1, (2, 4))(torch.randn(1, 2, 8, 8), square(8)), ConfigError, "4 of 4 .*but the centre"),
        (lambda: DiscoConv2d(2, 1, 0.5)(torch.randn(1, 1, 8, 8), square(8)), ShapeError, r"\(batch, 2, nx, ny\)"),
        (lambda: DiscoConv2d(1, 1, 0.5)(torch.randn(1, 1, 9, 9), square(8)), ShapeError, "8, 8"),
        (lambda: DiscoConv2d(1, 1, 0.5)(torch.randn(1, 1, 8, 8), Grid.chebyshev((8, 8))), ShapeError, "equispaced"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
