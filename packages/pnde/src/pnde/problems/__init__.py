"""Trajectories of constrained systems from trusted solvers."""

from pnde.problems._common import Trajectories
from pnde.problems.central import QuarticPotential, TwoBody
from pnde.problems.converter import DCDCConverter
from pnde.problems.fput import FPUT
from pnde.problems.ieee14 import IEEE14
from pnde.problems.lotka_volterra import LotkaVolterra
from pnde.problems.pendulum import DoublePendulum, NPendulum
from pnde.problems.rigid_body import RigidBody
from pnde.problems.robot_arm import RobotArm

__all__ = [
    "FPUT",
    "IEEE14",
    "DCDCConverter",
    "DoublePendulum",
    "LotkaVolterra",
    "NPendulum",
    "QuarticPotential",
    "RigidBody",
    "RobotArm",
    "Trajectories",
    "TwoBody",
]
