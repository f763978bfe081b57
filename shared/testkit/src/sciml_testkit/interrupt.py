"""`python -m sciml_testkit.interrupt`: run an experiment's `smoke` preset, then again, killed and resumed.

Reads a line of JSON for each experiment: `entry` (the fields of a `sciml.registry.Entry`), `folder` (a new one), `path`
(what to import from), `cwd` and `env`. Each run is a fork of this process, which only imports, so that experiments
share that. Answers with a line of JSON: the folder and the exit status of each run. What runs print goes to
`folder/log`.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sciml
from sciml.registry import Entry, installed

USED = ("dask", "jinja2", "matplotlib.backends.backend_agg", "matplotlib.figure", "scipy.stats", "xarray")


def in_child(work: Callable[[], Any], log: Path) -> int:
    """Exit status of `work()` in a fork, negative if it was killed."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):  # the run may have closed them
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def interrupted(entry: Entry, folder: Path, cwd: str, env: dict[str, str]) -> list[int]:
    """Statuses of a whole run, then of the pieces of another, in `folder/killed`: all are killed but the last.

    That is at the first step's result and half way through the files, each time before the file has its name.
    """
    replace, out, last = os.replace, folder / "whole", ""
    written: list[str] = []

    def run(**where: Any) -> None:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        installed().entries[entry.kind].setdefault(entry.name, entry)
        os.replace = watched
        sciml.run(entry.name, "smoke", device="cpu", **where)

    def watched(source: Any, target: Any, **more: Any) -> None:
        written.append(os.path.relpath(target, out))
        if written[-1] == last:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target, **more)

    def whole() -> None:
        run(out=out)
        (folder / "written").write_text(json.dumps(written))

    log = folder / "log"
    statuses = [in_child(whole, log)]
    names = json.loads((folder / "written").read_text()) if statuses[0] == 0 else []
    if names:
        out = folder / "killed"
        for k, name in enumerate((names[min(2, len(names) - 1)], names[len(names) // 2], "")):
            last = name
            statuses.append(in_child(lambda k=k: run(resume=out) if k else run(out=out), log))
    return statuses


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what imports print is no answer
    for module in USED:  # by most runs
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        sys.path[:] = request["path"]
        entry = Entry(*request["entry"])
        if entry.name in installed().entries[entry.kind]:
            with contextlib.suppress(Exception, SystemExit):  # the run will say it
                entry.load()
        statuses = interrupted(entry, Path(request["folder"]), request["cwd"], request["env"])
        print(json.dumps({"folder": request["folder"], "statuses": statuses}), file=answers, flush=True)


if __name__ == "__main__":
    main()
