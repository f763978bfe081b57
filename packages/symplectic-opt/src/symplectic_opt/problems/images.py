"""Classification of Fashion-MNIST and CIFAR-10, read from their published files."""

import gzip
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import DataError
from torch import Tensor, nn

from symplectic_opt.problems._learning import Classification, Split, perceptron


@dataclass(frozen=True)
class FashionMNIST(Classification):
    """Fashion-MNIST, 60,000 and 10,000 grey images of 28 x 28 pixels in [0, 1], and a network 784-64-64-10.

    The network has 55,050 parameters (arXiv 2207.11460).

    Parameters
    ----------
    data_root
        Folder of the four published IDX files, `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`,
        `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, as they are or with `.gz`. Those of MNIST will do too.

    Raises
    ------
    DataError
        When data are asked for and a file is missing or not of that format.
    """

    input_dims: ClassVar[tuple[str, ...]] = ("pixel",)
    batch_size: ClassVar[int] = 64
    needs: ClassVar[str] = "the four IDX files of Fashion-MNIST"

    data_root: str | None = None

    def data(self) -> Split:
        return _fashion(_folder(self.data_root, self.needs))

    def layers(self) -> nn.Module:
        return perceptron(784, 64, 64, 10)


@dataclass(frozen=True)
class CIFAR10(Classification):
    """CIFAR-10, 50,000 and 10,000 colour images of 32 x 32 pixels in [0, 1], and a network like LeNet-5.

    The network has 62,006 parameters; training images are padded by 4, flipped and cropped (arXiv 2207.11460).

    Parameters
    ----------
    data_root
        Folder of the published binary version: `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`.

    Raises
    ------
    DataError
        When data are asked for and a file is missing or not of that format.
    """

    input_dims: ClassVar[tuple[str, ...]] = ("channel", "row", "column")
    batch_size: ClassVar[int] = 100
    needs: ClassVar[str] = "data_batch_1.bin to data_batch_5.bin and test_batch.bin of CIFAR-10"

    data_root: str | None = None

    def data(self) -> Split:
        return _cifar(_folder(self.data_root, self.needs))

    def layers(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 6, 5),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            *perceptron(400, 120, 84, 10),
        )

    def augment(
        self, batch: Float[Tensor, "n channel row column"], generator: torch.Generator
    ) -> Float[Tensor, "n channel row column"]:
        """Each image moved by up to 4 pixels in each direction, with zeros from outside, and flipped or not."""
        n, _, height, width = batch.shape
        padded = torch.nn.functional.pad(batch, (4, 4, 4, 4))
        top, left = torch.randint(9, (2, n), generator=generator, device=generator.device).to(batch.device)
        flip = torch.rand(n, generator=generator, device=generator.device).to(batch.device) < 0.5
        columns = torch.arange(width, device=batch.device)
        columns = torch.where(flip[:, None], width - 1 - columns, columns) + left[:, None]
        rows = torch.arange(height, device=batch.device) + top[:, None]
        sample = torch.arange(n, device=batch.device)
        return padded.movedim(1, 3)[sample[:, None, None], rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def _folder(data_root: str | None, files: str) -> Path:
    if data_root is None:
        raise DataError(f"these data do not come with this package: give data_root=…, a folder with {files}")
    folder = Path(data_root)
    if not folder.is_dir():
        raise DataError(f"data_root={data_root!r} is no folder: it must be one with {files}")
    return folder.absolute()


@lru_cache(maxsize=1)
def _fashion(folder: Path) -> Split:
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(folder, f"{part}-images-idx3-ubyte", 3)
        labels = read_idx(folder, f"{part}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise DataError(f"{folder} has {len(images)} images but {len(labels)} labels of {part}: get them again")
        parts += [torch.from_numpy(images).flatten(1).float() / 255, torch.from_numpy(labels).long()]
    return Split(*parts)


def read_idx(folder: Path, name: str, dims: int) -> np.ndarray:
    """The bytes of an IDX file, compressed or not, in its shape.

    Raises
    ------
    DataError
        If there is no such file, or it is not one of unsigned bytes with that number of dimensions.
    """
    found = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if found is None:
        raise DataError(f"{folder} has neither {name} nor {name}.gz: put the published file there")
    try:
        content = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{found} cannot be decompressed ({error}): get it again") from error
    header = np.frombuffer(content[: 4 * (dims + 1)], ">u4")
    # the magic number: two zeros, 8 for unsigned bytes, the number of dimensions
    if len(header) != dims + 1 or header[0] != 0x800 + dims or len(content) - 4 * len(header) != header[1:].prod():
        raise DataError(f"{found} is no IDX file of {dims}-dimensional unsigned bytes, or is cut off: get it again")
    return np.frombuffer(content, np.uint8, offset=4 * len(header)).reshape(header[1:]).copy()


@lru_cache(maxsize=1)
def _cifar(folder: Path) -> Split:
    train = torch.cat([_records(folder, f"data_batch_{k}.bin") for k in range(1, 6)])
    parts = []
    for records in (train, _records(folder, "test_batch.bin")):
        parts += [records[:, 1:].reshape(-1, 3, 32, 32).float() / 255, records[:, 0].long()]
    return Split(*parts)


def _records(folder: Path, name: str) -> Tensor:
    """Rows of a class and 3072 bytes of colours."""
    path = folder / name
    if not path.is_file():
        pickled = path.with_suffix("").is_file()
        hint = "the Python version is there, whose pickles may run any code and are not read; " if pickled else ""
        raise DataError(f"{folder} has no {name}: {hint}put the files of the binary version of CIFAR-10 there")
    content = np.fromfile(path, np.uint8)
    if len(content) == 0 or len(content) % 3073:
        raise DataError(f"{path} has {len(content)} bytes, no multiple of 3073 as in CIFAR-10: get it again")
    return torch.from_numpy(content.reshape(-1, 3073))
