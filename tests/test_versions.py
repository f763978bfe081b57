"""All distributions carry one version, and pin each other to it exactly."""

import itertools
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECTS = {
    project["name"]: project
    for path in [
        ROOT / "pyproject.toml",
        *ROOT.glob("packages/*/pyproject.toml"),
        ROOT / "shared/testkit/pyproject.toml",
    ]
    for project in [tomllib.loads(path.read_text())["project"]]
}


def test_all_versions_agree():
    assert len({project["version"] for project in PROJECTS.values()}) == 1


def test_pins_between_our_distributions_are_exact():
    version = PROJECTS["sciml"]["version"]
    for name, project in PROJECTS.items():
        extras = project.get("optional-dependencies", {}).values()
        requirements = [*project.get("dependencies", []), *itertools.chain.from_iterable(extras)]
        for requirement in requirements:
            match = re.match(r"[A-Za-z0-9-]+", requirement)
            if match and match[0] in PROJECTS and match[0] != "sciml":
                assert requirement.endswith(f"=={version}"), f"{name} requires {requirement}"


def test_every_plugin_is_an_extra_of_the_meta_distribution():
    plugins = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")} - {"sciml-core"}
    extras = PROJECTS["sciml"]["optional-dependencies"]
    assert set(extras) == plugins | {"all"}
    assert extras["all"] == [f"sciml[{','.join(sorted(plugins))}]"]
