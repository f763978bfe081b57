"""`python -m sciml_testkit.interrupt`: run an experiment's `smoke` preset, then killed at several moments and resumed.

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

MOMENTS = 3


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
    """Statuses of the whole run, then of each killed and each resumed one, which lie in `folder/<k>`."""
    installed().entries[entry.kind].setdefault(entry.name, entry)
    entry.load()
    replace, seen, last = os.replace, 0, 0

    def counting(source: Any, target: Any, **more: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target, **more)

    os.replace = counting

    def run(**where: Any) -> None:
        sciml.run(entry.name, "smoke", device="cpu", **where)

    def whole() -> None:
        run(out=folder / "whole")
        (folder / "count").write_text(str(seen))

    statuses = [in_child(whole)]
    if statuses[0] == 0:
        total = int((folder / "count").read_text())
        for k in range(MOMENTS):
            last = 3 + (total - 4) * k // (MOMENTS - 1)  # from the first step's result to the report's last file
            killed = in_child(lambda k=k: run(out=folder / str(k)))
            last = 0
            statuses += [killed, in_child(lambda k=k: run(resume=folder / str(k)))]
    return statuses


if __name__ == "__main__":
    print(json.dumps(main(Entry(*sys.argv[1:7]), Path(sys.argv[7]))))
