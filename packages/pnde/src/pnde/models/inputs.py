"""What the network of a model sees of time and state."""

import math
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from sciml.errors import ConfigError
from torch import Tensor, nn


class State(nn.Module):
    """The state alone."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n_out = n

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n_out"]:
        return u


class ArmAndTarget(nn.Module):
    """Cosines and sines of the angles, and the speed ṗ = (-cos 2πt, 0) of the prescribed end point."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n_out = 2 * n + 2

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n_out"]:
        t = torch.as_tensor(t, dtype=u.dtype, device=u.device)
        speed = -(2 * math.pi * t).cos().expand(u.shape[:-1])
        return torch.cat([u.cos(), u.sin(), torch.stack([speed, torch.zeros_like(speed)], -1)], -1)


class StateAndSwitch(nn.Module):
    """The state, and a switch that is 0 during the part `duty` of each `period` and 1 during the rest."""

    def __init__(self, n: int, period: float | int = 3.0, duty: float | int = 0.5) -> None:
        super().__init__()
        if not (period > 0 and 0 <= duty <= 1):
            raise ConfigError(f"inputs_config: period={period} must be positive, and duty={duty} in [0, 1]")
        self.n_out, self.period, self.duty = n + 1, period, duty

    def forward(self, t: Any, u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n_out"]:
        t = torch.as_tensor(t, dtype=u.dtype, device=u.device).expand(u.shape[:-1])
        phase = torch.remainder(t, self.period) / self.period
        return torch.cat([u, (phase >= self.duty).to(u.dtype)[..., None]], -1)


INPUTS: dict[str, Any] = {"state": State, "arm-and-target": ArmAndTarget, "state-and-switch": StateAndSwitch}


def named(kinds: dict[str, Any], what: str, name: str, options: dict[str, Any] | None, *first: Any) -> Any:
    """The thing of that name, made of `first` and the options. ConfigError names what does not fit."""
    if not isinstance(name, str) or name not in kinds:
        raise ConfigError(f"{what}={name!r} is unknown; choose one of {', '.join(kinds)}")
    kind = kinds[name]
    try:
        return kind(*first, **(options or {}))
    except TypeError as error:
        arguments = list(signature(kind).parameters)[len(first) :]
        raise ConfigError(
            f"{what}_config={options!r} does not fit the {what} {name} ({error}); "
            f"its arguments are {', '.join(arguments) or 'none'}"
        ) from error
