"""Convolution in Fourier space with a learned multiplier of finitely many modes (arXiv:2506.10973, §3.3)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn

from nn2no.fourier import (
    Line,
    analysis,
    has_complex,
    kept_modes,
    last_analysis,
    last_synthesis,
    line_of,
    lines_of,
    matrix,
    synthesis,
    to_modes,
    to_modes_in_parts,
    to_sinusoids,
    to_sinusoids_in_parts,
)


class SpectralConv(nn.Module):
    """g(x) = Re Σ_{|k_l| <= m_l} R(k) f^(k) exp(2πi k·x/P) + bias, with f^(k) = ∫ f exp(-2πi k·x/P) dx / |P|.

    The coefficients f^ are quadratures on the grid of `f`, exact on periodic axes for what they resolve, and g is
    evaluated on any grid. The period P is the length of a periodic axis; other axes are extended by zero to
    (1 + `padding`) times their length, without rounding to a whole number of nodes. R(-k) = conj R(k) holds by taking
    the real part. Modes that the coarser of both grids cannot hold (from the Nyquist mode on) are left out.

    Parameters
    ----------
    n_modes
        The largest |k_l| of every axis.

    Raises
    ------
    ConfigError
        Channels or modes that are not positive, or a negative padding.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int],
        *,
        padding: float | int = 0.0,
        bias: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels) < 1 or not n_modes or min(n_modes) < 0 or not padding >= 0:
            raise ConfigError(
                f"in_channels={in_channels}, out_channels={out_channels}, n_modes={tuple(n_modes)}, padding={padding}: "
                "channels must be positive, modes and padding not negative."
            )
        self.in_channels, self.out_channels, self.padding = in_channels, out_channels, padding
        self.n_modes = tuple(int(m) for m in n_modes)
        modes = (*(2 * m + 1 for m in self.n_modes[:-1]), self.n_modes[-1] + 1)
        # pairs of reals, which .double(), autocast and devices without complex parameters leave whole;
        # a complex normal deviate of variance 2/(c + m) has half of it in each part
        weight = torch.randn(*modes, in_channels, out_channels, 2, dtype=dtype)
        self.weight = nn.Parameter(weight * (in_channels + out_channels) ** -0.5)
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels, dtype=dtype)) if bias else None)

    def forward(
        self, f: Float[Tensor, "batch channel *space"], grid: Grid | None = None, to: Grid | None = None
    ) -> Float[Tensor, "batch out_channel *new_space"]:
        """g on the grid `to`, by default that of `f`, which is by default the periodic one of its shape.

        Raises
        ------
        ShapeError
            `f` has other channels or axes, or is no field on `grid`.
        """
        if f.ndim != len(self.n_modes) + 2 or f.shape[1] != self.in_channels or not f.dtype.is_floating_point:
            raise ShapeError(
                f"SpectralConv expects a real field (batch, {self.in_channels}, *space) with {len(self.n_modes)} axes; "
                f"got {tuple(f.shape)} of {f.dtype}."
            )
        return self.transform(f, lines_of(f, grid), to and [line_of(axis) for axis in to.axes])

    def transform(self, f: Tensor, source: Sequence[Line], target: Sequence[Line] | None = None) -> Tensor:
        """The same, from and to axes that are described by hand; inputs are not checked."""
        with torch.autocast(f.device.type, enabled=False):
            work = f.float() if f.dtype in (torch.float16, torch.bfloat16) else f
            g = self._convolve(work, source, target or source)
        return g.to(f.dtype)

    def _convolve(self, f: Tensor, source: Sequence[Line], target: Sequence[Line]) -> Tensor:
        kept = [kept_modes(a, b, m, self.padding) for a, b, m in zip(source, target, self.n_modes, strict=True)]
        in_parts = not has_complex(f.device.type)
        if not in_parts and _fft_is_faster(source, kept) and _fft_is_faster(target, kept):
            return _from_modes_by_fft(
                self._multiply(_to_modes_by_fft(f, kept), kept), [line.n for line in target], kept
            )

        where = (self.padding, f.dtype, f.device)
        axes = range(len(kept) - 1)
        # fields are multiplied by real matrices only: of sinusoids in all axes but the last, where half of the modes
        # of a real function tell the rest; complex coefficients are made of the few numbers that are left
        for i in axes:
            f = _along(matrix(analysis, source[i], kept[i], *where), f, i + 2)
        pairs = f @ matrix(last_analysis, source[-1], kept[-1], *where)
        c = pairs.unflatten(-1, (-1, 2)).movedim((0, 1), (-3, -2))  # (k_1, …, k_last, batch, channel, part)
        if in_parts:
            g = self._multiply_in_parts(c.movedim(-1, 0), source, target, kept, where).movedim(0, -1)
        else:
            c = torch.view_as_complex(c)
            for i in axes:
                c = _along(matrix(to_modes, source[i], kept[i], *where), c, i)
            c = self._multiply(c, kept)
            for i in axes:
                c = _along(matrix(to_sinusoids, target[i], kept[i], *where), c, i)
            g = torch.view_as_real(c)
        pairs = g.movedim((-3, -2), (0, 1)).flatten(-2)
        g = pairs @ matrix(last_synthesis, target[-1], kept[-1], *where)
        for i in axes:
            g = _along(matrix(synthesis, target[i], kept[i], *where), g, i + 2)
        return g

    def _multiply(self, c: Tensor, kept: Sequence[int]) -> Tensor:
        """One matrix product for each mode, (k_1, …, k_last, batch, channel), and the bias as the mode zero."""
        R = torch.view_as_complex(self._multiplier(c.real.dtype, kept))
        if self.bias is None:
            return c @ R
        # a sum over the field would take as long as its transform
        around = [0, 0, 0, 0, 0, kept[-1], *(k for k in reversed(kept[:-1]) for _ in range(2))]
        zero = F.pad(self.bias.to(c).view(*[1] * (len(kept) + 1), -1), around)
        parts = (t.flatten(0, len(kept) - 1) for t in (zero, c, R))
        return torch.baddbmm(*parts).unflatten(0, c.shape[:-2])

    def _multiplier(self, kind: torch.dtype, kept: Sequence[int]) -> Tensor:
        """(k_1, …, k_last, in_channel, out_channel, part) of the kept modes."""
        R = self.weight.to(kind)
        for dim, (k, m) in enumerate(zip(kept[:-1], self.n_modes[:-1], strict=True)):
            R = R.narrow(dim, m - k, 2 * k + 1)
        return R.narrow(len(kept) - 1, 0, kept[-1] + 1)

    def _multiply_in_parts(
        self, c: Tensor, source: Sequence[Line], target: Sequence[Line], kept: Sequence[int], where: tuple
    ) -> Tensor:
        """From and to sinusoids, (part, k_1, …, k_last, batch, channel), on devices without complex numbers."""
        axes = range(len(kept) - 1)
        for i in axes:
            M = matrix(to_modes_in_parts, source[i], kept[i], *where)
            c = _product_in_parts(lambda m, c, i=i: _along(m, c, i), M, c)
        g = _product_in_parts(torch.matmul, c, self._multiplier(c.dtype, kept).movedim(-1, 0))
        if self.bias is not None:
            g[(0, *kept[:-1], 0)] += self.bias.to(g)
        for i in axes:
            M = matrix(to_sinusoids_in_parts, target[i], kept[i], *where)
            g = _product_in_parts(lambda m, g, i=i: _along(m, g, i), M, g)
        return g

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, n_modes={self.n_modes}, padding={self.padding}"


def _product_in_parts(times: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """(a₀ + i a₁)(b₀ + i b₁) as a pair."""
    return torch.stack([times(a[0], b[0]) - times(a[1], b[1]), times(a[0], b[1]) + times(a[1], b[0])])


def _along(m: Tensor, f: Tensor, dim: int) -> Tensor:
    """The matrix applied to a dimension."""
    rows = f.reshape(f.shape[:dim].numel(), f.shape[dim], f.shape[dim + 1 :].numel())
    return torch.bmm(m.expand(len(rows), -1, -1), rows).reshape(*f.shape[:dim], len(m), *f.shape[dim + 1 :])


def _fft_is_faster(lines: Sequence[Line], kept: Sequence[int]) -> bool:
    """Whether so many modes are kept that the transform of all of them costs less (measured on a CPU)."""
    uniform = all(line.axis is None and line.periodic and line.centering == "node" for line in lines)
    return uniform and kept[-1] >= 20


def _to_modes_by_fft(f: Tensor, kept: Sequence[int]) -> Tensor:
    """The kept coefficients as (k_1, …, k_last, batch, channel); only kept columns are transformed further."""
    c = torch.fft.rfft(f, norm="forward").narrow(-1, 0, kept[-1] + 1)
    for dim, k in enumerate(kept[:-1], start=2):
        c = torch.fft.fft(c, dim=dim, norm="forward")
        c = torch.cat([c.narrow(dim, c.shape[dim] - k, k), c.narrow(dim, 0, k + 1)], dim)
    return c.permute(*range(2, c.ndim), 0, 1)


def _from_modes_by_fft(g: Tensor, size: Sequence[int], kept: Sequence[int]) -> Tensor:
    """The real field with these coefficients on `size` nodes."""
    c = g.permute(-2, -1, *range(g.ndim - 2))
    for dim, (n, k) in enumerate(zip(size[:-1], kept[:-1], strict=True), start=2):
        gap = list(c.shape)
        gap[dim] = n - 2 * k - 1
        c = torch.cat([c.narrow(dim, k, k + 1), c.new_zeros(gap), c.narrow(dim, 0, k)], dim)
        c = torch.fft.ifft(c, dim=dim, norm="forward")
    # what is constant along the last axis must be real: some libraries assume it, others drop the rest
    c = torch.cat([c[..., :1].real.to(c.dtype), c[..., 1:]], -1)
    return torch.fft.irfft(c, n=size[-1], norm="forward")
