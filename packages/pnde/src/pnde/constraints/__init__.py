"""Constraints g(t, u) with their Jacobians: general ones, and those of the problems by name."""

from pnde.constraints.base import Constraint, StackedConstraint, stack
from pnde.constraints.generic import FunctionConstraint, LearnedConstraint, LinearConstraint
from pnde.constraints.invariants import (
    CentralMotion,
    ConverterEnergy,
    FPUTEnergy,
    LotkaVolterraInvariant,
    RigidBodyInvariants,
)
from pnde.constraints.pendulum import PendulumConstraint
from pnde.constraints.power_balance import PowerBalance
from pnde.constraints.robot_arm import EndPointMotion

CONSTRAINTS: dict[str, type[Constraint]] = {
    "pendulum": PendulumConstraint,
    "central-motion": CentralMotion,
    "lotka-volterra": LotkaVolterraInvariant,
    "rigid-body": RigidBodyInvariants,
    "converter-energy": ConverterEnergy,
    "fput-energy": FPUTEnergy,
    "end-point-motion": EndPointMotion,
    "power-balance": PowerBalance,
}

__all__ = [
    "CONSTRAINTS",
    "CentralMotion",
    "Constraint",
    "ConverterEnergy",
    "EndPointMotion",
    "FPUTEnergy",
    "FunctionConstraint",
    "LearnedConstraint",
    "LinearConstraint",
    "LotkaVolterraInvariant",
    "PendulumConstraint",
    "PowerBalance",
    "RigidBodyInvariants",
    "StackedConstraint",
    "stack",
]
