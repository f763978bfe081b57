"""Functions with known minima and learning problems, on which optimizers are compared (arXiv 2207.11460)."""

from symplectic_opt.problems._learning import Learning, Split
from symplectic_opt.problems._objective import Function, Objective
from symplectic_opt.problems.data_fitting import DataFitting
from symplectic_opt.problems.fermat_weber import FermatWeber
from symplectic_opt.problems.functions import Ackley, Beale, Log2d, Rastrigin, Rosenbrock, XLogX
from symplectic_opt.problems.images import CIFAR10, FashionMNIST
from symplectic_opt.problems.logistic import Blobs, LogisticRegression
from symplectic_opt.problems.multilabel import MultiLabel
from symplectic_opt.problems.powers import CorrelatedQuadratic, NesterovChain, Quadratic, Quartic, QuarticSum
from symplectic_opt.problems.small_images import MNIST1D, Digits
from symplectic_opt.problems.so3 import SO3Dynamics
from symplectic_opt.problems.weather import Weather

__all__ = [
    "CIFAR10",
    "MNIST1D",
    "Ackley",
    "Beale",
    "Blobs",
    "CorrelatedQuadratic",
    "DataFitting",
    "Digits",
    "FashionMNIST",
    "FermatWeber",
    "Function",
    "Learning",
    "Log2d",
    "LogisticRegression",
    "MultiLabel",
    "NesterovChain",
    "Objective",
    "Quadratic",
    "Quartic",
    "QuarticSum",
    "Rastrigin",
    "Rosenbrock",
    "SO3Dynamics",
    "Split",
    "Weather",
    "XLogX",
]
