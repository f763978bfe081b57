"""How good a forecast is: errors at horizons, how long it is valid, and whether a free run keeps the attractor."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from torch import Tensor

from mackeyglass.forward import jvp


def squash(u: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """tanh(u − 1), the transform under which some of the literature forecasts the series."""
    return torch.tanh(u - 1)


def unsquash(y: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The inverse of `squash`, of −1 < y < 1."""
    return 1 + torch.atanh(y)


def nrmse(
    forecast: Float[Tensor, "*batch start time"],
    truth: Float[Tensor, "*batch start time"],
    std: float | int | Tensor | None = None,
) -> Float[Tensor, "*batch time"]:
    """Root mean square error over starts at each horizon, divided by the standard deviation of the series.

    With forecasts from one step ahead on, entry h − 1 is NRMSE_h; entry 83 of a free run is the NRMSE₈₄ of the
    literature.

    Parameters
    ----------
    std
        Of the series: a number, or a tensor ``(*batch,)``; by default of all of `truth`, per batch.

    Raises
    ------
    ShapeError, ConfigError
        If the shapes do not fit, or `std` is not positive.
    """
    _check(forecast, truth, 2)
    scale = truth.flatten(-2).std(-1, correction=0) if std is None else _scale(std, truth, 2)
    return (forecast - truth).square().mean(-2).sqrt() / scale[..., None]


def valid_prediction_time(
    forecast: Float[Tensor, "*batch time"],
    truth: Float[Tensor, "*batch time"],
    dt: float | int,
    std: float | int | Tensor,
    *,
    exponent: float | int = 1.0,
    threshold: float | int = 0.4,
) -> Float[Tensor, "*batch"]:
    """Time until the error first exceeds `threshold` standard deviations, times the Lyapunov exponent λ₁.

    It is that of the last sample before, so at most the length of the forecast, and 0 where the first one is wrong. A
    forecast that is not finite has ended.

    Parameters
    ----------
    dt
        Between samples.
    std
        Of the series: a number, or a tensor that broadcasts to the batch, ``(*batch,)``.
    exponent
        λ₁ per unit of time; with 1 the result is in the units of `dt`.

    Raises
    ------
    ShapeError, ConfigError
        If the shapes do not fit, or `std` or `dt` is not positive.
    """
    _check(forecast, truth, 1)
    if not dt > 0:
        raise ConfigError(f"dt must be positive, got {dt}")
    good = (forecast - truth).abs() <= threshold * _scale(std, truth, 1)[..., None]
    return good.long().cumprod(-1).sum(-1).to(truth.dtype) * (dt * exponent)


def wasserstein(a: Float[Tensor, "*a"], b: Float[Tensor, "*b"]) -> float:
    """Wasserstein-1 distance of the distributions of all values, in standard deviations of `b`.

    Infinite if `a` is not finite: a free run that has diverged.

    Raises
    ------
    ShapeError
        If there are no values.
    """
    if not (a.numel() and b.numel()):
        raise ShapeError(f"a distribution needs values, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if not bool(torch.isfinite(a).all()):
        return math.inf
    levels = (torch.arange(4096, dtype=torch.float64, device=b.device) + 0.5) / 4096
    quantiles = [_quantiles(x.flatten().double(), levels) for x in (a, b)]
    return ((quantiles[0] - quantiles[1]).abs().mean() / b.double().std(correction=0)).item()


def map_exponents(
    step: Callable[[Tensor], Tensor],
    state: Float[Tensor, "batch size"],
    k: int,
    steps: int,
    *,
    transient: int = 0,
    align: int = 100,
    every: int = 1,
    seed: int = 0,
) -> tuple[Float[Tensor, "batch k"], Float[Tensor, "batch size"]]:
    """The k largest Lyapunov exponents per step of any differentiable map, by QR of its tangent dynamics.

    Parameters
    ----------
    step
        Maps states ``(batch, size)``, each sample by itself: a closed loop of a forecaster.
    steps, transient, align
        Steps over which the exponents are averaged; steps without tangents, then with tangents, before those.
    every
        Steps between two orthonormalisations.

    Returns
    -------
    tuple
        Exponents and the last state; NaN where a run has diverged.

    Raises
    ------
    ConfigError
        If there are more exponents than components, or `steps` is less than `every`.
    """
    batch, size = state.shape
    if not 1 <= k <= size or steps < every:
        raise ConfigError(f"k={k} must be between 1 and {size}, the size of states, and steps={steps} at least {every}")
    with torch.no_grad():
        for _ in range(transient):
            state = step(state)
        random = torch.Generator().manual_seed(seed)
        V = torch.randn(k, batch, size, generator=random, dtype=torch.float64).to(state)
        total = state.new_zeros(batch, k)
        rounds, aligned = steps // every, -(-align // every)
        for i in range(aligned + rounds):
            for _ in range(every):
                state, V = _with_tangents(step, state, V)
            # LAPACK refuses what is not finite
            Q, R = torch.linalg.qr(torch.nan_to_num(V, nan=0.0, posinf=0.0, neginf=0.0).permute(1, 2, 0))
            V = Q.permute(2, 0, 1)
            if i >= aligned:
                total += R.diagonal(dim1=-2, dim2=-1).abs().log()
        total[~torch.isfinite(state).all(-1)] = math.nan
    return total / (rounds * every), state


def _with_tangents(
    step: Callable[[Tensor], Tensor], state: Tensor, V: Float[Tensor, "k batch size"]
) -> tuple[Tensor, Tensor]:
    """The next state, and the derivative of the map in k directions: all in one batch."""
    k = len(V)
    following, tangents = jvp(step, (state.repeat(k, 1),), (V.flatten(0, 1),))[:2]
    return following[: len(state)], tangents.unflatten(0, (k, -1))


def _quantiles(x: Tensor, levels: Tensor) -> Tensor:
    ordered = x.sort().values
    position = (levels * len(x) - 0.5).clamp(0, len(x) - 1)
    low = position.floor().long()
    return torch.lerp(ordered[low], ordered[(low + 1).clamp(max=len(x) - 1)], position - low)


def _check(forecast: Tensor, truth: Tensor, axes: int) -> None:
    if forecast.shape != truth.shape:
        raise ShapeError(
            f"forecast and truth must have one shape, got {tuple(forecast.shape)} and {tuple(truth.shape)}"
        )
    if truth.ndim < axes:
        expected = "(…, start, time)" if axes == 2 else "(…, time)"
        raise ShapeError(f"forecast and truth must be {expected}, got {tuple(truth.shape)}")


def _scale(std: float | int | Tensor, truth: Tensor, axes: int) -> Tensor:
    """Deviations as a tensor that broadcasts to the batch, all but the last axes of `truth`."""
    scale, batch = torch.as_tensor(std).to(truth), truth.shape[: truth.ndim - axes]
    try:
        fits = torch.broadcast_shapes(scale.shape, batch) == batch
    except RuntimeError:
        fits = False
    if not fits:
        raise ShapeError(f"std must be a number or {tuple(batch)}, one a series, got {tuple(scale.shape)}")
    if not bool((scale > 0).all()):
        raise ConfigError(f"std must be positive, got {std}")
    return scale
