"""Experiments on branches: they run, keep their branches, and find known numbers to the accuracy of a coarse mesh."""

from dataclasses import replace

import numpy as np
import pytest
from mackeyglass import load_branch
from mackeyglass.branch import continue_bifurcation
from mackeyglass.branch_files import branch_dataset, branch_from_dataset
from mackeyglass.errors import ContinuationError
from mackeyglass.experiments import (
    atlas,
    bistability,
    branch_tau2,
    cascade_tau,
    fold_curve,
    pd_curve,
    subcritical_pd,
    torus,
)
from mackeyglass.experiments.branches import Reference, differences, found, halved, largest, mesh_error, until, within
from mackeyglass.growth import RESONANT
from mackeyglass.mesh import Mesh
from sciml.errors import ConfigError, DataError
from sciml.experiment import Metric, RunDirectory
from sciml.runtime import Runtime

EXPERIMENTS = [branch_tau2, cascade_tau, fold_curve, pd_curve, torus, subcritical_pd, atlas]
COARSE = 2e-3  # what the meshes of smoke runs miss at most
# how many known numbers a smoke run meets
KNOWN = {branch_tau2: 7, cascade_tau: 1, fold_curve: 4, pd_curve: 1, torus: 3, subcritical_pd: 3, atlas: 0}


@pytest.fixture(params=EXPERIMENTS, ids=lambda module: module.__name__.rpartition(".")[2], scope="module")
def finished(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    experiment = request.param.EXPERIMENT
    report = experiment.run(experiment.config("smoke"), RunDirectory(path, 0, Runtime("cpu")))
    return request.param, path, report


def test_smoke_runs_find_known_numbers_to_the_accuracy_of_their_mesh(finished):
    module, path, report = finished
    shown = [metric for metric in report.beside(module.EXPERIMENT.published).metrics if metric.published is not None]
    assert len(shown) == KNOWN[module]
    for metric in shown:
        assert metric.value == pytest.approx(metric.published, abs=COARSE), metric
    assert all(figure.stat().st_size <= 200_000 for figure in (path / "figures").iterdir())


def test_curves_of_torus_bifurcations_end_where_their_multipliers_are_real(tmp_path):
    run = RunDirectory(tmp_path, 0, Runtime("cpu"))
    point = found(torus.doubled_orbits(run, torus.EXPERIMENT.config("smoke").mesh, 2.6), "NS")
    bounds = {"n": (8, 9), "tau": (2.3, 2.65)}
    curve = continue_bifurcation(point, ("n", "tau"), bounds, direction=-1, ds_max=0.3, max_steps=40)
    assert curve.stop_reason == RESONANT.format(0)
    assert [special.kind for special in curve.special][:1] == ["R4"]
    assert torus._end(curve) == pytest.approx((8.3237, 2.3787), abs=5e-3)
    assert len(curve.extended(3)) == len(curve)


def test_every_branch_is_a_file_that_can_be_continued(finished):
    _, path, _ = finished
    files = list((path / "branches").glob("*.nc"))
    assert files
    for file in files:
        assert len(load_branch(file)) > 1


@pytest.fixture(scope="module")
def principal(tmp_path_factory):
    run = RunDirectory(tmp_path_factory.mktemp("doublings"), 0, Runtime("cpu"))
    pd_curve.first_doubling(run, pd_curve.EXPERIMENT.config("smoke").mesh.mesh, 2.0)
    return load_branch(run.path / "branches" / "principal-2.nc")


def test_meshes_are_halved():
    mesh = halved(Mesh(np.array([0.0, 0.2, 1.0]), 4))
    np.testing.assert_allclose(mesh.knots, [0, 0.1, 0.2, 0.6, 1])


def test_errors_of_meshes_are_those_of_the_coarse_one(principal):
    point = found(principal, "PD")
    assert mesh_error(point) == pytest.approx(abs(point.parameters["n"] - 7.395926925), rel=0.2)


def test_bars_are_distances_from_references():
    references = [Reference("n", "a", 2.0, 0.1), Reference("n", "b", 1.0, 0.1), Reference("T", "a", 5.0)]
    bar, missing = differences([Metric("n", "a", 1.75), Metric("T", "a", 6.0)], references)
    assert (bar.value, bar.limit, bar.met) == (0.25, 0.1, False)
    assert np.isnan(missing.value)
    assert (missing.claim, missing.met) == ("n, b: distance from 1", False)


def test_bars_of_what_is_missing_are_not_met():
    for module in (branch_tau2, cascade_tau, bistability):
        bars = differences([], module.asked(module.EXPERIMENT.config("small")))
        assert bars
        assert not any(bar.met for bar in bars)
    assert not largest("changes", [], 1.0).met
    assert not largest("changes", [0.1, np.nan, 0.2], 1.0).met
    assert largest("changes", [0.1, 0.2], 0.2).met


def test_what_a_configuration_does_not_ask_for_has_no_bar():
    subjects = {
        module: {reference.subject for reference in module.asked(module.EXPERIMENT.config("smoke"))}
        for module in (branch_tau2, cascade_tau, bistability)
    }
    assert subjects[branch_tau2] == {"PD1", "fold", "n=12"}
    assert subjects[cascade_tau] == {"PD1"}
    assert subjects[bistability] == {"crisis at τ=1.5"}
    near = within(fold_curve.REFERENCES, (14.0, 16.0), (1.0, 1.16))
    assert {reference.subject for reference in near} == {"cusp", "left fold at τ=1.15", "right fold at τ=1.15"}
    far = {"third fold at n=25.7", "PD1, τ=4.098, crossing 1"}
    for module in (fold_curve, pd_curve, atlas):
        small, paper = (module.EXPERIMENT.config(preset) for preset in ("small", "paper"))
        near = [reference for reference in module.REFERENCES if reference.subject not in far]
        assert within(module.REFERENCES, small.n, small.tau) == near
        assert within(module.REFERENCES, paper.n, paper.tau) == module.REFERENCES


def test_references_and_converged_values_agree_within_the_tolerance():
    for module, name in ((branch_tau2, "n"), (cascade_tau, "τ")):
        known = {(r.name, r.subject): r for r in module.REFERENCES}
        own = [r for r in module.REFERENCES if r.name == module.CONVERGED]
        assert own
        for reference in own:
            other = known[name, reference.subject]
            assert 1e-9 < abs(other.value - reference.value) < other.tolerance


def test_branches_that_ended_are_not_extended(principal):
    ended = principal.extended(20, {"n": (4.2, principal["n"][-1] + 0.01)})
    assert "reached its bound" in ended.stop_reason
    assert len(until("NS", ended)) == len(ended)


def test_what_was_detected_is_read_back(principal):
    (special,) = principal.special
    copy = branch_from_dataset(branch_dataset(principal))
    assert copy.special == [special]
    assert found(copy, "PD").parameters == found(principal, "PD").parameters


def test_points_of_one_branch_may_have_different_numbers_of_multipliers(principal):
    cut = [replace(m, values=m.values[: 3 + i % 2]) for i, m in enumerate(principal.multipliers)]
    read = branch_from_dataset(branch_dataset(replace(principal, multipliers=cut)))
    assert all(np.array_equal(a.values, b.values) for a, b in zip(read.multipliers, cut, strict=True))


@pytest.mark.unchecked
def test_errors(principal):
    with pytest.raises(ContinuationError, match="0 bifurcations of the kind NS were found"):
        found(principal, "NS")
    with pytest.raises(DataError, match="this dataset: format and version"):
        branch_from_dataset(branch_dataset(principal).assign_attrs(version=0))
    with pytest.raises(ConfigError, match="must contain"):
        fold_curve.EXPERIMENT.config("small", n=(12.0, 14.0))
    with pytest.raises(ConfigError, match="must increase"):
        branch_tau2.EXPERIMENT.config("small", n=(12.0, 10.0))
