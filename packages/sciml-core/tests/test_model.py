"""A saved model comes back exactly, and whatever was done to its files ends in CheckpointError."""

import json
import os
import random
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import torch
from sciml.errors import CheckpointError, ConfigError
from sciml.model import CONFIG_FILE, WEIGHTS_FILE, Model
from torch import nn


class Affine(Model):
    def __init__(self, width: int = 3, options: dict | None = None, dtype: str = "float32") -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, dtype=getattr(torch, dtype))

    def forward(self, x):
        return self.linear(x)


class Child(Affine):
    def __init__(self, width: int = 3, bias: float = 0.5) -> None:
        super().__init__(width)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = Affine(4, {"nested": [1, {"a": None}]}, dtype="float64")
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_round_trip_keeps_configuration_dtype_and_bits(saved):
    model, path = saved
    loaded = Affine.from_pretrained(path)
    assert loaded.config == {"width": 4, "options": {"nested": [1, {"a": None}]}, "dtype": "float64"}
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(model.parameters(), loaded.parameters()))


def test_a_model_that_was_cast_is_not_saved_as_what_it_is_not(tmp_path):
    with pytest.raises(ConfigError, match="float64, but the model was built with dtype='float32'"):
        Affine().double().save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_outermost_constructor_is_recorded_with_its_defaults():
    assert Child(2).config == {"width": 2, "bias": 0.5}


@pytest.mark.parametrize("value", [torch.float64, float("nan"), {1: 2}, object()])
def test_arguments_that_are_not_json_are_refused(value):
    with pytest.raises(ConfigError, match="options"):
        Affine(3, {"x": value})


def test_variadic_constructors_are_refused():
    with pytest.raises(ConfigError, match="name every argument"):

        class Variadic(Model):
            def __init__(self, **options) -> None:
                super().__init__()


def test_a_model_of_another_class_is_refused(saved):
    with pytest.raises(CheckpointError, match="Affine, not a"):
        Child.from_pretrained(saved[1])


def mutate(path: Path, choice: random.Random) -> None:
    """One of many kinds of damage to one of the two files."""
    file = path / choice.choice([CONFIG_FILE, WEIGHTS_FILE])
    content = bytearray(file.read_bytes())
    kind = choice.randrange(13)
    if kind <= 3:
        content[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
        file.write_bytes(content)
    elif kind == 4:
        file.write_bytes(content[: choice.randrange(len(content))])
    elif kind == 5:
        position = choice.randrange(len(content))
        file.write_bytes(content[:position] + choice.randbytes(choice.randrange(1, 50)) + content[position:])
    elif kind == 6:
        header = json.loads((path / CONFIG_FILE).read_text())
        key = choice.choice(list(header))
        header[choice.choice([key, "extra", "../x"])] = choice.choice([None, 3, "x", [], {}, {"width": 5}, 1e400])
        header.pop(choice.choice(list(header)))
        (path / CONFIG_FILE).write_text(json.dumps(header))
    elif kind == 7:
        other = path.parent / "elsewhere"
        shutil.copy(file, other)
        file.unlink()
        file.symlink_to(other)
    elif kind == 8:
        file.unlink()
        os.mkfifo(file)
    elif kind == 9:
        file.unlink()
        if choice.random() < 0.5:
            file.mkdir()
    elif kind == 10:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
            bomb.writestr("data.pkl", b"\0" * 10_000_000)
    elif kind == 11:
        file.write_bytes(b"\x80\x04cposix\nsystem\n(S'touch executed'\ntR.")
    else:
        file.write_bytes(b"[" * 200_000 if choice.random() < 0.5 else b'{"a":' * 200_000)


def test_a_thousand_damaged_checkpoints_are_refused_quickly(saved, tmp_path):
    model, original = saved
    choice = random.Random(0)
    loaded = 0
    for i in range(1000):
        path = tmp_path / f"copy{i}"
        shutil.copytree(original, path)
        mutate(path, choice)
        started = time.perf_counter()
        try:
            found = Affine.from_pretrained(path)
        except CheckpointError as error:
            message = str(error)
        else:  # only a change that alters no meaning, such as a flipped blank
            loaded, message = loaded + 1, str(path)
            assert found.config == model.config
            assert all(torch.equal(a, b) for a, b in zip(model.parameters(), found.parameters()))
        assert time.perf_counter() - started < 1
        assert str(path) in message
    assert loaded < 50
    assert not Path("executed").exists()


def test_a_subclass_without_constructor_keeps_its_config():
    class Base(Model):
        def __init__(self, width: int = 3) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(width, 1)

    class Inheriting(Base):
        pass

    class Extending(Inheriting):
        def __init__(self, width: int = 3, depth: int = 1) -> None:
            super().__init__(2 * width)

    assert Inheriting(4).config == {"width": 4}
    assert Extending(4).config == {"width": 4, "depth": 1}
