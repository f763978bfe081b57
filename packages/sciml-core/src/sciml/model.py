"""Models that remember how they were built, and the two files they are saved as."""

import functools
import hashlib
import inspect
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from sciml.errors import CheckpointError, ConfigError, UnknownNameError
from sciml.files import write_atomically

FORMAT = "sciml-model/1"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 1 << 36


M = TypeVar("M", bound="Model")


@dataclass(frozen=True)
class Example:
    """The smallest sensible instance of a model: `cls(**config)`, called as `model(*inputs)`.

    `batched` are the positions of the inputs whose first dimension is the batch. `refused` are inputs that the model
    must answer with a clear error.
    """

    config: dict[str, Any]
    inputs: tuple[Any, ...]
    batched: tuple[int, ...] = (0,)
    refused: tuple[tuple[Any, ...], ...] = ()


class Model(nn.Module):
    """An `nn.Module` that keeps the JSON configuration of its `__init__` and can be saved and loaded.

    Subclasses take named JSON arguments only; the arguments of the outermost constructor are recorded in
    `config`, defaults included. `properties` names what the conformance suite measures (for instance
    `"symplectic"`).
    """

    properties: ClassVar[frozenset[str]] = frozenset()

    config: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        original = cls.__dict__["__init__"]
        signature = inspect.signature(original)
        variadic = [p for p in signature.parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if variadic:
            raise ConfigError(
                f"{cls.__name__}.__init__ takes {variadic[0]}: name every argument, so that they can be saved"
            )

        @functools.wraps(original)
        def init(self: Model, *args: Any, **kwargs: Any) -> None:
            if "_building" in self.__dict__:  # a base called through super(): the outermost constructor counts
                original(self, *args, **kwargs)
                return
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            config = json_copy(dict(list(bound.arguments.items())[1:]), f"{type(self).__name__}(…)")
            self.__dict__["_building"] = True
            original(self, *args, **kwargs)
            del self.__dict__["_building"]
            self.config = config

        cls.__init__ = init  # type: ignore[method-assign]

    @classmethod
    def example(cls) -> Example:
        """Smallest sensible configuration and inputs; every registered model has one."""
        raise NotImplementedError(f"{cls.__name__} defines no example(): return an Example(config, inputs)")

    def save_pretrained(
        self, directory: str | os.PathLike[str], weights: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, each atomically.

        `weights` (default: the model's own) replace the state dict, for instance by averaged or gathered ones.

        Raises
        ------
        ConfigError
            If the model has an argument `dtype` and was cast to another one after it was built.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict() if weights is None else weights
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
        declared = self.config.get("dtype")
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and declared in ("float32", "float64") and tensor.dtype != _dtype(declared):
                raise ConfigError(
                    f"{name} is {tensor.dtype}, but the model was built with dtype={declared!r}, as which it would be "
                    "read back: build it with the other dtype and load_state_dict, instead of casting it"
                )
        weights = save_safetensors(tensors)
        header = _header(type(self), self.config)
        header["sha256"] = _checksum(header, weights)
        write_atomically(folder / WEIGHTS_FILE, weights)
        write_atomically(folder / CONFIG_FILE, json.dumps(header, indent=2).encode() + b"\n")

    @classmethod
    def from_pretrained(cls: type[M], directory: str | os.PathLike[str]) -> M:
        """Load a model of this class from `directory`.

        Raises
        ------
        CheckpointError
            If a file is missing, not regular, too large, corrupt, edited, or of another model.
        """
        folder = Path(directory)
        header, weights = _read(folder)
        expected = _header(cls, {})["model"]
        if header["model"] != expected:
            raise CheckpointError(
                f"{folder / CONFIG_FILE} is a {header['model']}, not a {expected}: use sciml.load, or the right class"
            )
        return _build(cls, folder, header, weights)


def load(source: str | os.PathLike[str]) -> Model:
    """Load a saved model from a directory, or from a hub as `hf://owner/name@revision`.

    Only names in the registry are looked up; nothing else is imported and nothing is unpickled.

    Raises
    ------
    CheckpointError
        If a file is missing, corrupt or edited, or its model is not registered here.
    """
    text = os.fspath(source)
    if text.startswith("hf://"):
        with tempfile.TemporaryDirectory(prefix="sciml-hub-") as place:
            folder = Path(place)
            _download(text.removeprefix("hf://"), folder)
            header, weights = _read(folder)
        folder = Path(text)
    else:
        folder = Path(text)
        header, weights = _read(folder)
    from sciml.registry import models

    try:
        cls = models[header["model"]].load()
    except UnknownNameError as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: {error} An unregistered model is read with its own class: "
            "Class.from_pretrained(path)."
        ) from error
    return _build(cls, folder, header, weights)


def registered_name(cls: type) -> str | None:
    """Name under which the class is registered, or None."""
    from sciml.registry import models

    for entry in models.values():
        if entry.module == cls.__module__ and entry.attribute == cls.__qualname__:
            return entry.name
    return None


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)


def _header(cls: type[Model], config: dict[str, Any]) -> dict[str, Any]:
    from sciml.registry import models, own_version

    name = registered_name(cls)
    version = models[name].version if name else own_version()
    return {
        "format": FORMAT,
        "model": name or f"{cls.__module__}:{cls.__qualname__}",
        "version": version,
        "config": config,
    }


def _checksum(header: Mapping[str, Any], weights: bytes) -> str:
    canonical = json.dumps(
        {key: header[key] for key in ("format", "model", "version", "config")},
        sort_keys=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(canonical.encode() + b"\0" + weights).hexdigest()


def read_regular_file(path: Path, limit: int) -> bytes:
    """Contents of a regular file of at most `limit` bytes; links, pipes and devices are refused unread."""
    try:
        # O_NONBLOCK: a FIFO must not hang before fstat can refuse it
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        kind = "is a link" if path.is_symlink() else error.strerror or str(error)
        raise CheckpointError(f"{path} cannot be read: {kind}; expected a regular file") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path} is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limit:
            raise CheckpointError(f"{path} has {status.st_size} bytes; at most {limit} are read")
        return file.read(status.st_size)


def parse_json_object(text: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in `text`; anything else is a CheckpointError naming `path`."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {type(error).__name__}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; expected an object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _read(folder: Path) -> tuple[dict[str, Any], bytes]:
    path = folder / CONFIG_FILE
    header = parse_json_object(read_regular_file(path, MAX_CONFIG_BYTES), path)
    keys = {"format", "model", "version", "config", "sha256"}
    if set(header) != keys:
        raise CheckpointError(f"{path} has the keys {sorted(header)}; expected {sorted(keys)}")
    if header["format"] != FORMAT:
        raise CheckpointError(f"{path} has the format {header['format']!r}; this version reads {FORMAT!r}")
    if not isinstance(header["config"], dict) or not isinstance(header["model"], str):
        raise CheckpointError(f"{path}: config must be an object and model a string")
    weights = read_regular_file(folder / WEIGHTS_FILE, MAX_WEIGHTS_BYTES)
    try:
        checksum = _checksum(header, weights)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the configuration cannot be checked: {error}") from error
    if checksum != header["sha256"]:
        raise CheckpointError(
            f"{folder}: {CONFIG_FILE} and {WEIGHTS_FILE} do not match their checksum: "
            "one of them is corrupt, truncated or edited; copy both files again"
        )
    return header, weights


def _build(cls: type[M], folder: Path, header: dict[str, Any], weights: bytes) -> M:
    if not (isinstance(cls, type) and issubclass(cls, Model)):
        raise CheckpointError(f"{folder}: the name {header['model']} is registered for {cls!r}, which is no Model")
    try:
        model = cls(**header["config"])
        # safetensors returns memory that is not 64-byte aligned, on which reductions round differently: clone
        tensors = {name: value.clone() for name, value in load_safetensors(weights).items()}
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE}: {error}") from error
    except Exception as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: {cls.__name__} rejects this configuration: {type(error).__name__}: {error}"
        ) from error
    check_tensors(tensors, model.state_dict(), folder / WEIGHTS_FILE)
    model.load_state_dict(tensors)
    return model


def check_tensors(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise CheckpointError, listing the first differences, unless names, shapes and dtypes agree."""
    differences = [f"missing {name}" for name in sorted(set(expected) - set(found))]
    differences += [f"unexpected {name}" for name in sorted(set(found) - set(expected))]
    for name in sorted(set(found) & set(expected)):
        if found[name].shape != expected[name].shape or found[name].dtype != expected[name].dtype:
            differences.append(
                f"{name}: {found[name].dtype}{tuple(found[name].shape)} in the file, "
                f"{expected[name].dtype}{tuple(expected[name].shape)} in the model"
            )
    if differences:
        raise CheckpointError(f"{path} does not fit the model: {'; '.join(differences[:5])}")


def json_copy(value: Any, where: str) -> Any:
    """Plain JSON equal to `value`; tuples become lists, and anything else is refused with its place."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ConfigError(f"{where} is {value}: JSON has finite numbers only")
        return value
    if isinstance(value, list | tuple):
        return [json_copy(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        bad = [key for key in value if not isinstance(key, str)]
        if bad:
            raise ConfigError(f"{where} has the key {bad[0]!r}: JSON keys are strings")
        return {key: json_copy(item, f"{where}.{key}") for key, item in value.items()}
    hint = f'; write it as "{str(value).removeprefix("torch.")}"' if isinstance(value, torch.dtype) else ""
    raise ConfigError(f"{where} is a {type(value).__name__}; a model's arguments must be JSON{hint}")


def _download(reference: str, folder: Path) -> None:
    """Copy the two files of `owner/name@revision` into `folder`."""
    name, _, revision = reference.partition("@")
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        from sciml.registry import own_version

        raise CheckpointError(f'hf:// needs the extra: pip install "sciml-core[hub]=={own_version()}"') from error
    try:
        cache = Path(snapshot_download(name, revision=revision or None, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
    except Exception as error:
        raise CheckpointError(f"hf://{reference} could not be fetched: {error}") from error
    # the hub's cache is made of links; their targets are what is read, and checked
    for file, limit in ((CONFIG_FILE, MAX_CONFIG_BYTES), (WEIGHTS_FILE, MAX_WEIGHTS_BYTES)):
        write_atomically(folder / file, read_regular_file((cache / file).resolve(), limit))
