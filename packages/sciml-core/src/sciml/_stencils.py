"""The tables behind numerical derivatives: Fornberg weights, differentiation matrices, Fourier continuation."""

from functools import lru_cache

import numpy as np
import torch

from sciml._axes import Axis
from sciml.errors import ConfigError

CONTINUATION_POINTS = 5  # boundary samples fitted by a polynomial of degree 4: first derivatives of order 4
_GAP = 25  # samples over which it fades to zero
_ZEROS = 12  # samples over which it then has to vanish
_BAND = 0.5  # share of the sampled frequencies that the fading may use

# cached tables of constants, which a traced graph would compute anew; torch.compiler.disable imports the compiler now
_opaque = torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]


def fornberg_weights(offsets: np.ndarray, order: int) -> np.ndarray:
    """Weights (row, point) of the derivative at 0 from values at `offsets` (row, point).

    Vectorised over rows; Fornberg, Math. Comp. 51 (1988), 699-706.
    """
    rows, n = offsets.shape
    delta = np.zeros((rows, n, order + 1))
    delta[:, 0, 0] = 1
    c1 = np.ones(rows)
    m = np.arange(order + 1)
    for i in range(1, n):
        c2 = np.ones(rows)
        previous = delta[:, i - 1].copy()
        for j in range(i):
            c3 = offsets[:, i] - offsets[:, j]
            c2 = c2 * c3
            lower = np.pad(delta[:, j, :-1], ((0, 0), (1, 0))) * m
            delta[:, j] = (offsets[:, i, None] * delta[:, j] - lower) / c3[:, None]
        lower = np.pad(previous[:, :-1], ((0, 0), (1, 0))) * m
        delta[:, i] = (c1 / c2)[:, None] * (lower - offsets[:, i - 1, None] * previous)
        c1 = c2
    return delta[:, :, order]


@_opaque
@lru_cache(maxsize=64)
def finite_difference_stencils(axis: Axis, order: int, accuracy: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights (node, point); centred where possible, one-sided at walls, wrapped on periodic axes."""
    if order < 1 or accuracy < 1:
        raise ConfigError(f"order={order}, accuracy={accuracy}: both must be at least 1.")
    n, size = axis.n, order + accuracy
    symmetric = 2 * ((order + 1) // 2) - 1 + 2 * ((accuracy + 1) // 2)  # symmetry gains one order or more
    needed = symmetric if axis.periodic else size
    if n < needed:
        raise ConfigError(
            f"A derivative of order {order} and accuracy {accuracy} needs {needed} nodes along its axis, which has "
            f"{n}; lower the accuracy or refine the grid."
        )
    x, node = axis.nodes(), np.arange(n)
    if axis.periodic:
        index = node[:, None] + np.arange(symmetric) - symmetric // 2
        offsets = np.broadcast_to((np.arange(symmetric) - symmetric // 2) * axis.spacing, index.shape)
        return index % n, fornberg_weights(offsets, order)
    start = np.clip(node - size // 2 + (size % 2 == 0) * (x - np.roll(x, 1) > np.roll(x, -1) - x), 0, n - size)
    index = start[:, None] + np.arange(size)
    weights = fornberg_weights(x[index] - x[:, None], order)
    inner = (node >= symmetric // 2) & (node < n - symmetric // 2)
    if axis.kind != "uniform":
        return index, weights
    width = max(size, symmetric)
    index = np.pad(index, ((0, 0), (0, width - size)))  # padded with weight zero
    weights = np.pad(weights, ((0, 0), (0, width - size)))
    offsets = (np.arange(symmetric) - symmetric // 2) * axis.spacing
    index[inner], weights[inner] = 0, 0.0
    index[inner, :symmetric] = node[inner, None] + np.arange(symmetric) - symmetric // 2
    weights[inner, :symmetric] = fornberg_weights(offsets[None], order)
    return index, weights


@_opaque
@lru_cache(maxsize=64)
def differentiation_matrix(axis: Axis, order: int) -> np.ndarray:
    """The matrix (node, node) that differentiates the polynomial interpolant `order` times.

    The recursion of Welfert with diagonals from row sums; Baltensperger & Trummer, SIAM J. Sci. Comput. 24 (2003).
    """
    x, w = axis.nodes(), axis.barycentric()
    difference = x[:, None] - x
    np.fill_diagonal(difference, 1.0)
    ratio = w / w[:, None]
    matrix = np.eye(axis.n)
    for k in range(1, order + 1):
        matrix = k / difference * (ratio * matrix.diagonal()[:, None] - matrix)
        np.fill_diagonal(matrix, 0.0)
        np.fill_diagonal(matrix, -matrix.sum(1))
    return matrix


@_opaque
@lru_cache(maxsize=1)
def continuation_matrix() -> np.ndarray:
    """FC(Gram): the matrix (gap, points) that continues boundary samples smoothly to zero.

    Every Gram polynomial on the samples is matched, in least squares, by a trigonometric polynomial that vanishes
    after the gap; Amlani & Bruno, J. Comput. Phys. 307 (2016), 333-354, with a truncated SVD instead of extended
    precision.
    """
    points, fine = CONTINUATION_POINTS, 20
    period = points + _GAP + _ZEROS + _GAP
    samples = np.arange(points)
    matched = np.arange((points - 1) * fine + 1) / fine
    vanishing = points + _GAP + np.arange((_ZEROS - 1) * fine + 1) / fine

    def legendre(s: np.ndarray) -> np.ndarray:
        return np.polynomial.legendre.legvander(2 * s / (points - 1) - 1, points - 1)

    def waves(s: np.ndarray) -> np.ndarray:
        phase = 2 * np.pi / period * np.outer(s, np.arange(int(_BAND * period / 2) + 1))
        return np.hstack([np.cos(phase), np.sin(phase[:, 1:])])

    gram, r = np.linalg.qr(legendre(samples))
    target = np.vstack([legendre(matched) @ np.linalg.inv(r), np.zeros((len(vanishing), points))])
    coefficients = np.linalg.lstsq(np.vstack([waves(matched), waves(vanishing)]), target, rcond=1e-13)[0]
    return waves(points + np.arange(_GAP)) @ coefficients @ gram.T
