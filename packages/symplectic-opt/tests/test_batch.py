"""`minimize_batch` is `minimize` in every cell, and `tune` takes the best cell."""

import numpy as np
import pytest
import torch
from sciml.errors import ConfigError, ShapeError
from symplectic_opt import minimize, minimize_batch, tune

F64 = torch.float64
SCALE = torch.logspace(-2, 0, 10, dtype=F64)


def quadratic(x):
    return (SCALE * x * x).sum(-1) / 2


def start(*batch):
    return torch.randn(*batch, 10, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [
        {"method": "expo-slc-rtl"},
        {"method": "poly-slc-rtl"},
        {"method": "expo-htvi-rtl", "restart": "function"},
        {"method": "expo-sv", "restart": "velocity"},
        {"method": "poly-slc", "restart": 20, "adaptive_to": 3.0},
        {"method": "poly-slc-rtl", "loop_test": "consistent"},
        {"method": "expo-rk4"},
        {"method": "nag", "restart": "gradient"},
        {"method": "nag", "restart": "velocity"},
        {"method": "momentum"},
    ],
)
def test_cells_are_single_runs(options):
    classical = options["method"] in ("nag", "momentum")
    axes = {"h": torch.logspace(-2, 1.5, 5, dtype=F64)}
    axes |= {} if classical else {"C": torch.tensor([1e-3, 0.1, 10.0], dtype=F64)[:, None]}
    found = minimize_batch(quadratic, start(), gtol=1e-4, ftol=1e-4, max_iter=200, **axes, **options)
    assert found.nit.shape == ((5,) if classical else (3, 5))
    for at in np.ndindex(*found.nit.shape):
        cell = {name: float(axis.broadcast_to(found.nit.shape)[at]) for name, axis in axes.items()}
        alone = minimize(quadratic, start(), gtol=1e-4, ftol=1e-4, max_iter=200, **cell, **options)
        assert int(found.status[at]) == alone.status
        # a cell that is lost keeps the last point that was not
        assert int(found.nit[at]) == alone.nit
        assert float(found.fun[at]) == pytest.approx(alone.fun, rel=1e-8, abs=1e-12)
    assert len(found.status.unique()) > 1  # the grid has cells of more than one fate


def test_parameters_may_be_given_in_order():
    C, h = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0])
    one, other = (
        minimize_batch(quadratic, start(), C, h, max_iter=9),
        minimize_batch(quadratic, start(), h=h, C=C, max_iter=9),
    )
    assert torch.equal(one.x, other.x)


def test_starts_and_parameters_broadcast():
    found = minimize_batch(quadratic, start(4, 1), h=torch.tensor([5.0, 10.0, 20.0]), max_iter=50)
    assert found.x.shape == (4, 3, 10)
    alone = minimize(quadratic, start(4, 1)[2, 0], h=10.0, max_iter=50)
    assert (found.x[2, 1] - alone.x).abs().amax() <= 1e-12
    data = found.to_dataset(start=np.arange(4), h=[5.0, 10.0, 20.0])
    assert data.nit.dims == ("start", "h")


@pytest.mark.parametrize(
    ("method", "rate", "h"),
    [("poly-slc-rtl", [5.0, 6.0, 7.0], [0.05, 0.1, 10.0]), ("expo-slc-rtl", [0.01, 0.05, 0.1], [0.1, 1.0, 200.0])],
)
def test_clocks_differ_by_cell(method, rate, h):
    options = {"method": method, "adaptive_to": 3.0, "gtol": 1e-2, "ftol": 1e-2, "max_iter": 300}
    found = minimize_batch(quadratic, start(), rate=torch.tensor(rate), h=torch.tensor(h), **options)
    assert len(found.nit.unique()) > 1  # cells end at different times
    for k in range(3):
        alone = minimize(quadratic, start(), rate=float(torch.tensor(rate)[k]), h=float(torch.tensor(h)[k]), **options)
        assert (int(found.nit[k]), int(found.status[k])) == (alone.nit, alone.status)


def test_targets_differ_by_cell():
    h, target = (
        torch.tensor([5.0, 10.0, 10.0, 20.0, 20.0]).double(),
        torch.tensor([1e-1, 1e-9, 1e-5, 1e-1, 1e-7]).double(),
    )
    found = minimize_batch(quadratic, start(), h=h, target=target, gtol=0, ftol=0, max_iter=2000)
    for k in range(5):
        alone = minimize(quadratic, start(), h=float(h[k]), target=float(target[k]), gtol=0, ftol=0, max_iter=2000)
        assert int(found.nit[k]) == alone.nit


def test_starts_below_the_target_are_left_alone():
    x0 = torch.stack([torch.zeros(10, dtype=F64), start()])
    found = minimize_batch(quadratic, x0, h=10.0, target=1e-3)
    assert found.nit[0] == 0 < found.nit[1]
    assert found.success.all()
    assert torch.equal(found.x[0], x0[0])
    alone = minimize_batch(quadratic, x0[:1], target=1e-3)
    assert (int(alone.nit[0]), alone.evaluations) == (0, 1)


def test_other_cells_change_nothing():
    h = torch.logspace(-1, 2, 12, dtype=F64)
    together = minimize_batch(quadratic, start(), h=h, gtol=1e-6, ftol=1e-6, max_iter=500)
    alone = minimize_batch(quadratic, start(), h=h[5:6], gtol=1e-6, ftol=1e-6, max_iter=500)
    assert int(together.nit[5]) == int(alone.nit[0])
    assert (together.x[5] - alone.x[0]).abs().amax() <= 1e-12


def test_no_cells():
    found = minimize_batch(quadratic, torch.zeros(0, 10, dtype=F64), max_iter=5)
    assert found.nit.shape == (0,)


def test_functions_of_one_point_by_vmap():
    single = torch.func.vmap(lambda x: (SCALE * x * x).sum() / 2)
    a, b = (minimize_batch(f, start(3), max_iter=20).x for f in (quadratic, single))
    assert (a - b).abs().amax() <= 1e-12


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"h": torch.tensor([1.0, -1.0])}, ConfigError, "h="),
        ({"C": torch.tensor([1.0, 0.0])}, ConfigError, "C="),
        ({"beta": torch.tensor([0.5, 1.5])}, ConfigError, "beta="),
        ({"h": torch.ones(3), "C": torch.ones(4)}, ShapeError, "broadcast"),
        ({"f": lambda x: x.sum()}, ShapeError, "vmap"),
        ({"x0": torch.tensor([[1.0], [-1.0]]), "f": lambda x: x.log().sum(-1)}, ValueError, "1 of 2 starts"),
        ({"method": "expo"}, ConfigError, "unknown"),
        ({"method": "nag"}, ConfigError, "learning rate"),
        ({"grad": lambda x: x.sum(-1, keepdim=True)}, ShapeError, "grad must take points"),
    ],
)
def test_wrong_input(change, error, words):
    with pytest.raises(error, match=words):
        minimize_batch(**{"f": quadratic, "x0": start(), **change})


@pytest.mark.parametrize("method", ["expo-slc-rtl", "poly-slc-rtl", "nag"])
def test_tuned_parameters_are_the_best_of_the_grid(method):
    found = tune(quadratic, start(), method=method, budget=300, gtol=1e-4)
    assert found.success
    alone = minimize(quadratic, start(), method=method, gtol=1e-4, ftol=np.inf, max_iter=300, **found.settings)
    assert alone.nit == found.nit == int(found.study.nit.where(found.study.status == 0).min())


def test_tuning_without_success_takes_the_least_value():
    found = tune(quadratic, start(), budget=3, gtol=1e-12)
    assert not found.success
    assert found.fun == float(found.study.fun.min())


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "grid", [{}, {"h": [1.0]}, {"h": [1.0], "C": []}, {"h": [1.0], "C": [-1.0]}, {"h": [1], "c": [1]}]
)
def test_wrong_grids(grid):
    with pytest.raises(ConfigError, match="grid must have positive values of C and h"):
        tune(quadratic, start(), grid=grid)


@pytest.mark.unchecked
@pytest.mark.parametrize("option", [{"ftol": 1e-3}, {"max_iter": 10}, {"C": 1.0}, {"h": 1.0}])
def test_tuning_has_its_own_settings(option):
    with pytest.raises(ConfigError, match=f"tune sets {next(iter(option))} itself"):
        tune(quadratic, start(), **option)


@pytest.mark.unchecked
def test_tuning_is_from_one_start():
    with pytest.raises(ShapeError, match=r"x0 must be \(d,\), one point; got \(3, 10\)"):
        tune(quadratic, start(3))


def test_tuning_knows_the_short_names():
    grid = {"C": [1.0], "h": [4.0, 10.0]}
    one, other = (tune(quadratic, start(), method=m, grid=grid, budget=100) for m in ("htvi", "expo-htvi-rtl"))
    assert one.nit == other.nit
    (C, h), study = one
    assert {"C": C, "h": h} == one.settings
    assert study is one.study
