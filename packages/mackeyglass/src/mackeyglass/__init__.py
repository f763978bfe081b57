"""Simulation, bifurcations and chaos of delay differential equations (arXiv 2203.00181)."""

from mackeyglass.characteristic import characteristic_roots, lambert_roots, unstable_roots
from mackeyglass.dormand_prince import DenseSolution, IntegrationError, solve_dde
from mackeyglass.equation import DDE
from mackeyglass.equilibria import EquilibriumBranch, follow_equilibrium
from mackeyglass.errors import ContinuationError
from mackeyglass.hopf import hopf_asymptote, hopf_curve, hopf_points, locate_hopf
from mackeyglass.hopf_curves import HopfBranch, continue_hopf
from mackeyglass.identities import averages
from mackeyglass.linearisation import equilibrium
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.normal_form import HopfNormalForm, HopfPoint, hopf_normal_form
from mackeyglass.runge_kutta import RungeKutta4
from mackeyglass.segment_map import SegmentMap
from mackeyglass.simulation import simulate

__all__ = [
    "DDE",
    "ContinuationError",
    "DenseSolution",
    "EquilibriumBranch",
    "HopfBranch",
    "HopfNormalForm",
    "HopfPoint",
    "IntegrationError",
    "MackeyGlass",
    "RungeKutta4",
    "SegmentMap",
    "averages",
    "characteristic_roots",
    "continue_hopf",
    "equilibrium",
    "follow_equilibrium",
    "hopf_asymptote",
    "hopf_curve",
    "hopf_normal_form",
    "hopf_points",
    "lambert_roots",
    "locate_hopf",
    "simulate",
    "solve_dde",
    "unstable_roots",
]
