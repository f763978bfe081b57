"""A solution and perturbations of it, advanced together by one delay: what Lyapunov exponents are made of.

A state W has the solution in its first place and the perturbations behind it. It is kept in coordinates √w·u, w the
Clenshaw–Curtis weights of the nodes, in which the inner product of functions on a delay is that of vectors.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mackeyglass.chebyshev import (
    clenshaw_curtis,
    differentiation_matrix,
    exponential_integrals,
    lagrange_basis,
    lobatto_nodes,
)
from mackeyglass.equation import DDE
from mackeyglass.history import batch_shape
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.resolution import resolution
from mackeyglass.segment_map import LinearDecay, moved

State = Float[Tensor, "groups size places rows"]


class SegmentFlow:
    """The map of `SegmentMap` and its tangent, for u' = −γu + production(u_τ), a batch of systems, an ensemble of each.

    Systems of equal γτ share one matrix, and with it one matrix product.

    Parameters
    ----------
    system
        Its parameters may be ``(B,)``.
    n_nodes, panels
        As in `SegmentMap`.
    """

    def __init__(
        self,
        system: LinearDecay,
        ensemble: int,
        n_nodes: int = 32,
        panels: int = 1,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.ensemble, self.size, self.n_nodes, self.panels = ensemble, n_nodes * panels + 1, n_nodes, panels
        self.nodes = torch.from_numpy(lobatto_nodes(n_nodes, panels)) - 1
        batch = math.prod(batch_shape(system))
        gamma, self.delay = (
            torch.as_tensor(value, dtype=torch.float64, device=device).detach().expand(batch)
            for value in (system.gamma, system.tau)
        )
        self._order, self._groups = _equal_groups(torch.stack([gamma, self.delay], -1))

        def by_row(value: Tensor) -> Tensor:
            ordered = value.to(device, dtype).expand(batch)[self._order].reshape(self._groups, 1, -1)
            return ordered.repeat_interleave(ensemble, -1)

        self.system: LinearDecay = moved(system, by_row)
        first = self._order.reshape(self._groups, -1)[:, 0]
        tau, decay = self.delay[first], (gamma * self.delay)[first]
        E, Q = exponential_integrals(decay, n_nodes, panels)
        root = torch.from_numpy(np.sqrt(clenshaw_curtis(n_nodes, panels))).to(device)
        # one product gives E·u(τ) + Q·βf(u)
        both = torch.cat([tau[:, None, None] * Q, E[..., None] / root[-1]], -1)
        self._matrix = (root[:, None] * both).to(dtype)
        self._root, self._inverse = root.to(dtype)[:, None], (1 / root).to(dtype)[:, None]

    def start(self, members: Float[Tensor, "ensemble d batch nodes"]) -> State:
        """The state without perturbations, from values of histories at the nodes."""
        ordered = members[:, 0][:, self._order].unflatten(1, (self._groups, -1))  # ensemble, groups, systems, nodes
        return (self._root * ordered.permute(1, 3, 2, 0).flatten(2))[:, :, None].contiguous()

    def advance(self, W: State) -> State:
        """The state one delay later."""
        groups, size, places, rows = W.shape
        production, slope = self._production(W[:, :, 0] * self._inverse)
        X = W.new_empty(groups, size + 1, places, rows)
        torch.mul(W, (slope * self._inverse)[:, :, None], out=X[:, :size])
        X[:, :size, 0] = production
        X[:, size] = W[:, -1]
        return torch.bmm(self._matrix, X.flatten(2)).view(groups, size, places, rows)

    def resolution(self, W: State) -> Float[Tensor, "groups rows"]:
        """About the relative error of each solution in a delay."""
        return resolution((W[:, :, 0] * self._inverse).mT, self.n_nodes, self.panels)

    def rows(self, x: Float[Tensor, "groups places rows"]) -> Float[Tensor, "ensemble batch places"]:
        """Numbers of the rows by ensemble member and system."""
        ordered = x.unflatten(-1, (-1, self.ensemble)).permute(3, 0, 2, 1).flatten(1, 2)
        return ordered[:, self._order.argsort()]

    def _production(self, U: Tensor) -> tuple[Tensor, Tensor]:
        """βf and its derivative; f acts on each value alone."""
        if isinstance(self.system, MackeyGlass):
            return self.system.production(U), self.system.production_slope(U)
        with torch.enable_grad():
            U = U.detach().requires_grad_()
            production = self.system.production(U)
            slope = torch.autograd.grad(production.sum(), U)[0]
        return production.detach(), slope


class PseudospectralFlow:
    """Any delay equation as an ordinary one for the values at Chebyshev nodes, integrated by the method RK4.

    With θ = t/τ in [−1, 0] and τ the longest delay, u_t(θ) has the derivative ∂u_t/∂θ by t/τ at all nodes but θ = 0,
    where it is τF (Breda, Diekmann, Gyllenberg, Scarabel, Vermiglio, Pseudospectral discretization of nonlinear delay
    equations, 2016). It is some hundred times slower than `SegmentFlow`.

    Parameters
    ----------
    n_nodes
        M, the degree of the polynomials.

    Notes
    -----
    RK4 takes the longest steps for which it is stable, some M²/9 in a delay, or more where F falls steeply with the
    state: what it does at the beginning decides.
    """

    def __init__(
        self,
        system: DDE,
        ensemble: int,
        n_nodes: int = 32,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.ensemble, self.size, self.n_nodes = ensemble, system.dim * (n_nodes + 1), n_nodes
        points = lobatto_nodes(n_nodes)
        self.nodes = torch.from_numpy(points) - 1
        batch = math.prod(batch_shape(system))
        delays = torch.stack(
            [
                torch.as_tensor(value, dtype=torch.float64, device=device).detach().expand(batch)
                for value in system.delay_values
            ]
        )
        self.delay = delays.amax(0)
        self.system = moved(system, lambda value: value.to(device, dtype).expand(batch).repeat_interleave(ensemble))
        basis = lagrange_basis(1 - delays / self.delay, n_nodes).repeat_interleave(ensemble, 1)  # (delays, rows, nodes)
        root = torch.from_numpy(np.sqrt(clenshaw_curtis(n_nodes)))
        differentiation = differentiation_matrix(n_nodes)
        # RK4 is stable to 2.8 on the negative real axis and on the imaginary one; the matrix is not normal
        self.steps = math.ceil(np.abs(np.linalg.eigvals(differentiation[:-1, :-1])).max() / 1.6)
        self._root = root.to(device, dtype)[:, None, None]
        self._basis = (basis / root.to(device)).movedim(-1, 1)[..., None, :].to(dtype)  # (delays, nodes, 1, rows)
        self._shift = (root[:, None] * torch.from_numpy(differentiation) / root).to(device, dtype)
        self._tau = self.delay.repeat_interleave(ensemble).to(dtype)

    def start(self, members: Float[Tensor, "ensemble d batch nodes"]) -> State:
        """The state without perturbations, from values of histories at the nodes."""
        X = members.permute(1, 3, 2, 0).flatten(2)[:, :, None]  # d, nodes, 1, rows
        delayed = [(basis * self._root * X).sum(1)[:, 0] for basis in self._basis]
        slope = _differentiated(self.system, X[:, -1, 0], delayed)[1][0]  # by the state
        rate = (self._tau * torch.linalg.matrix_norm(slope.movedim(-1, 0), 2)).max().item()
        if math.isfinite(rate):
            self.steps = max(self.steps, math.ceil(rate / 1.6))
        return (self._root * X).flatten(0, 1)[None].contiguous()

    def advance(self, W: State) -> State:
        """The state one delay later."""
        X, h = W[0].unflatten(0, (self.system.dim, -1)), 1 / self.steps
        for _ in range(self.steps):
            a = self._slope(X)
            b = self._slope(X + h / 2 * a)
            c = self._slope(X + h / 2 * b)
            d = self._slope(X + h * c)
            X = X + h / 6 * (a + 2 * (b + c) + d)
        return X.flatten(0, 1)[None]

    def resolution(self, W: State) -> Float[Tensor, "d rows"]:
        """About the relative error of each solution in a delay, by the nodes; steps add theirs."""
        X = W[0, :, 0].unflatten(0, (self.system.dim, -1)) / self._root[..., 0]
        return resolution(X.mT, self.n_nodes)

    def rows(self, x: Float[Tensor, "groups places rows"]) -> Float[Tensor, "ensemble batch places"]:
        """Numbers of the rows by ensemble member and system."""
        return x[0].unflatten(-1, (-1, self.ensemble)).permute(2, 1, 0)

    def _slope(self, X: Float[Tensor, "d nodes places rows"]) -> Float[Tensor, "d nodes places rows"]:
        now = X[:, -1] / self._root[-1]
        delayed = [(basis * X).sum(1) for basis in self._basis]
        field, jacobians = _differentiated(self.system, now[:, 0], [x[:, 0] for x in delayed])
        out = (self._shift @ X.flatten(2)).unflatten(-1, X.shape[2:])
        change = torch.stack(
            [torch.einsum("ijr,jpr->ipr", J, x[:, 1:]) for J, x in zip(jacobians, (now, *delayed), strict=True)]
        ).sum(0)
        out[:, -1] = self._tau * self._root[-1] * torch.cat([field[:, None], change], 1)
        return out


TangentFlow = SegmentFlow | PseudospectralFlow


def _differentiated(
    system: DDE, x: Float[Tensor, "d rows"], delayed: Sequence[Float[Tensor, "d rows"]]
) -> tuple[Float[Tensor, "d rows"], list[Float[Tensor, "d d rows"]]]:
    """F, and its derivatives by the state and by the delayed states: one backward pass a component."""
    with torch.enable_grad():
        inputs = [z.detach().requires_grad_() for z in (x, *delayed)]
        field = system.field(inputs[0], inputs[1:], system.parameters)
        passes = [
            torch.autograd.grad(component.sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
            for component in field
        ]
    return field.detach(), [torch.stack(rows) for rows in zip(*passes, strict=True)]


def _equal_groups(keys: Float[Tensor, "batch keys"]) -> tuple[Tensor, int]:
    """An order of systems in which those with equal keys follow one another, and the number of groups of one size.

    Where groups differ in size, each system is one.
    """
    _, inverse, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    equal = bool((counts == counts[0]).all())
    return inverse.argsort(stable=True), len(counts) if equal else len(keys)
