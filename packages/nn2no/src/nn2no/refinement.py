"""The same functions on finer and finer grids of one domain: grids, random fields, differences, spectra."""

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Literal

import torch
from sciml.errors import ConfigError
from sciml.grids import Grid
from torch import Tensor, nn

Norm = Literal["l2", "max"]
Probe = Callable[[Grid], Tensor]


def difference(u: Tensor, v: Tensor, domain: Grid, norm: Norm = "l2") -> float:
    """The largest ‖u - v‖ / ‖v‖ over the batch, of functions on the domain, on the grid of `v`; or of vectors."""
    u, v = u.double(), v.double()
    if v.ndim == 2:
        error, size = (u - v).norm(dim=1), v.norm(dim=1)
    else:
        p, fine = (2 if norm == "l2" else math.inf), _grid_of(v, domain)
        error, size = fine.norm(_grid_of(u, domain).interpolate(u, fine) - v, p), fine.norm(v, p)
    return float((error / size.clamp_min(torch.finfo(v.dtype).tiny)).max()) if float(error.max()) > 0 else 0.0


def spectrum_tail(u: Tensor, domain: Grid) -> float:
    """The largest share of the norm on waves above half the largest one; of even continuations where not periodic."""
    if u.ndim == 2:
        return 0.0
    u = u.double()
    for axis, part in enumerate(domain.axes, start=2):
        if not part.periodic:
            mirror = (
                u.flip(axis) if part.centering == "cell" else u.flip(axis).narrow(axis, 1, max(u.shape[axis] - 2, 0))
            )
            u = torch.cat([u, mirror], axis)
    energy = torch.fft.fftn(u, dim=list(range(2, u.ndim))).abs().square()
    low = energy
    for axis in range(2, u.ndim):
        k = torch.fft.fftfreq(u.shape[axis]).abs()
        low = low.index_select(axis, (k <= 0.25).nonzero()[:, 0])
    total = energy.flatten(1).sum(1)
    share = 1 - low.flatten(1).sum(1) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return float(share.clamp(0, 1).sqrt().max())


def intervals(grid: Grid) -> tuple[int, ...]:
    """The intervals that the nodes of each axis make: n on periodic axes and in cells, n - 1 from wall to wall."""
    return tuple(n if wraps or place == "cell" else n - 1 for n, wraps, place in _axes(grid))


def refined(domain: Grid, n: int) -> Grid:
    """The grid on the same domain with `n` intervals along the first axis, and in proportion along the others."""
    old = intervals(domain)
    counts = [Fraction(n * m, old[0]) for m in old]
    if any(c.denominator > 1 for c in counts):
        raise ConfigError(f"{n} intervals along the first axis would be {tuple(map(float, counts))}: no whole numbers.")
    nodes = [
        int(c) + (not wraps and place == "node") for c, (_, wraps, place) in zip(counts, _axes(domain), strict=True)
    ]
    return _with_shape(domain, nodes)


def random_fields(domain: Grid, channels: int, limit: int, n: int, seed: int) -> Probe:
    """Gaussian random fields of variance one: Re Σ a_k z_k exp(2πi k·x/P), |k_l| <= limit, a_k ∝ 1/(|k|² + 9).

    The period P is the length of periodic axes and twice that of others, on which the fields are then not periodic.
    """
    k = torch.arange(-limit, limit + 1, dtype=torch.float64)
    square = sum(torch.meshgrid(*[k**2] * domain.dim, indexing="ij"), torch.zeros(()))
    amplitude = 1 / (square + 9)
    shape = (n, channels, *amplitude.shape)
    z = torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    coefficients = z * (amplitude * math.sqrt(2) / amplitude.norm())

    def sample(grid: Grid) -> Tensor:
        u = coefficients
        for axis, part in enumerate(grid.axes, start=2):
            period = part.length * (1 if part.periodic else 2)
            angles = 2 * math.pi / period * torch.outer(torch.as_tensor(part.nodes() - part.origin), k)
            waves = torch.polar(torch.ones_like(angles), angles)
            u = (u.movedim(axis, -1) @ waves.mT).movedim(-1, axis)
        return u.real

    return sample


def _axes(grid: Grid) -> Iterator[tuple[int, bool, str]]:
    return zip(grid.shape, grid.periodic, grid.centering, strict=True)


def _with_shape(domain: Grid, shape: Sequence[int]) -> Grid:
    # one node, where a network has averaged over the axis, stands for the whole of it
    centering = ["cell" if n == 1 else place for n, place in zip(shape, domain.centering, strict=True)]
    origin = [axis.origin for axis in domain.axes]
    return Grid.uniform(shape, domain.lengths, periodic=domain.periodic, centering=centering, origin=origin)  # type: ignore[arg-type]


def _grid_of(u: Tensor, domain: Grid) -> Grid:
    return _with_shape(domain, tuple(u.shape[2:]))


def input_channels(module: nn.Module) -> int | None:
    """Those of its first layer that says so; None if none does."""
    for layer in module.modules():
        channels = layer.in_features if isinstance(layer, nn.Linear) else getattr(layer, "in_channels", None)
        if isinstance(channels, int):
            return channels
    return None
