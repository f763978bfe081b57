"""The optimizers by name: `BregmanSLC` with the settings of the paper's algorithms (arXiv 2207.11460).

Their further `options` are those of `BregmanSLC`.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor

from symplectic_opt.optimizer import BregmanSLC

__all__ = ["HTVI", "SV", "EBravo", "ExpoSLC", "PBravo", "PolySLC"]

Number = float | int
Rate = float | int | Tensor
Parameters = Iterable[Any]


class ExpoSLC(BregmanSLC):
    """ExpoSLC-RTL: rate e^(-ηt), by symmetric leapfrog, with restarts and temporal looping."""

    fixed: ClassVar = ("family", "rate")

    def __init__(
        self, params: Parameters, lr: Rate = 4.0, C: Number = 1.0, eta: Number = 0.01, beta: float = 0.8, **options: Any
    ) -> None:
        super().__init__(params, lr, C, "exponential", eta, beta, **options)

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 10.0}


class PolySLC(BregmanSLC):
    """PolySLC-RTL: rate t^(-p), by symmetric leapfrog, with restarts and temporal looping."""

    fixed: ClassVar = ("family", "rate")

    def __init__(
        self, params: Parameters, lr: Rate = 0.01, C: Number = 0.1, p: Number = 6.0, beta: float = 0.8, **options: Any
    ) -> None:
        super().__init__(params, lr, C, "polynomial", p, beta, **options)

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 0.1}


class EBravo(ExpoSLC):
    """eBrAVO: ExpoSLC for gradients of minibatches; `order="bravo"` decides with the gradient that made the move.

    With minibatches that restarts less often: on images of digits pBrAVO became more accurate so (0.969 against 0.956),
    eBrAVO less (0.907 against 0.961). With exact gradients the canonical order came nearer to the minimum.
    """

    def __init__(
        self, params: Parameters, lr: Rate = 1.0, C: Number = 1.0, eta: Number = 0.01, beta: float = 0.8, **options: Any
    ) -> None:
        super().__init__(params, lr, C, eta, beta, **options)


class PBravo(PolySLC):
    """pBrAVO: PolySLC for gradients of minibatches; `order` as in `EBravo`."""


class HTVI(BregmanSLC):
    """Hamiltonian Taylor variational integrator, the symplectic Euler method of order 1, of either family."""

    fixed: ClassVar = ("integrator",)

    def __init__(self, params: Parameters, lr: Rate = 4.0, **options: Any) -> None:
        super().__init__(params, lr, integrator="htvi", **options)

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 10.0}


class SV(BregmanSLC):
    """Störmer-Verlet, order 2, of either family."""

    fixed: ClassVar = ("integrator",)

    def __init__(self, params: Parameters, lr: Rate = 4.0, **options: Any) -> None:
        super().__init__(params, lr, integrator="sv", **options)

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 10.0}
