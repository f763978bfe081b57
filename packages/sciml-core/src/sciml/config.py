"""Configurations: nested frozen pydantic dataclasses, overridden by dicts or by `path.to.field=value`."""

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from sciml.errors import ConfigError

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only pydantic dataclass that refuses unknown fields."""
    return pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)  # type: ignore


def override(base: T, changes: Mapping[str, Any]) -> T:
    """`base` with the nested `changes`, validated.

    Raises
    ------
    ConfigError
        If a field is unknown (close matches are named) or a value does not fit its type.
    """
    merged = _merge(base, changes, "")
    try:
        return TypeAdapter(type(base)).validate_python(merged)
    except ValidationError as error:
        lines = []
        for e in error.errors(include_url=False):
            place = (
                f"{'.'.join(map(str, e['loc']))}={e['input']!r}: " if e["loc"] and e["type"] != "value_error" else ""
            )
            message = e["msg"].removeprefix("Value error, ")
            lines.append(f"{place}{message[0].lower()}{message[1:]}")
        raise ConfigError("; ".join(lines)) from error


def _merge(base: Any, changes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    merged = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    for name, value in changes.items():
        if name not in merged:
            close = difflib.get_close_matches(name, merged, n=1)
            hint = f"did you mean {prefix}{close[0]}? " if close else ""
            raise ConfigError(f"{prefix}{name} is not a field: {hint}allowed are {', '.join(sorted(merged))}")
        if dataclasses.is_dataclass(merged[name]) and isinstance(value, Mapping):
            merged[name] = _merge(merged[name], value, f"{prefix}{name}.")
        else:
            merged[name] = value
    return {k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in merged.items()}  # type: ignore


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Nested dict of `path.to.field=value` lines; values are JSON, or else plain strings.

    Raises
    ------
    ConfigError
        If a line has no `=`.
    """
    result: dict[str, Any] = {}
    for line in settings:
        path, equals, text = line.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {line}: expected path.to.field=value, for instance training.epochs=50")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *parents, last = path.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {line}: {parent} was already set to a value")
        node[last] = value
    return result
