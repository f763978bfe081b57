"""What experiments on branches share: how branches begin and are kept, what finer meshes change, and how they look."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from pydantic import Field
from sciml.config import config
from sciml.experiment import Bar, Metric, Published, RunDirectory

from mackeyglass.bifurcations import BifurcationPoint, crossing_share
from mackeyglass.branch import Branch, continue_bifurcation, continue_branch, locate
from mackeyglass.branch_files import branch_dataset, branch_from_dataset, load_branch
from mackeyglass.codimension_two import CodimensionTwoPoint, locate_codimension_two
from mackeyglass.errors import ContinuationError
from mackeyglass.experiments.common import SYSTEM, Positive
from mackeyglass.growth import Special
from mackeyglass.hopf import hopf_points
from mackeyglass.mesh import Mesh
from mackeyglass.orbits import PeriodicOrbit

ABSTRACT = "arXiv 2203.00181, abstract"
OURS = "this program, converged in the mesh"
PALE = 0.3
FEIGENBAUM = 2.5  # by about which amplitudes shrink from one period doubling to the next

Interval = tuple[Positive, Positive]
Place = tuple[float, ...]


@config
class Collocation:
    """Intervals and degree of the piecewise polynomials; an orbit of twice the period has twice the intervals."""

    intervals: Annotated[int, Field(ge=10)] = 50
    degree: Annotated[int, Field(ge=3, le=8)] = 5

    @property
    def mesh(self) -> Mesh:
        """With which a branch begins."""
        return Mesh.uniform(self.intervals, self.degree)


@dataclass(frozen=True)
class Reference:
    """A known number, and within what distance it has to be found, where that is required.

    `place` is where in the (n, τ) plane it belongs, for experiments that look at a part of it.
    """

    name: str
    subject: str
    value: float
    tolerance: float | None = None
    source: str = "reference values"
    place: tuple[float, float] | None = None

    @property
    def published(self) -> Published:
        """As a report shows it."""
        return Published(self.name, self.subject, self.value, "1", self.source)


def differences(metrics: Sequence[Metric], references: Sequence[Reference]) -> list[Bar]:
    """Bars of the distances from references; of one that was not measured it is NaN, which is not met."""
    measured = {(metric.name, metric.subject): metric.value for metric in metrics}
    return [
        Bar(
            f"{r.name}, {r.subject}: distance from {r.value:.10g}",
            abs(measured.get((r.name, r.subject), float("nan")) - r.value),
            r.tolerance,
        )
        for r in references
        if r.tolerance is not None
    ]


def within(references: Sequence[Reference], n: Interval, tau: Interval) -> list[Reference]:
    """The references of which the place lies in that part of the plane."""
    return [r for r in references if r.place and n[0] < r.place[0] < n[1] and tau[0] < r.place[1] < tau[1]]


def largest(claim: str, values: Iterable[float], limit: float) -> Bar:
    """Bar of the largest of some values; without any it is NaN, which is not met."""
    found = np.array([*values])
    return Bar(claim, float(found.max()) if found.size else float("nan"), limit)


def rising(**intervals: Interval) -> None:
    """Raise `ValueError` where an interval of a configuration does not increase."""
    for name, (low, high) in intervals.items():
        if not low < high:
            raise ValueError(f"{name}={low, high} must increase")


def kept(run: RunDirectory, name: str, compute: Callable[[], Branch]) -> Branch:
    """A branch that a run computes once and writes to the file ``branches/<name>.nc``, as it is read from there."""
    data = run.step(name, lambda: branch_dataset(compute()))
    path = run.path / "branches" / f"{name}.nc"
    if run.runtime.is_main:
        branch_from_dataset(data).save(path)
    run.runtime.barrier()
    return load_branch(path)


def born_at_hopf(
    mesh: Mesh, parameter: Literal["n", "tau"], bounds: Interval, fixed: Mapping[str, float], **options: Any
) -> Branch:
    """The branch of orbits that is born at the first Hopf point in a parameter."""
    point = hopf_points(SYSTEM.with_parameters(**fixed), parameter)[0]
    orbit = PeriodicOrbit.from_hopf(point, parameter, mesh=mesh)
    return continue_branch(orbit, parameter, bounds, progress=True, **options)


def found(branch: Branch, kind: str, index: int = 0) -> BifurcationPoint:
    """The bifurcation of a kind that comes at that place along a branch.

    Raises
    ------
    ContinuationError
        If there are not so many.
    """
    those = [special for special in branch.special if special.kind == kind]
    if index >= len(those):
        raise ContinuationError(
            f"{len(those)} bifurcations of the kind {kind} were found, of which number {index} was wanted; the branch "
            f"of {len(branch)} points ended because {branch.stop_reason}: take more steps, wider bounds or a finer mesh"
        )
    return locate(branch, those[index])


def until(kind: str, branch: Branch, most: int = 60) -> Branch:
    """The branch with further points until a bifurcation of a kind is among what was detected, or it ends.

    It ends on a bound or where a step fails: then `extended` adds nothing.
    """
    while not any(special.kind == kind for special in branch.special) and len(branch) < most:
        before, branch = len(branch), branch.extended(3)
        if len(branch) == before:
            break
    return branch


def second_family(mesh: Mesh, bounds: Interval, direction: int, **options: Any) -> Branch:
    """The family of the stable cycle of period 7.27 at (n, τ) = (12, 2), from there with rising or falling n."""
    orbit = PeriodicOrbit.from_simulation(SYSTEM.with_parameters(n=12.0, tau=2.0), mesh=mesh).refined()
    return continue_branch(orbit, "n", bounds, direction=direction, progress=True, **options)


def cascade(
    run: RunDirectory, first: BifurcationPoint, count: int, window: float
) -> tuple[list[BifurcationPoint], list[Branch]]:
    """Successive period doublings that begin with a given one, at growing values of their parameter, and the branches
    between them.

    Parameters
    ----------
    window
        In which the second one is looked for, beyond the first. Each later one is looked for within 0.35 times the last
        distance, of which about 0.21 is expected.
    """
    points, branches, name = [first], [], first.parameter
    for number in range(1, count):
        last, scale = points[-1], FEIGENBAUM ** (1 - number)

        def compute(last: BifurcationPoint = last, scale: float = scale, window: float = window) -> Branch:
            orbit = PeriodicOrbit.from_period_doubling(last, amplitude=0.02 * scale)
            value = last.parameters[name]
            bounds = (value - window, value + window)
            options: dict[str, Any] = {"ds": 0.02 * scale, "ds_max": 0.4 * scale, "detect": ("PD",)}
            return until("PD", continue_branch(orbit, name, bounds, max_steps=3, **options))

        branches.append(kept(run, f"doubled-{number}", compute))
        points.append(found(branches[-1], "PD"))
        window = 0.35 * abs(points[-1].parameters[name] - last.parameters[name])
    return points, branches


def halved(mesh: Mesh) -> Mesh:
    """The mesh with every interval cut in two."""
    middles = (mesh.knots[1:] + mesh.knots[:-1]) / 2
    return Mesh(np.sort(np.concatenate([mesh.knots, middles])), mesh.degree)


def converged(point: BifurcationPoint) -> float:
    """The determined parameter when every interval of the mesh is cut in two."""
    return point.on(halved(point.solution.mesh)).parameters[point.parameter]


def mesh_error(point: BifurcationPoint) -> float:
    """By how much the determined parameter changes when every interval of the mesh is cut in two."""
    return abs(converged(point) - point.parameters[point.parameter])


def on_finer_mesh(curve: Branch, special: Special) -> CodimensionTwoPoint:
    """A point of codimension two that was detected on a curve, located anew with every interval cut in two."""
    before = curve.states[special.index - 1]
    start = curve.point(special.index - 1)
    piece = continue_bifurcation(
        start.on(halved(start.solution.mesh)),
        curve.free,
        curve.bounds,
        ds=before.ds,
        ds_max=before.ds,
        max_steps=4,
        detect=(special.kind,),
        adapt_every=0,
        direction=1 if before.tangent[-1] > 0 else -1,
    )
    if not piece.special:
        raise ContinuationError(f"no {special.kind} was found near {special} on a mesh twice as fine")
    return locate_codimension_two(piece, piece.special[0])


def special_points(curves: Iterable[Branch]) -> dict[str, tuple[Branch, Special]]:
    """What was detected on curves, by names of which the second "cusp" is "cusp 2"."""
    points: dict[str, tuple[Branch, Special]] = {}
    for curve in curves:
        for special in curve.special:
            number = 1 + sum(other.kind == special.kind for _, other in points.values())
            points[special.kind if number == 1 else f"{special.kind} {number}"] = curve, special
    return points


def located(points: Mapping[str, tuple[Branch, Special]], finer: Iterable[str] = ()) -> dict[str, dict[str, float]]:
    """n, τ and T of points of codimension two and, of those named in `finer`, their change on a mesh twice as fine."""
    table = {}
    for name, (curve, special) in points.items():
        point = locate_codimension_two(curve, special)
        table[name] = {"n": point.parameters["n"], "τ": point.parameters["tau"], "T": point.period}
        if name in finer:
            other = on_finer_mesh(curve, special).parameters
            table[name]["change"] = max(abs(other[key] - point.parameters[key]) for key in ("n", "tau"))
    return table


def draw_points(axis: Axes, table: Mapping[str, Mapping[str, float]], kinds: Mapping[str, str]) -> None:
    """Points of codimension two of `located`, with a marker for each kind."""
    for kind, marker in kinds.items():
        those = [point for name, point in table.items() if name.split()[0] == kind]
        if those:
            places = [[point[key] for point in those] for key in ("n", "τ")]
            axis.plot(*places, marker, color="k", markersize=6, label=kind, zorder=3)


def draw_maxima(axis: Axes, branch: Branch, color: str, label: str) -> None:
    """Local maxima of u over the parameter of a branch, pale where orbits are unstable."""
    maxima, x = [branch.orbit(i).maxima() for i in range(len(branch))], branch[branch.free[0]]
    lines = []
    for i in range(1, len(branch)):
        apart = np.abs(maxima[i][:, None] - maxima[i - 1])
        # each maximum is joined with its nearest one, if it is that of the other too; others begin or end here
        lines += [
            (i, (x[i - 1], maxima[i - 1][j]), (x[i], maxima[i][k]))
            for k, j in enumerate(apart.argmin(axis=1))
            if apart[:, j].argmin() == k and apart[k, j] < 0.05
        ]
    _draw(axis, branch, lines, color, label)


def draw_periods(axis: Axes, branch: Branch, color: str, label: str) -> None:
    """Periods over the parameter of a branch, pale where orbits are unstable."""
    places = list(zip(branch[branch.free[0]], branch.periods, strict=True))
    _draw(axis, branch, [(i, places[i - 1], places[i]) for i in range(1, len(places))], color, label)


def draw_curve(axis: Axes, curves: Iterable[Branch], color: str, label: str, **style: Any) -> None:
    """Curves of bifurcations in the plane of their two parameters."""
    for curve in curves:
        first, second = curve.free
        axis.plot(curve[first], curve[second], color=color, label=label, **style)
        label = ""


def _draw(axis: Axes, branch: Branch, lines: Sequence[tuple[int, Place, Place]], color: str, label: str) -> None:
    """Lines to the points `i` of a branch from those before, in two parts where stability changes between."""
    shares = {}
    for special in branch.special:
        pairs = [(branch.multipliers[i], branch.states[i].tangent[-1]) for i in (special.index - 1, special.index)]
        (before, first), (after, last) = pairs
        shares[special.index] = crossing_share(special.kind, (before, after), (first, last))
    segments: dict[bool, list[list[Place]]] = {True: [], False: []}
    for i, start, end in lines:
        share = shares.get(i, 1.0)
        middle = tuple((1 - share) * a + share * b for a, b in zip(start, end, strict=True))
        segments[bool(branch.stable[i - 1])].append([start, middle])
        segments[bool(branch.stable[i])].append([middle, end])
    for stable, parts in segments.items():
        axis.add_collection(LineCollection(parts, colors=color, alpha=1.0 if stable else PALE, linewidths=1.3))
    axis.plot([], [], color=color, label=label)
    axis.autoscale_view()
