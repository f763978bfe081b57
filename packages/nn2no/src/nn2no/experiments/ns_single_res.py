"""Trained on one grid, tested on others: operators keep their error, networks on pixels do not, converted ones do."""

from collections.abc import Mapping

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory

from nn2no.experiments import _navier_stokes as ns


@config
class Limits:
    """Of the FNO's error on the base grid and its ratio over resolutions from `flat_from`; of the U-Net's growth."""

    fno_error: PositiveFloat = 0.11
    fno_ratio: PositiveFloat = 1.03
    flat_from: PositiveInt = 16
    unet_growth: PositiveFloat = 2.0


@config
class Config:
    """Everything that determines the result."""

    seed: NonNegativeInt = 0
    kinds: tuple[ns.Kind, ...] = ("FNO", "U-Net", "ViT", "OFormer")
    data: ns.Data = ns.Data()
    models: ns.Models = ns.Models()
    training: ns.Trainings = ns.Trainings()
    loss: ns.LossName = "relative"
    limits: Limits = Limits()


def run(config: Config, run: RunDirectory) -> Report:
    """Train every kind of model on the base grid and measure errors on all test grids, also of converted models."""
    base = config.data.base
    fields = ns.load(config.data, run, [base])
    metrics: list[Metric] = []
    errors: dict[str, dict[str, float]] = {}
    for kind in config.kinds:
        torch.manual_seed(run.seed(f"initial weights {kind}"))
        model = ns.build(kind, config.models, base)
        training = config.training.of(kind)
        loader = BatchLoader(fields.train[base], training.batch_size, seed=run.seed("batches"), drop_last=True)
        metrics += ns.train(run, kind, model, loader, training, config.loss)
        metrics.append(Metric("parameters", kind, float(sum(p.numel() for p in model.parameters()))))
        errors |= ns.evaluate(run, kind, lambda k=kind, m=model: ns.zero_shot(k, m, config.models, base), fields)
    ns.draw(run, config.data, errors)
    notes = [
        f"Seed {config.seed}. Trained with {config.data.train} samples on {base}² nodes, Re {config.data.reynolds:g}.",
        ns.STRIDED,
        "Of the U-Net and the ViT, the other lines have the same weights, without further training.",
        ns.UNPUBLISHED,
    ]
    return Report([*ns.error_metrics(errors), *metrics], notes, bars(config, errors))


def bars(config: Config, errors: Mapping[str, Mapping[str, float]]) -> list[Bar]:
    """What the spread of errors over resolutions has to show."""
    limits, base = config.limits, str(config.data.base)
    coarse, fine = str(config.data.base // 2), str(2 * config.data.base)
    found = []
    if fno := errors.get("FNO"):
        flat = [e for n, e in fno.items() if int(n) >= limits.flat_from]
        found += [
            Bar(
                f"FNO: largest over smallest error from {limits.flat_from}² on", max(flat) / min(flat), limits.fno_ratio
            ),
            Bar(f"FNO: error at {base}²", fno[base], limits.fno_error),
        ]
        for label in ("FNO + local integral", "FNO + differential"):
            if local := errors.get(label):
                found.append(Bar(f"{label}: error over that of the FNO at {base}²", local[base] / fno[base], 1.0))
    if raw := errors.get("U-Net"):
        converted, interpolated = errors["U-Net converted"], errors["U-Net, interpolated kernels"]
        if fno:
            found.append(Bar(f"FNO: error over that of the U-Net at {base}²", fno[base] / raw[base], 0.65))
        found += [
            Bar(
                f"U-Net: error at {fine}² over that at {base}²",
                raw[fine] / raw[base],
                limits.unet_growth,
                at_least=True,
            ),
            Bar(f"U-Net converted: error over that of the U-Net at {fine}²", converted[fine] / raw[fine], 0.5),
            Bar(
                f"U-Net converted: error over that with interpolated kernels at {fine}²",
                converted[fine] / interpolated[fine],
                1.0,
            ),
            Bar(f"U-Net converted: error over that of the U-Net at {coarse}²", converted[coarse] / raw[coarse], 0.85),
            Bar(
                f"U-Net converted: error over that with interpolated kernels at {coarse}²",
                converted[coarse] / interpolated[coarse],
                0.5,
            ),
        ]
    return found


_LARGE = Config(
    kinds=("FNO", "FNO + local integral", "FNO + differential", "U-Net", "ViT", "OFormer"),
    data=ns.PAPER_DATA,
    models=ns.PAPER_MODELS,
    training=ns.PAPER_TRAININGS,
    loss="authors",
    limits=Limits(fno_error=0.02, fno_ratio=1.05, flat_from=128, unet_growth=3.0),
)
_SHORT = Config(
    kinds=_LARGE.kinds,
    data=_LARGE.data,
    models=_LARGE.models,
    training=ns.SHORT_TRAININGS,
    limits=_LARGE.limits,
)

EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(data=ns.SMOKE_DATA, models=ns.SMOKE_MODELS, training=ns.SMOKE_TRAININGS),
        "small": Config(),
        "paper": _LARGE,
        "paper-short": _SHORT,
    },
    paper=ns.PAPER,
)
