"""The type of attractor and λ₁ over the plane (n, γτ), learned at random points."""

from typing import Annotated, Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from pydantic import Field, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader
from sciml.experiment import Metric, RunDirectory
from sciml.training import TrainerOptions
from torch import Tensor

from mackeyglass.experiments.common import Positive
from mackeyglass.experiments.lyapunov_map import CLEAR
from mackeyglass.hopf import hopf_curve
from mackeyglass.lyapunov import lyapunov_spectrum
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.models import AttractorMap
from mackeyglass.models.attractor_map import TYPES

LOWEST = -0.2  # exponents of stable equilibria below count as this: the map need not tell how stable they are


@config
class Attractors:
    """Random points (n, γτ), a fifth for testing, with λ₁ over `delays` delays."""

    points: PositiveInt = 1500
    delays: Annotated[int, Field(ge=20)] = 400
    transient: Annotated[int, Field(ge=100)] = 300
    n: tuple[Positive, Positive] = (4.5, 14.0)
    tau: tuple[Positive, Positive] = (1.0, 2.5)
    epochs: PositiveInt = 400


def simulate_attractors(config: Attractors, seed: int) -> dict[str, Tensor]:
    """λ₁ and type at random points."""
    random = torch.Generator().manual_seed(seed)
    draws = torch.rand(config.points, 2, generator=random, dtype=torch.float64)
    low, high = torch.tensor([config.n, config.tau], dtype=torch.float64).unbind(-1)
    points = low + (high - low) * draws
    system = MackeyGlass(n=points[:, 0].contiguous(), tau=points[:, 1].contiguous())
    found = lyapunov_spectrum(system, 1, n_delays=config.delays, n_transient=config.transient, n_ensemble=1, seed=seed)
    exponent = found.exponents[:, 0]
    below = system.n < hopf_curve(system)[0]  # where the equilibrium is stable
    kind = torch.where(exponent > CLEAR, 2, torch.where(below, 0, 1))
    return {"points": points, "exponent": exponent, "type": kind}


def learn_attractors(
    config: Attractors, run: RunDirectory, atlas: dict[str, Tensor]
) -> tuple[AttractorMap, list[Metric]]:
    """An attractor map that learned from four fifths of the points, and its metrics on the rest."""
    torch.manual_seed(run.seed("weights-map"))
    model = AttractorMap()
    test = torch.arange(len(atlas["points"])) % 5 == 0
    model.set_normalization(atlas["points"][~test])
    loader = BatchLoader({key: value[~test] for key, value in atlas.items()}, 100, run.seed("order-map"))
    options = TrainerOptions(epochs=config.epochs)
    steps = options.epochs * len(loader) + 1

    def loss(model: AttractorMap, batch: dict[str, Tensor]) -> Tensor:
        out = model(batch["points"])
        # exponents have a scale of a tenth
        return torch.nn.functional.cross_entropy(out[:, :3], batch["type"]) + 100 * (
            (out[:, 3] - batch["exponent"].clamp(min=LOWEST)).square().mean()
        )

    run.train(
        "attractor-map",
        model,
        loss,
        loader,
        options,
        lambda m: torch.optim.AdamW(m.parameters(), 3e-3, weight_decay=1e-3),
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 3e-3, total_steps=steps),
    )
    model.cpu()
    with torch.no_grad():
        out = model(atlas["points"][test])
        right = out[:, :3].argmax(-1) == atlas["type"][test]
        error = (out[:, 3] - atlas["exponent"][test].clamp(min=LOWEST)).abs().mean().item()
    # which points have an equilibrium, the model is told by the Hopf curve
    moving = atlas["type"][test] > 0
    metrics = [
        *_shares("type is right", right, atlas["type"][test]),
        *_shares("cycle or chaos is right", right[moving], atlas["type"][test][moving]),
        Metric("mean error of λ1", "attractor map, test points", error),
    ]
    return model, metrics


def _shares(name: str, right: Tensor, kind: Tensor) -> list[Metric]:
    """How often the map is right, and the most frequent type would be."""
    most = torch.bincount(kind, minlength=len(TYPES)).max()
    return [
        Metric(name, "attractor map, test points", right.double().mean().item()),
        Metric(name, "most frequent type", (most / len(kind)).item()),
    ]


def draw_attractors(config: Attractors, atlas: dict[str, Tensor], model: AttractorMap) -> Figure:
    """λ₁ as simulated, and what the map says of the plane."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    n, tau = (np.linspace(*ends, 120) for ends in (config.n, config.tau))
    grid = torch.cartesian_prod(torch.from_numpy(n), torch.from_numpy(tau))
    with torch.no_grad():
        out = model(grid).unflatten(0, (120, 120)).transpose(0, 1)
    exponent, kind = out[..., 3].numpy(), out[..., :3].argmax(-1).numpy()
    scale: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -0.12, "vmax": 0.12}
    left.scatter(*atlas["points"].numpy().T, c=atlas["exponent"].numpy(), s=6, **scale)
    image = middle.pcolormesh(n, tau, exponent, rasterized=True, **scale)
    figure.colorbar(image, ax=middle, label=r"$\lambda_1$")
    three = colormaps["viridis"].resampled(3)
    types = right.pcolormesh(n, tau, kind, cmap=three, vmin=-0.5, vmax=2.5, rasterized=True)
    bar = figure.colorbar(types, ax=right, ticks=[0, 1, 2])
    bar.ax.set_yticklabels(TYPES)
    left.set(title=r"simulated $\lambda_1$", ylabel=r"$\gamma\tau$")
    middle.set(title=r"predicted $\lambda_1$")
    right.set(title="predicted type")
    for axis in (left, middle, right):
        axis.set(xlabel="n", xlim=config.n, ylim=config.tau)
    return figure
