"""Branches in NetCDF files: written whole or not at all, read back bit by bit."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from sciml.errors import DataError

from mackeyglass.branch import Branch
from mackeyglass.collocation import Solution
from mackeyglass.continuation import State, Stepping
from mackeyglass.equation import DDE
from mackeyglass.floquet import Multipliers
from mackeyglass.growth import Special
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.mesh import Mesh

FORMAT, VERSION = "mackeyglass-branch", 3
OLDER = (2,)  # without the scale of the state, which was 1


def branch_dataset(branch: Branch) -> xarray.Dataset:
    """Everything that a branch is, in arrays over its points.

    Profiles are ``values`` (point, node, component) at the points ``mesh`` of scaled time; null vectors are their later
    components. ``multipliers`` (point, multiplier, part) are real and imaginary parts, NaN where there are fewer.
    """
    states = branch.states
    solutions = [state.solution for state in states]
    names = list(solutions[0].parameters)
    multipliers = np.full((len(states), max(len(m.values) for m in branch.multipliers), 2), np.nan)
    for row, m in zip(multipliers, branch.multipliers, strict=True):  # coarse meshes resolve fewer at some points
        row[: len(m.values)] = np.stack([np.real(m.values), np.imag(m.values)], axis=-1)
    trivial = np.array([[m.trivial.real, m.trivial.imag] for m in branch.multipliers])
    variables = {
        "knots": (("point", "knot"), np.stack([s.mesh.knots for s in solutions])),
        "mesh": (("point", "node"), np.stack([s.mesh.points for s in solutions])),
        "values": (("point", "node", "component"), np.stack([s.values for s in solutions])),
        "period": (("point",), np.array([s.period for s in solutions])),
        "extras": (("point", "extra"), np.array([s.extras for s in solutions]).reshape(len(solutions), -1)),
        "parameters": (("point", "parameter"), np.array([list(s.parameters.values()) for s in solutions])),
        "tangent": (("point", "unknown"), np.stack([state.tangent for state in states])),
        "ds": (("point",), np.array([state.ds for state in states])),
        "age": (("point",), np.array([state.age for state in states])),
        "multipliers": (("point", "multiplier", "part"), multipliers),
        "trivial": (("point", "part"), trivial),
        "unstable": (("point",), branch.unstable),
    }
    system = branch.system
    header = {
        "equation": type(system).__name__,
        "delays": list(system.delays),
        "dim": system.dim,
        "kind": branch.kind,
        "free": list(branch.free),
        "bounds": {name: list(bounds) for name, bounds in branch.bounds.items()},
        "stepping": [branch.stepping.ds, branch.stepping.ds_max, branch.stepping.adapt_every, branch.stepping.scale],
        "detect": list(branch.detect),
        "special": [[s.kind, s.index, dict(s.parameters)] for s in branch.special],
        "degree": solutions[0].mesh.degree,
        "stop_reason": branch.stop_reason,
    }
    attributes = {"format": FORMAT, "version": VERSION, "branch": json.dumps(header)}
    data = xarray.Dataset(variables, {"parameter": names}, attributes)
    return data.assign_attrs(sha256=checksum(data))


def checksum(data: xarray.Dataset) -> str:
    """SHA-256 of all that `branch_dataset` writes: names, dimensions and contents of arrays, and the header."""
    digest = hashlib.sha256(data.attrs["branch"].encode())
    digest.update(json.dumps([str(name) for name in data["parameter"].values]).encode())
    for name in sorted(map(str, data.data_vars)):
        array = data[name]
        digest.update(json.dumps([name, list(array.dims), list(array.shape), array.dtype.str]).encode())
        digest.update(np.ascontiguousarray(array.values).tobytes())
    return digest.hexdigest()


def load_branch(path: str | os.PathLike[str], system: DDE | None = None) -> Branch:
    """Read a branch, for continuing it as if it had never ended.

    Parameters
    ----------
    system
        The equation, of which a file knows only the form; not needed for the Mackey–Glass equation.

    Raises
    ------
    DataError
        If the file is missing, corrupt, of another version, or of another equation.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; branches are written by Branch.save")
    try:
        with xarray.open_dataset(path, engine="h5netcdf") as stored:
            data = stored.load()
    except Exception as error:  # whatever a damaged file makes h5netcdf raise
        raise DataError(f"{path}: not a branch, or damaged ({error}); compute it anew") from error
    return branch_from_dataset(data, system, name=str(path))


def branch_from_dataset(data: xarray.Dataset, system: DDE | None = None, *, name: str = "this dataset") -> Branch:
    """The branch of which `branch_dataset` made a dataset; `system` as in `load_branch`.

    Raises
    ------
    DataError
        If there is something else in it, its checksum is wrong, or it is a branch of another version or equation;
        `name` is how it is called then.
    """
    found = data.attrs.get("format"), data.attrs.get("version")
    if found[0] != FORMAT or found[1] not in (VERSION, *OLDER):
        raise DataError(
            f"{name}: format and version are {found}, this program reads {(FORMAT, VERSION)}; compute the branch anew"
        )
    try:
        intact = data.attrs["sha256"] == checksum(data)
    except Exception as error:  # whatever wrong or missing contents make it raise
        raise DataError(f"{name}: not a branch, or damaged ({error!r}); compute it anew") from error
    if not intact:
        raise DataError(
            f"{name}: damaged or edited, its contents do not have the checksum that was written with them; compute the "
            "branch anew, or take a copy"
        )
    try:
        header = json.loads(data.attrs["branch"])
        return _branch(data, header, _system(name, header, data, system))
    except DataError:
        raise
    except Exception as error:  # whatever wrong contents make json or the constructors raise
        raise DataError(f"{name}: not a branch, or damaged ({error}); compute it anew") from error


def _branch(data: xarray.Dataset, header: dict[str, Any], system: DDE) -> Branch:
    names = [str(name) for name in data["parameter"].values]
    arrays = {name: data[name].values for name in data.data_vars}
    meshes: dict[bytes, Mesh] = {}
    states, multipliers = [], []
    for index in range(data.sizes["point"]):
        knots = arrays["knots"][index]
        mesh = meshes.setdefault(knots.tobytes(), Mesh(knots, header["degree"]))
        solution = Solution(
            mesh,
            arrays["values"][index],
            float(arrays["period"][index]),
            tuple(arrays["extras"][index].tolist()),
            dict(zip(names, arrays["parameters"][index].tolist(), strict=True)),
        )
        states.append(State(solution, arrays["tangent"][index], float(arrays["ds"][index]), int(arrays["age"][index])))
        parts = arrays["multipliers"][index]
        parts = parts[~np.isnan(parts[:, 0])]
        multipliers.append(Multipliers(parts[:, 0] + 1j * parts[:, 1], complex(*arrays["trivial"][index])))
    return Branch(
        header["kind"],
        system,
        tuple(header["free"]),
        {name: (low, high) for name, (low, high) in header["bounds"].items()},
        Stepping(*header["stepping"]),
        tuple(header["detect"]),
        states,
        multipliers,
        [Special(kind, index, values) for kind, index, values in header["special"]],
        header["stop_reason"],
    )


def _system(source: str, header: dict[str, Any], data: xarray.Dataset, system: DDE | None) -> DDE:
    names = [str(name) for name in data["parameter"].values]
    if system is None:
        if header["equation"] != MackeyGlass.__name__:
            raise DataError(f"{source} is a branch of a general equation: give it as system=DDE(…)")
        system = MackeyGlass()
    form = [list(system.delays), system.dim, list(system.parameters)]
    if form != [header["delays"], header["dim"], names]:
        raise DataError(
            f"{source} is a branch of an equation with delays {header['delays']}, {header['dim']} components and the "
            f"parameters {names}; the given one has {form[0]}, {form[1]} and {form[2]}"
        )
    return system.with_parameters(**dict(zip(names, data["parameters"].values[0].tolist(), strict=True)))
