"""The data sets: what they hold, and that it solves the equation."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import sciml
import torch
from mackeyglass import MackeyGlass, SegmentMap, simulate
from mackeyglass.problems import Segments, TimeSeries
from sciml.errors import ConfigError


def test_series_are_samples_of_solutions():
    problem = TimeSeries(length=200, transient=100.0)
    data = problem.generate(3, seed=1)
    assert data["u"].dims == ("series", "time")
    assert data["u"].dtype == np.float64
    assert set(data.coords) == {"tau", "n", "seed", "start", "time"}
    assert (data["time"] == np.arange(200)).all()
    assert data["seed"].values.tolist() == [0, 1, 2]
    assert [data.attrs[name] for name in ("beta", "gamma", "n", "tau", "samples")] == [
        0.2,
        0.1,
        10,
        17,
        len(data.series),
    ]
    assert {"integrator", "M", "history", "transient", "theta"} <= set(data.attrs)
    # another method, from the same histories
    starts = torch.from_numpy(data["start"].values)[:, None]
    again = simulate(problem.system(), starts, (0, 299), saveat=100.0 + np.arange(200), method="rk4", n_per_delay=800)
    np.testing.assert_allclose(data["u"], again["u"], rtol=0, atol=2e-8)
    assert 0.5 <= data["start"].min() < data["start"].max() <= 1.3


def test_series_begin_at_the_end_of_the_transient():
    early = TimeSeries(length=60, transient=0.0).generate(1, seed=2)["u"]
    late = TimeSeries(length=10, transient=50.0).generate(1, seed=2)["u"]
    np.testing.assert_allclose(early[:, 50:], late, rtol=0, atol=1e-12)


def test_series_at_other_delays_and_steps():
    data = TimeSeries(tau=30.0, time_step=0.5, length=9, transient=40).generate(1)
    assert (data["tau"] == 30).all()
    assert float(data["time"][-1]) == 4.0


def test_segments_follow_each_other():
    """`following` is the image of `history` under the map, on more nodes too, at any time of a window."""
    data = Segments(n=(8.0, 11.0), tau=(1.2, 2.2), windows=5, delays=30, nodes=48).generate(4, seed=3)
    assert data["history"].dims == ("run", "window", "node")
    assert data["history"].shape == (4, 5, 49)
    assert (np.diff(data["time"]) > 0).all()
    system = MackeyGlass(n=torch.from_numpy(data["n"].values), tau=torch.from_numpy(data["tau"].values))
    history = torch.from_numpy(data["history"].values).movedim(1, 0)
    following = SegmentMap(system, 48)(history).movedim(0, 1).numpy()
    np.testing.assert_allclose(data["following"], following, rtol=0, atol=2e-6)
    np.testing.assert_allclose(data["history"][..., -1], data["following"][..., 0], rtol=0, atol=1e-12)


def test_windows_of_one_run_agree_with_a_simulation():
    data = Segments(windows=6, delays=8, transient=3).generate(1, seed=5)
    times = (data["time"].values[0, :, None] + data["node"].values).ravel() * 1.7 + 3 * 1.7
    order = np.argsort(times)
    start = float(data["start"][0])
    u = simulate(MackeyGlass(n=10.0, tau=1.7), start, (0, 12 * 1.7), saveat=times[order], n_per_delay=64)["u"][0]
    np.testing.assert_allclose(data["following"].values[0].ravel()[order], u, rtol=0, atol=1e-7)


def test_segments_tell_their_resolution():
    problem = Segments(windows=10, delays=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = problem.generate(2)
    assert 1e-9 < data.attrs["resolution"] < 5e-8
    for change in ({"nodes": 12}, {"tau": (3.0, 3.0), "n": (20.0, 20.0)}):
        with pytest.warns(UserWarning, match="nodes leave a relative error of about .*: raise nodes"):
            coarse = replace(problem, **change).generate(2)
        assert coarse.attrs["resolution"] > 1e-5


@pytest.mark.filterwarnings("ignore:.*raise nodes")
def test_runs_of_long_delays_are_computed_on_panels():
    """What is written does not resolve eight units of time, but its values are exact."""
    data = Segments(n=(7.0, 7.0), tau=(8.0, 8.0), windows=4, delays=6, transient=2).generate(1, seed=1)
    times = (data["time"].values[0, :, None] + data["node"].values).ravel() * 8.0 + 16.0
    order = np.argsort(times)
    fine = simulate(MackeyGlass(n=7.0, tau=8.0), float(data["start"][0]), (0, 64), saveat=times[order], n_per_delay=64)
    np.testing.assert_allclose(data["following"].values[0].ravel()[order], fine["u"][0], rtol=0, atol=1e-5)
    assert data.attrs["resolution"] > 1e-4


def test_windows_lie_anywhere_in_a_run():
    times = Segments(windows=200, delays=41).generate(1, seed=7)["time"].values[0]
    assert np.histogram(times, 4, (1, 40))[0].min() > 30  # of 50 ± 6


def test_a_long_run_does_not_depend_on_how_it_is_cut(monkeypatch):
    problem = Segments(windows=30, delays=40, transient=2)
    whole = problem.generate(1, seed=1)
    monkeypatch.setattr("mackeyglass.problems.segments.CHUNK", 33 * 32 * 7)
    assert whole.identical(problem.generate(1, seed=1))


def test_registered():
    assert {"mackeyglass/timeseries", "mackeyglass/segments"} <= set(sciml.list_problems("mackeyglass/*"))
    assert sciml.create_problem("mackeyglass/timeseries", tau=30.0).tau == 30.0


@pytest.mark.unchecked
def test_a_transient_is_not_negative():
    with pytest.raises(ConfigError, match=r"transient=-2\.0 must be a finite number that is not negative"):
        TimeSeries(transient=-2.0)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("problem", "change"),
    [
        (TimeSeries, {"tau": -1.0}),
        (TimeSeries, {"n": 1.0}),
        (TimeSeries, {"beta": "a"}),
        (TimeSeries, {"length": 0}),
        (TimeSeries, {"transient": -2.0}),
        (TimeSeries, {"history": (0.5, -1.0)}),
        (TimeSeries, {"nodes": 1.5}),
        (Segments, {"n": (12.0, 8.0)}),
        (Segments, {"tau": 2.0}),
        (Segments, {"windows": 0}),
        (Segments, {"delays": 1}),
        (Segments, {"history": (0.0, 1.0)}),
    ],
)
def test_fields_out_of_range(problem, change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        problem(**change)
