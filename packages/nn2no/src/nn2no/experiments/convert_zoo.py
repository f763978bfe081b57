"""Conversion of networks that nobody here wrote: equal on their base grid, convergent beyond it, or refused and why."""

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import metadata
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from sciml.config import config
from sciml.errors import ConfigError
from sciml.experiment import Bar, Experiment, Metric, Report, RunDirectory
from sciml.grids import Grid
from sciml.plotting import convergence
from torch import Tensor, nn

from nn2no.convergence import check_discretization_convergence
from nn2no.conversion import convert
from nn2no.errors import ConversionError
from nn2no.models.unet import UNet
from nn2no.models.vit import ViT
from nn2no.refinement import difference, intervals, random_fields, refined

REFINEMENTS = (1, 2, 4, 8)
TOLERANCE = 0.3  # beyond it a network is not the operator that it is on its base grid
Upsampling = Literal["none", "linear", "nearest", "transposed"]


@config
class Config:
    """Everything that determines the result.

    `networks` is a pattern of what is converted, on base grids `enlarged` times as fine as those below. Inputs have
    waves |k| <= `modes`, with at least eight nodes a wave on the coarsest level of the network unless |k| <= 1.
    """

    seed: NonNegativeInt = 0
    networks: str = "*"
    enlarged: PositiveInt = 1
    modes: PositiveInt = 2


@dataclass(frozen=True)
class Network:
    """How to make a network for a base grid of n nodes along each axis, and what must be known of it.

    `base` is the least such n that is worth while, `stride` the ratio of its finest and its coarsest level; `periodic`
    networks join the sides of the domain, others fill up with zeros.
    """

    make: Callable[[int], nn.Module]
    base: int
    stride: int
    upsampling: Upsampling = "none"
    channels: int = 3
    dim: int = 2
    periodic: bool = False


class ResidualBlock(nn.Module):
    """x ↦ ReLU(x + BN C ReLU(BN C x)), with convolutions C of 3x3 taps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)]
        norm = [nn.BatchNorm2d(channels) for _ in range(2)]
        self.body = nn.Sequential(conv[0], norm[0], nn.ReLU(), conv[1], norm[1])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def cnn() -> nn.Module:
    """Three periodic convolutions."""
    widths = (1, 8, 8, 1)
    convs = [nn.Conv2d(a, b, 5, padding=2, padding_mode="circular") for a, b in pairwise(widths)]
    return nn.Sequential(convs[0], nn.GELU(), convs[1], nn.GELU(), convs[2])


def resnet() -> nn.Module:
    """A residual network with ten classes."""
    stages = [m for c in (16, 32) for m in (ResidualBlock(c), nn.Conv2d(c, 2 * c, 3, 2, 1), nn.ReLU())]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), *stages, *head)


def of(module: str, name: str, *args: Any, size: str | None = None, **options: Any) -> Callable[[int], nn.Module]:
    """`module.name(*args, **options)`, imported when called, with n as the argument that `size` names."""
    return lambda n: getattr(importlib.import_module(module), name)(*args, **options, **({size: n} if size else {}))


def tv(name: str, **options: Any) -> Callable[[int], nn.Module]:
    """A network of torchvision."""
    return of("torchvision.models", name, **options)


def segmentation(name: str) -> Callable[[int], nn.Module]:
    """A segmentation network of torchvision."""
    return of("torchvision.models.segmentation", name, weights=None, weights_backbone=None, num_classes=4)


def timm(name: str, **options: Any) -> Callable[[int], nn.Module]:
    """A network of timm."""
    return of("timm", "create_model", name, **options)


def monai(name: str, *args: Any, **options: Any) -> Callable[[int], nn.Module]:
    """A network of MONAI."""
    return of("monai.networks.nets", name, *args, **options)


def smp(name: str, encoder: str = "resnet18", **options: Any) -> Callable[[int], nn.Module]:
    """A network of segmentation_models_pytorch."""
    return of("segmentation_models_pytorch", name, encoder, encoder_weights=None, **options)


def hf(name: str, size: str | None = None, **options: Any) -> Callable[[int], nn.Module]:
    """A network of transformers, from its configuration."""

    def make(n: int) -> nn.Module:
        model = getattr(importlib.import_module("transformers"), name)
        return model(model.config_class(**options, **({size: n} if size else {})))

    return make


VIT = {"patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128}
TINY = {"patch_size": 8, "depth": 3}
STAGES: Mapping[str, Any] = {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 2, 1]}
TOKENS: Mapping[str, Any] = {"patch_size": 8, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALLER = {"encoder_depth": 3, "decoder_channels": (64, 32, 16)}
# by the module that a network comes from
ZOO: Mapping[str, Mapping[str, Network]] = {
    "nn2no": {
        "cnn": Network(lambda n: cnn(), 32, 1, channels=1, periodic=True),
        "resnet": Network(lambda n: resnet(), 64, 8),
        "unet": Network(
            lambda n: UNet(padding_mode="circular", embedding="none"), 32, 4, "transposed", channels=1, periodic=True
        ),
        "vit": Network(lambda n: ViT(base_resolution=(n, n)), 32, 4, "transposed", channels=1),
    },
    "torchvision": {
        "resnet18": Network(tv("resnet18"), 128, 32),
        "convnext_tiny": Network(tv("convnext_tiny"), 128, 32),
        "mobilenet_v3_small": Network(tv("mobilenet_v3_small"), 128, 32),
        "efficientnet_b0": Network(tv("efficientnet_b0"), 128, 32),
        "densenet121": Network(tv("densenet121"), 128, 32),
        "vgg11": Network(tv("vgg11"), 128, 32),
        "squeezenet1_1": Network(tv("squeezenet1_1"), 128, 16),
        "vit": Network(tv("VisionTransformer", size="image_size", **VIT), 64, 8),
        "swin_t": Network(tv("swin_t"), 128, 32),
        "fcn_resnet50": Network(segmentation("fcn_resnet50"), 64, 8, "linear"),
        "lraspp_mobilenet": Network(segmentation("lraspp_mobilenet_v3_large"), 128, 16, "linear"),
    },
    "timm": {
        "resnet26": Network(timm("resnet26", num_classes=0), 128, 32),
        "vit_tiny": Network(timm("vit_tiny_patch16_224", size="img_size", dynamic_img_size=True, **TINY), 64, 8),
        "vit_tiny, one size": Network(timm("vit_tiny_patch16_224", size="img_size", **TINY), 64, 8),
        "mixer_s16": Network(timm("mixer_s16_224", size="img_size"), 128, 16),
        "convnextv2_atto": Network(timm("convnextv2_atto"), 128, 32),
        "swin_tiny": Network(timm("swin_tiny_patch4_window7_224", size="img_size", window_size=4), 128, 32),
        "efficientvit_b0": Network(timm("efficientvit_b0"), 128, 32),
    },
    "monai": {
        "UNet": Network(monai("UNet", 2, 1, 1, (8, 16, 32), (2, 2), num_res_units=1), 32, 4, "transposed", 1),
        "UNet in 3-D": Network(monai("UNet", 3, 1, 1, (4, 8, 16), (2, 2)), 16, 4, "transposed", 1, 3),
        "BasicUNet": Network(monai("BasicUNet", 2, 1, 1, (8, 8, 16, 16, 32, 8)), 128, 16, "transposed", 1),
        "BasicUNet, interpolating": Network(
            monai("BasicUNet", 2, 1, 1, (8, 8, 16, 16, 32, 8), upsample="nontrainable"), 128, 16, "linear", 1
        ),
        "SegResNet": Network(monai("SegResNet", 2, 8, 1, 1), 64, 8, "linear", 1),
        "AttentionUnet": Network(monai("AttentionUnet", 2, 1, 1, (8, 16, 32), (2, 2)), 32, 4, "transposed", 1),
        "DenseNet121": Network(monai("DenseNet121", 2, 1, 3), 128, 32, channels=1),
        "VNet": Network(monai("VNet", 2, 1, 1), 64, 16, "transposed", 1),
        "HighResNet": Network(monai("HighResNet", 2, 1, 1), 32, 1, channels=1),
    },
    "segmentation_models_pytorch": {
        "Unet": Network(smp("Unet", **SMALLER), 64, 8, "nearest"),
        "Unet, bilinear": Network(smp("Unet", **SMALLER, decoder_interpolation="bilinear"), 64, 8, "linear"),
        "UnetPlusPlus": Network(smp("UnetPlusPlus", **SMALLER), 64, 8, "nearest"),
        "MAnet": Network(smp("MAnet", **SMALLER), 64, 8, "nearest"),
        "FPN": Network(smp("FPN"), 128, 32, "linear"),
        "DeepLabV3Plus": Network(smp("DeepLabV3Plus"), 128, 16, "linear"),
        "Linknet": Network(smp("Linknet"), 128, 32, "transposed"),
        "PSPNet": Network(smp("PSPNet"), 64, 8, "linear"),
        "Segformer": Network(smp("Segformer", "mit_b0"), 128, 32, "linear"),
    },
    "transformers": {
        "Segformer": Network(
            hf("SegformerForSemanticSegmentation", decoder_hidden_size=64, num_labels=4), 128, 32, "linear"
        ),
        "ConvNextV2": Network(hf("ConvNextV2Model", **STAGES), 128, 32),
        "ResNet": Network(hf("ResNetModel", embedding_size=16, layer_type="basic", **STAGES), 128, 32),
        "RegNet": Network(hf("RegNetModel", embedding_size=16, groups_width=8, **STAGES), 128, 32),
        "PoolFormer": Network(hf("PoolFormerModel", **STAGES), 128, 32),
        "MobileNetV2": Network(hf("MobileNetV2Model"), 128, 32),
        "ViT": Network(hf("ViTForImageClassification", size="image_size", **TOKENS), 64, 8),
        "Dinov2": Network(hf("Dinov2ForImageClassification", size="image_size", **TOKENS), 64, 8),
        "Swin2SR": Network(hf("Swin2SRModel", embed_dim=24, depths=[2, 2], num_heads=[2, 2]), 64, 8),
    },
}


def run(config: Config, run: RunDirectory) -> Report:
    """Convert every network that is installed, and compare its outputs on finer and finer grids."""
    chosen = {
        package: {name: net for name, net in networks.items() if fnmatch(f"{package} {name}", config.networks)}
        for package, networks in ZOO.items()
    }
    if not any(chosen.values()):
        names = ", ".join(f"{package} {name}" for package, networks in ZOO.items() for name in networks)
        raise ConfigError(f"networks={config.networks!r} is the pattern of none; there are {names}.")
    notes = [
        f"Seed {config.seed}: networks as they are made, with random weights, in float32 and evaluation mode. Inputs "
        f"are periodic waves |k| <= `modes` on grids of {', '.join(map(str, REFINEMENTS))} times the base size; "
        "outputs are compared as functions on the finer grid, and the order is the slope without the first step.",
        "Networks of others fill up with zeros, and keep on every grid what that does along the sides of the domain: "
        "they differ the more from the limit, the fewer nodes their coarsest level has.",
        "Random classifiers average nearly everything away: what is left depends little on the input, and so on the "
        "grid.",
    ]
    metrics, bars = [], []
    for package, networks in chosen.items():
        if networks and importlib.util.find_spec(package) is None:
            notes.append(f"{package} is not installed: {', '.join(networks)} left out (nn2no's extra `zoo` has them).")
            continue
        errors = {}
        for name, network in networks.items():
            subject = f"{package} {name}"
            step = "".join(c if c.isalnum() else "-" for c in subject)
            found = run.step(step, lambda network=network: examine(network, config, run.seed("inputs")))
            if reason := found.pop("reason", None):
                notes.append(f"{subject} is refused: {reason}")
            if reason := found.pop("raw_reason", None):
                notes.append(f"{subject}, not converted, takes no other sizes: {reason}")
            metrics += [Metric(key, subject, float(value)) for key, value in found.items()]
            bars += _bars(subject, network, found)
            if "order" in found:
                errors[name] = [found[f"error_{a}_{b}"] for a, b in STEPS]
        if errors:
            run.figure(package, convergence([1 / s for s, _ in STEPS], errors, xlabel="h / h0", orders=(1.0, 2.0)))
        if networks and package != "nn2no":
            notes.append(f"{package} {metadata.version(package.replace('_', '-'))}.")
    return Report(metrics, notes, bars)


STEPS = tuple(pairwise(REFINEMENTS))


@torch.no_grad()
def examine(network: Network, config: Config, seed: int) -> dict[str, Any]:
    """The numbers of one network; `reason` where it is refused, `raw_reason` where it takes no other size itself."""
    n = network.base * config.enlarged
    base = Grid.uniform((n,) * network.dim, periodic=True)
    modes = max(1, min(config.modes, n // network.stride // 8))
    module = network.make(n).float().eval()
    example = torch.zeros(1, network.channels, *base.shape)
    # a vector has few entries, whose errors may cancel for one input
    waves = random_fields(base, network.channels, modes, 2 if field(module(example)).ndim == 2 else 1, seed)
    # networks that fill up with zeros have outputs on an open domain: interpolation must not join its sides
    domain = base if network.periodic else Grid.uniform((n + 1,) * network.dim)

    def inputs(grid: Grid) -> Tensor:
        return waves(Grid.uniform((intervals(grid)[0],) * network.dim, periodic=True)).float()

    found: dict[str, Any] = {"base_size": n, "nodes_of_coarsest_level": n // network.stride, "modes": modes}
    try:
        op = convert(module, base, example_input=example)
    except ConversionError as error:
        return {**found, "refused": 1, "reason": " ".join(str(error).split())}
    x = inputs(base)
    raw = field(module(x))
    found["refused"] = 0
    found["base_difference"] = float((field(op(x)) - raw).norm() / raw.norm())

    def compared(y: Tensor) -> Tensor:
        return y if network.periodic else up_to_last_node(y, raw.shape[2:])

    sizes = [s * n for s in REFINEMENTS]
    report = check_discretization_convergence(
        lambda f: compared(field(op(f))), sizes, domain=domain, probe=inputs, base=n, tolerance=TOLERANCE
    )
    for (a, b), error in zip(STEPS, report.errors.values(), strict=True):
        found[f"error_{a}_{b}"] = error
    # below the floor there is nothing left to converge
    found |= {"order": min(report.order, 99.0), "mismatch": report.base_mismatch, "floor": report.floor}
    try:
        fine = field(module(inputs(refined(base, sizes[-1]))))
        found["raw_mismatch"] = difference(compared(raw), compared(fine), domain)
    except (RuntimeError, ValueError, AssertionError) as error:
        found["raw_reason"] = " ".join(str(error).split())
    return found


def up_to_last_node(y: Tensor, base: Sequence[int]) -> Tensor:
    """The part of a field between the first and the last of the `base` nodes of each axis, which all grids share."""
    for axis, n in enumerate(base, start=2):
        y = y.narrow(axis, 0, y.shape[axis] // n * (n - 1) + 1)
    return y


def field(output: Any) -> Tensor:
    """The last of several outputs, or the main one of those with names: `out`, or else the first."""
    if isinstance(output, Mapping):
        return output["out"] if "out" in output else next(iter(output.values()))
    return field(output[-1]) if isinstance(output, list | tuple) else output


def _bars(subject: str, network: Network, found: Mapping[str, Any]) -> list[Bar]:
    if found["refused"]:
        return []
    bars = [
        Bar(f"{subject}: difference from the original on its base grid", found["base_difference"], 1e-6),
        Bar(f"{subject}: order", found["order"], 0.9, at_least=True),
    ]
    if (raw := found.get("raw_mismatch")) is not None:
        bars.append(Bar(f"{subject}: mismatch of the original", raw, math.nextafter(TOLERANCE, 1), at_least=True))
        if network.upsampling == "linear":
            bars.append(Bar(f"{subject}: mismatch, converted over original", found["mismatch"] / raw, 0.5))
    return bars


EXPERIMENT = Experiment(
    run=run,
    presets={
        "smoke": Config(networks="nn2no cnn"),
        "small": Config(),
        "paper": Config(enlarged=2),
    },
    paper="Principled Approaches for Extending Neural Architectures to Function Spaces for Operator Learning, "
    "arXiv 2506.10973, §3",
)
