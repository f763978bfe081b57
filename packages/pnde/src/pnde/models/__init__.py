"""Models of trajectories by name, with and without the constraint."""

from pnde.models.angular import AngularNDE
from pnde.models.base import TrajectoryModel
from pnde.models.kinds import CFINDE, CHNN, HNN, NDE, PNDE, PNODE, PSNDE, SNDE, MetricPNDE

__all__ = [
    "CFINDE",
    "CHNN",
    "HNN",
    "NDE",
    "PNDE",
    "PNODE",
    "PSNDE",
    "SNDE",
    "AngularNDE",
    "MetricPNDE",
    "TrajectoryModel",
]
