"""Neural delay equations: known decay, learned production, a delay that may be learned too."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from sciml.data import Normalizer
from sciml.errors import ConfigError, ShapeError
from sciml.model import Example, Model
from torch import Tensor, nn

from mackeyglass.arguments import check_whole
from mackeyglass.chebyshev import lagrange_basis, lobatto_nodes, on_panels
from mackeyglass.equation import Value, check_positive
from mackeyglass.learned_equation import LearnedDDE, check_conditions
from mackeyglass.models._checks import check_choice, check_dtype, check_sizes, check_tensor
from mackeyglass.models._perceptron import perceptron
from mackeyglass.runge_kutta import cubic_hermite
from mackeyglass.segment_map import SegmentMap, enough_panels

MOST_PANELS = 16  # a delay that runs away in training costs no more


class NeuralDDE(Model):
    """u' = −γu + N_w(u_τ; c) or −γu + N_w(u, u_τ; c), a perceptron N_w with tanh units, trained by whole segments.

    Parameters
    ----------
    gamma, tau
        Rate of decay and delay, or what learning begins with.
    hidden
        Width of each hidden layer.
    sees
        "delayed": segments are mapped by `SegmentMap`, with spectral accuracy. "both": N sees u(t) too; a segment is
        then computed by `steps` Runge–Kutta steps of order 4, through which derivatives are taken.
    learn_gamma, learn_tau
        Whether γ and τ are parameters.
    conditions
        Names of parameters c of the equation that N sees, for instance ("n",); not "gamma" or "tau".
    nodes, steps
        M: segments have M + 1 values, and are computed with so many in each 4/γ of a delay, in 16 parts at most.
        Steps in a delay where N sees both.
    dtype
        "float64" or "float32".

    Raises
    ------
    ConfigError
        If an argument is out of range.
    """

    log_gamma: Tensor
    log_tau: Tensor

    def __init__(
        self,
        gamma: float | int = 1.0,
        tau: float | int = 2.0,
        hidden: Sequence[int] = (32, 32),
        sees: str = "delayed",
        learn_gamma: bool = False,
        learn_tau: bool = False,
        conditions: Sequence[str] = (),
        nodes: int = 32,
        steps: int = 40,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        self.kind = check_dtype(dtype)
        check_sizes(hidden, nodes=nodes, steps=steps)
        check_choice("sees", sees, ("delayed", "both"))
        check_whole("nodes", nodes, 2)
        check_positive("gamma", gamma)
        check_positive("tau", tau)
        check_conditions(conditions)
        self.sees_state, self.names, self.nodes, self.steps = sees == "both", tuple(conditions), nodes, steps
        for name, value, learned in (("log_gamma", gamma, learn_gamma), ("log_tau", tau, learn_tau)):
            start = torch.tensor(math.log(value), dtype=self.kind)
            if learned:
                self.register_parameter(name, nn.Parameter(start))
            else:
                self.register_buffer(name, start)
        inputs = 1 + self.sees_state + len(self.names)
        self.scale = Normalizer(inputs, dim=-1, dtype=self.kind)
        self.network = nn.Sequential(self.scale, *perceptron([inputs, *hidden, 1], nn.Tanh, self.kind))

    @classmethod
    def example(cls) -> Example:
        """A small network on two histories, whose delay is learned."""
        s = torch.from_numpy(lobatto_nodes(8))
        U = torch.stack([1 + 0.3 * torch.sin(3 * s), 0.8 + 0.2 * torch.cos(2 * s)])
        config = {"hidden": [8], "nodes": 8, "learn_gamma": True, "learn_tau": True}
        return Example(config, (U,), refused=((U[:, :7],), (U.float(),), (U[0],)))

    @property
    def gamma(self) -> Tensor:
        """Rate of decay."""
        return torch.exp(self.log_gamma)

    @property
    def tau(self) -> Tensor:
        """The delay."""
        return torch.exp(self.log_tau)

    def set_normalization(self, u: Float[Tensor, "*samples"], **conditions: Float[Tensor, "*c"]) -> None:
        """Let N see its inputs in units of their deviations on these values.

        Raises
        ------
        ConfigError
            If conditions are missing or unknown.
        """
        self._check_conditions(conditions)
        columns = [u.flatten()] * (1 + self.sees_state) + [conditions[name].flatten() for name in self.names]
        for i, column in enumerate(columns):
            one = Normalizer(1, dim=-1).fit(column[:, None].double())
            self.scale.mean[i], self.scale.std[i] = one.mean[0], one.std[0]

    def equation(self, **conditions: Value) -> LearnedDDE:
        """The equation at values of the conditions, numbers or tensors ``(B,)``; weights are shared, not copied.

        Raises
        ------
        ConfigError
            If conditions are missing or unknown.
        """
        self._check_conditions(conditions)
        values = {name: conditions[name] for name in self.names}
        return LearnedDDE(self.network, self.gamma, self.tau, values, sees_state=self.sees_state)

    def detached(self, **conditions: Value) -> LearnedDDE:
        """The equation in float64 with γ and τ as numbers, weights without derivatives: for its analysis."""
        equation = self.equation(**conditions)
        network = copy.deepcopy(self.network).double().requires_grad_(False)
        values = {name: equation.parameters[name] for name in self.names}
        gamma, tau = self.gamma.item(), self.tau.item()
        return LearnedDDE(network, gamma, tau, values, sees_state=self.sees_state)

    def forward(
        self,
        history: Float[Tensor, "batch nodes"],
        conditions: Float[Tensor, "batch c"] | None = None,
        segments: int = 1,
    ) -> Float[Tensor, "batch segments nodes"]:
        """The next segments, at Chebyshev–Lobatto nodes; `conditions` has a column for each of their names.

        Raises
        ------
        ShapeError, TypeError
            For another shape or dtype.
        """
        check_tensor("a history", history, f"(batch, {self.nodes + 1})", self.kind, 2, self.nodes + 1)
        columns = self._columns(history, conditions)
        equation = self.equation(**columns)
        if not self.sees_state:
            panels = min(enough_panels(equation), MOST_PANELS)
            segment_map = SegmentMap(equation, self.nodes, panels, dtype=self.kind, device=history.device)
            found = segment_map.trajectory(on_panels(history, self.nodes, 1, panels), segments)
            return on_panels(found, self.nodes, panels, 1).movedim(0, 1)
        found = []
        for _ in range(segments):
            history = self._runge_kutta(history, equation)
            found.append(history)
        return torch.stack(found, 1) if found else history.new_empty(len(history), 0, self.nodes + 1)

    def _runge_kutta(self, history: Float[Tensor, "batch nodes"], equation: LearnedDDE) -> Float[Tensor, "batch nodes"]:
        """RK4 with delayed values from the polynomial of the history, cubic Hermite interpolation at the nodes."""
        K, h = self.steps, self.tau / self.steps
        grid = torch.linspace(0, 1, 2 * K + 1, dtype=self.kind, device=history.device)
        delayed = history @ lagrange_basis(grid, self.nodes).mT
        parameters = equation.parameters

        def slope(u: Tensor, i: int) -> Tensor:
            return equation.field(u[None], [delayed[None, :, i]], parameters)[0]

        u, values, slopes = history[:, -1], [], []
        for i in range(0, 2 * K, 2):
            k1 = slope(u, i)
            k2 = slope(u + h / 2 * k1, i + 1)
            k3 = slope(u + h / 2 * k2, i + 1)
            k4 = slope(u + h * k3, i + 2)
            values.append(u)
            slopes.append(k1)
            u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        values.append(u)
        slopes.append(slope(u, 2 * K))
        return _hermite(torch.stack(values, -1), torch.stack(slopes, -1) * h, self.nodes)

    def _columns(self, history: Tensor, conditions: Tensor | None) -> dict[str, Tensor]:
        shape = (len(history), len(self.names))
        if (conditions is None and self.names) or (conditions is not None and conditions.shape != shape):
            found = None if conditions is None else tuple(conditions.shape)
            raise ShapeError(
                f"conditions ({', '.join(self.names)}) must be {shape}, a row for each history; got {found}"
            )
        return {} if conditions is None else dict(zip(self.names, conditions.unbind(-1), strict=True))

    def _check_conditions(self, conditions: dict[str, Any]) -> None:
        if set(conditions) != set(self.names):
            raise ConfigError(f"this model has the conditions {list(self.names)}, got {sorted(conditions)}")


def _hermite(
    values: Float[Tensor, "batch steps"], increments: Float[Tensor, "batch steps"], nodes: int
) -> Float[Tensor, "batch nodes"]:
    """Cubic Hermite interpolation from equal steps to the nodes; increments are h times slopes."""
    K = values.shape[-1] - 1
    at = torch.from_numpy(lobatto_nodes(nodes)).to(values) * K
    cell = at.floor().long().clamp(max=K - 1)
    s = at - cell
    return cubic_hermite(s, values[:, cell], values[:, cell + 1], increments[:, cell], increments[:, cell + 1])
