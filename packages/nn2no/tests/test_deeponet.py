"""Branch and trunk: operators whose input is a function and whose output is one."""

import math

import pytest
import torch
from nn2no.convergence import check_discretization_convergence
from nn2no.models.deeponet import NOMAD, DeepONet
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid, PointCloud
from torch import Tensor

MODELS = [DeepONet, NOMAD]


def small(cls: type[DeepONet] | type[NOMAD], **config: object) -> DeepONet | NOMAD:
    torch.manual_seed(0)
    given = {"n_functions": 5, "width": 8, "frequencies": 2, "periodic": False, "dtype": "float64", **config}
    return cls(**given).requires_grad_(False)  # type: ignore[arg-type]


def smooth(domain: Grid | PointCloud) -> Tensor:
    x, y = domain.coords.unbind(-1)
    f = torch.exp(x) * torch.cos(2 * y)
    return f[None, None] if isinstance(domain, Grid) else f[None, :, None]


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("config", [{}, {"encoder": "sensors", "sensors": (4, 4)}], ids=["integral", "sensors"])
def test_one_function_on_any_grid_and_cloud(cls, config) -> None:
    """Trapezoidal or multilinear: of second order. On the nodes of Gauss and of Chebyshev to rounding."""
    model, queries = small(cls, **config), torch.rand(6, 2, dtype=torch.float64)
    limit = model(smooth(Grid.gauss_legendre((24, 24))), Grid.gauss_legendre((24, 24)), queries) if not config else None
    fine = Grid.chebyshev((25, 25))
    reference = model(smooth(fine), fine, queries)
    if limit is not None:
        torch.testing.assert_close(reference, limit, rtol=1e-9, atol=1e-10)
    errors, clouds = [], []
    for n in (14, 27, 53):  # sensors lie at a third of a cell
        grid = Grid.uniform((n, n))
        errors.append(float((model(smooth(grid), grid, queries) - reference).norm()))
        cloud = PointCloud(grid.coords.reshape(-1, 2))
        clouds.append(float((model(smooth(cloud), cloud, queries) - reference).norm()))
    assert errors[0] / errors[2] > 10
    assert clouds[0] / clouds[2] > 10


@pytest.mark.parametrize("cls", MODELS)
def test_the_output_is_a_field_where_the_input_is_one(cls) -> None:
    model = small(cls, out_channels=3)
    grid = Grid.uniform((5, 6))
    g = model(smooth(grid), grid)
    assert g.shape == (1, 3, 5, 6)
    assert torch.equal(model(smooth(grid)), model(smooth(grid), None))
    torch.testing.assert_close(model(smooth(grid)), g, rtol=1e-13, atol=1e-14)
    at = model(smooth(grid), grid, grid.coords.reshape(-1, 2))
    torch.testing.assert_close(at.mT.unflatten(2, (5, 6)), g)
    f = torch.cat([smooth(grid), 2 * smooth(grid)])
    points = torch.rand(2, 7, 2, dtype=torch.float64)
    both = model(f, grid, points)
    for b in range(2):
        torch.testing.assert_close(both[b : b + 1], model(f[b : b + 1], grid, points[b]))
    cloud = PointCloud(grid.coords.reshape(-1, 2), grid.weights.flatten())
    torch.testing.assert_close(model(smooth(cloud), cloud).mT.unflatten(2, (5, 6)), g)


def test_the_domain_has_lengths_and_a_period() -> None:
    model = small(DeepONet, lengths=(2.0, 3.0), periodic=True)
    grid = Grid.uniform((8, 9), (2.0, 3.0), periodic=True)
    f = torch.sin(2 * math.pi * grid.coords[..., 0] / 2)[None, None]
    torch.testing.assert_close(model(f), model(f, grid), rtol=1e-12, atol=1e-13)
    x = torch.tensor([[0.1, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(model(f, grid, x), model(f, grid, x + torch.tensor([2.0, -3.0])), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("config", [{}, {"encoder": "sensors", "sensors": (4, 4)}], ids=["integral", "sensors"])
def test_empty_batches(cls, config) -> None:
    model, f, grid = small(cls, **config), torch.ones(0, 1, 5, 6).double(), Grid.uniform((5, 6))
    assert model(f).shape == model(f, grid).shape == (0, 1, 5, 6)
    assert model(f, grid, grid.coords.reshape(-1, 2)).shape == (0, 30, 1)
    cloud = PointCloud(grid.coords.reshape(-1, 2), grid.weights.flatten())
    assert model(torch.ones(0, 30, 1).double(), cloud).shape == (0, 30, 1)


@pytest.mark.parametrize("cls", MODELS)
def test_the_checker_knows_its_domain(cls) -> None:
    model = small(cls, in_channels=2, lengths=(2.0, 3.0), periodic=(True, False))
    assert (model.in_channels, list(model.lengths), list(model.periodic)) == (2, [2.0, 3.0], [True, False])
    report = check_discretization_convergence(model, (16, 32, 64))
    assert report.converges
    assert report.consistent


def test_deeponet_is_linear_in_its_trunk_and_nomad_is_not() -> None:
    """The outputs of DeepONet for many inputs span as many dimensions as it has functions, and the constant."""
    grid = Grid.uniform((12, 12), periodic=True)
    f = torch.randn(40, 1, 12, 12, dtype=torch.float64)
    ranks = {}
    for cls in MODELS:
        model = small(cls, n_functions=2)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
        ranks[cls] = int(torch.linalg.matrix_rank(model(f, grid).flatten(1), rtol=1e-10))
    assert ranks[DeepONet] <= 3 < 10 < ranks[NOMAD]


def test_sensors_read_the_field_itself_on_their_own_grid() -> None:
    model = small(DeepONet, encoder="sensors", sensors=(4, 3))
    f = torch.randn(2, 1, 4, 3, dtype=torch.float64)
    w = model.branch.network(f.flatten(1))
    torch.testing.assert_close(
        model(f), model.decode(w, Grid.uniform((4, 3)).coords.reshape(1, -1, 2)).mT.reshape(f.shape)
    )


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: small(DeepONet, encoder="points"), ConfigError, "'integral' without, or 'sensors'"),
        (lambda: small(DeepONet, encoder="sensors"), ConfigError, "number of sensors"),
        (lambda: small(NOMAD, sensors=(3, 3)), ConfigError, "'integral' without"),
        (lambda: small(NOMAD, periodic=(True,)), ConfigError, "one an axis"),
        (lambda: small(NOMAD)(torch.ones(2, 2, 4, 4)), ShapeError, r"\(batch, 1, n1, n2\)"),
        (lambda: small(NOMAD)(torch.ones(2, 1, 4, 4), Grid.uniform((4, 5))), ShapeError, "4, 5"),
        (lambda: small(NOMAD)(torch.ones(2, 3, 2), PointCloud(torch.eye(3, 2))), ShapeError, r"\(batch, point, 1\)"),
        (lambda: small(NOMAD)(torch.ones(2, 1, 4, 4), None, torch.ones(3, 4, 2)), ShapeError, r"\(2, query, 2\)"),
    ],
)
def test_bad_input(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
