"""What the deterministic experiments measure, on cases whose answers are known."""

import itertools
import math

import numpy as np
import pytest
import torch
import xarray as xr
from sciml.errors import ConfigError
from sciml.experiment import RunDirectory
from sciml.runtime import Runtime
from symplectic_opt import Exponential, Polynomial, growing_steps, minimize
from symplectic_opt.experiments import _races, _references, ablation, integrators, parameter_study
from symplectic_opt.experiments._races import Result, arrival, race, scipy_run
from symplectic_opt.problems import Log2d, Quadratic


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path, 0, Runtime("cpu"))


def test_orders_are_slopes_above_rounding():
    steps = np.array([10, 20, 40, 80])
    assert integrators.measured_order(steps, 3.0 / steps**2.0) == pytest.approx(2)
    assert integrators.measured_order(steps, np.array([1e-2, 1e-6, 1e-14, 1e-14])) == pytest.approx(math.log2(1e4))
    assert math.isnan(integrators.measured_order(steps, np.full(4, 1e-15)))


def test_gradients_for_an_error_are_interpolated_on_log_axes():
    counts = [10, 20, 40, 80]
    errors = 1.0 / np.array(counts) ** 2
    assert integrators.needed(counts, errors, 1 / 30**2) == pytest.approx(30)
    assert integrators.needed(counts, errors, 1e-9) == math.inf
    assert integrators.needed(counts, errors, 1.0) == 10
    # an error that grows again has not been reached for good
    assert integrators.needed(counts, np.array([1e-6, 1.0, 1e-2, 1e-4]), 1e-2) == pytest.approx(40)


@pytest.mark.parametrize("system", [Exponential(1.0, 0.25), growing_steps(Polynomial(4.0, 0.1), 2.0)])
def test_every_integrator_goes_as_long_a_way(system):
    assert system.flow(1.0, integrators._width(system, 3.0)) == pytest.approx(4.0, rel=1e-12)


@pytest.mark.parametrize("name", integrators.STEPS)
def test_every_gradient_is_counted(name):
    step, points = integrators.STEPS[name][0], set()

    def gradient(x):
        points.add(x)  # what is known at a point is not computed again
        return x

    state = 1.0, 0.5, 1.0
    for _ in range(7):
        state = step(Exponential(), *state, 0.1, gradient)
    assert integrators.gradients(name, 7) == len(points)


def test_integrators_have_their_orders(directory):
    config = integrators.EXPERIMENT.config("smoke")
    report = integrators.run(config, directory)
    assert [str(bar) for bar in report.bars if not bar.met] == []
    assert len(report.bars) == len(integrators.STEPS) * len(integrators.SYSTEMS)
    # the method of higher order needs fewer gradients for a small error
    needed = [report.metric("gradients for 0.0001", f"{name}, polynomial p=2").value for name in ("SLC", "HTVI")]
    assert needed[0] < needed[1]
    assert (directory.path / "figures" / "efficiency.png").stat().st_size <= 200_000


def contestant(label):
    (found,) = (c for c in ablation.CONTESTANTS if c.label == label)
    return found


AXES = {"C": np.array([0.1, 10.0]), "h": np.logspace(0, 1.5, 4)}


@pytest.mark.parametrize("label", [ablation.BEST, "poly SLC", ablation.NAG_RESTART])
def test_a_race_finds_the_best_cell_of_every_start(label):
    problem, method = Quadratic(dimension=5, condition=20.0), contestant(label)
    starts = torch.from_numpy(np.stack([problem.draw(np.random.default_rng(i)) for i in range(2)]))
    axes = {"h": np.logspace(-2, 0, 6)} if method.family == "nag" else {**AXES, "h": np.logspace(-2, 1, 7)}
    found = race(problem, starts, method, axes, 600, 1e-6)
    for i, start in enumerate(starts):
        counts = {}
        for cell in itertools.product(*axes.values()):
            settings = dict(zip(axes, map(float, cell), strict=True))
            alone = minimize(
                problem.function(), start, method=method.method, target=1e-6, gtol=0, ftol=0, max_iter=600,
                **settings, **method.options,
            )  # fmt: skip
            if alone.success:
                counts[cell] = alone.nit
        assert found.nit[i] == min(counts.values())
        assert counts[(found.C[i], found.h[i]) if "C" in axes else (found.h[i],)] == found.nit[i]


def test_the_rounds_of_a_race_change_no_result(monkeypatch):
    problem = Quadratic(dimension=5, condition=20.0)
    rounds = race(problem, problem.start[None], contestant(ablation.BEST), AXES, 600, 1e-8)
    monkeypatch.setattr(_races, "ROUNDS", (1.0,))
    once = race(problem, problem.start[None], contestant(ablation.BEST), AXES, 600, 1e-8)
    assert rounds.nit == once.nit
    assert rounds.h == once.h
    assert rounds.gradients < once.gradients <= 8 * 601


def test_where_no_cell_arrives_the_one_with_the_least_value_is_kept():
    problem = Quadratic(dimension=5, condition=20.0)
    found = race(problem, problem.start[None], contestant("expo RK4"), {**AXES, "C": np.array([0.1])}, 40, 1e-12)
    assert math.isinf(found.nit[0])
    assert found.gradients <= 4 * 41  # RK4 takes four a move, within the same budget
    values = [
        minimize(problem.function(), problem.start, method="expo-rk4", C=0.1, h=float(h), max_iter=10).fun
        for h in AXES["h"]
    ]
    assert found.h[0] == AXES["h"][np.argmin(values)]


@pytest.mark.parametrize("method", ablation.SCIPY.values())
@pytest.mark.parametrize("problem", [Quadratic(dimension=20), Log2d()])
def test_iterations_and_evaluations_of_scipy_are_those_to_the_target(problem, method):
    gaps, spent = scipy_run(problem, problem.start, 3000, method)
    iterations, evaluations = arrival(gaps, spent, 1e-8)
    assert gaps[int(iterations)] <= 1e-8 < gaps[int(iterations) - 1]
    assert evaluations == spent[int(iterations)] > iterations
    assert arrival(*scipy_run(problem, problem.start, 3, method), 1e-8)[0] == math.inf


def test_best_cells_at_the_end_of_a_grid_are_named():
    axes = {"C": np.array([1.0, 2.0, 3.0]), "h": np.array([0.1, 0.2, 0.3])}

    def result(C, h, nit=5.0):
        return Result(nit=np.array([nit]), C=np.array([C]), h=np.array([h]), gradients=0)

    assert not ablation.at_an_end(result(2.0, 0.2), axes)
    assert ablation.at_an_end(result(3.0, 0.2), axes)
    assert ablation.at_an_end(result(2.0, 0.1), axes)
    assert not ablation.at_an_end(result(3.0, 0.2, math.inf), axes)


@pytest.mark.parametrize("preset", ["smoke", "small", "paper"])
def test_all_methods_have_as_many_cells(preset):
    config = ablation.EXPERIMENT.config(preset)
    for method in ablation.CONTESTANTS:
        cells = math.prod(len(axis) for axis in config.axes(method).values())
        assert cells == (method.rates or config.cells), method.label


@pytest.mark.unchecked
def test_unequal_grids_are_refused():
    with pytest.raises(ConfigError, match="as many cells"):
        ablation.EXPERIMENT.config("small", poly_C=(0.1,))


def test_references_stand_beside_rows_that_exist():
    labels = {c.label for c in ablation.CONTESTANTS}
    for name, rows in _references._MEASURED.items():
        assert name in ablation.EXPERIMENT.config("small").objectives()
        assert set(rows) <= labels


def test_bars_count_the_whole_budget_of_what_did_not_arrive():
    def result(n):
        return Result(np.array([float(n)]), np.ones(1), np.ones(1), 0)

    counts = {c.label: result(100) for c in ablation.CONTESTANTS}
    counts |= {ablation.NO_RESTART: result(math.inf), "expo SLC": result(math.inf)}
    bars = ablation.bars({"quadratic": counts}, ablation.Config(budget=400))
    assert [bar.value for bar in bars] == [4.0, 1.0, 1.0]
    assert [bar.met for bar in bars] == [False, True, True]


def test_the_ablation_goes_on_from_its_steps(directory):
    config = ablation.EXPERIMENT.config("smoke")
    first = ablation.run(config, directory)
    assert {m.subject for m in first.metrics} == {c.label for c in ablation.CONTESTANTS} | {*ablation.SCIPY}
    names = ["adaptive", "convergence", "looping", "restarts"]
    assert sorted(path.stem for path in (directory.path / "figures").iterdir()) == names
    assert all(path.stat().st_size <= 200_000 for path in (directory.path / "figures").iterdir())
    again = ablation.run(config, RunDirectory(directory.path, 0, directory.runtime))
    assert first.to_json() == again.to_json()


def plane(values, axis="C"):
    size = len(values)
    axes = {axis: np.logspace(-1, 1, size), "h": np.arange(1.0, len(values[0]) + 1)}
    return xr.DataArray(np.array(values, float), axes, tuple(axes))


def test_overlap_is_intersection_over_union():
    a, b = plane([[1, np.nan], [5, 7]]), plane([[2, 3], [np.nan, 9]])
    assert parameter_study.overlap(a, b) == pytest.approx(2 / 4)
    assert parameter_study.overlap(a, a) == 1
    empty = plane([[np.nan, np.nan]] * 2)
    assert parameter_study.overlap(a, empty) == 0
    assert math.isnan(parameter_study.overlap(empty, empty))


def test_regret_is_of_the_nearest_value_with_its_best_h():
    nit = plane([[40, 30], [90, 60], [10, 20]], "rate")  # rates 0.1, 1, 10
    assert parameter_study.regret(nit, "rate", 0.8) == 6
    assert parameter_study.regret(nit, "rate", 20.0) == 1


@pytest.mark.parametrize("family", parameter_study.METHODS)
@pytest.mark.parametrize("axis", ["C", "rate", "beta"])
def test_maps_hold_the_iterations_of_single_runs(family, axis):
    config, problem = parameter_study.Config(tolerance=1e-3, budget=300), Quadratic(dimension=4, condition=10.0)
    axes = {axis: {"C": np.array([0.1, 1e9]), "rate": np.array([0.1, 6.0]), "beta": np.array([0.3, 0.9])}[axis]}
    axes["h"] = np.array([0.2, 3.0])
    found = parameter_study.sweep(problem, family, axes, config, 1)["nit"]
    start = problem.draw(np.random.default_rng(1))
    for x, h in itertools.product(*axes.values()):
        settings = {"C": parameter_study.DEFAULTS[family][0], axis: float(x), "h": float(h)}
        method = parameter_study.METHODS[family]
        alone = minimize(
            problem.function(), start, method=method, target=1e-3, gtol=0, ftol=0, max_iter=300, **settings
        )
        expected = alone.nit if alone.success else np.nan
        np.testing.assert_equal(float(found.sel({axis: x, "h": h})), float(expected))


def test_the_parameter_study_runs(directory):
    config = parameter_study.EXPERIMENT.config("smoke")
    report = parameter_study.run(config, directory)
    assert len(report.bars) == 2
    for name in ("quadratic", "quartic-sum"):
        overlap = report.metric("overlap of converged cells", f"{name}, expo, d=4 and 8").value
        assert 0 < overlap <= 1
    assert all(path.stat().st_size <= 200_000 for path in (directory.path / "figures").iterdir())
