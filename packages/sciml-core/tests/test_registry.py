"""The registry reads metadata only, resolves names, and isolates broken distributions."""

import subprocess
import sys
from pathlib import Path

import pytest
import sciml
from sciml.errors import PluginLoadError, UnknownNameError
from sciml.registry import installed


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Add distributions to a fresh place on the path: site(name, entry_points_text)."""

    def add(name: str, entry_points: str) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        installed.cache_clear()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield add
    installed.cache_clear()


def test_names_are_prefixed_with_the_normalized_distribution(site):
    site("My_Plugin", "[sciml.models]\nthing = json:loads\n")
    assert "my-plugin/thing" in sciml.list_models("my-plugin/*")
    assert sciml.models["my-plugin/thing"].load() is __import__("json").loads


def test_bare_name_resolves_where_unique_and_is_refused_where_not(site):
    site("first", "[sciml.models]\nalone = json:loads\nshared = json:loads\n")
    site("second", "[sciml.models]\nshared = json:loads\n")
    assert sciml.models["alone"].name == "first/alone"
    with pytest.raises(UnknownNameError, match="ambiguous; write one of first/shared, second/shared"):
        sciml.models["shared"]


def test_unknown_name_suggests_and_unknown_plugin_says_what_to_install(site):
    site("first", "[sciml.models]\npendulum = json:loads\n")
    with pytest.raises(UnknownNameError, match="Did you mean first/pendulum"):
        sciml.models["firts/pendulum"]
    with pytest.raises(UnknownNameError, match="Did you mean first/pendulum"):
        sciml.models["first/pendulun"]
    version = sciml.registry.own_version()
    with pytest.raises(UnknownNameError) as caught:
        sciml.models["noble/noble"]
    assert f'pip install "sciml[noble]=={version}"' in str(caught.value)


def test_a_reference_may_name_extras(site):
    site("first", "[sciml.models]\nthing = json:loads [fast, more]\n")
    assert sciml.models["first/thing"].load() is __import__("json").loads


def test_undecodable_entry_points_and_missing_metadata_are_the_distributions_own_problem(site, tmp_path):
    site("healthy", "[sciml.problems]\nfine = json:loads\n")
    for name in ("utf16", "other"):
        site(name, "")
    (tmp_path / "utf16-1.0.dist-info/entry_points.txt").write_bytes("[sciml.models]\nx = a:b\n".encode("utf-16"))
    (tmp_path / "other-1.0.dist-info/entry_points.txt").write_bytes("[console_scripts]\nx = a:b\n".encode("utf-16"))
    for name, text in (("nameless", None), ("versionless", "Metadata-Version: 2.1\nName: versionless\n")):
        site(name, "[sciml.models]\nx = json:loads\n")
        metadata = tmp_path / f"{name}-1.0.dist-info/METADATA"
        metadata.unlink() if text is None else metadata.write_text(text)
    installed.cache_clear()
    assert "healthy/fine" in sciml.list_problems()
    broken = installed().broken
    assert sorted(Path(place).name.partition("-")[0] for place in broken) == ["nameless", "utf16", "versionless"]
    assert all("malformed" in reason for reason in broken.values())


@pytest.mark.parametrize(
    "text", ["[sciml.models\nx = a:b\n", "[sciml.models]\nx = not a reference\n", "x = sciml.models\n"]
)
def test_malformed_entry_points_hide_nothing_but_themselves(site, text):
    site("broken", text)
    site("healthy", "[sciml.problems]\nfine = json:loads\n")
    assert "healthy/fine" in sciml.list_problems()
    assert list(installed().broken) == ["broken"]
    with pytest.raises(UnknownNameError, match="broken are malformed"):
        sciml.models["broken/x"]


def test_import_failure_names_distribution_and_cause(site):
    site("gone", "[sciml.models]\nx = no_such_module_anywhere:X\n")
    with pytest.raises(PluginLoadError, match=r"distribution gone 1\.0 failed with ModuleNotFoundError"):
        sciml.models["gone/x"].load()


@pytest.mark.parametrize("statement", ["import sciml", "import sciml; sciml.list_models()", "import sciml.cli"])
def test_listing_imports_neither_torch_nor_xarray_nor_a_plugin(statement):
    code = (
        f"{statement}; import sys; from sciml.registry import installed; "
        "plugins = {name.replace('-', '_') for name in installed().plugins}; "
        "print(sorted({'torch', 'xarray', 'numpy', *plugins} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_experiments_begin_without_what_trains_on_several_devices():
    """Those imports take longer than torch's own."""
    code = (
        "import sciml.experiment, sys; from sciml.runtime import Runtime; assert Runtime('cpu').device.type == 'cpu'; "
        "print(sorted({'lightning_fabric', 'torch._dynamo', 'torch.distributed.tensor'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
