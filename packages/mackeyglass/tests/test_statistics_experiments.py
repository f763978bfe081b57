"""Experiments on attractors: they run, and measure what is known, with the accuracy of short runs."""

import numpy as np
import pytest
from mackeyglass.experiments import lyapunov
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
    found = lyapunov.xr.Dataset(
        {"exponents": ("k", [0.105, 0.02, 0.004, -0.31]), "stderr": ("k", [0.004, 0.0, 0.001, 0.004])}
    )
    np.testing.assert_allclose(lyapunov._deviations(point, found), [1, 0, 4, 2])


@pytest.mark.unchecked
@pytest.mark.parametrize("change", [{"points": 9}, {"delays": 10}, {"transient": 99}])
def test_lyapunov_configurations_that_make_no_sense(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        lyapunov.EXPERIMENT.config("small", **change)
