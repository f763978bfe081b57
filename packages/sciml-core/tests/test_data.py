import importlib
import json
import multiprocessing
import os
import shutil
import sys
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
import xarray
import zarr
from sciml.data import (
    ArrayDataset,
    BatchLoader,
    Normalizer,
    Problem,
    epoch_order,
    generate,
    open_dataset,
    to_netcdf,
)
from sciml.errors import ConfigError, DataError, ShapeError
from sciml.executors import get_executor

IMPORTABLE = Path(__file__).parent / "importable"
sys.path.insert(0, str(IMPORTABLE))

from sciml_test_problems import Big, Cloud, Deadly, Failing, Threads, Walk  # noqa: E402  # pyright: ignore

kill_at_every_rename = importlib.import_module("sciml_test_kills").kill_at_every_rename
multiprocessing.set_forkserver_preload(["dask.array", "distributed", "sciml.data"])  # what worker processes begin with


def assert_same_bytes(a: xarray.Dataset, b: xarray.Dataset) -> None:
    xarray.testing.assert_identical(a.load(), b.load())
    for name in a.variables:
        assert a[name].values.tobytes() == b[name].values.tobytes(), name


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "chunks.log"
    monkeypatch.setenv("WALK_LOG", str(path))

    def chunks() -> list[int]:
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return sorted(map(int, text.split()))

    return chunks


# Problems


def test_a_problem_is_a_frozen_dataclass_with_defaults():
    class Bare(Problem):
        pass

    @dataclass
    class Thawed(Problem):
        a: int = 1

    @dataclass(frozen=True)
    class Required(Problem):
        a: int

    for cls in (Bare, Thawed):
        with pytest.raises(ConfigError, match="must be a frozen dataclass"):
            cls()
    with pytest.raises(ConfigError, match=r"Required\.a has no default"):
        Required(1)


@pytest.mark.parametrize("value", [float("nan"), np.zeros(2), {1, 2}, object()])
def test_fields_that_are_not_json_are_refused_when_constructed(value):
    with pytest.raises(ConfigError, match=r"Walk\.scale=.* must be JSON"):
        Walk(scale=value)


def test_config_is_plain_json():
    @dataclass(frozen=True)
    class Nested(Problem):
        shape: tuple[int, ...] = (2, 3)
        names: dict[str, float] = field(default_factory=lambda: {"a": 1.0})

    assert Nested().config() == {"shape": [2, 3], "names": {"a": 1.0}}


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-1, 0), (3, -1)])
def test_number_of_samples_and_seed_are_checked(tmp_path, n, seed):
    with pytest.raises(ConfigError, match="must be at least 1"):
        Walk().generate(n, seed)
    with pytest.raises(ConfigError, match="must be at least 1"):
        generate(Walk(), n, seed, out=tmp_path / "x.zarr")
    assert not list(tmp_path.iterdir())


def test_simulate_must_return_the_whole_chunk_with_the_samples_first_and_names_of_its_own():
    @dataclass(frozen=True)
    class Short(Problem):
        def simulate(self, seeds):
            return xarray.Dataset({"u": (("sample",), np.zeros(3))})

    @dataclass(frozen=True)
    class Turned(Problem):
        def simulate(self, seeds):
            return xarray.Dataset({"u": (("x", "sample"), np.zeros((3, len(seeds))))})

    @dataclass(frozen=True)
    class Named(Problem):
        def simulate(self, seeds):
            return xarray.Dataset({"u": (("sample",), np.zeros(len(seeds)))}, attrs={"seed": 1, "n": 2, "samples": 3})

    with pytest.raises(DataError, match="attributes samples, seed, which stores set"):
        Named().generate(3)
    with pytest.raises(DataError, match="expected sample=64"):
        Short().generate(3)
    with pytest.raises(DataError, match="sample must be first"):
        Turned().generate(3)


def test_sample_i_draws_from_its_own_seed_sequence():
    walk = Walk().generate(40, seed=5)
    steps = np.random.default_rng(np.random.SeedSequence(5, spawn_key=(33,))).normal(size=7)
    assert np.array_equal(walk.path[33], steps.cumsum())
    assert walk.path.units == "m"


def test_chunks_are_computed_with_one_thread_which_is_restored():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (Threads().generate(3).threads == 1).all()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# Determinism


def test_fewer_samples_are_the_first_of_more():
    few, more = Walk().generate(100), Walk().generate(128)
    assert few.sizes["sample"] == 100
    assert_same_bytes(few.drop_attrs(deep=False), more.isel(sample=slice(100)).drop_attrs(deep=False))


def chunks_of(make, *, chunk=2, ragged=()):
    """The problem whose chunk k is `make(k)`."""

    @dataclass(frozen=True)
    class Chunks(Problem):
        def simulate(self, seeds):
            return make(seeds[0].spawn_key[0] // self.chunk)

    Chunks.chunk, Chunks.ragged = chunk, ragged
    return Chunks()


def every_kind(k):
    """All types, coordinates along the samples, and attributes that resemble an encoding."""
    i = np.array([2 * k, 2 * k + 1])
    return xarray.Dataset(
        {
            **{f"u_{t}": (("sample", "x"), np.outer(i, [1, 2, 3]).astype(t)) for t in ("f2", "f4", "f8", "c8", "c16")},
            **{f"i_{t}": ("sample", i.astype(t)) for t in ("i1", "u2", "i8", "?")},
            "nan": ("sample", np.array([np.nan, -0.0])),
            "empty": (("sample", "nothing"), np.zeros((2, 0))),
            "words": ("sample", np.array(["abc", "d"]) if k == 0 else np.array(["e", ""])),
            "bytes": ("sample", np.array([b"abc", b"d"])),
            "text": ("sample", np.array(["a" * (k + 1), ""], dtype=object)),
            **{
                f"{kind}_{t}": ("sample", np.array([i[1], "NaT"], f"{kind}[{t}]"))
                for t in ("s", "ms", "us", "ns")
                for kind in ("datetime64", "timedelta64")
            },
            "age": ("sample", 0.5 * i, {"units": "days since 2000-01-01"}),
            "steps": ("sample", i, {"units": "s", "scale_factor": 2.0, "long_name": "number"}),
            "once": ((), np.pi),
            "profile": (("x",), np.arange(3.0)),
        },
        coords={
            "sample": ("sample", i, {"long_name": "number"}),
            "name": ("sample", np.array([f"{j}" for j in i])),
            "at": ("sample", np.array(["2001-01-01", "2001-01-02"], "M8[ns]") + np.timedelta64(k, "ns")),
            "x": ("x", np.array(["2001-01-01T00:00:01", "2001-01-02", "2001-01-03"], "M8[s]")),
        },
    )


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("ragged", [(), ("x",)])
def test_store_equals_memory(tmp_path, n, ragged):
    for name, problem in (("walk", Walk()), ("kinds", chunks_of(every_kind, ragged=ragged))):
        generate(problem, n, 3, out=tmp_path / name)
        stored, expected = open_dataset(tmp_path / name).load(), problem.generate(n, 3)
        if name == "kinds":
            xarray.testing.assert_identical(stored.text, expected.text)
            stored, expected = stored.drop_vars("text"), expected.drop_vars("text")  # references to strings
            assert expected.sample.values.tolist() == list(range(n))
        assert_same_bytes(stored, expected)
        assert {v: stored[v].dtype for v in stored.variables} == {v: expected[v].dtype for v in expected.variables}


def test_a_store_of_every_kind_grows(tmp_path):
    problem = chunks_of(every_kind)
    for n in (1, 4, 7):
        stored = open_dataset(generate(problem, n, out=tmp_path / "x.zarr")).load()
        xarray.testing.assert_identical(stored, problem.generate(n))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([0, 1], [2.5, 3.5], "'u' is float64 instead of int64.*astype"),
        ([0.0, 1.0], [2, 3], "'u' is int64 instead of float64"),
        (["a", "b"], ["abcd", "e"], "'u' is <U4 instead of <U1"),
        (np.zeros(2, "M8[s]"), np.zeros(2, "M8[ns]"), r"'u' is datetime64\[ns\] instead of datetime64\[s\]"),
        (np.zeros(2, "M8[s]"), np.zeros(2, "i8"), r"'u' is int64 instead of datetime64\[s\]"),
        (np.zeros(2, "m8[s]"), np.zeros(2, "M8[s]"), r"'u' is datetime64\[s\] instead of timedelta64\[s\]"),
        (np.zeros((2, 3)), np.zeros((2, 4)), "'u' has d1=4 instead of 3.*name 'd1' in `ragged`"),
        (np.zeros((2, 3)), np.zeros(2), r"'u' has the dimensions \('sample',\) instead of \('sample', 'd1'\)"),
        (np.zeros(2), None, "'u' is missing"),
        (None, np.zeros(2), "'u' is new"),
    ],
)
@pytest.mark.parametrize("ragged", [(), ("y",)])
def test_chunks_that_do_not_fit_are_refused_in_memory_and_in_the_store(tmp_path, first, second, message, ragged):
    def make(k):
        u = (first, second)[k > 1]
        data = xarray.Dataset({"v": ("sample", np.zeros(2))})
        return data if u is None else data.assign(u=(("sample", "d1")[: np.ndim(u)], np.asarray(u)))

    problem = chunks_of(make, ragged=ragged)
    message = "chunk 2 does not fit to chunk 0: its variable " + message
    with pytest.raises(DataError, match=message):
        problem.generate(8)
    with pytest.raises(DataError, match=message):
        generate(problem, 8, out=tmp_path / "x.zarr")
    with pytest.raises(DataError, match="2 of 4 chunks are missing"):
        open_dataset(tmp_path / "x.zarr")


def test_what_zarr_cannot_hold_is_refused(tmp_path):
    problem = chunks_of(lambda k: xarray.Dataset({"u": ("sample", np.array([{}, ()], dtype=object))}))
    with pytest.raises(DataError, match="cannot be written as Zarr"):
        generate(problem, 2, out=tmp_path / "x.zarr")


def test_two_processes_compute_the_same_bytes(tmp_path):
    expected = Walk().generate(40)
    with get_executor("processes:2") as executor:
        assert_same_bytes(Walk().generate(40, executor=executor), expected)
        generate(Walk(), 40, out=tmp_path / "x.zarr", executor=executor)
    assert_same_bytes(open_dataset(tmp_path / "x.zarr"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [False, True])
def test_a_dask_cluster_computes_the_same_bytes(tmp_path, monkeypatch, processes):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", str(IMPORTABLE), prepend=os.pathsep)
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=processes, protocol="tcp", dashboard_address=None
        ) as cluster,
    ):
        address = cluster.scheduler_address.replace("tcp:", "dask:")
        generate(Walk(), 100, out=tmp_path / "x.zarr", executor=address)
    assert_same_bytes(open_dataset(tmp_path / "x.zarr"), Walk().generate(100))


# Stores


def test_a_store_is_ordinary_zarr_with_one_chunk_per_chunk_of_work(tmp_path):
    path = generate(Walk(), 40, out=tmp_path / "new" / "x.zarr")
    group = zarr.open_group(str(path), mode="r")
    assert group["path"].shape == (40, 7)
    assert group["path"].chunks == (16, 7)
    assert group["complete"].chunks == (1,)
    assert list(group["complete"][:]) == [1, 1, 1]
    with xarray.open_zarr(path, consolidated=False) as plain:
        assert np.array_equal(plain.path, Walk().generate(40).path)
    assert [p.name for p in path.parent.iterdir()] == ["x.zarr"]


def test_only_chunks_without_mark_are_computed_again(tmp_path, log):
    path = generate(Walk(), 60, out=tmp_path / "x.zarr")
    assert log() == [0, 1, 2, 3]
    zarr.open_group(str(path))["complete"][2] = 0
    with pytest.raises(DataError, match=r"1 of 4 chunks are missing.*n=60, seed=0"):
        open_dataset(path)
    generate(Walk(), 60, out=path)
    assert log() == [2]
    generate(Walk(), 60, out=path)
    assert log() == []


@pytest.mark.parametrize(("problem", "n"), [(Walk(), 40), (Cloud(), 10), (chunks_of(every_kind), 5)])
@pytest.mark.parametrize("damage", [Path.unlink, lambda file: os.truncate(file, file.stat().st_size // 2)])
def test_chunks_whose_files_are_lost_or_cut_off_are_computed_again(tmp_path, problem, n, damage):
    path = generate(problem, n, out=tmp_path / "x.zarr")
    expected = problem.generate(n)
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json"]
    files = [file for file in files if file.relative_to(path).parts[0] not in ("complete", "chunk_bytes")]
    assert len(files) >= 9
    for file in files[:: max(1, len(files) // 8)]:
        before = file.read_bytes()
        damage(file)
        with pytest.raises(DataError, match=r"1 of \d+ chunks are missing or damaged. Generate it again"):
            open_dataset(path)
        generate(problem, n, out=path)
        assert file.read_bytes() == before
        xarray.testing.assert_identical(open_dataset(path).load(), expected)


@pytest.mark.parametrize(("problem", "n"), [(Walk(), 20), (Cloud(), 5), (chunks_of(every_kind), 2)])
def test_files_of_which_a_byte_changes_are_named_and_computed_again(tmp_path, problem, n):
    path = generate(problem, n, out=tmp_path / "x.zarr")
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json"]
    files = [file for file in files if file.relative_to(path).parts[0] not in ("complete", "chunk_bytes")]
    for i, file in enumerate(files[:: max(1, len(files) // 4)]):
        before = file.read_bytes()
        damaged = bytearray(before)
        damaged[(0, len(before) // 2, -1)[i % 3]] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=f"1 file.* delete {file};.*generate"):
            open_dataset(path).load()
        file.write_bytes(before)
    file.unlink()
    generate(problem, n, out=path)
    assert file.read_bytes() == before


@pytest.mark.parametrize("problem", [Walk(), Cloud()])
def test_stores_without_checksums_are_read_and_grow(tmp_path, problem, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr("sciml.store.COMPRESSORS", "auto")
        path = generate(problem, 7, out=tmp_path / "x.zarr")
    assert_same_bytes(open_dataset(path), problem.generate(7))
    generate(problem, 20, out=path)
    assert_same_bytes(open_dataset(path), problem.generate(20))


def test_chunks_of_fill_values_are_files_too(tmp_path, log):
    problem = chunks_of(lambda k: xarray.Dataset({"u": ("sample", np.zeros(2)), "v": ((), 0)}))
    path = generate(problem, 6, out=tmp_path / "x.zarr")
    assert len(list((path / "u" / "c").iterdir())) == 3
    assert (path / "v" / "c").exists()


@pytest.mark.parametrize("name", ["complete", "chunk_bytes"])
def test_marks_that_cannot_be_read_are_explained(tmp_path, name, log):
    path = generate(Walk(), 40, out=tmp_path / "x.zarr")
    expected = open_dataset(path).load()
    file = path / name / "c" / "1"
    log()
    file.unlink()
    generate(Walk(), 40, out=path)
    assert log() == [1]
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(DataError, match=r"marks .* cannot be read .*Delete .*complete/c and chunk_bytes/c"):
        open_dataset(path)
    for folder in ("complete", "chunk_bytes"):
        shutil.rmtree(path / folder / "c")
    generate(Walk(), 40, out=path)
    assert log() == [0, 1, 2]
    assert_same_bytes(open_dataset(path), expected)


def test_a_store_grows_and_never_shrinks(tmp_path, log):
    path = generate(Walk(), 20, out=tmp_path / "x.zarr")
    assert log() == [0, 1]
    generate(Walk(), 50, out=path)
    assert log() == [1, 2, 3]  # chunk 1 was cut
    assert_same_bytes(open_dataset(path), Walk().generate(50))
    with pytest.raises(DataError, match="50 samples, more than the 20"):
        generate(Walk(), 20, out=path)


def test_ragged_chunks_are_joined_by_the_reader(tmp_path):
    path = generate(Cloud(), 10, out=tmp_path / "x.zarr")
    clouds = open_dataset(path)
    assert_same_bytes(clouds, Cloud().generate(10))
    for i in range(10):
        generator = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(i,)))
        size = int(generator.integers(1, 10))
        expected = generator.normal(size=(size, 2))
        assert np.array_equal(clouds.points[i, :size], expected)
        assert np.isnan(clouds.points[i, size:]).all()
    lazy = open_dataset(path).points
    for key in [(3,), (slice(8, 2, -2), 0), ([9, 0, 4], slice(None), 1), (-1, slice(1, 3)), (slice(0, 0),)]:
        assert np.array_equal(lazy[key], clouds.points.values[key], equal_nan=True)
    generate(Cloud(), 15, out=path)
    assert_same_bytes(open_dataset(path), Cloud().generate(15))


@pytest.mark.parametrize(
    ("problem", "seed", "difference"),
    [
        (Walk(scale=2.0), 0, "scale is 1.0 there and 2.0 here"),
        (Walk(), 1, "seed is 0 there and 1 here"),
        (Big(), 0, "problem is 'Walk' there and 'Big' here"),
    ],
)
def test_a_store_of_other_data_is_refused(tmp_path, problem, seed, difference):
    path = generate(Walk(), 4, out=tmp_path / "x.zarr")
    with pytest.raises(DataError, match=difference):
        generate(problem, 4, seed, out=path)


def test_a_store_of_another_chunk_is_refused(tmp_path):
    class Coarse(Walk):
        chunk = 32

    path = generate(Walk(), 4, out=tmp_path / "x.zarr", name="walk")
    with pytest.raises(DataError, match="chunk is 16 there and 32 here"):
        generate(Coarse(), 4, out=path, name="walk")


def test_paths_that_are_no_stores_are_refused_and_kept(tmp_path):
    file = tmp_path / "file"
    file.write_text("precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    foreign = tmp_path / "foreign.zarr"
    zarr.create_group(str(foreign))
    for path, message in [(file, "no data store"), (folder, "no data store"), (foreign, "format None")]:
        with pytest.raises(DataError, match=message):
            generate(Walk(), 4, out=path)
        with pytest.raises(DataError, match=message):
            open_dataset(path)
    assert file.read_text() == (folder / "thesis.tex").read_text() == "precious"
    with pytest.raises(DataError, match="there is no data store"):
        open_dataset(tmp_path / "nowhere")


def test_a_failing_chunk_keeps_the_finished_ones(tmp_path, monkeypatch):
    path = tmp_path / "x.zarr"
    with pytest.raises(RuntimeError, match="diverged"):
        generate(Failing(), 8, out=path)
    with pytest.raises(DataError, match="2 of 4 chunks are missing"):
        open_dataset(path)
    monkeypatch.setenv("HEALED", "1")
    generate(Failing(), 8, out=path)
    assert np.array_equal(open_dataset(path).u, np.arange(8.0))


def test_a_worker_that_dies_is_explained(tmp_path):
    with pytest.raises(DataError, match="ended abruptly"):
        Deadly().generate(3, executor="processes:1")
    with pytest.raises(DataError, match="ended abruptly"):
        generate(Deadly(), 3, out=tmp_path / "x.zarr", executor="processes:1")


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "before", "after"), [("Walk", 0, 20), ("Walk", 10, 20), ("Cloud", 0, 5)])
def test_a_kill_at_any_rename_leaves_nothing_that_a_restart_cannot_finish(tmp_path, problem, before, after):
    with get_executor("processes:1") as executor:
        renames = executor.submit(kill_at_every_rename, tmp_path, problem, before, after).result()
    assert renames >= 10  # every rename was visited


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    chunk_bytes = 16 * 8192 * 8
    generate(Big(), 16, out=tmp_path / "warm.zarr")
    tracemalloc.start()
    try:
        path = generate(Big(), 640, out=tmp_path / "x.zarr")
        loader = BatchLoader(ArrayDataset(open_dataset(path), ["u"]), 16, shuffle=False)
        assert sum(len(batch["u"]) for batch in loader.batches(0)) == 640
        assert tracemalloc.get_traced_memory()[1] < 6 * chunk_bytes
    finally:
        tracemalloc.stop()


def test_netcdf_round_trip(tmp_path):
    path = generate(Walk(), 20, out=tmp_path / "x.zarr")
    to_netcdf(open_dataset(path), tmp_path / "x.nc")
    with xarray.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as read:
        xarray.testing.assert_equal(read.load(), Walk().generate(20))
        assert read.path.units == "m"
        assert json.loads(read.attrs["config"]) == Walk().config()
    with pytest.raises(DataError, match="cannot be written as NetCDF"):
        to_netcdf(xarray.Dataset(attrs={"a": object()}), tmp_path / "bad.nc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.nc", "x.zarr"]


# Batches


def test_normalizer_inverts_and_has_zero_mean_and_unit_variance():
    x = torch.randn(50, 3, 4, 5, dtype=torch.float64) * torch.tensor([1e-9, 1.0, 1e6])[:, None, None] + 3
    x[:, 1] = 7.1
    normalizer = Normalizer(3, dtype=torch.float64).fit(x)
    y = normalizer(x)
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3, dtype=y.dtype), atol=1e-9)
    assert torch.allclose(y[:, 2].std(correction=0), torch.ones((), dtype=y.dtype))
    assert normalizer.std[1] == 1  # constant but for rounding
    assert torch.allclose(normalizer.inverse(y), x, rtol=1e-12)
    small = Normalizer(3, dtype=torch.float64).fit(x - 3)
    assert torch.allclose(small(x - 3)[:, 0].std(correction=0), torch.ones((), dtype=y.dtype))


def test_normalizer_fits_batches_in_one_pass_and_keeps_its_statistics():
    x = 1e4 + torch.randn(64, 5, 2, dtype=torch.float64)
    whole = Normalizer(2, dim=-1, dtype=torch.float64).fit(x)
    batched = Normalizer(2, dim=-1, dtype=torch.float64).fit(iter(x.split(7)))
    # 64 · 5 additions at 1e4: the deviations keep 1e4 · 320 · eps
    assert torch.allclose(whole.std, batched.std, rtol=1e-9)
    copy = Normalizer(2, dim=-1, dtype=torch.float64)
    copy.load_state_dict(batched.state_dict())
    assert torch.equal(copy(x), batched(x))


def test_normalizer_refuses_wrong_and_non_finite_data():
    with pytest.raises(ShapeError, match="3 components"):
        Normalizer(2).fit(torch.zeros(4, 3))
    with pytest.raises(DataError, match="finite"):
        Normalizer(2).fit(torch.full((4, 2), float("nan")))
    with pytest.raises(DataError, match="at least one"):
        Normalizer(2).fit(iter([]))


def test_array_dataset_reads_samples_from_the_store(tmp_path):
    path = generate(Walk(), 40, out=tmp_path / "x.zarr")
    expected = Walk().generate(40)
    data = ArrayDataset(open_dataset(path), ["path", "ups"], dtype=torch.float64)
    assert len(data) == 40
    indices = torch.tensor([33, 2, 17, 2])
    assert np.array_equal(data.read(indices)["path"].numpy(), expected.path.values[indices])
    assert np.array_equal(data[-1]["path"].numpy(), expected.path.values[-1])
    assert data[3]["ups"].dtype == torch.int64
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    assert np.array_equal(torch.cat([batch["path"] for batch in loader]).numpy(), expected.path)
    with pytest.raises(IndexError):
        data[40]
    with pytest.raises(ConfigError, match="no variable speed: the dataset has mixed, path, up"):
        ArrayDataset(open_dataset(path), ["speed"])
    with pytest.raises(ShapeError, match="first dimension"):
        ArrayDataset(open_dataset(path), ["path", "time"])


def test_array_dataset_converts_real_and_complex_numbers_and_leaves_integers_exact():
    values = np.array([0.1, 2.0])
    data = xarray.Dataset(
        {
            "u": ("sample", values),
            "z": ("sample", values + 1j),
            "index": ("sample", [2**24 + 1, -1]),
            "flag": ("sample", [True, False]),
            "word": ("sample", ["a", "b"]),
            "when": ("sample", np.zeros(2, "M8[s]")),
        }
    )
    names = ["u", "z", "index", "flag"]
    for dtype, real, compl in (
        (torch.float32, torch.float32, torch.complex64),
        (torch.float64, torch.float64, torch.complex128),
        (None, torch.float64, torch.complex128),
    ):
        batch = ArrayDataset(data, names, dtype).read(torch.arange(2))
        assert [batch[name].dtype for name in names] == [real, compl, torch.int64, torch.bool]
        assert torch.equal(batch["z"], torch.from_numpy(values + 1j).to(compl))
        assert batch["index"].tolist() == [2**24 + 1, -1]
    assert ArrayDataset(data, names)[0]["z"].imag == 1
    with pytest.raises(ConfigError, match=r"not \{'word': '<U1', 'when': 'datetime64\[s\]'\}: convert or leave out"):
        ArrayDataset(data, ["u", "word", "when"])
    with pytest.raises(ConfigError, match="must be a real floating-point type"):
        ArrayDataset(data, ["u"], torch.int64)


def test_streamed_batches_equal_those_from_memory(tmp_path):
    path = generate(Walk(), 40, out=tmp_path / "x.zarr")
    streamed = BatchLoader(ArrayDataset(open_dataset(path), ["path"], torch.float64), 7, seed=3)
    memory = BatchLoader({"path": torch.from_numpy(Walk().generate(40).path.values)}, 7, seed=3)
    for a, b in zip(streamed.batches(2), memory.batches(2), strict=True):
        assert torch.equal(a["path"], b["path"])


def test_order_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    order = epoch_order(100, 3, 5)
    torch.manual_seed(2)
    assert torch.equal(order, epoch_order(100, 3, 5))
    assert torch.equal(order.sort().values, torch.arange(100))
    assert not torch.equal(order, epoch_order(100, 3, 6))
    assert not torch.equal(order, epoch_order(100, 4, 5))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_shares_of_the_processes_make_the_global_batch(world, drop_last):
    loader = BatchLoader({"i": torch.arange(53)}, 10, seed=1, drop_last=drop_last)
    whole = [batch["i"] for batch in loader.batches(4)]
    shares = zip(*[loader.batches(4, rank=rank, world=world) for rank in range(world)], strict=True)
    for i, (batch, parts) in enumerate(zip(whole, shares, strict=True)):
        sizes = [len(part["i"]) for part in parts]
        assert min(sizes) >= max(max(sizes) - 1, 1)
        assert torch.equal(torch.cat([part["i"] for part in parts]), batch)
        assert len(batch) == loader.batch_length(i)
    assert len(whole) == len(loader) == (5 if drop_last else 6)
    counts = Counter(torch.cat(whole).tolist())
    assert len(counts) == (50 if drop_last else 53)
    assert set(counts.values()) == {1}


def test_an_epoch_continues_at_any_position():
    loader = BatchLoader({"i": torch.arange(53)}, 10)
    whole = [batch["i"] for batch in loader.batches(4)]
    for start in range(len(loader) + 1):
        rest = [batch["i"] for batch in loader.batches(4, start)]
        assert len(rest) == len(whole) - start
        assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_loader_refuses_what_makes_no_batch():
    with pytest.raises(ShapeError, match="first dimension"):
        BatchLoader({"a": torch.zeros(2), "b": torch.zeros(3)}, 1)
    with pytest.raises(ConfigError, match="batch_size=0"):
        BatchLoader({"a": torch.zeros(2)}, 0)
    with pytest.raises(ConfigError, match="make no batch"):
        BatchLoader({"a": torch.zeros(2)}, 3, drop_last=True)
    with pytest.raises(ConfigError, match="too few for 2 processes"):
        next(BatchLoader({"a": torch.zeros(5)}, 2).batches(0, world=2))
