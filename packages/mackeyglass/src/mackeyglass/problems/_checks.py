"""Checks of the fields of problems."""

import math
from collections.abc import Sequence
from typing import Any

from sciml.data import Problem
from sciml.errors import ConfigError

from mackeyglass.arguments import check_whole as check_whole_number


def check_numbers(problem: Problem, **above: float) -> None:
    """ConfigError where a field is no number above its bound."""
    for name, bound in above.items():
        value = getattr(problem, name)
        if not _is_number(value) or not bound < value < math.inf:
            raise ConfigError(f"{name}={value!r} must be a finite number greater than {bound:g}")


def check_not_negative(problem: Problem, *names: str) -> None:
    """ConfigError where a field is no number, or a negative one."""
    for name in names:
        value = getattr(problem, name)
        if not _is_number(value) or not 0 <= value < math.inf:
            raise ConfigError(f"{name}={value!r} must be a finite number that is not negative")


def check_whole(problem: Problem, **least: int) -> None:
    """ConfigError where a field is no whole number, or smaller than its least value."""
    for name, smallest in least.items():
        check_whole_number(name, getattr(problem, name), smallest)


def check_ranges(problem: Problem, **above: float) -> None:
    """ConfigError where a field is no pair (low, high) with bound < low ≤ high."""
    for name, bound in above.items():
        value = getattr(problem, name)
        good = isinstance(value, Sequence) and len(value) == 2 and all(map(_is_number, value))
        if not good or not bound < value[0] <= value[1] < math.inf:
            raise ConfigError(f"{name}={value!r} must be a pair (low, high) with {bound:g} < low <= high")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
