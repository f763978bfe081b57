"""Checks of arguments that many functions have in common."""

from typing import Any

from sciml.errors import ConfigError


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise `ConfigError` unless a value is a whole number, not smaller than `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        kind = "a positive whole number" if least == 1 else f"a whole number, at least {least}"
        raise ConfigError(f"{name}={value!r} must be {kind}")
