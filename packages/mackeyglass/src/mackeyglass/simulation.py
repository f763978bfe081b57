"""Trajectories of delay equations as labelled arrays."""

import math
import numbers
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor

from mackeyglass.arguments import check_precision
from mackeyglass.dormand_prince import IntegrationError, interval, solve_dde
from mackeyglass.equation import DDE, Value
from mackeyglass.history import History
from mackeyglass.resolution import warn_unresolved
from mackeyglass.runge_kutta import RungeKutta4
from mackeyglass.segment_map import LinearDecay, SegmentMap, enough_panels

Method = Literal["segment", "rk4", "dopri5"]
CHUNK = 2**22  # numbers held at once while a long trajectory is computed


def simulate(
    system: DDE,
    history: History,
    t_span: tuple[float | int, float | int],
    *,
    dt: float | int | None = None,
    n_per_delay: int | None = None,
    method: Method | None = None,
    saveat: Sequence[float | int] | np.ndarray | Tensor | None = None,
    rtol: float = 1e-8,
    atol: float = 1e-10,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> xarray.Dataset:
    """The solution from a history, sampled.

    Parameters
    ----------
    system
        Its parameters may be ``(B,)``.
    history
        A number; constants ``(B, 1)``; a function of times in [−τ, 0], counted from the beginning; or values
        ``(B, nodes)``: for "segment" at the nodes of `SegmentMap`, for "rk4" at ends and middles of steps, for "dopri5"
        at any number of Chebyshev–Lobatto nodes. With d > 1 components tensors begin with an axis of length d.
    t_span
        Beginning and end.
    dt
        Spacing of the result, and the step of "rk4"; default τ/n_per_delay of the shortest delay.
    n_per_delay
        A whole number. "segment": nodes M (default 32; multiplied by panels if γτ > 4). "rk4": steps K (default 100).
    method
        "segment" (default where decay is linear: `MackeyGlass`, or a learned production): the spectral method of steps.
        "rk4": fixed steps that divide the delay. "dopri5" (default for any other `DDE`): adaptive steps. The first two
        need linear decay.
    saveat
        Rising times within `t_span` at which to sample, instead of equally spaced ones.
    rtol, atol
        Tolerances of "dopri5".
    dtype, device
        Of the computation; float32 or float64.

    Returns
    -------
    xarray.Dataset
        ``u`` with dimensions ``batch, time`` (``batch, component, time`` for d > 1); parameters that differ by sample
        are coordinates, all else is in the attributes.

    Raises
    ------
    ConfigError, ShapeError
        For methods, times, steps, dtypes or histories that do not fit.
    IntegrationError
        If the solution leaves the numbers, or, with "dopri5", becomes singular.

    Warns
    -----
    UserWarning
        If `dt` does not divide the delay ("rk4" then takes the next shorter step that does), or if the nodes of
        "segment" do not resolve the history or the solution.
    """
    check_precision(dtype)
    if not isinstance(system, DDE):
        raise ConfigError(f"the system must be a DDE such as MackeyGlass, got a {type(system).__name__}")
    start, end = interval(t_span)
    method = _method(system, method)
    shortest = min(float(torch.as_tensor(delay).min()) for delay in system.delay_values)
    _check_steps(dt, n_per_delay, method)
    intervals = int(n_per_delay or _intervals(system, dt, method))
    times = _times(saveat, start, end, dt or shortest / intervals)
    local = torch.from_numpy(times - start)
    if method == "dopri5":
        with torch.no_grad():
            solution = solve_dde(system, history, (start, end), rtol=rtol, atol=atol, dtype=dtype, device=device)
            values = solution.evaluate(torch.from_numpy(times))
        details = {"rtol": rtol, "atol": atol, "steps": len(solution.times) - 1}
    else:
        assert isinstance(system, LinearDecay)
        runner = _segments if method == "segment" else _grid
        run = runner(system, history, intervals, dtype, device)
        _check_batch(run.batch)
        values = _sample(run, local)[None]
        if not bool(values.isfinite().all()):
            raise IntegrationError(
                "the solution left the floating-point numbers: the equation drives it there, or n_per_delay="
                f"{intervals} does not resolve it"
            )
        details = {"n_per_delay": intervals, **run.details()}
        warn_unresolved(max(run.error, details.get("resolution", 0.0)), intervals, dtype, "n_per_delay")
    values = values.detach().cpu()
    _check_batch(values.shape[1:-1])
    return _dataset(system, values.reshape(system.dim, -1, len(times)).numpy(), times, method, details, dtype)


@dataclass
class _Run:
    """A method that goes on delay by delay: ``advance(k)`` gives the evaluation within the next k delays."""

    advance: Callable[[int], Callable[[Tensor], Tensor]]
    details: Callable[[], dict[str, Any]]
    tau: Float[Tensor, "*tau"]  # as rounded to the dtype of the computation
    batch: tuple[int, ...]
    size: int  # numbers a delay and sample
    error: float = 0.0  # of the first delay, which the nodes leave of the history


def _segments(
    system: LinearDecay, history: History, intervals: int, dtype: torch.dtype, device: torch.device | str
) -> _Run:
    panels = enough_panels(system)
    segment_map = SegmentMap(system, intervals, panels, dtype=dtype, device=device)
    U, worst = segment_map.history(history).detach(), 0.0
    with torch.no_grad():
        error = segment_map.error(U).max().item()

    def advance(k: int) -> Callable[[Tensor], Tensor]:
        nonlocal U, worst
        with torch.no_grad():
            segments = segment_map.trajectory(U, k)
            U = segments[-1]
            # every eighth: as good a check, at a small part of the cost
            worst = max(worst, segment_map.resolution(segments[::8]).max().item())
        return lambda times: segment_map.evaluate(segments, times.to(device))

    tau = _double(segment_map.system.tau)
    return _Run(advance, lambda: {"panels": panels, "resolution": worst}, tau, U.shape[:-1], segment_map.size, error)


def _grid(system: LinearDecay, history: History, steps: int, dtype: torch.dtype, device: torch.device | str) -> _Run:
    solver = RungeKutta4(system, steps, dtype=dtype, device=device)
    state = solver.history(history)

    def advance(k: int) -> Callable[[Tensor], Tensor]:
        nonlocal state
        with torch.no_grad():
            solution = solver.run(state, k)
        state = solution.state
        return lambda times: solution.evaluate(times.to(device))

    return _Run(advance, dict, _double(solver.system.tau), state.shape[1:], 3 * steps)


def _check_batch(batch: Sequence[int]) -> None:
    if len(batch) > 1:
        raise ConfigError(f"batches must have one axis, got {tuple(batch)}: flatten parameters and histories")


def _double(value: Value) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach().cpu()


def _sample(run: _Run, times: Float[Tensor, "times"]) -> Float[Tensor, "*batch times"]:
    """Values at times counted from the end of the history."""
    tau = run.tau.expand(run.batch) if run.tau.numel() > 1 else run.tau.reshape(())
    total = max(1, math.ceil(times[-1].item() / tau.min().item() - 1e-9))
    out = torch.empty(*run.batch, len(times), dtype=torch.float64)
    chunk = max(1, CHUNK // (run.size * math.prod(run.batch)))
    for first in range(0, total, chunk):
        k = min(chunk, total - first)
        evaluate = run.advance(k)
        begin, end = first * tau, (first + k) * tau
        low = torch.searchsorted(times, begin)
        # the last chunk takes what rounding leaves behind its end
        high = torch.searchsorted(times, end) if first + k < total else torch.full_like(low, len(times))
        if tau.ndim == 0:
            inside = (times[low:high] - begin).clamp(min=torch.zeros_like(begin), max=end - begin)
            out[..., low:high] = evaluate(inside).to(out)
            continue
        counts = int((high - low).max())
        index = low[:, None] + torch.arange(counts)
        valid = index < high[:, None]
        index = index.clamp(max=len(times) - 1)
        inside = (times[index] - begin[:, None]).clamp(min=torch.zeros_like(begin[:, None]), max=(end - begin)[:, None])
        samples = torch.arange(len(tau))[:, None].expand_as(index)
        out[samples[valid], index[valid]] = evaluate(inside).to(out)[valid]
    return out


def _method(system: DDE, method: Method | None) -> Method:
    if method is None:
        return "segment" if isinstance(system, LinearDecay) else "dopri5"
    if method not in ("segment", "rk4", "dopri5"):
        raise ConfigError(f'method must be "segment", "rk4" or "dopri5", got {method!r}')
    if method != "dopri5" and not isinstance(system, LinearDecay):
        raise ConfigError(
            f'the method {method!r} needs linear decay and one delay, take "dopri5" for a {type(system).__name__}'
        )
    return method


def _check_steps(dt: float | int | None, n_per_delay: int | None, method: Method) -> None:
    if dt is not None and not (math.isfinite(dt) and dt > 0):
        raise ConfigError(f"dt must be positive, got {dt}")
    if n_per_delay is not None and (not isinstance(n_per_delay, numbers.Integral) or isinstance(n_per_delay, bool)):
        raise ConfigError(f"n_per_delay must be a whole number, got {n_per_delay!r}")
    least = 2 if method == "segment" else 1
    if n_per_delay is not None and n_per_delay < least:
        raise ConfigError(f"n_per_delay must be at least {least} for {method}, got {n_per_delay}")
    if method == "rk4" and dt is not None and n_per_delay is not None:
        raise ConfigError("dt and n_per_delay both determine the step of rk4: give one of them")


def _intervals(system: DDE, dt: float | int | None, method: Method) -> int:
    """Nodes or steps in a delay where `n_per_delay` does not say."""
    if method != "rk4" or dt is None:
        return 100 if method == "rk4" else 32
    steps = torch.as_tensor(system.delay_values[0], dtype=torch.float64) / dt
    number = max(1, math.ceil(float(steps.max()) * (1 - 1e-12)))
    if bool(((steps - number).abs() > 1e-9 * number).any()):
        warnings.warn(
            f"dt={dt:g} does not divide the delay: the step is τ/{number}, values at multiples of dt come from the "
            "dense output",
            UserWarning,
            stacklevel=3,
        )
    return number


def _times(
    saveat: Sequence[float | int] | np.ndarray | Tensor | None, start: float, end: float, spacing: float
) -> Float[np.ndarray, "times"]:
    if saveat is None:
        return start + spacing * np.arange(math.floor((end - start) / spacing * (1 + 1e-12)) + 1)
    times = np.asarray(saveat.detach().cpu() if isinstance(saveat, Tensor) else saveat, dtype=np.float64)
    if times.ndim != 1 or times.size == 0:
        raise ConfigError(f"saveat must be a list of one or more times, got shape {times.shape}")
    if not (np.diff(times) > 0).all():
        raise ConfigError("saveat must rise from time to time: sort it and remove repeated times")
    slack = 1e-12 * max(abs(start), abs(end))
    if not (times[0] >= start - slack and times[-1] <= end + slack):
        raise ConfigError(f"saveat must lie within t_span = ({start:g}, {end:g}), got {times[0]:g} … {times[-1]:g}")
    return np.clip(times, start, end)


def _dataset(
    system: DDE, values: np.ndarray, times: np.ndarray, method: Method, details: dict[str, Any], dtype: torch.dtype
) -> xarray.Dataset:
    batch = values.shape[1]
    coords: dict[str, Any] = {"time": ("time", times, {"units": "1", "long_name": "time in the units of the delays"})}
    attributes: dict[str, Any] = {"equation": type(system).__name__}
    for name, value in system.parameters.items():
        numbers = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if numbers.size == 1:
            attributes[name] = numbers.item()
        else:
            coords[name] = ("batch", np.broadcast_to(numbers, (batch,)))
    attributes.update(integrator=method, dtype=str(dtype).removeprefix("torch."), **details)
    dims, values = ("batch", "time"), values[0] if system.dim == 1 else values.swapaxes(0, 1)
    if system.dim > 1:
        dims = ("batch", "component", "time")
    variable = xarray.Variable(dims, values, {"units": "1", "long_name": "state"})
    return xarray.Dataset({"u": variable}, coords, attributes)
