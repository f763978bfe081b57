"""What is installed, read from entry-point metadata alone: nothing is imported until an entry is loaded."""

import difflib
import fnmatch
import functools
import importlib
import re
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from sciml.errors import PluginLoadError, UnknownNameError

KINDS = ("models", "optimizers", "problems", "experiments")

_REFERENCE = re.compile(r"^(?P<module>[A-Za-z_][\w.]*)\s*:\s*(?P<attribute>[A-Za-z_][\w.]*)\s*(\[[^\]]*\])?$")


@dataclass(frozen=True)
class Entry:
    """One registered name: where it is defined and by which distribution."""

    kind: str
    name: str
    module: str
    attribute: str
    distribution: str
    version: str

    def load(self) -> Any:
        """Import and return the registered object.

        Raises
        ------
        PluginLoadError
            If the module cannot be imported or lacks the attribute; the message names the distribution.
        """
        try:
            found = importlib.import_module(self.module)
            for part in self.attribute.split("."):
                found = getattr(found, part)
        except Exception as error:
            raise PluginLoadError(
                f"{self.name}: importing {self.module}:{self.attribute} from distribution "
                f"{self.distribution} {self.version} failed with {type(error).__name__}: {error}. "
                f'Reinstall it (pip install --force-reinstall "{self.distribution}=={self.version}") '
                "or report this to its authors; all other plugins keep working."
            ) from error
        return found


class Registry(Mapping[str, Entry]):
    """All entries of one kind, by qualified name `plugin/name`; a bare name works where it is unique."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @property
    def _entries(self) -> dict[str, Entry]:
        return installed().entries[self.kind]

    def __getitem__(self, name: str) -> Entry:
        entries = self._entries
        if name in entries:
            return entries[name]
        matches = [full for full in entries if full.partition("/")[2] == name]
        if len(matches) == 1:
            return entries[matches[0]]
        raise UnknownNameError(self._unknown(name, matches))

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self[name] is not None
        except UnknownNameError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Registry({self.kind}: {', '.join(self) or 'nothing installed'})"

    def matching(self, pattern: str = "*") -> list[str]:
        """Sorted qualified names that match the shell-style `pattern`."""
        return [name for name in self if fnmatch.fnmatchcase(name, pattern)]

    def _unknown(self, name: str, matches: list[str]) -> str:
        singular = self.kind.removesuffix("s")
        if matches:
            return f"The {singular} name {name!r} is ambiguous; write one of {', '.join(matches)}."
        prefix, slash, _ = name.partition("/")
        if slash and normalize(prefix) in installed().broken:
            return f"No {singular} {name!r}: {installed().broken[normalize(prefix)]}"
        misspelt = difflib.get_close_matches(prefix, installed().plugins, n=1, cutoff=0.8)
        if slash and not misspelt and re.fullmatch(r"[a-z0-9][a-z0-9-]*", prefix):
            return (
                f"No {singular} {name!r}: no installed distribution is called {prefix!r}. "
                f'Install it with: pip install "sciml[{prefix}]=={own_version()}"'
            )
        close = difflib.get_close_matches(name, list(self), n=3, cutoff=0.5)
        if not close:
            bare = {full.partition("/")[2]: full for full in self}
            close = [bare[c] for c in difflib.get_close_matches(name, list(bare), n=3, cutoff=0.5)]
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Installed: {', '.join(self) or 'none'}."
        return f"No {singular} {name!r}. {hint} `sciml list` shows all names."


@dataclass(frozen=True)
class Installed:
    """One scan: entries by kind, plugins with their versions, and why other distributions could not be read."""

    entries: dict[str, dict[str, Entry]]
    plugins: dict[str, str]
    broken: dict[str, str]


@functools.cache
def installed() -> Installed:
    """Scan the metadata of all installed distributions once; `installed.cache_clear()` scans anew."""
    entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
    plugins: dict[str, str] = {}
    broken: dict[str, str] = {}
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name = place = str(getattr(distribution, "_path", "of unknown place"))
        try:
            text = distribution.read_text("entry_points.txt")
            if text is None or "sciml." not in text:
                continue
            declared = dict(distribution.metadata or {})
            if not declared.get("Name") or not declared.get("Version"):
                raise ValueError("its metadata lack the name or the version")
            name, version = normalize(declared["Name"]), declared["Version"]
            if name in seen:  # an earlier place on sys.path wins, as it does for imports
                continue
            seen.add(name)
            found = list(_parse(text, name, version))
        except (ConfigParserError, ValueError, TypeError, OSError) as error:
            if isinstance(error, UnicodeDecodeError) and b"sciml" not in error.object.replace(b"\0", b""):
                continue
            what = name if name != place else f"at {place}"
            broken[name] = f"the entry points of distribution {what} are malformed: {' '.join(str(error).split())}"
            continue
        for entry in found:
            entries[entry.kind][entry.name] = entry
            plugins[name] = version
    return Installed({kind: dict(sorted(found.items())) for kind, found in entries.items()}, plugins, broken)


def _parse(text: str, distribution: str, version: str) -> Iterator[Entry]:
    parser = ConfigParser(delimiters=("=",), interpolation=None, default_section="")
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names are case-sensitive
    parser.read_string(text)
    for kind in KINDS:
        if not parser.has_section(f"sciml.{kind}"):
            continue
        for name, value in parser.items(f"sciml.{kind}"):
            match = _REFERENCE.match(value)
            if match is None:
                raise ValueError(f"{name} = {value!r} is not of the form module:attribute")
            yield Entry(kind, f"{distribution}/{name}", match["module"], match["attribute"], distribution, version)


def normalize(name: str) -> str:
    """Distribution name in the normal form of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def own_version() -> str:
    """Version of the installed `sciml-core`, which all SciML distributions share."""
    return metadata.version("sciml-core")


models = Registry("models")
optimizers = Registry("optimizers")
problems = Registry("problems")
experiments = Registry("experiments")


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names of the registered models that match `pattern`, e.g. `"pnde/*"`."""
    return models.matching(pattern)


def list_optimizers(pattern: str = "*") -> list[str]:
    """Sorted names of the registered optimizers that match `pattern`."""
    return optimizers.matching(pattern)


def list_problems(pattern: str = "*") -> list[str]:
    """Sorted names of the registered problems that match `pattern`."""
    return problems.matching(pattern)


def list_experiments(pattern: str = "*") -> list[str]:
    """Sorted names of the registered experiments that match `pattern`."""
    return experiments.matching(pattern)
