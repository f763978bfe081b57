"""Hopf bifurcations of the positive equilibrium in the (n, τ) plane, by four independent routes."""

import itertools

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from pydantic import NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Published, Report, RunDirectory
from scipy.optimize import root_scalar

from mackeyglass.characteristic import characteristic_roots, lambert_roots, unstable_roots
from mackeyglass.experiments import PAPER
from mackeyglass.experiments.common import SYSTEM, Positive
from mackeyglass.hopf import hopf_asymptote, hopf_curve, hopf_points, locate_hopf
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.normal_form import hopf_normal_form

SOURCE = "reference values"
CURVES = [  # τ, k, n, ω
    (1.0, 0, 6.523652668, 2.028757838),
    (1.1, 0, 6.247668276, 1.873678586),
    (2.0, 0, 5.039605122, 1.144464864),
    (2.6, 0, 4.720163753, 0.921858292),
    (1.0, 1, 18.082177284, 7.978665712),
    (1.1, 1, 16.665704400, 7.264345902),
    (2.0, 1, 10.339536263, 4.048081802),
    (2.6, 1, 8.589576137, 3.139367519),
]
DELAYS = [(10.0, 0, 0.47081963), (10.0, 1, 2.09313110), (10.0, 2, 3.71544257), (9.65, 0, 0.49710835)]  # n, k, τ
LYAPUNOV = (2.0, 0, -4.6501861)  # τ, k, l₁
NEGLIGIBLE = 1e-10


@config
class Config:
    """Everything that determines the result.

    `curves` Hopf curves are followed on `points` delays between the ends of `tau`; on `located` delays Newton's
    method looks for the point, too, and the normal form is taken. At `samples` random points of the figure, whose other
    axis is `n`, roots are counted.
    """

    seed: NonNegativeInt = 0
    curves: PositiveInt = 3
    points: PositiveInt = 200
    located: PositiveInt = 20
    samples: PositiveInt = 100
    tau: tuple[Positive, Positive] = (0.3, 4.0)
    n: tuple[Positive, Positive] = (2.0, 26.0)

    def __post_init__(self) -> None:
        if not self.tau[0] < self.tau[1]:
            raise ValueError(f"tau={self.tau} must increase")
        if not 1 < self.n[0] < self.n[1]:
            raise ValueError(f"n={self.n} must increase, from above 1")


def run(config: Config, run: RunDirectory) -> Report:
    """Compare the formula with Lambert's W, the generator and Newton's method, and count roots between the curves."""
    curves = run.step("curves", lambda: _curves(config))
    located = run.step("located", lambda: _located(config))
    counted = run.step("counts", lambda: _counts(config, run.seed("counts")))
    run.figure("hopf-curves", figure(curves, located, config))
    metrics, digits = _references()
    for name, values in {**curves.data_vars, **located.data_vars}.items():
        if str(name).startswith("difference"):
            metrics.append(Metric(str(name), "largest of all", float(values.max())))
    wrong = float((counted["unstable"] != 2 * counted["passed"]).sum())
    metrics += [
        Metric("asymptote of n", "all curves", float(hopf_asymptote(SYSTEM))),
        Metric("largest l1", "all curves", float(located["l1"].max())),
        Metric("points with another number of unstable roots", f"of {config.samples}", wrong),
    ]
    bars = [
        *(Bar(f"{m.name}, {m.subject}", m.value, NEGLIGIBLE) for m in metrics if m.name.startswith("difference")),
        Bar("difference from the reference values, in units of their last digit", digits, 1.0),
        Bar("points whose number of unstable roots is not that of the curves passed", wrong, 0.0),
    ]
    notes = [
        "The formula gives n and ω for each τ. Lambert's W: the root of branch k there is compared with iω, and n is "
        "found anew as the zero of the root's real part. Generator: the eigenvalue that is closest to iω, corrected by "
        "Newton's method. Newton: n and ω from a start 3 % away, by the method for general delay equations. "
        "Differences of n are relative, those of roots are divided by 1 + ω.",
        "l1 is Re c₁/ω for the mode q = 1, x ≈ x* + 2 Re(zq): negative where the orbits that are born are stable on "
        "the centre manifold.",
    ]
    return Report(metrics, notes, bars)


def _curves(config: Config) -> xr.Dataset:
    """n and ω of the formula for every curve and delay, and how far other routes are from them."""
    taus = np.geomspace(*config.tau, config.points)
    n, omega = map(np.stack, zip(*(_formula(k, taus) for k in range(config.curves)), strict=True))
    lambert, zero, generator = (np.zeros(n.shape) for _ in range(3))
    for k, i in itertools.product(range(config.curves), range(config.points)):
        system = SYSTEM.with_parameters(n=float(n[k, i]), tau=float(taus[i]))
        target, scale = 1j * omega[k, i], 1 + omega[k, i]
        lambert[k, i] = np.abs(lambert_roots(system, k=2 * k + 4) - target).min() / scale
        generator[k, i] = np.abs(characteristic_roots(system, k=2 * k + 4) - target).min() / scale
        zero[k, i] = abs(_zero_of_lambert(system, k) / n[k, i] - 1)
    axes = ("k", "tau")
    return xr.Dataset(
        {
            "n": (axes, n),
            "omega": (axes, omega),
            "difference of the root, Lambert W": (axes, lambert),
            "difference of n, Lambert W": (axes, zero),
            "difference of the root, generator": (axes, generator),
        },
        {"k": np.arange(config.curves), "tau": taus},
    )


def _located(config: Config) -> xr.Dataset:
    """How far Newton's method ends from the formula, and the first Lyapunov coefficient."""
    taus = np.geomspace(*config.tau, config.located)
    difference, l1 = np.zeros((2, config.curves, config.located))
    for (i, tau), k in itertools.product(enumerate(taus.tolist()), range(config.curves)):
        exact = hopf_points(SYSTEM.with_parameters(tau=tau), "n", k + 1)[k]
        start = exact.system.with_parameters(n=1.03 * exact.parameters["n"])
        found = locate_hopf(start, "n", omega=exact.omega)
        n_error = found.parameters["n"] / exact.parameters["n"] - 1
        difference[k, i] = max(abs(n_error), abs(found.omega / exact.omega - 1))
        l1[k, i] = hopf_normal_form(found).l1
    axes = ("k", "located_tau")
    return xr.Dataset(
        {"difference of n and ω, Newton": (axes, difference), "l1": (axes, l1)},
        {"k": np.arange(config.curves), "located_tau": taus},
    )


def _counts(config: Config, seed: int) -> xr.Dataset:
    """At random points of the plane: unstable roots, and how many of all Hopf curves lie at smaller n."""
    random = np.random.default_rng(seed)
    n, tau = (random.uniform(*ends, config.samples) for ends in (config.n, config.tau))
    unstable = [
        unstable_roots(SYSTEM.with_parameters(n=a, tau=b)) for a, b in zip(n.tolist(), tau.tolist(), strict=True)
    ]
    passed, k = np.zeros(config.samples, int), 0
    while (before := _formula(k, tau)[0] < n).any():
        passed, k = passed + before, k + 1
    return xr.Dataset(
        {"unstable": ("sample", unstable), "passed": ("sample", passed)}, {"n": ("sample", n), "tau": ("sample", tau)}
    )


def _references() -> tuple[list[Metric], float]:
    """The numbers for which there are reference values, and the largest difference in units of their last digit."""
    metrics, digits = [], []

    def add(name: str, subject: str, value: float, reference: float, unit: float) -> None:
        metrics.append(Metric(name, subject, value))
        digits.append(abs(value - reference) / unit)

    for tau, k, n, omega in CURVES:
        value, frequency = hopf_curve(SYSTEM, k, tau)
        add("n", f"k={k}, τ={tau:g}", float(value), n, 1e-9)
        add("ω", f"k={k}, τ={tau:g}", float(frequency), omega, 1e-9)
    for n, k, tau in DELAYS:
        point = hopf_points(SYSTEM.with_parameters(n=n), "tau", k + 1)[k]
        add("τ", f"k={k}, n={n:g}", point.parameters["tau"], tau, 1e-8)
    tau, k, l1 = LYAPUNOV
    point = hopf_points(SYSTEM.with_parameters(tau=tau), "n", k + 1)[k]
    add("l1", f"k={k}, τ={tau:g}", hopf_normal_form(point).l1, l1, 1e-7)
    return metrics, max(digits)


def _formula(k: int, taus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n, omega = hopf_curve(SYSTEM, k, torch.from_numpy(taus))
    return n.numpy(), omega.numpy()


def _zero_of_lambert(system: MackeyGlass, k: int) -> float:
    """n at which the real part of the pair of branch k vanishes."""

    def growth(n: float) -> float:
        roots = lambert_roots(system.with_parameters(n=n), k=2 * k + 4)
        # pairs beyond the first are ordered by branch, in real part and in frequency
        return float(np.sort(np.real(roots[np.imag(roots) > 0]))[::-1][k])

    n = float(system.n)
    return float(root_scalar(growth, bracket=(0.98 * n, 1.02 * n), method="brentq", xtol=1e-13, rtol=1e-14).root)


def figure(curves: xr.Dataset, located: xr.Dataset, config: Config) -> Figure:
    """The Hopf curves over the number of unstable roots, and the first Lyapunov coefficient along them."""
    result = Figure(figsize=(10, 4), layout="constrained")
    plane, right = result.subplots(1, 2, width_ratios=(3, 2))
    tau = curves["tau"].values
    edges = [*curves["n"].values, np.full(len(tau), np.inf)]
    for k, (left, beyond) in enumerate(itertools.pairwise(edges)):
        shown = (np.minimum(edge, config.n[1]) for edge in (left, beyond))
        plane.fill_betweenx(tau, *shown, color="C0", alpha=0.1 * (k + 1), linewidth=0)
        plane.plot(left, tau, color=f"C{k}", label=f"$k={k}$")
    asymptote = float(hopf_asymptote(SYSTEM))
    plane.axvline(asymptote, color="gray", linestyle=":", label="asymptote")
    known = [*((n, tau) for tau, _, n, _ in CURVES), *((n, tau) for n, _, tau in DELAYS)]
    plane.plot(*zip(*known, strict=True), "k.", label="reference values")
    height = 0.6 * config.tau[1]  # of the labels
    plane.text((config.n[0] + asymptote) / 2, height, "0", ha="center", va="center")
    at_height = [*(float(np.interp(height, tau, curve)) for curve in curves["n"].values), config.n[1]]
    for k, (left, beyond) in enumerate(itertools.pairwise(at_height)):
        label = f"{2 * k + 2}" + " or more" * (k == config.curves - 1)
        plane.text((left + beyond) / 2, height, label, ha="center", va="center")
    plane.set(xlabel="$n$", ylabel=r"delay $\tau$", xlim=config.n, ylim=config.tau)
    plane.set(title="Hopf curves and numbers of unstable roots")
    plane.legend(loc="upper right", fontsize="small")
    for k, values in enumerate(located["l1"].values):
        right.plot(located["located_tau"], -values, ".-", color=f"C{k}")
    right.set(xlabel=r"delay $\tau$", ylabel="$-l_1$", yscale="log", title="First Lyapunov coefficient")
    return result


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(points=4, located=2, samples=10),
        "small": Config(),
        "paper": Config(),
    },
    paper=PAPER,
    published=[
        *(Published("n", f"k={k}, τ={tau:g}", n, "1", SOURCE) for tau, k, n, _ in CURVES),
        *(Published("ω", f"k={k}, τ={tau:g}", omega, "1", SOURCE) for tau, k, _, omega in CURVES),
        *(Published("τ", f"k={k}, n={n:g}", tau, "1", SOURCE) for n, k, tau in DELAYS),
        Published("l1", f"k={LYAPUNOV[1]}, τ={LYAPUNOV[0]:g}", LYAPUNOV[2], "1", SOURCE),
    ],
)
