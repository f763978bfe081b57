"""Experiments on attractors: they run, and measure what is known, with the accuracy of short runs."""

import numpy as np
import pytest
import xarray as xr
from mackeyglass import MackeyGlass, characteristic_roots
from mackeyglass.experiments import lyapunov, lyapunov_map
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


def test_map_keeps_the_exponent_over_n_and_tau(directory):
    report = lyapunov_map.run(lyapunov_map.EXPERIMENT.config("smoke"), directory)
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
        return xr.Dataset({"exponent": (("tau", "n"), [list(values)])})

    short = table(0.0, 0.1, 0.0, 0.1, -0.1, 0.1, 0.0)
    long = table(0.0, 0.2, 0.0, 5e-4, -0.2, -0.1, 0.1)
    assert lyapunov_map.agreement(short, long)[0, [1, 3, 4, 5]].tolist() == [True, False, True, False]
    assert lyapunov_map.ended(short, long)[0].tolist() == [False, False, False, True, False, True, False]
    assert lyapunov_map.windows(short)[0].tolist() == [False, False, True, False, True, False, False]


@pytest.mark.unchecked
@pytest.mark.parametrize("change", [{"n": (0.5, 8.0)}, {"tau": (2.0, 1.0)}, {"delays": 10}, {"transient": 99}])
def test_map_configurations_that_make_no_sense(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        lyapunov_map.EXPERIMENT.config("small", **change)
