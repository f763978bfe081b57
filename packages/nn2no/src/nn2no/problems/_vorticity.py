"""The two-dimensional vorticity equation on a periodic box: a pseudo-spectral solver with a step for each sample."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Complex, Float
from sciml.errors import ConfigError, DataError, ShapeError
from torch import Tensor

Scheme = Literal["if-rk4", "cn-heun"]
Real = float | int
# (batch, k2, k1): the transforms along both axes then find their data contiguous
Spectrum = Complex[Tensor, "batch k2 k1"]
Step = Float[Tensor, "batch 1 1"]


class VorticityEquation:
    """∂ₜω = N(ω) + f + ν Δω with N(ω) = −∇·(uω), u = (∂₂φ, −∂₁φ), −Δφ = ω, in Fourier space.

    Kept are the modes |m| <= (n − 1) // 3 of both axes, so that products are free of aliasing (the 2/3 rule), without
    the mean. The identity −∇·(uω) = (∂₂² − ∂₁²)(u₁u₂) + ∂₁∂₂(u₁² − u₂²) needs four transforms instead of five.
    """

    def __init__(self, shape: tuple[int, int], lengths: tuple[float, float], like: Tensor, viscosity: float) -> None:
        self.n2, self.cut2 = shape[1], (shape[1] - 1) // 3
        m1 = torch.fft.fftfreq(shape[0], 1 / shape[0], dtype=like.dtype, device=like.device)
        m2 = torch.arange(self.cut2 + 1, dtype=like.dtype, device=like.device)[:, None]
        k1, k2 = torch.broadcast_tensors(2 * math.pi / lengths[0] * m1, 2 * math.pi / lengths[1] * m2)
        square = k1**2 + k2**2
        self.kept = (m1.abs() <= (shape[0] - 1) // 3) & (square > 0)
        self.spacing = (lengths[0] / shape[0], lengths[1] / shape[1])
        self.diffusion = -viscosity * square
        self.biot_savart = 1j * torch.where(self.kept, torch.stack([k2, -k1]) / square, 0)
        self.stress = torch.where(self.kept, torch.stack([k1**2 - k2**2, -k1 * k2]), 0).to(self.biot_savart)

    def to_spectrum(self, field: Float[Tensor, "*batch x1 x2"]) -> Complex[Tensor, "*batch k2 k1"]:
        """The Fourier coefficients; only the columns that are kept are transformed along the first axis."""
        columns = torch.fft.rfft(field, norm="forward")[..., : self.cut2 + 1]
        return torch.fft.fft(columns.mT, norm="forward")

    def to_field(self, spectrum: Complex[Tensor, "*batch k2 k1"]) -> Float[Tensor, "*batch x1 x2"]:
        """The field with these coefficients."""
        columns = torch.fft.ifft(spectrum, norm="forward")
        return torch.fft.irfft(columns.mT, n=self.n2, norm="forward")

    def velocity(self, w: Spectrum) -> Float[Tensor, "batch 2 x1 x2"]:
        """u = (∂₂φ, −∂₁φ) with −Δφ = ω."""
        return self.to_field(self.biot_savart * w[:, None])

    def slope(self, u: Float[Tensor, "batch 2 x1 x2"], f: Spectrum) -> Spectrum:
        """N(ω) + f where the velocity is u."""
        u1, u2 = u.unbind(1)
        products = torch.empty_like(u)
        torch.mul(u1, u2, out=products[:, 0])
        torch.mul(u1, u1, out=products[:, 1]).addcmul_(u2, u2, value=-1)
        p = self.to_spectrum(products)
        return torch.addcmul(f, p[:, 0], self.stress[0]).addcmul_(p[:, 1], self.stress[1])

    def step_size(self, u: Float[Tensor, "batch 2 x1 x2"], cfl: Real, largest: Real) -> Step:
        """cfl / max(|u₁|/h₁ + |u₂|/h₂), bounded by `largest`: the fluid is at rest in the beginning."""
        u1, u2 = u.abs().unbind(1)
        rate = torch.add(u1 / self.spacing[0], u2, alpha=1 / self.spacing[1]).amax((-2, -1), keepdim=True)
        return (cfl / rate).clamp_max(largest)


def if_rk4(equation: VorticityEquation, w: Spectrum, f: Spectrum, u: Tensor, dt: Step) -> Spectrum:
    """The classical Runge-Kutta method for exp(−νΔt)ω, the integrating factor; fourth order."""

    def slope(w: Spectrum) -> Spectrum:
        return equation.slope(equation.velocity(w), f)

    E = torch.exp(equation.diffusion * (dt / 2)).to(w)  # half a step of diffusion
    tau = dt.to(w)
    Ew = E * w
    EEw = E * Ew
    a = equation.slope(u, f)
    b = slope(torch.addcmul(Ew, E * (tau / 2), a))
    c = slope(torch.addcmul(Ew, tau / 2, b))
    d = slope(torch.addcmul(EEw, E * tau, c))
    # E²ω + dt/6 (E²a + 2E(b + c) + d)
    middle = b.add_(c).mul_(2).addcmul_(E, a)
    return EEw.addcmul_(tau / 6, d.addcmul_(E, middle))


def cn_heun(equation: VorticityEquation, w: Spectrum, f: Spectrum, u: Tensor, dt: Step) -> Spectrum:
    """Crank-Nicolson for diffusion, Heun's method for the rest; second order."""
    half = equation.diffusion * (dt / 2)
    explicit, implicit = (1 + half).to(w) * w, (1 - half).to(w)
    tau = dt.to(w)
    a = equation.slope(u, f)
    b = equation.slope(equation.velocity((explicit + tau * a) / implicit), f)
    return (explicit + tau / 2 * (a + b)) / implicit


SCHEMES: dict[str, Callable[[VorticityEquation, Spectrum, Spectrum, Tensor, Step], Spectrum]] = {
    "if-rk4": if_rk4,
    "cn-heun": cn_heun,
}


@torch.no_grad()
def solve_vorticity(
    omega0: Float[Tensor, "*batch x1 x2"],
    forcing: Float[Tensor, "*batch x1 x2"] | None = None,
    *,
    reynolds: Real,
    duration: Real,
    lengths: tuple[Real, Real] = (2 * math.pi, 2 * math.pi),
    scheme: Scheme = "if-rk4",
    cfl: Real = 0.5,
    max_step: Real = 0.05,
) -> Float[Tensor, "*batch x1 x2"]:
    """The vorticity at time `duration` of ∂ₜω + u·∇ω = Δω/Re + f from ω(0) on a periodic box.

    Pseudo-spectral and dealiased: modes above (n − 1) // 3 of vorticity and forcing are dropped. The forcing does not
    depend on time. Device and precision are those of `omega0`.

    Parameters
    ----------
    omega0, forcing
        Fields of mean zero, node (i, j) at (i L₁/n₁, j L₂/n₂); without forcing the flow decays.
    scheme
        "if-rk4" (fourth order, integrating factor) or "cn-heun" (second order, needs far smaller steps).
    cfl, max_step
        Every sample has its own step, min(cfl / max(|u₁|/h₁ + |u₂|/h₂), max_step), and does not depend on its batch.

    Raises
    ------
    ShapeError
        Fields without two axes of at least 4 nodes, or of different shapes.
    ConfigError
        A number that must be positive and is not, an unknown scheme, fields that are not real floating-point.
    DataError
        Fields that are not finite or whose mean is not zero; a solution that becomes infinite.
    """
    positive = {"reynolds": reynolds, "duration": duration, "lengths[0]": lengths[0], "lengths[1]": lengths[1]}
    for name, value in {**positive, "cfl": cfl, "max_step": max_step}.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name}={value} must be a positive number")
    if scheme not in SCHEMES:
        raise ConfigError(f"scheme={scheme!r} is unknown; choose one of {', '.join(SCHEMES)}")
    forcing = torch.zeros_like(omega0) if forcing is None else forcing
    for name, field in (("omega0", omega0), ("forcing", forcing)):
        _check(name, field, omega0)
    shape = omega0.shape[-2:]
    equation = VorticityEquation((shape[0], shape[1]), (lengths[0], lengths[1]), omega0, 1 / reynolds)
    f = equation.to_spectrum(forcing.reshape(-1, *shape)) * equation.kept
    w = equation.to_spectrum(omega0.reshape(-1, *shape)) * equation.kept
    step = SCHEMES[scheme]
    result = torch.zeros_like(w)
    left = torch.full((len(w), 1, 1), float(duration), dtype=omega0.dtype, device=omega0.device)
    rows = torch.arange(len(w), device=omega0.device)
    while len(rows):
        running = left.flatten() > 0  # false for NaN too
        if not bool(running.all()):
            result[rows[~running]] = w[~running]
            rows, w, f, left = rows[running], w[running], f[running], left[running]
            continue
        # none is finished before that many steps: until then there is nothing to ask the device for
        for _ in range(math.ceil(float(left.min()) / max_step)):
            u = equation.velocity(w)
            dt = torch.minimum(equation.step_size(u, cfl, max_step), left)
            w = step(equation, w, f, u, dt)
            left = left - dt
    solution = equation.to_field(result)
    if not bool(torch.isfinite(solution).all()):
        raise DataError(f"the solution is not finite before t={duration}: lower cfl={cfl} and max_step={max_step}")
    return solution.reshape(omega0.shape)


def _check(name: str, field: Tensor, omega0: Tensor) -> None:
    if field.ndim < 2 or min(field.shape[-2:]) < 4 or field.shape != omega0.shape:
        raise ShapeError(
            f"{name} has shape {tuple(field.shape)} and omega0 {tuple(omega0.shape)}; give both as (*batch, n1, n2) "
            "with at least 4 nodes an axis"
        )
    if field.dtype not in (torch.float32, torch.float64) or field.dtype != omega0.dtype:
        raise ConfigError(f"{name} is {field.dtype} and omega0 {omega0.dtype}; give both as float32 or float64")
    if not field.numel():
        return
    largest = field.abs().amax((-2, -1))
    if not bool(torch.isfinite(largest).all()):
        raise DataError(f"{name} has values that are not finite")
    if bool((field.mean((-2, -1)).abs() > 1e3 * torch.finfo(field.dtype).eps * largest).any()):
        raise DataError(f"the mean of {name} is not zero, which a periodic box does not allow: subtract it")
