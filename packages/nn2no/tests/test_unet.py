"""The U-Net has the published size, and sees pixels instead of a domain."""

import pytest
import torch
from nn2no.convergence import check_discretization_convergence
from nn2no.models.unet import UNet, UNetNO
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor


def smooth(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    x, y = (2 * torch.pi * Grid.uniform((n, n), periodic=True).coords).unbind(-1)
    return (x.sin() + (x + y).cos())[None, None].to(dtype)


def small(**config: object) -> UNet:
    torch.manual_seed(0)
    return UNet(**{"width": 4, "multipliers": (1, 2), "kernel": 3, "dtype": "float64", **config})  # type: ignore[arg-type]


def test_sizes_of_the_paper_and_of_the_small_one():
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    with torch.device("meta"):
        assert count(UNet(width=19, multipliers=(1, 2, 2, 3), kernel=9)) == 65_502_463
        assert count(UNet(width=12, multipliers=(1, 2, 2), kernel=5)) == 1_072_093


@pytest.mark.parametrize("size", [(16, 16), (13, 18), (7, 9)])
def test_any_size_with_zeros_around(size):
    assert small(multipliers=(1, 2, 1))(torch.randn(2, 1, *size).double()).shape == (2, 1, *size)


def test_circular_commutes_with_shifts_by_whole_pixels_of_the_coarsest_level():
    f = torch.randn(1, 1, 16, 16).double()
    for padding_mode, embedding, commutes in (("circular", "none", True), ("circular", "raw", False)):
        model = small(padding_mode=padding_mode, embedding=embedding)
        difference = model(f.roll((2, -4), (2, 3))) - model(f).roll((2, -4), (2, 3))
        assert (float(difference.detach().abs().max()) < 1e-12) == commutes


def test_circular_and_zero_padding_agree_far_from_the_ends():
    f = torch.zeros(1, 1, 96, 96).double()
    zeros, circular = (small(blocks=1, padding_mode=mode, embedding="none") for mode in ("zeros", "circular"))
    circular.load_state_dict(zeros.state_dict())
    for model in (zeros, circular):  # normalisations see the ends from everywhere
        for module in model.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda x: x
    f[..., 44:52, 44:52] = torch.randn(8, 8).double()
    difference = (zeros(f) - circular(f)).detach().abs() / zeros(f).detach().abs().max()
    assert difference[..., 40:56, 40:56].max() < 1e-13
    assert difference.max() > 1e-6


def test_its_output_changes_with_the_resolution():
    """The same function on a grid twice as fine: another result, although the outputs are shared nodes."""
    model = small(multipliers=(1, 2, 2), kernel=5, padding_mode="circular")
    coarse, fine = model(smooth(32)), model(smooth(64))[..., ::2, ::2]
    assert float(((coarse - fine).norm() / fine.norm()).detach()) > 0.1


@pytest.mark.parametrize("conv", ["integral", "kernel-interp"])
def test_as_an_operator_it_is_the_network_on_the_base_grid_and_converges_elsewhere(conv):
    net = small(padding_mode="circular", embedding="periodic")
    torch.manual_seed(0)
    config = {"width": 4, "multipliers": (1, 2), "kernel": 3, "padding_mode": "circular", "embedding": "periodic"}
    operator = UNetNO(**config, base_resolution=(16, 16), conv=conv, dtype="float64")
    operator.load_state_dict({f"operator.{name}": value for name, value in net.state_dict().items()})
    assert torch.equal(operator(smooth(16)), net(smooth(16)))
    raw, converted = (check_discretization_convergence(op, (16, 32, 64), n_probes=2) for op in (net, operator))
    assert converted.converges
    assert converted.order > (1.8 if conv == "integral" else 0.7)
    assert converted.base_mismatch < 0.7 * raw.base_mismatch


def test_as_an_operator_it_stands_coarser_grids():
    """With borders of half a node around what is doubled: no shift against the other branch."""
    torch.manual_seed(0)
    operator = UNetNO(width=4, multipliers=(1, 1), blocks=1, embedding="none", dtype="float64")
    raw = UNet(width=4, multipliers=(1, 1), blocks=1, embedding="none", dtype="float64")
    raw.load_state_dict(operator.operator.state_dict())
    fine = operator(smooth(32))[..., ::2, ::2].detach()
    mismatch = [float((op(smooth(16)).detach() - fine).norm() / fine.norm()) for op in (operator, raw)]
    assert mismatch[0] < 0.5 * mismatch[1]


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: UNet(kernel=4), ConfigError, "odd kernel"),
        (lambda: UNet(groups=5), ConfigError, "divide the channels"),
        (lambda: UNet(padding_mode="reflect"), ConfigError, "'zeros' or 'circular'"),
        (lambda: UNet(dtype="float16"), ConfigError, "float16"),
        (lambda: small()(torch.randn(1, 2, 8, 8)), ShapeError, r"\(batch, 1, n1, n2\)"),
        (lambda: small(padding_mode="circular")(torch.randn(1, 1, 7, 8)), ShapeError, "multiples of 2"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
