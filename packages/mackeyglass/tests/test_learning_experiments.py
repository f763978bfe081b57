"""The experiments with learned models: each runs, and measures what it says."""

import numpy as np
import pytest
import sciml
import torch
import xarray as xr
from mackeyglass import MackeyGlass, SegmentMap
from mackeyglass.experiments import attractor_types, forecast, inference, neural_dde, surrogate
from mackeyglass.experiments.segment_loss import WindowLoss
from mackeyglass.hopf import hopf_curve
from mackeyglass.models import NeuralDDE
from sciml.errors import ConfigError
from sciml.plotting import save_figure


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("forecast", {"free-runs", "error-growth", "attractors"}),
        ("neural-dde", {"production", "training"}),
        ("surrogate", {"free-runs", "attractors", "training"}),
        ("inference", {"errors", "series"}),
    ],
)
def test_smoke(name, figures, tmp_path):
    report = sciml.run(f"mackeyglass/{name}", "smoke", out=tmp_path / "run")
    assert report.metrics
    found = {path.stem: path.stat().st_size for path in (tmp_path / "run" / "figures").iterdir()}
    assert set(found) == figures
    assert max(found.values()) <= 200_000


def test_splits_of_a_long_run_do_not_share_a_time():
    time = np.sort(np.random.default_rng(0).uniform(1, 99, 300))
    values = np.stack([time, time], -1)
    data = xr.Dataset({"history": (("window", "node"), values), "following": (("window", "node"), values)})
    train, test = surrogate._split(data.assign_coords(time=("window", time)), 100)
    last, first = train["history"].max().item() + 1, test["history"].min().item() - 1
    assert last < 85 <= first
    assert len(train["history"]) + len(test["history"]) > 285


def test_a_long_run_is_split_where_it_is_long_not_where_its_last_window_is():
    time = np.array([10.0, 83.5, 87.0])
    values = np.stack([time, time], -1)
    data = xr.Dataset({"history": (("window", "node"), values), "following": (("window", "node"), values)})
    train, test = surrogate._split(data.assign_coords(time=("window", time)), 100)
    assert train["history"][:, 0].tolist() == [10.0, 83.5]
    assert test["history"][:, 0].tolist() == [87.0]


def test_series_for_testing_are_not_trained_on():
    series = list(range(8))
    train, test = (neural_dde._of(series, test=test) for test in (False, True))
    assert test == [2, 7]
    assert sorted(train + test) == series


def test_forecasts_are_compared_with_what_follows():
    config = forecast.EXPERIMENT.config("smoke")
    u = torch.arange(2 * config.length, dtype=torch.float64).reshape(2, -1)
    truth = forecast._truth(u, config)
    assert truth.shape == (2, config.starts, config.horizon)
    first = config.washout + config.train + config.validation
    assert truth[:, :, 0].tolist() == [
        [first, first + 20, first + 40],
        [config.length + first + 20 * i for i in range(3)],
    ]


def test_free_runs_that_diverge_are_measured_and_drawn(tmp_path):
    config = forecast.EXPERIMENT.config("smoke")
    u = torch.sin(torch.arange(config.length, dtype=torch.float64)).expand(2, -1)
    runs = torch.full((2, config.starts, config.horizon), torch.inf, dtype=torch.float64)
    runs[1] = torch.nan
    exponents = torch.full((2, 4), torch.nan, dtype=torch.float64)
    found = {"forecasts": runs, "climate": runs[:, 0], "exponents": exponents, "ridge": 1e-9}
    values = forecast._measures(found, u, config, 0.005)
    assert values["NRMSE_84"] > 1e300
    assert values["valid prediction time"] == 0
    assert values["Wasserstein distance"] == torch.inf
    for draw in (forecast._free_runs, forecast._error_growth, forecast._attractors):
        save_figure(draw({"ESN 5, τ=17": (found, u)}, config), tmp_path / "figure.png")


def test_windows_in_time_have_the_length_of_the_model_delay():
    """With the exact delay the windows are segments of the solution, and the exact production has no loss."""
    exact = SegmentMap(MackeyGlass(n=8.0, tau=2.0))
    segments = exact.trajectory(exact.history(0.8)[None], 12)
    loss = WindowLoss(0.25, exact, segments)
    seen = {}

    class Recorded(NeuralDDE):
        def forward(self, history, conditions=None, segments=1):
            seen["history"] = history
            return exact(history)[:, None]

    model = Recorded(tau=2.0, hidden=(2,))
    time = torch.tensor([6.0, 13.0], dtype=torch.float64)
    assert loss(model, {"time": time}).item() < 1e-6
    torch.testing.assert_close(seen["history"][0], segments[2, 0], rtol=0, atol=1e-10)
    # another delay, other windows: the map of the delay 2 is not theirs
    assert loss(Recorded(tau=1.9, hidden=(2,)), {"time": time}).item() > 1


def test_delays_too_long_for_the_windows_do_not_end_a_training():
    """A line search tries them; the loss there is a number, and leads back to the delay of the data."""
    torch.manual_seed(0)
    exact = SegmentMap(MackeyGlass(n=9.65, tau=2.0))
    segments = exact.trajectory(exact.history(torch.tensor([[0.7], [1.2]], dtype=torch.float64)), 40)
    loss = WindowLoss(0.25, exact, segments)
    batch = {"time": torch.arange(2.4, 77.6, 5.0, dtype=torch.float64)}
    model = NeuralDDE(tau=2.5, hidden=(4,), learn_tau=True)
    for tau in (2.5, 10.0, 1000.0):
        with torch.no_grad():
            model.log_tau.fill_(np.log(tau))
        value = loss(model, batch)
        gradients = torch.autograd.grad(value, list(model.parameters()))
        assert value.isfinite()
        assert all(g.isfinite().all() for g in gradients)
    # windows at the ends do not fit, those in the middle are as long as before
    model = NeuralDDE(tau=2.42, hidden=(4,), learn_tau=True)
    model.set_normalization(segments)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        return value

    first = closure().item()
    optimizer.step(closure)
    assert closure().item() < 0.5 * first
    assert abs(model.tau.item() - 2) < 0.42


def test_types_of_attractors():
    """An equilibrium below the Hopf curve, and chaos where the exponent says so."""
    config = attractor_types.Attractors(points=40, delays=60, transient=100)
    found = attractor_types.simulate_attractors(config, 3)
    n, tau = found["points"].unbind(-1)
    below = n < hopf_curve(MackeyGlass(), 0, tau)[0]
    assert set(found["type"].tolist()) == {0, 1, 2}
    assert (found["type"][below] == 0).all()
    assert (found["exponent"][found["type"] == 2] > 0.01).all()
    assert (found["exponent"][found["type"] == 0] < 0).all()


def test_what_is_known_from_the_hopf_curve_is_not_counted_as_learned(tmp_path):
    report = sciml.run("mackeyglass/surrogate", "smoke", out=tmp_path / "run")
    found = {m.subject: m.value for m in report.metrics if m.name == "cycle or chaos is right"}
    assert set(found) == {"attractor map, test points", "most frequent type"}
    kind, right = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([True, True, False, True, False])
    values = [m.value for m in attractor_types._shares("", right[kind > 0], kind[kind > 0])]
    assert values == pytest.approx([1 / 3, 2 / 3])
    dimensions = {m.subject: m.value for m in report.metrics if m.name == "D_KY"}
    assert set(dimensions) == {"equation", "mlp"}
    assert 1 <= dimensions["equation"] < 3


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("experiment", "change"),
    [
        (forecast, {"memory": 5000}),
        (forecast, {"horizon": 83}),
        (forecast, {"network": {"ridges": (1e-8, 1e-9)}, "validation": 50}),
        (neural_dde, {"n": (9.0, 8.0)}),
        (neural_dde, {"series": 4}),
        (surrogate, {"architectures": ("cnn",)}),
        (inference, {"free": ("theta",)}),
        (inference, {"start_error": 1.0}),
    ],
)
def test_configurations_that_make_no_sense(experiment, change):
    with pytest.raises(ConfigError, match=list(change)[-1]):
        experiment.EXPERIMENT.config("small", **change)
