"""Beside DDE-BIFTOOL: `python -m shared.bench.dde_biftool SOURCES`, where SOURCES is its folder.

The branch of 100 points from the Hopf point at τ = 2 with multipliers, its first period doubling, the fold that ends
the chaos and, if asked for, the curve of folds: by `mackeyglass` here and by DDE-BIFTOOL 3.1.1 or 3.2 under Octave, on
meshes of 50 intervals of degree 5 that both adapt, with exact derivatives; values beside values, times beside times.

Octave and DDE-BIFTOOL are not installed with this package and no test runs them: `side_by_side.m` follows the
interfaces of these versions, but has not been run yet. Everything around it is tested.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from mackeyglass import (
    Branch,
    MackeyGlass,
    Mesh,
    PeriodicOrbit,
    continue_bifurcation,
    continue_branch,
    hopf_points,
    locate,
)
from rich.console import Console
from rich.table import Table
from sciml.errors import ConfigError, DataError

FOLDERS = ("ddebiftool", "ddebiftool_utilities", "ddebiftool_extra_psol")
HOME = "https://sourceforge.net/projects/ddebiftool"
NEEDED = ("Hopf n", "branch seconds", "branch points", "fold n", "done")


def main(arguments: list[str] | None = None) -> None:
    """Both programs, and a table."""
    parser = argparse.ArgumentParser(prog="python -m shared.bench.dde_biftool", description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, help=f"folder of DDE-BIFTOOL, which has {', '.join(FOLDERS)}")
    parser.add_argument("--octave", default="octave", help="program to run it (default: octave)")
    parser.add_argument("--points", type=int, default=100, help="of the branch (default: 100)")
    parser.add_argument("--fold-points", type=int, default=0, help="of the curve of folds (default: 0, none)")
    options = parser.parse_args(arguments)
    try:
        octave = installed(options.sources, options.octave)
        if options.points < 4:
            raise ConfigError(f"points={options.points} must be at least 4: a branch is continued from two")
        with tempfile.TemporaryDirectory() as folder:
            start = Path(folder) / "orbit.csv"
            write_orbit(start, PeriodicOrbit.from_simulation(MackeyGlass(n=12.0, tau=2.0)).refined())
            theirs = run(octave, options.sources, start, options.points, options.fold_points)
        show(ours(options.points, options.fold_points), theirs)
    except (ConfigError, DataError) as error:
        sys.exit(str(error))


def installed(sources: Path, octave: str) -> str:
    """The path of Octave.

    Raises
    ------
    ConfigError
        If it or the sources are not there.
    """
    if not sources.is_dir():
        raise ConfigError(f"there is no folder {sources}: give that of DDE-BIFTOOL, unpacked ({HOME})")
    missing = [name for name in FOLDERS if not (sources / name).is_dir()]
    if missing:
        raise ConfigError(
            f"{sources} has no {', '.join(missing)}: give the folder of DDE-BIFTOOL 3.1.1 or 3.2 that has "
            f"{', '.join(FOLDERS)} in it ({HOME})"
        )
    found = shutil.which(octave)
    if found is None:
        raise ConfigError(f"there is no program {octave}: install GNU Octave, or give its path by --octave")
    return found


def write_orbit(path: Path, orbit: PeriodicOrbit) -> None:
    """Period and degree, then mesh and profile, on the equidistant points within intervals that DDE-BIFTOOL stores."""
    mesh: Mesh = orbit.solution.mesh
    within = np.arange(mesh.degree) / mesh.degree
    times = np.append((mesh.knots[:-1, None] + mesh.steps[:, None] * within).ravel(), 1.0)
    rows = np.stack([times, orbit.profile(times * orbit.period)[:, 0]], 1)
    np.savetxt(path, np.concatenate([[[orbit.period, mesh.degree]], rows]), fmt="%.17g", delimiter=",")


def run(octave: str, sources: Path, start: Path, points: int, fold_points: int) -> dict[str, float]:
    """The results of DDE-BIFTOOL by name.

    Raises
    ------
    DataError
        If it fails, with what it said.
    """
    here = Path(__file__).parent
    paths = (str(path.resolve()).replace("'", "''") for path in (sources, start))
    call = "side_by_side('{}', '{}', {}, {})".format(*paths, points, fold_points)
    command = [octave, "--no-gui", "--no-init-file", "--quiet", "--path", str(here), "--eval", call]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-10:])
        raise DataError(f"{octave} ended with code {done.returncode}; its last lines:\n{said}")
    return parse(done.stdout)


def parse(output: str) -> dict[str, float]:
    """Numbers of the lines "RESULT name = value" among whatever else was printed.

    Raises
    ------
    DataError
        If a value is no number or one that is always printed is missing.
    """
    found = {}
    for name, value in re.findall(r"^RESULT (.+?) = (.*?)\s*$", output, re.MULTILINE):
        try:
            found[name] = float(value)
        except ValueError:
            raise DataError(f"the result {name!r} of DDE-BIFTOOL is no number: {value!r}") from None
    missing = [name for name in NEEDED if name not in found]
    if missing:
        said = "\n".join(output.strip().splitlines()[-10:])
        raise DataError(f"DDE-BIFTOOL printed no {', '.join(missing)}; its last lines:\n{said}")
    return found


def ours(points: int, fold_points: int) -> dict[str, float]:
    """The same by `mackeyglass`, which computes multipliers along with each point."""
    hopf = hopf_points(MackeyGlass(tau=2.0))[0]
    found = {"Hopf n": float(hopf.parameters["n"])}
    started = time.perf_counter()
    start = PeriodicOrbit.from_hopf(hopf, "n")
    branch = continue_branch(start, "n", (5, 20), ds=0.05, ds_max=0.16, max_steps=points - 1)
    found |= {"branch seconds": time.perf_counter() - started, "branch points": float(len(branch))}
    found["branch last n"] = float(branch["n"][-1])
    doubling = next((special for special in branch.special if special.kind == "PD"), None)
    if doubling is not None:
        started = time.perf_counter()
        found["PD1 n"] = float(locate(branch, doubling).parameters["n"])
        found["PD1 seconds"] = time.perf_counter() - started
    return found | _folds(fold_points)


def _folds(points: int) -> dict[str, float]:
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=12.0, tau=2.0)).refined()
    branch: Branch = continue_branch(orbit, "n", (10, 13), direction=-1, max_steps=20, detect=["LP"])
    started = time.perf_counter()
    fold = locate(branch, branch.special[0])
    found = {"fold n": float(fold.parameters["n"]), "fold seconds": time.perf_counter() - started}
    if points:
        started = time.perf_counter()
        bounds = {"n": (8, 26), "tau": (1, 4)}
        curve = continue_bifurcation(fold, ("n", "tau"), bounds, direction=-1, ds_max=0.1, max_steps=points - 1)
        found |= {"fold curve seconds": time.perf_counter() - started, "fold curve points": float(len(curve))}
    return found


def show(ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Values with their difference, times with their ratio; times of DDE-BIFTOOL are those with multipliers."""
    theirs = dict(theirs)
    theirs["branch seconds"] += theirs.pop("multipliers seconds", 0.0)
    if "fold curve seconds" in theirs:
        theirs["fold curve seconds"] += theirs.pop("fold curve multipliers seconds", 0.0)
    table = Table("", "mackeyglass", "DDE-BIFTOOL", "difference or ratio", title="beside DDE-BIFTOOL")
    for name in [name for name in theirs if name != "done"]:
        own, other = ours.get(name), theirs[name]
        digits = ".3g" if name.endswith("seconds") else ".10g"
        last = "" if own is None else f"× {other / own:.3g}" if name.endswith("seconds") else f"{other - own:.1e}"
        table.add_row(name, "–" if own is None else f"{own:{digits}}", f"{other:{digits}}", last)
    Console().print(table)


if __name__ == "__main__":
    main()
