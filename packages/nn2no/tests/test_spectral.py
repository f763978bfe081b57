"""The spectral convolution is one function of functions, on every grid that resolves its modes."""

import cmath
import itertools
import math
import warnings

import pytest
import torch
from nn2no.errors import ResolutionWarning
from nn2no.spectral import SpectralConv
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TWO_PI = 2 * math.pi


def waves(grid: Grid, channels: int = 2, modes: int = 2, shift: float = 0.0) -> Tensor:
    """Fixed random functions of period one with |k_l| <= modes."""
    generator = torch.Generator().manual_seed(5)
    k = torch.cartesian_prod(*[torch.arange(-modes, modes + 1.0, dtype=torch.float64)] * grid.dim)
    k = k.reshape(-1, grid.dim)
    amplitude, phase = torch.rand(2, channels, len(k), generator=generator, dtype=torch.float64)
    turns = ((grid.coords + shift) @ k.T)[..., None, :] + phase
    return (amplitude * torch.cos(TWO_PI * turns)).sum(-1).movedim(-1, 0)[None]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def layer(dim: int, modes: int = 3, **options: object) -> SpectralConv:
    torch.manual_seed(0)
    conv = SpectralConv(2, 3, (modes,) * dim, dtype=torch.float64, **options)  # type: ignore[arg-type]
    torch.nn.init.normal_(conv.bias)
    return conv


def periodic(*shape: int, **options: object) -> Grid:
    return Grid.uniform(shape, periodic=True, **options)  # type: ignore[arg-type]


def test_it_is_its_formula():
    conv, grid = layer(2), periodic(9, 8)
    f = waves(grid)
    expected = conv.bias.view(1, 3, 1, 1).expand(1, 3, 9, 8).to(torch.complex128)
    for k1, k2 in itertools.product(range(-3, 4), range(-3, 4)):
        wave = torch.exp(TWO_PI * 1j * (grid.coords @ torch.tensor([k1, k2], dtype=torch.float64)))
        coefficient = (f * wave.conj()).mean((-2, -1))  # (batch, channel)
        R = torch.view_as_complex(conv.weight)
        # of the modes with k2 = 0 the two that are conjugate to each other act together
        own = R[k1 + 3, k2] if k2 >= 0 else R[3 - k1, -k2].conj()
        if k2 == 0:
            own = (R[k1 + 3, 0] + R[3 - k1, 0].conj()) / 2
        expected = expected + (coefficient @ own)[..., None, None] * wave
    assert expected.imag.abs().max() < 1e-13
    torch.testing.assert_close(conv(f), expected.real, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("base", "shapes"),
    [
        ((7,), [(8,), (9,), (16,), (64,), (101,)]),
        ((7, 7), [(8, 7), (7, 8), (9, 64), (64, 9), (15, 33), (60, 60)]),
        ((45, 43), [(44, 45), (43, 44), (64, 43), (50, 51)]),
        ((7, 8, 9), [(8, 7, 7), (9, 16, 64), (12, 13, 14)]),
    ],
)
def test_one_function_at_every_resolution(base, shapes, dtype):
    """Odd and even sizes of every axis, few and many modes (transforms by matrices and by FFT), output of any size."""
    conv = layer(len(base), modes=(min(base) - 1) // 2).to(dtype)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    reference = conv(waves(periodic(*base)).to(dtype), to=periodic(*base))
    for shape in shapes:
        g = conv(waves(periodic(*shape)).to(dtype))
        assert g.dtype == dtype
        scale = float(reference.abs().max())
        expected = periodic(*base).interpolate(reference, periodic(*shape))
        torch.testing.assert_close(g, expected, rtol=0, atol=tolerance * scale)
        other = conv(waves(periodic(*base)).to(dtype), to=periodic(*shape))
        torch.testing.assert_close(other, expected, rtol=0, atol=tolerance * scale)
        back = conv(waves(periodic(*shape)).to(dtype), to=periodic(*base))
        torch.testing.assert_close(back, reference, rtol=0, atol=tolerance * scale)


def test_matrices_and_transforms_give_the_same(monkeypatch):
    """The same layer on both routes, forward and backward."""
    results = []
    for faster in (False, True):
        monkeypatch.setattr("nn2no.spectral._fft_is_faster", lambda *_, faster=faster: faster)
        conv, f = layer(2, modes=4), torch.randn(2, 2, 9, 12, dtype=torch.float64, generator=seeded()).requires_grad_()
        g = conv(f)
        results.append((g, *torch.autograd.grad(g.square().mean(), (f, conv.weight))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(16,), (15, 64), (64, 15), (8, 9, 10)])
def test_equivariant_to_any_shift(shape):
    conv, grid = layer(len(shape)), periodic(*shape)
    here, there = conv(waves(grid)), conv(waves(grid, shift=0.1234))
    moved = grid.interpolate(here, (grid.coords + 0.1234).reshape(-1, grid.dim)).transpose(1, 2).reshape(there.shape)
    torch.testing.assert_close(there, moved, rtol=0, atol=1e-12)


def test_output_of_general_weights_is_real_and_symmetric_gradients_flow():
    """Weights of modes k and -k on the line k_last = 0 act together: each gets half of the gradient."""
    conv = layer(2)
    grad = torch.autograd.grad(conv(torch.randn(2, 2, 12, 12, dtype=torch.float64)).square().sum(), conv.weight)[0]
    line = torch.view_as_complex(grad[:, 0].contiguous())
    torch.testing.assert_close(line, line.flip(0).conj(), rtol=1e-12, atol=1e-12)
    assert line.abs().min() > 0


def test_coarse_grids_drop_modes_and_say_so():
    conv, fine = layer(1, modes=5), periodic(64)
    coarse = periodic(8)  # holds |k| <= 3: the Nyquist mode 4 is never used
    with pytest.warns(ResolutionWarning, match=r"8 nodes holds the modes \|k\| <= 3 only"):
        g = conv(waves(coarse))
    with torch.no_grad():
        conv.weight[4:] = 0
    torch.testing.assert_close(coarse.interpolate(g, fine), conv(waves(fine)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once for each grid
        conv(waves(coarse))


def test_the_coefficients_are_integrals_on_any_grid():
    """A cell-centred periodic grid, and polynomial axes, see the same function as the periodic nodes."""
    conv, base = layer(2), periodic(16, 16)
    expected = conv(waves(base))
    cells = Grid.uniform((16, 15), periodic=True, centering="cell")
    torch.testing.assert_close(conv(waves(cells), cells, base), expected, rtol=0, atol=1e-12)
    gauss = Grid.gauss_legendre((40, 41))
    torch.testing.assert_close(conv(waves(gauss), gauss, base), expected, rtol=0, atol=1e-12)
    mixed = Grid.chebyshev(60) * Grid.uniform(9, periodic=True)
    torch.testing.assert_close(conv(waves(mixed), mixed, base), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("padding", [0.0, 0.3])
def test_padding_is_a_physical_length(padding):
    """On node grids the trapezoidal rule leaves an error of second order, whatever the padded length divided by h."""
    conv = layer(1, padding=padding)
    ends = Grid.uniform(5)
    g = []
    for n in (33, 65, 129, 257):
        grid = Grid.uniform(n)
        f = torch.stack([torch.exp(grid.coords[:, 0]), 1 / (1 + grid.coords[:, 0])])[None]
        g.append(conv(f, grid, ends))
    steps = [float((a - b).norm()) for a, b in itertools.pairwise(g)]
    assert all(3.8 < a / b < 4.2 for a, b in itertools.pairwise(steps))


@pytest.mark.parametrize("shape", [(16,), (16, 16), (64, 64), (8, 9, 10)])
@pytest.mark.parametrize("padding", [0.0, 0.3])
def test_an_empty_batch_stays_empty(shape, padding):
    f = torch.zeros(0, 2, *shape, dtype=torch.float64)
    for grid in (periodic(*shape), Grid.uniform(shape)):
        assert layer(len(shape), padding=padding)(f, grid).shape == (0, 3, *shape)


@pytest.mark.parametrize("padding", [0.0, 0.5])
def test_coefficients_on_padded_axes_are_integrals_over_the_period(padding):
    """∫₀¹ x exp(-iωx) dx / P = ((1 + iω) exp(-iω) - 1) / (ω² P), ω = 2π/P, of the linear function on 0 to 1."""
    conv = SpectralConv(1, 1, (1,), padding=padding, bias=False, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[1, 0, 0, 0] = 1
    grid, P = Grid.gauss_legendre(20), 1 + padding
    x, omega = grid.coords[:, 0], TWO_PI / P
    coefficient = ((1 + 1j * omega) * cmath.exp(-1j * omega) - 1) / (omega**2 * P)
    expected = 2 * (coefficient * torch.exp(1j * omega * x)).real
    torch.testing.assert_close(conv(x[None, None], grid)[0, 0], expected, rtol=0, atol=1e-13)


class NoComplexNumbers(TorchDispatchMode):
    """A device that has none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        assert not any(isinstance(t, Tensor) and t.is_complex() for t in tree_leaves(out)), func
        return out


@pytest.mark.parametrize(
    ("shape", "modes", "options"),
    [((12,), 3, {}), ((12, 11), 3, {"padding": 0.3}), ((64, 65), 24, {}), ((9, 10, 8), 3, {"bias": False})],
)
def test_devices_without_complex_numbers_compute_the_same(shape, modes, options, monkeypatch):
    conv = SpectralConv(2, 3, (modes,) * len(shape), dtype=torch.float64, **options)
    if conv.bias is not None:
        torch.nn.init.normal_(conv.bias)
    f = torch.randn(2, 2, *shape, dtype=torch.float64, requires_grad=True)
    grid, to = Grid.uniform(shape, periodic="padding" not in options), periodic(*(n + 3 for n in shape))

    def both() -> list[Tensor]:
        g = conv(f, grid, to)
        return [g, *torch.autograd.grad(g.square().sum(), [f, *conv.parameters()])]

    expected = both()
    monkeypatch.setattr("nn2no.spectral.has_complex", lambda device_type: False)
    both()  # matrices are made of complex numbers on the CPU, once
    with NoComplexNumbers():
        found = both()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13 * max(1.0, float(b.detach().abs().max())))


def test_gradients():
    conv = SpectralConv(2, 2, (2, 1), padding=0.2, dtype=torch.float64)
    grids = [periodic(5, 6), periodic(12, 12), Grid.uniform((5, 4))]
    for grid in grids:
        f = torch.randn(1, 2, *grid.shape, dtype=torch.float64, requires_grad=True)

        def call(f: Tensor, weight: Tensor, grid: Grid = grid) -> Tensor:
            return torch.func.functional_call(conv, {"weight": weight}, (f, grid))

        assert torch.autograd.gradcheck(call, (f, conv.weight))
        assert torch.autograd.gradgradcheck(call, (f, conv.weight))


@pytest.mark.unchecked
@pytest.mark.parametrize("shape", [(64, 64), (16, 16)])
def test_compiles_in_one_graph_and_maps_and_runs_under_autocast(shape):
    conv = SpectralConv(2, 3, (4, 4))
    f = torch.randn(4, 2, *shape)
    expected = conv(f)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(f), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.vmap(conv)(f[:, None])[:, 0], expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(conv(f), expected)
    assert conv(f.bfloat16()).dtype == torch.bfloat16
    assert conv.double()(f.double()).dtype == torch.float64


def test_initial_variance():
    conv = SpectralConv(20, 44, (8, 8))
    assert float(torch.view_as_complex(conv.weight.detach()).abs().square().mean()) == pytest.approx(2 / 64, rel=0.02)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SpectralConv(1, 1, (3,))(torch.randn(2, 2, 8)), ShapeError, r"\(batch, 1, \*space\) with 1 axes"),
        (lambda: SpectralConv(1, 1, (3,))(torch.randn(2, 1, 8, 8)), ShapeError, "1 axes"),
        (lambda: SpectralConv(1, 1, (3,))(torch.randn(2, 1, 8).long()), ShapeError, "int64"),
        (lambda: SpectralConv(1, 1, (3,))(torch.randn(2, 1, 8), Grid.uniform(9)), ShapeError, "9"),
        (lambda: SpectralConv(0, 1, (3,)), ConfigError, "in_channels=0"),
        (lambda: SpectralConv(1, 1, (-3,)), ConfigError, "n_modes"),
        (lambda: SpectralConv(1, 1, (3,), padding=-0.1), ConfigError, "padding"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
