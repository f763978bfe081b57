"""The `sciml` command. Heavy imports stay inside the commands, so that listing stays instant."""

import sys
from typing import Annotated

import typer

from sciml.errors import SciMLError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Structure-aware scientific machine learning.")


@app.callback()
def _root() -> None:
    """Structure-aware scientific machine learning."""


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell-style pattern, e.g. 'pnde/*'.")] = "*",
) -> None:
    """List the installed models, optimizers, problems and experiments."""
    from sciml.registry import KINDS, Registry, installed

    for kind in KINDS:
        names = Registry(kind).matching(pattern)
        if names:
            print(f"{kind}:")
            print("\n".join(f"  {name}" for name in names))
    if not installed().plugins:
        print('No plugin is installed. Install one with, for instance: pip install "sciml[pnde]"')
    for reason in installed().broken.values():
        print(f"warning: {reason}", file=sys.stderr)


def main() -> None:
    """Run the command line: errors of ours end in one line and exit code 2, never in a traceback."""
    try:
        app()
    except SciMLError as error:
        print(f"sciml: {error}", file=sys.stderr)
        raise SystemExit(2) from None
