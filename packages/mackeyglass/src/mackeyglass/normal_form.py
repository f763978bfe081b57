"""The normal form of Hopf bifurcations: whether the periodic orbits that are born are stable."""

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from sciml.errors import ConfigError

from mackeyglass.arclength import Function
from mackeyglass.characteristic import null_vector
from mackeyglass.equation import DDE
from mackeyglass.forward import jvp
from mackeyglass.linearisation import linearise_at, numbers


@dataclass(frozen=True, eq=False)
class HopfPoint:
    """An equilibrium with the characteristic roots ±iω, at the parameters of `system`."""

    system: DDE
    equilibrium: Float[np.ndarray, "d"]
    omega: float

    @property
    def parameters(self) -> dict[str, float]:
        """All parameters by name."""
        return numbers(self.system)

    @property
    def period(self) -> float:
        """2π/ω, of the periodic orbits that are born."""
        return 2 * np.pi / self.omega

    @property
    def vector(self) -> Complex[np.ndarray, "d"]:
        """q with Δ(iω)q = 0 and qᴴq = 1, largest component positive: the orbits begin as x* + ε Re(q e^{iωt})."""
        return null_vector(linearise_at(self.system, self.equilibrium).characteristic_matrix(1j * self.omega))


@dataclass(frozen=True, eq=False)
class HopfNormalForm:
    """ż = iωz + c₁z|z|² + …, the flow on the centre manifold, x ≈ x* + 2 Re(zq).

    Attributes
    ----------
    l1
        Re c₁/ω, the first Lyapunov coefficient: negative where the orbits that are born are stable on the centre
        manifold (supercritical). It is proportional to |q|², and other programs scale q differently.
    right, left
        q with Δ(iω)q = 0 and qᴴq = 1 (for one component q = 1), and p with pᵀΔ(iω) = 0 and pᵀΔ'(iω)q = 1.
    """

    l1: float
    c1: complex
    right: Complex[np.ndarray, "d"]
    left: Complex[np.ndarray, "d"]

    @property
    def supercritical(self) -> bool:
        """Whether l₁ < 0."""
        return self.l1 < 0


def hopf_normal_form(point: HopfPoint) -> HopfNormalForm:
    """Normal form at a Hopf point of any number of components and delays.

    With Φ = (q, e^{−iωτ₁}q, …), the mode at the times that the equation sees, and B, C the second and third derivatives
    of F by the state and the delayed states,

        c₁ = ½ pᵀ[C(Φ, Φ, Φ̄) + 2B(Φ, H₁₁) + B(Φ̄, H₂₀)],
        h₁₁ = Δ(0)⁻¹B(Φ, Φ̄),   h₂₀ = Δ(2iω)⁻¹B(Φ, Φ),

    where H₁₁ = (h₁₁, h₁₁, …) and H₂₀ = (h₂₀, e^{−2iωτ₁}h₂₀, …). For ordinary differential equations, whose λI − A is
    Δ(λ) here, see Kuznetsov, Elements of Applied Bifurcation Theory, §5.4.

    Raises
    ------
    ConfigError
        If iω is no simple characteristic root, or 0 or 2iω is another one.
    """
    if not isinstance(point, HopfPoint):
        raise ConfigError(f"a normal form belongs to a HopfPoint, from hopf_points or locate_hopf, got {point!r}")
    linear, omega = linearise_at(point.system, point.equilibrium), point.omega
    critical = linear.characteristic_matrix(1j * omega)
    scale = 1 + omega + np.abs(linear.matrices).max()
    q, p = null_vector(critical), null_vector(critical.T)
    normalisation = p @ linear.characteristic_matrix(1j * omega, 1) @ q
    if np.linalg.norm(critical @ q) > 1e-6 * scale or abs(normalisation) < 1e-8:
        raise ConfigError(f"i·{omega} is no simple characteristic root of {point.system}: take a point of locate_hopf")
    p = p / normalisation

    def mode(vector: np.ndarray, frequency: float) -> np.ndarray:
        return np.exp(-1j * frequency * linear.delays)[:, None] * vector

    def response(frequency: float, forcing: np.ndarray) -> np.ndarray:
        matrix = linear.characteristic_matrix(1j * frequency)
        if np.linalg.svd(matrix, compute_uv=False)[-1] < 1e-10 * scale:
            raise ConfigError(
                f"i·{frequency} is a characteristic root of {point.system} too: there is no such normal form"
            )
        return mode(np.linalg.solve(matrix, forcing), frequency)

    here = mode(q, omega)
    steady = response(0.0, derivative(point, here, here.conj()))
    double = response(2 * omega, derivative(point, here, here))
    cubic = derivative(point, here, here, here.conj())
    c1 = complex(p @ (cubic + 2 * derivative(point, here, steady) + derivative(point, here.conj(), double)) / 2)
    return HopfNormalForm(c1.real / omega, c1, q, p)


def derivative(point: HopfPoint, *directions: Complex[np.ndarray, "terms d"]) -> Complex[np.ndarray, "d"]:
    """Multilinear derivative of F at the equilibrium, of as many directions of (state, delayed states) as are given.

    Nested forward-mode differentiation takes real directions; products of real and imaginary parts are its batch.
    """
    parts = list(itertools.product((0, 1), repeat=len(directions)))
    real = [
        torch.from_numpy(np.stack([(np.imag(value) if part[i] else np.real(value)) for part in parts], axis=-1))
        for i, value in enumerate(directions)
    ]  # (terms, d, copies) each
    parameters = point.parameters
    states = torch.from_numpy(point.equilibrium)[None, :, None].repeat(len(real[0]), 1, len(parts))

    def field(states: torch.Tensor) -> torch.Tensor:
        return point.system.field(states[0], list(states[1:]), parameters)

    return functools.reduce(_along, real, field)(states).numpy() @ np.array([1j ** sum(part) for part in parts])


def _along(function: Function, direction: torch.Tensor) -> Function:
    return lambda states: jvp(function, (states,), (direction,))[1]
