"""The `sciml` command. Heavy imports stay inside the commands, so that listing stays instant."""

import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sciml.errors import RunInterrupted, SciMLError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Structure-aware scientific machine learning.")


@app.callback()
def _root() -> None:
    """Structure-aware scientific machine learning."""


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell-style pattern, e.g. 'pnde/*'.")] = "*",
) -> None:
    """List the installed models, optimizers, problems and experiments."""
    from sciml.registry import KINDS, Registry, installed, own_version

    found = {kind: names for kind in KINDS if (names := Registry(kind).matching(pattern))}
    for kind, names in found.items():
        print(f"{kind}:")
        print("\n".join(f"  {name}" for name in names))
    if installed().plugins and not found:
        print(f"nothing that is installed matches {pattern!r}", file=sys.stderr)
    if not installed().plugins:
        print(f'No plugin is installed. Install one with: pip install "sciml[<plugin>]=={own_version()}"')
    for reason in installed().broken.values():
        print(f"warning: {reason}", file=sys.stderr)


@app.command("run")
def run_command(
    name: Annotated[str, typer.Argument(help="Experiment, e.g. pnde/double-pendulum.")],
    preset: Annotated[
        str | None, typer.Option(help="smoke (seconds), small (minutes) or paper.", show_default="small")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: training.epochs=50. Repeatable.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="New directory for the run; default runs/<name>/<preset>-<time>.")
    ] = None,
    resume: Annotated[str | None, typer.Option(help="Directory of an interrupted run to go on with.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.", show_default="auto")] = None,
    strategy: Annotated[str | None, typer.Option(help="Under torchrun: ddp or fsdp.", show_default="ddp")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="32-true (as the models are), or bf16-mixed for float32 models.", show_default="32-true"),
    ] = None,
    compile: Annotated[bool | None, typer.Option("--compile", help="Compile the models with torch.compile.")] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            help="Where data are generated: serial, processes[:n], dask://host:port or mpi.", show_default="serial"
        ),
    ] = None,
) -> None:
    """Generate data, train, evaluate and report: measured beside published.

    A resumed run keeps the options that it was begun with.
    """
    from sciml.config import parse_settings
    from sciml.registry import experiments

    overrides = parse_settings(settings or [])
    _ = experiments[name]  # an unknown name is told before torch is imported
    from sciml.experiment import launch

    options = {"device": device, "strategy": strategy, "precision": precision, "compile": compile}
    try:
        report = launch(name, preset, overrides, out=out, resume=resume, executor=executor, **options)
    except RunInterrupted as stop:
        print(f"sciml: {stop}", file=sys.stderr)
        raise typer.Exit(130) from None
    if int(os.environ.get("RANK", "0")) > 0:
        return
    _show(report)
    print(f"Report: {Path(report.directory) / 'report.html'}")


@app.command("info")
def info_command(name: Annotated[str, typer.Argument(help="Any registered name, e.g. pnde/double-pendulum.")]) -> None:
    """Describe what is registered under a name: paper, published numbers, presets, arguments."""
    from sciml.info import describe

    print(describe(name))


@app.command("generate")
def generate_command(
    name: Annotated[str, typer.Argument(help="Problem, e.g. pnde/double-pendulum.")],
    n: Annotated[int, typer.Option("-n", help="Number of samples.")],
    out: Annotated[str, typer.Option(help="Zarr store, new or to go on with.")],
    executor: Annotated[
        str, typer.Option(help="serial, processes, processes:<workers>, dask://<host>:<port> or mpi.")
    ] = "processes",
    seed: Annotated[int, typer.Option(help="Sample i depends on seed and i alone.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Field of the problem: tolerance=1e-9. Repeatable.")
    ] = None,
) -> None:
    """Generate samples into one Zarr store; run again after a stop, only the missing chunks are computed."""
    from sciml.config import parse_settings
    from sciml.registry import problems

    overrides = parse_settings(settings or [])
    _ = problems[name]
    from sciml.create import create_problem
    from sciml.data import generate

    problem = create_problem(name, **overrides)
    try:
        path = generate(problem, n, seed, out=out, executor=executor, progress=True)
    except KeyboardInterrupt:
        print(f"sciml: stopped; {out} keeps its finished chunks: run the same command again", file=sys.stderr)
        raise typer.Exit(130) from None
    print(f"{n} samples: {path}")


@app.command("doctor")
def doctor_command() -> None:
    """Show device and versions, and what optional parts are missing and how to get them."""
    from sciml.info import diagnose

    print(diagnose())


@app.command("report")
def report_command(directory: Annotated[str, typer.Argument(help="Directory of a finished run.")]) -> None:
    """Show a finished run's report and write its HTML page anew."""
    from sciml.report import Report

    report = Report.load(directory)
    report.save(directory)
    _show(report)
    print(f"Report: {Path(directory) / 'report.html'}")


def _show(report: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sciml.report import HEADINGS

    console = Console()

    def show(title: str, headings: Any, rows: Any) -> None:
        table = Table(title=title)
        for i, heading in enumerate(headings):
            table.add_column(Text(heading), no_wrap=i == 0)
        for row in rows:
            table.add_row(*map(Text, row))  # a unit in brackets is no markup
        console.print(table)

    headings, rows = report.table()
    for columns in _fitting([headings, *rows], console.width):
        title = f"{report.experiment} ({report.preset})"
        show(title, [headings[i] for i in columns], [[row[i] for i in columns] for row in rows])
    if compared := report.comparison():
        show("beside the published numbers", HEADINGS, compared)
    for note in (*report.bars, *report.notes):
        console.print(f"- {note}", markup=False)


def _fitting(rows: Sequence[Sequence[str]], width: int) -> Iterator[list[int]]:
    """Columns of the tables, one below the other, that numbers fit into; the first column is in all of them."""
    wide = [max(len(row[i]) for row in rows[1:] or rows) + 3 for i in range(len(rows[0]))]  # headings may wrap
    columns = [0]
    for i in range(1, len(wide)):
        if len(columns) > 1 and 1 + sum(max(wide[j], 9) for j in columns) + max(wide[i], 9) > width:
            yield columns
            columns = [0]
        columns.append(i)
    yield columns


def main() -> None:
    """Run the command line: errors of ours end in one line and exit code 2, never in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without γ or ≤ shows question marks
    # forward-mode differentiation in torch compiles its own formulas by what it deprecates
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    try:
        app()
    except (SciMLError, OSError) as error:
        print(f"sciml: {error}", file=sys.stderr)
        raise SystemExit(2) from None
