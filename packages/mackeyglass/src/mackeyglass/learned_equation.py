"""Delay equations whose production is a network: everything that takes a `DDE` or a `SegmentMap` takes them."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor, nn

from mackeyglass.equation import DDE, Value, check_batch, check_positive
from mackeyglass.forward import jvp


class LearnedDDE(DDE):
    """u'(t) = −γu(t) + N(u(t−τ); c), or N(u(t), u(t−τ); c) with `sees_state`.

    Parameters
    ----------
    network
        Maps ``(…, inputs)`` to ``(…, 1)``: the values (u if it sees the state, u_τ) and the conditions, in this order.
    gamma, tau
        Numbers, or tensors ``(B,)``.
    conditions
        Further parameters c that the network sees, by name; not "gamma" or "tau".
    sees_state
        Then decay is not linear in all of the equation: it has no `production`, hence no segment map.

    Raises
    ------
    ConfigError, ShapeError
        If γ or τ is not positive, a condition is called like one of them, or tensors are not of one batch.
    """

    def __init__(
        self,
        network: nn.Module,
        gamma: Value,
        tau: Value,
        conditions: Mapping[str, Value] | None = None,
        *,
        sees_state: bool = False,
    ) -> None:
        check_conditions(tuple(conditions or ()))
        for name, value in (("gamma", gamma), ("tau", tau)):
            check_positive(name, value.detach() if isinstance(value, Tensor) else value)
        self.network, self.sees_state = network, sees_state
        self.names = tuple(conditions or ())
        self.parameters = {"gamma": gamma, "tau": tau, **(conditions or {})}
        check_batch(self.parameters)
        self.delays, self.dim = ("tau",), 1
        if not sees_state:
            self.production, self.production_slope = self._production, self._production_slope

    @property
    def gamma(self) -> Value:
        """Rate of decay."""
        return self.parameters["gamma"]

    @property
    def tau(self) -> Value:
        """The delay."""
        return self.parameters["tau"]

    def with_parameters(self, **values: Value) -> "LearnedDDE":
        """The same network with other values of some parameters."""
        self.check_names(values)
        new = {**self.parameters, **values}
        conditions = {name: new[name] for name in self.names}
        return LearnedDDE(self.network, new["gamma"], new["tau"], conditions, sees_state=self.sees_state)

    def field(
        self,
        x: Float[Tensor, "1 *batch"],
        delayed: Sequence[Float[Tensor, "1 *batch"]],
        parameters: Mapping[str, Value],
    ) -> Float[Tensor, "1 *batch"]:
        """The right-hand side with given values of all parameters."""
        values = [x, delayed[0]] if self.sees_state else [delayed[0]]
        return self._network(values, [parameters[name] for name in self.names]) - parameters["gamma"] * x

    def _production(self, u_tau: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """N(u_τ; c), elementwise."""
        return self._network([u_tau], [self.parameters[name] for name in self.names])

    def _production_slope(self, u_tau: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """∂N/∂u_τ, elementwise."""
        return jvp(self._production, (u_tau,), (torch.ones_like(u_tau),))[1]

    def _network(self, values: list[Tensor], conditions: list[Value]) -> Tensor:
        like = values[0]
        columns = torch.broadcast_tensors(*values, *(torch.as_tensor(c).to(like) for c in conditions))
        return self.network(torch.stack(columns, -1))[..., 0]


def check_conditions(names: Sequence[str]) -> None:
    """ConfigError unless these are names, each once, and none is that of the decay or the delay."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"conditions={names!r} must be a list of names")
    if len(set(names)) < len(names) or {"gamma", "tau"} & set(names):
        raise ConfigError(
            f"conditions={list(names)} must differ from each other and from gamma and tau, which the equation has"
        )
