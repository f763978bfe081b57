"""What is measured of solutions beside their reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sciml.experiment import Metric
from torch import Tensor

from pnde.metrics import valid_prediction_time
from pnde.models import TrajectoryModel

UNITS = {
    "valid_prediction_time": "s",
    "training_time": "s",
    "unsolved": "trajectories",
    "diverged": "trajectories",
    "window_mse_test_undefined": "windows",
}
DIVERGED = 10.0  # relative state error, beyond which a trajectory has diverged


@dataclass(frozen=True)
class Rollouts:
    """Solutions (trajectory, time, n) of one kind from the test states of all repeats, beside the reference.

    `error` is the relative state error and `drifts` are the errors ‖g - target‖ of the constraints, (trajectory, time),
    of as many components as `rows` says.
    """

    u: Tensor
    reference: Tensor
    solved: Tensor
    t: Tensor
    error: Tensor
    drifts: dict[str, Tensor]
    rows: dict[str, int]


@dataclass(frozen=True)
class Comparisons:
    """What `compare` found: the metrics, the roll-outs by label, and the models of the last repeat."""

    metrics: list[Metric]
    rollouts: dict[str, Rollouts]
    models: dict[str, TrajectoryModel]
    repeats: int

    def value(self, name: str, label: str) -> float:
        """The metric of that name and subject."""
        (found,) = (m.value for m in self.metrics if (m.name, m.subject) == (name, label))
        return found

    def each(self, name: str, label: str) -> list[float]:
        """The metric in every repeat."""
        if self.repeats == 1:
            return [self.value(name, label)]
        return [self.value(f"{name}, repeat {r}", label) for r in range(self.repeats)]

    def worst(self, name: str, label: str) -> float:
        """The largest value over the repeats; NaN if one is."""
        return float(np.max(self.each(name, label)))


def measure(found: Rollouts) -> dict[str, float]:
    """Numbers of one repeat. Trajectories that were not solved are counted, and are in none of the means."""
    good = found.solved
    error, u, reference = found.error[good], found.u[good], found.reference[good]
    drifts: dict[str, float] = {}
    for name, values in found.drifts.items():
        drift = values[good]
        defined = drift.isfinite()
        last = torch.where(defined[:, -1], drift[:, -1], torch.nan)
        drifts |= {
            f"{name}_end": float(last.nanmean()),
            f"{name}_max": float(drift[defined].max()) if bool(defined.any()) else np.nan,
            f"{name}_mse": float(drift[defined].square().mean()) / found.rows[name],
            f"{name}_undefined": float((~defined).any(-1).sum()),
        }
    return {
        "relative_state_error": float(error.mean()),
        "relative_state_error_median": float(error.mean(-1).median()) if len(u) else np.nan,
        "relative_state_error_end": float(error[:, -1].mean()),
        "state_mse": float((u - reference).square().mean()),
        **drifts,
        "valid_prediction_time": float(valid_prediction_time(u, reference, found.t).mean()) if len(u) else np.nan,
        "unsolved": float((~good).sum()),
        "diverged": float((~(found.error < DIVERGED).all(-1)).sum()),
    }


def table(label: str, merged: Rollouts, repeats: Sequence[Mapping[str, float]]) -> list[Metric]:
    """Means over the repeats (sums of counts, the largest of maxima), and the headlines of each repeat."""
    rows = []
    for name in repeats[0]:
        values = np.array([repeat[name] for repeat in repeats])
        if name in ("unsolved", "diverged") or name.endswith("_undefined"):
            combined = values.sum()
        else:
            combined = values.max() if name.endswith("_max") else values.mean()
        rows.append(Metric(name, label, float(combined), UNITS.get(name, "1")))
        if name == "relative_state_error":
            means = merged.error[merged.solved].mean(-1)
            half = 1.96 * float(means.std()) / len(means) ** 0.5 if len(means) > 1 else np.nan
            rows.append(Metric("relative_state_error_ci95", label, half))
    if len(repeats) > 1:
        headlines = ["relative_state_error", "window_mse", *(f"{name}_end" for name in merged.drifts)]
        rows += [
            Metric(f"{name}, repeat {r}", label, repeat[name]) for name in headlines for r, repeat in enumerate(repeats)
        ]
    return [row for row in rows if not (row.name.endswith("_undefined") and row.value == 0)]


def merge(parts: Sequence[Rollouts]) -> Rollouts:
    states = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in ("u", "reference", "solved", "error")
    }
    drifts = {name: torch.cat([part.drifts[name] for part in parts]) for name in parts[0].drifts}
    return Rollouts(t=parts[0].t, drifts=drifts, rows=parts[0].rows, **states)
