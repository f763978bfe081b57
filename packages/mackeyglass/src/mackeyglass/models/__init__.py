"""Models that learn the dynamics from data."""

from mackeyglass.models.attractor_map import AttractorMap
from mackeyglass.models.esn import ESN
from mackeyglass.models.neural_dde import NeuralDDE
from mackeyglass.models.segment_operator import SegmentOperator

__all__ = ["ESN", "AttractorMap", "NeuralDDE", "SegmentOperator"]
