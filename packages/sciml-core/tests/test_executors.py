import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sciml.errors import ConfigError
from sciml.executors import capacity, get_executor
from sciml.registry import own_version


def test_default_runs_in_this_process_and_keeps_errors_for_the_result():
    for spec in (None, "serial"):
        with get_executor(spec) as executor:
            assert executor.submit(os.getpid).result() == os.getpid()
            assert capacity(executor) == 1
            future = executor.submit(int, "x")
            assert isinstance(future.exception(), ValueError)


def test_processes_are_others_than_this_one():
    with get_executor("processes:2") as executor:
        assert executor.submit(os.getpid).result() != os.getpid()
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
        assert capacity(executor) == 4


def test_an_executor_is_passed_through_and_stays_open():
    with ThreadPoolExecutor(1) as mine:
        with get_executor(mine) as executor:
            assert executor is mine
        assert mine.submit(abs, -1).result() == 1


@pytest.mark.parametrize(
    "spec", ["threads", "", "dask", "dask:", "dask://", "dask:host", "mpi:2", "serial:2", "processes:x", "processes:0"]
)
def test_unknown_specifications_list_the_choices(spec):
    with pytest.raises(ConfigError, match=r"choose one of serial, processes|workers?"), get_executor(spec):
        pass


@pytest.mark.parametrize(
    ("spec", "module", "extra"), [("dask://h:1", "distributed", "distributed"), ("mpi", "mpi4py.futures", "mpi")]
)
def test_a_missing_extra_is_named_with_the_line_that_installs_it(monkeypatch, spec, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    line = f'pip install "sciml-core[{extra}]=={own_version()}"'
    with pytest.raises(ConfigError) as error, get_executor(spec):
        pass
    assert line in str(error.value)


WORKERS_OF_A_KILLED_PARENT = """
import os, signal, time
from sciml.executors import get_executor
if __name__ == "__main__":
    with get_executor("processes:1") as executor:
        print(executor.submit(os.getpid).result(), flush=True)
        executor.submit(time.sleep, 600)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WORKERS_OF_A_KILLED_PARENT)
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, timeout=60)
    worker = int(done.stdout)
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the worker lives on")
