"""Training states and the atomic writing of files."""

import os
import signal
import stat
import subprocess
import sys

import pytest
import torch
from sciml.errors import CheckpointError
from sciml.files import write_atomically
from sciml.state import load_state, save_state, tensors_equal


def test_a_state_comes_back_bit_for_bit(tmp_path):
    state = {
        "tensors": {"weight": torch.randn(3, 5), 7: torch.tensor([float("nan"), -0.0]), "none": torch.empty(0, 2)},
        "rest": [1, 2.5, "text", None, True, (torch.arange(3), [()])],
    }
    save_state(tmp_path / "new" / "state.safetensors", state)
    back = load_state(tmp_path / "new" / "state.safetensors")
    assert back["tensors"]["weight"].equal(state["tensors"]["weight"])
    assert back["tensors"][7].numpy().tobytes() == state["tensors"][7].numpy().tobytes()
    assert back["tensors"]["none"].shape == (0, 2)
    assert back["rest"][:5] == state["rest"][:5]
    assert isinstance(back["rest"][5], tuple)
    assert tensors_equal({"a": back["rest"][5][0]}, {"a": torch.arange(3)})


def test_loaded_tensors_are_aligned_as_new_ones_are(tmp_path):
    """Reductions round by the alignment of their operand: a resumed run would depart from the undisturbed one."""
    state = {f"{n}": torch.randn(n, dtype=dtype) for n in range(1, 40) for dtype in (torch.float32, torch.float64)}
    save_state(tmp_path / "state", state)
    loaded = load_state(tmp_path / "state")
    assert all(value.data_ptr() % 64 == 0 for value in loaded.values())
    assert len({value.untyped_storage().data_ptr() for value in loaded.values()}) == len(loaded)


@pytest.mark.parametrize("place", [5, -1])
def test_a_truncated_or_edited_state_is_refused(tmp_path, place):
    path = tmp_path / "state"
    save_state(path, {"a": torch.ones(4)})
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:place])
    with pytest.raises(CheckpointError):
        load_state(path)
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_state(path)


def test_a_state_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match=r"state\.a\[1\] is a set"):
        save_state(tmp_path / "state", {"a": [1, {2}]})
    assert not list(tmp_path.iterdir())


# Atomic files


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_honour_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "x", "content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def writer(path, instead):
    """A process that does `instead` of renaming what it has written."""
    code = f"""
import os, signal, sys
from pathlib import Path
from sciml.files import write_atomically
os.replace = lambda *_: {instead}
write_atomically(Path({str(path)!r}), "new")
"""
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    target = tmp_path / "last.safetensors"
    others = {".last.safetensors.new", ".last.safetensors.backup.tmp", ".best.safetensors.0-1-2.tmp", "x.tmp"}
    for name in others:
        (tmp_path / name).write_text("precious")
    write_atomically(target, "old")
    for _ in range(2):
        with writer(target, "os.kill(os.getpid(), signal.SIGKILL)") as killed:
            assert killed.wait() == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == len(others) + 2  # the second removes what the first left
    assert target.read_text() == "old"
    write_atomically(target, "new")
    assert {p.name for p in tmp_path.iterdir()} == {target.name, *others}
    assert target.read_text() == "new"


def test_temporaries_of_a_living_writer_are_kept_for_a_day(tmp_path):
    target = tmp_path / "x"
    with writer(target, "(print('ready', flush=True), sys.stdin.read())") as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "ready\n"
        (temporary,) = tmp_path.iterdir()
        write_atomically(target, "mine")
        assert temporary.exists()
        os.utime(temporary, (0, 0))  # say, of a host that is no more
        write_atomically(target, "mine")
        assert [p.name for p in tmp_path.iterdir()] == ["x"]
        living.communicate()
