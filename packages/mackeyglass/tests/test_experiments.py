"""What the experiments measure, on cases whose answers are known."""

import numpy as np
import pytest
from mackeyglass.experiments import hopf
from sciml.errors import ConfigError
from sciml.experiment import RunDirectory
from sciml.runtime import Runtime


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path, 0, Runtime("cpu"))


def test_hopf_curves_by_four_routes(directory):
    report = hopf.run(hopf.EXPERIMENT.config("smoke"), directory)
    assert [str(bar) for bar in report.bars if not bar.met] == []
    assert len(report.bars) == 6
    shown = report.beside(hopf.EXPERIMENT.published)
    # every reference value stands beside what was measured
    assert sum(metric.published is not None for metric in shown.metrics) == len(hopf.EXPERIMENT.published) == 21
    assert (directory.path / "figures" / "hopf-curves.png").stat().st_size <= 200_000


def test_hopf_curves_differ_where_a_root_is_not_on_the_axis(monkeypatch):
    """The comparisons notice a formula that is wrong by 1e-8."""
    config, formula = hopf.EXPERIMENT.config("smoke"), hopf._formula

    def wrong(k, taus):
        n, omega = formula(k, taus)
        return n * (1 + 1e-8), omega

    assert max(float(v.max()) for name, v in hopf._curves(config).items() if "difference" in str(name)) < 1e-14
    monkeypatch.setattr(hopf, "_formula", wrong)
    for name, values in hopf._curves(config).items():
        if "difference" in str(name):
            assert float(values.min()) > 1e-10, name
    assert float(hopf._curves(config)["difference of n, Lambert W"].max()) == pytest.approx(1e-8, rel=1e-5)


def test_curves_passed_are_counted(directory):
    counted = hopf._counts(hopf.Config(samples=200), 1)
    np.testing.assert_array_equal(counted["unstable"], 2 * counted["passed"])
    assert set(np.unique(counted["passed"])) >= {0, 1, 2, 3}


@pytest.mark.unchecked
@pytest.mark.parametrize("change", [{"tau": (2.0, 1.0)}, {"n": (0.5, 8.0)}, {"n": (8.0, 7.0)}, {"points": 0}])
def test_hopf_configurations_that_make_no_sense(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        hopf.EXPERIMENT.config("small", **change)
