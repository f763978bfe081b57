"""Trained on several grids at once: a converted network needs it less than one with interpolated kernels."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory
from sciml.model import Model

from nn2no.experiments import _navier_stokes as ns
from nn2no.models.unet import UNetNO
from nn2no.multiresolution import MultiResolutionLoader

Subject = Literal["U-Net converted", "U-Net, interpolated kernels", "U-Net", "FNO"]
ALONE = "U-Net converted, base grid only"


@config
class Config:
    """Everything that determines the result.

    Batches have `training.batch_size` samples on the base grid, and fewer in proportion on finer ones. `everywhere`
    limits the error of the converted U-Net on all test grids over that on the base grid.
    """

    seed: NonNegativeInt = 0
    subjects: tuple[Subject, ...] = ("U-Net converted", "U-Net, interpolated kernels", "FNO")
    train_resolutions: tuple[PositiveInt, ...] = (32, 64)
    data: ns.Data = ns.Data()
    models: ns.Models = ns.Models()
    training: ns.Training = ns.Training()
    loss: ns.LossName = "relative"
    everywhere: PositiveFloat | None = None

    def __post_init__(self) -> None:
        if self.data.base not in self.train_resolutions or any(self.data.truth % n for n in self.train_resolutions):
            raise ValueError(
                f"train_resolutions={self.train_resolutions} must have data.base={self.data.base}, and divide "
                f"data.truth={self.data.truth}"
            )
        if missing := set(self.train_resolutions) - set(self.data.test_resolutions):
            raise ValueError(f"data.test_resolutions must have {sorted(missing)} too, which are trained on")
        if "U-Net converted" not in self.subjects:
            raise ValueError("subjects must have 'U-Net converted', with which the others are compared")


def run(config: Config, run: RunDirectory) -> Report:
    """Train on all grids together, the converted U-Net on the base grid alone too, and measure errors on all grids."""
    base, training = config.data.base, config.training
    fields = ns.load(config.data, run, config.train_resolutions)
    loaders = {
        n: BatchLoader(
            fields.train[n], max(1, training.batch_size * base // n), seed=run.seed(f"batches {n}"), drop_last=True
        )
        for n in config.train_resolutions
    }
    together = MultiResolutionLoader(list(loaders.values()), run.seed("turns"))
    metrics: list[Metric] = []
    errors: dict[str, dict[str, float]] = {}
    for subject in (ALONE, *config.subjects):
        family = "FNO" if subject == "FNO" else "U-Net"
        torch.manual_seed(run.seed(f"initial weights {family}"))  # the same for all U-Nets
        model = makers(config)[subject]()
        loader = loaders[base] if subject == ALONE else together
        metrics += ns.train(run, subject, model, loader, training, config.loss)
        errors |= ns.evaluate(run, subject, lambda s=subject, m=model: {s: m}, fields)
    ns.draw(run, config.data, errors)
    notes = [
        f"Seed {config.seed}. Trained on {', '.join(f'{n}²' for n in config.train_resolutions)} nodes with the same "
        f"{config.data.train} functions, Re = {config.data.reynolds:g}.",
        f"An epoch on all grids has {len(together)} batches, one on the base grid alone {len(loaders[base])}.",
        ns.STRIDED,
        ns.UNPUBLISHED,
    ]
    return Report([*ns.error_metrics(errors), *metrics], notes, bars(config, errors))


def makers(config: Config) -> dict[str, Callable[[], Model]]:
    """The models by subject."""
    base, sizes = config.data.base, config.models

    def operator(conv: Literal["integral", "kernel-interp"]) -> Model:
        return UNetNO(
            base_resolution=(base, base),
            conv=conv,
            width=sizes.unet_width,
            multipliers=sizes.unet_multipliers,
            kernel=sizes.unet_kernel,
        )

    return {
        ALONE: lambda: operator("integral"),
        "U-Net converted": lambda: operator("integral"),
        "U-Net, interpolated kernels": lambda: operator("kernel-interp"),
        "U-Net": lambda: ns.build("U-Net", sizes, base),
        "FNO": lambda: ns.build("FNO", sizes, base),
    }


def bars(config: Config, errors: Mapping[str, Mapping[str, float]]) -> list[Bar]:
    """The converted U-Net has one error on the grids of its training, that of training on the base grid alone."""
    converted, base = errors["U-Net converted"], str(config.data.base)
    trained = [converted[str(n)] for n in config.train_resolutions]
    found = [
        Bar("U-Net converted: largest over smallest error on the trained grids", max(trained) / min(trained), 1.15),
        Bar(
            f"U-Net converted: error at {base}² over that of training there alone",
            converted[base] / errors[ALONE][base],
            1.1,
        ),
    ]
    if config.everywhere is not None:
        ratio = max(converted.values()) / converted[base]
        found.append(Bar(f"U-Net converted: largest error over that at {base}²", ratio, config.everywhere))
    return found


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            train_resolutions=(16, 32),
            data=ns.SMOKE_DATA,
            models=ns.SMOKE_MODELS,
            training=ns.Training(epochs=1, batch_size=16),
        ),
        "small": Config(),
        "paper": Config(
            train_resolutions=(64, 128, 256),
            data=ns.PAPER_DATA,
            models=ns.PAPER_MODELS,
            training=ns.Training(epochs=101, learning_rate=5e-4, weight_decay=1e-4, halve_every=20),
            loss="authors",
            everywhere=1.2,
        ),
        "paper-short": Config(
            train_resolutions=(64, 128, 256),
            data=ns.PAPER_DATA,
            models=ns.PAPER_MODELS,
            training=ns.Training(epochs=33, learning_rate=1e-3),
            everywhere=1.2,
        ),
    },
    paper=ns.PAPER,
)
