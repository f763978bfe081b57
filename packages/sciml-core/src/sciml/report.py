"""What an experiment found, beside what was published: JSON, Markdown, a terminal table and one HTML page."""

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

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


@dataclass(frozen=True)
class Report:
    """Result of a run. `metrics` hold the numbers; `notes` what a reader must know to read them."""

    metrics: Sequence[Metric]
    notes: Sequence[str] = ()
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

    def beside(self, published: Sequence[Published]) -> Self:
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
    def load(cls, directory: str | os.PathLike[str]) -> Self:
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
            return cls(metrics=metrics, **content)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{path} is not a report ({type(error).__name__}: {error}); "
                "give the directory of a finished run, or finish it with sciml run … --resume"
            ) from error

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `report.json`, `report.md` and the self-contained `report.html` into `directory`."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "report.md", self.to_markdown())
        write_atomically(folder / "report.html", self.to_html(folder))
        write_atomically(folder / "report.json", self.to_json())

    def rows(self) -> list[tuple[str, ...]]:
        """The table: metric, subject, measured, unit, published, ratio, source."""
        return [
            (
                m.name,
                m.subject,
                _number(m.value),
                m.unit,
                _number(m.published),
                "" if m.ratio is None else f"{m.ratio:.2f}",
                m.source or "",
            )
            for m in self.metrics
        ]

    def to_markdown(self) -> str:
        """The report as a Markdown page."""
        lines = [f"# {self.experiment} ({self.preset})", "", self.paper, "", f"`{self.command}`", ""]
        lines += ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self.rows()]
        lines += ["", *[f"- {note}" for note in self.notes]]
        return "\n".join(lines) + "\n"

    def to_html(self, folder: Path) -> str:
        """One HTML page with everything in it; figures are taken from `folder/figures`."""
        from jinja2 import Environment, PackageLoader

        figures = [
            (path.stem.replace("-", " "), base64.b64encode(path.read_bytes()).decode())
            for path in sorted((folder / "figures").glob("*.png"))
        ]
        environment = Environment(loader=PackageLoader("sciml"), autoescape=True)
        return environment.get_template("report.html").render(
            report=self,
            headings=HEADINGS,
            rows=self.rows(),
            figures=figures,
            config=json.dumps(self.config, indent=2, default=str),
            wall_time=_duration(self.wall_time),
        )


HEADINGS = ("metric", "subject", "measured", "unit", "published", "ratio", "source")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


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
