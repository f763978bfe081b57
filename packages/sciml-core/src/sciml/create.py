"""The front door to registered models, optimizers and problems: a name and its arguments."""

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from sciml.errors import ConfigError
from sciml.registry import Entry, models, optimizers, problems

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from sciml.data import Problem


def create_model(name: str, *, pretrained: bool = False, **config: Any) -> "nn.Module":
    """The model registered as `name`, built with `config`; `pretrained` loads the weights that its plugin ships.

    Raises
    ------
    UnknownNameError
        If no installed plugin has the model.
    ConfigError
        If an argument is unknown, there are no pretrained weights, or they were made with another `config`.
    """
    entry = models[name]
    cls = entry.load()
    if not pretrained:
        return cls(**_known(entry.name, cls, config))
    folder = pretrained_directory(entry)
    if folder is None:
        raise ConfigError(f"{entry.name} ships no pretrained weights; build it without pretrained=True and train it")
    from sciml.model import json_copy

    model = cls.from_pretrained(folder)
    for argument, value in _known(entry.name, cls, config).items():
        if model.config[argument] != json_copy(value, f"{entry.name}: {argument}"):
            raise ConfigError(
                f"the pretrained {entry.name} has {argument}={model.config[argument]!r}, not {value!r}: "
                "leave the argument out, or train a model of your own without pretrained=True"
            )
    return model


def create_optimizer(
    name: str, params_or_module: "nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]]", **config: Any
) -> "Optimizer":
    """The optimizer registered as `name` on parameters, parameter groups, or all parameters of a module.

    Raises
    ------
    UnknownNameError
        If no installed plugin has the optimizer.
    ConfigError
        If an argument is unknown, or the optimizer needs the module and got parameters.
    """
    from torch import nn

    entry = optimizers[name]
    cls = entry.load()
    target: Any = params_or_module
    if getattr(cls, "takes_module", False):
        if not isinstance(target, nn.Module):
            raise ConfigError(f"{entry.name} needs the module itself, not its parameters: pass the model")
    elif isinstance(target, nn.Module):
        target = target.parameters()
    return cls(target, **_known(entry.name, cls, config, skip=1))


def create_problem(name: str, **config: Any) -> "Problem":
    """The problem registered as `name` with the given fields; the others keep their defaults.

    Raises
    ------
    UnknownNameError
        If no installed plugin has the problem.
    ConfigError
        If a field is unknown or a value does not fit its type.
    """
    from pydantic import TypeAdapter, ValidationError

    entry = problems[name]
    cls = entry.load()
    hints, values = get_type_hints(cls), {}
    for field, value in _known(entry.name, cls, config).items():
        try:
            values[field] = TypeAdapter(hints[field]).validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]["msg"]
            raise ConfigError(f"{entry.name}: {field}={value!r}: {first[0].lower()}{first[1:]}") from error
    return cls(**values)


def arguments(cls: Any, skip: int = 0) -> dict[str, inspect.Parameter]:
    """Named arguments of a registered class, less the first `skip`.

    A class that takes `**options` has the optional arguments of its base class too, less those that it sets itself,
    which it names in `fixed`.
    """
    found = list(inspect.signature(cls).parameters.values())[skip:]
    named = {p.name: p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any(p.kind is p.VAR_KEYWORD for p in found) and cls.__base__ is not object:
        passed = arguments(cls.__base__, skip).items()
        fixed = {*named, *getattr(cls, "fixed", ())}
        named |= {name: p for name, p in passed if name not in fixed and p.default is not p.empty}
    return named


def pretrained_directory(entry: Entry) -> Path | None:
    """Where the plugin keeps the weights of this model, if it ships any: `pretrained/<name>` in its package."""
    package = importlib.import_module(entry.module.partition(".")[0])
    folders = [Path(place) / "pretrained" / entry.name.partition("/")[2] for place in package.__path__]
    return next((folder for folder in folders if (folder / "config.json").exists()), None)


def _known(name: str, cls: Any, config: Mapping[str, Any], skip: int = 0) -> dict[str, Any]:
    allowed = arguments(cls, skip)
    for argument in config:
        if argument not in allowed:
            close = difflib.get_close_matches(argument, allowed, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"{name} has no argument {argument}: {hint}allowed are {', '.join(allowed) or 'none'}")
    if dataclasses.is_dataclass(cls):
        return dict(config)
    missing = [n for n, p in allowed.items() if p.default is p.empty and n not in config]
    if missing:
        raise ConfigError(f"{name} needs {', '.join(missing)}")
    return dict(config)
