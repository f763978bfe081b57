"""Polynomials by their values at Chebyshev–Lobatto nodes of [0, 1], on one or several panels."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@lru_cache
def lobatto_nodes(degree: int, panels: int = 1) -> Float[np.ndarray, "nodes"]:
    """The degree·panels + 1 nodes, rising; neighbouring panels share one."""
    local = np.sin(np.pi / 2 * np.arange(degree) / degree) ** 2
    return np.append((np.arange(panels)[:, None] + local) / panels, 1.0)


@lru_cache
def chebyshev_coefficients(degree: int) -> Float[np.ndarray, "nodes nodes"]:
    """Matrix from the values at the nodes of one panel to coefficients of Chebyshev polynomials."""
    j = np.arange(degree + 1)
    halved = np.where((j == 0) | (j == degree), 0.5, 1.0)
    # the nodes rise, so the j-th one is −cos(πj/M)
    return 2 / degree * halved[:, None] * halved * np.cos(np.pi * j[:, None] * (degree - j) / degree)


@lru_cache
def clenshaw_curtis(degree: int, panels: int = 1) -> Float[np.ndarray, "nodes"]:
    """Weights of the nodes of `lobatto_nodes` for integrals over [0, 1]."""
    k = np.arange(0, degree + 1, 2)
    local = chebyshev_coefficients(degree)[k].T @ (1 / (1 - k**2.0)) / panels
    weights = np.zeros(degree * panels + 1)
    for p in range(panels):
        weights[p * degree : (p + 1) * degree + 1] += local
    return weights


@lru_cache
def differentiation_matrix(degree: int) -> Float[np.ndarray, "nodes nodes"]:
    """Derivatives at the nodes of `lobatto_nodes` of the polynomial through values there; constants have none."""
    points = lobatto_nodes(degree)
    weights = (-1.0) ** np.arange(degree + 1)
    weights[[0, -1]] /= 2
    matrix = weights / weights[:, None] / (points[:, None] - points + np.eye(degree + 1))
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, -matrix.sum(axis=1))
    return matrix


def constant(array: np.ndarray, like: Tensor) -> Tensor:
    """A table as tensor of another one's dtype and device (kept in numpy, where no transformation of torch acts)."""
    return torch.from_numpy(array).to(like)


def lagrange_basis(x: Float[Tensor, "*points"], degree: int) -> Float[Tensor, "*points nodes"]:
    """ℓ_j(x) for x in [0, 1], as products of differences: differentiable at nodes too, finite up to degree 1000."""
    nodes = 4 * constant(lobatto_nodes(degree), x)  # on an interval of length 4 products neither grow nor vanish
    differences = 4 * x[..., None] - nodes
    one = torch.ones_like(differences[..., :1])
    before = torch.cat([one, differences[..., :-1]], -1).cumprod(-1)
    after = torch.cat([one, differences.flip(-1)[..., :-1]], -1).cumprod(-1).flip(-1)
    return before * after * constant(_lagrange_weights(degree), x)


@lru_cache
def _lagrange_weights(degree: int) -> np.ndarray:
    nodes = 4 * lobatto_nodes(degree)
    return 1 / (nodes[:, None] - nodes + np.eye(degree + 1)).prod(axis=1)


def basis_on_panels(
    x: Float[Tensor, "*points"], degree: int, panels: int
) -> tuple[Int[Tensor, "*points local"], Float[Tensor, "*points local"]]:
    """Indices of the degree + 1 nodes around each x in [0, 1], and their basis functions there."""
    scaled = x * panels
    panel = scaled.detach().floor().clamp(0, panels - 1)
    columns = panel.long()[..., None] * degree + torch.arange(degree + 1, device=x.device)
    return columns, lagrange_basis(scaled - panel, degree)


def on_panels(
    values: Float[Tensor, "*batch nodes"], degree: int, panels: int, wanted: int
) -> Float[Tensor, "*batch more"]:
    """Values at the nodes of `wanted` panels, from those at the nodes of `panels`."""
    if panels == wanted:
        return values
    columns, basis = basis_on_panels(constant(lobatto_nodes(degree, wanted), values), degree, panels)
    return (values[..., columns] * basis).sum(-1)


def exponential_integrals(
    decay: Float[Tensor, "*batch"], degree: int, panels: int = 1
) -> tuple[Float[Tensor, "*batch nodes"], Float[Tensor, "*batch nodes nodes"]]:
    """E_i = e^{−g s_i} and Q_ij = ∫₀^{s_i} e^{−g(s_i−r)} ℓ_j(r) dr on the nodes s_i of [0, 1], for rates g.

    The integrals are those of a Gauss–Legendre rule exact to rounding.
    """
    nodes = constant(lobatto_nodes(degree, panels), decay)
    E = torch.exp(-decay[..., None] * nodes)
    lags, weighted = (constant(table, decay) for table in _quadrature(degree))
    kernel = torch.exp(-decay.reshape(-1, 1) / panels * lags[:, None])  # (nodes, batch, gauss)
    local = (kernel @ weighted)[..., : degree + 1].movedim(0, 1).reshape(*decay.shape, degree + 1, degree + 1) / panels
    if panels == 1:
        return E, local
    last, rows = local[..., -1:, :], []
    for p in range(panels):
        first = 0 if p == 0 else 1  # the node shared with the panel before has its row there
        here = nodes[p * degree + first : (p + 1) * degree + 1]
        row = _place(local[..., first:, :], p, panels, degree)
        for q in range(p):
            passed = torch.exp(-decay[..., None] * (here - (q + 1) / panels))[..., None]
            row = row + _place(passed * last, q, panels, degree)
        rows.append(row)
    return E, torch.cat(rows, -2)


def _place(block: Tensor, panel: int, panels: int, degree: int) -> Tensor:
    """Columns of one panel among those of all."""
    return torch.nn.functional.pad(block, (panel * degree, (panels - 1 - panel) * degree))


@lru_cache
def _quadrature(degree: int) -> tuple[Float[np.ndarray, "nodes gauss"], Float[np.ndarray, "nodes gauss padded"]]:
    """For each node s_i: lags s_i − r_q to the Gauss points of [0, s_i], and weights times ℓ_j(r_q).

    Columns are padded with zeros to whole blocks of a CPU's matrix kernels, see `SegmentMap`.
    """
    points, weights = np.polynomial.legendre.leggauss(degree + 8)
    points, nodes = (1 + points) / 2, lobatto_nodes(degree)[:, None]
    basis = lagrange_basis(torch.from_numpy(nodes * points), degree).numpy()
    basis = np.pad(basis, ((0, 0), (0, 0), (0, -(degree + 1) % 8)))
    return nodes * (1 - points), (nodes * weights / 2)[..., None] * basis
