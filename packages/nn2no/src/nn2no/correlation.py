"""Correlations with kernels that are wide in nodes but made of few taps, by the Fourier transform."""

import functools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from nn2no.fourier import has_complex

_LARGEST = 2**25  # numbers in the spectrum of all kernels
# what a number at each of the log₂ N levels of an FFT, a complex multiplication, a number of the kernels' spectrum and
# all the calls cost beside a multiplication of torch's convolution, which takes channels by sixteen. Fitted to 341
# convolutions in float32 on one core: right in 92 % of them, at 2 % more time than the best choices on average.
_LEVEL, _PRODUCT, _KERNEL, _CALLS, _BLOCK = 15, 15, 130, 8e6, 16


def correlate(
    x: Float[Tensor, "batch channel *space"],
    weight: Float[Tensor, "out in *taps"],
    matrices: Sequence[Tensor | None],
    strides: Sequence[int],
    groups: int,
) -> Float[Tensor, "batch out *valid"]:
    """Torch's convolution of x with the kernel Σ_a w_a M_a, axis by axis; without a matrix M its taps are its nodes.

    The kernels' transforms are products of the taps with transforms of the matrices: none is ever computed in space.
    """
    kind = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    dims = tuple(range(2, x.ndim))
    lengths = [good_length(n) for n in x.shape[2:]]
    widths = kernel_widths(weight, matrices)
    X = torch.fft.rfftn(x.to(kind), s=lengths, dim=dims)
    modes = X.shape[2:]
    # one product of matrices for each mode and group; modes come first, since strided operands would be copied slowly
    X = X.flatten(2).unflatten(1, (groups, -1)).permute(3, 1, 0, 2).contiguous()
    Y = X @ _kernel_modes(weight.to(kind), matrices, lengths, groups)
    Y = Y.permute(2, 1, 3, 0).reshape(len(x), -1, *modes)
    y = torch.fft.irfftn(Y, s=lengths, dim=dims)
    for axis, (n, width, stride) in enumerate(zip(x.shape[2:], widths, strides, strict=True), start=2):
        y = y.narrow(axis, 0, n - width + 1)
        if stride > 1:
            y = y.index_select(axis, torch.arange(0, y.shape[axis], stride, device=y.device))
    return y.to(x.dtype)


def _kernel_modes(
    weight: Tensor, matrices: Sequence[Tensor | None], lengths: Sequence[int], groups: int
) -> Complex[Tensor, "mode group in out"]:
    """The conjugate transforms of the kernels, axis by axis from the taps."""
    kind, dim = weight.dtype, len(lengths)
    K = weight.unflatten(0, (groups, -1)).permute(*range(3, dim + 3), 0, 2, 1)  # (*taps, group, in, out)
    ends, done = K.shape[dim:], 1
    for axis, (n, matrix) in enumerate(zip(lengths, matrices, strict=True)):
        taps = weight.shape[2 + axis]
        M = torch.eye(taps, dtype=kind, device=K.device) if matrix is None else matrix.to(K.device, kind)
        M = (torch.fft.fft if axis < dim - 1 else torch.fft.rfft)(M, n=n, dim=0).conj().resolve_conj()
        K = K.reshape(done, taps, -1)
        K = M @ K if K.is_complex() else torch.complex(M.real @ K, M.imag @ K)
        done *= len(M)
    return K.reshape(-1, *ends)


def is_faster(
    x: Tensor, weight: Tensor, matrices: Sequence[Tensor | None], strides: Sequence[int], groups: int
) -> bool:
    """Whether the transforms cost less than torch's convolution with the kernel at all of its nodes."""
    batch, channels, out = x.shape[0], x.shape[1], weight.shape[0]
    widths = kernel_widths(weight, matrices)
    spectrum = math.prod(x.shape[2:]) / 2
    kernels = out * weight.shape[1]
    if kernels * spectrum > _LARGEST or not has_complex(x.device.type):
        return False
    outputs = math.prod((n - w) // t + 1 for n, w, t in zip(x.shape[2:], widths, strides, strict=True))
    direct = batch * outputs * math.prod(widths) * weight.shape[1] * -(-out // _BLOCK) * _BLOCK
    transforms = batch * (channels + out) * 2 * spectrum * math.log2(2 * spectrum) * _LEVEL
    return transforms + spectrum * kernels * (batch * _PRODUCT + _KERNEL) + _CALLS < direct


def kernel_widths(weight: Tensor, matrices: Sequence[Tensor | None]) -> list[int]:
    """The nodes of the kernel along each axis."""
    return [k if m is None else len(m) for k, m in zip(weight.shape[2:], matrices, strict=True)]


def good_length(n: int) -> int:
    """The next product of powers of 2, 3 and 5, of which transforms are fast."""
    return n if torch.compiler.is_compiling() else _good_length(n)


@functools.lru_cache(maxsize=1024)
def _good_length(n: int) -> int:
    rest = n
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    return n if rest == 1 else _good_length(n + 1)
