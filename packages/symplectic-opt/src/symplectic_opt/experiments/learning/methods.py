"""The optimizers that are compared, and the grids on which they are tuned."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any

import torch
from pydantic import Field
from sciml.config import config
from torch.optim import Optimizer

from symplectic_opt.presets import EBravo, PBravo
from symplectic_opt.problems._common import ml

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Cell = tuple[float, ...]
Place = tuple[float | int, ...]
OURS = ("eBrAVO", "pBrAVO")
KICKS_FIRST = ("eBrAVO, bravo order", "pBrAVO, bravo order")


@config
class Rates:
    """Learning rates at the centres of the grids: those published with the problem, (h, C) of eBrAVO and pBrAVO."""

    adam: Positive
    sgd: Positive
    expo: tuple[Positive, Positive]
    poly: tuple[Positive, Positive]


@dataclass(frozen=True)
class Method:
    """An optimizer with one or two numbers to tune; its grid lies around `centre`.

    `tuned=False` keeps the centre.
    """

    label: str
    make: Callable[[Iterable[Any], Sequence[float]], Optimizer]
    centre: Cell
    tuned: bool = True

    @property
    def slug(self) -> str:
        """The label as the name of a directory."""
        words = "".join(c if c.isalnum() else "-" for c in self.label.lower())
        return "-".join(filter(None, words.split("-")))

    def cells(self, radius: int) -> list[Cell]:
        """2r² + 2r + 1 cells for r = `radius`, of one number or of two.

        One number takes equal steps of its logarithm, over two decades to each side, or one for r = 1. Of (h, C), h
        takes i half decades and C takes j decades with |i| + |j| ≤ r.
        """
        return [self.cell(place, radius) for place in self.places(radius)]

    def places(self, radius: int) -> list[Place]:
        """The cells in steps from the centre."""
        if not self.tuned:
            return [tuple(0 for _ in self.centre)]
        if len(self.centre) == 2:
            steps = range(-radius, radius + 1)
            return [(i, j) for i in steps for j in steps if abs(i) + abs(j) <= radius]
        return [(k,) for k in range(-radius * (radius + 1), radius * (radius + 1) + 1)]

    def cell(self, place: Place, radius: int) -> Cell:
        """The setting that many steps from the centre."""
        if len(place) == 2:
            return self.centre[0] * 10 ** (place[0] / 2), self.centre[1] * 10.0 ** place[1]
        side = radius * (radius + 1)
        return (self.centre[0] * 10 ** ((min(0.5, 2 / side) if side else 0.0) * place[0]),)


@dataclass(frozen=True)
class Tuned:
    """The best setting of a search, and whether it is `at_end` of what was tried: others beyond may be better."""

    cell: Cell
    at_end: bool


def search(method: Method, radius: int, extra: int, score: Callable[[Cell], float]) -> Tuned:
    """The setting with the least score among those of the grid of a method and `extra` more, as many for each method.

    From the best one of the grid the search goes to its neighbours, in the direction first that was the last to pay,
    and moves on as soon as one is better; where none is, it halves its steps. Where no setting has a finite score, it
    is the centre.
    """
    grid = sorted(method.places(radius), key=_length)
    if len(grid) == 1:
        return Tuned(method.centre, False)
    scores: dict[Place, float] = {}

    def tried(place: Place) -> float:
        if place not in scores and len(scores) < len(grid) + extra:
            found = score(method.cell(place, radius))
            scores[place] = math.inf if math.isnan(found) else found
        return scores.get(place, math.inf)

    best = min(grid, key=tried)
    sides, step = [place for place in grid if _length(place) == 1], 1.0
    far = max(map(abs, best))
    ways = [tuple(math.copysign(abs(x) == far, x) for x in best), *sides]
    while len(scores) < len(grid) + extra:
        for way in ways:
            place = tuple(a + step * b for a, b in zip(best, way, strict=True))
            if tried(place) < scores[best]:
                best, ways = place, [way, *sides]
                break
        else:
            step, ways = step / 2, sides
    return Tuned(method.cell(best, radius), math.isfinite(scores[best]) and _at_end(best, list(scores)))


def _at_end(best: Place, tried: Sequence[Place]) -> bool:
    """Whether nothing was tried further in some direction of some number."""
    ways = [tuple(a - b for a, b in zip(place, best, strict=True)) for place in tried]
    beyond = {(axis, x > 0) for way in ways for axis, x in enumerate(way) if 2 * abs(x) > _length(way)}
    return len(beyond) < 2 * len(best)


def _length(place: Place) -> float | int:
    return sum(map(abs, place))


def stochastic(rates: Rates) -> list[Method]:
    """Methods for minibatches. Each has the constants that are usual for it; AdamW decays weights at 0.01.

    Momentum 0.9 sums ten gradients, so that a tenth of the rate of plain gradient descent is the like of it.
    """
    return [
        Method(OURS[0], lambda p, cell: EBravo(p, cell[0], cell[1]), rates.expo),
        Method(OURS[1], lambda p, cell: PBravo(p, cell[0], cell[1]), rates.poly),
        Method(KICKS_FIRST[0], lambda p, cell: EBravo(p, cell[0], cell[1], order="bravo"), rates.expo),
        Method(KICKS_FIRST[1], lambda p, cell: PBravo(p, cell[0], cell[1], order="bravo"), rates.poly),
        Method("Adam", lambda p, cell: torch.optim.Adam(p, cell[0]), (rates.adam,)),
        Method("AdamW", lambda p, cell: torch.optim.AdamW(p, cell[0]), (rates.adam,)),
        Method("schedule-free AdamW", lambda p, cell: schedule_free(p, cell[0]), (rates.adam,)),
        Method("SGD, Nesterov", nesterov, (rates.sgd / 10,)),
    ]


def full_batch(rates: Rates) -> list[Method]:
    """Methods for a function whose gradients are exact."""
    return [
        *stochastic(rates),
        Method("SGD", lambda p, cell: torch.optim.SGD(p, cell[0]), (rates.sgd,)),
    ]


def published(rates: Rates) -> list[Method]:
    """Adam and plain gradient descent at their published rates, not tuned."""
    return [
        Method("Adam, published rate", lambda p, cell: torch.optim.Adam(p, cell[0]), (rates.adam,), tuned=False),
        Method("SGD, published rate", lambda p, cell: torch.optim.SGD(p, cell[0]), (rates.sgd,), tuned=False),
    ]


def published_settings(rates: Rates) -> list[Method]:
    """eBrAVO and pBrAVO in both orders with their published h and C, not tuned."""
    ours = [method for method in stochastic(rates) if method.label in (*OURS, *KICKS_FIRST)]
    return [replace(method, label=f"{method.label}, published setting", tuned=False) for method in ours]


def note_on_grids(radius: int, extra: int) -> str:
    """How settings were looked for."""
    return (
        f"Each method has {2 * radius**2 + 2 * radius + 1 + extra} settings: a grid around its published rates, where "
        f"there are any, and {extra} on a way from the best one to better ones, beyond the grid or within its steps."
    )


def notes_of_ends(labels: Sequence[str]) -> list[str]:
    """A note on methods that were best at the end of what was tried, if there are any."""
    return (
        [f"At the end of the settings that were tried, beyond which it may be better: {'; '.join(labels)}."]
        if labels
        else []
    )


def ranking(what: str, means: Mapping[str, float], largest: bool = False) -> str:
    """A note that names all methods in the order of their means, the best first, those without a number last."""
    sign = -1 if largest else 1
    ordered = sorted(means, key=lambda label: (means[label] != means[label], sign * means[label]))
    first, last = ("largest", "least") if largest else ("least", "largest")
    return f"From the {first} mean {what} to the {last}: {', '.join(f'{m} {means[m]:.3g}' for m in ordered)}."


def nesterov(parameters: Iterable[Any], cell: Sequence[float]) -> Optimizer:
    """Gradient descent with Nesterov's momentum 0.9."""
    return torch.optim.SGD(parameters, cell[0], momentum=0.9, nesterov=True)


def schedule_free(parameters: Iterable[Any], lr: float) -> Optimizer:
    """AdamW without schedule (arXiv 2405.15682) whose parameters are the averaged ones outside of `step`."""
    return _schedule_free()(parameters, lr)


@lru_cache(maxsize=1)
def _schedule_free() -> Any:
    base: Any = ml("schedulefree").AdamWScheduleFree

    class ScheduleFree(base):
        def __init__(self, parameters: Iterable[Any], lr: float) -> None:
            super().__init__(parameters, lr)
            self.eval()

        def step(self, closure: Any = None) -> Any:
            if closure is None:
                raise RuntimeError("the gradient belongs to another point than the parameters: give a closure")
            self.train()
            try:
                return super().step(closure)
            finally:
                self.eval()

    return ScheduleFree
