"""The benchmark beside DDE-BIFTOOL, but for what DDE-BIFTOOL computes: a program in the place of Octave prints it."""

import importlib.util
import stat
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from mackeyglass import MackeyGlass, PeriodicOrbit
from sciml.errors import ConfigError, DataError

FOLDER = Path(__file__).parents[1] / "shared/bench/dde_biftool"
PRINTED = {
    "Hopf n": 5.0396051,
    "branch seconds": 90.0,
    "multipliers seconds": 10.0,
    "branch points": 100.0,
    "branch last n": 14.5,
    "PD1 n": 7.3959269,
    "fold n": 11.2148465,
    "done": 1.0,
}
MEASURED = {"Hopf n": 5.03960512, "branch seconds": 1.0, "branch points": 101.0, "fold n": 11.21484654}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dde_biftool_bench", FOLDER / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Folders named like those of DDE-BIFTOOL, in a path with a quote."""
    folder = tmp_path / "dde's"
    for name in ("ddebiftool", "ddebiftool_utilities", "ddebiftool_extra_psol"):
        (folder / name).mkdir(parents=True)
    return folder


def octave(folder: Path, code: str) -> str:
    """A program in the place of Octave, in a folder that is not on the path."""
    program = folder / "octave"
    program.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    return str(program)


def lines(results: dict[str, float]) -> str:
    return "".join(f"RESULT {name} = {value:.15g}\n" for name, value in results.items())


def test_missing_programs_and_sources_are_explained(bench, sources, tmp_path):
    here = octave(tmp_path, "")
    assert bench.installed(sources, here) == here
    with pytest.raises(ConfigError, match=r"no folder .*nowhere: give that of DDE-BIFTOOL"):
        bench.installed(tmp_path / "nowhere", here)
    with pytest.raises(ConfigError, match=r"has no ddebiftool, ddebiftool_utilities, ddebiftool_extra_psol: give the"):
        bench.installed(tmp_path, here)
    with pytest.raises(ConfigError, match=r"no program .*octave-of-none: install GNU Octave, or .*--octave"):
        bench.installed(sources, str(tmp_path / "octave-of-none"))


def test_command_line_ends_with_the_message(bench, tmp_path):
    with pytest.raises(SystemExit, match="there is no folder"):
        bench.main([str(tmp_path / "nowhere")])


def test_results_are_read_among_other_output(bench):
    text = "BR_CONTN warning: boundary hit.\n" + lines(PRINTED) + "it=1, res=1e-9\n"
    assert bench.parse(text) == PRINTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("warning: use of nonsquare Jacobian\n", r"printed no Hopf n, branch seconds.*\n.*nonsquare"),
        (lines({k: v for k, v in PRINTED.items() if k != "done"}), "printed no done"),
        (lines(PRINTED) + "RESULT PD1 n = [](0x0)\n", r"'PD1 n' of DDE-BIFTOOL is no number: '\[\]\(0x0\)'"),
    ],
)
def test_output_without_results_is_an_error(bench, text, message):
    with pytest.raises(DataError, match=message):
        bench.parse(text)


def test_octave_is_called_with_the_sources_and_its_failure_is_shown(bench, sources, tmp_path):
    start = tmp_path / "orbit.csv"
    arguments = tmp_path / "arguments"
    keep = f"open({str(arguments)!r}, 'w').write('|'.join(sys.argv[1:]))"
    program = octave(tmp_path, f"{keep}\nprint({lines(PRINTED)!r})")
    assert bench.run(program, sources, start, 100, 5) == PRINTED
    *_, path, _, call = arguments.read_text().split("|")
    assert Path(path) == FOLDER
    quoted = str(sources.resolve()).replace("'", "''")
    assert call == f"side_by_side('{quoted}', '{start.resolve()}', 100, 5)"
    broken = octave(tmp_path, "sys.exit('error: DDE-BIFTOOL did not find the fold')")
    with pytest.raises(DataError, match=r"code 1; its last lines:\nerror: DDE-BIFTOOL did not find the fold"):
        bench.run(broken, sources, start, 100, 0)


def test_start_is_the_orbit_on_the_points_of_the_other_program(bench, tmp_path):
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=7.0, tau=2.0))
    bench.write_orbit(tmp_path / "orbit.csv", orbit)
    table = np.loadtxt(tmp_path / "orbit.csv", delimiter=",")
    mesh, degree = orbit.solution.mesh, orbit.solution.mesh.degree
    np.testing.assert_array_equal(table[0], [orbit.period, degree])
    times, profile = table[1:].T
    np.testing.assert_allclose(times[::degree], mesh.knots, atol=1e-15)
    # equidistant within each interval
    np.testing.assert_allclose(
        np.diff(times).reshape(-1, degree), mesh.steps[:, None].repeat(degree, 1) / degree, rtol=1e-9
    )
    np.testing.assert_allclose(profile[::degree], orbit.solution.values[::degree, 0], rtol=1e-12)


def test_table_has_differences_and_ratios(bench, sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "ours", lambda points, fold_points: MEASURED)
    monkeypatch.setenv("COLUMNS", "120")
    bench.main([str(sources), "--octave", octave(tmp_path, f"print({lines(PRINTED)!r})"), "--points", "100"])
    shown = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.count("│") > 3}
    assert "× 100" in shown["branch seconds"]  # with the time of the multipliers
    assert f"{PRINTED['fold n'] - MEASURED['fold n']:.1e}" in shown["fold n"]
    assert "–" in shown["PD1 n"]
    assert not {"done", "multipliers seconds"} & set(shown)
