"""Accelerated optimization by symplectic integration of Bregman dynamics (arXiv 2207.11460)."""

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
from symplectic_opt.heavy_ball import HeavyBall
from symplectic_opt.integrators import step_htvi, step_rk4, step_slc, step_sv

__all__ = [
    "Adaptive",
    "BregmanSystem",
    "Clock",
    "Exponential",
    "ExponentialToPolynomial",
    "HeavyBall",
    "Monitor",
    "Polynomial",
    "PowerClock",
    "growing_steps",
    "matched_rate",
    "step_htvi",
    "step_rk4",
    "step_slc",
    "step_sv",
    "time_change",
]
