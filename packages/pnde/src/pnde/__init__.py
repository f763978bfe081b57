"""Projected neural differential equations: learned dynamics that keep their constraints (arXiv 2410.23667)."""

from pnde.constraints import (
    CentralMotion,
    Constraint,
    ConverterEnergy,
    EndPointMotion,
    FPUTEnergy,
    FunctionConstraint,
    LearnedConstraint,
    LinearConstraint,
    LotkaVolterraInvariant,
    PendulumConstraint,
    RigidBodyInvariants,
    StackedConstraint,
    stack,
)
from pnde.metrics import constraint_error, relative_state_error, valid_prediction_time
from pnde.models import NeuralODE, ProjectedNeuralODE, Solution, StabilizedNeuralODE
from pnde.problems import DoublePendulum
from pnde.projection import (
    Banded,
    RankDeficientConstraintError,
    SparseJacobian,
    detect_band,
    min_norm_solve,
    project_tangent,
)
from pnde.retraction import Retraction, retract

__all__ = [
    "Banded",
    "CentralMotion",
    "Constraint",
    "ConverterEnergy",
    "DoublePendulum",
    "EndPointMotion",
    "FPUTEnergy",
    "FunctionConstraint",
    "LearnedConstraint",
    "LinearConstraint",
    "LotkaVolterraInvariant",
    "NeuralODE",
    "PendulumConstraint",
    "ProjectedNeuralODE",
    "RankDeficientConstraintError",
    "Retraction",
    "RigidBodyInvariants",
    "Solution",
    "SparseJacobian",
    "StabilizedNeuralODE",
    "StackedConstraint",
    "constraint_error",
    "detect_band",
    "min_norm_solve",
    "project_tangent",
    "relative_state_error",
    "retract",
    "stack",
    "valid_prediction_time",
]
