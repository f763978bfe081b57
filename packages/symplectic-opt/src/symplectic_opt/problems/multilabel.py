"""Several labels for each text."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import DataError
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from symplectic_opt.problems._common import check_whole, ml
from symplectic_opt.problems._learning import Learning, Split, perceptron

LARGEST = 2**32  # bytes of a dense matrix of features


@dataclass(frozen=True)
class MultiLabel(Learning):
    """Labels of texts from weighted word counts (TF-IDF), and a network 256-256-labels with the sigmoid in its loss.

    Texts are those of scikit-learn's `make_multilabel_classification`, or of the user, as in arXiv 2207.11460 with
    abstracts. Of them, chosen by `seed`, 85 % are for training, the others for the test. Metrics: `f1`, from the
    counts over all labels at the threshold ½.

    Parameters
    ----------
    documents, words, labels
        Sizes of the generated data.
    data_root
        Folder with the user's own `tfidf.npz` (documents, words) and `labels.npz` (documents, labels) of 0 and 1, both
        written by `scipy.sparse.save_npz`; the sizes are then those of the files.

    Raises
    ------
    ConfigError
        If a size or the seed is out of range.
    DataError
        When data are asked for and the files are missing, of another format, or do not fit.
    """

    input_dims: ClassVar[tuple[str, ...]] = ("word",)
    target_dims: ClassVar[tuple[str, ...]] = ("label",)
    batch_size: ClassVar[int] = 64

    documents: int = 4000
    words: int = 500
    labels: int = 20
    seed: int = 0
    data_root: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "documents", 20)
        check_whole(self, "words")
        check_whole(self, "labels")
        check_whole(self, "seed", 0)

    def data(self) -> Split:
        return _texts(self)

    def layers(self) -> nn.Module:
        data = self.data()
        return perceptron(data.train_input.shape[1], 256, 256, data.train_target.shape[1])

    def loss(self, output: Float[Tensor, "n labels"], target: Float[Tensor, "n labels"]) -> Float[Tensor, ""]:
        return binary_cross_entropy_with_logits(output, target)

    def metrics(self, output: Float[Tensor, "n labels"], target: Float[Tensor, "n labels"]) -> dict[str, float]:
        predicted, given = output > 0, target > 0.5
        both, either = (predicted & given).sum().item(), (predicted.sum() + given.sum()).item()
        return {"f1": 2 * both / either if either else 1.0}


@lru_cache(maxsize=2)
def _texts(problem: MultiLabel) -> Split:
    if problem.data_root is None:
        counts, labels = ml("sklearn.datasets").make_multilabel_classification(
            n_samples=problem.documents,
            n_features=problem.words,
            n_classes=problem.labels,
            allow_unlabeled=False,
            random_state=problem.seed,
        )
        features = tfidf(counts)
    else:
        features, labels = _files(Path(problem.data_root))
    order = np.random.default_rng(problem.seed).permutation(len(features))
    train, test = np.split(order, [round(0.85 * len(order))])
    features, labels = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in (features, labels))
    return Split(features[train], labels[train], features[test], labels[test])


def tfidf(counts: np.ndarray) -> np.ndarray:
    """Counts (documents, words), each times log((1 + documents)/(1 + documents with the word)) + 1, in rows of norm 1.

    Documents without words stay zero.
    """
    rarity = np.log((1 + len(counts)) / (1 + (counts > 0).sum(0))) + 1
    weighted = counts * rarity
    norm = np.linalg.norm(weighted, axis=1, keepdims=True)
    return weighted / np.where(norm > 0, norm, 1)


def _files(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for name in ("tfidf.npz", "labels.npz"):
        try:
            matrix = sparse.load_npz(folder / name)
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise DataError(
                f"{folder / name} is missing or was not written by scipy.sparse.save_npz ({error}): data_root must "
                "hold tfidf.npz (documents, words) and labels.npz (documents, labels)"
            ) from error
        if 4 * int(np.prod(matrix.shape, dtype=float)) > LARGEST:
            raise DataError(
                f"{folder / name} of shape {matrix.shape} has more than {LARGEST >> 30} GiB as a dense matrix of "
                "float32: leave out rare words, or documents"
            )
        found.append(matrix.toarray())
    features, labels = found
    if len(features) != len(labels) or len(features) < 20 or not np.isin(labels, (0, 1)).all():
        raise DataError(
            f"{folder} has features {features.shape} and labels {labels.shape}; expected as many documents in both, "
            "20 or more, and labels 0 or 1"
        )
    return features, labels
