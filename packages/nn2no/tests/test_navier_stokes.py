"""The vorticity solver against analytic flows, its own budget and itself; the data that it makes."""

import itertools
import math

import numpy as np
import pytest
import torch
from nn2no.problems._vorticity import VorticityEquation, solve_vorticity
from nn2no.problems.navier_stokes import NavierStokes, sample_forcing
from sciml.errors import ConfigError, DataError, ShapeError
from sciml.grids import Grid
from torch import Tensor


def seeds(n: int, root: int = 0) -> list[np.random.SeedSequence]:
    return [np.random.SeedSequence(root, spawn_key=(i,)) for i in range(n)]


def forcing(n: int, resolution: int) -> Tensor:
    return torch.as_tensor(sample_forcing(seeds(n), resolution))


def nodes(*shape: int, lengths: tuple[float, ...] = (2 * math.pi, 2 * math.pi)) -> tuple[Tensor, Tensor]:
    x, y = Grid.uniform(shape, lengths, periodic=True).coords.unbind(-1)
    return x, y


def relative_l2(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm(dim=(-2, -1)) / b.norm(dim=(-2, -1))).max())


@pytest.mark.parametrize(("scheme", "tolerance"), [("if-rk4", 1e-10), ("cn-heun", 1e-8)])
def test_taylor_green_vortex_decays(scheme, tolerance):
    x, y = nodes(16, 16)
    omega0 = 2 * torch.cos(x) * torch.cos(y)
    end = solve_vorticity(omega0, reynolds=10, duration=0.2, scheme=scheme, max_step=1e-3)
    assert (end - omega0 * math.exp(-2 * 0.2 / 10)).abs().max() <= tolerance


@pytest.mark.parametrize(("scheme", "tolerance"), [("if-rk4", 1e-10), ("cn-heun", 1e-8)])
@pytest.mark.parametrize(("shape", "lengths"), [((16, 16), (2 * math.pi,) * 2), ((15, 26), (2 * math.pi, 5 * math.pi))])
def test_steady_flow_stays(scheme, tolerance, shape, lengths):
    """ω = p² cos(px) + q² cos(qy) is steady under f = u·∇ω − Δω/Re, which tests advection with its sign."""
    p, q = 2 * math.pi / lengths[0], 2 * 2 * math.pi / lengths[1]
    x, y = nodes(*shape, lengths=lengths)
    omega = p**2 * torch.cos(p * x) + q**2 * torch.cos(q * y)
    u = (-q * torch.sin(q * y), p * torch.sin(p * x))
    gradient = (-(p**3) * torch.sin(p * x), -(q**3) * torch.sin(q * y))
    minus_laplacian = p**4 * torch.cos(p * x) + q**4 * torch.cos(q * y)
    f = u[0] * gradient[0] + u[1] * gradient[1] + minus_laplacian / 5
    end = solve_vorticity(omega, f, reynolds=5, duration=0.2, lengths=lengths, scheme=scheme, max_step=1e-3)
    assert (end - omega).abs().max() <= tolerance


@pytest.mark.parametrize(("scheme", "tolerance"), [("if-rk4", 1e-10), ("cn-heun", 1e-8)])
def test_enstrophy_budget(scheme, tolerance):
    """d/dt ½‖ω‖² = ⟨f, ω⟩ − ‖∇ω‖²/Re at the end of a forced run; the derivative by differences of eighth order."""
    n, reynolds, gap = 32, 100.0, 0.01
    grid = Grid.uniform((n, n), 2 * math.pi, periodic=True)
    f = forcing(1, n)
    w = [solve_vorticity(torch.zeros_like(f), f, reynolds=reynolds, duration=5.0)]
    for _ in range(8):
        w.append(solve_vorticity(w[-1], f, reynolds=reynolds, duration=gap, scheme=scheme, max_step=1e-3))
    enstrophy = [0.5 * float(grid.norm(v[:, None])) ** 2 for v in w]
    weights = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
    middle = w[4][:, None]
    work = float(grid.inner(f[:, None], middle))
    dissipation = float(grid.sobolev_norm(middle, 1) ** 2 - grid.norm(middle) ** 2) / reynolds
    assert min(work, dissipation) > 1  # there is something to balance
    assert abs(weights @ enstrophy / gap - (work - dissipation)) <= tolerance * enstrophy[4]


@pytest.mark.parametrize(("scheme", "order"), [("if-rk4", 4), ("cn-heun", 2)])
def test_nominal_order_in_time(scheme, order):
    f = 10 * forcing(2, 24)
    ends = [
        solve_vorticity(torch.zeros_like(f), f, reynolds=50, duration=1.0, scheme=scheme, cfl=100, max_step=1 / steps)
        for steps in (16, 32, 64, 128)
    ]
    errors = [float((a - b).norm()) for a, b in itertools.pairwise(ends)]
    slope = -np.polyfit(range(3), np.log2(errors), 1)[0]
    assert order - 0.2 <= slope <= order + 0.4


def test_crank_nicolson_agrees_with_runge_kutta():
    f = forcing(4, 32)
    a, b = (
        solve_vorticity(torch.zeros_like(f), f, reynolds=100, duration=5.0, scheme=s) for s in ("if-rk4", "cn-heun")
    )
    assert 1e-6 < relative_l2(b, a) <= 1e-3


@pytest.mark.slow
def test_half_the_step_gives_the_same_vorticity():
    """At Re = 500 on the coarsest grid of the preset `paper`; at Re = 100 the conformance suite measures it."""
    problem = NavierStokes(resolution=128, reynolds=500.0)
    coarse, fine = (torch.as_tensor(p.simulate(seeds(1))["y"].values) for p in (problem, problem.refined()))
    assert relative_l2(coarse, fine) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("reynolds", "expected"), [(100.0, 3.4e-4), (500.0, 1.1e-2)])
def test_64_nodes_resolve_the_vorticity(reynolds, expected):
    """Within a factor of two of the mean over more samples that the problem's docstring states."""
    coarse, fine = (
        torch.as_tensor(NavierStokes(resolution=n, reynolds=reynolds).simulate(seeds(2))["y"].values) for n in (64, 128)
    )
    difference = (coarse - fine[:, ::2, ::2]).norm(dim=(1, 2)) / coarse.norm(dim=(1, 2))
    assert expected / 2 <= float(difference.mean()) <= expected * 2


def test_the_step_is_bounded_along_each_axis_by_its_spacing():
    """cfl / max(|u₁|/h₁ + |u₂|/h₂) of each sample, with h = (1/8, 3/16)."""
    equation = VorticityEquation((8, 16), (1.0, 3.0), torch.zeros((), dtype=torch.float64), 1.0)
    u = torch.zeros(3, 2, 8, 16, dtype=torch.float64)
    u[0, 0, 3, 4], u[1, 1, 5, 6], u[2, :, 1, 2] = 2.0, -2.0, 1.0
    expected = torch.tensor([0.5 / 16, 0.5 * 3 / 32, 0.5 / (8 + 16 / 3)], dtype=torch.float64)
    torch.testing.assert_close(equation.step_size(u, 0.5, 1.0).flatten(), expected)
    assert float(equation.step_size(u, 0.5, 0.01).max()) == 0.01


def test_a_sample_does_not_depend_on_its_batch():
    f = forcing(3, 32) * torch.tensor([1.0, 50.0, 5.0])[:, None, None]  # their steps differ
    together = solve_vorticity(torch.zeros_like(f), f, reynolds=100, duration=0.5)
    alone = torch.cat([solve_vorticity(torch.zeros_like(g), g, reynolds=100, duration=0.5) for g in f.split(1)])
    assert relative_l2(together, alone) <= 1e-12


def test_batch_dimensions_are_free():
    f = forcing(4, 16)
    flat = solve_vorticity(torch.zeros_like(f), f, reynolds=100, duration=0.5)
    nested = solve_vorticity(torch.zeros_like(f).view(2, 2, 16, 16), f.view(2, 2, 16, 16), reynolds=100, duration=0.5)
    torch.testing.assert_close(nested.view_as(flat), flat, rtol=0, atol=0)
    single = solve_vorticity(torch.zeros_like(f[0]), f[0], reynolds=100, duration=0.5)
    torch.testing.assert_close(single, flat[0], rtol=1e-12, atol=1e-14)
    assert solve_vorticity(f[:0], f[:0], reynolds=100, duration=0.5).shape == (0, 16, 16)


def test_time_is_cut_into_parts():
    """Two solves one after the other are one; fields need not be contiguous."""
    f = forcing(2, 16).mT
    whole = solve_vorticity(torch.zeros_like(f), f, reynolds=100, duration=1.0, cfl=1.0, max_step=0.1)
    half = solve_vorticity(torch.zeros_like(f), f, reynolds=100, duration=0.5, cfl=1.0, max_step=0.1)
    again = solve_vorticity(half, f.contiguous(), reynolds=100, duration=0.5, cfl=1.0, max_step=0.1)
    torch.testing.assert_close(again, whole, rtol=1e-10, atol=1e-12)


def test_single_precision():
    f = forcing(2, 32)
    ends = [solve_vorticity(torch.zeros_like(g), g, reynolds=100, duration=5.0) for g in (f.float(), f)]
    assert ends[0].dtype == torch.float32
    assert relative_l2(ends[0].double(), ends[1]) <= 1e-5


@pytest.mark.parametrize("resolution", [16, 21, 32])
def test_one_seed_is_one_function_on_every_grid(resolution):
    coarse, fine = (np.fft.fft2(sample_forcing(seeds(3), n), norm="forward") for n in (resolution, 33))
    m = np.arange(-((resolution - 1) // 2), (resolution - 1) // 2 + 1)
    np.testing.assert_allclose(coarse[:, m[:, None], m], fine[:, m[:, None], m], atol=1e-15)
    if resolution % 2 == 0:
        np.testing.assert_allclose(coarse[:, resolution // 2], 0, atol=1e-15)


def test_forcing_has_the_stated_spectrum():
    """E f² = 2σ² Σ (|k|² + 9)⁻⁴, the rms of 0.27 that the convention is chosen for; every wave vector has its share."""
    f = sample_forcing(seeds(2000), 8)
    power = np.mean(np.abs(np.fft.fft2(f, norm="forward")) ** 2, axis=0)
    k = np.fft.fftfreq(8, 1 / 8)
    expected = 54.0 * (k[:, None] ** 2 + k**2 + 9) ** -4
    expected[0, 0] = expected[4] = expected[:, 4] = 0
    np.testing.assert_allclose(power, expected, rtol=5 / math.sqrt(2000), atol=1e-30)
    assert 0.25 < np.sqrt(np.mean(sample_forcing(seeds(50), 32) ** 2)) < 0.29


def test_dataset():
    data = NavierStokes(resolution=16, duration=1.0).generate(3, seed=5)
    assert data["x"].dims == data["y"].dims == ("sample", "x1", "x2")
    assert data["y"].shape == (3, 16, 16)
    np.testing.assert_allclose(data["x1"], np.arange(16) * 2 * math.pi / 16)
    for name in ("x", "y", "x1", "x2"):
        assert data[name].attrs["units"] == "1"
    for name in ("x", "y"):
        np.testing.assert_allclose(data[name].mean(("x1", "x2")), 0, atol=1e-15)
    expected = solve_vorticity(
        torch.zeros(3, 16, 16, dtype=torch.float64), torch.as_tensor(data["x"].values), reynolds=100, duration=1.0
    )
    np.testing.assert_allclose(data["y"], expected, rtol=1e-10, atol=1e-12)


def test_dataset_is_deterministic():
    problem = NavierStokes(resolution=16, duration=1.0, dtype="float32")
    first, again, more = problem.generate(3, seed=5), problem.generate(3, seed=5), problem.generate(20, seed=5)
    assert first["y"].dtype == np.float32
    np.testing.assert_array_equal(first["y"], again["y"])
    np.testing.assert_array_equal(first["y"], more["y"][:3])
    assert np.abs(problem.generate(3, seed=6)["y"] - first["y"]).max() > 0.01


FIELD = torch.sin(2 * math.pi / 8 * torch.arange(8.0, dtype=torch.float64)).expand(2, 8, 8)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"omega0": FIELD[0, 0]}, ShapeError, r"\(\*batch, n1, n2\)"),
        ({"omega0": FIELD[..., :3]}, ShapeError, "at least 4 nodes"),
        ({"forcing": FIELD[:1]}, ShapeError, r"\(1, 8, 8\) and omega0 \(2, 8, 8\)"),
        ({"omega0": FIELD.to(torch.complex128)}, ConfigError, "complex128"),
        ({"omega0": FIELD.half()}, ConfigError, "float16"),
        ({"omega0": FIELD.long()}, ConfigError, "int64"),
        ({"forcing": FIELD.float()}, ConfigError, "forcing is torch.float32 and omega0 torch.float64"),
        ({"omega0": FIELD * math.nan}, DataError, "omega0 has values that are not finite"),
        ({"forcing": FIELD / 0}, DataError, "forcing has values that are not finite"),
        ({"omega0": FIELD + 1e-3}, DataError, "mean of omega0 is not zero"),
        ({"forcing": FIELD + 1e-3}, DataError, "mean of forcing is not zero"),
        ({"reynolds": 0}, ConfigError, "reynolds=0 must be a positive number"),
        ({"duration": math.inf}, ConfigError, "duration=inf"),
        ({"lengths": (1.0, -1.0)}, ConfigError, r"lengths\[1\]=-1.0"),
        ({"cfl": 0}, ConfigError, "cfl=0"),
        ({"max_step": math.nan}, ConfigError, "max_step=nan"),
        ({"scheme": "euler"}, ConfigError, "choose one of if-rk4, cn-heun"),
        ({"omega0": FIELD * 1e3, "forcing": FIELD.mT * 1e5, "cfl": 50, "max_step": 0.5}, DataError, "lower cfl=50"),
    ],
)
def test_bad_input_of_the_solver(arguments, error, message):
    with pytest.raises(error, match=message):
        solve_vorticity(**{"omega0": FIELD, "reynolds": 1e4, "duration": 5.0, **arguments})


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resolution": 3}, "resolution=3 must be a whole number, at least 4"),
        ({"resolution": 32.5}, "resolution=32.5 must be a whole number"),
        ({"dtype": "float16"}, "choose 'float32' or 'float64'"),
        ({"scheme": "euler"}, "choose one of if-rk4, cn-heun"),
        ({"reynolds": -1.0}, "reynolds=-1.0 must be positive"),
        ({"max_step": 0}, "max_step=0 must be positive"),
    ],
)
def test_bad_fields_of_the_problem(fields, message):
    with pytest.raises(ConfigError, match=message):
        NavierStokes(**fields)
