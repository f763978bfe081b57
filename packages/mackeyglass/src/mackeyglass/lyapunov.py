"""Lyapunov exponents of delay equations, with their statistical errors, and the dimension they give."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from sciml.errors import ConfigError
from sciml.progress import Progress
from torch import Tensor

from mackeyglass.arguments import check_precision, whole
from mackeyglass.equation import DDE
from mackeyglass.history import History, batch_shape, sample_history
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.orthonormal import orthonormalise
from mackeyglass.resolution import warn_unresolved
from mackeyglass.segment_map import LinearDecay, enough_panels
from mackeyglass.tangent_flow import PseudospectralFlow, SegmentFlow, TangentFlow

BLOCKS = 20  # of time, whose averages tell the error of a single trajectory
MEMBERS = 8  # from so many trajectories on, their averages tell it instead
ALIGNMENT = 100  # delays during which random vectors turn to where they belong
ZERO = 1e-3  # growth within a delay that counts as none for the dimension
RESOLVED = 5e-3  # growth within a delay to which an exponent of zero has to be known


@dataclass(frozen=True, eq=False)
class LyapunovSpectrum:
    """The largest Lyapunov exponents of B systems, largest first, as growth rates per unit of time (nats).

    `stderr` are standard errors of the `exponents`, `dimension_stderr` those of the Kaplan–Yorke `dimension`. `halves`
    are the exponents of the first and of the second half of the run: after a long transient they differ. `converged`
    tells that λ₁ exceeds its error, or both are less than 5e-3/τ (a cycle, λ₁ = 0), and that the halves do not
    contradict each other. `members` are the exponents of each trajectory: where they fall into groups there are several
    attractors, over which the others are averages (begin with a `history` of the one that is meant).
    """

    exponents: Float[Tensor, "batch k"]
    stderr: Float[Tensor, "batch k"]
    dimension: Float[Tensor, "batch"]
    dimension_stderr: Float[Tensor, "batch"]
    halves: Float[Tensor, "2 batch k"]
    members: Float[Tensor, "ensemble batch k"]
    converged: Bool[Tensor, "batch"]


def kaplan_yorke_dimension(
    exponents: Float[Tensor, "*batch k"] | np.ndarray | Sequence[float | int], zero: float | int | Tensor = 0.0
) -> Float[Tensor, "*batch"]:
    """D = j + (λ₁ + … + λ_j)/|λ_{j+1}| with the largest j for which the sum is not negative.

    Parameters
    ----------
    exponents
        In any order: a tensor, or what makes one.
    zero
        Exponents up to this modulus count as zero: a number, or one for each of the batch. An exponent of a cycle that
        should be 0 but is −1e-6 would otherwise give the dimension 0 of an equilibrium, not 1.

    Returns
    -------
    Tensor
        NaN where the sum of all given exponents is not negative: more of them are needed. An infinite |λ_{j+1}| adds
        nothing to j.

    Raises
    ------
    ConfigError
        If there are no exponents.
    """
    if not isinstance(exponents, Tensor):
        exponents = torch.as_tensor(exponents, dtype=torch.float64)
    if not exponents.ndim or not exponents.shape[-1]:
        raise ConfigError(f"exponents must be (…, k) with k ≥ 1, got {tuple(exponents.shape)}")
    zero = torch.as_tensor(zero, dtype=exponents.dtype, device=exponents.device)[..., None]
    ordered = torch.where(exponents.abs() <= zero, 0.0, exponents).sort(-1, descending=True).values
    sums = ordered.cumsum(-1)
    j = (sums >= 0).sum(-1, keepdim=True)  # sums rise, then fall: those not negative come first
    undecided = (j == ordered.shape[-1]) | ordered.isnan().any(-1, keepdim=True)
    following = ordered.gather(-1, j.clamp(max=ordered.shape[-1] - 1))
    total = torch.where(j > 0, sums.gather(-1, (j - 1).clamp(min=0)), 0.0)
    return torch.where(undecided, torch.nan, j + total / following.abs())[..., 0]


def lyapunov_spectrum(
    system: DDE | LinearDecay,
    k: int,
    *,
    n_delays: int = 2000,
    n_transient: int = 500,
    n_ensemble: int = 8,
    seed: int = 0,
    history: History | None = None,
    n_nodes: int = 32,
    panels: int | None = None,
    qr_every: int = 1,
    method: Literal["segment", "pseudospectral"] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> LyapunovSpectrum:
    """The k largest exponents: log |R_jj| of QR decompositions along trajectories, per time.

    Parameters
    ----------
    system
        Its parameters may be ``(B,)``: a whole map of the parameter plane is one call.
    k
        Number of exponents.
    n_delays
        Length of the run in longest delays.
    n_transient
        Delays before, whose last 100 align the vectors. Transients can last thousands of delays: see `halves`.
    n_ensemble
        Trajectories of each system. Standard errors are those of their averages if there are at least 8, else those of
        averages over twentieths of each run.
    seed
        Of the histories and of the vectors.
    history
        As in `simulate`, at the nodes of the method if by values. All members but the first begin with a random
        multiple of it, up to 1 % away. By default, for `MackeyGlass`, each with a random constant between 0.5 and 1.3
        of the positive equilibrium (of θ if there is none).
    n_nodes, panels
        As in `SegmentMap`. By default one panel for each 4/γ of a delay; "pseudospectral" has no panels.
    qr_every
        Delays between two decompositions. In between vectors turn to the first one: their ratio must not exceed 1e15.
    method
        "segment" (default where there is linear decay), "pseudospectral" (for any `DDE`).
    dtype
        In float32 exponents keep about four digits: the trajectory differs soon, its statistics do not.
    progress
        Whether to show a bar.

    Raises
    ------
    ConfigError
        For fewer than k + 1 nodes or other arguments out of range, other dtypes than float32 and float64, and if
        trajectories or vectors leave the numbers.

    Warns
    -----
    UserWarning
        If some systems have not converged, or the nodes do not resolve all solutions: neither does the standard error
        tell of that, nor `converged`.
    """
    _check(k, n_delays, n_transient, n_ensemble, qr_every, method)
    check_precision(dtype)
    if len(batch_shape(system)) > 1:
        raise ConfigError(f"parameters must be numbers or (B,), got a batch {batch_shape(system)}: flatten it")
    flow = _flow(system, method, n_ensemble, n_nodes, panels, dtype, device)
    if flow.size < k + 1:
        raise ConfigError(f"{k} exponents need at least {k + 1} nodes, there are {flow.size}: raise n_nodes")
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad(), Progress("Lyapunov exponents", n_transient + n_delays, active=progress) as bar:
        W = flow.start(_members(system, flow, history, n_ensemble, random, dtype, device))
        growth, worst = _growth(flow, W, k, n_delays, n_transient, qr_every, random, bar)
    rates = growth / (_block_lengths(n_delays, qr_every)[:, None] * flow.delay.cpu()[:, None, None])
    if not bool(rates.isfinite().all()):
        raise ConfigError(
            "a trajectory or its tangent vectors left the floating-point numbers: check the history, raise n_nodes "
            "(with it 'pseudospectral' takes shorter steps), take a smaller qr_every or fewer exponents"
        )
    warn_unresolved(worst, n_nodes, dtype)
    result = _statistics(rates, flow.delay.cpu())
    if not bool(result.converged.all()):
        warnings.warn(
            f"{int((~result.converged).sum())} of {len(result.converged)} systems have not converged: the error of the "
            "largest exponent exceeds it, or the two halves of the run disagree. Raise n_delays or n_transient",
            UserWarning,
            stacklevel=2,
        )
    return result


def _growth(
    flow: TangentFlow,
    W: Tensor,
    k: int,
    n_delays: int,
    n_transient: int,
    qr_every: int,
    random: torch.Generator,
    bar: Progress,
) -> tuple[Float[Tensor, "ensemble batch blocks k"], float]:
    """Sums of log |R_jj| over blocks of the run, and the worst resolution seen, once a block."""
    for _ in range(n_transient - ALIGNMENT):
        W = flow.advance(W)
        bar.advance()
    # the same for each system, so that it gets in a batch what it gets alone
    vectors = torch.randn(flow.size, k, flow.ensemble, generator=random, dtype=torch.float64)
    W = torch.cat([W, vectors.to(W).repeat(1, 1, W.shape[-1] // flow.ensemble).expand(len(W), -1, -1, -1)], 2)
    worst = 0.0
    sums = torch.zeros(BLOCKS, W.shape[0], k, W.shape[-1], dtype=torch.float64, device=W.device)
    for delay in range(-ALIGNMENT, n_delays):
        W = flow.advance(W)
        bar.advance()
        if (delay + 1) % qr_every == 0 or delay in (-1, n_delays - 1):
            W[:, :, 1:], lengths = orthonormalise(W[:, :, 1:])
            if delay >= 0:
                sums[_block(delay, n_delays, qr_every)] += lengths.log()
        if delay >= 0 and delay % (n_delays // BLOCKS) == 0:
            worst = max(worst, flow.resolution(W).max().item())
    return flow.rows(sums.movedim(0, 1).flatten(1, 2)).unflatten(-1, (BLOCKS, k)).cpu(), worst


def _block(delay: int, n_delays: int, qr_every: int) -> int:
    """The block to which the decomposition that ends this delay belongs."""
    return min(delay // qr_every * qr_every * BLOCKS // n_delays, BLOCKS - 1)


def _block_lengths(n_delays: int, qr_every: int) -> Float[Tensor, "blocks"]:
    return torch.bincount(torch.tensor([_block(delay, n_delays, qr_every) for delay in range(n_delays)])).double()


def _statistics(rates: Float[Tensor, "ensemble batch blocks k"], delay: Float[Tensor, "batch"]) -> LyapunovSpectrum:
    samples = rates.mean(2) if len(rates) >= MEMBERS else rates.movedim(2, 1).flatten(0, 1)
    count = len(samples)
    exponents, order = samples.mean(0).sort(-1, descending=True)
    stderr = (samples.std(0) / math.sqrt(count)).gather(-1, order)
    halves = torch.stack([half.mean((0, 2)) for half in rates.chunk(2, 2)]).gather(-1, order.expand(2, -1, -1))
    zero, resolved = ZERO / delay, RESOLVED / delay
    # the jackknife: dimensions of averages without one sample
    without = kaplan_yorke_dimension((count * samples.mean(0) - samples) / (count - 1), zero)
    spread = (without - without.mean(0)).square().sum(0)
    largest, error = exponents[:, 0], stderr[:, 0]
    small = (error < resolved) & (largest.abs() < resolved)
    drift = (halves[1, :, 0] - halves[0, :, 0]).abs()
    # 4 of its standard errors, each half having √2 times that of all
    steady = drift < torch.maximum(8 * error, resolved)
    return LyapunovSpectrum(
        exponents,
        stderr,
        kaplan_yorke_dimension(exponents, zero),
        (spread * (count - 1) / count).sqrt(),
        halves,
        rates.mean(2).gather(-1, order.expand(len(rates), -1, -1)),
        (small | (error <= largest.abs())) & steady,
    )


def _flow(
    system: DDE | LinearDecay,
    method: str | None,
    ensemble: int,
    n_nodes: int,
    panels: int | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> TangentFlow:
    linear = isinstance(system, LinearDecay)
    if method == "segment" and not linear:
        raise ConfigError(
            "the method 'segment' needs u' = −γu + production(u_τ), "
            f"take 'pseudospectral' for a {type(system).__name__}"
        )
    n_nodes = whole("n_nodes", n_nodes, 2)
    if linear and method != "pseudospectral":
        return SegmentFlow(system, ensemble, n_nodes, panels or enough_panels(system), dtype=dtype, device=device)
    if panels not in (None, 1):
        raise ConfigError(f"the method 'pseudospectral' has one panel, got panels={panels}")
    if not isinstance(system, DDE):
        raise ConfigError(f"the method 'pseudospectral' needs a DDE, got {type(system).__name__}")
    return PseudospectralFlow(system, ensemble, n_nodes, dtype=dtype, device=device)


def _members(
    system: DDE | LinearDecay,
    flow: TangentFlow,
    history: History | None,
    ensemble: int,
    random: torch.Generator,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Float[Tensor, "ensemble d batch nodes"]:
    """Histories of all members at the nodes."""
    batch, draws = len(flow.delay), torch.rand(ensemble, generator=random, dtype=torch.float64)
    if history is None:
        if not isinstance(system, MackeyGlass):
            raise ConfigError("give a history: a number, a function of times in [−τ, 0], or values at the nodes")
        factors = 0.5 + 0.8 * draws
        gain = torch.as_tensor(system.beta / system.gamma, dtype=torch.float64)
        level = torch.where(gain > 1, gain - 1, 1.0) ** (1 / torch.as_tensor(system.n, dtype=torch.float64))
        values = (torch.as_tensor(system.theta) * level).cpu().expand(batch)[None, :, None]
    else:
        factors = 0.99 + 0.02 * draws
        factors[0] = 1.0
        times = flow.delay[:, None] * flow.nodes.to(flow.delay)
        values = sample_history(history, system, times, on_nodes="nodes").cpu()
        if values.ndim != 3 or values.shape[1] != batch:
            raise ConfigError(
                f"histories of shape {tuple(values.shape[1:])} do not fit {batch} systems: give one to each "
                "(n_ensemble makes the members)"
            )
    members = factors[:, None, None, None] * values
    return members.expand(ensemble, -1, batch, len(flow.nodes)).to(device, dtype)


def _check(k: int, n_delays: int, n_transient: int, n_ensemble: int, qr_every: int, method: str | None) -> None:
    for name, value in (("k", k), ("n_ensemble", n_ensemble), ("qr_every", qr_every), ("n_delays", n_delays)):
        whole(name, value)
    whole("n_transient", n_transient, 0)
    if n_delays < BLOCKS * qr_every:
        raise ConfigError(f"n_delays must be at least {BLOCKS} times qr_every = {qr_every}, got {n_delays}")
    if n_transient < ALIGNMENT:
        raise ConfigError(
            f"n_transient must be at least {ALIGNMENT} delays, in which tangent vectors align, got {n_transient}"
        )
    if method not in (None, "segment", "pseudospectral"):
        raise ConfigError(f"method must be 'segment' or 'pseudospectral', got {method!r}")
