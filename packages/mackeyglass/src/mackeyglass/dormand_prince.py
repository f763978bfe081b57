"""An adaptive solver of delay equations: Dormand and Prince's method of order 5 with its dense output of order 4.

Dormand, Prince, A family of embedded Runge–Kutta formulae (1980); the dense output is that of Hairer, Nørsett, Wanner,
Solving Ordinary Differential Equations I (1993), §II.6.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, SciMLError
from torch import Tensor

from mackeyglass.chebyshev import lagrange_basis, lobatto_nodes
from mackeyglass.equation import DDE
from mackeyglass.history import History, sample_history
from mackeyglass.segment_map import moved

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
DENSE = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)
ORDER = 5
CHUNK = 2**20  # coefficients of polynomials that are evaluated at once


class IntegrationError(SciMLError, ArithmeticError):
    """A solution that cannot be continued: it grows without bound, or needs steps too small or too many."""


class DenseSolution:
    """A piecewise polynomial of degree 4 after its history.

    Attributes
    ----------
    times
        Ends of steps, from t₀ on.
    breaking_points
        Times where a derivative of order 1 to 6 of the solution jumps; each is the end of a step.
    """

    def __init__(
        self, start: float, history: Callable[[Sequence[float]], Tensor], longest: float, points: Sequence[float]
    ) -> None:
        self.times, self.breaking_points = [start], list(points)
        self._history, self._earliest, self._pieces = history, start - longest, list[Tensor]()

    def append(self, end: float, piece: Float[Tensor, "5 d *batch"]) -> None:
        """Add the polynomial up to `end`."""
        self.times.append(end)
        self._pieces.append(piece)

    def at(self, time: float) -> Float[Tensor, "d *batch"]:
        """The value at one time, of the history if that is not after t₀."""
        return self.values([time])[0]

    def evaluate(self, times: Float[Tensor, "times"]) -> Float[Tensor, "d *batch times"]:
        """Values at times of the solved interval or of the history.

        Raises
        ------
        ConfigError
            If a time lies before the history or behind the end.
        """
        listed = times.tolist()
        if not listed:
            return self.at(self.times[0])[..., None][..., :0]
        first, last = self._earliest, self.times[-1]
        slack = 1e-12 * max(1.0, abs(first), abs(last))
        lowest, highest = times.min().item(), times.max().item()
        if not (first - slack <= lowest and highest <= last + slack):
            raise ConfigError(
                f"times must lie between {first:.9g}, where the history begins, and {last:.9g}, the end of the "
                f"solution, got {lowest:.9g} … {highest:.9g}"
            )
        several = max(1, CHUNK // self._pieces[0].numel())
        chunks = [self.values(listed[i : i + several]) for i in range(0, len(listed), several)]
        return torch.cat(chunks).movedim(0, -1)

    def values(self, times: Sequence[float]) -> Float[Tensor, "times d *batch"]:
        """Values at times up to the end of what has been added, all at once."""
        start = self.times[0]
        after = [i for i, time in enumerate(times) if time > start and self._pieces]
        before = [i for i, time in enumerate(times) if time <= start or not self._pieces]
        parts = []
        if before:
            parts.append(self._history([min(times[i] - start, 0.0) for i in before]))
        if after:
            parts.append(self._solved([times[i] for i in after]))
        return torch.cat(parts)[torch.tensor(before + after).argsort()] if before and after else parts[0]

    def _solved(self, times: Sequence[float]) -> Float[Tensor, "times d *batch"]:
        # where two polynomials meet, that which ends
        index = [min(bisect.bisect_left(self.times, time), len(self._pieces)) - 1 for time in times]
        shares = [(t - self.times[i]) / (self.times[i + 1] - self.times[i]) for i, t in zip(index, times, strict=True)]
        c = torch.stack([self._pieces[i] for i in index], 1)
        s = c.new_tensor(shares).reshape(-1, *(1,) * (c.ndim - 2))
        return c[0] + s * (c[1] + (1 - s) * (c[2] + s * (c[3] + (1 - s) * c[4])))


def solve_dde(
    system: DDE,
    history: History,
    t_span: tuple[float | int, float | int],
    *,
    rtol: float = 1e-8,
    atol: float = 1e-10,
    max_steps: int = 1_000_000,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> DenseSolution:
    """Solve any delay equation with constant delays.

    A batch of systems takes common steps, with an error below the tolerance in each sample. Steps end at breaking
    points, which the beginning t₀ sends on through all delays, and are not longer than the shortest delay: delayed
    values always belong to the past. The result is differentiable by the history and by all parameters but delays; its
    steps are not.

    Parameters
    ----------
    system
        Its delays are common to the batch, other parameters may be ``(B,)``.
    history
        A number, constants ``(*batch, 1)``, values ``(*batch, nodes)`` at any number of Chebyshev–Lobatto nodes of
        [−τ_max, 0], or a smooth function of times in [−τ_max, 0], whose end is t₀. With d > 1 tensors begin with an
        axis of length d.
    t_span
        t₀ and the end.
    rtol, atol
        An error of atol + rtol·|x| is allowed in each step and component.
    max_steps
        Attempted steps after which to give up.

    Raises
    ------
    ConfigError, ShapeError
        For tolerances, intervals or histories that make no sense; for delays that differ by sample, or by which
        derivatives are to be taken: breaking points move with them, the steps between would have to.
    IntegrationError
        If the solution stops being finite, or steps get too small or too many.
    """
    start, end = interval(t_span)
    if not (rtol > 0 and atol > 0):
        raise ConfigError(f"rtol and atol must be positive, got {rtol} and {atol}")
    delays = [_common(delay) for delay in system.delay_values]
    system = moved(system, lambda value: value.to(device, dtype))
    past = _history_function(history, system, max(delays), dtype, torch.device(device))
    points = [point for point in breaking_points(start, end, delays) if point < end] + [end]
    solution = DenseSolution(start, past, max(delays), points[:-1])
    field = _Field(system, delays, solution)
    x = past([0.0])[0]
    slope = field(x, field.delayed([start])[0])
    h = _first_step(x, slope, rtol, atol, min(delays))
    t, target = start, 0
    for _ in range(max_steps):
        while points[target] <= t:
            target += 1
        left = points[target] - t
        h = min(h, min(delays))
        lands = h >= left * (1 - 1e-12)
        if lands or h > left / 2:  # not a very short step before the point
            h = left if lands else left / 2
        if h < 16 * math.ulp(max(abs(t), end - start)) and not lands:
            raise IntegrationError(
                f"steps became too small at t = {t:.6g}: the solution is singular there, or rtol = {rtol} is too small "
                f"for {dtype}"
            )
        x_next, ks = _step(field, t, x, slope, h)
        allowed = atol + rtol * torch.maximum(x.detach().abs(), x_next.detach().abs())
        error = _norm(_add(torch.zeros_like(x), ERROR, [k.detach() for k in ks], h) / allowed)
        if not math.isfinite(error):
            h *= 0.2
            continue
        if error <= 1:
            t = points[target] if lands else t + h
            solution.append(t, _dense_output(x, x_next, ks, h))
            x, slope = x_next, ks[-1]
            if t >= end:
                return solution
        h *= min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** (-1 / ORDER)))
    raise IntegrationError(f"{max_steps} steps lead to t = {t:.6g} only, before {end}: raise rtol or max_steps")


class _Field:
    """The right-hand side along a solution, and the delayed states that it takes."""

    def __init__(self, system: DDE, delays: Sequence[float], solution: DenseSolution) -> None:
        self.system, self.delays, self.solution = system, delays, solution

    def delayed(self, times: Sequence[float]) -> list[Sequence[Tensor]]:
        """For each time the delayed states, which all lie on what is known of the solution."""
        states = self.solution.values([t - delay for t in times for delay in self.delays]).unbind(0)
        k = len(self.delays)
        return [states[i : i + k] for i in range(0, len(states), k)]

    def __call__(self, x: Tensor, delayed: Sequence[Tensor]) -> Tensor:
        return self.system.field(x, delayed, self.system.parameters)


def _step(field: _Field, t: float, x: Tensor, slope: Tensor, h: float) -> tuple[Tensor, list[Tensor]]:
    """The state after a step, and the slopes of all stages."""
    stage, ks = x, [slope]
    for row, delayed in zip(STAGES[1:], field.delayed([t + node * h for node in NODES[1:]]), strict=True):
        stage = _add(x, row, ks, h)
        ks.append(field(stage, delayed))
    return stage, ks


def _dense_output(x: Tensor, x_next: Tensor, ks: Sequence[Tensor], h: float) -> Tensor:
    difference = x_next - x
    bend = h * ks[0] - difference
    last = _add(torch.zeros_like(x), DENSE, ks, h)
    return torch.stack([x, difference, bend, difference - h * ks[-1] - bend, last])


def breaking_points(start: float, end: float, delays: Sequence[float]) -> list[float]:
    """Times in (start, end) at which a derivative up to the order 6 of a solution jumps.

    u' jumps at the beginning, u^{(m+1)} after each sum of m delays.
    """
    sums = (
        start + math.fsum(chosen)
        for count in range(1, ORDER + 1)
        for chosen in itertools.combinations_with_replacement(delays, count)
    )
    merged: list[float] = []
    for point in sorted(point for point in sums if point < end):
        if point - (merged[-1] if merged else start) > 1e-10 * min(delays):
            merged.append(point)
    return merged


def interval(t_span: tuple[float | int, float | int]) -> tuple[float, float]:
    """Beginning and end as floats, checked."""
    start, end = (float(time) for time in t_span)
    if not (math.isfinite(start) and math.isfinite(end) and start < end):
        raise ConfigError(f"t_span must be (beginning, end) with a later end, got {t_span}")
    return start, end


def _common(delay: float | int | Tensor) -> float:
    if isinstance(delay, Tensor):
        if delay.requires_grad and torch.is_grad_enabled():
            raise ConfigError(
                "derivatives by a delay are not taken here: give the delay as a number or by .detach(), or take "
                "SegmentMap or RungeKutta4, which differentiate by it"
            )
        if delay.numel() != 1 and bool((delay != delay.flatten()[0]).any()):
            raise ConfigError("delays differ by sample, but samples take common steps here: solve each delay by itself")
        delay = delay.flatten()[0].item()
    return float(delay)


def _history_function(
    history: History, system: DDE, longest: float, dtype: torch.dtype, device: torch.device
) -> Callable[[Sequence[float]], Tensor]:
    """φ as a function of some times, giving ``(times, d, *batch)``; checked at nodes."""
    degree = history.shape[-1] - 1 if isinstance(history, Tensor) and history.shape[-1:] > (1,) else 32
    nodes = torch.as_tensor(lobatto_nodes(degree), dtype=dtype, device=device)
    values = sample_history(history, system, longest * (nodes - 1), on_nodes="Chebyshev–Lobatto nodes")
    if not callable(history) or isinstance(history, Tensor):

        def interpolated(times: Sequence[float]) -> Tensor:
            basis = lagrange_basis(torch.tensor([1 + time / longest for time in times], dtype=dtype), degree)
            return torch.einsum("d...n,tn->td...", values, basis.to(device))

        return interpolated

    def called(times: Sequence[float]) -> Tensor:
        result = history(torch.tensor(times, dtype=dtype, device=device))
        result = (result if system.dim > 1 else result[None]).movedim(-1, 0)
        missing = (1,) * (values.ndim - result.ndim)
        return result.reshape(*result.shape[:2], *missing, *result.shape[2:]).expand(len(times), *values.shape[:-1])

    return called


def _add(x: Tensor, coefficients: Sequence[float], slopes: Sequence[Tensor], h: float) -> Tensor:
    """x + h Σⱼ cⱼkⱼ."""
    for coefficient, slope in zip(coefficients, slopes, strict=True):
        if coefficient:
            x = x.add(slope, alpha=h * coefficient)
    return x


def _norm(scaled: Tensor) -> float:
    """The largest root mean square over components of a sample."""
    return scaled.square().mean(0).amax().sqrt().item()


def _first_step(x: Tensor, slope: Tensor, rtol: float, atol: float, shortest: float) -> float:
    allowed = atol + rtol * x.detach().abs()
    size, speed = _norm(x.detach() / allowed), _norm(slope.detach() / allowed)
    return min(shortest, 0.01 * size / speed if size > 1e-5 and speed > 1e-5 else 1e-3 * shortest)
