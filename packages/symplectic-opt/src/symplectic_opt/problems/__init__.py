"""Functions with known minima and learning problems, on which optimizers are compared (arXiv 2207.11460)."""

from symplectic_opt.problems._objective import Function, Objective
from symplectic_opt.problems.fermat_weber import FermatWeber
from symplectic_opt.problems.functions import Ackley, Beale, Log2d, Rastrigin, Rosenbrock, XLogX
from symplectic_opt.problems.logistic import Blobs, LogisticRegression
from symplectic_opt.problems.powers import CorrelatedQuadratic, NesterovChain, Quadratic, Quartic, QuarticSum

__all__ = [
    "Ackley",
    "Beale",
    "Blobs",
    "CorrelatedQuadratic",
    "FermatWeber",
    "Function",
    "Log2d",
    "LogisticRegression",
    "NesterovChain",
    "Objective",
    "Quadratic",
    "Quartic",
    "QuarticSum",
    "Rastrigin",
    "Rosenbrock",
    "XLogX",
]
