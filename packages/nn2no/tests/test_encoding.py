"""Coefficients of functions are integrals: they do not see how the function is sampled."""

import itertools
import math

import pytest
import torch
from nn2no.encoding import (
    CoordinateFeatures,
    FourierBasis,
    FunctionDecoder,
    FunctionEncoder,
    GridBasis,
    IntegralReadout,
    LearnedBasis,
    NonlinearDecoder,
    PointSensors,
)
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid, PointCloud
from torch import Tensor


def learned(size: int = 3, **config: object) -> LearnedBasis:
    torch.manual_seed(0)
    return LearnedBasis(2, size, hidden=8, dtype=torch.float64, **config)  # type: ignore[arg-type]


def layers() -> list[FunctionEncoder | IntegralReadout]:
    grid = Grid.chebyshev((6, 6))
    fields = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    bases = [learned(), FourierBasis((1, 2)), GridBasis.pca(fields, grid, 3)]
    return [*(FunctionEncoder(basis) for basis in bases), IntegralReadout(learned(6), 2, dtype=torch.float64)]


def smooth(grid: Grid) -> Tensor:
    x, y = grid.coords.unbind(-1)
    return torch.stack([torch.exp(x) * torch.cos(2 * y), torch.sin(3 * x + y)])[None]


def test_fourier_coefficients_of_a_wave_and_the_projection_that_decoding_completes() -> None:
    grid = Grid.uniform((12, 11), (2.0, 3.0), periodic=True)
    x, y = grid.coords.unbind(-1)
    low = 1.5 * torch.cos(2 * math.pi * (x / 2 - 2 * y / 3)) + 0.25
    f = torch.stack([low, low + torch.cos(2 * math.pi * 4 * x / 2)])[None]
    basis = FourierBasis((2, 2), (2.0, 3.0))
    v = FunctionEncoder(basis)(f, grid)
    found = {tuple(k): v[0, 0, i] for i, k in enumerate(basis.wave_numbers.tolist())}
    for k, expected in (((1, -2), 0.75), ((-1, 2), 0.75), ((0, 0), 0.25), ((1, 2), 0.0)):
        assert abs(found[k] - expected * math.sqrt(6)) < 1e-13
    other = Grid.uniform((7, 20), (2.0, 3.0), periodic=True)
    g = FunctionDecoder(basis)(v, other)
    assert (g - grid.interpolate(f[:, :1], other)).abs().max() < 1e-13


def test_principal_components_are_functions() -> None:
    """From two samplings of the same functions the same components, orthonormal in L²."""
    torch.manual_seed(0)
    mix = torch.randn(8, 3, dtype=torch.float64)
    coefficients, target = [], Grid.uniform((9, 9))
    for grid in (Grid.gauss_legendre((9, 9)), Grid.gauss_legendre((12, 14))):
        x, y = grid.coords.unbind(-1)
        fields = torch.einsum("sm,mxy->sxy", mix, torch.stack([x * y, x**3, 1 + y**2]))[:, None]
        basis = GridBasis.pca(fields, grid, 3)
        encoder, decoder = FunctionEncoder(basis), FunctionDecoder(basis)
        assert (encoder(basis.modes[:, None], grid)[:, 0] - torch.eye(3)).abs().max() < 1e-13
        assert (decoder(encoder(fields, grid), grid) - fields).abs().max() < 1e-12
        coefficients.append(decoder(encoder(fields, grid), target))
    assert (coefficients[0] - coefficients[1]).abs().max() < 1e-12


def test_known_inner_products_with_polynomials() -> None:
    grid = Grid.gauss_legendre((4, 5), (1.0, 2.0))
    x, y = grid.coords.unbind(-1)
    v = FunctionEncoder(GridBasis(torch.stack([x, x * y**2]), grid))((x**2 * y)[None, None], grid)
    assert torch.allclose(v[0, 0], torch.tensor([1 / 4 * 2, 1 / 4 * 4], dtype=torch.float64), rtol=1e-13)


@pytest.mark.parametrize("layer", layers(), ids=["learned", "fourier", "pca", "readout"])
def test_second_order_in_the_spacing_of_nodes(layer: FunctionEncoder | IntegralReadout) -> None:
    fine = Grid.gauss_legendre((40, 40))
    limit = layer(smooth(fine), fine)
    errors = []
    for n in (17, 33, 65):
        grid = Grid.uniform((n, n))
        errors.append(float((layer(smooth(grid), grid) - limit).detach().norm()))
    # the components of the principal basis are polynomials of degree 5
    assert all(abs(math.log2(a / b) - 2) < 0.1 for a, b in itertools.pairwise(errors)), errors


def test_spectral_for_periodic_functions() -> None:
    encoder = FunctionEncoder(learned(periodic=True, frequencies=1))

    def coefficients(n: int) -> Tensor:
        grid = Grid.uniform((n, n), periodic=True)
        return encoder(torch.exp(torch.sin(2 * math.pi * grid.coords)).movedim(-1, 0)[None], grid).detach()

    errors = [float((coefficients(n) - coefficients(64)).norm()) for n in (8, 16, 32)]
    assert errors[1] < errors[0] / 50
    assert errors[2] < 1e-9


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("layer", layers(), ids=["learned", "fourier", "pca", "readout"])
def test_splitting_a_node_and_the_order_of_points_change_nothing(layer, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    layer = layer.to(dtype)
    f, x, w = torch.randn(2, 9, 2).to(dtype), torch.rand(2, 9, 2).to(dtype), torch.rand(2, 9).to(dtype)
    v = layer.on_points(f, x, w)
    part = torch.cat([w, 0.3 * w[:, 4:5]], 1)
    part[:, 4] *= 0.7
    split = layer.on_points(*(torch.cat([t, t[:, 4:5]], 1) for t in (f, x)), part)
    order = torch.randperm(9)
    assert (split - v).abs().max() < tolerance * max(1, float(v.detach().abs().max()))
    assert (layer.on_points(f[:, order], x[:, order], w[:, order]) - v).abs().max() < tolerance
    alone = layer.on_points(f[1:], x[1:], w[1:])
    assert (alone - v[1:]).abs().max() < tolerance
    layer.double()


def test_a_cloud_and_a_grid_with_the_same_nodes_agree() -> None:
    grid = Grid.uniform((4, 5))
    cloud = PointCloud(grid.coords.reshape(-1, 2), grid.weights.flatten())
    f = smooth(grid)
    on_cloud = f.flatten(2).mT
    for layer in layers():
        torch.testing.assert_close(layer(on_cloud, cloud), layer(f, grid), rtol=1e-13, atol=1e-14)
    decoder, w = FunctionDecoder(learned()), torch.randn(1, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(decoder(w, cloud), decoder(w, grid).flatten(2).mT)
    nonlinear = NonlinearDecoder(6, CoordinateFeatures(2), 2, dtype=torch.float64)
    torch.testing.assert_close(nonlinear(w.flatten(1), cloud), nonlinear(w.flatten(1), grid).flatten(2).mT)


def test_sensors_read_the_interpolant_of_any_domain() -> None:
    sensors = PointSensors(torch.tensor([[0.3, 0.4], [0.75, 0.1]], dtype=torch.float64))
    for grid in (Grid.uniform((4, 5)), Grid.chebyshev((5, 5))):
        x, y = grid.coords.unbind(-1)
        f = (1 + 2 * x - y)[None, None]
        expected = torch.tensor([1.2, 2.4], dtype=torch.float64)
        assert torch.allclose(sensors(f, grid)[0, 0], expected, rtol=1e-13)
        cloud = PointCloud(grid.coords.reshape(-1, 2))
        assert torch.allclose(sensors(f.flatten(2).mT, cloud)[0, 0], expected, rtol=1e-12)
    exact, errors = torch.exp(torch.tensor(0.3)) * torch.cos(torch.tensor(0.8)), []
    for n in (14, 27, 53):  # the sensor stays at the same fraction of a cell
        grid = Grid.uniform((n, n))
        errors.append(float((sensors(smooth(grid), grid)[0, 0, 0] - exact).abs()))
    assert errors[2] < errors[0] / 8


@pytest.mark.parametrize("layer", layers(), ids=["learned", "fourier", "pca", "readout"])
def test_an_empty_batch_stays_empty(layer: FunctionEncoder | IntegralReadout) -> None:
    grid = Grid.uniform((6, 5))
    f = torch.ones(2, 2, 6, 5, dtype=torch.float64)
    assert layer(f[:0], grid).shape == (0, *layer(f, grid).shape[1:])
    x, w = torch.rand(0, 9, 2, dtype=torch.float64), torch.rand(0, 9, dtype=torch.float64)
    assert layer.on_points(torch.rand(0, 9, 2, dtype=torch.float64), x, w).shape[0] == 0


def test_coefficients_are_conjugate_and_features_of_half_a_period() -> None:
    """1 + sin 2πx has the coefficients -i/2 and i/2 of the modes 1 and -1; axes with walls have cos πkx/L."""
    grid = Grid.uniform(9, periodic=True)
    v = FunctionEncoder(FourierBasis((1,)))((1 + torch.sin(2 * math.pi * grid.coords[:, 0]))[None, None], grid)
    expected = torch.tensor([0.5j, 1, -0.5j], dtype=torch.complex128)  # of the modes -1, 0 and 1
    torch.testing.assert_close(v[0, 0], expected, rtol=0, atol=1e-14)
    x = torch.tensor([[0.7, 0.7]], dtype=torch.float64)
    features = CoordinateFeatures(2, lengths=(2.0, 3.0), periodic=[False, True], frequencies=2)(x)[0]
    k = torch.tensor([1.0, 2.0], dtype=torch.float64)
    walls, around = math.pi * k * 0.7 / 2, 2 * math.pi * k * 0.7 / 3
    parts = [walls.cos(), walls.sin(), x[0, :1] / 2, around.cos(), around.sin()]
    torch.testing.assert_close(features, torch.cat(parts), rtol=0, atol=1e-14)


def test_decoders_are_functions_of_the_point() -> None:
    w = torch.randn(2, 3, 3, dtype=torch.float64)
    points = torch.rand(2, 7, 2, dtype=torch.float64)
    decoder = FunctionDecoder(learned())
    g = decoder.at_points(w, points)
    assert g.shape == (2, 7, 3)
    assert (decoder.at_points(w[1:], points[1:]) - g[1:]).abs().max() < 1e-14
    assert (decoder.at_points(2 * w, points) - 2 * g).abs().max() < 1e-13
    nonlinear = NonlinearDecoder(9, CoordinateFeatures(2), 4, hidden=8, dtype=torch.float64)
    h = nonlinear.at_points(w.flatten(1), points)
    assert h.shape == (2, 7, 4)
    assert (nonlinear.at_points(w.flatten(1), points.flip(1)) - h.flip(1)).abs().max() < 1e-14
    assert (nonlinear.at_points(2 * w.flatten(1), points) - 2 * h).abs().max() > 1e-3


def test_gradients() -> None:
    torch.manual_seed(0)
    f, x, w = (torch.rand(2, 4, n, dtype=torch.float64) for n in (2, 2, 1))
    f.requires_grad_(), w.requires_grad_()
    for layer in layers():
        inputs = (f, x.clone().requires_grad_(not isinstance(getattr(layer, "basis", None), GridBasis)), w)
        assert torch.autograd.gradcheck(lambda f, x, w: layer.on_points(f, x, w[..., 0]), inputs)  # noqa: B023
    for basis in (learned(), FourierBasis((1, 0))):
        decoder = FunctionDecoder(basis)
        assert torch.autograd.gradcheck(decoder.at_points, (f.mT[..., :3].detach().requires_grad_(), x))
    nonlinear = NonlinearDecoder(8, CoordinateFeatures(2), hidden=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f, x: nonlinear.at_points(f.flatten(1), x), (f, x.requires_grad_()))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LearnedBasis(2, 3, lengths=(1.0,)), ConfigError, "one an axis"),
        (lambda: LearnedBasis(2, 3, frequencies=0), ConfigError, "at least one"),
        (lambda: FourierBasis((2, 2), (1.0, 0.0)), ConfigError, "lengths > 0"),
        (lambda: GridBasis(torch.ones(2, 3), Grid.uniform(4)), ShapeError, "batch, channel, 4"),
        (lambda: GridBasis.pca(torch.ones(2, 1, 4), Grid.uniform(4), 3), ConfigError, "give 1 to 2"),
        (lambda: PointSensors(torch.ones(3)), ShapeError, r"\(size, dim\)"),
        (lambda: learned()(torch.ones(4, 3)), ShapeError, "3 coordinates; expected 2"),
        (lambda: FourierBasis((1,))(torch.ones(4, 3)), ShapeError, "3 coordinates; expected 1"),
        (lambda: FunctionEncoder(learned())(torch.ones(1, 1, 4, 4), Grid.uniform((4, 5))), ShapeError, "4, 5"),
        (
            lambda: FunctionEncoder(learned()).on_points(torch.ones(2, 4, 1), torch.ones(3, 4, 2), torch.ones(3, 4)),
            ShapeError,
            r"\(1 \| batch, point, dim\)",
        ),
        (
            lambda: FunctionDecoder(learned()).at_points(torch.ones(2, 1, 4), torch.ones(1, 4, 2)),
            ShapeError,
            "channel, 3",
        ),
        (
            lambda: NonlinearDecoder(3, CoordinateFeatures(2)).at_points(torch.ones(2, 4), torch.ones(1, 4, 2)),
            ShapeError,
            r"\(batch, 3\)",
        ),
        (
            lambda: IntegralReadout(learned(4), 2)(torch.ones(1, 1, 4, 4), Grid.uniform((4, 4))),
            ShapeError,
            "expected 2",
        ),
        (lambda: IntegralReadout(learned(3), 2), ConfigError, "multiple of the channels"),
        (lambda: FunctionEncoder(learned())(torch.ones(1, 1, 4), None), ConfigError, "Grid or a PointCloud"),
    ],
)
def test_bad_input(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
