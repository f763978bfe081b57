"""The spectral method of steps: one delay interval after the other (arXiv 2203.00181, §1).

Because the decay is linear, the solution u_{k+1} on the next interval of length τ is explicit in u_k on the last one:

    u_{k+1}(s) = e^{−γs} u_k(τ) + ∫₀ˢ e^{−γ(s−r)} βf(u_k(r)) dr,   0 ≤ s ≤ τ.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from torch import Tensor, nn

from mackeyglass.arguments import check_precision, whole
from mackeyglass.chebyshev import (
    basis_on_panels,
    clenshaw_curtis,
    exponential_integrals,
    lobatto_nodes,
)
from mackeyglass.equation import DDE, Value, is_batched
from mackeyglass.forward import jvp
from mackeyglass.history import History, batch_shape, sample_history, tensors_of
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.resolution import production_error, resolution

# vector loops and matrix kernels of a CPU treat all entries alike in whole blocks only, to which sizes are padded
ROWS, COLUMNS = 16, 8


@runtime_checkable
class LinearDecay(Protocol):
    """u' = −γu + production(u(t−τ)), all that the map asks of a system."""

    @property
    def gamma(self) -> Value: ...

    @property
    def tau(self) -> Value: ...

    def production(self, u_tau: Tensor) -> Tensor:
        """βf(u_τ), elementwise."""
        ...


class SegmentMap(nn.Module):
    """u on one delay interval → u on the next, by its values on Chebyshev–Lobatto nodes.

    U_{k+1} = E·U_k(τ) + Q·βf(U_k), one matrix product and no inner loop in time. The ends of intervals are the breaking
    points of solutions, so the error falls spectrally with the number of nodes, whatever the history. It is
    differentiable by U, by the history and by all parameters, which may change between calls (as in training), and on
    CPU each sample of a batch gets the result that it gets alone, bit for bit (one thread).

    Parameters
    ----------
    system
        A `MackeyGlass`, or any other object (a network, too) with `gamma`, `tau` and `production`.
    n_nodes
        M: each panel has M + 1 nodes. On attractors with β = 2γ the worst `resolution` of 32 nodes was 6e-8 at
        (n, γτ) = (9.65, 2), 2e-6 at (12, 2), 3e-5 at (15, 2) and 1e-3 at (20, 3), that of 64 nodes 3e-11, 6e-9 and 2e-5
        at the latter three.
    panels
        Parts into which a delay is divided; more than one where delays exceed 4/γ, see `enough_panels`.
    dtype, device
        Of everything; device defaults to that of the system's tensors.

    Notes
    -----
    Segments are tensors ``(*batch, nodes)`` with M·panels + 1 nodes; a batch of systems, with parameters ``(B,)``, maps
    segments ``(…, B, nodes)``. Where γτ differs by sample, so does the matrix Q. In float32 an orbit stays within a
    relative 1e-4 for some two delays, after which chaos leaves it only its statistics; products do not use TF32.
    Solutions of `MackeyGlass` from histories that are not negative are not negative, as the exact ones: where nodes do
    not resolve a history and the product falls below zero, it is set to zero.

    For few trajectories `RungeKutta4`, compiled, is faster: on one core of a CPU and at an error of 1e-9 the map took
    4.9 times as long for one, as long for five or six, a tenth of the time for 64 and a nineteenth for 512.

    Raises
    ------
    ConfigError
        If `n_nodes` or `panels` is too small or no whole number, for other dtypes than float32 and float64, or if the
        system has no linear decay.
    """

    def __init__(
        self,
        system: LinearDecay,
        n_nodes: int = 32,
        panels: int = 1,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        n_nodes, panels = whole("n_nodes", n_nodes, 2), whole("panels", panels)
        check_precision(dtype)
        missing = [name for name in ("gamma", "tau", "production") if not hasattr(system, name)]
        if missing:
            raise ConfigError(
                f"{type(system).__name__} has no {', '.join(missing)}: the segment map needs "
                "u' = −γu + production(u_τ); integrate other equations by simulate(…, method='dopri5')"
            )
        if device is None:
            tensors = tensors_of(system)
            device = tensors[0].device if tensors else "cpu"
        self.n_nodes, self.panels, self.dtype, self.device = n_nodes, panels, dtype, torch.device(device)
        self.given = system  # its tensors are the caller's, who may train them
        self._prepare()

    @property
    def system(self) -> LinearDecay:
        """The system, its tensors in the dtype and on the device of the map."""
        return moved(self.given, lambda value: value.to(dtype=self.dtype, device=self.device))

    def _prepare(self) -> None:
        self._kept: dict[str, tuple[list[Any], list[int], Any]] = {}
        self._rows()
        self._operators()

    def _keep(self, name: str, values: Iterable[Value], build: Callable[[], Any]) -> Any:
        """What `build` makes of values, from call to call until one of them changes or derivatives by it are taken."""
        values = list(values)
        tensors = [value for value in values if isinstance(value, Tensor)]
        if any(value.requires_grad or value.is_inference() for value in tensors):
            return build()
        versions = [value._version for value in tensors]
        kept = self._kept.get(name)
        if kept is not None and kept[1] == versions and all(map(_same, kept[0], values)):
            return kept[2]
        built = build()
        # what a transformation of torch.func wraps while it acts is of no use after it
        if kept is None or not torch._C._functorch.peek_interpreter_stack():  # pyright: ignore[reportAttributeAccessIssue]
            self._kept[name] = values, versions, built
        return built

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SegmentMap":
        probe = fn(torch.zeros((), dtype=self.dtype, device=self.device))
        check_precision(probe.dtype)
        self.dtype, self.device = probe.dtype, probe.device
        super()._apply(fn, recurse)
        self._prepare()
        return self

    @property
    def size(self) -> int:
        """Number of nodes of a segment."""
        return self.n_nodes * self.panels + 1

    @property
    def nodes(self) -> Float[Tensor, "*tau nodes"]:
        """Times of the nodes within a segment, from 0 to τ."""
        return self._tensor(self.system.tau)[..., None] * self._constant(lobatto_nodes(self.n_nodes, self.panels))

    @property
    def weights(self) -> Float[Tensor, "*tau nodes"]:
        """Clenshaw–Curtis weights: ∫₀^τ u ds = Σ wᵢUᵢ."""
        return self._tensor(self.system.tau)[..., None] * self._constant(clenshaw_curtis(self.n_nodes, self.panels))

    def history(self, history: History) -> Float[Tensor, "*batch nodes"]:
        """The segment of a history on [−τ, 0]: a number, values ``(*batch, nodes)``, or a function of time.

        Raises
        ------
        ConfigError, ShapeError
            For histories that do not fit; see `sample_history`.
        """
        times = self.nodes - self._tensor(self.system.tau)[..., None]
        return sample_history(history, self.system, times, on_nodes="nodes")[0]

    def forward(self, U: Float[Tensor, "*batch nodes"]) -> Float[Tensor, "*batch nodes"]:
        """The next segment."""
        return self.trajectory(U, 1)[0]

    def trajectory(self, U: Float[Tensor, "*batch nodes"], k: int) -> Float[Tensor, "k *batch nodes"]:
        """The next k segments."""
        shape = self._check(U)
        U = self._pad(U.expand(shape))
        if k < 1:
            return U.new_empty(0, *shape)
        segments = self._successive(U, k)
        if type(self.given) is MackeyGlass and (is_batched(segments) or not segments.min().item() >= 0):
            below = torch.where((U.detach() >= 0).all(-1, keepdim=True), 0.0, -torch.inf).to(U)
            segments = self._successive(U, k, below)
        return self._cut(segments, shape)

    def _successive(self, U: Tensor, k: int, floor: Tensor | None = None) -> Tensor:
        (E, Q), rows, segments = self._operators(), self._rows(), []
        for _ in range(k):
            U = E * U[..., -1:] + self._integrals(Q, rows.production(U))
            if floor is not None:
                U = torch.maximum(U, floor)
            segments.append(U)
        return torch.stack(segments)

    def tangent(
        self, U: Float[Tensor, "*batch nodes"], V: Float[Tensor, "*more nodes"]
    ) -> Float[Tensor, "*more nodes"]:
        """Derivative of the map at U: V ↦ E·V(τ) + Q·(βf'(U)∘V).

        V may have more axes in front than U: directions are ``(k, *batch, nodes)``.
        """
        shape = self._check(U)
        shapes = self._check(V, shape[:-1])
        E, Q = self._operators()
        # U has a row beside each of V
        rows = shape if shape[-2:] == shapes[-2:] else torch.broadcast_shapes(shape, shapes[-2:])
        U, V = self._pad(U.expand(rows)), self._pad(V.expand(shapes))
        return self._cut(E * V[..., -1:] + self._integrals(Q, self._slope(U, V)), shapes)

    def derivative(
        self, previous: Float[Tensor, "*batch nodes"], U: Float[Tensor, "*batch nodes"]
    ) -> Float[Tensor, "*batch nodes"]:
        """u' at the nodes of a segment that follows `previous`; its right-hand value at time 0."""
        shape = self._check(previous, self._check(U)[:-1])
        gamma = self._tensor(self.system.gamma)[..., None]
        return self._cut(self._rows().production(self._pad(previous.expand(shape))), shape) - gamma * U

    def evaluate(
        self, segments: Float[Tensor, "k *batch nodes"], times: Float[Tensor, "*tau times"]
    ) -> Float[Tensor, "*batch times"]:
        """Values between nodes of successive segments, times counted from the beginning of the first one.

        Times late in a long run need float64, whatever the dtype of the map: the next one in float32 is further.

        Raises
        ------
        ConfigError
            If a time lies before the first segment or after the last one, or there is no segment.
        """
        k, size = len(segments), self.size
        if not k:
            raise ConfigError("there are no segments between whose nodes to evaluate")
        dtype = torch.promote_types(times.dtype, self.dtype)
        scaled = times / torch.as_tensor(self.system.tau, dtype=dtype, device=self.device)[..., None]
        slack = 1e3 * torch.finfo(self.dtype).eps * max(k, 1)
        if not is_batched(scaled) and not bool(((scaled >= -slack) & (scaled <= k + slack)).all()):
            raise ConfigError(f"times must lie between 0 and {k} delays, the length of the given segments")
        index = scaled.detach().floor().clamp(0, max(k - 1, 0))
        columns, basis = basis_on_panels((scaled - index).to(self.dtype), self.n_nodes, self.panels)
        columns = columns + index.long()[..., None] * size
        flat = segments.movedim(0, -2).flatten(-2)
        if columns.ndim == 2:
            return (flat[..., columns] * basis).sum(-1)
        columns = columns.expand(*flat.shape[:-1], *columns.shape[-2:])
        return (flat.gather(-1, columns.flatten(-2)).unflatten(-1, columns.shape[-2:]) * basis).sum(-1)

    def resolution(self, U: Float[Tensor, "*batch nodes"]) -> Float[Tensor, "*batch"]:
        """Largest of the last three Chebyshev coefficients relative to the largest of all: about the relative error."""
        self._check(U)
        return resolution(U, self.n_nodes, self.panels)

    def error(self, U: Float[Tensor, "*batch nodes"]) -> Float[Tensor, "*batch"]:
        """About the relative error that the nodes leave in the next segment: also where U is no solution, but rough."""
        shape = self._check(U)
        production = self._cut(self._rows().production(self._pad(U.expand(shape))), shape)
        return production_error(production, self.n_nodes, self.panels)

    def _slope(self, U: Tensor, V: Tensor) -> Tensor:
        rows = self._rows()
        if isinstance(rows, DDE):
            return rows.production_slope(U) * V  # type: ignore[attr-defined]
        return jvp(rows.production, (U.expand(V.shape),), (V,))[1]

    def _rows(self) -> LinearDecay:
        """The system with its parameters beside the padded rows of segments."""
        return self._keep(
            "rows",
            self.given.parameters.values() if isinstance(self.given, DDE) else (),
            lambda: moved(self.system, lambda value: self._pad_rows(value)[..., None]),
        )

    def _operators(self) -> tuple[Tensor, Tensor]:
        """E and Q, one pair for all rows or one a padded row; see `_integrals`."""
        return self._keep("operators", (self.given.gamma, self.given.tau), self._build_operators)

    def _build_operators(self) -> tuple[Tensor, Tensor]:
        system = self.system
        gamma, tau = (
            self._pad_rows(torch.as_tensor(value, dtype=torch.float64, device=self.device))
            for value in (system.gamma, system.tau)
        )
        E, Q = exponential_integrals(gamma * tau, self.n_nodes, self.panels)
        E, Q = E.to(self.dtype), (tau[..., None, None] * Q).to(self.dtype)
        if Q.ndim > 2 and Q.shape[-3] > 1:
            return E, Q
        return E, nn.functional.pad(Q.mT, (0, -self.size % COLUMNS)).contiguous()

    def _integrals(self, Q: Tensor, F: Tensor) -> Tensor:
        """Q F for rows F, each with its own Q, or with one Q that stands transposed and padded."""
        if Q.shape[-1] != Q.shape[-2] or Q.ndim == 2:
            return _matmul(F, Q if Q.ndim == 2 else Q[..., 0, :, :])[..., : self.size]
        if self.device.type == "cpu":
            return (Q * F[..., None, :]).sum(-1)  # as fast here as a batched product, and the same in every batch
        return _matmul(Q, F[..., None])[..., 0]

    def _pad_rows(self, value: Tensor) -> Tensor:
        """Parameters of a batch of systems, padded like the rows of segments."""
        return self._pad(value[..., None])[..., 0] if value.shape[-1:] > (1,) else value

    def _pad(self, x: Tensor) -> Tensor:
        """Repeat the last row until the number of rows is a multiple of `ROWS`, on CPU; contiguous."""
        x = x[None] if x.ndim == 1 else x
        missing = -x.shape[-2] % ROWS
        if self.device.type != "cpu" or not missing:
            return x.contiguous()
        return torch.cat([x, x[..., -1:, :].expand(*x.shape[:-2], missing, -1)], -2)

    def _cut(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Undo `_pad`."""
        return x[..., 0, :] if len(shape) == 1 else x[..., : shape[-2], :]

    def _check(self, U: Tensor, batch: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Shape of U broadcast to a batch, by default that of the systems."""
        batch = batch_shape(self.given) if batch is None else batch
        expected = f"({', '.join(['…', *map(str, batch), str(self.size)])})"
        if U.ndim < 1 or U.shape[-1] != self.size:
            raise ShapeError(
                f"segments must have shape {expected} (values on the nodes of the map), got {tuple(U.shape)}"
            )
        if U.dtype != self.dtype or U.device.type != self.device.type:
            raise ConfigError(
                f"segments must be {self.dtype} on {self.device} as the map is, got {U.dtype} on {U.device}: "
                "convert them, or build the map with another dtype and device"
            )
        if not batch or U.shape[:-1] == batch:  # to broadcast takes as long as a step
            return tuple(U.shape)
        try:
            return (*torch.broadcast_shapes(U.shape[:-1], batch), self.size)
        except RuntimeError:
            raise ShapeError(f"segments must have shape {expected}, got {tuple(U.shape)}") from None

    def _tensor(self, value: Value) -> Tensor:
        return torch.as_tensor(value, dtype=self.dtype, device=self.device)

    def _constant(self, table: np.ndarray) -> Tensor:
        return torch.from_numpy(table).to(dtype=self.dtype, device=self.device)


def _same(old: Value, new: Value) -> bool:
    return old is new or (not isinstance(old, Tensor) and not isinstance(new, Tensor) and old == new)


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """The product without TF32."""
    if left.dtype != torch.float32 or not left.is_cuda:
        return left @ right
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return left @ right
    finally:
        torch.set_float32_matmul_precision(precision)


def enough_panels(system: LinearDecay) -> int:
    """Panels of a `SegmentMap` of which each lasts at most 4/γ, for all systems of a batch."""
    return max(1, math.ceil(float(torch.as_tensor(system.gamma * system.tau).detach().max()) / 4))


def moved(system: Any, move: Callable[[Tensor], Tensor]) -> Any:
    """The system with `move` applied to the tensors among its parameters; modules move by themselves."""
    if not isinstance(system, DDE):
        return system
    tensors = {name: value for name, value in system.parameters.items() if isinstance(value, Tensor)}
    changed = {name: move(value) for name, value in tensors.items()}
    return system if all(changed[name] is tensors[name] for name in tensors) else system.with_parameters(**changed)
