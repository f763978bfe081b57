"""Echo state networks forecast the chaotic series: errors at horizons, valid times, attractors of free runs."""

import math
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Published, Report, RunDirectory
from torch import Tensor

from mackeyglass.experiments import PAPER
from mackeyglass.experiments.common import Positive
from mackeyglass.forecasting import map_exponents, nrmse, squash, unsquash, valid_prediction_time, wasserstein
from mackeyglass.lyapunov import kaplan_yorke_dimension, lyapunov_spectrum
from mackeyglass.models import ESN
from mackeyglass.problems import TimeSeries

BARS = {300: 10**-2.2, 1000: 10**-2.7, 2000: 10**-3.5}  # NRMSE₈₄ by the number of units, at τ = 17
FREE = 84  # steps of the classic free run


@config
class Network:
    """Hyperparameters of the networks; of several `ridges` the one that forecasts the validation part best is taken."""

    spectral_radius: Positive = 1.2
    leak: Positive = 0.5
    input_scale: Positive = 1.0
    bias: Positive = 0.2
    ridges: tuple[Positive, ...] = (1e-12,)


@config
class Config:
    """Everything that determines the result.

    For each delay, `members` networks of each size learn one series each: `washout` samples to begin with, `train` to
    fit, `validation` to choose. After these come `starts` points, `spacing` apart, from which all run freely for
    `horizon` samples. Exponents of the closed loop are averages over `exponent_steps` samples from all starts, those
    of the equation over `delays` delays. `squashed` gives the networks tanh(u − 1).
    """

    seed: NonNegativeInt = 0
    members: PositiveInt = 3
    delays_of_series: tuple[Positive, ...] = (17.0,)
    sizes: tuple[PositiveInt, ...] = (300, 1000)
    network: Network = Network()
    squashed: bool = False
    washout: PositiveInt = 200
    train: PositiveInt = 3000
    validation: PositiveInt = 500
    starts: PositiveInt = 20
    spacing: PositiveInt = 100
    horizon: Annotated[int, Field(ge=FREE)] = 2500
    memory: PositiveInt = 600
    exponent_steps: PositiveInt = 500
    delays: PositiveInt = 1000
    climate: PositiveInt = 5000

    def __post_init__(self) -> None:
        if self.memory > self.washout + self.train:
            raise ValueError(f"memory={self.memory} must be at most washout + train, which come before the first start")
        if self.validation <= FREE and len(self.network.ridges) > 1:
            raise ValueError(f"validation={self.validation} must exceed {FREE} to choose among ridges")

    @property
    def first(self) -> int:
        """Number of samples before the first start."""
        return self.washout + self.train + self.validation

    @property
    def length(self) -> int:
        """Samples of a series."""
        return self.first + (self.starts - 1) * self.spacing + self.horizon

    def model(self, size: int, seed: int) -> ESN:
        """Networks of a size, one a member."""
        settings = {name: getattr(self.network, name) for name in ("spectral_radius", "leak", "input_scale", "bias")}
        seeds = np.random.SeedSequence(seed).generate_state(self.members).tolist()
        return ESN(size, seeds, **settings, ridge=self.network.ridges[0], centre=0.0 if self.squashed else 1.0)


def run(config: Config, run: RunDirectory) -> Report:
    """Fit, run freely, and compare with the series and with the exponents of the equation."""
    metrics, bars, panels, device = [], [], {}, run.runtime.float64_device
    for tau in config.delays_of_series:
        problem = TimeSeries(tau=tau, length=config.length)
        data = run.step(f"series-{tau:g}", lambda p=problem: p.generate(config.members, run.seed("series")))
        exact = run.step(f"exponents-{tau:g}", lambda p=problem: _exact(p, config, run.seed("exponents")))
        u = torch.from_numpy(data["u"].values)
        moved = u.to(device)
        subject = f"equation, τ={tau:g}"
        metrics += [Metric("λ1", subject, exact["exponents"][0].item()), Metric("D_KY", subject, exact["dimension"])]
        for size in config.sizes:
            name = f"ESN {size}, τ={tau:g}"
            found = run.step(
                f"esn-{size}-{tau:g}",
                lambda n=size, v=moved: _forecast(config, config.model(n, run.seed(f"networks-{n}")).to(device), v),
            )
            values = _measures(found, u, config, exact["exponents"][0].item())
            metrics += [Metric(key, name, value) for key, value in values.items()]
            panels[name] = ({**found, "tau": tau}, u)
            if tau == 17 and size in BARS:
                claim = f"{name}: NRMSE_{FREE}, geometric mean of {config.members} networks"
                bars.append(Bar(claim, values[f"NRMSE_{FREE}"], BARS[size]))
    run.figure("free-runs", _free_runs(panels, config))
    run.figure("error-growth", _error_growth(panels, config))
    run.figure("attractors", _attractors(panels, config))
    notes = [
        f"Each of {config.members} networks learns a series of its own ({config.train} samples at Δt = 1 after a "
        f"washout of {config.washout}) and runs freely from {config.starts} points of its later part. NRMSE_h is the "
        "error after h steps over the standard deviation of the series; means over networks are geometric. "
        "Valid prediction times end where the error exceeds 0.4 standard deviations, in Lyapunov times 1/λ1 of the "
        f"equation, and are means over all starts; the longest possible is {config.horizon} samples.",
        "λ1 and D_KY of a network are those of its closed loop, from the tangent map of its states; the Wasserstein "
        "distance is between the values of free runs and those of the series, in standard deviations.",
        "The networks' hyperparameters were set once, on other series.",
    ]
    return Report(metrics, notes, bars)


def _exact(problem: TimeSeries, config: Config, seed: int) -> dict[str, Any]:
    found = lyapunov_spectrum(problem.system(), 6, n_delays=config.delays, n_transient=500, seed=seed)
    return {"exponents": found.exponents[0], "dimension": found.dimension.item()}


def _forecast(config: Config, model: ESN, u: Float[Tensor, "members time"]) -> dict[str, Any]:
    """Free runs from all starts, and the exponents of the closed loops."""
    y = squash(u) if config.squashed else u
    residual = _fit(config, model, y)
    starts = config.first + config.spacing * torch.arange(config.starts)
    state = model.synchronise(_before(config, y, starts))
    exponents = [
        map_exponents(lambda state, m=m: model.advance(state[None], m)[0], state[m], 4, config.exponent_steps, every=5)[
            0
        ].mean(0)
        for m in range(config.members)
    ]
    back = unsquash if config.squashed else (lambda v: v)
    return {
        "forecasts": back(model.continue_from(state, config.horizon)).cpu(),
        "climate": back(model.continue_from(state[:, :1], config.climate)[:, 0]).cpu(),
        "exponents": torch.stack(exponents).cpu(),
        "residual": residual.cpu(),
        "ridge": model.ridge,
    }


def _fit(config: Config, model: ESN, y: Float[Tensor, "members time"]) -> Float[Tensor, "members"]:
    """Train with the best of the ridges, by NRMSE₈₄ on free runs within the validation part, a geometric mean."""
    end = config.washout + config.train
    regressions = model.regressions(y[:, :end], config.washout)
    errors = []
    if len(config.network.ridges) > 1:
        starts = torch.linspace(end, config.first - FREE, 20).long()
        state = model.synchronise(_before(config, y, starts))
        truth = torch.stack([y[:, s : s + FREE] for s in starts.tolist()], 1)
        for ridge in config.network.ridges:
            model.ridge = ridge
            model.solve(regressions)
            error = nrmse(model.continue_from(state, FREE), truth, y.std(-1, correction=0))
            errors.append(_geometric(error[:, -1]))
        model.ridge = config.network.ridges[int(np.argmin(errors))]
    return model.solve(regressions)


def _before(config: Config, y: Float[Tensor, "members time"], starts: Tensor) -> Float[Tensor, "members start memory"]:
    """What the networks see before they run freely."""
    return torch.stack([y[:, s - config.memory : s] for s in starts.tolist()], 1)


def _truth(u: Float[Tensor, "members time"], config: Config) -> Float[Tensor, "members start horizon"]:
    """What comes after the starts."""
    return u[:, config.first :].unfold(1, config.horizon, config.spacing)[:, : config.starts]


def _measures(
    found: dict[str, Any], u: Float[Tensor, "members time"], config: Config, exponent: float
) -> dict[str, float]:
    std, truth = u.std(-1, correction=0), _truth(u, config)
    error = nrmse(found["forecasts"], truth, std)
    valid = valid_prediction_time(found["forecasts"], truth, 1.0, std[:, None], exponent=exponent)
    dimension = kaplan_yorke_dimension(found["exponents"], 1e-4)
    values = {f"NRMSE_{h}": _geometric(error[:, h - 1]) for h in (1, 10, FREE)}
    return {
        **values,
        f"NRMSE_{FREE} of the worst network": torch.nan_to_num(error[:, FREE - 1], nan=math.inf).max().item(),
        "valid prediction time": valid.mean().item(),
        "λ1": found["exponents"][:, 0].mean().item(),
        "D_KY": dimension.mean().item(),
        "Wasserstein distance": float(np.mean([wasserstein(a, b) for a, b in zip(found["climate"], u, strict=True)])),
        "ridge": found["ridge"],
    }


def _geometric(x: Tensor) -> float:
    """The geometric mean; infinite where a run has diverged."""
    return torch.nan_to_num(x, nan=math.inf).log().mean().exp().item()


Panels = dict[str, tuple[dict[str, Any], Float[Tensor, "members time"]]]  # what was found, series by name


def _free_runs(panels: Panels, config: Config) -> Figure:
    figure = Figure(figsize=(9, 2.2 * len(panels) + 0.4), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (name, (found, u)) in zip(axes, panels.items(), strict=True):
        shown = min(1500, config.horizon)
        axis.plot(_truth(u, config)[0, 0, :shown], color="k", linewidth=1, label="series")
        axis.plot(found["forecasts"][0, 0, :shown], color="C1", linewidth=1, linestyle="--", label="free run")
        axis.axvline(FREE, color="gray", linewidth=0.7, linestyle=":")
        axis.set(title=name, ylabel="u", xlim=(0, shown), ylim=(u[0].min() - 0.1, u[0].max() + 0.1))
        axis.legend(loc="upper right", fontsize="small")
    axes[-1].set(xlabel="time after the last value seen")
    return figure


def _error_growth(panels: Panels, config: Config) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for i, (name, (found, u)) in enumerate(panels.items()):
        error = nrmse(found["forecasts"], _truth(u, config), u.std(-1, correction=0))
        steps = np.arange(1, config.horizon + 1)
        axis.plot(steps, error.log().mean(0).exp(), color=f"C{i}", label=name)
        axis.fill_between(steps, error.amin(0), error.amax(0), color=f"C{i}", alpha=0.2, linewidth=0)
    axis.axvline(FREE, color="gray", linestyle=":", label=f"{FREE} steps")
    axis.set(xlabel="horizon (samples)", ylabel="NRMSE", yscale="log", xlim=(0, config.horizon), ylim=(None, 10))
    axis.set(title="Errors of free runs: geometric mean and range of the networks")
    axis.legend(loc="lower right", fontsize="small")
    return figure


def _attractors(panels: Panels, config: Config) -> Figure:
    """Series and free run in the plane (u(t), u(t − τ)), and their histograms."""
    figure = Figure(figsize=(3.4 * len(panels), 6), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False)
    for (above, below), (name, (found, u)) in zip(axes.T, panels.items(), strict=True):
        lag = max(1, round(found["tau"]))  # the plane of a shorter delay would be its diagonal
        low, high = u[0].min().item() - 0.1, u[0].max().item() + 0.1
        for values, color, label in ((u[0], "k", "series"), (found["climate"][0], "C1", "free run")):
            shown = torch.nan_to_num(values, nan=high).clamp(low, high)  # a free run may diverge
            above.plot(shown[lag:], shown[:-lag], color=color, linewidth=0.3, alpha=0.7)
            bins = np.linspace(low, high, 60)
            below.hist(shown.numpy(), bins=bins, density=True, histtype="step", color=color, label=label)
        above.set(title=name, xlabel="$u(t)$", ylabel=r"$u(t-\tau)$")
        below.set(xlabel="u", ylabel="density")
        below.legend(fontsize="small")
    return figure


LITERATURE = "literature value, quoted, not re-read: H. Jaeger and H. Haas, Science 304 (2004) 78, 1000 units, tuned"
DIMENSIONS = "literature value, quoted, not re-read, ±0.04: J. D. Farmer (1982), P. Grassberger and I. Procaccia (1983)"

EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            members=2,
            sizes=(50,),
            washout=50,
            train=350,
            validation=100,
            starts=3,
            spacing=20,
            horizon=100,
            memory=100,
            exponent_steps=40,
            delays=40,
            climate=200,
        ),
        "small": Config(),
        "paper": Config(
            members=10,
            delays_of_series=(17.0, 30.0),
            sizes=(300, 1000, 2000),
            network=Network(ridges=(1e-10, 1e-12, 1e-14)),
            exponent_steps=3000,
            delays=10_000,
            climate=20_000,
        ),
    },
    paper=PAPER,
    published=[
        Published(f"NRMSE_{FREE}", "ESN 1000, τ=17", 10**-4.2, "1", LITERATURE),
        Published("D_KY", "equation, τ=17", 2.13, "1", DIMENSIONS),
        Published("D_KY", "equation, τ=30", 3.58, "1", DIMENSIONS),
    ],
)
