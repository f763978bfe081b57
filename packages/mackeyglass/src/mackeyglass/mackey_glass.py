"""The Mackey–Glass equation u' = −γu + βf(u(t−τ)) with f(x) = θⁿx/(θⁿ + xⁿ) (arXiv 2203.00181, §1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor

from mackeyglass.equation import DDE, Value, check_above, check_batch, check_positive

Numbers = Float[Tensor, "*batch"] | float | int


@dataclass(frozen=True, repr=False, eq=False)
class MackeyGlass(DDE):
    """u'(t) = −γ u(t) + β f(u(t−τ)),   f(x) = θⁿ x/(θⁿ + xⁿ).

    Parameters
    ----------
    beta, gamma, n, tau, theta
        Numbers, or tensors ``(B,)`` for a batch of systems: β, γ, τ, θ positive, n > 1. The time unit is arbitrary:
        β=0.2, γ=0.1 is the classic one.

    Raises
    ------
    ConfigError, ShapeError
        For values outside their domains or that are no numbers, and for tensors of different batches.
    """

    beta: Value = 2.0
    gamma: Value = 1.0
    n: Value = 9.65
    tau: Value = 2.0
    theta: Value = 1.0

    delays = ("tau",)
    dim = 1

    def __post_init__(self) -> None:
        for name in ("beta", "gamma", "theta", "tau"):
            check_positive(name, getattr(self, name))
        check_above("n", self.n, 1.0)
        check_batch(self.parameters)

    @cached_property
    def backwards(self) -> bool:
        """True: its derivatives in reverse mode are those in forward mode."""
        return True

    @property
    def parameters(self) -> dict[str, Value]:
        """All parameters by name."""
        return {"beta": self.beta, "gamma": self.gamma, "n": self.n, "tau": self.tau, "theta": self.theta}

    def with_parameters(self, **values: Value) -> "MackeyGlass":
        """The same equation with other values of some parameters."""
        self.check_names(values)
        return replace(self, **values)

    def field(
        self,
        x: Float[Tensor, "1 *batch"],
        delayed: Sequence[Float[Tensor, "1 *batch"]],
        parameters: Mapping[str, Value],
    ) -> Float[Tensor, "1 *batch"]:
        """The right-hand side with given values of all parameters."""
        feedback = hill(delayed[0], parameters["n"], parameters["theta"])
        return parameters["beta"] * feedback - parameters["gamma"] * x

    def differential(
        self,
        x: Float[Tensor, "1 *batch"],
        delayed: Sequence[Float[Tensor, "1 *batch"]],
        parameters: Mapping[str, Value],
        dx: Float[Tensor, "1 *batch"],
        d_delayed: Sequence[Float[Tensor, "1 *batch"]],
    ) -> Float[Tensor, "1 *batch"]:
        """Derivative of `field` in the direction of changes of the state and of the delayed state."""
        slope = hill_slope(delayed[0], parameters["n"], parameters["theta"])
        return parameters["beta"] * slope * d_delayed[0] - parameters["gamma"] * dx

    def rhs(self, u: Numbers, u_tau: Numbers) -> Float[Tensor, "*batch"]:
        """−γu + βf(u_τ), elementwise."""
        return self.production(u_tau) - self.gamma * u

    def drhs(self, u: Numbers, u_tau: Numbers) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Derivatives of `rhs` by u and by u_τ: −γ and βf'(u_τ)."""
        return torch.zeros_like(_tensor(u)) - self.gamma, self.production_slope(u_tau)

    def production(self, u_tau: Numbers) -> Float[Tensor, "*batch"]:
        """βf(u_τ), elementwise."""
        return self.beta * hill(u_tau, self.n, self.theta)

    def production_slope(self, u_tau: Numbers) -> Float[Tensor, "*batch"]:
        """βf'(u_τ), elementwise."""
        return self.beta * hill_slope(u_tau, self.n, self.theta)

    def scaled(self) -> "MackeyGlass":
        """The same dynamics in units of θ and 1/γ: (β, γ, θ, n, τ) → (β/γ, 1, 1, n, γτ).

        Trajectories are u(t)/θ at the time γt; periods shrink by γ, exponents by 1/γ.
        """
        return replace(self, beta=self.beta / self.gamma, gamma=1.0, theta=1.0, tau=self.gamma * self.tau)

    def positive_equilibrium(self) -> Value:
        """u* = θ(β/γ − 1)^{1/n}.

        Raises
        ------
        ConfigError
            If β ≤ γ: then the origin is the only equilibrium that is not negative.
        """
        self._require_production()
        return self.theta * (self.beta / self.gamma - 1) ** (1 / self.n)

    def equilibria(self) -> tuple[Value, ...]:
        """The equilibria that are not negative: 0, and u* where β > γ."""
        above = self.beta > self.gamma
        if isinstance(above, Tensor) and bool(above.any()) != bool(above.all()):
            raise ConfigError("systems of one batch differ in their number of equilibria; split it at beta = gamma")
        return (0.0, self.positive_equilibrium()) if bool(torch.as_tensor(above).all()) else (0.0,)

    def equilibrium_slope(self) -> Value:
        """b = βf'(u*) = γ(1 − n(1 − γ/β)), on which the stability of u* depends.

        Raises
        ------
        ConfigError
            If β ≤ γ.
        """
        self._require_production()
        return self.gamma * (1 - self.n * (1 - self.gamma / self.beta))

    def absorbing_interval(self) -> tuple[Value, Value]:
        """[m, M] with M = β max f/γ and m = βf(M)/γ, which positive solutions enter and do not leave.

        Raises
        ------
        ConfigError
            If M does not lie right of the hump of f, m not left of it, or f(m) < f(M): not an invariant interval.
        """
        n, theta = torch.as_tensor(self.n, dtype=torch.float64), torch.as_tensor(self.theta, dtype=torch.float64)
        hump = theta * (n - 1) ** (-1 / n)
        gain = torch.as_tensor(self.beta / self.gamma, dtype=torch.float64)
        upper = gain * hill(hump, n, theta)
        lower = gain * hill(upper, n, theta)
        if not bool(((lower <= hump) & (hump <= upper) & (hill(lower, n, theta) >= hill(upper, n, theta))).all()):
            raise ConfigError(
                "the bounds of this system are not an invariant interval (f must fall at the upper one and rise at the "
                "lower one): beta/gamma or n is too small"
            )
        batched = any(isinstance(value, Tensor) for value in self.parameters.values())
        return (lower, upper) if batched else (lower.item(), upper.item())

    def _require_production(self) -> None:
        if not bool(torch.as_tensor(self.beta > self.gamma).all()):
            raise ConfigError(
                f"no positive equilibrium for beta<=gamma (beta={self.beta}, gamma={self.gamma}): increase beta"
            )


def hill(x: Numbers, n: Value, theta: Value = 1.0) -> Float[Tensor, "*batch"]:
    """f(x) = θⁿx/(θⁿ + xⁿ), without overflow for any n; NaN at negative x unless n is a whole Python number."""
    return x * _share(x, n, theta)


def hill_slope(x: Numbers, n: Value, theta: Value = 1.0) -> Float[Tensor, "*batch"]:
    """f'(x) = (1 + (1−n)s)/(1+s)² with s = (x/θ)ⁿ."""
    share = _share(x, n, theta)  # 1/(1+s)
    return share * (1 - n * (1 - share))


def _share(x: Numbers, n: Value, theta: Value) -> Tensor:
    """1/(1 + (x/θ)ⁿ), in a form in which no power is taken."""
    scaled = _tensor(x) / theta
    magnitude = scaled
    whole = not isinstance(n, Tensor) and n == int(n)
    if whole:
        magnitude = scaled.abs()
    # the shift is nothing to the power, and keeps derivatives finite at zero
    log_power = n * torch.log(magnitude + 1e-18)
    share = torch.sigmoid(-log_power)
    if whole and int(n) % 2:
        share = torch.where(scaled < 0, 1 / (1 - torch.exp(log_power)), share)
    return share


def _tensor(x: Numbers) -> Tensor:
    return x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=torch.float64)
