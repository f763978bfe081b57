"""The U-Net of PDE-Arena with wide kernels: a network on pixels, and the operator that it is converted into."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from sciml.model import Example, Model
from torch import Tensor, nn

from nn2no.conversion import convert
from nn2no.embedding import CoordinateEmbedding, EmbeddingKind
from nn2no.models._fields import check_field, real_type, sample_field

Padding = Literal["zeros", "circular"]


class UNet(Model):
    """The "modern U-Net" of PDE-Arena (arXiv:2209.15616) in two dimensions, as configured in arXiv:2506.10973.

    Residual blocks on levels that are each half as fine as the one above. Its kernels are numbers of pixels, so that
    on a finer grid it sees less of the domain: it is not an operator.

    Parameters
    ----------
    width, multipliers
        Channels after the first convolution, and their growth at each level.
    kernel
        Size of all convolutions but those between levels (3 down, 4 up); odd.
    blocks
        Residual blocks a level on the way down; there is one more on the way up.
    groups
        Of the group normalisations; a divisor of the channels of every level.
    padding_mode
        "zeros", or "circular" for periodic fields, whose sizes must then be multiples of 2^(levels - 1).
    embedding
        Coordinates as further channels: "raw" ones are i/N (see `CoordinateEmbedding`, on periodic axes).
    """

    properties = frozenset({"torch.compile", "torch.func"})

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 12,
        multipliers: Sequence[int] = (1, 2, 2),
        kernel: int = 5,
        blocks: int = 2,
        groups: int = 1,
        padding_mode: Padding = "zeros",
        embedding: EmbeddingKind = "raw",
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        kind = real_type(dtype)
        if padding_mode not in ("zeros", "circular"):
            raise ConfigError(f"padding_mode={padding_mode!r}; choose 'zeros' or 'circular'.")
        if kernel % 2 == 0 or min(width, blocks, groups, *multipliers, kernel) < 1:
            raise ConfigError(
                f"width={width}, multipliers={tuple(multipliers)}, kernel={kernel}, blocks={blocks}, groups={groups}: "
                "give positive numbers, and an odd kernel, which has a centre."
            )
        if width % groups:
            raise ConfigError(f"groups={groups} must divide the channels of every level, hence width={width}.")
        self.in_channels, self.padding_mode, self.levels = in_channels, padding_mode, len(multipliers)
        self.embedding = CoordinateEmbedding(embedding)

        def conv(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode=padding_mode, dtype=kind)

        def block(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, kernel, groups, padding_mode, kind)

        channels = width
        self.first = conv(in_channels + self.embedding.channels([True, True]), width)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, growth in enumerate(multipliers):
            for i in range(blocks):
                self.down.append(block(channels, channels * growth if i == 0 else channels))
                channels *= growth if i == 0 else 1
            if level < self.levels - 1:
                self.down.append(nn.Conv2d(channels, channels, 3, 2, padding=1, padding_mode=padding_mode, dtype=kind))
        self.middle = nn.Sequential(block(channels, channels), block(channels, channels))
        for level, growth in reversed(list(enumerate(multipliers))):
            for _ in range(blocks):
                self.up.append(block(2 * channels, channels))
            self.up.append(block(channels + channels // growth, channels // growth))
            channels //= growth
            if level > 0:
                self.up.append(Doubling(channels, padding_mode, kind))
        self.norm = nn.GroupNorm(groups, channels, dtype=kind)
        self.last = conv(channels, out_channels)

    @classmethod
    def example(cls, resolution: int = 16) -> Example:
        """Two levels on a smooth image of one channel."""
        f = sample_field((resolution, resolution))
        refused = ((f[0],), (f[:, :, 0],), (f.expand(-1, 2, -1, -1),), (f.to(torch.complex64),))
        return Example({"width": 4, "multipliers": [1, 2], "kernel": 3, "blocks": 1}, (f,), refused=refused)

    def forward(self, f: Float[Tensor, "batch channel n1 n2"]) -> Float[Tensor, "batch out_channel n1 n2"]:
        """The output image. ShapeError if `f` has other channels, axes or sizes, or is not real."""
        check_field(f, self.in_channels, 2)
        multiple = 2 ** (self.levels - 1)
        if self.padding_mode == "circular" and (f.shape[2] % multiple or f.shape[3] % multiple):
            raise ShapeError(f"A periodic image {tuple(f.shape[2:])} cannot be halved; give multiples of {multiple}.")
        x = self.first(self.embedding(f))
        skips = [x]
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        x = self.middle(x)
        for layer in self.up:
            if isinstance(layer, Doubling):
                x = layer(x)
                continue
            skip = skips.pop()
            if x.shape[2:] != skip.shape[2:]:
                x = _surround(x, skip)
            x = layer(torch.cat([skip, x], 1))
        return self.last(F.gelu(self.norm(x)))


class UNetNO(Model):
    """The U-Net as an operator on the periodic square: on its base grid it is `UNet`, its kernels have a physical size.

    Its weights are those of `UNet`, as `operator.…`. See `nn2no.convert` for what its layers become on other grids.

    Parameters
    ----------
    base_resolution
        The grid on which it is the U-Net.
    conv
        "integral": kernels are integrated. "kernel-interp": they are resized like images.
    """

    properties = frozenset({"discretization-convergent"})

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        base_resolution: Sequence[int] = (32, 32),
        conv: Literal["integral", "kernel-interp"] = "integral",
        width: int = 12,
        multipliers: Sequence[int] = (1, 2, 2),
        kernel: int = 5,
        blocks: int = 2,
        groups: int = 1,
        padding_mode: Padding = "zeros",
        embedding: EmbeddingKind = "raw",
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        network = UNet(
            in_channels, out_channels, width, multipliers, kernel, blocks, groups, padding_mode, embedding, dtype
        )
        self.in_channels = in_channels
        self.base_grid = Grid.uniform(tuple(base_resolution), periodic=True)
        self.operator = convert(network, self.base_grid, conv=conv)

    @classmethod
    def example(cls, resolution: int = 16) -> Example:
        """Two levels on a smooth field of one channel."""
        base = UNet.example(resolution)
        more = {"base_resolution": [16, 16], "padding_mode": "circular", "embedding": "periodic"}
        return Example({**base.config, **more}, base.inputs, refused=base.refused)

    def forward(
        self, f: Float[Tensor, "batch channel n1 n2"], grid: Grid | None = None
    ) -> Float[Tensor, "batch out_channel n1 n2"]:
        """The output on the nodes of `f`; a grid must be periodic, and tells its size in units of the base grid's.

        Raises
        ------
        ShapeError
            `f` has other channels or axes, is no field on `grid`, or is not real.
        ConversionError
            A level would have no whole number of nodes.
        """
        return self.operator(f, grid)


class ResidualBlock(nn.Module):
    """x ↦ conv(σ(GN(conv(σ(GN(x)))))) + shortcut(x)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, groups: int, padding_mode: Padding, dtype: torch.dtype
    ) -> None:
        super().__init__()
        if inputs % groups or outputs % groups:
            raise ConfigError(f"groups={groups} must divide the channels of every level, also {inputs} and {outputs}.")
        self.norm1 = nn.GroupNorm(groups, inputs, dtype=dtype)
        self.norm2 = nn.GroupNorm(groups, outputs, dtype=dtype)
        self.conv1, self.conv2 = (
            nn.Conv2d(n, outputs, kernel, padding=kernel // 2, padding_mode=padding_mode, dtype=dtype)
            for n in (inputs, outputs)
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.gelu(self.norm1(x)))
        return self.conv2(F.gelu(self.norm2(y))) + self.shortcut(x)


class Doubling(nn.ConvTranspose2d):
    """A transposed convolution of 4 taps and stride 2, to 2n nodes an axis on circles and to 2n - 2 elsewhere.

    The missing two are at the ends: what reaches them, is cut off. On circles it enters at the other end.
    """

    def __init__(self, channels: int, padding_mode: Padding, dtype: torch.dtype) -> None:
        self.border = 2 if padding_mode == "circular" else 0  # one is enough, two can be halved on a coarser grid
        padding = 2 * self.border + 1 if self.border else 2
        super().__init__(channels, channels, 4, 2, padding=padding, dtype=dtype)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.border:
            input = F.pad(input, [self.border] * 4, mode="circular")
        return super().forward(input, output_size)


def _surround(x: Tensor, like: Tensor) -> Tensor:
    """Zeros around `x` up to the size of `like`; where one is missing, before it: `Doubling` has cut off that end."""
    rows, columns = like.shape[2] - x.shape[2], like.shape[3] - x.shape[3]
    return F.pad(x, [columns - columns // 2, columns // 2, rows - rows // 2, rows // 2])
