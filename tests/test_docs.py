"""The documentation builds without warnings, and its example plugin is built, installed and run as it is printed."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLE = DOCS / "examples/springs"

needs_sphinx = pytest.mark.skipif(
    importlib.util.find_spec("sphinx") is None, reason="sphinx is not installed (make setup)"
)


def sphinx(source: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build with warnings as errors, all of them reported."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", *options, source, out]
    return subprocess.run(command, capture_output=True, text=True)


def test_example_plugin_is_complete_in_60_lines_and_printed_whole():
    files = [path for path in EXAMPLE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(len(path.read_text().splitlines()) for path in files) <= 60
    printed = re.findall(r"\{literalinclude\} (\S+)", (DOCS / "write-a-plugin.md").read_text())
    assert {DOCS / name for name in printed} == set(files)


@pytest.fixture(scope="module")
def example(uv, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables with which the example plugin, installed from its wheel, is on the path."""
    folder = tmp_path_factory.mktemp("springs")
    uv("build", "--wheel", "--out-dir", folder / "dist", EXAMPLE)
    place = ["--no-index", "--find-links", folder / "dist", "--target", folder / "site", "--python", sys.executable]
    uv("pip", "install", "--no-deps", *place, "springs")
    return {**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}


def sciml(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "sciml", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_example_plugin_is_listed(example):
    shown = sciml(example, "list", "springs/*").split()
    assert shown == ["models:", "springs/shears", "problems:", "springs/spring", "experiments:", "springs/learn-spring"]
    assert "".join(shown) in "".join((DOCS / "write-a-plugin.md").read_text().split())


@pytest.mark.slow
def test_example_plugin_learns_its_spring(example, tmp_path):
    sciml(example, "run", "springs/learn-spring", "--device", "cpu", "--out", str(tmp_path / "run"))
    (metric,) = json.loads((tmp_path / "run/report.json").read_text())["metrics"]
    # a rotation is a product of three shears, so what is left is the optimizer's error
    assert metric["value"] < 1e-8


@pytest.mark.slow
def test_example_plugin_passes_the_conformance_suite_as_the_page_says(example, tmp_path):
    page = (DOCS / "write-a-plugin.md").read_text()
    (line,) = re.findall(r"^from sciml_testkit import conformance\n\n.*$", page, re.MULTILINE)
    (tmp_path / "test_conformance.py").write_text(line + "\n")
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, env=example, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert "15 passed, 1 skipped" in ran.stdout


@needs_sphinx
@pytest.mark.slow
def test_documentation_builds_without_warnings(tmp_path):
    ran = sphinx(DOCS, tmp_path / "html")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "html/reference/plugins/pnde.html").exists()


@needs_sphinx
@pytest.mark.slow
def test_failing_cell_fails_the_build_and_shows_its_traceback(tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    for name in ("conf.py", "generated_pages.py"):
        shutil.copy(DOCS / name, source)
    (source / "first-run.md").write_text("---\norphan: true\n---\n\n# What results link to\n")
    page = (
        "---\nfile_format: mystnb\nkernelspec: {name: python3}\norphan: true\n---\n\n# Page\n\n"
        "```{code-cell}\nPLANTED\n```\n\n```{toctree}\n:glob:\n**/*\n```\n"
    )
    without_reference = ("-D", "exclude_patterns=reference")  # which takes long
    (source / "index.md").write_text(page.replace("PLANTED", "1 + 1"))
    good = sphinx(source, tmp_path / "good", *without_reference)
    assert good.returncode == 0, good.stderr
    (source / "index.md").write_text(page.replace("PLANTED", "raise ValueError('planted')"))
    ran = sphinx(source, tmp_path / "html", *without_reference)
    assert ran.returncode != 0
    assert "ValueError" in ran.stderr
    assert "planted" in ran.stderr
    assert "No result has been committed yet" in (source / "results/index.md").read_text()
