"""Exact relations between averages over an attractor (or any invariant measure) of u' = −γu + βf(u_τ)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mackeyglass.segment_map import SegmentMap


@dataclass(frozen=True)
class Averages:
    """Averages over time and batch.

    E[βf(u)] = γE[u], because E[u'] = 0; and Var(βf(u)) − γ²Var(u) = E[u'²], because E[uu'] = 0 too.
    """

    mean: float
    variance: float
    production: float  # E[βf(u)]
    decay: float  # γE[u]
    difference: float  # Var(βf(u)) − γ²Var(u)
    squared_slope: float  # E[u'²]


def averages(segment_map: SegmentMap, segments: Float[Tensor, "k *batch nodes"]) -> Averages:
    """Averages along successive segments, the production that of the interval before, which drives each.

    Over a finite time both identities lack boundary terms alone: the changes of u and of γu², divided by the time. They
    vanish where the last value is the first one.
    """
    past, u = segments[:-1], segments[1:]
    slope = segment_map.derivative(past, u)
    decay = torch.as_tensor(segment_map.system.gamma)[..., None] * u
    production = slope + decay
    weights = segment_map.weights / segment_map.weights.sum(-1, keepdim=True)

    def mean(x: Tensor) -> float:
        return (x * weights).sum(-1).mean().item()

    def variance(x: Tensor) -> float:
        return mean((x - mean(x)) ** 2)

    return Averages(
        mean(u), variance(u), mean(production), mean(decay), variance(production) - variance(decay), mean(slope**2)
    )
