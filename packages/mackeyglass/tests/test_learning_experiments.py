"""The experiments with learned models: each runs, and measures what it says."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sciml
import torch
import xarray as xr
from mackeyglass import MackeyGlass, SegmentMap
from mackeyglass.chebyshev import clenshaw_curtis
from mackeyglass.experiments import attractor_types, forecast, inference, neural_dde, surrogate
from mackeyglass.experiments.segment_loss import WindowLoss
from mackeyglass.hopf import hopf_curve
from mackeyglass.models import NeuralDDE
from sciml.errors import ConfigError
from sciml.experiment import RunDirectory
from sciml.plotting import save_figure
from sciml.runtime import Runtime


class Recorder(RunDirectory):
    """A run that keeps what steps find and what trainings are given, and trains nothing."""

    def __init__(self, path, seed=0):
        super().__init__(path, seed, Runtime(device="cpu"))
        self.found, self.data, self.models, self.losses = {}, {}, {}, {}

    def step(self, name, compute):
        return self.found.setdefault(name, compute())

    def generate(self, name, problem, n):
        return self.found.setdefault(name, problem.generate(n, self.seed(name)))

    def train(self, name, model, loss, data, options, optimizer, **more) -> Any:
        self.data[name], self.models[name], self.losses[name] = data.source, model, loss

    def figure(self, name, figure):
        pass


@pytest.fixture
def seeds(monkeypatch):
    """Seeds with which exponents were asked for; what is answered is made up, and different each time."""
    given = []

    def spectrum(system, k, *, seed=0, **_):
        given.append(seed)
        count = system.n.numel() if isinstance(getattr(system, "n", None), torch.Tensor) else 1
        largest = 0.05 + 0.01 * len(given)
        exponents = torch.linspace(largest, -0.4, count * k, dtype=torch.float64).reshape(count, k)
        return SimpleNamespace(exponents=exponents, dimension=torch.full((count,), 2.1))

    for module in (neural_dde, surrogate, attractor_types, forecast):
        monkeypatch.setattr(module, "lyapunov_spectrum", spectrum)
    return given


def shared(a, b):
    """Whether a row of one is a row of the other."""
    a, b = (torch.as_tensor(rows).flatten(0, -2) for rows in (a, b))
    return bool((a[:, None] == b.to(a)).all(-1).any())


def measured(report, name, subject):
    """The one value of this name and subject."""
    (value,) = (m.value for m in report.metrics if (m.name, m.subject) == (name, subject))
    return value


def limits(report):
    """Values of the bars, in order."""
    return [bar.value for bar in report.bars]


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


def test_neural_dde_is_tested_on_series_that_it_did_not_see(tmp_path, seeds):
    config = neural_dde.EXPERIMENT.config("smoke")
    run = Recorder(tmp_path)
    report = neural_dde.run(config, run)
    weights = clenshaw_curtis(config.nodes)
    for name, step, subject in (("fixed-0", "data-0", "noise 0"), ("conditioned", "data-n", "model that sees n")):
        data = run.found[step]
        held, given = data["segments"][:, 2], run.data[name]
        assert len(given["history"]) == (config.series - 1) * config.delays
        assert not shared(given["history"], held)
        assert not shared(given["following"], held)
        conditions = data["n"][2].expand(config.delays, 1) if name == "conditioned" else None
        with torch.no_grad():
            error = (run.models[name](held[:-1], conditions)[:, 0] - held[1:]).square().numpy() @ weights
        expected = np.sqrt(error.mean() / weights.sum()) / data["std"].item()
        assert measured(report, "error of segments held out", subject) == pytest.approx(expected, rel=1e-10)
    assert run.found["data-n"]["n"][2] not in run.data["conditioned"]["conditions"]
    assert not shared(run.losses["delay"].segments, run.found["data-delay"]["segments"][:, 2])
    # the bars are of the error over equally spaced values of the range visited, and of λ₁
    held = run.found["data-0"]["segments"][:, 2]
    u = torch.linspace(held.min().item(), held.max().item(), 1000, dtype=torch.float64)
    exact = MackeyGlass(n=9.65, tau=2.0).production(u)
    error = (run.models["fixed-0"].detached().production(u) - exact).norm() / exact.norm()
    exponent = run.found["analysis-0"]["λ1"] / run.found["equation"]["λ1"]
    assert limits(report) == pytest.approx([error.item(), abs(exponent - 1)], rel=1e-10)


def test_segment_operators_are_tested_on_windows_that_they_did_not_see(tmp_path, seeds):
    config = surrogate.EXPERIMENT.config("smoke", plane={"runs": 20, "windows": 3})
    run = Recorder(tmp_path)
    report = surrogate.run(config, run)

    windows = run.found["windows"]
    late = windows["time"].values - 1 >= 0.85 * config.delays
    before, after = (torch.from_numpy(windows[name].values[late]) for name in ("history", "following"))
    early = (windows["time"].values + 1 < 0.85 * config.delays).sum()
    assert len(run.data["mlp"]["history"]) == early
    assert not shared(run.data["mlp"]["history"], before)
    assert run.data["mlp"]["history"].numel() > before.numel() > 0
    with torch.no_grad():
        error = (run.models["mlp"](before.float()).double() - after).norm() / after.norm()
    free = run.found["free-run-mlp"]
    expected = [error.item(), free["valid"].mean().item(), abs(free["λ1"] / run.found["exponents"][0] - 1)]
    assert limits(report) == pytest.approx(expected, rel=1e-10)

    plane, model, given = run.found["plane"], run.models["mlp-conditioned"], run.data["mlp-conditioned"]
    before, after = (torch.from_numpy(plane[name].values[:2]) for name in ("history", "following"))
    conditions = torch.stack([torch.from_numpy(plane[name].values[:2]) for name in ("n", "tau")], -1)
    assert len(given["history"]) == 18 * 3
    assert not shared(given["history"], before)
    assert not shared(given["conditions"], conditions)
    with torch.no_grad():
        out = [model(before[i].float(), conditions[i].expand(3, 2).float()).double() for i in range(2)]
    errors = [((out[i] - after[i]).norm() / after[i].norm()).item() for i in range(2)]
    found = [measured(report, name, "mlp, sees n and γτ") for name in ("relative L2", "relative L2, worst draw")]
    assert found == pytest.approx([np.mean(errors), max(errors)], rel=1e-6)


def test_the_attractor_map_is_tested_on_points_that_it_did_not_see(tmp_path, seeds):
    run, config = Recorder(tmp_path), attractor_types.Attractors(points=60)
    atlas = attractor_types.simulate_attractors(config, 5)
    model, metrics = attractor_types.learn_attractors(config, run, atlas)
    held = {name: value[::5] for name, value in atlas.items()}
    assert len(run.data["attractor-map"]["points"]) == 48
    assert not shared(run.data["attractor-map"]["points"], held["points"])
    with torch.no_grad():
        out = model(held["points"])
    right = (out[:, :3].argmax(-1) == held["type"]).double()
    moving = held["type"] > 0
    values = {m.name: m.value for m in metrics if m.subject == "attractor map, test points"}
    assert values == pytest.approx(
        {
            "type is right": right.mean().item(),
            "cycle or chaos is right": right[moving].mean().item(),
            "mean error of λ1": (out[:, 3] - held["exponent"].clamp(min=-0.2)).abs().mean().item(),
        }
    )


@pytest.mark.parametrize("experiment", [neural_dde, surrogate])
def test_another_seed_is_another_sample_of_everything(experiment, tmp_path, seeds):
    """Runs with two seeds share no seed of exponents, and each of them has as many as it asks for exponents."""
    for seed in (0, 1):
        experiment.run(experiment.EXPERIMENT.config("smoke"), Recorder(tmp_path, seed))
    assert len(seeds) == len(set(seeds)) == 4


@pytest.mark.parametrize("free", [("n", "tau"), ("n", "tau", "beta", "gamma")])
def test_errors_of_inferred_parameters(free, tmp_path, monkeypatch):
    """The inference gets noisy data and a start that is wrong; its errors are those of the parameters, relative."""
    config = inference.EXPERIMENT.config("smoke", draws=3, free=free, start_error=0.15)
    given = []

    def infer(u, dt, start, *, noise, free):
        given.append((u, start))
        system, details = MackeyGlass(n=9.0, tau=1.8, beta=2.1, gamma=1.02), {"scanned": False, "iterations": 3}
        return SimpleNamespace(system=system, stderr=dict.fromkeys(free, 0.1), misfit=1.0, **details)

    monkeypatch.setattr(inference, "infer_parameters", infer)
    run = Recorder(tmp_path)
    report = inference.run(config, run)
    series = {name: value.numpy() for name, value in run.found["series"].items()}
    truth = {"n": series["n"], "tau": series["tau"], "beta": np.full(3, 2.0), "gamma": np.full(3, 1.0)}
    found, bars = {"n": 9.0, "tau": 1.8, "beta": 2.1, "gamma": 1.02}, []
    for name in free:
        error = np.abs(found[name] - truth[name])
        relative = error / truth[name]
        assert measured(report, "largest relative error", name) == pytest.approx(relative.max())
        assert measured(report, "median relative error", name) == pytest.approx(np.median(relative))
        assert measured(report, "median of |error| in standard errors", name) == pytest.approx(np.median(error) / 0.1)
        bars.append(relative.max() if len(free) == 2 else np.median(relative))
    assert limits(report) == pytest.approx(bars)
    for i, (u, start) in enumerate(given):
        noise = np.asarray(u) - series["clean"][i]
        assert 0.7 < noise.std() / series["noise"][i] < 1.3
        for name in free:
            assert 1e-4 < abs(getattr(start, name) / truth[name][i] - 1) <= 0.15


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
    found = {"forecasts": runs, "climate": runs[:, 0], "exponents": exponents, "ridge": 1e-9, "tau": 17.0}
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


def test_ridges_are_chosen_before_the_first_start(tmp_path, seeds, monkeypatch):
    """By free runs over samples that come after those for training and before all that is forecast."""
    config = forecast.EXPERIMENT.config("smoke", sizes=(10,), network={"ridges": (1e-4, 1e-6)}, exponent_steps=5)
    compared, measure = [], forecast.nrmse

    def nrmse(runs, truth, std):
        compared.append(truth)
        return measure(runs, truth, std)

    monkeypatch.setattr(forecast, "nrmse", nrmse)
    run = Recorder(tmp_path)
    forecast.run(config, run)
    series = torch.from_numpy(run.found["series-17"]["u"].values)
    chosen = [truth for truth in compared if truth.shape[-1] == 84]
    assert len(chosen) == 2
    for truth in chosen:
        for values, u in zip(truth, series, strict=True):
            times = (values[..., None] == u).nonzero()[:, -1]
            assert len(times) >= values.numel()
            assert config.washout + config.train <= times.min()
            assert times.max() < config.first
