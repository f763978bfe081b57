"""How much finer a grid is than the one that a layer was made for, axis by axis, as exact fractions."""

from collections.abc import Sequence
from fractions import Fraction

from sciml.errors import ConfigError

Scale = tuple[Fraction, ...]  # s = h₀/h of every axis: 2 on a grid twice as fine
Ends = tuple[bool, ...]  # whether the nodes include both ends of the axis, so that n nodes have n - 1 spacings


def as_scale(values: Sequence[Fraction | float | int]) -> Scale:
    """The scale with these factors; floating-point numbers become the fraction next to them.

    Raises
    ------
    ConfigError
        A factor that is not positive, or below a millionth.
    """
    scale = tuple(
        v if isinstance(v, Fraction) else Fraction(v).limit_denominator(10**6) if 0 < v < float("inf") else Fraction(0)
        for v in values
    )
    if not all(s > 0 for s in scale):
        raise ConfigError(
            f"scale={tuple(map(float, values))}: every factor h0/h must be a positive number, of at least a millionth."
        )
    return scale


def scale_between(base: Sequence[int], fine: Sequence[int], ends: Ends) -> Scale:
    """The factors by which an axis of `base` nodes is refined to one of `fine` nodes, of the same length."""
    return tuple(
        Fraction(n - end, n0 - end) if n0 > end else Fraction(1) for n0, n, end in zip(base, fine, ends, strict=True)
    )


def refined_size(n: int, s: Fraction, end: bool) -> int:
    """How many nodes an axis of `n` nodes has after refinement.

    Raises
    ------
    ConfigError
        That is not a whole number.
    """
    count = s * (n - end) + end
    if count.denominator != 1:
        raise ConfigError(
            f"An axis of {n} nodes, refined by {s}, would have {float(count):g}: no whole number. Every level of the "
            f"network needs one; refine by a multiple of 1/{(n - end)}."
        )
    return int(count)


def base_size(n: int, s: Fraction, end: bool) -> int:
    """How many nodes an axis has that refinement makes one of `n` nodes. ConfigError if there is no such number."""
    return refined_size(n, 1 / s, end)


def fixed(number: float) -> float:
    """The number, as a constant of a compiled graph, where those that follow from sizes may be symbols."""
    return float.fromhex(number.hex())  # no symbol has digits


def fixed_size(n: int) -> int:
    """`fixed` for whole numbers: fractions and kernels of a physical size are made for the sizes that there are."""
    return len(range(n))
