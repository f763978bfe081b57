"""Quadrature weights on clouds of uneven density: graph kernels and attention with and without them."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory
from sciml.grids import Grid
from sciml.plotting import curves
from sciml.training import TrainerOptions
from torch import Tensor, nn

from nn2no.attention import QuadratureAttention
from nn2no.graph import GraphKernelIntegral
from nn2no.models.gno import GNO
from nn2no.problems.poisson_cloud import (
    PoissonCloud,
    boundary_points,
    interior_points,
    sine_coefficients,
    source_and_solution,
)
from nn2no.quadrature import delaunay, monte_carlo

WEIGHTS = ("weighted", "unweighted")
LAYERS = ("kernel", "mollified kernel", "attention")
MODELS = ("GNO", "attention")
REFINED = 4  # times as many points


@config
class Untrained:
    """Clouds with `points` inside and on 4 times as many, against `dense`² nodes, at random queries."""

    clouds: PositiveInt = 16
    points: PositiveInt = 800
    dense: PositiveInt = 129
    queries: PositiveInt = 200
    channels: PositiveInt = 8


@config
class Data:
    """Clouds for training, validation and each test, and the least and largest number of points inside."""

    train: PositiveInt = 192
    validation: PositiveInt = 16
    test: PositiveInt = 16
    min_points: PositiveInt = 600
    max_points: PositiveInt = 1000


@config
class Models:
    """Sizes of the two models."""

    width: PositiveInt = 24
    n_layers: PositiveInt = 2
    kernel_hidden: PositiveInt = 24
    attention_width: PositiveInt = 32
    attention_layers: PositiveInt = 3
    heads: PositiveInt = 2


@config
class Training:
    """Adam with a cosine schedule."""

    epochs: PositiveInt = 8
    batch_size: PositiveInt = 4
    learning_rate: PositiveFloat = 5e-3
    final_learning_rate: NonNegativeFloat = 1e-5


@config
class Config:
    """Everything that determines the result; `radius` is that of all kernels, on the unit square."""

    seed: NonNegativeInt = 0
    radius: PositiveFloat = 0.15
    untrained: Untrained = Untrained()
    data: Data = Data()
    models: Models = Models()
    training: Training = Training()


class CloudTransformer(nn.Module):
    """Softmax attention on clouds: layers v ↦ v + A(v), v ↦ v + MLP(v), each after normalisation over the channels."""

    def __init__(self, width: int, n_layers: int, heads: int) -> None:
        super().__init__()
        self.lifting = nn.Sequential(nn.Linear(3, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.attentions = nn.ModuleList(QuadratureAttention(width, heads) for _ in range(n_layers))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(n_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_layers))
        self.projection = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 1))

    def forward(self, f: Tensor, coords: Tensor, weights: Tensor) -> Tensor:
        """Fields (batch, point, 1) on clouds (batch, point, 2) with weights (batch, point), zero where none is."""
        v = self.lifting(torch.cat([f, coords.nan_to_num()], -1))
        for norm, attention, mlp in zip(self.norms, self.attentions, self.mlps, strict=True):
            v = v + attention(norm(v), weights)
            v = v + mlp(v)
        return self.projection(v)


def run(config: Config, run: RunDirectory) -> Report:
    """Measure untrained layers against a dense cloud, then train models with and without weights on uneven clouds."""
    errors = run.step("untrained", lambda: untrained_errors(config, run.seed("untrained clouds")))
    n = [(k := round(config.untrained.points * factor)) + len(boundary_points(k)) for factor in FACTORS]
    run.figure("untrained", curves(n, errors, xlabel="points"))
    metrics = []
    for layer, by_weights in errors.items():
        for weighting, values in by_weights.items():
            subject = f"{layer}, {weighting}, untrained"
            base, refined = (float(values[FACTORS.index(factor)]) for factor in (1, REFINED))
            metrics.append(Metric("error", subject, base))
            metrics.append(Metric("error_on_4x_points", subject, refined))
            metrics.append(Metric("error_over_that_on_4x_points", subject, base / refined))
    metrics += trained_metrics(config, run)
    notes = [
        f"Seed {config.seed}. Untrained: mean over {config.untrained.clouds} clustered clouds of {n[FACTORS.index(1)]} "
        f"points, at {config.untrained.queries} queries.",
        "Without weights every point counts alike. The loss and the errors are relative L2 norms with Delaunay weights "
        "for all models. Unseen density: 1/√x from a side.",
    ]
    return Report(metrics, notes, _bars(metrics))


FACTORS = (0.5, 1, 2, REFINED)


def untrained_errors(config: Config, seed: int) -> dict[str, dict[str, Tensor]]:
    """Relative errors of random layers, the mean over clouds for each factor of `FACTORS`."""
    sizes, layers = config.untrained, untrained_layers(config)
    lifting = nn.Linear(3, sizes.channels)
    found: dict[str, dict[str, Tensor]] = {
        layer: {weighting: torch.zeros(len(FACTORS)) for weighting in WEIGHTS} for layer in layers
    }
    grid = Grid.uniform((sizes.dense, sizes.dense), dtype=torch.float32)
    dense, dense_weights = grid.coords.reshape(-1, 2), grid.weights.reshape(-1)
    for child in np.random.SeedSequence(seed).spawn(sizes.clouds):
        rng = np.random.default_rng(child)
        a = sine_coefficients(rng, PoissonCloud.max_mode)
        queries = torch.as_tensor(rng.uniform(size=(sizes.queries, 2)), dtype=torch.float32)
        clouds = [
            torch.as_tensor(
                np.concatenate([interior_points(rng, n, "clustered"), boundary_points(n)]), dtype=torch.float32
            )
            for n in (round(sizes.points * factor) for factor in FACTORS)
        ]

        def lifted(x: Tensor, a: np.ndarray = a) -> Tensor:
            f = torch.as_tensor(source_and_solution(a, x.double().numpy())[0][:, None])
            return lifting(torch.cat([f.to(x), x], 1))[None]

        with torch.no_grad():
            at_queries = lifted(queries)
            for label, layer in layers.items():
                exact = layer(lifted(dense), dense, dense_weights, queries, at_queries)
                for i, x in enumerate(clouds):
                    for weighting, w in zip(WEIGHTS, (delaunay(x), monte_carlo(x)), strict=True):
                        g = layer(lifted(x), x, w, queries, at_queries)
                        found[label][weighting][i] += float((g - exact).norm() / exact.norm()) / sizes.clouds
    return found


def untrained_layers(config: Config) -> dict[str, Callable[..., Tensor]]:
    """Random layers: (values, points, weights, queries, values at queries) ↦ output at queries."""
    c = config.untrained.channels
    attention = QuadratureAttention(c)
    for parameter in attention.parameters():  # with torch's initial weights all logits are nearly equal
        nn.init.normal_(parameter) if parameter.ndim == 2 else nn.init.zeros_(parameter)
    kernels = [GraphKernelIntegral(c, c, 2, config.radius, mollified=m) for m in (False, True)]
    calls = [lambda v, x, w, y, _, kernel=kernel: kernel(v, x, w, y) for kernel in kernels]
    return dict(zip(LAYERS, [*calls, lambda v, x, w, y, at: attention(at, w[None], v)], strict=True))


def trained_metrics(config: Config, run: RunDirectory) -> list[Metric]:
    """Train both models with and without weights; errors on the density seen and another one, and on 4x the points."""
    data, training = config.data, config.training
    mixed = PoissonCloud(min_points=data.min_points, max_points=data.max_points)
    finer = replace(mixed, min_points=REFINED * data.min_points, max_points=REFINED * data.max_points)
    train = tensors(run.generate("train", mixed, data.train))
    validation = tensors(run.generate("validation", mixed, data.validation))
    tests = {
        "test_error": mixed,
        "test_error_on_unseen_density": replace(mixed, density="graded"),
        "test_error_on_4x_points": finer,
        "test_error_on_unseen_density_and_4x_points": replace(finer, density="graded"),
    }
    tested = {name: tensors(run.generate(name, problem, data.test)) for name, problem in tests.items()}
    units = {name: float(train[name].square().mean().sqrt()) for name in ("f", "u")}
    loaders = [
        BatchLoader(part, training.batch_size, seed=run.seed("batches"), shuffle=shuffle)
        for part, shuffle in ((train, True), (validation, False))
    ]
    metrics = []
    for kind in MODELS:
        for weighting in WEIGHTS:
            subject = f"{kind}, {weighting}"
            name = subject.lower().replace(", ", "-")
            torch.manual_seed(run.seed(f"initial weights {kind}"))  # the same with and without weights
            model = make_model(kind, config)
            errors = relative_errors(units, weighted=weighting == "weighted")
            result = run.train(
                name,
                model,
                lambda model, batch, errors=errors: errors(model, batch).mean(),
                loaders[0],
                TrainerOptions(epochs=training.epochs),
                lambda m: torch.optim.Adam(m.parameters(), lr=training.learning_rate),
                scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(
                    o, training.epochs * len(loaders[0]), training.final_learning_rate
                ),
                validation=loaders[1],
            )
            model = model.cpu()
            found = run.step(f"tests-{name}", lambda m=model, errors=errors: evaluate(m, errors, tested))
            metrics += [Metric(test, subject, value) for test, value in found.items()]
            metrics.append(Metric("training_time", subject, result.time, "s"))
    return metrics


def tensors(dataset: xarray.Dataset) -> dict[str, Tensor]:
    """Coordinates x (NaN where there is no point), and f, u, weights with zeros there."""
    found = {name: torch.as_tensor(dataset[name].values, dtype=torch.float32) for name in ("x", "f", "u", "weights")}
    return {name: value if name == "x" else value.nan_to_num() for name, value in found.items()}


def make_model(kind: str, config: Config) -> nn.Module:
    """The model of one of `MODELS`."""
    m = config.models
    if kind == "GNO":
        return GNO(radius=config.radius, width=m.width, n_layers=m.n_layers, kernel_hidden=m.kernel_hidden)
    return CloudTransformer(m.attention_width, m.attention_layers, m.heads)


def relative_errors(units: Mapping[str, float], *, weighted: bool) -> Callable[[Any, Mapping[str, Tensor]], Tensor]:
    """(model, batch) ↦ relative L2 errors of the samples; only the model's layers may be without weights."""

    def errors(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        w = batch["weights"]
        real = (w > 0).to(w)
        layer_weights = w if weighted else real / real.sum(1, keepdim=True)
        u = model((batch["f"] / units["f"])[..., None], batch["x"], layer_weights)[..., 0] * units["u"]
        norm = lambda v: (w * v.square()).sum(1).sqrt()  # noqa: E731
        return norm(u - batch["u"]) / norm(batch["u"])

    return errors


@torch.no_grad()
def evaluate(
    model: nn.Module, errors: Callable[..., Tensor], tests: Mapping[str, dict[str, Tensor]]
) -> dict[str, float]:
    """The mean error on each test."""
    model.eval()
    found = {}
    for name, test in tests.items():
        # one cloud at a time: the fine ones have some hundred neighbours a point
        samples: Iterator[dict[str, Tensor]] = BatchLoader(test, 1, shuffle=False).batches(0)
        found[name] = float(np.mean([float(errors(model, sample)) for sample in samples]))
    return found


def _bars(metrics: list[Metric]) -> list[Bar]:
    value = {(m.name, m.subject): m.value for m in metrics}
    bars = []
    for layer in LAYERS:
        weighted, unweighted = (f"{layer}, {weighting}, untrained" for weighting in WEIGHTS)
        ratio = "error_over_that_on_4x_points"
        bars += [
            Bar(f"{weighted}: error", value["error", weighted], 0.2),
            Bar(f"{weighted}: error over that on 4x points", value[ratio, weighted], 2.5, at_least=True),
            Bar(
                f"{layer}, untrained: unweighted over weighted error",
                value["error", unweighted] / value["error", weighted],
                2.0,
                at_least=True,
            ),
            Bar(f"{unweighted}: error over that on 4x points", value[ratio, unweighted], math.nextafter(2.0, 0)),
        ]
    for kind in MODELS:
        with_weights, without = (value["test_error_on_unseen_density", f"{kind}, {w}"] for w in WEIGHTS)
        bars.append(Bar(f"{kind}: weighted over unweighted error on unseen density", with_weights / without, 1.0))
    return bars


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(
            radius=0.5,
            untrained=Untrained(clouds=1, points=100, dense=17, queries=10, channels=2),
            data=Data(train=4, validation=2, test=1, min_points=30, max_points=40),
            models=Models(width=4, n_layers=1, kernel_hidden=4, attention_width=4, attention_layers=1, heads=1),
            training=Training(epochs=2, batch_size=2),
        ),
        "small": Config(),
        "paper": Config(
            untrained=Untrained(clouds=64, dense=257),
            data=Data(train=4096, validation=128, test=128),
            models=Models(width=64, n_layers=4, kernel_hidden=64, attention_width=128, attention_layers=6, heads=8),
            training=Training(epochs=100, batch_size=16, learning_rate=1e-3),
        ),
    },
    paper="Principled Approaches for Extending Neural Architectures to Function Spaces for Operator Learning, "
    "arXiv 2506.10973, §3.4 and §3.5",
)
