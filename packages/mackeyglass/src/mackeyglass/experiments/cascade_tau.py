"""Period doublings in the delay at n = 10, where the classic parameters lie beyond their limit."""

from typing import Annotated

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Experiment, Metric, Report, RunDirectory

from mackeyglass.bifurcations import BifurcationPoint
from mackeyglass.branch import Branch
from mackeyglass.experiments import PAPER
from mackeyglass.experiments.branches import (
    OURS,
    Collocation,
    Interval,
    Reference,
    born_at_hopf,
    cascade,
    converged,
    differences,
    draw_maxima,
    found,
    kept,
    largest,
    rising,
)

N = 10.0
CLASSIC = 10.0  # units of time in 1/γ with γ = 0.1
WINDOW = 0.35  # beyond the first period doubling, in which the second one lies
TOLERANCE = 1e-6
CONVERGED = "τ on a mesh twice as fine"
REFERENCES = [
    *(
        Reference("τ", f"PD{k}", tau, TOLERANCE)
        for k, tau in enumerate([1.3249215, 1.5792962, 1.6312661, 1.6433027], 1)
    ),
    Reference("ratio of distances", "PD1 to PD3", 4.89, 0.01),
    Reference("ratio of distances", "PD2 to PD4", 4.32, 0.01),
    Reference(CONVERGED, "PD3", 1.631265755, source=OURS),
    Reference(CONVERGED, "PD4", 1.643303123, source=OURS),
]


@config
class Config:
    """Everything that determines the result.

    The branch that is born at the Hopf point is followed between the ends of `tau` with steps of at most `ds_max`, and
    `doublings` period doublings are located.
    """

    seed: NonNegativeInt = 0
    mesh: Collocation = Collocation()
    doublings: PositiveInt = 3
    tau: Interval = (0.3, 2.0)
    ds_max: Annotated[float, Field(gt=0, le=2)] = 0.3
    max_steps: PositiveInt = 200

    def __post_init__(self) -> None:
        rising(tau=self.tau)


def run(config: Config, run: RunDirectory) -> Report:
    """Follow the branch in τ, locate the period doublings, and repeat each on a finer mesh."""
    principal = kept(
        run,
        "principal",
        lambda: born_at_hopf(
            config.mesh.mesh, "tau", config.tau, {"n": N}, ds_max=config.ds_max, max_steps=config.max_steps
        ),
    )
    points, doubled = cascade(run, found(principal, "PD"), config.doublings, WINDOW)
    finer = run.step("finer meshes", lambda: [converged(point) for point in points])
    run.figure("cascade", figure(principal, doubled, points))

    tau = [point.parameters["tau"] for point in points]
    metrics = [Metric("τ", f"PD{k}", value) for k, value in enumerate(tau, 1)]
    metrics += [Metric("τ in classic units", f"PD{k}", CLASSIC * value) for k, value in enumerate(tau, 1)]
    metrics += [Metric("T", f"PD{k}", point.period) for k, point in enumerate(points, 1)]
    metrics += [
        Metric("ratio of distances", f"PD{k} to PD{k + 2}", (tau[k] - tau[k - 1]) / (tau[k + 1] - tau[k]))
        for k in range(1, len(tau) - 1)
    ]
    changes = np.abs(np.subtract(finer, tau)).tolist()
    metrics += [Metric(CONVERGED, f"PD{k}", value) for k, value in enumerate(finer, 1)]
    metrics += [Metric("change of τ on a mesh twice as fine", f"PD{k}", value) for k, value in enumerate(changes, 1)]
    bars = [
        *differences(metrics, asked(config)),
        largest("largest change of τ on a mesh twice as fine", changes, TOLERANCE),
    ]
    return Report(metrics, NOTES, bars)


def asked(config: Config) -> list[Reference]:
    """The references that a run has to meet, of so many period doublings."""
    last = {reference: int(reference.subject[-1]) for reference in REFERENCES}
    return [reference for reference in REFERENCES if last[reference] <= config.doublings]


NOTES = [
    "n = 10, β = 2, γ = θ = 1: delays are in units of 1/γ. The classic parameters β = 0.2, γ = 0.1, τ = 17 are the "
    "point τ = 1.7 here, beyond the limit of the cascade.",
    "Reference values of PD3 and PD4 differ by 3.5e-7 and 4.2e-7 from what this program finds on meshes that are fine "
    "enough for all digits: 1.631265755 and 1.643303123.",
    "In the figure unstable orbits are pale; a line ends where a maximum merges with a minimum.",
]


def figure(principal: Branch, doubled: list[Branch], points: list[BifurcationPoint]) -> Figure:
    """Maxima over τ, and the distances of successive period doublings."""
    result = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = result.subplots(1, 2, width_ratios=(3, 2))
    draw_maxima(left, principal, "C0", "principal branch")
    for k, branch in enumerate(doubled, 1):
        draw_maxima(left, branch, f"C{k}", f"{2**k} times the period")
    for point in points:
        maxima = point.orbit.maxima()
        left.plot(np.full(len(maxima), point.parameters["tau"]), maxima, "k.")
    left.set(xlabel=r"delay $\tau$", ylabel="local maxima of $u$")
    left.legend(fontsize="small")
    tau = np.array([point.parameters["tau"] for point in points])
    k = np.arange(1, len(tau))
    right.semilogy(k, np.diff(tau), "o-", label="distances")
    if len(k):
        right.semilogy(k, (tau[1] - tau[0]) / 4.669 ** (k - 1), "k:", label="ratio 4.669")
        right.legend(fontsize="small")
    right.set(xlabel="$k$", ylabel=r"$\tau_{k+1} - \tau_k$", xticks=k)
    return result


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(mesh=Collocation(intervals=20, degree=4), doublings=1, tau=(0.3, 1.5), max_steps=25),
        "small": Config(),
        "paper": Config(doublings=5, ds_max=0.2),
    },
    paper=PAPER,
    published=[reference.published for reference in REFERENCES],
)
