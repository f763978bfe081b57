"""What the experiments on the Navier-Stokes equation share: data, models, training and errors at each resolution."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from sciml.config import config
from sciml.data import BatchLoader
from sciml.experiment import Metric, RunDirectory
from sciml.grids import Grid
from sciml.losses import LpLoss, Supervised
from sciml.model import Model
from sciml.plotting import curves
from sciml.training import Loader, TrainerOptions
from torch import Tensor, nn

from nn2no.conversion import convert
from nn2no.io_interpolation import interpolate_io
from nn2no.models.fno import FNO, LocalNO
from nn2no.models.oformer import OFormer
from nn2no.models.unet import UNet
from nn2no.models.vit import ViT, ViTNO
from nn2no.problems.navier_stokes import NavierStokes

Kind = Literal["FNO", "FNO + local integral", "FNO + differential", "U-Net", "ViT", "OFormer"]
LossName = Literal["relative", "authors"]
PAPER = (
    "Principled Approaches for Extending Neural Architectures to Function Spaces for Operator Learning, "
    "arXiv 2506.10973, §5"
)
UNPUBLISHED = "No number was published for these experiments (the paper's results are a plot): none stands beside ours."
STRIDED = (
    "Coarser fields are every second, fourth, … value of the fine ones, inputs are standardised by one mean and one "
    "standard deviation. Errors are the mean relative L2 error over the test samples."
)


@config
class Data:
    """Samples, nodes an axis of the computed fields, of the grid trained on and of those tested on; Reynolds number."""

    train: PositiveInt = 1024
    test: PositiveInt = 128
    truth: PositiveInt = 64
    test_truth: PositiveInt = 64
    base: PositiveInt = 32
    test_resolutions: tuple[PositiveInt, ...] = (16, 32, 64)
    reynolds: PositiveFloat = 100.0

    def __post_init__(self) -> None:
        if self.truth % self.base or any(self.test_truth % n for n in self.test_resolutions):
            raise ValueError(
                f"truth={self.truth} must be a multiple of base={self.base}, and test_truth={self.test_truth} one of "
                f"test_resolutions={self.test_resolutions}: coarser fields are read off finer ones"
            )
        needed = {self.base // 2, self.base, 2 * self.base}
        if not needed <= set(self.test_resolutions):
            raise ValueError(f"test_resolutions={self.test_resolutions} must have {sorted(needed)}, which are compared")


@config
class Models:
    """Sizes of the models."""

    fno_modes: PositiveInt = 8
    fno_width: PositiveInt = 24
    fno_layers: PositiveInt = 4
    fno_ratio: PositiveFloat = 2.0
    local_modes: PositiveInt = 8
    local_width: PositiveInt = 24
    local_ratio: PositiveFloat = 2.0
    embedding: Literal["periodic", "raw"] = "periodic"
    unet_width: PositiveInt = 12
    unet_multipliers: tuple[PositiveInt, ...] = (1, 2, 2)
    unet_kernel: PositiveInt = 5
    vit_patch: PositiveInt = 4
    vit_width: PositiveInt = 64
    vit_layers: PositiveInt = 4
    vit_heads: PositiveInt = 4
    vit_hidden: PositiveInt = 128
    oformer_modes: PositiveInt = 8
    oformer_width: PositiveInt = 32
    oformer_heads: PositiveInt = 2
    oformer_layers: PositiveInt = 4


@config
class Training:
    """Adam; the learning rate is halved after every `halve_every` epochs, or follows one cycle if that is None."""

    epochs: PositiveInt = 40
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 1e-4
    halve_every: PositiveInt | None = None


@config
class Trainings:
    """How each family of models is trained."""

    fno: Training = Training(learning_rate=4e-3)
    unet: Training = Training()
    vit: Training = Training(learning_rate=5e-3)
    # its steps cost several times those of the FNO
    oformer: Training = Training(epochs=20, learning_rate=1e-3, weight_decay=1e-6)

    def of(self, kind: Kind) -> Training:
        """That of one kind of model."""
        families = {"U-Net": self.unet, "ViT": self.vit, "OFormer": self.oformer}
        return families.get(kind, self.fno)


# epochs, batch sizes, learning rates and their steps are those of the authors' configurations
PAPER_DATA = Data(
    train=10_000, test=1000, truth=256, test_truth=512, base=128, test_resolutions=(64, 128, 256, 512), reynolds=500.0
)
PAPER_MODELS = Models(
    fno_modes=32,
    fno_width=62,
    fno_ratio=4.13,
    local_modes=20,
    local_width=99,
    local_ratio=2.59,
    embedding="raw",
    unet_width=19,
    unet_multipliers=(1, 2, 2, 3),
    unet_kernel=9,
    vit_patch=16,
    vit_width=768,
    vit_layers=12,
    vit_heads=12,
    vit_hidden=1900,
    oformer_width=220,
    oformer_heads=16,
)
PAPER_TRAININGS = Trainings(
    fno=Training(epochs=500, learning_rate=5e-4, weight_decay=1e-4, halve_every=33),
    unet=Training(epochs=301, learning_rate=5e-4, weight_decay=1e-4, halve_every=50),
    vit=Training(epochs=301, learning_rate=5e-4, weight_decay=1e-4, halve_every=50),
    oformer=Training(epochs=201, batch_size=2, learning_rate=1e-4, weight_decay=1e-6, halve_every=33),
)
SHORT_TRAININGS = Trainings(
    fno=Training(epochs=100, learning_rate=1e-3),
    unet=Training(epochs=100, learning_rate=1e-3),
    vit=Training(epochs=100, learning_rate=5e-4),
    oformer=Training(epochs=100, batch_size=2, learning_rate=2e-4),
)
SMOKE_DATA = Data(train=16, test=16, truth=32, test_truth=32, base=16, test_resolutions=(8, 16, 32))
SMOKE_MODELS = Models(
    fno_modes=3,
    fno_width=4,
    fno_layers=1,
    unet_width=2,
    unet_multipliers=(1, 2),
    unet_kernel=3,
    vit_width=8,
    vit_layers=1,
    vit_heads=1,
    vit_hidden=8,
    oformer_modes=3,
    oformer_width=4,
    oformer_heads=1,
    oformer_layers=1,
)
_BRIEF = Training(epochs=1, batch_size=8)
SMOKE_TRAININGS = Trainings(fno=_BRIEF, unet=_BRIEF, vit=_BRIEF, oformer=_BRIEF)


@dataclass(frozen=True)
class Fields:
    """Standardised forcings x and vorticities y, (sample, 1, N, N) each, by resolution N."""

    train: dict[int, dict[str, Tensor]]
    test: dict[int, dict[str, Tensor]]


def load(data: Data, run: RunDirectory, resolutions: Sequence[int]) -> Fields:
    """The data, for training at these resolutions."""
    found = {}
    for part, n, truth, sizes in (
        ("train", data.train, data.truth, resolutions),
        ("test", data.test, data.test_truth, data.test_resolutions),
    ):
        problem = NavierStokes(resolution=truth, reynolds=data.reynolds)
        with run.runtime.float64_device:
            dataset = run.generate(part, problem, n)
        found[part] = {
            size: {
                name: torch.as_tensor(dataset[name][:, :: truth // size, :: truth // size].values, dtype=torch.float32)[
                    :, None
                ]
                for name in ("x", "y")
            }
            for size in sizes
        }
    std, mean = torch.std_mean(found["train"][data.base]["x"])
    for batch in (*found["train"].values(), *found["test"].values()):
        batch["x"] = (batch["x"] - mean) / std
    return Fields(found["train"], found["test"])


def build(kind: Kind, sizes: Models, base: int) -> Model:
    """An untrained model for the grid of base² nodes."""
    common: dict[str, Any] = {"embedding": sizes.embedding, "n_layers": sizes.fno_layers}
    if kind == "FNO":
        modes, ratio = (sizes.fno_modes,) * 2, sizes.fno_ratio
        return FNO(n_modes=modes, width=sizes.fno_width, lifting_ratio=ratio, projection_ratio=ratio, **common)
    if kind == "U-Net":
        return UNet(width=sizes.unet_width, multipliers=sizes.unet_multipliers, kernel=sizes.unet_kernel)
    if kind == "ViT":
        return ViT(**vit_arguments(sizes, base))
    if kind == "OFormer":
        return OFormer(
            n_modes=(sizes.oformer_modes,) * 2,
            width=sizes.oformer_width,
            heads=sizes.oformer_heads,
            n_layers=sizes.oformer_layers,
            embedding=sizes.embedding,
        )
    integral = kind == "FNO + local integral"
    return LocalNO(
        n_modes=(sizes.local_modes,) * 2,
        width=sizes.local_width,
        lifting_ratio=sizes.local_ratio,
        projection_ratio=sizes.local_ratio,
        integral_layers=None if integral else (),
        radius=3 / base,  # of two cells, as published, a grid half as fine has but one, and no function of a ring
        differential_layers=() if integral else (sizes.fno_layers - 1,),
        base_resolution=base,
        **common,
    )


def vit_arguments(sizes: Models, base: int) -> dict[str, Any]:
    """Those of `ViT` and `ViTNO`."""
    return {
        "base_resolution": (base, base),
        "patch": sizes.vit_patch,
        "width": sizes.vit_width,
        "n_layers": sizes.vit_layers,
        "heads": sizes.vit_heads,
        "hidden": sizes.vit_hidden,
    }


def with_io(label: str, model: nn.Module, base: int) -> dict[str, nn.Module]:
    """The model with its input and output interpolated, in both ways."""
    grid = Grid.uniform((base, base), periodic=True)
    return {
        f"{label}, linear I/O": interpolate_io(model, grid, "linear"),
        f"{label}, Fourier I/O": interpolate_io(model, grid, "fourier"),
    }


def zero_shot(kind: Kind, model: nn.Module, sizes: Models, base: int) -> dict[str, nn.Module]:
    """The trained model and what can be made of it without training, by label."""
    grid = Grid.uniform((base, base), periodic=True)
    variants: dict[str, nn.Module] = {kind: model}
    if kind == "U-Net":
        variants |= with_io(kind, model, base)
        variants["U-Net converted"] = convert(model, grid)
        variants["U-Net, interpolated kernels"] = convert(model, grid, conv="kernel-interp")
    if kind == "ViT":
        operator = ViTNO(**vit_arguments(sizes, base))
        operator.load_state_dict(model.state_dict())
        variants["ViTNO"] = operator
    return variants


def authors_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """(Σ_batch ‖e_b‖)² with norms of L²([0, 2π]²): the loss of the authors' code."""
    return (2 * math.pi * (prediction - target).square().flatten(1).mean(1).sqrt().sum()).square()


def train(
    run: RunDirectory, name: str, model: nn.Module, loader: Loader, training: Training, loss: LossName
) -> list[Metric]:
    """Train in place; the metric is the time that it took, for the subject `name`."""
    steps = len(loader)

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        if training.halve_every is not None:
            return torch.optim.lr_scheduler.StepLR(optimizer, training.halve_every * steps, 0.5)
        total = max(training.epochs * steps, 2)
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total)

    result = run.train(
        name.lower().replace(",", "").replace("+ ", "").replace(" ", "-"),
        model,
        Supervised(LpLoss() if loss == "relative" else authors_loss),
        loader,
        TrainerOptions(epochs=training.epochs),
        lambda m: torch.optim.Adam(m.parameters(), training.learning_rate, weight_decay=training.weight_decay),
        scheduler=schedule,
    )
    return [Metric("training_time", name, result.time, "s")]


def evaluate(
    run: RunDirectory, name: str, make: Callable[[], Mapping[str, nn.Module]], fields: Fields
) -> dict[str, dict[str, float]]:
    """{label: {N: mean relative L2 error}} of the modules that `make` returns, computed once."""

    @torch.no_grad()
    def measure() -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for label, module in make().items():
            module.to(run.runtime.device).eval()
            errors = {}
            for n, batch in fields.test.items():
                loader = BatchLoader(batch, max(1, 2**16 // n**2), shuffle=False)
                parts = [
                    LpLoss(reduction="none")(module(part["x"]), part["y"])
                    for part in map(run.runtime.to_device, loader.batches(0))
                ]
                errors[str(n)] = float(torch.cat(parts).mean())
            found[label] = errors
        return found

    return run.step(f"tests-{name.lower().replace(' ', '-')}", measure)


def error_metrics(errors: Mapping[str, Mapping[str, float]]) -> list[Metric]:
    """The errors as metrics `relative_l2_at_<N>`, and the largest over the smallest of each."""
    metrics = []
    for label, values in errors.items():
        metrics += [Metric(f"relative_l2_at_{n}", label, value) for n, value in values.items()]
        metrics.append(Metric("largest_over_smallest_error", label, max(values.values()) / min(values.values())))
    return metrics


def draw(run: RunDirectory, data: Data, errors: Mapping[str, Mapping[str, float]]) -> None:
    """The figure `errors`: those of every label over the resolution."""
    lines = {label: list(values.values()) for label, values in errors.items()}
    run.figure("errors", curves(list(data.test_resolutions), {"relative L2 error": lines}, xlabel="nodes an axis"))
