"""Models of neuraloperator and ours are one function where both are right."""

import itertools
import math
import sys
import warnings
from typing import Any

import pytest
import torch
from nn2no.errors import ConversionError
from nn2no.interop import from_neuralop, to_neuralop
from nn2no.models.fno import FNO, LocalNO
from torch import Tensor, nn


@pytest.fixture(scope="module")
def peer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("neuralop.models").FNO


def theirs(peer: Any, n_modes: tuple[int, ...] = (6, 8), **config: Any) -> Any:
    torch.manual_seed(0)
    fno = peer(n_modes, in_channels=2, out_channels=3, hidden_channels=6, n_layers=2, **config)
    with torch.no_grad():  # gates are one at first, and some biases zero
        for parameter in fno.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return fno.eval().requires_grad_(False)


def ours(**config: Any) -> FNO:
    torch.manual_seed(0)
    given = {"in_channels": 2, "out_channels": 3, "n_modes": (3, 4), "width": 6, "n_layers": 2, "embedding": "raw"}
    model = FNO(**{**given, **config})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def difference(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


def parameters(model: nn.Module) -> int:
    return sum(2 * p.numel() if p.is_complex() else p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("n_modes", "shape"),
    [((8,), (10,)), ((8,), (11,)), ((7,), (16,)), ((6, 8), (8, 10)), ((6, 8), (16, 24)), ((5, 7), (12, 12)),
     ((6, 8), (12, 13)), ((4, 3, 6), (6, 8, 10))],
)  # fmt: skip
@pytest.mark.parametrize("embedding", ["grid", None])
def test_converted_models_agree(peer, n_modes, shape, embedding) -> None:
    """At even sizes above 2m; odd ones on the last axis as well."""
    f = torch.randn(2, 2, *shape)
    fno = theirs(peer, n_modes, positional_embedding=embedding)
    model = from_neuralop(fno)
    assert tuple(model.config["n_modes"]) == tuple(n // 2 for n in n_modes)
    assert difference(model(f), fno(f)) < 1e-5
    assert difference(to_neuralop(model)(f), fno(f)) < 1e-5


@pytest.mark.parametrize(
    "config", [{}, {"embedding": "none", "mlp_ratio": 1.7}, {"lifting_ratio": 4.13, "projection_ratio": 2.59}]
)
def test_there_and_back_is_the_same_model(peer, config) -> None:
    model = ours(**config)
    fno = to_neuralop(model)
    f = torch.randn(2, 2, 10, 12)
    assert difference(fno(f), model(f)) < 1e-5
    assert parameters(fno) == parameters(model)
    back = from_neuralop(fno)
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
    double = to_neuralop(FNO(**{**model.config, "dtype": "float64"}))
    assert {p.dtype for p in double.parameters()} == {torch.float32, torch.complex64}


def test_the_unmatched_wave_number_has_weight_zero(peer) -> None:
    model = from_neuralop(theirs(peer, (6, 8)))
    weight = model.blocks[0].spectral.weight  # type: ignore[union-attr]
    assert weight.shape[:2] == (7, 5)
    assert (weight[6] == 0).all()
    assert (weight[0] != 0).all()


def test_factorised_weights_become_dense(peer) -> None:
    fno = theirs(peer, (6, 8), factorization="tucker", rank=0.5, implementation="reconstructed")
    f = torch.randn(2, 2, 12, 12)
    assert difference(from_neuralop(fno)(f), fno(f)) < 1e-5


def test_the_peer_moves_waves_at_odd_sizes(peer) -> None:
    """At odd sizes of an axis but the last, k moves to k - 1: a wave along (1, 1) comes out along (0, 1)."""
    from neuralop.layers.spectral_convolution import SpectralConv as Peer  # pyright: ignore[reportMissingImports]
    from nn2no.spectral import SpectralConv

    theirs, ours = Peer(1, 1, (6, 6), bias=False), SpectralConv(1, 1, (3, 3), bias=False)
    with torch.no_grad():
        theirs.weight.tensor.fill_(1.0)
        ours.weight[..., 0], ours.weight[..., 1] = 1.0, 0.0
        for n, moved in ((12, 1), (13, 0)):
            x, y = torch.meshgrid(torch.arange(n) / n, torch.arange(12) / 12, indexing="ij")
            wave, wrong = (torch.cos(2 * math.pi * (k * x + y))[None, None] for k in (1, moved))
            torch.testing.assert_close(ours(wave), wave, rtol=0, atol=1e-5)
            torch.testing.assert_close(theirs(wave), wrong, rtol=0, atol=1e-5)


def test_models_differ_at_odd_sizes_of_an_axis_but_the_last(peer) -> None:
    fno = theirs(peer, (6, 8))
    f = torch.randn(2, 2, 13, 12)
    assert difference(fno(f), from_neuralop(fno)(f)) > 1e-2


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"norm": "group_norm"}, "normalisation"),
        ({"domain_padding": 0.2}, "domain padding"),
        ({"fno_skip": "identity", "stabilizer": "tanh"}, "a stabilizer; skips other"),
        ({"non_linearity": torch.relu}, "other than GELU"),
        ({"use_channel_mlp": False}, "no channel MLPs"),
        ({"resolution_scaling_factor": 2}, "resolution scaling"),
        ({"max_n_modes": (8, 8)}, "max_n_modes"),
        ({"separable": True}, "separable"),
        ({"channel_mlp_dropout": 0.1}, "dropout"),
    ],
)
def test_what_ours_lacks_is_listed(peer, config, message) -> None:
    with pytest.raises(ConversionError, match=message):
        from_neuralop(theirs(peer, (6, 6), **config))


@pytest.mark.unchecked
def test_what_theirs_lacks_is_listed(peer) -> None:
    for model, message in (
        (ours(embedding="periodic", padding=0.1, periodic=False), "use 'raw' or 'none'.*; axes .*; padding"),
        (ours(antialiased=True), "antialiased"),
        (LocalNO(n_modes=(3, 3), embedding="raw", base_resolution=16, radius=0.2), "local branches"),
    ):
        with pytest.raises(ConversionError, match=message):
            to_neuralop(model)
    with pytest.raises(ConversionError, match="got Linear"):
        from_neuralop(nn.Linear(1, 1))


@pytest.mark.unchecked
def test_the_package_to_install_is_named(monkeypatch) -> None:
    for name in itertools.chain(["neuralop"], [m for m in sys.modules if m.startswith("neuralop.")]):
        monkeypatch.setitem(sys.modules, name, None)
    for call, argument in ((from_neuralop, nn.Identity()), (to_neuralop, ours())):
        with pytest.raises(ImportError, match=r"nn2no\[interop\]=="):
            call(argument)
