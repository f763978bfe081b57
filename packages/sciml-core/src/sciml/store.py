"""Datasets on disk: one Zarr v3 store that is written chunk by chunk and knows which chunks are complete.

A store is an ordinary Zarr group, one Zarr chunk along the sample dimension per chunk of work. Its variable
`complete` (chunk size 1) marks the chunks that are written. Ragged datasets hold one group `chunks/<k>` each.
"""

import contextlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing

from sciml.errors import DataError

FORMAT = "sciml-data/1"
MARKS = "complete"
IDENTITY = ("problem", "config", "seed", "sample_dim", "chunk", "ragged")


def header(path: Path) -> dict[str, Any] | None:
    """Attributes of the store at `path`, or None if nothing is there yet.

    Raises
    ------
    DataError
        If there is something else at `path`.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    try:
        attributes = dict(zarr.open_group(str(path), mode="r", zarr_format=3).attrs)
    except Exception as error:
        raise DataError(f"{path} exists and is no data store ({error}): choose another path") from error
    if attributes.get("format") != FORMAT:
        raise DataError(f"{path} has the format {attributes.get('format')!r}; this version reads {FORMAT!r}")
    return attributes


def create(path: Path, attributes: Mapping[str, Any], first: xarray.Dataset) -> None:
    """Make the store with its first chunk; whenever this is killed, there is either no store or this one."""
    if used := {MARKS, "chunk"} & {*first.variables, *first.dims}:
        raise DataError(f"the name {used.pop()!r} is the store's own: rename the variable or dimension")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.new"
    shutil.rmtree(temporary, ignore_errors=True)
    n, chunk, dim = attributes["n"], attributes["chunk"], attributes["sample_dim"]
    if attributes["ragged"]:
        zarr.create_group(str(temporary), zarr_format=3, attributes=dict(attributes))
        _write_group(temporary, 0, first)
    else:
        data = first.isel({dim: slice(0, n)}).assign_attrs(attributes)
        encoding = {
            name: {"chunks": (chunk, *v.shape[1:]), "_FillValue": None} if dim in v.dims else {"_FillValue": None}
            for name, v in data.variables.items()
        }
        with _quiet():
            data.to_zarr(temporary, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    group = zarr.open_group(str(temporary), mode="r+")
    group.create_array(
        MARKS, shape=(_count(n, chunk),), chunks=(1,), dtype="uint8", fill_value=0, dimension_names=["chunk"]
    )
    _resize(group, dim, n, chunk)
    _mark(group, 0, 1)
    os.replace(temporary, path)


def extend(path: Path, attributes: Mapping[str, Any]) -> None:
    """Make the existing store ready for `attributes["n"]` samples, also after a kill in the midst of this.

    Raises
    ------
    DataError
        If the store is of another problem, configuration, seed or chunk, or holds more samples.
    """
    found = header(path) or {}
    differences = _differences(found, attributes)
    if differences:
        raise DataError(f"{path} holds other data: {'; '.join(differences)}. Choose another path, or delete it.")
    old, n, chunk, dim = found["n"], attributes["n"], found["chunk"], found["sample_dim"]
    if n < old:
        raise DataError(
            f"{path} is a store of {old} samples, more than the {n} asked for: its first {n} are the same, take "
            f"open_dataset(…).isel({dim}=slice({n})); or choose another path"
        )
    for left in [*path.glob("*.partial"), *path.glob("*/*.partial")]:  # of a killed writer
        left.unlink(missing_ok=True)
    group = zarr.open_group(str(path), mode="r+")
    if n > old:
        if old % chunk and not found["ragged"]:
            _mark(group, old // chunk, 0)  # this chunk was cut
        group.attrs["n"] = n  # from here on the store counts as incomplete
    _resize(group, dim, n, chunk)


def missing(path: Path) -> list[int]:
    """Numbers of the chunks that are not complete."""
    group = zarr.open_group(str(path), mode="r")
    attributes: Any = group.attrs
    needed = np.zeros(_count(attributes["n"], attributes["chunk"]), bool)
    marks = np.asarray(_array(group, MARKS)[:], bool)[: len(needed)]
    needed[: len(marks)] = marks
    return np.flatnonzero(~needed).tolist()


def write(path: Path, index: int, data: xarray.Dataset) -> None:
    """Write chunk `index` (whole; the last one is cut here), then mark it complete."""
    group = zarr.open_group(str(path), mode="r+")
    attributes: Any = group.attrs
    n, chunk, dim = attributes["n"], attributes["chunk"], attributes["sample_dim"]
    if attributes["ragged"]:
        _write_group(path, index, data)
    else:
        start, stop = index * chunk, min((index + 1) * chunk, n)
        data = data.drop_vars([name for name, v in data.variables.items() if dim not in v.dims])
        data = data.isel({dim: slice(0, stop - start)}).drop_attrs(deep=False)
        with _quiet():
            data.to_zarr(path, region={dim: slice(start, stop)}, consolidated=False, write_empty_chunks=True)
    _mark(group, index, 1)


def open_dataset(path: str | os.PathLike[str]) -> xarray.Dataset:
    """The finished dataset at `path`; values are read from disk when used, and only those that are used.

    In ragged datasets the shorter chunks are filled up with NaN (numbers without NaN: 0).

    Raises
    ------
    DataError
        If there is no store at `path`, or chunks of it are missing.
    """
    folder = Path(path)
    attributes = header(folder)
    if attributes is None:
        raise DataError(f"there is no data store at {folder}")
    n, chunk = attributes["n"], attributes["chunk"]
    if absent := missing(folder):
        raise DataError(
            f"{folder} is incomplete: {len(absent)} of {_count(n, chunk)} chunks are missing. Generate it again with "
            f"the same problem ({attributes['problem']} {attributes['config']}), n={n}, seed={attributes['seed']} and "
            f"out={str(folder)!r}: only these are computed."
        )
    with _quiet():
        if not attributes["ragged"]:
            data = _open(folder).drop_vars(MARKS)
            return data[sorted(data.data_vars, key=str)]  # not in the order of the directory
        parts = [_open(folder, f"chunks/{k}") for k in range(_count(n, chunk))]
    return join(parts, attributes)


def join(parts: Sequence[xarray.Dataset], attributes: Mapping[str, Any]) -> xarray.Dataset:
    """The chunks `parts` one after the other, the last one cut, read lazily."""
    n, chunk, dim = attributes["n"], attributes["chunk"], attributes["sample_dim"]
    variables: dict[Any, xarray.Variable] = {}
    for name, first in parts[0].variables.items():
        pieces = [part.variables[name] for part in parts]
        if dim in first.dims:
            array = indexing.LazilyIndexedArray(_Joined(pieces, n, chunk))
            variables[name] = xarray.Variable(first.dims, array, first.attrs)
        else:
            variables[name] = max(pieces, key=lambda piece: piece.size)  # along a ragged dimension: the longest
    coords = {name: variables.pop(name) for name in parts[0].coords}
    return xarray.Dataset(variables, coords, {**parts[0].attrs, **attributes})


def to_netcdf(dataset: xarray.Dataset, path: str | os.PathLike[str]) -> None:
    """Export a dataset that fits into memory as one NetCDF4 file, written atomically.

    Raises
    ------
    DataError
        If a variable or an attribute has no NetCDF form.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # a list of attributes would come back as an array, and an empty one not at all
    attributes = {k: json.dumps(v) if isinstance(v, list | bool) else v for k, v in dataset.attrs.items()}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        file = Path(folder) / target.name
        try:
            dataset.load().drop_encoding().assign_attrs(attributes).to_netcdf(file, engine="h5netcdf")
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{target}: this dataset cannot be written as NetCDF: {error}") from error
        os.replace(file, target)


class _Joined(BackendArray):
    """Variables of several chunks as one array, filled up where one is shorter than the longest."""

    def __init__(self, pieces: Sequence[xarray.Variable], n: int, chunk: int) -> None:
        self.pieces, self.chunk = pieces, chunk
        self.shape = (n, *np.max([piece.shape[1:] for piece in pieces], axis=0).astype(int).tolist())
        self.dtype = np.result_type(*[piece.dtype for piece in pieces])

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        chosen = np.arange(self.shape[0])[key[0]]
        rows = np.atleast_1d(chosen)
        result = np.full((len(rows), *self.shape[1:]), _fill_value(self.dtype), self.dtype)
        for k in np.unique(rows // self.chunk):
            here = np.flatnonzero(rows // self.chunk == k)
            part = self.pieces[k][rows[here] - k * self.chunk].values
            result[(here, *[slice(size) for size in part.shape[1:]])] = part
        for axis in range(len(key) - 1, 0, -1):
            result = result[(slice(None),) * axis + (key[axis],)]
        return result[0] if chosen.ndim == 0 else result


def _fill_value(dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "fc":
        return np.nan
    return {"m": np.timedelta64("NaT"), "M": np.datetime64("NaT"), "O": "", "U": "", "T": ""}.get(dtype.kind, 0)


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    lines = []
    for key in IDENTITY:
        old, new = found.get(key), expected[key]
        if old == new:
            continue
        if key == "config" and found.get("problem") == expected["problem"]:
            before, now = json.loads(old or "{}"), json.loads(new)
            names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
            lines += [f"{name} is {before.get(name)!r} there and {now.get(name)!r} here" for name in names]
        else:
            lines.append(f"{key} is {old!r} there and {new!r} here")
    return lines


def _write_group(path: Path, index: int, data: xarray.Dataset) -> None:
    encoding = {name: {"chunks": v.shape, "_FillValue": None} for name, v in data.variables.items() if v.size}
    with _quiet():
        data.to_zarr(path, group=f"chunks/{index}", mode="w", zarr_format=3, consolidated=False, encoding=encoding)


def _open(path: Path, group: str | None = None) -> xarray.Dataset:
    return xarray.open_zarr(path, group=group, consolidated=False, chunks=None)  # type: ignore[arg-type]


def _array(group: zarr.Group, name: str) -> Any:
    return group[name]


def _mark(group: zarr.Group, index: int, value: int) -> None:
    _array(group, MARKS)[index] = value


def _resize(group: zarr.Group, dim: str, n: int, chunk: int) -> None:
    for name, array in group.arrays():
        names: Any = getattr(array.metadata, "dimension_names", None) or ("",)
        length = {dim: n, "chunk": _count(n, chunk) if name == MARKS else None}.get(names[0] if names else "")
        if length is not None and array.shape[0] != length:
            array.resize((length, *array.shape[1:]))


def _count(n: int, chunk: int) -> int:
    return -(-n // chunk)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without zarr's warning that strings of fixed length have no final place in the Zarr v3 specification yet."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification")
        yield
