"""Explicit Runge–Kutta solvers for batches, each sample with its own step size and status."""

from pnde.solvers.native import solve
from pnde.solvers.solution import SampleError, Solution, SolveError, Status
from pnde.solvers.tableaus import ADAPTIVE, FIXED, Tableau

__all__ = ["ADAPTIVE", "FIXED", "SampleError", "Solution", "SolveError", "Status", "Tableau", "solve"]
