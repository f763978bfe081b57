"""A training state as one safetensors file: tensors beside a JSON header, no pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from sciml.errors import CheckpointError
from sciml.files import write_atomically
from sciml.model import MAX_WEIGHTS_BYTES, parse_json_object, read_regular_file

FORMAT = "sciml-state/1"


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts, lists, tuples, tensors, numbers, strings and None in one atomic rename.

    Raises
    ------
    TypeError
        If the state holds anything else; the message names the place.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_encode(dict(state), tensors, "state"))
    data = save_safetensors(tensors)
    digest = hashlib.sha256(tree.encode() + b"\0" + data).hexdigest()
    header = json.dumps({"format": FORMAT, "sha256": digest, "tree": tree}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save_safetensors(tensors, metadata={"sciml": header.decode()}))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises
    ------
    CheckpointError
        If the file is missing, not regular, corrupt, truncated or edited.
    """
    content = read_regular_file(path, MAX_WEIGHTS_BYTES)
    try:
        # safetensors returns memory that is not 64-byte aligned, on which reductions round differently: clone
        tensors = {name: value.clone() for name, value in load_safetensors(content).items()}
        size = int.from_bytes(content[:8], "little")
        metadata = parse_json_object(content[8 : 8 + size], path).get("__metadata__", {})
        header = parse_json_object(str(metadata.get("sciml", "")).encode(), path)
        if header.get("format") != FORMAT:
            raise CheckpointError(f"{path} has the format {header.get('format')!r}; expected {FORMAT!r}")
        tree = str(header["tree"])
        digest = hashlib.sha256(tree.encode() + b"\0" + save_safetensors(tensors)).hexdigest()
        if digest != header["sha256"]:
            raise CheckpointError(f"{path} does not match its checksum: it is corrupt or edited")
        return _decode(json.loads(tree), tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise CheckpointError(f"{path} is not a training state: {type(error).__name__}: {error}") from error


def _encode(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, list):
        return [_encode(item, tensors, f"{place}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, tensors, f"{place}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        pairs = []
        for key, item in value.items():
            if not isinstance(key, str | int):
                raise TypeError(f"{place} has a key of type {type(key).__name__}; expected str or int")
            pairs.append([key, _encode(item, tensors, f"{place}.{key}")])
        return {"dict": pairs}
    raise TypeError(
        f"{place} is a {type(value).__name__}; a state holds tensors, numbers, strings, None, lists, "
        "tuples and dicts only"
    )


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    raise ValueError(f"unknown node {kind!r}")


def tensors_equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts hold the same names and bitwise the same tensors."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
