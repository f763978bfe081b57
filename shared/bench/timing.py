"""Times of competing callables, taken in turn so that drift of the machine's speed hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table


def compare(title: str, cases: Mapping[str, Callable[[], object]], repeats: int = 15) -> dict[str, float]:
    """Median seconds of each case; prints them with the median ratio to the first case, pair by pair."""
    for case in cases.values():
        case()
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in track(range(repeats), title, transient=True):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            times[name].append(time.perf_counter() - started)
    first = next(iter(times.values()))
    table = Table("case", "median (ms)", "min (ms)", "max (ms)", "ratio", title=title)
    for name, taken in times.items():
        ratio = statistics.median(t / t0 for t, t0 in zip(taken, first))
        cells = [f"{1e3 * f(taken):.3g}" for f in (statistics.median, min, max)]
        table.add_row(name, *cells, f"{ratio:.2f}")
    Console().print(table)
    return {name: statistics.median(taken) for name, taken in times.items()}


def waiting(case: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The same, until an accelerator has done it."""
    if device.type == "cpu":
        return case

    def run() -> None:
        case()
        torch.accelerator.synchronize(device)

    return run
