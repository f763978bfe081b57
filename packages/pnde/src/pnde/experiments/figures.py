"""Errors over time, and trajectories, of the models of a comparison."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from sciml.plotting import curves

from pnde.experiments.rollouts import Comparisons


def errors_over_time(found: Comparisons, xlabel: str = "time [s]", median: bool = False) -> Figure:
    """State and constraint error over time, means (or medians) over all solved trajectories, by label."""
    middle = (lambda x: x.nanmedian(0).values) if median else (lambda x: x.nanmean(0))
    word = "median" if median else "mean"
    t = next(iter(found.rollouts.values())).t
    drawn = next(iter(next(iter(found.rollouts.values())).drifts))
    panels = {f"{word} relative state error": {}, f"{word} {drawn.replace('_', ' ')}": {}}
    for label, rollout in found.rollouts.items():
        good = rollout.solved
        for panel, values in zip(panels.values(), (rollout.error[good], rollout.drifts[drawn][good]), strict=True):
            panel[label] = middle(values)[1:]
    return curves(t[1:], panels, xlabel=xlabel)


def phase_portraits(
    found: Comparisons, x: Sequence[int], y: Sequence[int], *, sample: int = 0, names: tuple[str, str] = ("x", "y")
) -> Figure:
    """One test trajectory in the plane of two components (sums of them, where several are given), by label."""
    figure = Figure(figsize=(2.6 * len(found.rollouts), 2.9), layout="constrained")
    axes = figure.subplots(1, len(found.rollouts), squeeze=False, sharex=True, sharey=True)[0]
    for axis, (label, rollout) in zip(axes, found.rollouts.items(), strict=True):
        for states, style in ((rollout.reference[sample], "k-"), (rollout.u[sample], "C1-")):
            axis.plot(states[:, list(x)].sum(-1), states[:, list(y)].sum(-1), style, linewidth=0.7)
        axis.set(title=label, xlabel=names[0])
    reference = next(iter(found.rollouts.values())).reference[sample]
    for components, limit in ((x, axes[0].set_xlim), (y, axes[0].set_ylim)):
        values = reference[:, list(components)].sum(-1)
        low, high = float(values.min()), float(values.max())
        limit(low - 0.4 * (high - low), high + 0.4 * (high - low))
    axes[0].set(ylabel=names[1])
    return figure
