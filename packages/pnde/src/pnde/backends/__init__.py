"""One initial value problem, solved by this package, by torchdiffeq or by torchode."""

from sciml.errors import ConfigError

from pnde.backends.base import Backend, InitialValueProblem, Native
from pnde.backends.with_torchdiffeq import Torchdiffeq
from pnde.backends.with_torchode import Torchode, imported

__all__ = ["BACKENDS", "Backend", "InitialValueProblem", "backend"]

BACKENDS: dict[str, Backend] = {"native": Native(), "torchdiffeq": Torchdiffeq(), "torchode": Torchode()}


def backend(name: str, method: str, adjoint: bool, retract_steps: bool) -> Backend:
    """The backend of that name.

    Raises
    ------
    ConfigError
        If there is none, or it has not that method, adjoint or retraction of steps.
    ImportError
        If it is not installed.
    """
    if name not in BACKENDS:
        raise ConfigError(f"backend={name!r} is unknown; choose one of {', '.join(BACKENDS)}")
    found = BACKENDS[name]
    if method not in found.methods:
        raise ConfigError(f"method={method!r} is unknown to {name}; choose one of {', '.join(found.methods)}")
    if adjoint and method not in found.adjoint_methods:
        options = [f"{key} ({', '.join(b.adjoint_methods)})" for key, b in BACKENDS.items() if b.adjoint_methods]
        raise ConfigError(
            f"{name} has no adjoint of method={method!r}; choose {' or '.join(options)}, or adjoint=False, which "
            "differentiates the steps"
        )
    if retract_steps and not found.retracts:
        raise ConfigError(
            f"backend={name!r} cannot change the state after a step; choose backend='native', or retract='output'"
        )
    if isinstance(found, Torchode):
        imported()
    return found
