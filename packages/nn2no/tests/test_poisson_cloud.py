"""Points, densities and exact solutions of Poisson's equation."""

import numpy as np
import pytest
import torch
from nn2no.problems.poisson_cloud import (
    PoissonCloud,
    boundary_points,
    interior_points,
    sine_coefficients,
    source_and_solution,
)
from sciml.data import generate, open_dataset
from sciml.errors import ConfigError

SMALL = {"min_points": 30, "max_points": 60}


def test_minus_the_laplacian_of_the_solution_is_the_source():
    rng = np.random.default_rng(0)
    a, x, h = sine_coefficients(rng, 8), rng.uniform(0.1, 0.9, size=(20, 2)), 1e-3
    around = [source_and_solution(a, x + h * np.array(d))[1] for d in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    f, u = source_and_solution(a, x)
    # the error of the five-point formula is at most h²/12 · (8π)⁴ Σ|û|, since no mode exceeds 8
    np.testing.assert_allclose((4 * u - sum(around)) / h**2, f, atol=1e-3 * np.abs(f).max())


def test_solution_and_source_are_zero_on_the_boundary():
    f, u = source_and_solution(sine_coefficients(np.random.default_rng(0), 8), boundary_points(800))
    assert len(u) == 112
    assert (f == 0).all()
    assert (u == 0).all()


def test_samples_are_clouds_with_weights_that_add_up_to_the_area():
    data = PoissonCloud(**SMALL).generate(20)
    n = data["n"].values
    assert n.min() >= 30 + 20
    assert n.max() <= 60 + 32
    assert len(set(n)) > 5
    real = np.arange(data.sizes["point"]) < n[:, None]
    for name in ("f", "u", "weights"):
        assert (np.isfinite(data[name].values) == real).all()
    assert (np.isfinite(data["x"].values).all(-1) == real).all()
    np.testing.assert_allclose(np.nansum(data["weights"].values, 1), 1, rtol=1e-12)


def test_weights_integrate_the_source():
    """∫f = Σ_{m,n odd} 4 a_mn/(π² m n), here to the accuracy of linear interpolation between some 1000 points."""
    data = PoissonCloud().generate(8)
    sums = np.nansum(data["weights"].values * data["f"].values, 1)
    k = np.arange(1, 9)
    over = (1 - (-1.0) ** k) / (np.pi * k)
    seeds = [np.random.SeedSequence(0, spawn_key=(i,)) for i in range(8)]
    exact = np.array([over @ sine_coefficients(np.random.default_rng(s), 8) @ over for s in seeds])
    assert np.linalg.norm(sums - exact) < 0.02 * np.linalg.norm(exact)


def test_densities():
    n = 20000
    x = {d: interior_points(np.random.default_rng(1), n, d) for d in ("uniform", "clustered", "graded")}
    shares = {d: np.histogram2d(*p.T, bins=2, range=[[0, 1], [0, 1]])[0].ravel() / n for d, p in x.items()}
    np.testing.assert_allclose(shares["uniform"], 0.25, atol=0.02)
    np.testing.assert_allclose(sorted(shares["clustered"]), [0.1, 0.1, 0.1, 0.7], atol=0.02)
    near = 0.5**0.5  # P(t² < 1/2) of a uniform t
    np.testing.assert_allclose(sorted(shares["graded"]), np.repeat([(1 - near) / 2, near / 2], 2), atol=0.02)
    assert all(((p > 0) & (p < 1)).all() for p in x.values())


def test_a_store_gives_the_same_samples(tmp_path):
    problem = PoissonCloud(**SMALL)
    generate(problem, 20, seed=2, out=tmp_path / "data.zarr")
    stored, direct = open_dataset(tmp_path / "data.zarr").load(), problem.generate(20, seed=2)
    for name in direct.data_vars:
        np.testing.assert_array_equal(stored[name].values, direct[name].values)


def test_mixed_density_has_both():
    problem = PoissonCloud(**SMALL)
    shares = []
    for i in range(40):
        x = torch.as_tensor(problem.cloud(np.random.default_rng(i)))
        x = x[((x > 0) & (x < 1)).all(1)]
        shares.append(max(float(((x > torch.tensor(c) / 2) & (x < torch.tensor(c) / 2 + 0.5)).all(1).double().mean())
                          for c in ((0, 0), (0, 1), (1, 0), (1, 1))))  # fmt: skip
    assert 10 < sum(s > 0.5 for s in shares) < 30


@pytest.mark.parametrize(
    ("change", "message"),
    [({"density": "dense"}, "clustered"), ({"min_points": 9, "max_points": 5}, "min_points=9"), ({"max_mode": 0}, "1")],
)
def test_bad_fields_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        PoissonCloud(**change)
