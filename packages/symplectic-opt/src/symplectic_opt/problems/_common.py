"""What the problems share: checks of their fields, packages of the extra `ml`, Newton's method for references."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from sciml.data import Problem
from sciml.errors import ConfigError

Real = float | int


def check_whole(problem: Problem, name: str, least: int = 1) -> None:
    """ConfigError where a field is no whole number, or smaller than `least`."""
    value = getattr(problem, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name}={value!r} must be a whole number, at least {least}")


def check_number(problem: Problem, name: str, above: Real) -> None:
    """ConfigError where a field is no number larger than `above`."""
    value = getattr(problem, name)
    if not isinstance(value, float | int) or isinstance(value, bool) or not value > above:
        raise ConfigError(f"{name}={value!r} must be a number above {above}")


def ml(module: str) -> Any:
    """A module of the extra `ml`.

    Raises
    ------
    ImportError
        If it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f'this problem needs {module}, which cannot be imported ({error}): pip install "symplectic-opt[ml]"'
        ) from error


def newton(derivatives: Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """The minimizer of a smooth, strictly convex function to rounding, by Newton's method with halved steps.

    Parameters
    ----------
    derivatives
        Value, gradient and Hessian at a point.

    Raises
    ------
    RuntimeError
        If it has not converged after 100 steps.
    """
    value, gradient, hessian = derivatives(x)
    for _ in range(100):
        step = -np.linalg.solve(hessian, gradient)
        decrease = -gradient @ step
        while decrease > 1e-12 * abs(value) and derivatives(x + step)[0] > value - 1e-4 * decrease:
            step, decrease = step / 2, decrease / 2
        x = x + step
        if np.linalg.norm(step) <= 1e-14 * np.linalg.norm(x):
            return x
        value, gradient, hessian = derivatives(x)
    raise RuntimeError(f"Newton's method has not converged: the gradient is {np.linalg.norm(gradient):.1e}")
