"""Vector fields u̇ = f(t, u): learned ones, and what a constraint makes of any of them (arXiv 2410.23667)."""

from collections.abc import Callable, Sequence
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from sciml.data import Normalizer
from sciml.errors import ConfigError, ShapeError
from sciml.model import Model
from torch import Tensor, nn

from pnde._checks import values_are_known
from pnde.constraints import Constraint
from pnde.projection import METHODS, RANKS, Banded, Method, Rank, Weight, min_norm_solve, project_tangent
from pnde.solvers.solution import SampleError


class VectorField(nn.Module):
    """f(t, u) on states of `n` components; autonomous fields ignore t."""

    n: int

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        raise NotImplementedError


class MLP(nn.Module):
    """A perceptron (..., n_in) to (..., n_out) with GELU activations, on its input shifted and scaled by statistics.

    With `skip`, every hidden layer but the first is h ↦ h + gelu(W h + b). An `offset` of the output means nothing
    where only its gradient counts.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        hidden: Sequence[int],
        *,
        skip: bool = False,
        offset: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if skip and len(set(hidden)) > 1:
            raise ConfigError(f"hidden={tuple(hidden)}: layers with skip connections must have one width.")
        self.skip = skip
        widths = [n_in, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b, dtype=dtype) for a, b in pairwise(widths))
        self.out = nn.Linear(widths[-1], n_out, bias=offset, dtype=dtype)
        self.register_buffer("mean", torch.zeros(n_in, dtype=dtype))
        self.register_buffer("std", torch.ones(n_in, dtype=dtype))

    def set_normalization(self, x: Float[Tensor, "sample n_in"], smallest: float = 0.0) -> None:
        """Take mean and deviation of these, as `sciml.data.Normalizer` does, a deviation below `smallest` as 1.

        Raises
        ------
        ShapeError
            If `x` is not (sample, n_in).
        DataError
            If there is no sample, or it is not finite.
        """
        mean = self.get_buffer("mean")
        if x.ndim != 2:
            raise ShapeError(f"samples must be (sample, {len(mean)}); got {tuple(x.shape)}")
        found = Normalizer(len(mean), dtype=torch.float64).fit(x)
        mean.copy_(found.mean)
        self.get_buffer("std").copy_(found.std.where(found.std >= smallest, 1))

    def forward(self, x: Float[Tensor, "*batch n_in"]) -> Float[Tensor, "*batch n_out"]:
        h = (x - self.get_buffer("mean")) / self.get_buffer("std")
        for i, layer in enumerate(self.hidden):
            y = nn.functional.gelu(layer(h))
            h = h + y if self.skip and i > 0 else y
        return self.out(h)


class ChainConv(nn.Module):
    """Convolutions along a chain (x, v) of `n_masses` with fixed ends, (..., 2N) to accelerations (..., N)."""

    def __init__(
        self,
        n_masses: int,
        channels: int = 32,
        layers: int = 3,
        kernel_size: int = 3,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if layers < 1 or kernel_size % 2 == 0:
            raise ConfigError(f"layers={layers} must be at least 1, kernel_size={kernel_size} odd.")
        self.n_masses = n_masses
        widths = [2, *[channels] * (layers - 1), 1]
        modules: list[nn.Module] = []
        for a, b in pairwise(widths):
            modules += [nn.Conv1d(a, b, kernel_size, padding=kernel_size // 2, dtype=dtype), nn.GELU()]
        self.net = nn.Sequential(*modules[:-1])
        self.register_buffer("std", torch.ones(2, 1, dtype=dtype))

    def set_normalization(self, u: Float[Tensor, "sample n"], smallest: float = 0.0) -> None:
        """Divide positions and velocities by their deviations on these, the same for every mass."""
        std = Normalizer(2, dtype=torch.float64).fit(u.reshape(-1, 2, self.n_masses).transpose(1, 2).reshape(-1, 2)).std
        self.get_buffer("std").copy_(std.where(std >= smallest, 1)[:, None])

    def forward(self, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch half"]:
        scaled = u.reshape(-1, 2, self.n_masses) / self.get_buffer("std")
        return self.net(scaled).reshape(*u.shape[:-1], self.n_masses)


class MLPField(VectorField):
    """u̇ = MLP(u)."""

    def __init__(
        self, n: int, hidden: Sequence[int] = (64, 64), *, skip: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.n, self.net = n, MLP(n, n, hidden, skip=skip, dtype=dtype)

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        return self.net(u)


class SecondOrderField(VectorField):
    """q̇ = v, v̇ = acceleration(u) for states u = (q, v) and any module from (..., n) to (..., n/2)."""

    def __init__(self, n: int, acceleration: nn.Module) -> None:
        super().__init__()
        if n % 2:
            raise ConfigError(f"n={n}: states (q, v) have an even number of components.")
        self.n, self.acceleration = n, acceleration

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        return torch.cat([u[..., self.n // 2 :], self.acceleration(u)], -1)


class HamiltonianField(VectorField):
    """u̇ = J∇H(u), u = (q, p), for any H from (..., n) to (..., 1) or (...): it keeps H and the symplectic form."""

    def __init__(self, n: int, hamiltonian: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if n % 2:
            raise ConfigError(f"n={n}: states (q, p) have an even number of components.")
        self.n, self.hamiltonian = n, hamiltonian

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        return symplectic(self.gradient(u))

    def gradient(self, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """∇H."""
        return torch.func.grad(lambda x: self.hamiltonian(x).sum())(u)


def symplectic(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """J x = (x_p, -x_q)."""
    q, p = x.chunk(2, -1)
    return torch.cat([p, -q], -1)


def check_field(field: Any) -> None:
    """ConfigError for what is no function f(t, u)."""
    if isinstance(field, Model):
        raise ConfigError(f"{type(field).__name__} is a model of whole trajectories: give its field, model.dynamics.")
    if not callable(field):
        raise ConfigError(f"a field is a function or module f(t, u); got {type(field).__name__}.")
    try:
        signature(getattr(field, "forward", field)).bind_partial(None, None)
    except TypeError:
        raise ConfigError(f"a field is called as f(t, u); {type(field).__name__} takes other arguments.") from None
    except ValueError:  # of functions in C
        pass


def check_constraint(constraint: Any) -> None:
    """ConfigError for what is no `Constraint`."""
    if not isinstance(constraint, Constraint):
        raise ConfigError(
            f"constraint={constraint!r} must be a Constraint, for instance PendulumConstraint(2); make one of a "
            "function with FunctionConstraint"
        )


class _Constrained(VectorField):
    """A base field, any function or module f(t, u), and a constraint on the same states."""

    def __init__(self, base: Callable[..., Tensor], constraint: Constraint, gamma: float) -> None:
        super().__init__()
        check_field(base)
        check_constraint(constraint)
        n = getattr(base, "n", constraint.n)
        if n != constraint.n:
            raise ConfigError(f"the field is on {n} components, the constraint on {constraint.n}.")
        if not 0 <= gamma < float("inf"):
            raise ConfigError(f"gamma={gamma} must be a finite rate, not negative.")
        self.base, self.constraint, self.gamma, self.n = base, constraint, float(gamma), n

    def _keep_metric(self, metric: Tensor | None) -> None:
        """As buffers, a constant one with its root, so that it is checked and factorised here and nowhere else."""
        root = None
        if metric is not None and not metric.requires_grad:
            if metric.shape not in ((self.n,), (self.n, self.n)):
                raise ConfigError(f"metric must be ({self.n},) or ({self.n}, {self.n}); got {tuple(metric.shape)}")
            root = Weight.of(metric).root
        self.register_buffer("metric", metric, persistent=False)
        self.register_buffer("metric_root", root, persistent=False)

    @property
    def weight(self) -> Any:
        """The metric for `project_tangent`."""
        root: Any = self.metric_root
        return self.metric if root is None else Weight(self.get_buffer("metric"), root)

    def rows(self, t: Any, u: Tensor) -> Any:
        """The constraint's Jacobian, sparse if that is the method."""
        return (self.constraint.sparse_jacobian if self.method == "sparse" else self.constraint.jacobian)(t, u)

    def deviation(self, t: Any, u: Tensor, target: Tensor | None) -> Tensor:
        """g - target; without one, of a level, g."""
        g = self.constraint(t, u)
        if target is None:
            if self.constraint.kind == "conserved":
                raise ConfigError(
                    "this constraint is a conserved quantity, whose value differs by trajectory: pass "
                    "target=constraint.target(t0, u0)."
                )
            return g
        return g - target

    def check_target(self, u: Tensor, target: Tensor | None) -> None:
        """Shape and dtype of a target, also where the field does not need it."""
        if target is not None:
            self.constraint.check_target(u, target)


class ProjectedField(_Constrained):
    """u̇ = f - W Gᵀ(G W Gᵀ)⁻¹(G f + ∂g/∂t + γ(g - target)): d(g - target)/dt = -γ(g - target) whatever f is.

    γ = 0 is the projected field of arXiv 2410.23667, which keeps g but lets the error of the solver accumulate; γ > 0
    also draws back to the manifold, in increasing time. `metric` is W, by default the identity; with ones at algebraic
    components and zeros at differential ones it is the index reduction of a semi-explicit DAE. `method`, `rank` and
    `rtol` are those of `project_tangent`; "sparse" takes the `sparse_jacobian` of constraints that have one. Where a
    singular value crosses the threshold `rtol` of rank="pinv" the field jumps, and adaptive solvers stall: "tikhonov"
    is smooth, and a larger threshold is crossed further from the states at which rows are dependent.
    """

    def __init__(
        self,
        base: Callable[..., Tensor],
        constraint: Constraint,
        *,
        metric: Tensor | None = None,
        gamma: float = 0.0,
        method: Method | Banded = "auto",
        rank: Rank = "error",
        rtol: float | None = None,
    ) -> None:
        super().__init__(base, constraint, gamma)
        if not (isinstance(method, Banded) or method in METHODS) or rank not in RANKS:
            raise ConfigError(
                f"method={method!r}, rank={rank!r}: choose from {', '.join(METHODS)} and {', '.join(RANKS)}."
            )
        if rank == "pinv" and method != "auto":
            raise ConfigError(f"rank='pinv' is by singular values alone; got method={method!r}, leave it out.")
        if method == "sparse" and rank != "error":
            raise ConfigError(f"method='sparse' is for rank='error'; got rank={rank!r}.")
        if rtol is not None and not 0 <= rtol < 1:
            raise ConfigError(f"rtol={rtol!r} must lie in [0, 1).")
        self.method: Method | Banded = method
        self.rank: Rank = rank
        self.rtol = rtol
        self._keep_metric(metric)

    def forward(
        self, t: Any, u: Float[Tensor, "*batch n"], target: Float[Tensor, "*#batch m"] | None = None
    ) -> Float[Tensor, "*batch n"]:
        self.check_target(u, target)
        rhs = self.constraint.time_derivative(t, u)
        if self.gamma:
            pull = self.gamma * self.deviation(t, u, target)
            rhs = pull if rhs is None else rhs + pull
        return project_tangent(
            self.rows(t, u),
            self.base(t, u),
            rhs=rhs,
            metric=self.weight,
            method=self.method,
            rank=self.rank,  # type: ignore[arg-type]
            rtol=self.rtol,
        )


class ConstrainedMechanics(_Constrained):
    """Accelerations corrected by forces of constraint alone, so that q̇ = v stays exact (Gauss' principle).

    The first half of the constraint's rows are positions φ(q), the second half ψ = `per_rate`·φ̇ (½ for
    φ = |d|² - 1, ψ = d·ḋ): a number that constraints of mechanical systems declare, or that is given here for another
    one of that form. `inverse_mass` is that of the velocities, (n/2,) or (n/2, n/2), by default one. γ damps φ
    critically: φ̈ + 2γφ̇ + γ²φ = 0.
    """

    def __init__(
        self,
        base: Callable[..., Tensor],
        constraint: Constraint,
        *,
        inverse_mass: Tensor | None = None,
        gamma: float = 0.0,
        per_rate: float | None = None,
        method: Method = "auto",
    ) -> None:
        super().__init__(base, constraint, gamma)
        half = self.n // 2
        if constraint.m % 2 or self.n % 2:
            raise ConfigError("a mechanical constraint has as many rows for velocities as for positions.")
        per_rate = constraint.per_rate if per_rate is None else per_rate
        if per_rate is None or not 0 < abs(per_rate) < float("inf"):
            raise ConfigError(
                f"constraint {type(constraint).__name__}: the second half of its rows must be ψ = per_rate·φ̇ of the "
                f"first, positions φ; got per_rate={per_rate}. Declare per_rate if so, or take ProjectedField."
            )
        mass = torch.ones(half) if inverse_mass is None else inverse_mass
        if mass.shape not in ((half,), (half, half)):
            raise ConfigError(f"inverse_mass must be ({half},) or ({half}, {half}); got {tuple(mass.shape)}.")
        zero = mass.new_zeros(half)
        metric = torch.cat([zero, mass]) if mass.ndim == 1 else torch.block_diag(torch.diag(zero), mass)
        self.per_rate, self.method = per_rate, method
        self._keep_metric(metric)

    def forward(
        self, t: Any, u: Float[Tensor, "*batch n"], target: Float[Tensor, "*#batch m"] | None = None
    ) -> Float[Tensor, "*batch n"]:
        self.check_target(u, target)
        rows = self.constraint.m // 2
        drift = self.constraint.time_derivative(t, u)
        rhs = None if drift is None else drift[..., rows:]
        if self.gamma:
            position, velocity = self.deviation(t, u, target).split(rows, -1)
            pull = 2 * self.gamma * velocity + self.gamma**2 * self.per_rate * position
            rhs = pull if rhs is None else rhs + pull
        G = self.constraint.jacobian(t, u)[..., rows:, :]
        weight = self.weight
        weight = Weight(*(x.to(u) for x in weight)) if isinstance(weight, Weight) else weight.to(u)
        return project_tangent(G, self.base(t, u), rhs=rhs, metric=weight, method=self.method)  # type: ignore[arg-type]


class StabilizedField(_Constrained):
    """u̇ = f - γ G⁺(g - target) (arXiv 2306.09739): deviations decay at rate γ down to a floor ‖G f‖/γ.

    `method` is that of `ProjectedField`.
    """

    def __init__(
        self, base: Callable[..., Tensor], constraint: Constraint, gamma: float, *, method: Method | Banded = "auto"
    ) -> None:
        super().__init__(base, constraint, gamma)
        if not (isinstance(method, Banded) or method in METHODS):
            raise ConfigError(f"method={method!r}: choose from {', '.join(METHODS)}.")
        self.method: Method | Banded = method

    def forward(
        self, t: Any, u: Float[Tensor, "*batch n"], target: Float[Tensor, "*#batch m"] | None = None
    ) -> Float[Tensor, "*batch n"]:
        self.check_target(u, target)
        pull = min_norm_solve(self.rows(t, u), self.deviation(t, u, target), method=self.method)
        return self.base(t, u) - self.gamma * pull


class ConstrainedHamiltonianField(VectorField):
    """u̇ = (I - J Gᵀ(G J Gᵀ)⁻¹G) J∇H, the oblique symplectic projection of CHNN (arXiv:2010.13581).

    The rows of G are those of the constraints on positions and of their rates: an even number, all of which it keeps,
    and H with them.
    """

    def __init__(self, base: HamiltonianField, constraint: Constraint) -> None:
        super().__init__()
        check_constraint(constraint)
        if base.n != constraint.n or constraint.m % 2:
            raise ConfigError(
                f"the field is on {base.n} components, the constraint on {constraint.n} with {constraint.m} rows: give "
                "the rows of positions and as many of their rates, on the same states."
            )
        if constraint.driven:
            raise ConfigError("a driven constraint changes the energy; use ConstrainedMechanics or ProjectedField.")
        self.base, self.constraint, self.n = base, constraint, base.n

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        f, G = self.base(t, u), self.constraint.jacobian(t, u)
        turned = symplectic(G)  # rows J g_i
        gram = G @ turned.mT
        multipliers, info = torch.linalg.solve_ex(gram, G @ f[..., None])
        if values_are_known() and bool(info.any()):
            bad = info.reshape(-1).nonzero()[:, 0].tolist()
            raise SampleError(
                f"G J Gᵀ is singular in {len(bad)} sample(s), first {bad[:5]}: the rows must be those of positions and "
                "of their rates, independent of each other",
                bad,
            )
        return f - (turned.mT @ multipliers)[..., 0]
