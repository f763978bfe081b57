"""Multiple shooting for u' = −γu + βf(u_τ): residuals of observations and of continuity, and Gauss–Newton steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

from mackeyglass.chebyshev import lobatto_nodes
from mackeyglass.forward import jacobian
from mackeyglass.linearisation import numbers
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.segment_map import SegmentMap
from mackeyglass.series import segments_at


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal equations, block tridiagonal in the histories, with a border for the parameters.

    `below` couples each window to the one before, `border` to the parameters; right-hand sides are minus gradients.
    """

    diagonal: Float[Tensor, "windows nodes nodes"]
    below: Float[Tensor, "others nodes nodes"]
    border: Float[Tensor, "windows nodes p"]
    corner: Float[Tensor, "p p"]
    rhs: Float[Tensor, "windows nodes"]
    rhs_corner: Float[Tensor, "p"]

    def solve(self, damping: float) -> tuple[Float[Tensor, "windows nodes"], Float[Tensor, "p"], Float[Tensor, "p p"]]:
        """Steps of histories and parameters with a damped diagonal, and the information about the parameters."""
        windows, nodes, p = self.border.shape
        D = self.diagonal + damping * torch.diag_embed(self.diagonal.diagonal(dim1=-2, dim2=-1))
        columns = torch.cat([self.border, self.rhs[..., None]], -1)
        factors, reduced = [], []
        for w in range(windows):
            block, right = D[w], columns[w]
            if w:
                solved = torch.cholesky_solve(torch.cat([self.below[w - 1].mT, reduced[-1]], -1), factors[-1])
                block = block - self.below[w - 1] @ solved[:, :nodes]
                right = right - self.below[w - 1] @ solved[:, nodes:]
            factors.append(torch.linalg.cholesky(block))
            reduced.append(right)
        corner = self.corner + damping * torch.diag(self.corner.diagonal())
        inverse = [torch.cholesky_solve(r, f) for r, f in zip(reduced, factors, strict=True)]
        # the Schur complement of the parameters: Σ reducedᵀ D⁻¹ reduced is what the histories explain
        explained = sum((r[:, :p].mT @ x for r, x in zip(reduced, inverse, strict=True)), torch.zeros(p, p + 1).to(D))
        information = corner - explained[:, :p]
        step = torch.linalg.solve(information, self.rhs_corner - explained[:, p])
        histories, following = [], None
        for w in reversed(range(windows)):
            x = inverse[w][:, p] - inverse[w][:, :p] @ step
            if following is not None:
                x = x - torch.cholesky_solve(self.below[w].mT @ following[:, None], factors[w])[:, 0]
            histories.append(x)
            following = x
        return torch.stack(histories[::-1]), step, information


class Shooting:
    """Windows of a regularly sampled series, each with a free history on [a − τ, a] and predictions up to the next a.

    The anchors a are fixed in time, whatever τ: histories are given at scaled nodes, so that a change of the delay
    moves nothing by more than about itself. Observations lie `dt` apart; parameters are the logarithms of those named
    in `free`.
    """

    def __init__(
        self,
        u: Float[Tensor, "times"],
        dt: float,
        system: MackeyGlass,
        free: Sequence[str],
        noise: float,
        n_nodes: int = 32,
    ) -> None:
        tau = float(system.tau)
        self.system, self.free, self.noise, self.n_nodes, self.dt = system, tuple(free), noise, n_nodes, dt
        self.steps = max(2, round(tau / dt))
        self.first = math.ceil(1.3 * tau / dt)  # a longer delay, too, must find its first history in the data
        self.windows = (len(u) - 1 - self.first) // self.steps
        anchors = self.first + self.steps * np.arange(self.windows)
        self.anchors = anchors * dt
        self.observed = u[torch.from_numpy(anchors)[:, None] + torch.arange(1, self.steps + 1)]
        self.earlier = math.floor(0.75 * tau / dt)  # observations within the first history
        self.before = u[self.first - self.earlier : self.first + 1]

    def start(self, curve: CubicSpline) -> Float[Tensor, "windows nodes"]:
        """Histories from a curve through the data, which must be positive: kept from zero, where powers end."""
        histories = segments_at(curve, self.anchors, float(self.system.tau), self.n_nodes)
        return histories.clamp(min=1e-3 * float(self.system.theta))

    def system_at(self, theta: Float[Tensor, "p"]) -> MackeyGlass:
        """The equation with these logarithms of the free parameters."""
        return self.system.with_parameters(**dict(zip(self.free, theta.exp().unbind(), strict=True)))

    def predictions(
        self, U: Float[Tensor, "windows nodes"], theta: Float[Tensor, "p"]
    ) -> tuple[Float[Tensor, "windows steps"], Float[Tensor, "windows nodes"], Float[Tensor, "earlier"]]:
        """At the observations of each window, at the nodes of the next history, and within the first history."""
        segment_map = SegmentMap(self.system_at(theta), self.n_nodes)
        first = segment_map(U)
        segments = torch.stack([U, first, segment_map(first)])
        return self._evaluate(segment_map, segments)

    def _evaluate(self, segment_map: SegmentMap, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three parts at times that count from the beginning of the histories."""
        tau = torch.as_tensor(segment_map.system.tau)
        within = torch.arange(-self.earlier, self.steps + 1, dtype=torch.float64) * self.dt
        following = self.steps * self.dt + tau * torch.from_numpy(lobatto_nodes(self.n_nodes))
        values = segment_map.evaluate(segments, torch.cat([tau + within, following]))
        early, observed, after = values.split([self.earlier + 1, self.steps, self.n_nodes + 1], -1)
        return observed, after, early[..., 0, :]

    def cost(self, U: Float[Tensor, "windows nodes"], theta: Float[Tensor, "p"], looseness: float) -> float:
        """Half the sum of squares: observations in units of the noise, gaps in `looseness` times that."""
        observed, after, early = self.predictions(U, theta)
        parts = [(observed - self.observed), (early - self.before), (after[:-1] - U[1:]) / looseness]
        return sum(part.square().sum().item() for part in parts) / (2 * self.noise**2)

    def misfit(self, U: Float[Tensor, "windows nodes"], theta: Float[Tensor, "p"]) -> float:
        """Root mean square error at the observations, in units of the noise."""
        return ((self.predictions(U, theta)[0] - self.observed).square().mean().sqrt() / self.noise).item()

    def normal_equations(
        self, U: Float[Tensor, "windows nodes"], theta: Float[Tensor, "p"], looseness: float
    ) -> Normal:
        """Of the linearised residuals, differentiated by histories with tangent maps, by parameters in forward mode."""
        segment_map = SegmentMap(self.system_at(theta), self.n_nodes)
        nodes = U.shape[-1]
        first = segment_map(U)
        observed, after, early = self._evaluate(segment_map, torch.stack([U, first, segment_map(first)]))
        V = torch.eye(nodes, dtype=U.dtype)[:, None].expand(-1, len(U), -1)
        V1 = segment_map.tangent(U, V)
        parts = self._evaluate(segment_map, torch.stack([V, V1, segment_map.tangent(first, V1)]))
        by_observed, by_after = (part.movedim(0, -1) for part in parts[:2])  # (windows, times, nodes)
        # the first history alone has observations; directions along its nodes
        by_early = parts[2].mT
        t_observed, t_after, t_early = jacobian(lambda t: self.predictions(U, t), theta)
        gap, t_gap, by_gap = after[:-1] - U[1:], t_after[:-1], by_after[:-1]
        tight = 1 / looseness**2
        diagonal = by_observed.mT @ by_observed
        diagonal[:-1] += tight * by_gap.mT @ by_gap
        diagonal[1:] += tight * torch.eye(nodes, dtype=U.dtype)
        diagonal[0] += by_early.mT @ by_early
        border = by_observed.mT @ t_observed
        border[:-1] += tight * by_gap.mT @ t_gap
        border[1:] -= tight * t_gap
        border[0] += by_early.mT @ t_early
        r, e = (self.observed - observed)[..., None], (self.before - early)[:, None]
        rhs = (by_observed.mT @ r)[..., 0]
        rhs[:-1] -= tight * (by_gap.mT @ gap[..., None])[..., 0]
        rhs[1:] += tight * gap
        rhs[0] += (by_early.mT @ e)[:, 0]
        corner = (t_observed.mT @ t_observed).sum(0) + tight * (t_gap.mT @ t_gap).sum(0) + t_early.mT @ t_early
        rhs_corner = (t_observed.mT @ r).sum(0) - tight * (t_gap.mT @ gap[..., None]).sum(0) + t_early.mT @ e
        scale = self.noise**2
        return Normal(
            diagonal / scale,
            -tight * by_gap / scale,
            border / scale,
            corner / scale,
            rhs / scale,
            rhs_corner[:, 0] / scale,
        )


def logarithms(system: MackeyGlass, free: Sequence[str]) -> Float[Tensor, "p"]:
    """Of the values of the named parameters."""
    values = numbers(system)
    return torch.tensor([math.log(values[name]) for name in free], dtype=torch.float64)
