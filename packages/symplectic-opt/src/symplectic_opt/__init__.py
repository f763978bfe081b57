"""Accelerated optimization by symplectic integration of Bregman dynamics (arXiv 2207.11460)."""

from symplectic_opt.batch import BatchResult, minimize_batch
from symplectic_opt.bregman import BregmanSystem, Exponential, Polynomial, time_change
from symplectic_opt.clocks import (
    Adaptive,
    Clock,
    ExponentialToPolynomial,
    Monitor,
    PowerClock,
    growing_steps,
    matched_rate,
)
from symplectic_opt.descent import Descent
from symplectic_opt.heavy_ball import HeavyBall
from symplectic_opt.integrators import step_htvi, step_rk4, step_slc, step_sv
from symplectic_opt.methods import METHODS, Settings
from symplectic_opt.minimize import minimize
from symplectic_opt.tune import GRIDS, TuneResult, tune

__all__ = [
    "GRIDS",
    "METHODS",
    "Adaptive",
    "BatchResult",
    "BregmanSystem",
    "Clock",
    "Descent",
    "Exponential",
    "ExponentialToPolynomial",
    "HeavyBall",
    "Monitor",
    "Polynomial",
    "PowerClock",
    "Settings",
    "TuneResult",
    "growing_steps",
    "matched_rate",
    "minimize",
    "minimize_batch",
    "step_htvi",
    "step_rk4",
    "step_slc",
    "step_sv",
    "time_change",
    "tune",
]
