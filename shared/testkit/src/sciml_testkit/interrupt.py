"""`python -m sciml_testkit.interrupt`: run an experiment's `smoke` preset, then again, killed at several moments.

Arguments: kind, name, module, attribute, distribution and version of the entry, and a new folder. Each run is a fork of
this process, which has only imported so far. Prints the exit status of each run as JSON.
"""

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


def in_child(work: Callable[[], Any]) -> int:
    """Exit status of `work()` in a fork, negative if it was killed."""
    if (child := os.fork()) == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(entry: Entry, folder: Path) -> list[int]:
    """Statuses of a whole run, then of the pieces of another, in `folder/killed`: all are killed but the last.

    That is at the first step's result, half way through the files and at the report's last one, each time before the
    file has its name.
    """
    installed().entries[entry.kind].setdefault(entry.name, entry)
    entry.load()
    replace, out, last = os.replace, folder / "whole", ""
    written: list[str] = []

    def watched(source: Any, target: Any, **more: Any) -> None:
        written.append(os.path.relpath(target, out))
        if written[-1] == last:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target, **more)

    os.replace = watched

    def run(**where: Any) -> None:
        sciml.run(entry.name, "smoke", device="cpu", **where)

    def whole() -> None:
        run(out=out)
        (folder / "written").write_text(json.dumps(written))

    statuses = [in_child(whole)]
    if statuses[0] == 0:
        names = json.loads((folder / "written").read_text())
        out = folder / "killed"
        for k, name in enumerate((names[2], names[(1 + len(names)) // 2], names[-1], "")):
            last = name
            statuses.append(in_child(lambda k=k: run(resume=out) if k else run(out=out)))
    return statuses


if __name__ == "__main__":
    print(json.dumps(main(Entry(*sys.argv[1:7]), Path(sys.argv[7]))))
