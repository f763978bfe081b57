import gzip
import struct

import numpy as np
import pytest
import torch
from sciml.errors import ConfigError, DataError
from scipy import sparse
from symplectic_opt.problems import CIFAR10, FashionMNIST, MultiLabel, Weather


def test_texts_are_read_from_files(tmp_path):
    rng = np.random.default_rng(0)
    features, labels = sparse.random(40, 9, 0.5, rng=rng, format="csr"), rng.integers(0, 2, (40, 3))
    sparse.save_npz(tmp_path / "tfidf.npz", features)
    sparse.save_npz(tmp_path / "labels.npz", sparse.csr_matrix(labels))
    problem = MultiLabel(data_root=str(tmp_path))
    data = problem.data()
    assert len(data.train_input) == 34
    got = torch.cat(
        [torch.cat([data.train_input, data.test_input]), torch.cat([data.train_target, data.test_target])], 1
    )
    given = torch.from_numpy(np.hstack([features.toarray(), labels])).float()
    assert torch.equal(got.unique(dim=0), given.unique(dim=0))
    assert problem.network()(data.train_input).shape == (34, 3)


@pytest.mark.unchecked
def test_unreadable_texts(tmp_path):
    with pytest.raises(DataError, match=r"tfidf\.npz is missing"):
        MultiLabel(data_root=str(tmp_path)).data()
    sparse.save_npz(tmp_path / "tfidf.npz", sparse.eye(30, format="csr"))
    (tmp_path / "labels.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"labels\.npz is missing or was not written"):
        MultiLabel(data_root=str(tmp_path)).data()
    sparse.save_npz(tmp_path / "labels.npz", 2 * sparse.eye(30, format="csr"))
    with pytest.raises(DataError, match="labels 0 or 1"):
        MultiLabel(data_root=str(tmp_path)).data()
    sparse.save_npz(tmp_path / "tfidf.npz", sparse.csr_matrix((10**6, 10**6)))
    with pytest.raises(DataError, match="leave out rare words"):
        MultiLabel(data_root=str(tmp_path)).data()


def test_weather_of_jena_is_read(tmp_path):
    rng, n = np.random.default_rng(0), 3000
    rows = rng.standard_normal((n, 14)).round(3)
    header = '"Date Time",' + ",".join(f'"c{k}"' for k in range(14))
    lines = [f"01.01.2009 00:{k % 60:02d}:00," + ",".join(map(str, row)) for k, row in enumerate(rows)]
    (tmp_path / "jena_climate_2009_2016.csv").write_text("\n".join([header, *lines]))
    data = Weather(series="jena", data_root=str(tmp_path)).data()
    chosen = rows[:, [0, 1, 5, 7, 8, 10, 11]]
    past = chosen[: int(0.715 * n)]
    expected = (chosen - past.mean(0)) / past.std(0)
    np.testing.assert_allclose(data.train_input[5], expected[5 : 5 + 720 : 6], atol=1e-6)
    np.testing.assert_allclose(data.train_target[5, 0], expected[5 + 792, 1], atol=1e-6)
    np.testing.assert_allclose(data.test_input[0, 0], expected[len(past)], atol=1e-6)


@pytest.mark.unchecked
def test_weather_without_its_file(tmp_path):
    with pytest.raises(ConfigError, match="series='mars'"):
        Weather(series="mars")
    with pytest.raises(ConfigError, match="needs data_root"):
        Weather(series="jena")
    with pytest.raises(ConfigError, match="the others need none"):
        Weather(data_root=str(tmp_path))
    jena = Weather(series="jena", data_root=str(tmp_path))
    with pytest.raises(DataError, match=r"has no jena_climate_2009_2016\.csv"):
        jena.data()
    (tmp_path / "jena_climate_2009_2016.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="14 numbers"):
        jena.data()
    (tmp_path / "jena_climate_2009_2016.csv").write_text("\n".join(["header", *[",".join("0" * 15)] * 9]))
    with pytest.raises(DataError, match="9 rows, too few"):
        jena.data()


def write_idx(path, array, compress):
    content = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()
    if compress:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("compress", [True, False])
def test_fashion_mnist_is_read(tmp_path, compress):
    rng = np.random.default_rng(0)
    images = {part: rng.integers(0, 256, (n, 28, 28), np.uint8) for part, n in (("train", 7), ("t10k", 3))}
    labels = {part: rng.integers(0, 10, len(images[part]), np.uint8) for part in images}
    for part in images:
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", images[part], compress)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", labels[part], compress)
    problem = FashionMNIST(data_root=str(tmp_path))
    data = problem.data()
    np.testing.assert_array_equal(data.train_input, images["train"].reshape(7, 784).astype(np.float32) / 255)
    np.testing.assert_array_equal(data.test_target, labels["t10k"])
    assert problem.network()(data.test_input).shape == (3, 10)
    assert problem.generate(2).input.shape == (2, 784)


@pytest.mark.unchecked
def test_fashion_mnist_without_its_files(tmp_path):
    with pytest.raises(DataError, match="give data_root"):
        FashionMNIST().data()
    with pytest.raises(DataError, match="is no folder"):
        FashionMNIST(data_root=str(tmp_path / "none")).data()
    problem = FashionMNIST(data_root=str(tmp_path))
    with pytest.raises(DataError, match=r"neither train-images-idx3-ubyte nor train-images-idx3-ubyte\.gz"):
        problem.data()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"junk")
    with pytest.raises(DataError, match="cannot be decompressed"):
        problem.data()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 2, 28, 28) + bytes(100))
    with pytest.raises(DataError, match="cut off"):
        problem.data()
    for part, n in (("train", 2), ("t10k", 1)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", np.zeros((n, 28, 28), np.uint8), False)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.zeros(1, np.uint8), False)
    with pytest.raises(DataError, match="2 images but 1 labels"):
        problem.data()


def test_cifar10_is_read(tmp_path):
    rng = np.random.default_rng(0)
    records = {}
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        records[name] = np.hstack([rng.integers(0, 10, (2, 1)), rng.integers(0, 256, (2, 3072))]).astype(np.uint8)
        records[name].tofile(tmp_path / f"{name}.bin")
    problem = CIFAR10(data_root=str(tmp_path))
    data = problem.data()
    assert data.train_input.shape == (10, 3, 32, 32)
    # the red pixels come first, row by row
    assert data.train_input[2, 0, 1, 3].item() == pytest.approx(records["data_batch_2"][0, 1 + 32 + 3] / 255)
    assert data.train_input[2, 2, 0, 0].item() == pytest.approx(records["data_batch_2"][0, 1 + 2048] / 255)
    np.testing.assert_array_equal(data.test_target, records["test_batch"][:, 0])
    assert problem.network()(data.test_input).shape == (2, 10)


@pytest.mark.unchecked
def test_pickles_of_cifar10_are_refused(tmp_path):
    problem = CIFAR10(data_root=str(tmp_path))
    with pytest.raises(DataError, match=r"has no data_batch_1\.bin: put"):
        problem.data()
    (tmp_path / "data_batch_1").write_bytes(b"")
    with pytest.raises(DataError, match="pickles may run any code"):
        problem.data()
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match="no multiple of 3073"):
        problem.data()
