"""Each plugin, built as a wheel and installed alone beside the core, works; what is not installed is explained."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
MEMBERS = {
    path.parent.name: tomllib.loads(path.read_text())
    for path in sorted([*ROOT.glob("packages/*/pyproject.toml"), ROOT / "shared/testkit/pyproject.toml"])
}
PLUGINS = [name for name in MEMBERS if name not in ("sciml-core", "testkit")]
VERSION = MEMBERS["sciml-core"]["project"]["version"]


class Environment:
    """A virtual environment with nothing of the workspace in it, used from an empty directory."""

    def __init__(self, path: Path, uv: Callable[..., str]) -> None:
        self.path, self.python, self.uv = path, path / "bin/python", uv
        uv("venv", "--python", sys.executable, path)
        self.site = next(path.glob("lib/python*/site-packages"))

    def install(self, distribution: str, requirement: str, wheels: Path) -> None:
        """Third-party pins from the lock file, then `requirement` from our wheels alone."""
        pins = self.uv("export", "--frozen", "--package", distribution, "--no-emit-workspace", "--no-hashes", "--quiet")
        cuda = torch.version.cuda is not None
        kept = [line for line in pins.splitlines() if cuda or not re.match("nvidia-|cuda-|triton", line)]
        listed = self.path / "pins.txt"
        listed.write_text("\n".join(kept))
        self.uv("pip", "install", "--quiet", "--no-deps", "--python", self.python, "-r", listed)
        self.uv("pip", "install", "--quiet", "--no-index", "--find-links", wheels, "--python", self.python, requirement)
        self.take_bytecode()

    def take_bytecode(self) -> None:
        """Link the bytecode of the packages here, which Python takes for sources of the same time and size."""
        ours = Path(sysconfig.get_path("purelib"))

        def link(source: str, target: str) -> None:
            try:
                os.link(source, target)
            except OSError:  # another file system
                shutil.copy2(source, target)

        for folder, inner, _ in os.walk(self.site):
            compiled = ours / Path(folder).relative_to(self.site) / "__pycache__"
            if compiled.is_dir() and "__pycache__" not in inner:
                shutil.copytree(compiled, Path(folder) / "__pycache__", copy_function=link)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "COV_"))}
        program = [str(self.path / "bin" / command[0]), *command[1:]]
        return subprocess.run(program, capture_output=True, text=True, cwd=self.path, env=kept)


@pytest.fixture(scope="session")
def wheels(uv, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    uv("build", "--quiet", "--all-packages", "--wheel", "--out-dir", folder)
    return folder


@pytest.fixture(scope="session")
def core(uv, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("core") / "venv", uv)
    environment.install("sciml-core", "sciml-core", wheels)
    return environment


@pytest.fixture(scope="session", params=PLUGINS)
def alone(uv, request: pytest.FixtureRequest, wheels: Path, tmp_path_factory: pytest.TempPathFactory):
    """A plugin's name, and the environment that `pip install sciml[plugin]` makes."""
    environment = Environment(tmp_path_factory.mktemp(request.param) / "venv", uv)
    environment.install(request.param, f"sciml[{request.param}]=={VERSION}", wheels)
    return request.param, environment


def listed(environment: Environment) -> set[str]:
    """Distributions that have a name in `sciml list`."""
    ran = environment.run("sciml", "list")
    assert ran.returncode == 0, ran.stderr
    return {line.strip().partition("/")[0] for line in ran.stdout.splitlines() if line.startswith("  ")}


def test_wheels_carry_types_and_licence(wheels):
    built = list(wheels.glob("*.whl"))
    assert len(built) == len(MEMBERS) + 1
    for wheel in built:
        names = zipfile.ZipFile(wheel).namelist()
        assert any(name.endswith("/licenses/LICENSE") for name in names), wheel.name
        if not wheel.name.startswith("sciml-"):
            assert any(name.endswith("/py.typed") for name in names), wheel.name


def test_meta_distribution_has_no_code(wheels):
    names = zipfile.ZipFile(next(wheels.glob("sciml-*.whl"))).namelist()
    assert all(".dist-info/" in name for name in names)


@pytest.mark.slow
def test_core_works_without_any_plugin(core):
    assert core.run("python", "-c", "import sciml; assert sciml.list_models() == []").returncode == 0
    assert "No plugin is installed" in core.run("sciml", "list").stdout


@pytest.mark.slow
def test_missing_plugin_says_what_to_install(core):
    ran = core.run("sciml", "run", "noble/pvalb")
    assert ran.returncode == 2
    assert f'pip install "sciml[noble]=={VERSION}"' in ran.stderr
    ran = core.run("python", "-c", "import sciml; sciml.create_model('noble/noble')")
    assert f'pip install "sciml[noble]=={VERSION}"' in ran.stderr


@pytest.mark.slow
def test_plugin_alone_lists_itself_and_nothing_else(alone):
    name, environment = alone
    declared = [re.match(r"[\w-]+", line) for line in MEMBERS[name]["project"]["dependencies"]]
    assert {name} <= listed(environment) <= {name, *[match[0] for match in declared if match]}


@pytest.mark.slow
def test_everything_of_a_plugin_imports_when_it_is_alone(alone):
    name, environment = alone
    code = """
import importlib, pkgutil, sys
import sciml
from sciml.registry import installed
for package in ("sciml", sys.argv[1]):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
for entries in installed().entries.values():
    for entry in entries.values():
        entry.load()
"""
    ran = environment.run("python", "-c", code, import_name(name))
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("alone", ["pnde"], indirect=True)  # the others run in their own packages
def test_installed_experiment_runs_from_its_wheel(alone):
    _, environment = alone
    ran = environment.run("sciml", "run", "pnde/double-pendulum", "--preset", "smoke", "--out", "run")
    assert ran.returncode == 0, ran.stderr
    assert (environment.path / "run/report.html").exists()
    assert '"commit": "a release"' in (environment.path / "run/environment.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("alone", ["pnde"], indirect=True)  # one environment shows it
@pytest.mark.parametrize("text", ["[sciml.models\nx = a:b\n", "[sciml.models]\nx = not a reference\n", "\0\1[[["])
def test_malformed_third_distribution_hides_nothing_but_itself(alone, text):
    _, environment = alone
    before = listed(environment)
    info = environment.site / "stranger-1.0.dist-info"
    info.mkdir()
    try:
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"# sciml.models\n{text}")
        assert listed(environment) == before
        assert "distribution stranger are malformed" in environment.run("sciml", "list").stderr
        assert environment.run("python", "-c", "import sciml; sciml.list_models()").returncode == 0
    finally:
        shutil.rmtree(info)


def import_name(distribution: str) -> str:
    return "sciml_testkit" if distribution == "testkit" else distribution.replace("-", "_").removesuffix("_core")


@pytest.mark.parametrize("command", ["import sciml", "from sciml.cli import main; sys.argv[1:] = ['list']; main()"])
def test_listing_imports_neither_torch_nor_arrays_nor_plugins(command):
    heavy = {"torch", "xarray", "numpy", *map(import_name, PLUGINS)}
    code = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {command}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0
    assert "sciml" in ran.stderr.split()
    assert not heavy & set(ran.stderr.split())


@pytest.mark.parametrize("member", MEMBERS)
def test_only_declared_distributions_are_imported(member):
    folder = ROOT / ("shared/testkit" if member == "testkit" else f"packages/{member}")
    project = MEMBERS[member]["project"]
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    declared = {normal(line) for line in [*project["dependencies"], *extras]} | {normal(project["name"])}
    # an editable installation does not say what it provides
    providers = metadata.packages_distributions() | {
        import_name(name): [MEMBERS[name]["project"]["name"]] for name in MEMBERS
    }
    undeclared = set()
    for path in sorted(folder.glob("src/**/*.py")):
        for module in imported(ast.parse(path.read_text())):
            if module in sys.stdlib_module_names or module == import_name(member):
                continue
            # an extra that is not installed here is imported by the name that it is declared by
            sources = {normal(name) for name in providers.get(module, [module])}
            if not sources & declared:
                undeclared.add(f"{path.relative_to(folder)} imports {module}")
    assert not undeclared


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all absolute imports, those inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def normal(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""
