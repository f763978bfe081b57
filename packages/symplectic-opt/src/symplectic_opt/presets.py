"""The optimizers by name: `BregmanSLC` with the settings of the paper's algorithms (arXiv 2207.11460)."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from symplectic_opt._settings import Family
from symplectic_opt.descent import Order, Restart
from symplectic_opt.heavy_ball import LoopTest
from symplectic_opt.optimizer import BregmanSLC

__all__ = ["HTVI", "SV", "EBravo", "ExpoSLC", "PBravo", "PolySLC"]

Number = float | int


class ExpoSLC(BregmanSLC):
    """ExpoSLC-RTL: rate e^(-ηt), by symmetric leapfrog, with restarts and temporal looping."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: Number | Tensor = 4.0,
        C: Number = 1.0,
        eta: Number = 0.01,
        beta: float = 0.8,
        restart: Restart = "gradient",
        temporal_looping: bool = True,
        loop_test: LoopTest = "paper",
        weight_decay: Number = 0.0,
        decoupled: bool = True,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            C,
            "exponential",
            eta,
            beta,
            restart=restart,
            temporal_looping=temporal_looping,
            loop_test=loop_test,
            weight_decay=weight_decay,
            decoupled=decoupled,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
        )

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 10.0}


class PolySLC(BregmanSLC):
    """PolySLC-RTL: rate t^(-p), by symmetric leapfrog, with restarts and temporal looping."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: Number | Tensor = 0.01,
        C: Number = 0.1,
        p: Number = 6.0,
        beta: float = 0.8,
        restart: Restart = "gradient",
        temporal_looping: bool = True,
        loop_test: LoopTest = "paper",
        weight_decay: Number = 0.0,
        decoupled: bool = True,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            C,
            "polynomial",
            p,
            beta,
            restart=restart,
            temporal_looping=temporal_looping,
            loop_test=loop_test,
            weight_decay=weight_decay,
            decoupled=decoupled,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
        )

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 0.1}


class EBravo(BregmanSLC):
    """eBrAVO: ExpoSLC for gradients of minibatches; `order="bravo"` decides as the authors do in PyTorch."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: Number | Tensor = 1.0,
        C: Number = 1.0,
        eta: Number = 0.01,
        beta: float = 0.8,
        restart: Restart = "gradient",
        temporal_looping: bool = True,
        loop_test: LoopTest = "paper",
        weight_decay: Number = 0.0,
        decoupled: bool = True,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        order: Order = "canonical",
        restart_smoothing: Number = 0.0,
    ) -> None:
        super().__init__(
            params,
            lr,
            C,
            "exponential",
            eta,
            beta,
            restart=restart,
            temporal_looping=temporal_looping,
            loop_test=loop_test,
            weight_decay=weight_decay,
            decoupled=decoupled,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            order=order,
            restart_smoothing=restart_smoothing,
        )

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 10.0}


class PBravo(BregmanSLC):
    """pBrAVO: PolySLC for gradients of minibatches; `order="bravo"` decides as the authors do in PyTorch."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: Number | Tensor = 0.01,
        C: Number = 0.1,
        p: Number = 6.0,
        beta: float = 0.8,
        restart: Restart = "gradient",
        temporal_looping: bool = True,
        loop_test: LoopTest = "paper",
        weight_decay: Number = 0.0,
        decoupled: bool = True,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        order: Order = "canonical",
        restart_smoothing: Number = 0.0,
    ) -> None:
        super().__init__(
            params,
            lr,
            C,
            "polynomial",
            p,
            beta,
            restart=restart,
            temporal_looping=temporal_looping,
            loop_test=loop_test,
            weight_decay=weight_decay,
            decoupled=decoupled,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            order=order,
            restart_smoothing=restart_smoothing,
        )

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 0.1}


class HTVI(BregmanSLC):
    """Hamiltonian Taylor variational integrator: the symplectic Euler method, order 1."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: Number | Tensor = 4.0,
        C: Number = 1.0,
        family: Family = "exponential",
        rate: Number | None = None,
        beta: float = 0.8,
        restart: Restart = "gradient",
        temporal_looping: bool = True,
        loop_test: LoopTest = "paper",
        weight_decay: Number = 0.0,
        decoupled: bool = True,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            C,
            family,
            rate,
            beta,
            restart=restart,
            temporal_looping=temporal_looping,
            loop_test=loop_test,
            weight_decay=weight_decay,
            decoupled=decoupled,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            integrator="htvi",
        )

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 10.0}


class SV(BregmanSLC):
    """Störmer-Verlet, order 2, of either family."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: Number | Tensor = 4.0,
        C: Number = 1.0,
        family: Family = "exponential",
        rate: Number | None = None,
        beta: float = 0.8,
        restart: Restart = "gradient",
        temporal_looping: bool = True,
        loop_test: LoopTest = "paper",
        weight_decay: Number = 0.0,
        decoupled: bool = True,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            C,
            family,
            rate,
            beta,
            restart=restart,
            temporal_looping=temporal_looping,
            loop_test=loop_test,
            weight_decay=weight_decay,
            decoupled=decoupled,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            integrator="sv",
        )

    @staticmethod
    def example() -> dict[str, Any]:
        return {"lr": 10.0}
