"""What the Runge–Kutta loops share: the user's functions behind one time direction, error norms, dense output."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sciml.errors import ShapeError
from torch import Tensor

from pnde.solvers.solution import SampleError
from pnde.solvers.tableaus import Tableau


class System:
    """The user's functions, seen in a time τ that increases: τ = t, or τ = -t with the field negated (`sign` is -1).

    Every function takes (t, u, *args) of the samples that are still integrated: t (rows,), u (rows, n), and of each
    tensor in `args` these samples' rows. `calls` counts evaluations of the field. With `watch`, a pass without a graph
    finds out whether anything wants gradients: `wanted` is set by the first field or retraction whose value does, and
    in forward mode from the start.
    """

    def __init__(
        self,
        field: Callable[..., Tensor],
        retract: Callable[..., Any] | None = None,
        event: Callable[..., Tensor] | None = None,
    ) -> None:
        self._field, self._retract, self._event, self.sign = field, retract, event, 1
        self.calls = 0
        self.watch = self.wanted = False
        self.retracts, self.has_event = retract is not None, event is not None

    def rhs(self, t: Tensor, u: Tensor, args: Sequence[Tensor]) -> Tensor:
        """du/dτ."""
        self.calls += 1
        if self.sign > 0:
            return self._defined(t, u, args)
        return -self._defined(-t, u, args)

    def _defined(self, t: Tensor, u: Tensor, args: Sequence[Tensor]) -> Tensor:
        """The field, NaN for the samples that it is not defined for."""
        try:
            with self._watching():
                f = self._field(t, u, *args)
            return self._seen(f)
        except SampleError as error:
            if not error.samples:
                raise
            kept = torch.ones(len(u), dtype=torch.bool, device=u.device)
            kept[error.samples] = False
            rows, lost = kept.nonzero()[:, 0], torch.full_like(u, torch.nan)
            if not len(rows):
                return lost
            return lost.index_copy(0, rows, self._defined(t[rows], u[rows], [a[rows] for a in args]))

    def _watching(self) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(torch.is_grad_enabled() or (self.watch and not self.wanted))

    def _seen(self, value: Any) -> Any:
        """A value without its graph, if it has one that is not asked for here."""
        if torch.is_grad_enabled() or not isinstance(value, Tensor) or not value.requires_grad:
            return value
        self.wanted = True
        return value.detach()

    def checked_rhs(self, t: Tensor, u: Tensor, args: Sequence[Tensor]) -> Tensor:
        """du/dτ, after a look at its shape and dtype."""
        f = self.rhs(t, u, args)
        if not isinstance(f, Tensor) or f.shape != u.shape:
            found = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
            raise ShapeError(f"field must return the shape of the state, {tuple(u.shape)}; got {found}")
        if f.dtype != u.dtype or f.device != u.device:
            raise RuntimeError(
                f"field returned {f.dtype} on {f.device} for a state of {u.dtype} on {u.device}; "
                "move its parameters and buffers to the state's"
            )
        return f

    def retract(self, t: Tensor, u: Tensor, args: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The retracted state, and which rows the retraction succeeded for."""
        assert self._retract is not None
        with self._watching():
            found = self._retract(self.sign * t, u, *args)
        state, converged = moved(found, u, "retract")
        return self._seen(state), converged & state.detach().isfinite().all(-1)

    def event(self, t: Tensor, u: Tensor, args: Sequence[Tensor]) -> Tensor:
        """Value of the event function, shape (rows,)."""
        assert self._event is not None
        value = self._event(self.sign * t, u, *args)
        if value.shape != u.shape[:1]:
            raise ShapeError(f"event must return a number a sample, {tuple(u.shape[:1])}; got {tuple(value.shape)}")
        return value


def moved(found: Any, u: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The state (rows, n) and success (rows,) in what a user's function made of `u`: a state, a pair, or an object."""
    if isinstance(found, Tensor):
        state, converged = found, torch.ones_like(found[:, 0], dtype=torch.bool)
    elif isinstance(found, tuple):
        state, converged = found[:2]
    else:
        state, converged = found.u, found.converged
    if state.shape != u.shape:
        raise ShapeError(f"{name} must return the shape of the state, {tuple(u.shape)}; got {tuple(state.shape)}")
    return state, converged


def rms(x: Tensor) -> Tensor:
    """Root mean square of each row."""
    return torch.linalg.vector_norm(x, dim=-1) / x.shape[-1] ** 0.5


def combine(k: Sequence[Tensor], columns: Sequence[tuple[int, float]], out: Tensor | None = None) -> Tensor:
    """Σ_j a_j k_j. Term by term, not as a product of matrices, whose rounding depends on the number of rows."""
    first, weight = columns[0]
    total = torch.mul(k[first], weight) if out is None else torch.mul(k[first], weight, out=out)
    for j, weight in columns[1:]:
        total = torch.add(total, k[j], alpha=weight) if out is None else total.add_(k[j], alpha=weight)
    return total


def dense_output(tableau: Tableau, theta: Tensor, h: Tensor, u: Tensor, k: Sequence[Tensor]) -> Tensor:
    """u(t + θh) = u + h Σ_i b_i(θ) k_i, for θ and h of shape (rows,)."""
    coefficients = u.new_tensor(tableau.dense)
    weights = torch.zeros_like(theta).expand(len(k), -1)
    for column in range(coefficients.shape[1] - 1, -1, -1):  # Horner
        weights = (weights + coefficients[:, column, None]) * theta
    weights = weights * h
    value = u
    for weight, stage in zip(weights, k):
        value = torch.addcmul(value, weight[:, None], stage)
    return value


def first_step(
    system: System,
    order: int,
    t: Tensor,
    u: Tensor,
    f: Tensor,
    args: Sequence[Tensor],
    rtol: float,
    atol: float,
    end: float,
) -> Tensor:
    """A first step for each sample (Hairer, Nørsett & Wanner I, II.4, "Starting Step Size").

    The field is evaluated up to the time `end`.
    """
    scale = atol + rtol * u.abs()
    d0, d1 = rms(u / scale), rms(f / scale)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    h0 = torch.minimum(h0, end - t)
    change = system.rhs((t + h0).clamp(max=end), u + h0[:, None] * f, args) - f
    d2 = rms(change / scale) / h0
    largest = torch.maximum(d1, d2)
    # exp and log round each number alike wherever it stands in a tensor; pow does not
    h1 = torch.where(largest <= 1e-15, (1e-3 * h0).clamp(min=1e-6), ((0.01 / largest).log() / order).exp())
    h = torch.minimum(100 * h0, h1)
    return torch.where(h.isfinite() & (h > 0), h, h0.nan_to_num(1e-6, 1e-6).clamp(max=1e-6))
