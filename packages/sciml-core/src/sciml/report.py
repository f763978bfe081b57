"""What an experiment found, beside what was published: JSON, Markdown, a terminal table and one HTML page."""

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sciml.errors import DataError
from sciml.files import write_atomically


@dataclass(frozen=True)
class Published:
    """A published number: which metric of which subject, and where it stands."""

    name: str
    subject: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Metric:
    """A measured number, with the published one where there is one."""

    name: str
    subject: str
    value: float
    unit: str = "1"
    published: float | None = None
    source: str | None = None

    @property
    def ratio(self) -> float | None:
        """Measured over published, where that is defined."""
        return self.value / self.published if self.published else None

    @property
    def digits(self) -> int:
        """Significant digits to show: four, and two more than the published number has."""
        return 4 if self.published is None else max(4, _digits(self.published) + 2)


@dataclass(frozen=True)
class Bar:
    """A limit that an experiment sets itself: the claim in words, the measured value and what it must not exceed.

    With `at_least` the value must not fall below the limit.
    """

    claim: str
    value: float | int
    limit: float | int
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the value keeps to the limit; NaN never does."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        verdict, sign = "met" if self.met else "MISSED", "≥" if self.at_least else "≤"
        limit, digits = as_written(self.limit), max(3, _digits(self.limit) + 2)
        # not "1 (measured 1)" where one of them is 1.0001
        while digits < 17 and self.value != self.limit and f"{self.value:.{digits}g}" == limit:
            digits += 1
        return f"{verdict}: {self.claim} {sign} {limit} (measured {self.value:.{digits}g})"


@dataclass(frozen=True)
class Report:
    """Result of a run. `metrics` hold the numbers, `bars` the limits, `notes` what a reader must know."""

    metrics: Sequence[Metric]
    notes: Sequence[str] = ()
    bars: Sequence[Bar] = ()
    experiment: str = ""
    preset: str = ""
    paper: str = ""
    command: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    wall_time: float = 0.0
    directory: str = ""

    def metric(self, name: str, subject: str) -> Metric:
        """The metric of that name and subject.

        Raises
        ------
        KeyError
            If there is none; the message lists those there are.
        """
        for found in self.metrics:
            if (found.name, found.subject) == (name, subject):
                return found
        raise KeyError(f"no metric {name!r} of {subject!r}; there are {[(m.name, m.subject) for m in self.metrics]}")

    def beside(self, published: Sequence[Published]) -> "Report":
        """The report with the published numbers put beside the measured ones."""
        known = {(p.name, p.subject): p for p in published}
        metrics = [
            replace(m, published=known[m.name, m.subject].value, source=known[m.name, m.subject].source)
            if (m.name, m.subject) in known
            else m
            for m in self.metrics
        ]
        return replace(self, metrics=metrics)

    def to_json(self) -> str:
        """The report as JSON; numbers that JSON does not have are written as strings."""
        return json.dumps(_finite(asdict(self)), indent=2, default=str) + "\n"

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "Report":
        """Read `report.json` in `directory`.

        Raises
        ------
        DataError
            If it is missing or no report.
        """
        path = Path(directory) / "report.json"
        try:
            content = json.loads(path.read_text())
            metrics = [
                Metric(**{k: float(v) if k in ("value", "published") and v is not None else v for k, v in m.items()})
                for m in content.pop("metrics")
            ]
            bars = [
                Bar(b["claim"], float(b["value"]), float(b["limit"]), b["at_least"]) for b in content.pop("bars", [])
            ]
            report = cls(metrics=metrics, bars=bars, **content)
            texts = (report.experiment, report.preset, report.paper, report.command, report.directory, *report.notes)
            if not all(isinstance(text, str) for text in texts) or not isinstance(report.config, dict):
                raise ValueError("its texts must be strings and its configuration an object")
            return replace(report, wall_time=float(report.wall_time))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path} is not a report ({type(error).__name__}: {error}); "
                "give the directory of a finished run, or finish it with sciml run … --resume"
            ) from error

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `report.json`, `report.md` and the self-contained `report.html` into `directory`."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "report.md", self.to_markdown(folder))
        write_atomically(folder / "report.html", self.to_html(folder))
        write_atomically(folder / "report.json", self.to_json())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of all measured numbers: a row for each metric, a column for each subject.

        Many subjects of few metrics have a row each instead.
        """
        subjects = list(dict.fromkeys(m.subject for m in self.metrics))
        names = {m: m.name if m.unit == "1" else f"{m.name} [{m.unit}]" for m in self.metrics}
        digits: dict[str, int] = {}  # one number for all of a name, which stand beside each other
        for m in self.metrics:
            digits[m.name] = max(m.digits, digits.get(m.name, 0))
        measured = {(names[m], m.subject): f"{m.value:.{digits[m.name]}g}" for m in self.metrics}
        labels = list(dict.fromkeys(names.values()))
        if len(subjects) <= max(WIDE, len(labels)):
            return ["metric", *subjects], [[n, *[measured.get((n, s), "") for s in subjects]] for n in labels]
        return ["subject", *labels], [[s, *[measured.get((n, s), "") for n in labels]] for s in subjects]

    def comparison(self) -> list[list[str]]:
        """Rows of `HEADINGS` for the metrics that have a published number."""
        return [
            [
                m.name,
                m.subject,
                f"{m.value:.{m.digits}g}",
                as_written(m.published),
                "" if m.unit == "1" else m.unit,
                "" if m.ratio is None else f"{m.ratio:.3g}",
                m.source or "",
            ]
            for m in self.metrics
            if m.published is not None
        ]

    def to_markdown(self, folder: str | os.PathLike[str] | None = None) -> str:
        """The report as a Markdown page, beside the figures of `folder` (default: the run's directory)."""
        lines = [f"# {self.experiment} ({self.preset})", "", self.paper, "", f"`{self.command}`", ""]
        lines += _markdown(*self.table())
        if compared := self.comparison():
            lines += ["", "## Beside the published numbers", "", *_markdown(HEADINGS, compared)]
        lines += ["", *[f"- {note}" for note in (*self.bars, *self.notes)]]
        lines += ["", *[f"![{path.stem}](figures/{path.name})" for path in self.figures(folder)]]
        return "\n".join(lines) + "\n"

    def figures(self, folder: str | os.PathLike[str] | None = None) -> list[Path]:
        """The figures of the run, the curves of the training last."""
        found = Path(folder or self.directory or ".").glob("figures/[!.]*.png")
        return sorted(found, key=lambda path: (path.stem == "training", path.name))

    def to_html(self, folder: Path) -> str:
        """One HTML page with everything in it; figures are taken from `folder/figures`."""
        from jinja2 import Environment, PackageLoader

        figures = [
            (path.stem.replace("-", " "), base64.b64encode(path.read_bytes()).decode()) for path in self.figures(folder)
        ]
        environment = Environment(loader=PackageLoader("sciml"), autoescape=True)
        return environment.get_template("report.html").render(
            report=self,
            table=self.table(),
            headings=HEADINGS,
            comparison=self.comparison(),
            figures=figures,
            config=json.dumps(self.config, indent=2, default=str),
            wall_time=_duration(self.wall_time),
        )


HEADINGS = ("metric", "subject", "measured", "published", "unit", "ratio", "source")
WRITTEN = 13  # digits of a published number, at most
WIDE = 6  # subjects beside each other; more are written below each other


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (headings, *rows)]
    return [lines[0], "|" + "---|" * len(headings), *lines[1:]]


def as_written(value: float) -> str:
    """A number with all the digits with which it was written down, and no less than four of those it has."""
    return f"{value:.{max(4, _digits(value))}g}"


def _digits(value: float) -> int:
    """Significant digits with which a number was written down; 0 if computed, with more than anyone writes."""
    digits = len(repr(float(value)).split("e")[0].replace(".", "").strip("-0"))
    return digits if digits <= WRITTEN and math.isfinite(value) else 0


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
