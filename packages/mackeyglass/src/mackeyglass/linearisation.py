"""Equilibria of delay equations and the linear equation around them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from sciml.errors import ConfigError, ShapeError
from torch import Tensor

from mackeyglass.equation import DDE
from mackeyglass.errors import ContinuationError
from mackeyglass.mackey_glass import MackeyGlass

State = float | int | Sequence[float | int] | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class Linearisation:
    """v'(t) = Σⱼ Aⱼ v(t − τⱼ), where j = 0 is the term without delay: τ₀ = 0."""

    matrices: Float[np.ndarray, "terms d d"]
    delays: Float[np.ndarray, "terms"]

    def characteristic_matrix(self, root: complex, derivative: int = 0) -> Complex[np.ndarray, "d d"]:
        """Δ(λ) = λI − Σⱼ Aⱼ e^{−λτⱼ}, or its derivative of that order by λ."""
        identity = np.eye(self.matrices.shape[1])
        polynomial = (root * identity, identity)[derivative] if derivative < 2 else 0.0
        weights = (-self.delays) ** derivative * np.exp(-complex(root) * self.delays)
        return polynomial - np.einsum("j,jkl->kl", weights, self.matrices)


def equilibrium(system: DDE, guess: State) -> Float[np.ndarray, "d"]:
    """The equilibrium x, F(x, …, x) = 0, to which Newton's method converges from `guess`, of d numbers.

    Raises
    ------
    ShapeError
        If `guess` has not d components.
    ContinuationError
        If the method does not converge.
    """
    x, parameters = _state(system, guess), numbers(system)
    size = np.inf
    for _ in range(50):
        value, total = field_at(system, x, parameters), jacobians(system, x, parameters).sum(axis=0)
        if not (np.isfinite(value).all() and np.isfinite(total).all()):
            break
        correction = -np.linalg.lstsq(total, value)[0]
        x = x + correction
        size = np.abs(correction).max() / (1 + np.abs(x).max())
        # half of the digits are right already, so this correction has brought all of them
        if size < 1e-8 and np.abs(field_at(system, x, parameters)).max() <= 1e-10 * _scale(x, total):
            return x
    raise ContinuationError(
        f"Newton's method found no equilibrium of {system} from {guess} (last correction {size:.1e}): "
        "give another guess"
    )


def linearise_at(system: DDE, x: State | None = None) -> Linearisation:
    """The linear equation around an equilibrium.

    Parameters
    ----------
    x
        The equilibrium, d numbers; by default the positive one of the Mackey–Glass equation, the origin of any other.

    Raises
    ------
    ShapeError
        If `x` has not d components.
    ConfigError
        If `x` is no equilibrium, or the system is a batch.
    """
    parameters, state = numbers(system), equilibrium_of(system, x)
    delays = [0.0, *(parameters[tau] if isinstance(tau, str) else float(tau) for tau in system.delays)]
    return Linearisation(jacobians(system, state, parameters), np.array(delays))


def equilibrium_of(system: DDE, x: State | None = None) -> Float[np.ndarray, "d"]:
    """`x` after a check that it is an equilibrium, or the default one of `linearise_at`."""
    parameters = numbers(system)
    if x is None:
        x = float(system.positive_equilibrium()) if isinstance(system, MackeyGlass) else np.zeros(system.dim)
    state = _state(system, x)
    value = np.abs(field_at(system, state, parameters)).max()
    if not value <= 1e-9 * _scale(state, jacobians(system, state, parameters)):
        raise ConfigError(
            f"{state.tolist()} is not an equilibrium of {system}: its field there is {value:.2g}; "
            "take one from equilibrium(system, guess)"
        )
    return state


def numbers(system: DDE) -> dict[str, float]:
    """Parameters of a single system as numbers.

    Raises
    ------
    ConfigError
        If the system is a batch.
    """
    batched = [name for name, value in system.parameters.items() if isinstance(value, Tensor) and value.numel() != 1]
    if batched:
        raise ConfigError(f"this takes one system, not a batch: {', '.join(batched)} must be numbers")
    return {name: float(value) for name, value in system.parameters.items()}


def field_at(system: DDE, x: Float[np.ndarray, "d"], parameters: dict[str, float]) -> Float[np.ndarray, "d"]:
    """F(x, …, x)."""
    state = torch.from_numpy(x)
    return system.field(state, [state] * len(system.delays), parameters).numpy()


def jacobians(system: DDE, x: Float[np.ndarray, "d"], parameters: dict[str, float]) -> Float[np.ndarray, "terms d d"]:
    """Derivatives A₀, A₁, … of F at a constant solution by the state and by each delayed state, exact."""
    d, terms = system.dim, len(system.delays) + 1
    state = torch.from_numpy(x)[:, None].repeat(1, terms * d)
    # one direction a column: component i of the state or of one delayed state
    directions = torch.eye(terms * d, dtype=torch.float64).reshape(terms, d, terms * d)
    derivative = system.differential(state, [state] * (terms - 1), parameters, directions[0], list(directions[1:]))
    return derivative.reshape(d, terms, d).permute(1, 0, 2).numpy().copy()


def _state(system: DDE, x: State) -> np.ndarray:
    state = np.atleast_1d(np.array(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float64))
    if state.shape != (system.dim,):
        raise ShapeError(f"an equilibrium has {system.dim} components, got an array of shape {state.shape}")
    return state


def _scale(x: np.ndarray, matrices: np.ndarray) -> float:
    return (1 + float(np.abs(x).max())) * (1 + float(np.abs(matrices).max()))
