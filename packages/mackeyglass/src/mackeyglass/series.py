"""Segments at Chebyshev nodes from a regularly sampled series."""

import math

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import DataError, ShapeError
from scipy.interpolate import CubicSpline
from torch import Tensor

from mackeyglass.arguments import check_whole
from mackeyglass.chebyshev import lobatto_nodes
from mackeyglass.equation import check_positive


def segments_from_series(
    u: Float[Tensor, "*batch times"] | np.ndarray,
    dt: float | int,
    tau: float | int,
    nodes: int = 32,
    *,
    smooth: bool = False,
) -> Float[Tensor, "segments *batch nodes"]:
    """Successive segments of length τ of samples u(0), u(dt), …, as `SegmentMap.trajectory` gives them.

    Values between samples are those of cubic splines: of a smooth series their error falls as dt⁴.

    Parameters
    ----------
    dt
        Between samples.
    tau
        The delay. Segment k lies on [kτ, (k + 1)τ]; samples after the last whole one are not used.
    nodes
        M: a segment has M + 1 values, at Chebyshev–Lobatto nodes, the last of which is the first of the next segment.
    smooth
        Whether noise is reduced first, by cubics through seven samples (A. Savitzky and M. Golay, Anal.
        Chem. 36 (1964) 1627).

    Raises
    ------
    ConfigError, ShapeError, DataError
        If an argument is out of range, the series has no whole segment, or a value is not finite.
    """
    check_positive("dt", dt)
    check_positive("tau", tau)
    check_whole("nodes", nodes, 2)
    values = torch.as_tensor(u).detach().double().cpu()
    # the end of the last segment may be missed by rounding
    count = math.floor((values.shape[-1] - 1) * dt / tau * (1 + 1e-12)) if values.ndim else 0
    if count < 1 or values.shape[-1] < 4:
        raise ShapeError(
            f"a series must be (…, times) with at least 4 samples and one delay, got {tuple(values.shape)} samples "
            f"{dt:g} apart for tau={tau:g}"
        )
    starts = tau * np.arange(count)
    return segments_at(curve(values, dt, smooth=smooth), starts + tau, float(tau), nodes)


def curve(u: Float[Tensor, "*batch times"], dt: float | int, *, smooth: bool) -> CubicSpline:
    """The spline through samples, or through what a Savitzky–Golay filter leaves of them.

    Raises
    ------
    DataError
        If a value is not finite.
    """
    if not bool(torch.isfinite(u).all()):
        raise DataError("the series has values that are not finite: cut it where they are, or replace them")
    values = u.numpy()
    if smooth and values.shape[-1] > 7:
        from scipy.signal import savgol_filter  # a second of import, for this only

        values = savgol_filter(values, 7, 3)
    return CubicSpline(np.arange(u.shape[-1]) * dt, values, axis=-1)


def segments_at(
    curve: CubicSpline, ends: Float[np.ndarray, "segments"], tau: float, nodes: int
) -> Float[Tensor, "segments *batch nodes"]:
    """Segments of length τ with these ends; before time 0 the curve keeps its first value."""
    times = ends[:, None] + tau * (lobatto_nodes(nodes) - 1)
    values = torch.from_numpy(curve(np.maximum(times, 0.0)))
    return values.movedim(-2, 0)
