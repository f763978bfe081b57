"""Lyapunov exponents and Kaplan–Yorke dimensions at points of the (n, τ) plane, beside known ones."""

import warnings
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from pydantic import NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Published, Report, RunDirectory

from mackeyglass.experiments import PAPER
from mackeyglass.experiments.common import SYSTEM
from mackeyglass.lyapunov import LyapunovSpectrum, lyapunov_spectrum

SOURCE = "reference values"
SIGMAS = 3.0
DIMENSION = 0.02


@dataclass(frozen=True)
class Point:
    """A point of the plane with its known exponents; `errors` are standard errors of the first of them.

    `k` exponents are computed: as many as the dimension needs.
    """

    n: float
    tau: float
    exponents: tuple[float, ...]
    errors: tuple[float, ...]
    dimension: float
    k: int = 4

    def __str__(self) -> str:
        return f"n={self.n:g}, τ={self.tau:g}"


POINTS = [
    Point(10.0, 1.7, (0.05126, 0.0, -0.3871, -0.5277), (0.00015,), 2.1325),
    Point(10.0, 2.3, (0.09448, 0.0, -0.1184, -0.3446, -0.4448), (0.0002,), 2.798, 5),
    Point(10.0, 3.0, (0.07051, 0.0216, 0.0, -0.1621, -0.2435, -0.3258), (0.00024, 0.0002), 3.568, 6),
    Point(9.65, 2.0, (0.07248, 0.0, -0.2627, -0.4023), (0.0002,), 2.276),
    Point(9.0, 2.0, (0.0350,), (0.0004,), 2.115),
    Point(11.0, 2.0, (0.0760,), (0.0014,), 2.221),
    Point(9.0, 2.6, (0.0899, 0.0, -0.0427), (0.0008,), 3.175, 5),
    Point(7.0, 2.0, (0.0, -0.0467, -0.4146), (), 1.0),
]


@config
class Config:
    """Everything that determines the result.

    The first `points` of the table are run with `members` trajectories of `delays` delays after `transient`.
    """

    seed: NonNegativeInt = 0
    points: PositiveInt = 4
    members: PositiveInt = 24
    delays: PositiveInt = 6000
    transient: PositiveInt = 1000
    nodes: PositiveInt = 40

    def __post_init__(self) -> None:
        if self.points > len(POINTS):
            raise ValueError(f"points={self.points}: the table has {len(POINTS)}")
        if self.delays < 20 or self.transient < 100:
            raise ValueError(f"delays={self.delays} must be at least 20 and transient={self.transient} at least 100")


def run(config: Config, run: RunDirectory) -> Report:
    """Compare exponents and dimensions with the known ones, in units of their errors."""
    points = POINTS[: config.points]
    spectra = [run.step(f"n={p.n:g} tau={p.tau:g}", lambda p=p: spectrum(p, config, run)) for p in points]
    run.figure("exponents", figure(points, spectra))
    metrics, bars = [], []
    for point, found in zip(points, spectra, strict=True):
        deviations = _deviations(point, found)
        for i, (value, error) in enumerate(zip(found["exponents"].values, found["stderr"].values, strict=True), 1):
            metrics += [Metric(f"λ{i}", str(point), float(value)), Metric(f"error of λ{i}", str(point), float(error))]
        metrics += [
            Metric("D", str(point), float(found["dimension"])),
            Metric("error of D", str(point), float(found["dimension_stderr"])),
            Metric("λ1, second half minus first", str(point), float(found["halves"].diff("half")[0, 0])),
            Metric("largest deviation of an exponent in standard errors", str(point), float(deviations.max())),
        ]
        bars += [
            Bar(f"largest deviation of an exponent in standard errors, {point}", float(deviations.max()), SIGMAS),
            Bar(f"deviation of D, {point}", abs(float(found["dimension"]) - point.dimension), DIMENSION),
        ]
    return Report(metrics, NOTES, bars)


NOTES = [
    "Exponents are growth rates per unit of time with β = 2, γ = θ = 1 (nats): n = 10 and τ = 1.7, 2.3, 3 are the "
    "series with delays of 17, 23 and 30, β = 0.2 and γ = 0.1, whose exponents are a tenth of these.",
    "Standard errors are those of averages over the trajectories, and those of the reference values, both squared and "
    "added. Where the error of a reference value is not known it is taken for that of the largest exponent, and never "
    "for less than the rounding of the printed digits; the zero of chaos is exact.",
    "D is the Kaplan–Yorke dimension. The dimensions of 2.13 ± 0.03, 2.76 ± 0.06 and 3.58 ± 0.04 for delays of 17, "
    "23 and 30 are those of Farmer and of Grassberger and Procaccia.",
]


def spectrum(point: Point, config: Config, run: RunDirectory) -> xr.Dataset:
    """Exponents at a point, with their errors, those of both halves of the run and those of each trajectory."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*have not converged", UserWarning)  # it is in the result
        found = lyapunov_spectrum(
            SYSTEM.with_parameters(n=point.n, tau=point.tau),
            point.k,
            n_delays=config.delays,
            n_transient=config.transient,
            n_ensemble=config.members,
            seed=run.seed(str(point)),
            n_nodes=config.nodes,
            device=run.runtime.device,
        )
    return dataset(found)


def dataset(found: LyapunovSpectrum) -> xr.Dataset:
    """The spectrum of a single system."""
    return xr.Dataset(
        {
            "exponents": ("k", found.exponents[0].numpy()),
            "stderr": ("k", found.stderr[0].numpy()),
            "halves": (("half", "k"), found.halves[:, 0].numpy()),
            "members": (("member", "k"), found.members[:, 0].numpy()),
            "dimension": float(found.dimension),
            "dimension_stderr": float(found.dimension_stderr),
            "converged": bool(found.converged),
        }
    )


def _deviations(point: Point, found: xr.Dataset) -> np.ndarray:
    """|λ − known| / √(σ² + σ_known²) of each exponent that is known."""
    known = np.array(point.exponents)
    errors = np.array(point.errors)
    largest = errors.max(initial=0.0)
    rounding = 5e-5 / np.sqrt(3)  # of a number printed with four digits
    zero = 0.0 if point.errors else rounding  # that of a cycle is not random
    others = np.where(known == 0, zero, max(largest, rounding))
    others[: len(errors)] = errors
    values, stderr = (found[name].values[: len(known)] for name in ("exponents", "stderr"))
    return np.abs(values - known) / np.hypot(stderr, others)


def figure(points: list[Point], spectra: list[xr.Dataset]) -> Figure:
    """Exponents with their errors and known ones, differences from these, and dimensions."""
    result = Figure(figsize=(12, 4.2), layout="constrained")
    left, middle, right = result.subplots(1, 3)
    for i, (point, found) in enumerate(zip(points, spectra, strict=True)):
        known, color = np.array(point.exponents), f"C{i}"
        at = np.arange(1, 1 + found.sizes["k"]) + 0.08 * (i - (len(points) - 1) / 2)
        values, stderr = found["exponents"].values, found["stderr"].values
        left.errorbar(
            at, values, SIGMAS * stderr, fmt=".", color=color, capsize=2, label=f"${point.n:g}$, ${point.tau:g}$"
        )
        left.plot(at[: len(known)], known, "o", color=color, markerfacecolor="none", markersize=9)
        middle.errorbar(
            at[: len(known)],
            1e3 * (values[: len(known)] - known),
            1e3 * SIGMAS * stderr[: len(known)],
            fmt=".",
            color=color,
            capsize=2,
        )
        if point.errors:
            middle.errorbar(
                at[: len(point.errors)],
                np.zeros(len(point.errors)),
                1e3 * SIGMAS * np.array(point.errors),
                fmt="none",
                ecolor=color,
                alpha=0.35,
                elinewidth=5,
            )
        right.errorbar(
            i, float(found["dimension"]), SIGMAS * float(found["dimension_stderr"]), fmt=".", color=color, capsize=2
        )
        right.plot(i, point.dimension, "o", color=color, markerfacecolor="none", markersize=9)
    for axis in (left, middle):
        axis.axhline(0, color="gray", linewidth=0.8)
        axis.set(xlabel="number of the exponent")
    left.set(ylabel=r"$\lambda_i$", title="exponents (circles: known)")
    left.legend(title=r"$n$, $\tau$", fontsize="small")
    middle.set(ylabel=r"$10^3\,(\lambda_i - $ known$)$", title="differences (bars: 3 standard errors)")
    right.set_xticks(range(len(points)), [f"{p.n:g}, {p.tau:g}" for p in points], rotation=30)
    right.set(xlabel=r"$n$, $\tau$", ylabel="$D$", title="Kaplan–Yorke dimension")
    return result


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(points=2, members=8, delays=300, transient=100),
        "small": Config(),
        "paper": Config(points=len(POINTS), members=48, delays=50_000, transient=5000),
    },
    paper=PAPER,
    published=[
        *(Published(f"λ{i}", str(p), value, "1", SOURCE) for p in POINTS for i, value in enumerate(p.exponents, 1)),
        *(Published("D", str(p), p.dimension, "1", SOURCE) for p in POINTS),
    ],
)
