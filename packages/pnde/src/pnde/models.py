"""Neural ODEs: free, stabilized, and projected onto the tangent space of their constraints."""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from sciml.data import Normalizer
from sciml.errors import ConfigError, ShapeError
from sciml.model import Example, Model
from torch import Tensor, nn
from torchdiffeq import odeint

from pnde.constraints import CONSTRAINTS, Constraint
from pnde.fields import ConstrainedMechanics, ProjectedField, StabilizedField, VectorField


@dataclass(frozen=True)
class Solution:
    """States (batch, time, n), which samples were solved to the end (else NaN), and field evaluations."""

    u: Tensor
    solved: Tensor
    n_evaluations: int


class NeuralODE(Model):
    """u̇ = f_θ(u), an MLP with GELU activations on the normalised state, solved in physical units.

    With `second_order`, u = (q, v), q̇ = v and the network gives v̇. `forward` takes one fourth-order Runge–Kutta
    step per output time, for training; `solve` is adaptive, for evaluation.
    """

    def __init__(
        self,
        state_dim: int = 8,
        hidden: Sequence[int] = (128, 128, 128),
        second_order: bool = True,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        if dtype not in ("float32", "float64"):
            raise ConfigError(f"dtype={dtype!r} must be 'float32' or 'float64'")
        if not isinstance(second_order, bool):
            raise ConfigError(f"second_order={second_order!r} must be true or false")
        if not _is_size(state_dim) or (second_order and state_dim % 2):
            raise ConfigError(f"state_dim={state_dim!r} must be a positive integer, even for a second-order field")
        if isinstance(hidden, str) or not isinstance(hidden, Sequence) or not all(map(_is_size, hidden)):
            raise ConfigError(f"hidden={hidden!r} must list the width of each hidden layer, for instance [128, 128]")
        kind = getattr(torch, dtype)
        self.state_dim, self.second_order = state_dim, second_order
        widths = [state_dim, *hidden]
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:]):  # noqa: RUF007
            layers += [nn.Linear(a, b, dtype=kind), nn.GELU()]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], state_dim // (1 + second_order), dtype=kind))
        self.register_buffer("mean", torch.zeros(state_dim, dtype=kind))
        self.register_buffer("std", torch.ones(state_dim, dtype=kind))

    @classmethod
    def example(cls) -> Example:
        """One hidden layer on two moving double pendulums."""
        angles = torch.tensor([[0.5, 1.2], [2.0, -0.7]], dtype=torch.float64)
        speeds = torch.tensor([[1.0, -2.0], [0.5, 1.5]], dtype=torch.float64)
        parts = [angles.sin(), -angles.cos(), angles.cos() * speeds, angles.sin() * speeds]
        u0 = torch.cat([part.cumsum(-1) for part in parts], dim=-1)
        t = torch.linspace(0, 0.2, 3, dtype=torch.float64)
        refused = ((u0[:, :7], t), (u0.float(), t), (u0, t.flip(0)[:1]), (u0, t * 0), (u0, t / (t < t[-1])))
        return Example({"hidden": [8]}, (u0, t), refused=refused)

    def set_normalization(self, u: Float[Tensor, "sample n"]) -> None:
        """Normalise the network's input by the statistics of `u`, those of `sciml.data.Normalizer`.

        Raises
        ------
        ShapeError
            If `u` is not (sample, n).
        DataError
            If there is no sample, or it is not finite.
        """
        if u.ndim != 2:
            raise ShapeError(f"u must be (sample, {self.state_dim}); got {tuple(u.shape)}")
        found = Normalizer(self.state_dim, dtype=torch.float64).fit(u)
        self.get_buffer("mean").copy_(found.mean)
        self.get_buffer("std").copy_(found.std)

    def base_field(self, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """f_θ(u), without the constraint."""
        out = self.net((u - self.get_buffer("mean")) / self.get_buffer("std"))
        return torch.cat([u[..., self.state_dim // 2 :], out], dim=-1) if self.second_order else out

    def field(self, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """u̇, as it is integrated."""
        return self.base_field(u)

    def forward(self, u0: Float[Tensor, "batch n"], t: Float[Tensor, " time"]) -> Float[Tensor, "batch time n"]:
        self._check(u0, t)
        return odeint(lambda _, u: self.field(u), u0, t, method="rk4").transpose(0, 1)  # type: ignore[union-attr]

    @torch.no_grad()
    def solve(
        self,
        u0: Float[Tensor, "batch n"],
        t: Float[Tensor, " time"],
        *,
        tol: float = 1e-6,
        max_steps: int = 10_000,
    ) -> Solution:
        """Solve adaptively (Dormand–Prince 5(4), rtol = atol = `tol`), at most `max_steps` steps an output time.

        A sample that cannot be solved is NaN and marked, and does not disturb the others.

        Raises
        ------
        ValueError
            If a shape does not fit, `u0` or `t` is not finite, `t` not strictly monotone, `tol` not positive, or
            `max_steps` below 1.
        TypeError
            If `u0` or `t` has another dtype than the model.
        """
        self._check(u0, t)
        if not 0 < tol < float("inf") or max_steps < 1:
            raise ConfigError(f"tol={tol} must be positive and finite, max_steps={max_steps} at least 1")
        if not bool(torch.isfinite(u0).all()):
            raise ValueError("u0 has NaN or infinite entries; every initial state must be finite")
        calls = 0

        def field(_: Tensor, u: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return self.field(u)

        def marks(start: Tensor, solved: bool) -> Tensor:
            return torch.full((len(start),), solved, device=start.device)

        def attempt(start: Tensor) -> tuple[Tensor, Tensor]:
            try:
                u = odeint(field, start, t, rtol=tol, atol=tol, options={"max_num_steps": max_steps})
                if bool(torch.isfinite(u).all()):  # type: ignore[arg-type]
                    return u.transpose(0, 1), marks(start, True)  # type: ignore[union-attr]
            except (AssertionError, ValueError):  # how torchdiffeq says underflow of the step and too many steps
                pass
            if len(start) == 1:
                return start.new_full((1, len(t), self.state_dim), torch.nan), marks(start, False)
            halves = [attempt(half) for half in start.tensor_split(2)]
            return torch.cat([h[0] for h in halves]), torch.cat([h[1] for h in halves])

        if len(u0) == 0:
            return Solution(u0.new_empty(0, len(t), self.state_dim), marks(u0, True), 0)
        u, solved = attempt(u0)
        return Solution(u, solved, calls)

    def _check(self, u0: Tensor, t: Tensor) -> None:
        if u0.ndim != 2 or u0.shape[-1] != self.state_dim:
            raise ShapeError(f"u0 must be (batch, {self.state_dim}); got {tuple(u0.shape)}")
        if {u0.dtype, t.dtype} != {self.get_buffer("mean").dtype}:
            raise TypeError(f"u0 and t must be {self.get_buffer('mean').dtype}; got {u0.dtype} and {t.dtype}")
        if t.ndim != 1 or len(t) < 2:
            raise ShapeError(f"t must be a vector of at least two times; got shape {tuple(t.shape)}")
        steps = t.diff()
        if not bool(((steps > 0).all() | (steps < 0).all()) & t.isfinite().all()):
            raise ValueError(f"t must be finite and strictly monotone; got {t.tolist()}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class _BaseField(VectorField):
    """What a model has learned, as the base of a constrained field."""

    def __init__(self, model: NeuralODE) -> None:
        super().__init__()
        self.n, self.function = model.state_dim, model.base_field

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        return self.function(u)


class _ConstrainedODE(NeuralODE):
    constraint: Constraint
    constrained: VectorField

    def field(self, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        return self.constrained(None, u)

    def residual(self, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        """g(u), which is zero on the manifold."""
        return self.constraint(None, u)

    def _constrain(self, constraint: str, options: dict[str, Any] | None, gamma: float) -> None:
        if not isinstance(constraint, str) or constraint not in CONSTRAINTS:
            raise ConfigError(f"constraint={constraint!r} is unknown; choose one of {', '.join(CONSTRAINTS)}")
        if not isinstance(gamma, int | float) or isinstance(gamma, bool) or not gamma >= 0:
            raise ConfigError(f"gamma={gamma!r} must be a number that is not negative")
        kind = CONSTRAINTS[constraint]
        try:
            signature(kind).bind(**(options or {}))
        except TypeError as error:
            raise ConfigError(
                f"constraint_config={options!r} does not fit the constraint {constraint} ({error}); "
                f"its arguments are {', '.join(signature(kind).parameters)}"
            ) from error
        self.constraint = kind(**(options or {}))
        if self.constraint.kind != "level":
            raise ConfigError(f"constraint={constraint!r} is a conserved quantity; these models keep levels g(u) = 0.")
        if self.constraint.n != self.state_dim:
            raise ConfigError(f"the constraint is on {self.constraint.n} components, state_dim is {self.state_dim}")


class StabilizedNeuralODE(_ConstrainedODE):
    """u̇ = f_θ(u) - γ G⁺ g(u) (arXiv 2306.09739): violations decay at rate γ down to a floor ‖G f_θ‖/γ."""

    def __init__(
        self,
        state_dim: int = 8,
        hidden: Sequence[int] = (128, 128, 128),
        second_order: bool = True,
        constraint: str = "pendulum",
        constraint_config: dict[str, Any] | None = None,
        gamma: float = 20.0,
        dtype: str = "float64",
    ) -> None:
        super().__init__(state_dim, hidden, second_order, dtype)
        self._constrain(constraint, constraint_config, gamma)
        self.constrained = StabilizedField(_BaseField(self), self.constraint, float(gamma))


class ProjectedNeuralODE(_ConstrainedODE):
    """u̇ = P(u) f_θ(u) (arXiv 2410.23667): tangent to the constraint manifold for every θ.

    With `metric="identity"` P is the orthogonal projector and d g/dt = -γ g exactly. With `metric="mechanics"`
    (for u = (q, v), unit masses) only accelerations are corrected, by the velocity-level rows alone, so that
    q̇ = v stays exact (Gauss' principle of least constraint); γ then damps both levels critically. Do not take
    tangency for attraction: at γ = 0 the error of the solver accumulates.
    """

    properties: ClassVar[frozenset[str]] = frozenset({"on-manifold"})

    def __init__(
        self,
        state_dim: int = 8,
        hidden: Sequence[int] = (128, 128, 128),
        second_order: bool = True,
        constraint: str = "pendulum",
        constraint_config: dict[str, Any] | None = None,
        metric: Literal["identity", "mechanics"] = "identity",
        gamma: float = 0.0,
        dtype: str = "float64",
    ) -> None:
        super().__init__(state_dim, hidden, second_order, dtype)
        self._constrain(constraint, constraint_config, gamma)
        if metric not in ("identity", "mechanics"):
            raise ConfigError(f"metric={metric!r} is unknown; choose identity or mechanics")
        kind = ProjectedField if metric == "identity" else ConstrainedMechanics
        self.constrained = kind(_BaseField(self), self.constraint, gamma=float(gamma))
