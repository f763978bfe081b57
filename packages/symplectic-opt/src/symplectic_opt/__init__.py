"""Accelerated optimization by symplectic integration of Bregman dynamics (arXiv 2207.11460)."""

from symplectic_opt.baselines import step_momentum, step_nag, step_rate_matching
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
from symplectic_opt.energy import extended_energy, initial_time_momentum, step_slc_extended
from symplectic_opt.heavy_ball import HeavyBall
from symplectic_opt.integrators import step_htvi, step_rk4, step_slc, step_sv
from symplectic_opt.methods import METHODS, Settings
from symplectic_opt.minimize import minimize
from symplectic_opt.optimizer import BregmanSLC
from symplectic_opt.presets import HTVI, SV, EBravo, ExpoSLC, PBravo, PolySLC
from symplectic_opt.tune import GRIDS, TuneResult, tune

__all__ = [
    "GRIDS",
    "HTVI",
    "METHODS",
    "SV",
    "Adaptive",
    "BatchResult",
    "BregmanSLC",
    "BregmanSystem",
    "Clock",
    "Descent",
    "EBravo",
    "ExpoSLC",
    "Exponential",
    "ExponentialToPolynomial",
    "HeavyBall",
    "Monitor",
    "PBravo",
    "PolySLC",
    "Polynomial",
    "PowerClock",
    "Settings",
    "TuneResult",
    "extended_energy",
    "growing_steps",
    "initial_time_momentum",
    "matched_rate",
    "minimize",
    "minimize_batch",
    "step_htvi",
    "step_momentum",
    "step_nag",
    "step_rate_matching",
    "step_rk4",
    "step_slc",
    "step_slc_extended",
    "step_sv",
    "time_change",
    "tune",
]
