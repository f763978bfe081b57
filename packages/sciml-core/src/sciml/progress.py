"""A live bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

LINE_SECONDS = 10.0


class Progress:
    """Progress of `total` steps with a loss, the rate and the time left, on standard error."""

    def __init__(self, name: str, total: int, *, done: int = 0, active: bool = True) -> None:
        self.name, self.total, self.done, self.active = name, total, done, active
        self.first, self.started, self.shown = done, time.perf_counter(), time.perf_counter()
        self.bar = None

    def __enter__(self) -> "Progress":
        if self.active and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[info]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task(self.name, total=self.total, completed=self.done, info="")
            self.bar.start()
        return self

    def advance(self, **values: float) -> None:
        """One step done; `values` are shown beside it."""
        self.done += 1
        now = time.perf_counter()
        rate = (self.done - self.first) / max(now - self.started, 1e-9)
        info = "  ".join([f"{name} {value:.3e}" for name, value in values.items()] + [f"{rate:.3g}/s"])
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, info=info)
        elif self.active and now - self.shown > LINE_SECONDS:
            self.shown = now
            left = (self.total - self.done) / rate
            print(
                f"{self.name}: {self.done}/{self.total}  {info}  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
