"""The networks and data of the paper, or data of their kind that come with packages."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.experiment import Bar, Experiment

from symplectic_opt.experiments import PAPER
from symplectic_opt.experiments.learning.methods import KICKS_FIRST, OURS, Method, Rates, published, published_settings
from symplectic_opt.experiments.learning.networks import Comparison, Fraction, Training, run
from symplectic_opt.problems._learning import Learning, Split
from symplectic_opt.problems.data_fitting import DataFitting
from symplectic_opt.problems.images import CIFAR10, FashionMNIST
from symplectic_opt.problems.multilabel import MultiLabel
from symplectic_opt.problems.small_images import MNIST1D, Digits
from symplectic_opt.problems.weather import Series, Weather


@config
class DataFittingConfig(Training):
    """A function of one variable."""

    epochs: PositiveInt = 300
    tuning_epochs: PositiveInt = 50
    tuning_seeds: PositiveInt = 1
    validation: Fraction = 0.0

    def problem(self) -> Learning:
        return DataFitting(seed=self.seed)

    def rates(self) -> Rates:
        return Rates(adam=1e-3, sgd=1e-3, expo=(0.07, 1e3), poly=(7e-4, 100.0))

    def methods(self) -> list[Method]:
        return [*super().methods(), *published_settings(self.rates()), *published(self.rates())]

    def bars(self, found: Comparison) -> list[Bar]:
        early = min(50, self.epochs)
        rated = found.loss("Adam, published rate", early)
        what = f"median loss after epoch {early}, of Adam at its published rate the limit"
        settings = [m.label for m in published_settings(self.rates())]
        ours = (*OURS, *KICKS_FIRST, *settings)
        return [
            *(Bar(f"{m}: median loss after all epochs", found.loss(m, self.epochs), 1.5) for m in ours),
            *(Bar(f"{m}: {what}", found.loss(m, early), rated) for m in ours if m.startswith(OURS[0])),
        ]

    def notes(self, found: Comparison) -> list[str]:
        variance = float(self.problem().data().train_target.var())
        constant = {label: int((losses[:, -1] > 0.9 * variance).sum()) for label, losses in found.losses.items()}
        stuck = ", ".join(f"{label} {count}" for label, count in constant.items() if count)
        return [f"Trainings that end near the variance of the data, as a constant would: {stuck}."] if stuck else []


Images = Literal["digits", "mnist1d", "fashion-mnist", "cifar10"]
IMAGE_RATES: Mapping[str, Rates] = {
    # without published ones: see the notes of ImagesConfig
    "digits": Rates(adam=0.01, sgd=0.1, expo=(3.0, 0.01), poly=(0.3, 0.01)),
    "mnist1d": Rates(adam=0.01, sgd=0.1, expo=(3.0, 0.01), poly=(0.3, 0.01)),
    "fashion-mnist": Rates(adam=0.01, sgd=0.1, expo=(170.0, 1e-5), poly=(0.05, 1.0)),
    "cifar10": Rates(adam=0.008, sgd=0.04, expo=(0.6, 100.0), poly=(0.15, 0.1)),
}


@config
class ImagesConfig(Training):
    """Classification of images: small ones, or those of `data_root` (see the problems of these names)."""

    data: Images = "digits"
    data_root: str | None = None

    def problem(self) -> Learning:
        if self.data == "digits":
            return Digits()
        if self.data == "mnist1d":
            return MNIST1D()
        return (FashionMNIST if self.data == "fashion-mnist" else CIFAR10)(data_root=self.data_root)

    def rates(self) -> Rates:
        return IMAGE_RATES[self.data]

    def bars(self, found: Comparison) -> list[Bar]:
        if self.data != "digits":
            return []
        limits, adam = [], found.mean("test_accuracy", "Adam")
        for label in (OURS[1], KICKS_FIRST[1]):
            ours = found.mean("test_accuracy", label)
            limits += [
                Bar(f"{label}: test accuracy", ours, 0.965, at_least=True),
                Bar(f"{label}: test accuracy less than Adam's by", adam - ours, 0.015),
            ]
        return limits

    def notes(self, found: Comparison) -> list[str]:
        if self.data in ("fashion-mnist", "cifar10"):
            return []
        return [
            "No rates are published for these data. Grids of eBrAVO and pBrAVO lie around the best of an earlier sweep "
            "of digits, those of the others, which reach two decades to each side, around the rates of Fashion-MNIST."
        ]


@config
class MultiLabelConfig(Training):
    """Several labels for each text, of generated texts or those of `data_root`."""

    documents: PositiveInt = 4000
    words: PositiveInt = 500
    labels: PositiveInt = 20
    data_root: str | None = None
    tuning_epochs: PositiveInt = 10
    refit: bool = False

    def problem(self) -> Learning:
        return MultiLabel(documents=self.documents, words=self.words, labels=self.labels, data_root=self.data_root)

    def rates(self) -> Rates:
        return Rates(adam=1e-3, sgd=0.2, expo=(0.02, 1e4), poly=(0.05, 0.1))


@config
class WeatherConfig(Training):
    """The temperature of a later hour, from every `thinning`-th window."""

    series: Series = "seattle"
    data_root: str | None = None
    thinning: PositiveInt = 1
    epochs: PositiveInt = 10
    tuning_epochs: PositiveInt = 3
    tuning_seeds: PositiveInt = 1
    radius: NonNegativeInt = 1
    extra: NonNegativeInt = 3
    validation: Fraction = 0.2
    refit: bool = False

    def problem(self) -> Learning:
        return Weather(series=self.series, data_root=self.data_root)

    def split(self) -> Split:
        return Split(*(values[:: self.thinning] for values in super().split()))

    def rates(self) -> Rates:
        return Rates(adam=1e-3, sgd=0.01, expo=(12.0, 1.0), poly=(0.05, 0.1))

    def in_time(self) -> bool:
        return True

    def notes(self, found: Comparison) -> list[str]:
        if self.series == "jena":
            return []
        return [
            "The series is one year, so that training, validation and test lie in different seasons: the order of test "
            "losses tells how networks extrapolate, more than how well a method minimises."
        ]

    def bars(self, found: Comparison) -> list[Bar]:
        adam = found.mean("test_loss", "Adam")
        return [
            Bar(f"{label}: test loss over Adam's", found.mean("test_loss", label) / adam, 1.1)
            for label in (*OURS, *KICKS_FIRST)
        ]


def _experiment(small: Training, smoke: Mapping[str, Any], paper: Mapping[str, Any]) -> Experiment:
    tiny: dict[str, Any] = {
        "repeats": 1,
        "radius": 0,
        "extra": 1,
        "tuning_epochs": 1,
        "tuning_seeds": 1,
        "epochs": 1,
        **smoke,
    }
    presets = {"smoke": replace(small, **tiny), "small": small, "paper": replace(small, **paper)}
    return Experiment(run=run, presets=presets, paper=PAPER)


DATA_FITTING = _experiment(DataFittingConfig(), {}, {"repeats": 5, "epochs": 2000, "tuning_epochs": 300})
DIGITS = _experiment(ImagesConfig(), {}, {"repeats": 5, "data": "fashion-mnist", "tuning_epochs": 5})
MNIST1D_IMAGES = _experiment(
    ImagesConfig(data="mnist1d", tuning_epochs=5),
    {"batch_size": 500},
    {"repeats": 5, "epochs": 100, "tuning_epochs": 50},
)
MULTI_LABEL = _experiment(
    MultiLabelConfig(),
    {"documents": 300, "words": 50, "labels": 5},
    {"repeats": 5, "documents": 40_000, "words": 2_000, "labels": 100},
)
WEATHER = _experiment(
    WeatherConfig(),
    {"thinning": 50, "batch_size": 16},
    {"series": "jena", "epochs": 20, "radius": 2, "extra": 7, "validation": 0.1},
)
