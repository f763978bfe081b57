"""The checks of each kind, and the one line that runs them under pytest."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sciml.errors import PluginLoadError, UnknownNameError
from sciml.registry import KINDS, Entry, Registry, installed, normalize

from sciml_testkit import experiments, models, optimizers, problems
from sciml_testkit.errors import ConformanceError

Check = Callable[[Entry, Path], None]

CHECKS: dict[str, list[Check]] = {
    kind: [check for name, check in vars(module).items() if name.startswith("check_")]
    for kind, module in zip(KINDS, (models, optimizers, problems, experiments), strict=True)
}
SLOW = {
    experiments.check_smoke_runs_resumes_and_reports,
    problems.check_samples_do_not_depend_on_where_they_are_computed,
}


@dataclass(frozen=True)
class Case:
    """One check of one registered name."""

    entry: Entry
    check: Check

    def run(self, tmp_path: Path) -> None:
        """Raise `ConformanceError` if the check fails or the entry cannot be imported."""
        try:
            self.entry.load()
        except PluginLoadError as error:
            raise ConformanceError(f"{self.entry.kind} {self.entry.name}: {error}") from error
        try:
            self.check(self.entry, tmp_path)
        except ConformanceError:
            raise
        except Exception as error:
            raise ConformanceError(f"{self.id}: it ends in {type(error).__name__}: {error}") from error

    @property
    def id(self) -> str:
        """`model pnde/nde: saves and loads`."""
        words = self.check.__name__.removeprefix("check_").replace("_", " ")
        return f"{self.entry.kind.removesuffix('s')} {self.entry.name}: {words}"


def cases(distribution: str) -> Iterator[Case]:
    """Every check of everything that the installed `distribution` registers, from metadata alone.

    Raises
    ------
    ConformanceError
        If it registers nothing, or its entry points are malformed.
    """
    name = normalize(distribution)
    if name in installed().broken:
        raise ConformanceError(installed().broken[name])
    found = [entry for kind in KINDS for entry in Registry(kind).values() if entry.distribution == name]
    if not found:
        raise ConformanceError(
            f"the distribution {distribution!r} registers nothing: is it installed, and does its pyproject.toml have "
            f'[project.entry-points."sciml.models"] or another of {", ".join(f"sciml.{kind}" for kind in KINDS)}?'
        )
    for entry in found:
        for check in CHECKS[entry.kind]:
            yield Case(entry, check)


def conformance(distribution: str) -> Callable[[Case, Path], None]:
    """A parametrised pytest test of all that a distribution registers: `test_conformance = conformance("pnde")`."""
    parameters = [
        pytest.param(case, id=case.id, marks=[pytest.mark.slow] if case.check in SLOW else [])
        for case in cases(distribution)
    ]

    @pytest.mark.parametrize("case", parameters)
    def test_conformance(case: Case, tmp_path: Path) -> None:
        case.run(tmp_path)

    return test_conformance


def check(kind: str, name: str, tmp_path: Path) -> None:
    """All checks of one registered name, outside pytest; `kind` is `models`, `optimizers`, ….

    Raises
    ------
    ConformanceError
        At the first check that fails.
    UnknownNameError
        If there is no such name.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"no kind {kind!r}: choose one of {', '.join(KINDS)}")
    entry = Registry(kind)[name]
    for number, one in enumerate(CHECKS[kind]):
        folder = Path(tmp_path) / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        Case(entry, one).run(folder)
