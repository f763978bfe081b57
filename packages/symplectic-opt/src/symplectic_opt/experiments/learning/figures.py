"""The curves of all methods, told apart by style too: those of this package are solid."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure


def progress(lines: Mapping[str, np.ndarray], title: str, xlabel: str) -> Figure:
    """What each method, by label, has reached after 1, 2, … steps; zeros and less are left out of the log scale."""
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    axis = figure.subplots()
    for k, (label, values) in enumerate(lines.items()):
        style = ":" if "published" in label else "-" if "BrAVO" in label else "--"
        shown = np.where(np.asarray(values) > 0, values, np.nan)
        axis.plot(np.arange(1, len(shown) + 1), shown, style, color=f"C{k % 10}", label=label)
    axis.set(xlabel=xlabel, title=title, yscale="log")
    figure.legend(loc="outside right upper", fontsize="small")
    return figure
