"""`python -m sciml_testkit.interrupt`: run an experiment's `smoke` preset, then again, killed and resumed.

Reads a line of JSON for each experiment: `entry` (the fields of a `sciml.registry.Entry`), `folder` (a new one), `path`
(what to import from), `cwd` and `env`. Each run is a fork of this process, which only imports, so that experiments
share that: what the run of an installed one imported besides plugins, this process imports before the next. Figures are
drawn by the run that is not killed; the others build them and write the same images. Answers with a line of JSON: the
folder and the exit status of each run. What runs print goes to `folder/log`.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import sciml
from sciml.experiment import RunDirectory
from sciml.files import write_atomically
from sciml.registry import Entry, installed

USED = (
    "dask.array",
    "dask.distributed",
    "h5netcdf",
    "jinja2",
    "lightning_fabric.strategies.model_parallel",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "scipy.stats",
    "xarray",
)


def import_all(modules: Iterable[str]) -> None:
    """Import what can be imported; later forks share it, and their garbage collectors leave it alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(module)
    gc.freeze()


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
    replace, draw, out, last = os.replace, RunDirectory.figure, folder / "whole", ""
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
        (folder / "done").write_text(json.dumps({"written": written, "imported": [*sys.modules]}))

    def piece(first: bool) -> None:
        RunDirectory.figure = drawn_before
        run(out=out) if first else run(resume=out)

    def drawn_before(self: RunDirectory, name: str, figure: Any) -> None:
        image = Path("figures") / f"{name}.png"
        if (folder / "whole" / image).exists():
            (out / image).parent.mkdir(exist_ok=True)
            write_atomically(out / image, (folder / "whole" / image).read_bytes())
        else:
            draw(self, name, figure)

    log = folder / "log"
    statuses = [in_child(whole, log)]
    done = json.loads((folder / "done").read_text()) if statuses[0] == 0 else {"written": []}
    if done["written"]:
        entries = installed().entries.values()
        plugins = {other.module.partition(".")[0] for named in entries for other in named.values()}
        if entry.name in installed().entries[entry.kind]:  # another entry may have other modules of the same names
            new = (name for name in done["imported"] if name not in sys.modules)
            import_all(name for name in new if name.partition(".")[0] not in plugins)
        names, out = done["written"], folder / "killed"
        for k, name in enumerate((names[min(2, len(names) - 1)], names[len(names) // 2], "")):
            last = name
            statuses.append(in_child(lambda k=k: piece(first=k == 0), log))
    return statuses


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what imports print is no answer
    import_all(USED)  # by most runs
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
