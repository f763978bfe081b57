"""Losses of models that tell the next segment from a history."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mackeyglass.chebyshev import lobatto_nodes
from mackeyglass.models import NeuralDDE
from mackeyglass.segment_map import SegmentMap

UNIT = 0.01  # of the standard deviation, in which the loss measures errors


class SegmentLoss(nn.Module):
    """Mean square error of the next segment, in hundredths of the standard deviation."""

    def __init__(self, std: float, weights: Float[Tensor, "nodes"]) -> None:
        super().__init__()
        self.std, self.weights = std, weights / weights.sum()

    def forward(self, model: NeuralDDE, batch: dict[str, Tensor]) -> Tensor:
        error = model(batch["history"], batch.get("conditions"))[:, 0] - batch["following"]
        return (error.square() * self.weights.to(error)).sum(-1).mean() / (UNIT * self.std) ** 2


class WindowLoss(SegmentLoss):
    """The same for windows of series in time, as long as the model's delay says: for models that learn it.

    Beyond the ends of the series their last values go on: a line search may try delays for which windows do not fit.
    """

    def __init__(self, std: float, segment_map: SegmentMap, segments: Float[Tensor, "k series nodes"]) -> None:
        super().__init__(std, segment_map.weights)
        self.segment_map, self.segments = segment_map, segments

    def forward(self, model: NeuralDDE, batch: dict[str, Tensor]) -> Tensor:
        s = torch.from_numpy(lobatto_nodes(model.nodes)).to(batch["time"].device)
        times = batch["time"][:, None] + torch.cat([s - 1, s]) * model.tau
        times = times.clamp(0, len(self.segments) * float(self.segment_map.system.tau))
        values = self.segment_map.evaluate(self.segments, times.flatten()).reshape(-1, 2, len(s))
        return super().forward(model, {"history": values[:, 0], "following": values[:, 1]})
