"""Fourier coefficients by quadrature on the nodes of any axis, and values from them, as matrices."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sciml._axes import Axis
from sciml.grids import Grid
from torch import Tensor

from nn2no.errors import ResolutionWarning


class Line(NamedTuple):
    """An axis, whatever its length: `n` nodes, equispaced unless `axis` says where.

    Models describe fields without a grid by it in their forward passes, where the core's `Axis` cannot be made:
    `torch.compile` does not trace the construction of a frozen dataclass that checks its arguments.
    """

    n: int
    periodic: bool = True
    centering: str = "node"
    axis: Axis | None = None


def line_of(axis: Axis) -> Line:
    """The description of an axis of a grid."""
    return Line(axis.n, axis.periodic, axis.centering, None if axis.kind == "uniform" else axis)


def lines_of(f: Tensor, grid: Grid | None, periodic: bool | Sequence[bool] = True) -> list[Line]:
    """The axes of a field on `grid`, or else of a uniform one; `periodic` says how that closes, axis by axis.

    ShapeError if `f` is no field on `grid`.
    """
    if grid is not None:
        grid.check(f)
        return [line_of(axis) for axis in grid.axes]
    space = f.shape[2:]
    wraps = [periodic] * len(space) if isinstance(periodic, bool) else periodic
    return [Line(n, wrap) for n, wrap in zip(space, wraps, strict=True)]


def period(line: Line, padding: float) -> float:
    """The length after which the extended axis repeats itself, in units of its own length."""
    return 1.0 if line.periodic else 1.0 + padding


def gaps(line: Line) -> int:
    """How many spacings of equispaced nodes make the length of the axis."""
    return line.n if line.periodic or line.centering == "cell" else line.n - 1


def resolved_modes(line: Line, padding: float) -> int:
    """The largest k with less than half a turn from node to node."""
    if line.axis is not None:
        largest = float(np.diff(line.axis.nodes()).max()) / line.axis.length
        return max(0, math.ceil(period(line, padding) / (2 * largest)) - 1)
    if period(line, padding) == 1:
        return (gaps(line) - 1) // 2
    return max(0, math.ceil(gaps(line) * period(line, padding) / 2) - 1)


def waves(line: Line, k: Tensor, padding: float) -> Tensor:
    """exp(2πi k x/P) at the nodes, as (mode, node)."""
    if line.axis is not None:
        x = torch.as_tensor((line.axis.nodes() - line.axis.origin) / line.axis.length, device=k.device)
        turns = k[:, None] * x / period(line, padding)
    else:
        halves = torch.arange(line.n, device=k.device) * 2 + (line.centering == "cell")  # of a spacing
        count = k[:, None] * halves
        if period(line, padding) == 1:
            count = count % (2 * gaps(line))  # whole turns are left out exactly
        turns = count.double() / (2 * gaps(line) * period(line, padding))
    return torch.polar(torch.ones_like(turns), 2 * math.pi * turns)


def shares(line: Line, padding: float, device: torch.device) -> Tensor:
    """Quadrature weights divided by the period."""
    if line.axis is not None:
        weights = torch.as_tensor(line.axis.weights() / line.axis.length, device=device)
    else:
        weights = torch.full((line.n,), 1 / gaps(line), dtype=torch.float64, device=device)
        if gaps(line) < line.n:
            i = torch.arange(line.n, device=device)
            weights = torch.where((i == 0) | (i == line.n - 1), weights / 2, weights)
    return weights / period(line, padding)


def volume_shares(lines: Sequence[Line], like: Tensor) -> Tensor:
    """(*space): what part of the domain each node stands for, by the product of the axes' quadratures."""
    product = like.new_ones(())
    for line in lines:
        product = product[..., None] * shares(line, 0.0, like.device).to(like)
    return product


def kept_modes(source: Line, target: Line, m: int, padding: float) -> int:
    """The largest of the modes up to `m` below the Nyquist modes of both axes; warns when that is less than `m`."""
    kept = min(m, resolved_modes(source, padding), resolved_modes(target, padding))
    if kept < m and not torch.compiler.is_compiling():
        _warn(min(source.n, target.n), kept, m)
    return kept


@functools.lru_cache(maxsize=1024)
def _warn(n: int, kept: int, m: int) -> None:
    """Once for each resolution."""
    warnings.warn(
        f"An axis of {n} nodes holds the modes |k| <= {kept} only: those up to {m} are left out. Refine the grid, or "
        "lower n_modes.",
        ResolutionWarning,
        stacklevel=2,
    )


Builder = Callable[[Line, int, float, torch.device], Tensor]


def sinusoids(line: Line, k: int, padding: float, device: torch.device) -> Tensor:
    """(2k + 1, node): cosines of the modes 0 to k, then sines of 1 to k."""
    c = waves(line, torch.arange(k + 1, device=device), padding)
    return torch.cat([c.real, c.imag[1:]])


def analysis(line: Line, k: int, padding: float, device: torch.device) -> Tensor:
    """(2k + 1, node): inner products with the sinusoids by the quadrature of the axis."""
    return sinusoids(line, k, padding, device) * shares(line, padding, device)


def synthesis(line: Line, k: int, padding: float, device: torch.device) -> Tensor:
    """(node, 2k + 1): values at the nodes of the sinusoids."""
    return sinusoids(line, k, padding, device).mT


def to_modes(line: Line, k: int, padding: float, device: torch.device) -> Tensor:
    """(2k + 1, 2k + 1): Fourier coefficients from -k to k of inner products with the sinusoids, C - iS and C + iS.

    Its adjoint makes factors of the sinusoids of factors of exp(2πi k x/P).
    """
    eye = torch.eye(k + 1, dtype=torch.float64, device=device)
    back = eye[1:].flip(0)
    return torch.cat([torch.cat([back, eye]), 1j * torch.cat([back, -eye])[:, 1:]], 1)


def to_sinusoids(line: Line, k: int, padding: float, device: torch.device) -> Tensor:
    """(2k + 1, 2k + 1): the adjoint of `to_modes`."""
    return to_modes(line, k, padding, device).mH


def to_modes_in_parts(line: Line, k: int, padding: float, device: torch.device) -> Tensor:
    """(2, 2k + 1, 2k + 1): the real and the imaginary part of `to_modes`."""
    return torch.view_as_real(to_modes(line, k, padding, device)).movedim(-1, 0)


def to_sinusoids_in_parts(line: Line, k: int, padding: float, device: torch.device) -> Tensor:
    """(2, 2k + 1, 2k + 1): the real and the imaginary part of `to_sinusoids`."""
    return torch.view_as_real(to_sinusoids(line, k, padding, device).resolve_conj()).movedim(-1, 0)


def last_analysis(line: Line, k: int, padding: float, device: torch.device) -> Tensor:
    """(node, pairs): coefficients from 0 to k of real values, each as a real and an imaginary column."""
    c = waves(line, torch.arange(k + 1, device=device), padding) * shares(line, padding, device)
    return torch.stack([c.real, -c.imag], 1).flatten(0, 1).mT


def last_synthesis(line: Line, k: int, padding: float, device: torch.device) -> Tensor:
    """(pairs, node): real values of modes from -k to k, those below zero being conjugate to the given ones."""
    modes = torch.arange(k + 1, device=device)
    c = waves(line, modes, padding) * torch.where(modes == 0, 1, 2)[:, None]
    return torch.stack([c.real, -c.imag], 1).flatten(0, 1)


@torch.compiler.assume_constant_result
def has_complex(device_type: str) -> bool:
    """Whether matrices of complex numbers can be multiplied on that type of device."""
    return _tried(device_type)


@functools.lru_cache(maxsize=16)
def _tried(device_type: str) -> bool:
    try:
        one = torch.ones(1, 1, 1, dtype=torch.complex64, device=device_type)
        return bool((one @ one).real.cpu() == 1)
    except (RuntimeError, TypeError):
        return False


COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def matrix(build: Builder, line: Line, k: int, padding: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`build(…)`, kept for the next call; a compiled graph computes it anew, for any number of nodes."""
    if torch.compiler.is_compiling():
        built = build(line, k, padding, device)
        return built.to(COMPLEX[dtype] if built.is_complex() else dtype)
    return _cached(build, line, k, padding, dtype, device)


@functools.lru_cache(maxsize=1024)
def _cached(build: Builder, line: Line, k: int, padding: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # the cached tensor must serve training as well
        # in float64 on the CPU: not every device has it
        built = build(line, k, padding, torch.device("cpu")).resolve_conj()
        return built.to(device, COMPLEX[dtype] if built.is_complex() else dtype).contiguous()
