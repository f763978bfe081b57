"""What `sciml info` and `sciml doctor` print."""

import dataclasses
import difflib
import inspect
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from sciml.create import arguments, pretrained_directory
from sciml.errors import UnknownNameError
from sciml.registry import Entry, Registry, installed, own_version
from sciml.report import as_written


def describe(name: str) -> str:
    """Everything known about a registered name, as text; a name of several kinds gives one part for each.

    Raises
    ------
    UnknownNameError
        If no kind has the name.
    """
    writers = {"models": _model, "optimizers": _optimizer, "problems": _problem, "experiments": _experiment}
    parts, reason = [], None
    for kind, write in writers.items():
        try:
            entry = Registry(kind)[name]
        except UnknownNameError as error:
            reason = error
            continue
        head = f"{entry.name}: {kind.removesuffix('s')} of {entry.distribution} {entry.version}"
        parts.append("\n".join([head, *write(entry)]))
    if not parts:
        everything = sorted({full for kind in writers for full in Registry(kind)})
        close = difflib.get_close_matches(name, everything, n=3)
        if not close:
            raise reason or UnknownNameError(name)
        raise UnknownNameError(f"Nothing is called {name!r}. Did you mean {' or '.join(close)}?")
    return "\n\n".join(parts)


def _model(entry: Entry) -> Iterator[str]:
    cls = entry.load()
    yield from _doc(cls)
    yield f"properties: {', '.join(sorted(cls.properties)) or 'none declared'}"
    yield f"pretrained: {'yes' if pretrained_directory(entry) else 'no'}"
    yield f"example: sciml.create_model({entry.name!r}, **{cls.example().config!r})"
    yield from _arguments(cls)


def _optimizer(entry: Entry) -> Iterator[str]:
    cls = entry.load()
    yield from _doc(cls)
    yield f"takes: {'the module' if getattr(cls, 'takes_module', False) else 'parameters, or a module'}"
    yield from _arguments(cls, skip=1)


def _problem(entry: Entry) -> Iterator[str]:
    cls = entry.load()
    yield from _doc(cls)
    yield f"samples: along {cls.sample_dim!r}, computed in chunks of {cls.chunk}"
    yield from _arguments(cls)


def _experiment(entry: Entry) -> Iterator[str]:
    experiment = entry.load()
    yield ""
    yield experiment.paper
    yield ""
    yield f"run: sciml run {entry.name} --preset {'|'.join(experiment.presets)}"
    if experiment.published:
        yield "published:"
        for number in experiment.published:
            yield f"  {number.name} of {number.subject}: {as_written(number.value)} {number.unit}  ({number.source})"
    else:
        yield "published: no numbers"
    columns = {name: dict(_flat(dataclasses.asdict(preset))) for name, preset in experiment.presets.items()}
    fields = list(next(iter(columns.values())))
    rows = [
        ["field", *columns],
        *[[field, *[_short(values.get(field)) for values in columns.values()]] for field in fields],
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    yield "presets (change a field with --set field=value):"
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def _doc(cls: type) -> Iterator[str]:
    yield ""
    yield inspect.getdoc(cls) or "(no description)"
    yield ""


def _arguments(cls: type, skip: int = 0) -> Iterator[str]:
    found = arguments(cls, skip)
    yield "arguments:" if found else "arguments: none"
    for name, parameter in found.items():
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        yield f"  {name}: {inspect.formatannotation(parameter.annotation)}{default}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 28 else text[:25] + "..."


def diagnose() -> str:
    """Device, versions, plugins, and optional parts that are missing with the command that installs them."""
    import torch

    lines = [
        f"sciml-core {own_version()}, Python {sys.version.split()[0]}, torch {torch.__version__}",
        f"{platform.platform()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch",
    ]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / 2**30
            lines.append(f"device cuda:{i}: {torch.cuda.get_device_name(i)}, {memory:.0f} GiB")
    else:
        why = (
            "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device or driver is visible"
        )
        lines.append(f"device cpu: {why}; with uv: uv pip install --torch-backend auto --reinstall-package torch torch")
    lines += ["", "plugins:"]
    lines += [f"  {name} {version}" for name, version in sorted(installed().plugins.items())] or ["  none installed"]
    lines += [f"  broken: {reason}" for reason in installed().broken.values()]
    lines += _foreign_versions()
    lines += ["", "optional parts:"]
    for distribution in ["sciml-core", *sorted(installed().plugins)]:
        for extra, absent in _extras(distribution).items():
            pin = f'"{distribution}[{extra}]=={metadata.version(distribution)}"'
            state = f"missing {', '.join(absent)}: pip install {pin}" if absent else "installed"
            lines.append(f"  {distribution}[{extra}]: {state}")
    return "\n".join(lines)


def _foreign_versions() -> Iterator[str]:
    """Plugins of another release than the core: they are released together and pin each other."""
    for name, version in sorted(installed().plugins.items()):
        needed = [Requirement(line) for line in metadata.requires(name) or []]
        for requirement in needed:
            if requirement.name == "sciml-core" and not requirement.specifier.contains(own_version()):
                yield f"  warning: {name} {version} needs {requirement}, installed is {own_version()}"


def _extras(distribution: str) -> dict[str, list[str]]:
    """Requirements of each extra that are not installed."""
    extras = metadata.metadata(distribution).get_all("Provides-Extra") or []
    absent: dict[str, list[str]] = {extra: [] for extra in extras}
    for line in metadata.requires(distribution) or []:
        requirement = Requirement(line)
        for extra in extras:
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
                continue
            try:
                fits = requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
            except metadata.PackageNotFoundError:
                fits = False
            if not fits:
                absent[extra].append(requirement.name)
    return absent
