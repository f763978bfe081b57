"""Simulation, bifurcations and chaos of delay differential equations (arXiv 2203.00181)."""

from mackeyglass.dormand_prince import DenseSolution, IntegrationError, solve_dde
from mackeyglass.equation import DDE
from mackeyglass.identities import averages
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.runge_kutta import RungeKutta4
from mackeyglass.segment_map import SegmentMap
from mackeyglass.simulation import simulate

__all__ = [
    "DDE",
    "DenseSolution",
    "IntegrationError",
    "MackeyGlass",
    "RungeKutta4",
    "SegmentMap",
    "averages",
    "simulate",
    "solve_dde",
]
