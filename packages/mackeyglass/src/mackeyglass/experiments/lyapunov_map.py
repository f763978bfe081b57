"""The largest Lyapunov exponent over the (n, τ) plane, and whether four times longer runs agree with it."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from pydantic import NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory

from mackeyglass.branch import Branch
from mackeyglass.experiments import PAPER
from mackeyglass.experiments.branches import draw_curve
from mackeyglass.experiments.common import SYSTEM, Positive
from mackeyglass.hopf import hopf_curve
from mackeyglass.lyapunov import lyapunov_spectrum

CLEAR = 0.01  # modulus from which the sign of an exponent is compared
NONE = 1e-3  # and below which that of the longer run has no sign
WINDOW = 1.0  # largest distance in n of the chaos on both sides of a periodic window
LONGER = 4
AGREEMENT = 0.97


@config
class Config:
    """Everything that determines the result: `cells` values of n and of τ between the ends of `n` and `tau`.

    Each cell has one trajectory, of `delays` delays after `transient`, and another one four times as long in all.
    Folds, period doublings and torus bifurcations are followed for `curve_steps` steps, and drawn over the map.
    """

    seed: NonNegativeInt = 0
    cells: tuple[PositiveInt, PositiveInt] = (60, 40)
    delays: PositiveInt = 800
    transient: PositiveInt = 400
    n: tuple[Positive, Positive] = (6.0, 20.0)
    tau: tuple[Positive, Positive] = (1.0, 3.0)
    nodes: PositiveInt = 48
    curve_steps: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if not 1 < self.n[0] < self.n[1]:
            raise ValueError(f"n={self.n} must increase, from above 1")
        if not self.tau[0] < self.tau[1]:
            raise ValueError(f"tau={self.tau} must increase")
        if self.delays < 20 or self.transient < 100:
            raise ValueError(f"delays={self.delays} must be at least 20 and transient={self.transient} at least 100")


def run(config: Config, run: RunDirectory) -> Report:
    """Compute the map, and again from runs that are four times as long."""
    short = run.step("map", lambda: exponents(config, run))
    long = run.step("longer", lambda: exponents(config, run, LONGER))
    curves = {}
    if config.curve_steps:
        from mackeyglass.experiments import atlas  # which draws its curves over this map

        curves = atlas.follow(atlas.Config(max_steps=config.curve_steps), run)
    run.figure("map", figure(short, long, curves))
    value = short["exponent"].values
    clear = np.abs(value) > CLEAR
    agree = agreement(short, long)[clear]
    share = float(agree.mean()) if agree.size else float("nan")
    metrics = [
        Metric("cells whose exponent is larger than 0.01 in modulus", f"of {value.size}", float(clear.sum())),
        Metric("share of these whose sign is that of the longer run", "all", share),
        *(
            Metric("share of cells with chaos", name, float((found["exponent"] > CLEAR).mean()))
            for name, found in (("map", short), ("longer runs", long))
        ),
        Metric("cells with chaos that had ended in the longer run", "all", float(ended(short, long).sum())),
        Metric("cells in periodic windows of the chaos", "map", float(windows(short).sum())),
        Metric("largest exponent", "map", float(value.max())),
        Metric("root mean square of the difference", "all cells", float(_rms(short["exponent"] - long["exponent"]))),
    ]
    claim = "share of cells with an exponent beyond ±0.01 whose sign is that of a run four times as long"
    bars = [
        Bar(claim, share, AGREEMENT, at_least=True),
        Bar("cells in periodic windows of the chaos", float(windows(short).sum()), 1.0, at_least=True),
    ]
    return Report(metrics, NOTES, bars)


NOTES = [
    "Every cell has one trajectory, from a constant history that is the same multiple of the equilibrium in each: "
    "where attractors coexist the map shows one of them. The longer run begins with the same history.",
    "A sign agrees if the exponent of the longer run has it and exceeds 0.001 in modulus: a cycle, whose exponent is "
    "0, does not agree with chaos.",
    "A periodic window is a gap of less than 1 in n between cells with chaos at the same delay.",
    "Nodes resolve least at (n, τ) = (20, 3), where 48 leave a relative error of 1e-4 in a delay and 64 one of 2e-5. "
    "There 32, 48 and 64 nodes gave λ₁ = 0.0765(8), 0.0756(7) and 0.0758(7), and for the exponent that is 0 on any "
    "attractor 0.0027(4), 0.0001(1) and 0.0000(1).",
    "Chaos of a short run may be a transient: past crises trajectories stay chaotic for hundreds to thousands of "
    "delays before they find a cycle.",
]


def exponents(config: Config, run: RunDirectory, times: int = 1) -> xr.Dataset:
    """The largest exponent in every cell, with its error, from runs that are so many times as long."""
    n, tau = np.linspace(*config.n, config.cells[0]), np.linspace(*config.tau, config.cells[1])
    T, N = torch.meshgrid(torch.from_numpy(tau), torch.from_numpy(n), indexing="ij")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*have not converged", UserWarning)  # it is in the result
        warnings.filterwarnings("ignore", ".*nodes leave a relative error", UserWarning)  # what it changes is noted
        found = lyapunov_spectrum(
            SYSTEM.with_parameters(n=N.flatten(), tau=T.flatten()),
            1,
            n_delays=times * config.delays,
            n_transient=times * config.transient,
            n_ensemble=1,
            seed=run.seed("history"),
            n_nodes=config.nodes,
            device=run.runtime.device,
            progress=True,
        )
    table = {"exponent": found.exponents[:, 0], "stderr": found.stderr[:, 0], "converged": found.converged}
    return xr.Dataset(
        {name: (("tau", "n"), values.reshape(T.shape).numpy()) for name, values in table.items()},
        {"tau": tau, "n": n},
        {"delays": times * config.delays, "transient": times * config.transient},
    )


def agreement(short: xr.Dataset, long: xr.Dataset) -> np.ndarray:
    """Where the longer run has the sign of the shorter one, and a sign at all."""
    first, second = short["exponent"].values, long["exponent"].values
    return (np.sign(first) == np.sign(second)) & (np.abs(second) > NONE)


def ended(short: xr.Dataset, long: xr.Dataset) -> np.ndarray:
    """Where there was chaos that the longer run does not see."""
    return (short["exponent"].values > CLEAR) & (long["exponent"].values < NONE)


def windows(found: xr.Dataset) -> np.ndarray:
    """Cells without chaos in gaps of less than 1 in n between cells with it, of the same delay."""
    chaos, n = found["exponent"].transpose("tau", "n").values > CLEAR, found["n"].values
    before = np.maximum.accumulate(np.where(chaos, n, -np.inf), axis=1)
    after = np.minimum.accumulate(np.where(chaos, n, np.inf)[:, ::-1], axis=1)[:, ::-1]
    return ~chaos & (after - before < WINDOW)


def figure(short: xr.Dataset, long: xr.Dataset, curves: Mapping[str, Sequence[Branch]]) -> Figure:
    """Both maps, with Hopf curves and curves by name, and where the signs differ."""
    result = Figure(figsize=(11, 4.6), layout="constrained")
    panels = result.subplots(1, 2, sharey=True)
    reach = max(float(np.abs(found["exponent"]).max()) for found in (short, long))
    scale = ScalarMappable(Normalize(-reach, reach), "RdBu_r")
    for axis, found in zip(panels, (short, long), strict=True):
        axis.pcolormesh(found["n"], found["tau"], found["exponent"], cmap=scale.cmap, norm=scale.norm)
        for color, (name, branches) in zip(("k", "C2", "C1", "C4"), curves.items(), strict=False):
            draw_curve(axis, branches, color, name, linewidth=1)
        _draw_hopf(axis, found)
        axis.set(xlabel="$n$", title=f"{found.attrs['delays']} delays after {found.attrs['transient']}")
    clear = np.abs(short["exponent"].values) > CLEAR
    rows, columns = np.nonzero(clear & ~agreement(short, long))
    panels[1].plot(short["n"].values[columns], short["tau"].values[rows], "kx", markersize=4, label="signs differ")
    panels[0].set(ylabel=r"delay $\tau$")
    panels[1].legend(loc="lower right", fontsize="small")
    result.colorbar(scale, ax=panels, label=r"largest Lyapunov exponent $\lambda_1$")
    return result


def _draw_hopf(axis: Axes, found: xr.Dataset) -> None:
    limits = {name: (float(found[name][0]), float(found[name][-1])) for name in ("n", "tau")}
    tau = np.linspace(*limits["tau"], 200)
    for k in range(3):
        n, _ = hopf_curve(SYSTEM, k, torch.from_numpy(tau))
        axis.plot(n, tau, "k:", linewidth=1, label="Hopf" if k == 0 else "")
    axis.set(xlim=limits["n"], ylim=limits["tau"])


def _rms(difference: xr.DataArray) -> float:
    return float(np.sqrt(np.square(difference).mean()))


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(cells=(6, 4), delays=100, transient=100),
        "small": Config(),
        "paper": Config(cells=(400, 300), delays=2000, transient=2000, curve_steps=250),
    },
    paper=PAPER,
)
