"""Characteristic roots of equilibria: how solutions e^{λt}v near them grow or decay (arXiv 2203.00181)."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from sciml.errors import ConfigError
from scipy import linalg, special

from mackeyglass.arguments import check_whole
from mackeyglass.chebyshev import differentiation_matrix, lagrange_basis
from mackeyglass.equation import DDE
from mackeyglass.errors import ContinuationError
from mackeyglass.linearisation import Linearisation, State, linearise_at

LARGEST = 1000  # order of a generator beyond which its eigenvalues take many seconds


def characteristic_roots(system: DDE, equilibrium: State | None = None, k: int = 6) -> Complex[np.ndarray, "k"]:
    """The k rightmost roots of det Δ(λ) = 0 by decreasing real part; of a pair, that with Im λ > 0 comes first.

    Eigenvalues of the discretised infinitesimal generator (Breda, Maset & Vermiglio, Pseudospectral differencing
    methods for characteristic roots of delay differential equations, 2005), each then corrected to rounding by Newton's
    method. Its size follows from a bound on the roots, so that none is missed. Multiple roots are repeated.

    Parameters
    ----------
    equilibrium
        d numbers; by default the positive equilibrium of the Mackey–Glass equation, the origin of any other.

    Raises
    ------
    ConfigError
        If k is not 1, 2, …, the state is no equilibrium, or the system is a batch.
    ContinuationError
        If there are fewer than k roots within reach: without influence of the delayed states there are just d. Or if
        the delays are too long for the largest generator.
    """
    check_whole("k", k)
    linear = linearise_at(system, equilibrium)
    nodes, roots = _enough_nodes(linear, 0.0), np.empty(0, complex)
    if (nodes + 1) * system.dim > LARGEST:
        raise ContinuationError(_too_long(system))
    while (nodes + 1) * system.dim <= LARGEST:
        roots = _resolved(linear, nodes)
        needed = _enough_nodes(linear, roots[k - 1].real) if len(roots) >= k else 2 * nodes
        if needed <= nodes:
            return roots[:k]
        nodes = min(needed, 2 * nodes)
    raise ContinuationError(
        f"only {len(roots)} of k={k} characteristic roots of {system} were found: ask for fewer; "
        "the others do not exist or lie too far left"
    )


def unstable_roots(system: DDE, equilibrium: State | None = None) -> int:
    """Number of characteristic roots with positive real part.

    Raises
    ------
    ConfigError
        If the state is no equilibrium, or the system is a batch.
    ContinuationError
        If the roots lie too far apart for the largest generator.
    """
    linear = linearise_at(system, equilibrium)
    nodes = _enough_nodes(linear, 0.0)
    if (nodes + 1) * system.dim > LARGEST:
        raise ContinuationError(_too_long(system))
    while (nodes + 1) * system.dim <= LARGEST:
        roots, rest = _resolved(linear, nodes), _eigenvalues(linear, nodes)
        if len(rest) == len(roots) or rest[len(roots)].real < 0:
            return int((np.real(roots) > 0).sum())
        nodes *= 2
    raise ContinuationError(f"the unstable characteristic roots of {system} were not resolved: shorten the delays")


def lambert_roots(system: DDE, equilibrium: State | None = None, k: int = 6) -> Complex[np.ndarray, "k"]:
    """The k rightmost roots of a scalar equation with one delay, in closed form.

    λ = a + b e^{−λτ} has the roots a + W(bτe^{−aτ})/τ, one for each branch of Lambert's W. Order as of
    `characteristic_roots`.

    Raises
    ------
    ConfigError
        If k is not 1, 2, …, the equation has several components or delays, or the delayed state has no influence.
    """
    check_whole("k", k)
    if system.dim != 1 or len(system.delays) != 1:
        raise ConfigError(
            f"the roots of {system.dim} components with {len(system.delays)} delays have no closed form: "
            "use characteristic_roots"
        )
    linear = linearise_at(system, equilibrium)
    (a, b), tau = linear.matrices[:, 0, 0], linear.delays[1]
    if b == 0:
        raise ConfigError(f"the delayed state has no influence at this equilibrium: the only root is {a}")
    with np.errstate(over="ignore"):
        argument = b * tau * np.exp(-a * tau)
    if not np.isfinite(argument):
        raise ConfigError(f"bτe^(−aτ) overflows with a={a:g}, b={b:g}, τ={tau:g}: use characteristic_roots")
    # the branches 0, 1, … lie in the upper half plane or are real; branch −1 is real or conjugate to branch 0
    branches: Any = [*range(k), -1] if -np.exp(-1) <= argument < 0 else [*range(k)]
    return _ordered(a + special.lambertw(argument, branches, tol=1e-15) / tau)[:k]


def _too_long(system: DDE) -> str:
    closed = ", or take lambert_roots" if system.dim == 1 and len(system.delays) == 1 else ""
    return (
        f"the delays of {system} are too long beside its rates: the generator would have an order of more than "
        f"{LARGEST}; shorten them{closed}"
    )


def rightmost_roots(linear: Linearisation) -> Complex[np.ndarray, "found"]:
    """All roots with Re λ ≥ 0 and those left of them that the same generator resolves, by decreasing real part."""
    return _resolved(linear, _enough_nodes(linear, 0.0))


def generator(linear: Linearisation, nodes: int) -> Float[np.ndarray, "order order"]:
    """Discretised infinitesimal generator on the Chebyshev points 0 = θ₀ > … > θ_M = −τ, M = `nodes`, in blocks of d.

    Block row 0 states the equation, v'(0) = Σⱼ Aⱼ v(−τⱼ) with interpolated v; the others differentiate by θ.
    """
    d, longest = linear.matrices.shape[1], linear.delays.max()
    # tables belong to rising nodes
    values = lagrange_basis(torch.from_numpy(1 - linear.delays / longest), nodes).numpy()[:, ::-1]
    matrix = np.kron(differentiation_matrix(nodes)[::-1, ::-1] / longest, np.eye(d))
    matrix[:d] = np.einsum("jkl,jm->kml", linear.matrices, values).reshape(d, -1)
    return matrix


def correct_root(linear: Linearisation, root: complex) -> complex:
    """The characteristic root near an approximation.

    Newton's method on Δ(λ)v = 0: Δ(λ)w = μΔ'(λ)w is solved for the least μ, and λ − μ is the next λ (Ruhe, Algorithms
    for the nonlinear eigenvalue problem, 1973). For d = 1 this is Newton's method on Δ, and several independent vectors
    of one root do not slow it down.
    """
    last = np.inf
    for _ in range(20):
        pencil = linear.characteristic_matrix(root), linear.characteristic_matrix(root, 1)
        steps = linalg.eigvals(*pencil)
        step = complex(steps[np.argmin(np.abs(steps))])
        if not abs(step) < last:  # rounding
            break
        root, last = root - step, abs(step)
        if last <= 1e-16 * abs(root):
            break
    return root


def null_vector(matrix: Complex[np.ndarray, "d d"]) -> Complex[np.ndarray, "d"]:
    """Unit vector v of the least ‖matrix v‖, whose largest component is positive."""
    vector = np.linalg.svd(matrix)[2][-1].conj()
    largest = vector[np.argmax(np.abs(vector))]
    return vector * (abs(largest) / largest)


def _enough_nodes(linear: Linearisation, real: float) -> int:
    """Nodes that resolve all roots right of a real part.

    They fulfil |λ| ≤ Σⱼ‖Aⱼ‖e^{−Re λ τⱼ} = R, and a polynomial resolves e^{λθ} on a delay of length τ as soon as its
    degree exceeds Rτ/2, from where on errors fall faster than exponentially.
    """
    norms = np.linalg.norm(linear.matrices, ord=2, axis=(1, 2))
    radius = float(norms @ np.exp(-min(real, 0.0) * linear.delays))
    return int(min(radius * linear.delays.max() / 2, 1e9)) + 24


def _resolved(linear: Linearisation, nodes: int) -> np.ndarray:
    """Corrected eigenvalues of the generator, as far from the right as the correction is small."""
    roots = []
    for value in _eigenvalues(linear, nodes):
        if value.imag < 0:
            continue
        root = correct_root(linear, complex(value))
        if not abs(root - value) <= 1e-5 * (1 + abs(value)):
            break
        roots.append(root if value.imag else root.real)
    return _ordered(np.array(roots, dtype=complex))


def _eigenvalues(linear: Linearisation, nodes: int) -> np.ndarray:
    values = np.asarray(linalg.eigvals(generator(linear, nodes)))
    return _ordered(values[np.imag(values) >= 0])


def _ordered(upper: np.ndarray) -> np.ndarray:
    """Roots of the closed upper half plane and their conjugates, by decreasing real part."""
    roots = np.concatenate([upper, upper[np.imag(upper) > 0].conj()])
    return roots[np.lexsort((-np.imag(roots), -np.real(roots)))]
