"""Simulation, bifurcations and chaos of delay differential equations (arXiv 2203.00181)."""

from mackeyglass.attractors import Attractor, basin, hysteresis, orbit_diagram
from mackeyglass.bifurcations import BifurcationPoint
from mackeyglass.branch import Branch, continue_bifurcation, continue_branch, locate
from mackeyglass.branch_files import branch_dataset, branch_from_dataset, load_branch
from mackeyglass.characteristic import characteristic_roots, lambert_roots, unstable_roots
from mackeyglass.codimension_two import CodimensionTwoPoint, locate_codimension_two
from mackeyglass.crossings import orbits_at, points_at, turning_points
from mackeyglass.dormand_prince import DenseSolution, IntegrationError, solve_dde
from mackeyglass.equation import DDE
from mackeyglass.equilibria import EquilibriumBranch, follow_equilibrium
from mackeyglass.errors import ContinuationError
from mackeyglass.extrema import Maxima, local_maxima
from mackeyglass.flip import FlipNormalForm, flip_normal_form
from mackeyglass.floquet import Multipliers, floquet_multipliers
from mackeyglass.growth import Special
from mackeyglass.hopf import hopf_asymptote, hopf_curve, hopf_points, locate_hopf
from mackeyglass.hopf_curves import HopfBranch, continue_hopf
from mackeyglass.identities import averages
from mackeyglass.inference import Inference, infer_parameters
from mackeyglass.learned_equation import LearnedDDE
from mackeyglass.lifetimes import (
    Lifetimes,
    PowerLaw,
    attractor_distance,
    fit_crisis,
    fit_intermittency,
    laminar_phases,
    transient_lifetime,
)
from mackeyglass.linearisation import equilibrium
from mackeyglass.lyapunov import LyapunovSpectrum, kaplan_yorke_dimension, lyapunov_spectrum
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.mesh import Mesh
from mackeyglass.models import ESN, AttractorMap, NeuralDDE, SegmentOperator
from mackeyglass.normal_form import HopfNormalForm, HopfPoint, hopf_normal_form
from mackeyglass.orbits import PeriodicOrbit
from mackeyglass.runge_kutta import RungeKutta4
from mackeyglass.segment_map import SegmentMap
from mackeyglass.series import segments_from_series
from mackeyglass.simulation import simulate

__all__ = [
    "DDE",
    "ESN",
    "Attractor",
    "AttractorMap",
    "BifurcationPoint",
    "Branch",
    "CodimensionTwoPoint",
    "ContinuationError",
    "DenseSolution",
    "EquilibriumBranch",
    "FlipNormalForm",
    "HopfBranch",
    "HopfNormalForm",
    "HopfPoint",
    "Inference",
    "IntegrationError",
    "LearnedDDE",
    "Lifetimes",
    "LyapunovSpectrum",
    "MackeyGlass",
    "Maxima",
    "Mesh",
    "Multipliers",
    "NeuralDDE",
    "PeriodicOrbit",
    "PowerLaw",
    "RungeKutta4",
    "SegmentMap",
    "SegmentOperator",
    "Special",
    "attractor_distance",
    "averages",
    "basin",
    "branch_dataset",
    "branch_from_dataset",
    "characteristic_roots",
    "continue_bifurcation",
    "continue_branch",
    "continue_hopf",
    "equilibrium",
    "fit_crisis",
    "fit_intermittency",
    "flip_normal_form",
    "floquet_multipliers",
    "follow_equilibrium",
    "hopf_asymptote",
    "hopf_curve",
    "hopf_normal_form",
    "hopf_points",
    "hysteresis",
    "infer_parameters",
    "kaplan_yorke_dimension",
    "lambert_roots",
    "laminar_phases",
    "load_branch",
    "local_maxima",
    "locate",
    "locate_codimension_two",
    "locate_hopf",
    "lyapunov_spectrum",
    "orbit_diagram",
    "orbits_at",
    "points_at",
    "segments_from_series",
    "simulate",
    "solve_dde",
    "transient_lifetime",
    "turning_points",
    "unstable_roots",
]
