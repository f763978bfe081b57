"""The compiled engine of `runge_kutta`: needs numba (extra ``fast``), which cannot read functions wrapped by checks."""

import math
from collections.abc import Callable
from typing import Any, no_type_check

import numpy as np

try:
    import numba
except ImportError:  # `runge_kutta` does not call what is here then
    numba = None


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return function if numba is None else numba.njit(nogil=True)(function)


@_compiled
@no_type_check
def _hill(x: float, n: float, theta: float, whole: bool) -> float:
    """f(x) = x/(1 + (x/θ)ⁿ), as `mackeyglass.mackey_glass.hill`."""
    if x > 0:
        return x / (1 + math.exp(n * math.log(x / theta)))
    if x == 0:
        return 0.0
    if not whole:
        return math.nan
    power = math.exp(n * math.log(-x / theta))
    return x / (1 + (power if n % 2 == 0 else -power))


@_compiled
@no_type_check
def integrate(
    states: np.ndarray, parameters: np.ndarray, k: int, whole: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K steps in each of k delays, sample by sample.

    Parameters
    ----------
    states
        (B, 2K + 1): values on the last delay at ends and middles of steps.
    parameters
        (B, 5): β, γ, n, θ, τ.
    k
        Number of delays.
    whole
        Whether n is a whole number, for which negative values have powers.

    Returns
    -------
    tuple
        Values and slopes (B, k, K + 1), and the states on the last delay.
    """
    samples, halves = states.shape
    steps = halves // 2
    values, slopes = np.empty((samples, k, steps + 1)), np.empty((samples, k, steps + 1))
    last = states.copy()
    ends, middles = np.empty(steps + 1), np.empty(steps)
    for b in range(samples):
        beta, gamma, n, theta, tau = parameters[b]
        h = tau / steps
        z = gamma * h
        growth = 1 - z + z**2 / 2 - z**3 / 6 + z**4 / 24
        at_start = h / 6 * (1 - z + z**2 / 2 - z**3 / 4)
        at_middle, at_end = h / 6 * (4 - 2 * z + z**2 / 2), h / 6
        state = last[b]
        for i in range(steps):
            ends[i] = beta * _hill(state[2 * i], n, theta, whole)
            middles[i] = beta * _hill(state[2 * i + 1], n, theta, whole)
        u = state[2 * steps]
        ends[steps] = beta * _hill(u, n, theta, whole)
        for block in range(k):
            x, slope = values[b, block], slopes[b, block]
            x[0], slope[0] = u, ends[0] - gamma * u
            following = ends[steps]  # production at the end of the block before is that at the beginning of this one
            for i in range(steps):
                right = growth * u + at_start * ends[i] + at_middle * middles[i] + at_end * ends[i + 1]
                slope[i + 1] = ends[i + 1] - gamma * right
                middle = (u + right) / 2 + h / 8 * (slope[i] - slope[i + 1])
                x[i + 1], state[2 * i], state[2 * i + 1], u = right, u, middle, right
                ends[i], middles[i] = following, beta * _hill(middle, n, theta, whole)
                following = beta * _hill(right, n, theta, whole)
            ends[steps] = following
        state[2 * steps] = u
    return values, slopes, last
