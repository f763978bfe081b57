"""The figures that several experiments draw. They return `matplotlib.figure.Figure`s and touch no global state."""

import contextlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sciml.errors import ShapeError
from sciml.files import write_atomically

Scale = Literal["linear", "log"]
LARGE = 100_000  # bytes of a PNG
CROWDED = 5  # curves, beyond which a legend among them would hide some


def curves(
    x: ArrayLike,
    panels: Mapping[str, Mapping[str, ArrayLike]],
    *,
    xlabel: str = "time [s]",
    scale: Scale = "log",
) -> Figure:
    """One panel a title, in it one curve a label over `x`, shape (n,); on a log scale zeros are left out."""
    _some(panels, "panels")
    crowded = max(map(len, panels.values())) > CROWDED
    figure = Figure(figsize=((6.5 if crowded else 4.5) * len(panels), 3.5), layout="constrained")
    for axis, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for label, values in lines.items():
            y = np.asarray(values, dtype=float)
            axis.plot(x, np.where(y > 0, y, np.nan) if scale == "log" else y, label=label)
        axis.set(xlabel=xlabel, title=title, yscale=scale)
        _legend(axis, crowded)
    return figure


def loss_curves(records: Iterable[Mapping[str, Any]]) -> Figure:
    """Loss over steps from the records of `metrics.jsonl`; validation losses dashed.

    Each training has a colour; those whose names differ by a number at the end alone are repeats and share one.
    """
    trainings: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        trainings.setdefault(record["training"], []).append(record)
    groups = {name: re.sub(r"[-_ ]\d+$", "", name) for name in trainings}
    members = Counter(groups.values())
    rainbow = colormaps["turbo"].resampled(len(members))
    colors = {group: f"C{i}" if len(members) <= 10 else rainbow(i) for i, group in enumerate(members)}
    figure = Figure(figsize=(9, max(3.5, 0.3 * len(members))), layout="constrained")
    axis = figure.subplots()
    shown: set[str] = set()
    for name, lines in trainings.items():
        group = groups[name]
        title = name if members[group] == 1 else f"{group} ({members[group]} repeats)"
        for key, style, label in (("loss", "-", title), ("validation_loss", "--", f"{title}, validation")):
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                axis.plot(
                    *zip(*points),
                    style,
                    color=colors[group],
                    label=None if label in shown else label,
                    linewidth=1,
                    alpha=0.6 if key == "loss" else 1,
                )
                shown.add(label)
    axis.set(xlabel="step", ylabel="loss", yscale="log")
    figure.legend(loc="outside right upper", fontsize="x-small")
    return figure


def fields(panels: Mapping[str, ArrayLike], *, extent: Sequence[float] | None = None, shared: bool = True) -> Figure:
    """Two-dimensional fields side by side, shape (nx, ny) each, x to the right.

    `extent` is (x0, x1, y0, y1). Panels share one colour scale unless `shared` is false.

    Raises
    ------
    ShapeError
        If a field is not two-dimensional.
    """
    _some(panels, "panels")
    arrays = {title: np.asarray(value) for title, value in panels.items()}
    for title, array in arrays.items():
        if array.ndim != 2:
            raise ShapeError(f"the field {title!r} has shape {array.shape}; expected (nx, ny)")
    limits = {"vmin": min(map(np.nanmin, arrays.values())), "vmax": max(map(np.nanmax, arrays.values()))}
    figure = Figure(figsize=(3.6 * len(arrays), 3.2), layout="constrained")
    for axis, (title, array) in zip(figure.subplots(1, len(arrays), squeeze=False)[0], arrays.items()):
        image = axis.imshow(array.T, origin="lower", extent=extent, **(limits if shared else {}))
        axis.set(title=title)
        figure.colorbar(image, ax=axis, shrink=0.8)
    return figure


def distributions(samples: Mapping[str, ArrayLike], *, xlabel: str, bins: int = 40) -> Figure:
    """Histograms of several samples on common bins, as densities; values that are not finite are left out."""
    _some(samples, "samples")
    finite = {
        label: (v := np.asarray(values, dtype=float).ravel())[np.isfinite(v)] for label, values in samples.items()
    }
    edges = np.histogram_bin_edges(np.concatenate(list(finite.values())), bins)
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axis = figure.subplots()
    for label, values in finite.items():
        if len(values) == 0:  # all diverged
            continue
        axis.hist(values, bins=list(edges), density=True, histtype="step", label=label)
    axis.set(xlabel=xlabel, ylabel="density")
    axis.legend(fontsize="small")
    return figure


def convergence(
    h: ArrayLike, errors: Mapping[str, ArrayLike], *, xlabel: str = "h", orders: Sequence[float] = ()
) -> Figure:
    """Errors against `h` on log axes, with dotted lines of the given orders through the first error."""
    _some(errors, "errors")
    steps = np.asarray(h, dtype=float)
    crowded = len(errors) > CROWDED
    figure = Figure(figsize=(7.5 if crowded else 5, 3.5), layout="constrained")
    axis = figure.subplots()
    for label, values in errors.items():
        axis.loglog(steps, values, "o-", label=label)
    start = float(np.asarray(next(iter(errors.values())), dtype=float)[0])
    for order in orders:
        axis.loglog(steps, start * (steps / steps[0]) ** order, "k:", label=f"order {order:g}")
    axis.set(xlabel=xlabel, ylabel="error")
    _legend(axis, crowded)
    return figure


def _legend(axis: Axes, beside: bool) -> None:
    axis.legend(fontsize="small", **({"loc": "upper left", "bbox_to_anchor": (1, 1)} if beside else {}))


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 100) -> None:
    """Write the figure atomically, as what the suffix of `path` says; its folder is made.

    A large PNG is written with a palette of 256 colours, which takes a third of the space.
    """
    target, image = Path(path), io.BytesIO()
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = target.suffix.removeprefix(".") or "png"
    with _laid_out(figure, kind, dpi) as box:
        figure.savefig(image, format=kind, dpi=dpi, bbox_inches=box)
    content = image.getvalue()
    write_atomically(target, with_palette(content) if kind == "png" and len(content) > LARGE else content)


@contextlib.contextmanager
def _laid_out(figure: Figure, kind: str, dpi: int) -> Iterator[Any]:
    """What `savefig` is to take as `bbox_inches` to write all of the figure.

    Told "tight", `savefig` draws twice: to lay the axes out, and to show them. Here only the second draws.
    """
    engine = figure.get_layout_engine()
    if engine is None or kind != "png" or figure.dpi != dpi:
        yield "tight"
        return
    canvas = figure.canvas
    try:
        renderer = FigureCanvasAgg(figure).get_renderer()
        engine.execute(figure)
        box = figure.get_tightbbox(renderer).padded(rcParams["savefig.pad_inches"])
        figure.set_layout_engine("none")
        yield box
    finally:
        figure.set_layout_engine(engine)
        figure.set_canvas(canvas)


def with_palette(png: bytes) -> bytes:
    """The image with 256 colours, chosen so that rare ones keep their hue."""
    from PIL import Image

    smaller = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2).save(
        smaller, format="png", optimize=True
    )
    return smaller.getvalue()


def _some(values: Mapping[str, Any], what: str) -> None:
    if not values:
        raise ShapeError(f"There is nothing to draw: give at least one of {what}.")
