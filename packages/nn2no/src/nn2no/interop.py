"""Fourier neural operators of the library neuraloperator, in both directions.

Its `n_modes` counts modes: n stands for k = -⌊n/2⌋, …, ⌈n/2⌉ - 1, and on the last axis for k = 0, …, ⌊n/2⌋; ours is
the largest |k|. With an even n the wave number -n/2 lacks its opposite, which here has weight zero. Both evaluate the
same function on periodic grids with more than 2|k| nodes an axis, with one exception: neuraloperator 2.0.0 writes what
belongs to the wave number k of an axis at k - 1 if that axis has an odd number of nodes and is not the last.
"""

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from sciml.registry import own_version
from torch import Tensor, nn

from nn2no.errors import ConversionError
from nn2no.models.fno import FNO, FNOBlock
from nn2no.pointwise import ChannelMLP


def from_neuralop(fno: Any) -> FNO:
    """The `FNO` of this package that equals one of neuraloperator on uniform periodic grids; weights are copied.

    Factorised spectral weights become dense ones.

    Raises
    ------
    ConversionError
        It has parts that `FNO` lacks; all of them are listed.
    ImportError
        neuraloperator is not installed.
    """
    peer = _peer()
    if not isinstance(fno, peer):
        raise ConversionError(f"from_neuralop converts neuralop.models.FNO; got {type(fno).__name__}.")
    blocks = fno.fno_blocks
    grid = fno.positional_embedding
    unit = grid is None or [[float(x) for x in ends] for ends in grid.grid_boundaries] == [[0.0, 1.0]] * fno.n_dim
    _refuse(
        {
            "a non-linearity other than GELU": fno.non_linearity is not F.gelu or blocks.non_linearity is not F.gelu,
            "normalisation": blocks.norm is not None,
            "a stabilizer": blocks.stabilizer is not None,
            "complex data": fno.complex_data,
            "pre-activation": fno.preactivation,
            "domain padding": fno.domain_padding is not None,
            "resolution scaling": fno.resolution_scaling_factor is not None,
            "reduced precision": fno.fno_block_precision != "full",
            "separable convolutions": fno.separable,
            "no channel MLPs": not blocks.use_channel_mlp,
            "dropout": blocks.channel_mlp_dropout > 0,
            "skips other than fno_skip='linear', channel_mlp_skip='soft-gating'": (
                (blocks.fno_skip, blocks.channel_mlp_skip) != ("linear", "soft-gating")
            ),
            "max_n_modes above n_modes": any(list(c.n_modes) != list(c.max_n_modes) for c in blocks.convs),
            "no hidden lifting layer": not fno.lifting_channels,
            "coordinates other than those of the unit cube": not unit,
        }
    )
    *counts, last = blocks.convs[0].n_modes  # the last one is that of the half spectrum already
    width = fno.hidden_channels
    model = FNO(
        in_channels=fno.in_channels,
        out_channels=fno.out_channels,
        n_modes=[*(n // 2 for n in counts), last - 1],
        width=width,
        n_layers=fno.n_layers,
        lifting_ratio=fno.lifting_channels / width,
        projection_ratio=fno.projection_channels / width,
        mlp_ratio=blocks.channel_mlp[0].hidden_channels / width,
        embedding="none" if grid is None else "raw",
    )
    with torch.no_grad():
        _copy_mlp(fno.lifting, model.lifting)
        _copy_mlp(fno.projection, model.projection)
        for i, block in enumerate(model.blocks):
            assert isinstance(block, FNOBlock)
            conv, spectral = blocks.convs[i], block.spectral
            R = torch.view_as_real(conv.weight.to_tensor().movedim((0, 1), (-2, -1)).resolve_conj())
            spectral.weight.zero_()
            spectral.weight[tuple(slice(n) for n in R.shape)] = R
            assert isinstance(spectral.bias, Tensor)
            spectral.bias.copy_(conv.bias.flatten())
            block.skip.weight.copy_(blocks.fno_skips[i].conv.weight[..., 0])
            _copy_mlp(blocks.channel_mlp[i], block.mlp)
            block.gate.copy_(blocks.channel_mlp_skips[i].weight[0])
    return model.to(blocks.convs[0].bias.device)


def to_neuralop(model: FNO) -> nn.Module:
    """The neuralop.models.FNO that equals `model` on uniform periodic grids, in float32 (it has no other type).

    It has an odd number of modes, `2 m + 1`, on every axis but the last.

    Raises
    ------
    ConversionError
        `model` has parts that neuraloperator's lacks; all of them are listed.
    ImportError
        neuraloperator is not installed.
    """
    peer = _peer()
    blocks = [block for block in model.blocks if isinstance(block, FNOBlock)]
    _refuse(
        {
            "embedding='periodic' (use 'raw' or 'none')": model.embedding.kind == "periodic",
            "axes that are not periodic": not all(model.periodic),
            "padding": any(block.spectral.padding > 0 for block in blocks),
            "local branches": any(len(block.local) > 0 for block in blocks),
            "antialiased activations": not all(isinstance(b.activation, nn.GELU | nn.Identity) for b in blocks),
        }
    )
    *symmetric, last = blocks[0].spectral.n_modes
    width = blocks[0].spectral.in_channels
    fno: Any = peer(
        n_modes=(*(2 * m + 1 for m in symmetric), 2 * last),
        in_channels=model.in_channels,
        out_channels=len(model.projection.second.weight),
        hidden_channels=width,
        n_layers=len(blocks),
        # it rounds these products down
        lifting_channel_ratio=(len(model.lifting.first.weight) + 0.5) / width,
        projection_channel_ratio=(len(model.projection.first.weight) + 0.5) / width,
        channel_mlp_expansion=len(blocks[0].mlp.first.weight) / width,
        positional_embedding="grid" if model.embedding.kind == "raw" else None,
    )
    with torch.no_grad():
        _paste_mlp(model.lifting, fno.lifting)
        _paste_mlp(model.projection, fno.projection)
        for i, block in enumerate(blocks):
            assert isinstance(block.spectral.bias, Tensor)
            conv, R = fno.fno_blocks.convs[i], torch.view_as_complex(block.spectral.weight.contiguous())
            conv.weight.tensor.copy_(R.movedim((-2, -1), (0, 1)))
            conv.bias.copy_(block.spectral.bias.view(conv.bias.shape))
            fno.fno_blocks.fno_skips[i].conv.weight.copy_(block.skip.weight[..., None])
            _paste_mlp(block.mlp, fno.fno_blocks.channel_mlp[i])
            fno.fno_blocks.channel_mlp_skips[i].weight.copy_(block.gate[None])
    return fno.to(model.lifting.first.weight.device)


def _peer() -> Any:
    try:
        # the distribution and what is imported have different names, which only metadata that is there can connect
        return importlib.import_module("neuralop.models").FNO
    except ImportError as error:
        raise ImportError(
            f"neuraloperator cannot be imported ({error}). Install it with: "
            f'pip install "nn2no[interop]=={own_version()}"'
        ) from error


def _refuse(parts: dict[str, bool]) -> None:
    if found := [name for name, there in parts.items() if there]:
        raise ConversionError(f"This FNO has no counterpart in the other library: it has {'; '.join(found)}.")


def _layers(theirs: Any, ours: ChannelMLP) -> list[tuple[Tensor, Tensor | None]]:
    first, second = theirs.fcs
    return [
        (first.weight[..., 0], ours.first.weight),
        (first.bias, ours.first.bias),
        (second.weight[..., 0], ours.second.weight),
        (second.bias, ours.second.bias),
    ]


def _copy_mlp(theirs: Any, ours: ChannelMLP) -> None:
    for source, target in _layers(theirs, ours):
        assert target is not None
        target.copy_(source)


def _paste_mlp(ours: ChannelMLP, theirs: Any) -> None:
    for target, source in _layers(theirs, ours):
        assert source is not None
        target.copy_(source)
