"""The registered models: free, stabilized, projected, retracted and Hamiltonian neural ODEs."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor, nn

from pnde.constraints import Constraint, LearnedConstraint
from pnde.constraints.base import is_size
from pnde.fields import (
    MLP,
    ConstrainedHamiltonianField,
    ConstrainedMechanics,
    HamiltonianField,
    ProjectedField,
    StabilizedField,
    VectorField,
)
from pnde.models.base import DTYPES, TrajectoryModel


class NDE(TrajectoryModel):
    """u̇ = f_θ(u), without constraint.

    Parameters
    ----------
    state_dim
        Components of a state.
    hidden
        Widths of the hidden layers, with GELU activations. `skip` adds each layer's input to its output.
    second_order
        States are (q, v), q̇ = v, and the network gives v̇.
    network
        "mlp", or "chain-conv": convolutions along a chain of masses, `hidden` then being channels.
    inputs, inputs_config
        What the network sees: "state"; "arm-and-target", "state-and-switch" for fields that depend on time.
    dtype
        "float64" or "float32".
    """

    def __init__(
        self,
        state_dim: int = 8,
        hidden: Sequence[int] = (128, 128, 128),
        second_order: bool = True,
        skip: bool = False,
        network: Literal["mlp", "chain-conv"] = "mlp",
        inputs: str = "state",
        inputs_config: dict[str, Any] | None = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        self.dynamics = self.learned_field(state_dim, hidden, second_order, skip, network, inputs, inputs_config, dtype)


class SNDE(TrajectoryModel):
    """u̇ = f_θ(u) - γ G⁺(g(u) - c) (arXiv 2306.09739): violations decay at rate γ down to a floor ‖G f_θ‖/γ.

    `constraint` and `constraint_config` name one of `pnde.constraints.CONSTRAINTS` and its arguments; the others are
    those of `NDE`.
    """

    def __init__(
        self,
        state_dim: int = 8,
        hidden: Sequence[int] = (128, 128, 128),
        second_order: bool = True,
        constraint: str = "pendulum",
        constraint_config: dict[str, Any] | None = None,
        gamma: float | int = 20.0,
        skip: bool = False,
        network: Literal["mlp", "chain-conv"] = "mlp",
        inputs: str = "state",
        inputs_config: dict[str, Any] | None = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        base = self.learned_field(state_dim, hidden, second_order, skip, network, inputs, inputs_config, dtype)
        self.constraint = self.named_constraint(constraint, constraint_config)
        self.dynamics = StabilizedField(base, self.constraint, rate(gamma))


class PSNDE(TrajectoryModel):
    """u̇ = P(u) f_θ(u) - γ G⁺(g(u) - c): g - c decays at the rate γ exactly, errors of the solver with it."""

    properties: ClassVar[frozenset[str]] = frozenset({"on-manifold"})

    def __init__(
        self,
        state_dim: int = 8,
        hidden: Sequence[int] = (128, 128, 128),
        second_order: bool = True,
        constraint: str = "pendulum",
        constraint_config: dict[str, Any] | None = None,
        gamma: float | int = 1.0,
        skip: bool = False,
        network: Literal["mlp", "chain-conv"] = "mlp",
        inputs: str = "state",
        inputs_config: dict[str, Any] | None = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        base = self.learned_field(state_dim, hidden, second_order, skip, network, inputs, inputs_config, dtype)
        self.constraint = self.named_constraint(constraint, constraint_config)
        self.dynamics = ProjectedField(base, self.constraint, gamma=rate(gamma))


class _Kept(TrajectoryModel):
    """A learned field and a constraint by name; subclasses make the dynamics of them."""

    def __init__(
        self,
        state_dim: int = 8,
        hidden: Sequence[int] = (128, 128, 128),
        second_order: bool = True,
        constraint: str = "pendulum",
        constraint_config: dict[str, Any] | None = None,
        skip: bool = False,
        network: Literal["mlp", "chain-conv"] = "mlp",
        inputs: str = "state",
        inputs_config: dict[str, Any] | None = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        base = self.learned_field(state_dim, hidden, second_order, skip, network, inputs, inputs_config, dtype)
        kept = self.constraint = self.named_constraint(constraint, constraint_config)
        self.dynamics = self._dynamics(base, kept)

    def _dynamics(self, base: VectorField, constraint: Constraint) -> VectorField:
        raise NotImplementedError


class PNDE(_Kept):
    """u̇ = P(u) f_θ(u) (arXiv 2410.23667): tangent to the constraint manifold for every θ.

    P is the orthogonal projector onto the kernel of the constraint's Jacobian. Do not take tangency for attraction: the
    error of the solver accumulates. With `second_order`, q̇ = v holds only where the base field is tangent; see
    `MetricPNDE`. Arguments are those of `SNDE`.
    """

    properties: ClassVar[frozenset[str]] = frozenset({"on-manifold"})

    def _dynamics(self, base: VectorField, constraint: Constraint) -> VectorField:
        return ProjectedField(base, constraint)


class MetricPNDE(TrajectoryModel):
    """The projected field in another metric, where the constraint acts on some components alone.

    metric="mechanics": of states (q, v) with unit masses only accelerations are corrected, by the velocity-level rows
    alone, so that q̇ = v stays exact (Gauss' principle of least constraint); γ damps both levels critically. The first
    half of the constraint's rows are then positions. metric="algebraic": the index reduction of a semi-explicit DAE,
    with as many components `algebraic` as the constraint has rows; the others follow the network unchanged.
    """

    properties: ClassVar[frozenset[str]] = frozenset({"on-manifold"})

    def __init__(
        self,
        state_dim: int = 8,
        hidden: Sequence[int] = (128, 128, 128),
        second_order: bool = True,
        constraint: str = "pendulum",
        constraint_config: dict[str, Any] | None = None,
        metric: Literal["mechanics", "algebraic"] = "mechanics",
        algebraic: Sequence[int] | None = None,
        gamma: float | int = 0.0,
        skip: bool = False,
        network: Literal["mlp", "chain-conv"] = "mlp",
        inputs: str = "state",
        inputs_config: dict[str, Any] | None = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        base = self.learned_field(state_dim, hidden, second_order, skip, network, inputs, inputs_config, dtype)
        self.constraint = self.named_constraint(constraint, constraint_config)
        if metric == "mechanics":
            if algebraic is not None:
                raise ConfigError(f"algebraic={algebraic!r} is for metric='algebraic'; leave it out")
            self.dynamics = ConstrainedMechanics(base, self.constraint, gamma=rate(gamma))
        elif metric == "algebraic":
            chosen = list(algebraic or ())
            if sorted(set(chosen)) != sorted(chosen) or not set(chosen) <= set(range(state_dim)):
                raise ConfigError(f"algebraic={algebraic!r} must list components of the state, 0 to {state_dim - 1}")
            if len(chosen) < self.constraint.m:
                raise ConfigError(
                    f"algebraic={algebraic!r}: {self.constraint.m} constraints need as many algebraic components"
                )
            weight = torch.zeros(state_dim, dtype=DTYPES[dtype])
            weight[chosen] = 1
            self.dynamics = ProjectedField(base, self.constraint, metric=weight, gamma=rate(gamma))
        else:
            raise ConfigError(f"metric={metric!r} is unknown; choose mechanics or algebraic; the identity is pnde/pnde")


class PNODE(_Kept):
    """u̇ = f_θ(u), and after every step the nearest state with g(u) = c (arXiv 2505.20515).

    Trajectories are on the manifold to rounding, also while training. What a step is moved by is not in the estimate of
    its error: as the free field is not tangent, solutions depend on the sizes of the steps, which are those of the data
    in training and those of the tolerance in `solve`.
    """

    retracts_steps = True

    def _dynamics(self, base: VectorField, constraint: Constraint) -> VectorField:
        return base


class CFINDE(TrajectoryModel):
    """u̇ = P(u) f_θ(u) with m invariants that are learned as well (FINDE, ICLR 2023), for when none is known."""

    def __init__(
        self,
        state_dim: int = 8,
        hidden: Sequence[int] = (128, 128, 128),
        second_order: bool = True,
        invariants: int = 1,
        skip: bool = False,
        network: Literal["mlp", "chain-conv"] = "mlp",
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        base = self.learned_field(state_dim, hidden, second_order, skip, network, "state", None, dtype)
        if not is_size(invariants) or invariants >= state_dim:
            raise ConfigError(f"invariants={invariants!r} must be at least 1 and fewer than state_dim={state_dim}")
        self.invariants = MLP(state_dim, invariants, hidden, skip=skip, offset=False, dtype=DTYPES[dtype])
        self.constraint = LearnedConstraint(self.invariants, state_dim, invariants)
        self.dynamics = ProjectedField(base, self.constraint)

    def _normalize(self, u: Tensor, t: Tensor | None, smallest: float) -> None:
        super()._normalize(u, t, smallest)
        self.invariants.set_normalization(u.flatten(0, -2), smallest)


class HNN(TrajectoryModel):
    """u̇ = J∇H_θ(u), u = (q, p), with a learned energy H_θ (Greydanus et al. 2019)."""

    def __init__(
        self,
        state_dim: int = 8,
        hidden: Sequence[int] = (128, 128, 128),
        skip: bool = False,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        self._check_sizes(state_dim, hidden, True, dtype)
        self.dynamics = HamiltonianField(
            state_dim, MLP(state_dim, 1, hidden, skip=skip, offset=False, dtype=DTYPES[dtype])
        )

    def _normalize(self, u: Tensor, t: Tensor | None, smallest: float) -> None:
        energy: Any = self.dynamics.hamiltonian
        energy.set_normalization(u.flatten(0, -2), smallest)


class CHNN(TrajectoryModel):
    """Constrained Hamiltonian dynamics in Cartesian coordinates (arXiv:2010.13581): H = ½|p|² + V_θ(q), unit masses.

    Both levels of the constraint are kept, and H, by the oblique symplectic projection of J∇H.
    """

    properties: ClassVar[frozenset[str]] = frozenset({"on-manifold"})

    def __init__(
        self,
        state_dim: int = 8,
        hidden: Sequence[int] = (128, 128, 128),
        constraint: str = "pendulum",
        constraint_config: dict[str, Any] | None = None,
        skip: bool = False,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        self._check_sizes(state_dim, hidden, True, dtype)
        self.constraint = self.named_constraint(constraint, constraint_config)
        energy = KineticAndPotential(MLP(state_dim // 2, 1, hidden, skip=skip, offset=False, dtype=DTYPES[dtype]))
        self.dynamics = ConstrainedHamiltonianField(HamiltonianField(state_dim, energy), self.constraint)

    def _normalize(self, u: Tensor, t: Tensor | None, smallest: float) -> None:
        energy: Any = self.dynamics.base.hamiltonian  # type: ignore[union-attr]
        energy.potential.set_normalization(u[..., : self.state_dim // 2].flatten(0, -2), smallest)


class KineticAndPotential(nn.Module):
    """½|p|² + V(q) of states (q, p)."""

    def __init__(self, potential: nn.Module) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, u: Float[Tensor, "*batch n"]) -> Float[Tensor, " *batch"]:
        q, p = u.chunk(2, -1)
        return p.square().sum(-1) / 2 + self.potential(q)[..., 0]


def rate(gamma: Any) -> float:
    """γ as a number. ConfigError if it is none, or negative."""
    if not isinstance(gamma, int | float) or isinstance(gamma, bool) or not 0 <= gamma < float("inf"):
        raise ConfigError(f"gamma={gamma!r} must be a finite number that is not negative")
    return float(gamma)
