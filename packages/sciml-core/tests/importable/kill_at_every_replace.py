"""Kill a generation before its k-th rename, for every k, and finish it in another process each time.

Arguments: a scratch directory, the class of the problem, the number of samples of a first, undisturbed generation
(0: none) and of the one that is killed.
"""

import importlib
import os
import shutil
import signal
import sys
from pathlib import Path

import sciml_test_problems
from sciml.data import generate, open_dataset
from sciml.errors import DataError


def in_child(work) -> int:
    """Exit status of `work()` in a fork, negative if killed."""
    if (child := os.fork()) == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    folder, name, before, after = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    problem = getattr(sciml_test_problems, name)()
    out = folder / "killed.zarr"
    importlib.import_module("dask.array")  # or every fork would do it
    replace = os.replace

    def generate_until(last: int) -> None:
        count = 0

        def counted(source, target, **kwargs):
            nonlocal count
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target, **kwargs)

        os.replace = counted
        generate(problem, after, out=out)

    def finish() -> None:
        try:
            read = open_dataset(out).load()
            assert read.identical(problem.generate(before)), "an unfinished store was read"
        except DataError:
            pass
        generate(problem, after, out=out)
        assert open_dataset(out).load().identical(problem.generate(after)), "the finished store differs"
        left = [path.name for path in folder.iterdir() if path != out]
        assert not left, f"left behind: {left}"

    for last in range(1, 1000):
        shutil.rmtree(out, ignore_errors=True)
        if before:
            assert in_child(lambda: generate(problem, before, out=out)) == 0
        status = in_child(lambda last=last: generate_until(last))
        if status == 0:
            print(last - 1)
            return
        assert status == -signal.SIGKILL, status
        assert in_child(finish) == 0, f"after a kill at rename {last}"


if __name__ == "__main__":
    main()
