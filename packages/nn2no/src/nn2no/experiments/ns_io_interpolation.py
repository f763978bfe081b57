"""Networks on pixels at other resolutions, with their inputs and outputs interpolated to the grid of their training."""

import torch
from pydantic import NonNegativeInt
from sciml.config import config
from sciml.data import BatchLoader
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory

from nn2no.experiments import _navier_stokes as ns


@config
class Config:
    """Everything that determines the result."""

    seed: NonNegativeInt = 0
    kinds: tuple[ns.Kind, ...] = ("U-Net", "ViT")
    data: ns.Data = ns.Data()
    models: ns.Models = ns.Models()
    training: ns.Trainings = ns.Trainings()
    loss: ns.LossName = "relative"


def run(config: Config, run: RunDirectory) -> Report:
    """Train each network on the base grid and measure its errors on all grids, with and without interpolation."""
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
        errors |= ns.evaluate(run, kind, lambda k=kind, m=model: {k: m, **ns.with_io(k, m, base)}, fields)
    ns.draw(run, config.data, errors)
    fine, bars = str(2 * base), []
    for kind in config.kinds:
        fourier = errors[f"{kind}, Fourier I/O"]
        bars += [
            Bar(
                f"{kind}, Fourier I/O: largest over smallest error", max(fourier.values()) / min(fourier.values()), 1.1
            ),
            Bar(f"{kind}, Fourier I/O: error over that without at {fine}²", fourier[fine] / errors[kind][fine], 0.6),
        ]
    notes = [
        f"Seed {config.seed}. Trained with {config.data.train} samples on {base}² nodes, Re {config.data.reynolds:g}.",
        ns.STRIDED,
        "What the base grid does not hold is neither seen nor made: errors stay flat where it holds everything.",
        ns.UNPUBLISHED,
    ]
    return Report([*ns.error_metrics(errors), *metrics], notes, bars)


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(data=ns.SMOKE_DATA, models=ns.SMOKE_MODELS, training=ns.SMOKE_TRAININGS),
        "small": Config(),
        "paper": Config(data=ns.PAPER_DATA, models=ns.PAPER_MODELS, training=ns.PAPER_TRAININGS, loss="authors"),
        "paper-short": Config(data=ns.PAPER_DATA, models=ns.PAPER_MODELS, training=ns.SHORT_TRAININGS),
    },
    paper=ns.PAPER,
)
