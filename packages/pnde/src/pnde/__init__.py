"""Projected neural differential equations: learned dynamics that keep their constraints (arXiv 2410.23667)."""

from pnde.constraints import Constraint, PendulumConstraint
from pnde.metrics import constraint_error, relative_state_error, valid_prediction_time
from pnde.models import NeuralODE, ProjectedNeuralODE, Solution, StabilizedNeuralODE
from pnde.problems import DoublePendulum
from pnde.projection import RankDeficientConstraintError, min_norm_solve, project_tangent

__all__ = [
    "Constraint",
    "DoublePendulum",
    "NeuralODE",
    "PendulumConstraint",
    "ProjectedNeuralODE",
    "RankDeficientConstraintError",
    "Solution",
    "StabilizedNeuralODE",
    "constraint_error",
    "min_norm_solve",
    "project_tangent",
    "relative_state_error",
    "valid_prediction_time",
]
