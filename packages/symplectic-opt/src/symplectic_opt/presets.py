"""The optimizers by name: `BregmanSLC` with the settings of the paper's algorithms (arXiv 2207.11460).

Their further `options` are those of `BregmanSLC`.
"""

from collections.abc import Iterable
from typing import Any

from sciml.errors import ConfigError
from torch import Tensor

from symplectic_opt.optimizer import BregmanSLC

__all__ = ["HTVI", "SV", "EBravo", "ExpoSLC", "PBravo", "PolySLC"]

Number = float | int
Rate = float | int | Tensor
Parameters = Iterable[Any]


class ExpoSLC(BregmanSLC):
    """ExpoSLC-RTL: rate e^(-ηt), by symmetric leapfrog, with restarts and temporal looping."""

    fixed = ("family",)

    def __init__(
        self, params: Parameters, lr: Rate = 4.0, C: Number = 1.0, eta: Number = 0.01, beta: float = 0.8, **options: Any
    ) -> None:
        super().__init__(params, lr, C, "exponential", eta, beta, **_free(self, options, "eta"))

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 10.0}


class PolySLC(BregmanSLC):
    """PolySLC-RTL: rate t^(-p), by symmetric leapfrog, with restarts and temporal looping."""

    fixed = ("family",)

    def __init__(
        self, params: Parameters, lr: Rate = 0.01, C: Number = 0.1, p: Number = 6.0, beta: float = 0.8, **options: Any
    ) -> None:
        super().__init__(params, lr, C, "polynomial", p, beta, **_free(self, options, "p"))

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 0.1}


class EBravo(ExpoSLC):
    """eBrAVO: ExpoSLC for gradients of minibatches; `order="bravo"` decides with the gradient that made the move.

    That restarts less often with minibatches, whose next gradient is of other data, but diverges at an lr at which the
    canonical order does not.
    """

    def __init__(
        self, params: Parameters, lr: Rate = 1.0, C: Number = 1.0, eta: Number = 0.01, beta: float = 0.8, **options: Any
    ) -> None:
        super().__init__(params, lr, C, eta, beta, **options)


class PBravo(PolySLC):
    """pBrAVO: PolySLC for gradients of minibatches; `order` as in `EBravo`."""


class HTVI(BregmanSLC):
    """Hamiltonian Taylor variational integrator, the symplectic Euler method of order 1, of either family."""

    fixed = ("integrator",)

    def __init__(self, params: Parameters, lr: Rate | None = None, **options: Any) -> None:
        super().__init__(params, lr, integrator="htvi", **_free(self, options))

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 10.0}


class SV(BregmanSLC):
    """Störmer-Verlet, order 2, of either family."""

    fixed = ("integrator",)

    def __init__(self, params: Parameters, lr: Rate | None = None, **options: Any) -> None:
        super().__init__(params, lr, integrator="sv", **_free(self, options))

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 10.0}


def _free(optimizer: BregmanSLC, options: dict[str, Any], rate: str = "") -> dict[str, Any]:
    """The options. ConfigError if the optimizer has fixed one of them, or the rate, which it calls `rate`."""
    if rate and "rate" in options:
        raise ConfigError(f"{type(optimizer).__name__} calls its rate {rate}: set {rate}={options['rate']!r}")
    if taken := [name for name in options if name in optimizer.fixed]:
        raise ConfigError(
            f"{type(optimizer).__name__} sets {' and '.join(taken)} itself: leave it out, or take BregmanSLC"
        )
    return options
