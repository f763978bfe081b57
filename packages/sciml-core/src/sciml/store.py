"""Datasets on disk: one Zarr v3 store that is written chunk by chunk and knows which chunks are complete.

A store is an ordinary Zarr group, one Zarr chunk along the sample dimension per chunk of work. Its variable
`complete` (chunk size 1) marks the chunks that are written, `chunk_bytes` holds the size of their files: a file that
is lost or cut off later would else be read as fill values. Every file ends with its checksum, which is compared when it
is read; stores without are read as well. Ragged datasets hold one group `chunks/<k>` each.
"""

import contextlib
import json
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray
import zarr
from xarray.backends import BackendArray
from xarray.backends.zarr import ZarrArrayWrapper
from xarray.coders import CFDatetimeCoder, CFTimedeltaCoder
from xarray.conventions import encode_cf_variable
from xarray.core import indexing
from zarr.codecs import Crc32cCodec, ZstdCodec

from sciml.errors import DataError

FORMAT = "sciml-data/3"
MARKS, SIZES = "complete", "chunk_bytes"
COMPRESSORS = (ZstdCodec(), Crc32cCodec())
IDENTITY = ("problem", "config", "seed", "sample_dim", "chunk", "ragged")
TIME_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
EPOCH = " since 1970-01-01"

Layout = Mapping[Any, tuple[tuple[Any, ...], np.dtype[Any], tuple[int, ...]]]  # dimensions, type and shape by name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without zarr's warning that strings of fixed length have no final place in the Zarr v3 specification yet."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification")
        yield


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
        raise DataError(
            f"{path} has the format {attributes.get('format')!r}; this version reads {FORMAT!r}: choose another "
            "path, or delete it and generate it again"
        )
    return attributes


@_quiet()
def create(path: Path, attributes: Mapping[str, Any], first: xarray.Dataset) -> None:
    """Make the store with its first chunk; whenever this is killed, there is either no store or this one."""
    if used := {MARKS, SIZES, "chunk"} & {*first.variables, *first.dims}:
        raise DataError(f"the name {used.pop()!r} is the store's own: rename the variable or dimension")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.new"
    shutil.rmtree(temporary, ignore_errors=True)
    n, chunk, dim = attributes["samples"], attributes["chunk"], attributes["sample_dim"]
    if attributes["ragged"]:
        zarr.create_group(str(temporary), zarr_format=3, attributes=dict(attributes))
        _write_group(temporary, 0, first)
    else:
        data = _prepared(first.isel({dim: slice(0, n)}), dim, chunk).assign_attrs(attributes)
        with _writing(path):
            data.to_zarr(temporary, mode="w", zarr_format=3, consolidated=False, write_empty_chunks=True)
    group = zarr.open_group(str(temporary), mode="r+")
    for name, dtype in ((MARKS, "uint8"), (SIZES, "int64")):
        options: Any = {"fill_value": 0, "dimension_names": ["chunk"], "compressors": COMPRESSORS}
        group.create_array(name, shape=(_count(n, chunk),), chunks=(1,), dtype=dtype, **options)
    _resize(group, dim, n, chunk)
    _complete(temporary, group, 0)
    os.replace(temporary, path)


@_quiet()
def extend(path: Path, attributes: Mapping[str, Any]) -> None:
    """Make the existing store ready for `attributes["samples"]` samples, also after a kill in the midst of this.

    Raises
    ------
    DataError
        If the store is of another problem, configuration, seed or chunk, or holds more samples.
    """
    found = header(path) or {}
    differences = _differences(found, attributes)
    if differences:
        raise DataError(f"{path} holds other data: {'; '.join(differences)}. Choose another path, or delete it.")
    old, n, chunk, dim = found["samples"], attributes["samples"], found["chunk"], found["sample_dim"]
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
            _array(group, MARKS)[old // chunk] = 0  # this chunk was cut
        group.attrs["samples"] = n  # from here on the store counts as incomplete
    _resize(group, dim, n, chunk)


@_quiet()
def missing(path: Path) -> list[int]:
    """Numbers of the chunks that are not complete, or whose files are not those that were written.

    Raises
    ------
    DataError
        If the marks cannot be read.
    """
    group = zarr.open_group(str(path), mode="r")
    attributes: Any = group.attrs
    count = _count(attributes["samples"], attributes["chunk"])
    try:
        marks, sizes = np.asarray(_array(group, MARKS)[:count]), np.asarray(_array(group, SIZES)[:count])
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{path}: the marks of its complete chunks cannot be read ({type(error).__name__}: {error}). Delete its "
            f"folders {MARKS}/c and {SIZES}/c, then generate it again: all chunks are computed again."
        ) from error
    found = _bytes(path, group, [k for k in range(len(marks)) if marks[k]])
    return [k for k in range(count) if k not in found or found[k] != sizes[k]]


@_quiet()
def write(path: Path, index: int, data: xarray.Dataset) -> None:
    """Write chunk `index` (whole; the last one is cut here), then mark it complete.

    Raises
    ------
    DataError
        If its variables, dimensions, types or lengths are not those of the store.
    """
    with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk without file is a lost one
        group = zarr.open_group(str(path), mode="r+")
    attributes: Any = group.attrs
    n, chunk, dim = attributes["samples"], attributes["chunk"], attributes["sample_dim"]
    if attributes["ragged"]:
        if index and "chunks/0" in group:
            first: Any = group["chunks/0"]
            _compare(_layout_of_group(first), index, _layout(data), attributes)
        _write_group(path, index, data)
    else:
        _compare(_layout_of_group(group), index, _layout(data), attributes)
        start, stop = index * chunk, min((index + 1) * chunk, n)
        data = _prepared(data.isel({dim: slice(0, stop - start)}), dim, chunk)
        with _writing(path):
            for name, variable in data.variables.items():
                values = encode_cf_variable(variable.to_base_variable(), name=name).values
                if dim in variable.dims:
                    _array(group, str(name))[start:stop] = values
                elif index == 0:  # what is not along the samples belongs to the first chunk
                    _array(group, str(name))[...] = values
    _complete(path, group, index)


@_quiet()
def open_dataset(path: str | os.PathLike[str]) -> xarray.Dataset:
    """The finished dataset at `path`; values are read from disk when used, and only those that are used.

    In ragged datasets the shorter chunks are filled up with NaN (numbers without NaN: 0).

    Raises
    ------
    DataError
        If there is no store at `path`, or chunks of it are missing; when values are read, if their file is damaged.
    """
    folder = Path(path)
    attributes = header(folder)
    if attributes is None:
        raise DataError(f"there is no data store at {folder}")
    n, chunk = attributes["samples"], attributes["chunk"]
    if absent := missing(folder):
        raise DataError(
            f"{folder} is incomplete: {len(absent)} of {_count(n, chunk)} chunks are missing or damaged. Generate it "
            f"again with the same problem ({attributes['problem']} {attributes['config']}), n={n}, "
            f"seed={attributes['seed']} and out={str(folder)!r}: only these are computed."
        )
    if not attributes["ragged"]:
        data = _open(folder).drop_vars([MARKS, SIZES])
        return data[sorted(data.data_vars, key=str)]  # not in the order of the directory
    parts = [_open(folder, f"chunks/{k}") for k in range(_count(n, chunk))]
    return join(parts, attributes)


def join(parts: Sequence[xarray.Dataset], attributes: Mapping[str, Any]) -> xarray.Dataset:
    """The chunks `parts` one after the other, the last one cut, read lazily.

    Raises
    ------
    DataError
        If their variables, dimensions, types or lengths differ.
    """
    n, chunk, dim = attributes["samples"], attributes["chunk"], attributes["sample_dim"]
    for index, part in enumerate(parts):
        _compare(_layout(parts[0]), index, _layout(part), attributes)
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
    options: dict[str, Any] = {"mode": "w", "zarr_format": 3, "consolidated": False, "write_empty_chunks": True}
    with _writing(path):
        _prepared(data).to_zarr(path, group=f"chunks/{index}", **options)


def _prepared(data: xarray.Dataset, dim: str = "", chunk: int = 0) -> xarray.Dataset:
    """`data` with the encoding of the store: nothing is rounded, and every chunk has the same."""
    data = data.drop_encoding()
    for variable in data.variables.values():
        sizes = [chunk if d == dim else max(size, 1) for d, size in zip(variable.dims, variable.shape, strict=True)]
        encoding: dict[str, Any] = {"_FillValue": None, "compressors": COMPRESSORS}
        if sizes:
            encoding["chunks"] = tuple(sizes)
        if variable.dtype.kind in "mM":
            unit = TIME_UNITS[np.datetime_data(variable.dtype)[0]]
            encoding |= {"dtype": "int64", "units": unit}
            if variable.dtype.kind == "M":
                encoding |= {"units": unit + EPOCH, "calendar": "proleptic_gregorian"}
        variable.encoding = encoding
    return data


def _time_type(attributes: Mapping[str, Any]) -> np.dtype[Any] | None:
    """The numpy type of times that `_prepared` had encoded, None for all other variables."""
    if str(duration := attributes.get("dtype")).startswith("timedelta64"):
        return np.dtype(duration)
    unit, since, _ = str(attributes.get("units")).partition(EPOCH)
    short = {long: short for short, long in TIME_UNITS.items()}.get(unit)
    return np.dtype(f"datetime64[{short}]") if since and short and "calendar" in attributes else None


def _layout(data: xarray.Dataset) -> Layout:
    return {name: (v.dims, v.dtype, v.shape) for name, v in data.variables.items()}


def _layout_of_group(group: zarr.Group) -> Layout:
    return {
        name: (tuple(_dims(array)), _time_type(array.attrs) or array.dtype, array.shape)
        for name, array in group.arrays()
        if name not in (MARKS, SIZES)
    }


def _compare(first: Layout, index: int, data: Layout, attributes: Mapping[str, Any]) -> None:
    """Raise `DataError` unless chunk `index` fits to the first one."""

    def refuse(name: Any, difference: str, advice: str) -> None:
        raise DataError(
            f"{attributes['problem']}: chunk {index} does not fit to chunk 0: its variable {name!r} {difference}. "
            f"{advice}"
        )

    for name in {**first, **data}:
        if name not in data or name not in first:
            lacking = "is missing" if name not in data else "is new"
            refuse(name, lacking, "Return the same variables for every chunk (NaN for what is unknown).")
        (old_dims, old, old_shape), (dims, new, shape) = first[name], data[name]
        if dims != old_dims:
            refuse(name, f"has the dimensions {dims} instead of {old_dims}", "Return the same for every chunk.")
        strings = {old.kind, new.kind} <= {"O", "T"}
        shorter = old.kind == new.kind and old.kind in "SU" and new.itemsize <= old.itemsize
        if new != old and not strings and not shorter:
            refuse(name, f"is {new} instead of {old}", "Convert it with astype() to one type that holds all chunks.")
        for d, length, old_length in zip(dims, shape, old_shape, strict=True):
            if length != old_length and d != attributes["sample_dim"] and d not in attributes["ragged"]:
                refuse(name, f"has {d}={length} instead of {old_length}", f"If lengths differ, name {d!r} in `ragged`.")


def _open(path: Path, group: str | None = None) -> xarray.Dataset:
    opened: Any = zarr.open_group(str(path), path=group, mode="r")
    types = {name: _time_type(array.attrs) for name, array in opened.arrays()}
    units: dict[str, Any] = {name: np.datetime_data(t)[0] if t else None for name, t in types.items()}
    options: dict[str, Any] = {
        "decode_times": {name: CFDatetimeCoder(time_unit=unit) if unit else False for name, unit in units.items()},
        "decode_timedelta": {name: CFTimedeltaCoder(time_unit=unit) if unit else False for name, unit in units.items()},
    }
    folder = path if group is None else path / group
    with _reading(folder):
        data = xarray.open_zarr(folder, consolidated=False, chunks=None, mask_and_scale=False, **options)  # type: ignore[arg-type]
    for variable in data.variables.values():
        held: Any = variable._data
        while isinstance(inner := getattr(held, "array", None), indexing.ExplicitlyIndexed):
            if isinstance(inner, ZarrArrayWrapper):
                held.array = _Read(inner, folder)
                break
            held = inner
    return data


class _Read(BackendArray):
    """An array of the group `folder`, whose damaged files are named when they are read."""

    def __init__(self, array: Any, folder: Path) -> None:
        self.array, self.folder, self.shape, self.dtype = array, folder, array.shape, array.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        with _reading(self.folder):
            return self.array[key]


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if damaged := _damaged(folder):
            raise DataError(
                f"{len(damaged)} file(s) of the data store are damaged ({error}): delete "
                f"{', '.join(map(str, damaged))}; then generate the dataset again with the same problem, n, seed and "
                "out: only the chunks of these files are computed"
            ) from error
        raise


def _damaged(folder: Path) -> list[Path]:
    """Files of the group that cannot be decoded."""
    found: list[Path] = []
    for name, array in zarr.open_group(str(folder), mode="r").arrays():
        for block in np.ndindex(array.cdata_shape):
            try:
                _ = array.blocks[block] if block else array[...]
            except Exception:  # a codec's own
                found.append(folder / name / array.metadata.encode_chunk_key(block))
    return found


def _array(group: zarr.Group, name: str) -> Any:
    return group[name]


def _dims(array: Any) -> Sequence[str]:
    return getattr(array.metadata, "dimension_names", None) or ()


def _complete(path: Path, group: zarr.Group, index: int) -> None:
    _array(group, SIZES)[index] = _bytes(path, group, [index])[index]
    _array(group, MARKS)[index] = 1


def _bytes(path: Path, group: zarr.Group, indices: Sequence[int]) -> dict[int, int]:
    """What each of these chunks takes on disk; variables that are not along the samples belong to the first one."""
    attributes: Any = group.attrs
    if attributes["ragged"]:
        return {k: sum(_size(file) for file in (path / "chunks" / str(k)).rglob("*")) for k in indices}
    arrays = [(name, array) for name, array in group.arrays() if name not in (MARKS, SIZES) and array.size]
    along = {name: attributes["sample_dim"] in _dims(array) for name, array in arrays}
    result = {}
    for k in indices:
        blocks = [(name, array, (k if along[name] else 0,) + (0,) * (array.ndim - 1)) for name, array in arrays]
        result[k] = sum(
            _size(path / name / array.metadata.encode_chunk_key(block[: array.ndim]))
            for name, array, block in blocks
            if along[name] or k == 0
        )
    return result


def _size(file: Path) -> int:
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _resize(group: zarr.Group, dim: str, n: int, chunk: int) -> None:
    for name, array in group.arrays():
        names = _dims(array)
        length = {dim: n, "chunk": _count(n, chunk) if name in (MARKS, SIZES) else None}.get(names[0] if names else "")
        if length is not None and array.shape[0] != length:
            array.resize((length, *array.shape[1:]))


def _count(n: int, chunk: int) -> int:
    return -(-n // chunk)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{path}: the simulated dataset cannot be written as Zarr ({error}): use numbers, booleans, strings or "
            "times, and leave attributes that encode them (units of times, _FillValue, …) out"
        ) from error
