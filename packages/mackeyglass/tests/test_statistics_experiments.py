"""Experiments on attractors: they run, and measure what is known, with the accuracy of short runs."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
import xarray as xr
from mackeyglass import MackeyGlass, SegmentMap, characteristic_roots
from mackeyglass.branch import Branch
from mackeyglass.continuation import State, Stepping
from mackeyglass.experiments import atlas, bistability, crises, lyapunov, lyapunov_map
from mackeyglass.hopf import hopf_points
from mackeyglass.mesh import Mesh
from mackeyglass.orbits import PeriodicOrbit
from sciml.errors import ConfigError
from sciml.experiment import RunDirectory
from sciml.runtime import Runtime


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path, 0, Runtime("cpu"))


def figures(directory: RunDirectory) -> list[str]:
    paths = list((directory.path / "figures").iterdir())
    assert all(path.stat().st_size <= 200_000 for path in paths)
    return sorted(path.name for path in paths)


def test_exponents_beside_known_ones(directory):
    report = lyapunov.run(lyapunov.EXPERIMENT.config("smoke"), directory)
    shown = report.beside(lyapunov.EXPERIMENT.published)
    known = [metric for metric in shown.metrics if metric.published is not None]
    assert len(known) == 4 + 5 + 2
    for metric in known:
        error = report.metric(f"error of {metric.name}", metric.subject).value
        assert abs(metric.value - metric.published) < 4 * error, metric
    assert [bar.met for bar in report.bars if "standard errors" in bar.claim] == [True, True]
    assert figures(directory) == ["exponents.png"]


def test_deviations_are_in_units_of_both_errors():
    point = lyapunov.Point(9.0, 2.0, (0.1, 0.02, 0.0, -0.3), (0.003, 0.001), 2.0)
    found = xr.Dataset({"exponents": ("k", [0.105, 0.02, 0.004, -0.31]), "stderr": ("k", [0.004, 0.0, 0.001, 0.004])})
    np.testing.assert_allclose(lyapunov._deviations(point, found), [1, 0, 4, 2])


@pytest.mark.unchecked
@pytest.mark.parametrize("change", [{"points": 9}, {"delays": 10}, {"transient": 99}])
def test_lyapunov_configurations_that_make_no_sense(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        lyapunov.EXPERIMENT.config("small", **change)


def test_map_keeps_the_exponent_over_n_and_tau(directory, monkeypatch):
    orbit = PeriodicOrbit.from_hopf(hopf_points(MackeyGlass(tau=2.0))[0], "n", mesh=Mesh.uniform(10, 3))
    drawn = Branch("PD", orbit.system, ("n", "tau"), {}, Stepping(), (), [State(orbit.solution, np.zeros(1), 0.1)])
    follow = Mock(return_value={"folds": [drawn]})
    monkeypatch.setattr(atlas, "follow", follow)
    report = lyapunov_map.run(lyapunov_map.EXPERIMENT.config("smoke", curve_steps=7), directory)
    assert follow.call_args.args[0].max_steps == 7
    kept = xr.load_dataset(directory.path / "steps" / "map" / "result.nc")
    assert kept["exponent"].dims == ("tau", "n")
    assert kept["exponent"].shape == (4, 6)
    value = kept["exponent"].values
    # (6, 1) is before the Hopf point; the phase of the rightmost root is an error of order 1/delays
    rightmost = characteristic_roots(MackeyGlass(n=6.0, tau=1.0), k=1)[0].real
    assert value[0, 0] == pytest.approx(rightmost, abs=0.01)
    assert report.metric("share of cells with chaos", "map").value == (value > 0.01).mean() > 0
    assert figures(directory) == ["map.png"]


def test_signs_windows_and_chaos_that_ended():
    def table(*values: float) -> xr.Dataset:
        return xr.Dataset({"exponent": (("tau", "n"), [list(values)])}, {"n": [6, 6.4, 6.8, 7.2, 8.0, 8.4, 8.8]})

    short = table(0.0, 0.1, 0.0, 0.1, -0.1, 0.1, 0.0)
    long = table(0.0, 0.2, 0.0, 5e-4, -0.2, -0.1, 0.1)
    assert lyapunov_map.agreement(short, long)[0, [1, 3, 4, 5]].tolist() == [True, False, True, False]
    assert lyapunov_map.ended(short, long)[0].tolist() == [False, False, False, True, False, True, False]
    assert np.flatnonzero(lyapunov_map.windows(short)[0]).tolist() == [2]  # chaos beside cell 4 is 1.2 apart


@pytest.mark.unchecked
@pytest.mark.parametrize("change", [{"n": (0.5, 8.0)}, {"tau": (2.0, 1.0)}, {"delays": 10}, {"transient": 99}])
def test_map_configurations_that_make_no_sense(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        lyapunov_map.EXPERIMENT.config("small", **change)


def test_chaos_beside_a_cycle_and_chaos_that_ends_in_a_fold(directory):
    report = bistability.run(bistability.EXPERIMENT.config("smoke"), directory)
    subject = "sweeps at τ=1.5"
    # n = 12.6, 12.8, …: the fold is at 12.706, the crisis at 13.27, past which transients outlast a short run
    assert report.metric("first n of the longest window", subject).value == pytest.approx(12.8)
    assert report.metric("last n of the longest window", subject).value == pytest.approx(13.2, abs=0.21)
    period = report.metric("period of the cycle in its middle, falling n", subject).value
    assert period == pytest.approx(5.53, abs=0.02)
    assert report.metric("values of n at which attractors differ", "sweeps at τ=2").value == 0
    assert 13.2 < report.metric("n", "crisis at τ=1.5").value < 13.5
    for direction in ("rising", "falling"):
        # in steps of 0.02; transients just past the fold outlast a short run
        assert 11.21 < report.metric("n from which the cycle is found", f"{direction} at τ=2").value < 11.26
    # distances shrink, and vanish at about the crisis
    distances = [m.value for m in report.metrics if m.name == "least distance of chaos from the unstable cycle"]
    assert 0.02 > distances[0] > distances[1] > distances[2] > 0
    vanishing = report.metric("n, by the distances from the unstable cycle", "crisis at τ=1.5").value
    assert vanishing == pytest.approx(13.275, abs=0.03)
    # 1/√gap, less the part of a passage that lies outside of the channel
    assert report.metric("exponent of longest phases", "channel at τ=2").value == pytest.approx(-0.5, abs=0.06)
    fold = report.metric("n of the fold, by its defining system", "channel at τ=2").value
    assert fold == pytest.approx(11.214847, abs=1e-4)
    assert figures(directory) == ["crises.png", "diagrams.png", "fold.png"]


def test_windows_are_the_longest_runs():
    differ = np.array([0, 1, 1, 0, 1, 1, 1, 0], bool)
    periods = np.where(np.arange(8) == 5, 5.5, np.nan)
    diagram = xr.Dataset(
        {"differ": ("n", differ), "period": (("direction", "n"), [np.full(8, np.nan), periods])},
        {"n": np.arange(8.0), "direction": ["up", "down"]},
    )
    found = {metric.name: metric.value for metric in bistability._windows(diagram, 1.5)}
    assert found == {
        "values of n at which attractors differ": 5,
        "first n of the longest window": 4,
        "last n of the longest window": 6,
        "period of the cycle in its middle, falling n": 5.5,
    }
    nowhere = diagram.assign(differ=("n", np.zeros(8, bool)))
    assert [metric.value for metric in bistability._windows(nowhere, 1.5)] == [0]


def test_crisis_lies_between_no_jump_and_a_jump():
    n = np.array([13.2, 13.26, 13.3, 13.34, 13.4, 13.5])
    jumps = np.array([0.0, 0, 20, 20, 20, 20])
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(jumps > 0, 20 / (n - 13.27), np.inf)
    table = {"jumps": jumps, "mean": mean, "stderr": 0.1 * mean, "lived": np.full(6, 1e4)}
    lives = xr.Dataset({name: ("n", column) for name, column in table.items()}, {"n": n})
    found = {metric.name: metric.value for metric in bistability._crisis(lives) if "crisis" in metric.subject}
    assert found["n"] == pytest.approx(13.28)
    assert found["n, by the law of lifetimes"] == pytest.approx(13.27, abs=1e-4)
    assert found["exponent of the lifetimes"] == pytest.approx(-1, abs=1e-3)
    always = lives.assign(jumps=("n", np.full(6, 20.0)))
    assert not [metric for metric in bistability._crisis(always) if "crisis" in metric.subject]


def test_where_cycles_have_settled():
    kinds = [["cycle", "chaos", "cycle", "cycle"], ["chaos", "chaos", "chaos", "cycle"]]
    diagram = xr.Dataset(
        {"kind": (("direction", "n", "batch"), np.array(kinds)[..., None])},
        {"n": [1.0, 2.0, 3.0, 4.0], "direction": ["up", "down"]},
    )
    assert [bistability._settled(diagram, direction) for direction in ("up", "down")] == [3, 4]
    assert np.isnan(bistability._settled(diagram.isel(n=slice(1, 2)), "up"))


def test_zero_of_a_line_and_its_error():
    n, random = np.array([12.9, 13.0, 13.1, 13.2]), np.random.default_rng(0)
    line = 0.035 * (13.275 - n)
    assert crises.vanishing(n, line)[0] == pytest.approx(13.275, abs=1e-10)
    fits = np.array([crises.vanishing(n, line + 1e-4 * random.standard_normal(4)) for _ in range(200)])
    assert np.sqrt(np.mean(fits[:, 1] ** 2)) == pytest.approx(np.std(fits[:, 0]), rel=0.3)


def test_laminar_phases_repeat_a_whole_period():
    segment_map = SegmentMap(MackeyGlass(n=7.0, tau=1.0))
    times = (torch.arange(40)[:, None] + segment_map.nodes)[:, None]
    # sin 2πt that rises by 0.3 in a period twice
    u = torch.sin(2 * torch.pi * times) + 0.3 * (times.clamp(10, 12) + times.clamp(30, 32))
    (length,) = crises.laminar_lengths(segment_map, u, 1.0)  # what begins or ends with the record does not count
    # u(t+1) − u(t) is less than 0.1 for t between 12 − 1/3 and 29 + 1/3, and over all of a period one less
    assert length == pytest.approx(29 - 12 + 2 / 3 - 1, abs=0.1)


@pytest.mark.unchecked
@pytest.mark.parametrize("change", [{"approach": {"n": (13.0, 13.1)}}, {"channel": {"gaps": (0.01, 0.005, 0.001)}}])
def test_lines_need_three_points_that_rise(change):
    with pytest.raises(ConfigError, match="must rise, and be at least 3"):
        bistability.EXPERIMENT.config("small", **change)


@pytest.mark.unchecked
@pytest.mark.parametrize("change", [{"n": (13.0, 12.0)}, {"crisis": (13.3, 13.2)}])
def test_bistability_configurations_that_make_no_sense(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        bistability.EXPERIMENT.config("small", **change)
