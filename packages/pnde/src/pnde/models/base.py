"""What all models of trajectories share: checks, normalisation, training steps and adaptive solutions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.model import Example, Model
from torch import Tensor, nn

from pnde.constraints import CONSTRAINTS, Constraint
from pnde.constraints.base import is_size
from pnde.fields import MLP, ChainConv, VectorField
from pnde.models.inputs import INPUTS, named
from pnde.neural_ode import check_weights, onto, target_of, warn_off_manifold
from pnde.retraction import Retraction
from pnde.solvers import Solution, solve
from pnde.solvers.checks import check_options, check_state

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class LearnedField(VectorField):
    """u̇ = net(inputs(t, u)); of second order, u = (q, v), q̇ = v and the network gives v̇."""

    def __init__(self, n: int, net: nn.Module, inputs: nn.Module, second_order: bool) -> None:
        super().__init__()
        self.n, self.net, self.inputs, self.second_order = n, net, inputs, second_order

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        out = self.net(self.inputs(t, u))
        return torch.cat([u[..., self.n // 2 :], out], -1) if self.second_order else out


class TrajectoryModel(Model):
    """A vector field with weights, `dynamics`, that is trained on short windows and solved over long times.

    `forward` takes one fourth-order Runge–Kutta step an output time, for training, or `substeps` where a rate γ is too
    fast for that; `solve` is adaptive. With a `constraint`, trajectories keep the `target` that it has at their start,
    unless another one is given.
    """

    state_dim: int
    dynamics: VectorField
    constraint: Constraint | None
    retracts_steps: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.constraint = None

    def _check_sizes(self, state_dim: Any, hidden: Any, second_order: Any, dtype: Any) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}")
        if not isinstance(second_order, bool):
            raise ConfigError(f"second_order={second_order!r} must be true or false")
        if not is_size(state_dim) or (second_order and state_dim % 2):
            raise ConfigError(f"state_dim={state_dim!r} must be a positive integer, even for states (q, v)")
        if isinstance(hidden, str) or not isinstance(hidden, Sequence) or not all(map(is_size, hidden)):
            raise ConfigError(f"hidden={hidden!r} must list the width of each hidden layer, for instance [128, 128]")
        self.state_dim = state_dim

    def learned_field(
        self,
        state_dim: int,
        hidden: Sequence[int],
        second_order: bool,
        skip: bool,
        network: str,
        inputs: str,
        inputs_config: dict[str, Any] | None,
        dtype: str,
    ) -> LearnedField:
        """The field of these arguments of the constructors. ConfigError if they do not fit."""
        self._check_sizes(state_dim, hidden, second_order, dtype)
        seen = named(INPUTS, "inputs", inputs, inputs_config, state_dim)
        if network == "mlp":
            n_out = state_dim // 2 if second_order else state_dim
            net: nn.Module = MLP(seen.n_out, n_out, hidden, skip=skip, dtype=DTYPES[dtype])
        elif network == "chain-conv":
            if not second_order or inputs != "state" or len(set(hidden)) != 1 or skip:
                raise ConfigError(
                    "network='chain-conv' gives accelerations of a chain: it needs second_order=true, inputs='state', "
                    f"no skip and one width in hidden; got hidden={list(hidden)}"
                )
            net = ChainConv(state_dim // 2, hidden[0], len(hidden) + 1, dtype=DTYPES[dtype])
        else:
            raise ConfigError(f"network={network!r} is unknown; choose one of mlp, chain-conv")
        return LearnedField(state_dim, net, seen, second_order)

    def named_constraint(self, constraint: str, options: dict[str, Any] | None) -> Constraint:
        """The constraint of that name on the model's states. ConfigError if there is none, or it does not fit."""
        found: Constraint = named(CONSTRAINTS, "constraint", constraint, options)
        if found.n != self.state_dim:
            raise ConfigError(f"the constraint is on {found.n} components, state_dim is {self.state_dim}")
        return found

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

    def set_normalization(
        self, u: Float[Tensor, "*batch n"], t: Float[Tensor, "*#batch"] | None = None, smallest: float = 0.0
    ) -> None:
        """Normalise what the network sees by its statistics on the states `u` at times `t`.

        Deviations below `smallest` are taken as 1, for components that are constant up to the solver's error.

        Raises
        ------
        ShapeError
            If the last axis of `u` is not the state.
        DataError
            If there is no sample, or it is not finite.
        """
        if u.ndim < 2 or u.shape[-1] != self.state_dim:
            raise ShapeError(f"u must be (sample, {self.state_dim}); got {tuple(u.shape)}")
        self._normalize(u, t, smallest)

    def _normalize(self, u: Tensor, t: Tensor | None, smallest: float) -> None:
        field: Any = self.base
        field.net.set_normalization(field.inputs(t, u).flatten(0, -2), smallest)

    @property
    def base(self) -> VectorField:
        """The learned field, without what the constraint makes of it."""
        return getattr(self.dynamics, "base", self.dynamics)

    def field(
        self, u: Float[Tensor, "*batch n"], t: Any = None, target: Float[Tensor, "*#batch m"] | None = None
    ) -> Float[Tensor, "*batch n"]:
        """u̇, as it is integrated."""
        self._check_target(u, target)
        return self._rhs(t, u) if target is None else self._rhs(t, u, target)

    def residual(
        self, u: Float[Tensor, "*batch n"], t: Any = None, target: Float[Tensor, "*#batch m"] | None = None
    ) -> Float[Tensor, "*batch m"]:
        """g - target, which is zero on the manifold; without a target, g."""
        if self.constraint is None:
            raise ConfigError(f"{type(self).__name__} has no constraint")
        self._check_target(u, target)
        g = self.constraint(t, u)
        return g if target is None else g - target

    def forward(
        self,
        u0: Float[Tensor, "batch n"],
        t: Float[Tensor, " time"],
        target: Float[Tensor, "batch m"] | None = None,
        start: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time n"]:
        """States at the times `t` from `u0`, by Runge–Kutta steps from each time to the next (see `substeps`).

        `start` is added to the times of each sample, for windows of trajectories whose field depends on time. It may
        jump where windows begin and end: it is evaluated inside.
        """
        self._check(u0, t, target)
        steps = self._substeps(t)
        return self._solve(u0, t, target, start, method="rk4", substeps=steps, max_steps=max(1, len(t) * steps)).u

    @torch.no_grad()
    def solve(
        self,
        u0: Float[Tensor, "batch n"],
        t: Float[Tensor, " time"],
        *,
        target: Float[Tensor, "batch m"] | None = None,
        tol: float = 1e-6,
        method: str = "dopri5",
        max_steps: int = 10_000,
        retract: Literal["step", "output"] | None = None,
        jump_times: Sequence[float | int] | Tensor | None = None,
        event: Callable[..., Tensor] | None = None,
    ) -> Solution:
        """Solve adaptively (rtol = atol = `tol`), each sample with its own steps, at most `max_steps` of them.

        A sample that cannot be solved has its status, and is NaN after its last valid output. `retract` puts every
        accepted step, or the outputs alone, on the manifold; `jump_times` are those of the field; `event` is that of
        `pnde.solve`, called with the target too where there is a constraint.

        Raises
        ------
        ValueError
            If a shape does not fit, `u0`, `t` or a parameter is not finite, `t` not strictly monotone, an option out of
            range, or a target given without a constraint.
        TypeError
            If `u0` or `t` has another dtype than the model.
        """
        self._check(u0, t, target)
        check_weights(self, u0)
        check_options(method, tol, tol, None, max_steps, 1, None, "step", None, None, None)
        if self.constraint is not None:
            target = target_of(self.constraint, u0, t[0], target)
            warn_off_manifold(self.constraint, u0, t[0], target, tol, "pnde.retract moves")
        return self._solve(
            u0,
            t,
            target,
            None,
            method,
            retract,
            rtol=tol,
            atol=tol,
            max_steps=max_steps,
            jump_times=jump_times,
            event=event,
        )

    def _solve(
        self,
        u0: Tensor,
        t: Tensor,
        target: Tensor | None,
        start: Tensor | None,
        method: str,
        retract_at: Literal["step", "output"] | None = None,
        **options: Any,
    ) -> Solution:
        u0 = self._encode(u0)
        retract_at = "step" if self.retracts_steps else retract_at
        if retract_at is not None:
            if self.constraint is None:
                raise ConfigError(f"retract={retract_at!r} needs a constraint, which {type(self).__name__} has not")
            options |= {"retract": self._retract, "retract_at": retract_at}
        if (event := options.get("event")) is not None:
            options["event"] = lambda time, u, *targets: event(time, self._decode(u), *targets)
        first = t[0] if start is None else t[0] + start
        targets = () if self.constraint is None else (target_of(self.constraint, u0, first, target),)
        if start is None:
            return self._decoded(solve(self._rhs, u0, t, args=targets, method=method, **options))
        largest = float(start.abs().max()) if len(start) else 0.0
        margin = 16 * torch.finfo(t.dtype).eps * (largest + float((t[-1] - t[0]).abs()))
        low, high = float(t.min()) + margin, float(t.max()) - margin

        def shifted(time: Tensor, u: Tensor, start: Tensor, *targets: Tensor) -> Tensor:
            return self._rhs(start + time.clamp(low, high), u, *targets)

        def retracted(time: Tensor, u: Tensor, start: Tensor, *targets: Tensor) -> Retraction:
            return self._retract(start + time, u, *targets)

        if retract_at is not None:
            options["retract"] = retracted
        return self._decoded(solve(shifted, u0, t, args=(start, *targets), method=method, **options))

    def _substeps(self, t: Tensor) -> int:
        gamma = getattr(self.dynamics, "gamma", 0.0)
        return substeps(gamma, float(t.detach().diff().abs().max())) if gamma and len(t) > 1 else 1

    def _decoded(self, solution: Solution) -> Solution:
        event_u = None if solution.event_u is None else self._decode(solution.event_u)
        return replace(solution, u=self._decode(solution.u), event_u=event_u)

    def _encode(self, u: Tensor) -> Tensor:
        """The coordinates that `dynamics` is in, of states."""
        return u

    def _decode(self, u: Tensor) -> Tensor:
        """States of the coordinates that `dynamics` is in."""
        return u

    def _rhs(self, t: Any, u: Tensor, *target: Tensor) -> Tensor:
        return self.dynamics(t, u, *(target if hasattr(self.dynamics, "deviation") else ()))

    def _retract(self, t: Tensor, u: Tensor, *target: Tensor) -> Retraction:
        assert self.constraint is not None
        return onto(self.dynamics, self.constraint, t, u, target[-1])

    def _check_target(self, u: Tensor, target: Tensor | None) -> None:
        if target is None:
            return
        if self.constraint is None:
            raise ConfigError(f"target=… is a value of a constraint, which {type(self).__name__} has not; leave it out")
        self.constraint.check_target(u, target)

    def _check(self, u0: Tensor, t: Tensor, target: Tensor | None) -> None:
        check_state(u0, t, ())
        if self.constraint is None:
            self._check_target(u0, target)
        if u0.shape[-1] != self.state_dim:
            raise ShapeError(f"u0 must be (batch, {self.state_dim}); got {tuple(u0.shape)}")
        dtype = next(self.parameters()).dtype
        if {u0.dtype, t.dtype} != {dtype}:
            raise TypeError(f"u0 and t must be {dtype}; got {u0.dtype} and {t.dtype}")


def substeps(gamma: float, time_step: float) -> int:
    """Runge–Kutta steps in a time step that damp at the rate γ: γh ≤ 2, at which a step damps by 1/3.

    Beyond γh = 2.785 the classical method amplifies what γ should damp, and a stiff field is not learned. `time_step`
    may be rounded to float32.
    """
    stiffness = gamma * time_step
    return math.ceil(stiffness / 2 * (1 - 1e-5)) if 2 < stiffness < math.inf else 1
