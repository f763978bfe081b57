"""The checker measures known orders, on every kind of grid, and names what is to blame."""

import math

import pytest
import torch
from nn2no.convergence import check_discretization_convergence as check
from nn2no.conversion import convert
from nn2no.models.deeponet import NOMAD, DeepONet
from nn2no.models.fno import FNO
from nn2no.models.gno import GNO
from nn2no.models.unet import UNet
from nn2no.refinement import difference, intervals, random_fields, refined, spectrum_tail
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn

FEW = (16, 32, 64)


def circular(inputs: int, outputs: int, kernel: int = 5, **more: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="circular", **more)


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(circular(1, 8), nn.GELU(), circular(8, 8), nn.GELU(), circular(8, 1))


class OddPixels(nn.Module):
    """Changes the values at odd nodes: at the nodes that all grids share nothing is to be seen."""

    def forward(self, f: Tensor) -> Tensor:
        f = f.clone()
        f[..., 1::2] += 0.5
        return f


@pytest.mark.parametrize(("modes", "resolutions"), [((4,), FEW), ((4, 3), FEW), ((2, 2, 2), (8, 12, 18))])
def test_fourier_neural_operators_converge_to_what_they_are_on_the_base_grid(modes, resolutions):
    torch.manual_seed(0)
    report = check(FNO(n_modes=modes, width=6, n_layers=2), resolutions, base=resolutions[0], n_probes=2)
    assert report.converges
    assert report.consistent
    assert report.base_mismatch < 0.02
    assert report.culprit is None
    assert not report.layers
    assert set(report.errors) == set(resolutions[:-1])


def test_a_plain_convolutional_network_converges_to_a_pointwise_map():
    """Its limit is the network with every kernel replaced by the sum of its taps."""
    net = cnn()
    report = check(net, (16, 32, 64, 128))
    assert report.converges
    assert not report.consistent
    assert report.base == 16
    assert report.base_mismatch > 0.5
    assert report.culprit == "0"
    sums = [torch.einsum("ocij->oc", layer.weight) for layer in net if isinstance(layer, nn.Conv2d)]
    assert len(sums) == 3

    @torch.no_grad()
    def pointwise(f: Tensor) -> Tensor:
        for i, layer in enumerate(layer for layer in net if isinstance(layer, nn.Conv2d)):
            f = torch.einsum("oc,bcij->boij", sums[i], f) + layer.bias[:, None, None]  # type: ignore[index]
            f = nn.functional.gelu(f) if i < 2 else f
        return f

    domain = Grid.uniform((1, 1), periodic=True)
    probes, errors = random_fields(domain, 1, 4, 2, 0), []
    for n in (128, 256):
        f = probes(refined(domain, n)).float()
        errors.append(difference(net(f).detach(), pointwise(f), domain))
    assert errors[1] < 0.6 * errors[0] < 0.4


def test_what_happens_between_the_shared_nodes_is_seen():
    report = check(OddPixels(), FEW, domain=Grid.uniform((1, 1), periodic=True), in_channels=1)
    assert not report.converges
    assert abs(report.order) < 0.1
    assert report.spectrum_tail[64] == pytest.approx(report.spectrum_tail[16], rel=0.3)


@pytest.mark.parametrize("bad", [OddPixels, lambda: circular(4, 4, 9, bias=False)])
def test_the_culprit_is_named(bad):
    """Not convergent because of pixels, not consistent because of a kernel that shrinks."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Tanh(), bad()), nn.GELU(), nn.Conv2d(4, 1, 1, bias=False)
    )
    report = check(net, FEW, per_layer=True)
    assert not (report.converges and report.consistent)
    assert report.culprit == "0.2"
    assert list(report.layers) == ["0.0", "0.1", "0.2", "0", "1", "2", "Sequential"]
    assert report.layers["0.1"][16] < 0.1


def test_a_culprit_without_a_module_of_its_own_is_the_module_that_does_it():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift = nn.Conv1d(1, 2, 1)

        def forward(self, f: Tensor) -> Tensor:
            return self.lift(f) * torch.tensor([1.0, 0.3]).repeat(f.shape[-1] // 2)

    assert check(Net(), FEW).culprit == "Net"


@pytest.mark.parametrize("centering", ["node", "cell"])
def test_grids_between_walls(centering):
    domain = Grid.uniform((9, 17) if centering == "node" else (8, 16), (1.0, 2.0), centering=centering)
    torch.manual_seed(0)
    model = FNO(n_modes=(3, 3), width=6, n_layers=2, periodic=False, embedding="raw", padding=0.25)
    report = check(model, FEW, domain=domain, n_probes=2)
    assert report.converges
    assert report.consistent
    assert report.order > 1.5
    plain = nn.Sequential(nn.Conv2d(1, 8, 7, padding=3), nn.GELU(), nn.Conv2d(8, 1, 7, padding=3))
    assert not check(plain, FEW, domain=domain, n_probes=2).consistent


def test_orders_of_quadrature_rules_and_the_grid_as_an_argument():
    """Of vectors (batch, n): plain means are of first order between walls, the trapezoidal rule is of second."""
    domain = Grid.uniform(2)
    seen = []

    def trapezoid(f: Tensor, grid: Grid) -> Tensor:
        seen.append(grid.shape)
        return grid.integrate(f)

    assert check(trapezoid, (32, 64, 128, 256), domain=domain).order == pytest.approx(2, abs=0.1)
    assert check(lambda f: f.mean(-1), (32, 64, 128, 256), domain=domain).order == pytest.approx(1, abs=0.1)
    assert (33,) in seen
    assert (257,) in seen


def test_the_base_grid_of_an_operator_is_taken_up():
    class Converted(nn.Module):
        base_grid = Grid.uniform((24, 48), (1.0, 2.0), periodic=True)

        def forward(self, f: Tensor, grid: Grid) -> Tensor:
            assert grid.lengths == (1.0, 2.0)
            assert f.shape[3] == 2 * f.shape[2]
            return f.sin()

    report = check(Converted(), FEW)
    assert report.base == 24
    assert report.consistent
    assert check(Converted(), FEW, base=16, reference=32).base_mismatch > report.base_mismatch


def test_modes_are_restored_and_dropout_is_warned_of():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout(0.5), nn.Conv2d(2, 1, 1))
    net[0].eval()
    with pytest.warns(UserWarning, match="drops out"):
        report = check(net, FEW)
    assert report.order == math.inf
    assert [m.training for m in net] == [False, True, True]
    with pytest.raises(RuntimeError), pytest.warns(UserWarning, match="drops out"):
        check(net, FEW, domain=Grid.uniform((1, 1), periodic=True), probe=lambda grid: torch.ones(1, 2, *grid.shape))
    assert [m.training for m in net] == [False, True, True]


def test_double_precision_and_the_maximum_norm():
    torch.manual_seed(0)
    model = FNO(n_modes=(3,), width=4, n_layers=1, dtype="float64")
    l2, largest = (check(model, FEW, norm=norm) for norm in ("l2", "max"))
    assert l2.floor < 1e-13
    assert l2.errors[32] < largest.errors[32] < 10 * l2.errors[32]


def test_the_report_as_text_table_and_figure():
    report = check(cnn(), FEW, per_layer=True)
    text = str(report)
    for part in ("converges", "INCONSISTENT", "culprit: 0", f"{report.errors[16]:.2e}"):
        assert part in text
    table = report.to_xarray()
    assert float(table.error.sel(resolution=32)) == report.errors[32]
    assert bool(table.error.isnull().sel(resolution=64))
    assert float(table.layer_error.sel(layer="2", resolution=16)) == report.layers["2"][16]
    assert table.attrs["culprit"] == "0"
    assert len(report.figure().axes[0].lines) == 3


def test_random_fields_are_one_function_on_all_grids():
    for domain in (Grid.uniform((2, 1), periodic=True), Grid.uniform((3, 2), (2.0, 1.0))):
        probes = random_fields(domain, 2, 3, 50, 0)
        coarse, fine = refined(domain, 16), refined(domain, 32)
        u, v = probes(coarse), probes(fine)
        torch.testing.assert_close(u, v[..., ::2, ::2], rtol=0, atol=1e-12)
        assert float(v.square().mean()) == pytest.approx(1, abs=0.15)
        assert intervals(fine) == (32, 32 * intervals(domain)[1] // intervals(domain)[0])
    assert difference(u, v, domain) < 0.1
    periodic = Grid.uniform((1, 1), periodic=True)
    probes = random_fields(periodic, 1, 3, 2, 0)
    u, v = (probes(refined(periodic, n)) for n in (8, 13))
    assert difference(u, v, periodic) < 1e-12
    assert difference(2 * v, v, periodic) == pytest.approx(1)


def test_the_tail_of_a_wave_is_all_or_nothing():
    for place, shape in (("node", (33,)), ("cell", (32,))):
        domain = Grid.uniform(shape, centering=place)
        x = domain.coords[:, 0]
        low, high = torch.cos(5 * math.pi * x), torch.cos(20 * math.pi * x)
        assert spectrum_tail(low[None, None], domain) < 1e-6
        assert spectrum_tail(high[None, None], domain) == pytest.approx(1)
        assert spectrum_tail((3 * low + 4 * high)[None, None], domain) == pytest.approx(0.8, abs=0.02)


def test_untrained_u_nets_are_flagged():
    torch.manual_seed(0)
    report = check(UNet(width=4, padding_mode="circular", embedding="none"), (32, 64, 128), n_probes=2)
    assert not report.consistent
    assert report.culprit is not None


@pytest.mark.unchecked
def test_bad_input():
    net, domain = cnn(), Grid.uniform((1, 1), periodic=True)
    broken = cnn()
    broken[0].weight.data[0] = torch.nan
    for call, error, message in [
        (lambda: check(net, (16, 32)), ConfigError, "three increasing"),
        (lambda: check(net, (32, 16, 64)), ConfigError, "three increasing"),
        (lambda: check(net, FEW, norm="h1"), ConfigError, "'l2' or 'max'"),  # type: ignore[arg-type]
        (lambda: check(net, FEW, domain=Grid.chebyshev((5, 5))), ConfigError, "uniform axes"),
        (lambda: check(net, (5, 7, 9), domain=Grid.uniform((2, 1), periodic=True)), ConfigError, "no whole numbers"),
        (lambda: check(lambda f: f, FEW), ConfigError, "give domain"),
        (lambda: check(GNO(), FEW), ConfigError, r"takes coords as well.*lambda f, grid: model\(f.flatten"),
        (lambda: check(nn.Bilinear(1, 1, 1), FEW), ConfigError, "takes input2 as well"),
        (lambda: check(broken, FEW), ValueError, "weights that are not finite"),
        (lambda: check(lambda f: f / 0, FEW, domain=domain), ValueError, "output on the grid"),
        (lambda: check(lambda f: f[:, 0], FEW, domain=domain), ShapeError, "2 axes"),
        (lambda: check(lambda f: (f, f), FEW, domain=domain), ShapeError, "tuple"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(error, match=message):
            call()


def test_a_converted_network_is_left_in_training():
    network = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), nn.GELU()).train()
    op = convert(network, Grid.uniform((16,), periodic=True))
    check(op, (16, 32, 64), n_probes=1)
    assert op.training
    assert network.training
    assert network[1].training


class PointByPoint(nn.Module):
    """Dense layers over three channels, at every point."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 1))

    def forward(self, f: Tensor) -> Tensor:
        return self.net(f.movedim(1, -1)).movedim(-1, 1)


def test_channels_of_a_first_dense_layer_are_known():
    torch.manual_seed(0)
    report = check(PointByPoint(), FEW, domain=Grid.uniform((16, 16), periodic=True))
    assert report.consistent
    assert report.converges


@pytest.mark.parametrize("where", ["before", "between"])
def test_layers_that_inherit_a_bad_input_are_not_the_culprit(where):
    """What is bad comes from no layer, but from between them: the network itself is to blame."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(1, 2, 1), nn.Conv1d(2, 1, 1)

        def forward(self, f: Tensor) -> Tensor:
            pixels = torch.tensor([1.0, 0.3]).repeat(f.shape[-1] // 2)
            return self.second(self.first(f * pixels) if where == "before" else self.first(f) * pixels)

    report = check(Net(), FEW, per_layer=True)
    assert not report.converges
    assert set(report.layers) == {"first", "second", "Net"}
    assert report.culprit == "Net"


def test_the_floor_is_ten_times_what_rounding_of_the_input_changes():
    grid, eps = Grid.uniform((16,), periodic=True), torch.finfo(torch.float32).eps
    report = check(lambda f: f, FEW, domain=grid, in_channels=1)
    assert 10 * eps <= report.floor < 30 * eps
    damped = check(lambda f: 1 + 0.01 * f, FEW, domain=grid, in_channels=1).floor
    assert damped == pytest.approx(10 * eps)
    amplified = check(lambda f: (50 * f).sin(), FEW, domain=grid, in_channels=1).floor
    assert amplified > 200 * eps


def test_the_order_leaves_out_the_step_from_the_base_grid():
    """That step holds the mismatch: here errors 1, 1/4, 1/16, … after a first one a hundred times as large."""

    def op(f: Tensor) -> Tensor:
        n = f.shape[-1]
        return f * (1 + 16 / n**2 + (0.5 if n == 16 else 0.0))

    grid = Grid.uniform((16,), periodic=True)
    report = check(op, (16, 32, 64, 128), domain=grid, base=16, in_channels=1)
    assert report.order == pytest.approx(2, abs=0.05)
    assert report.base_mismatch > 0.3


@pytest.mark.parametrize(("rate", "converges"), [(0.2, False), (0.6, True)])
def test_convergence_needs_an_order(rate, converges):
    grid = Grid.uniform((16,), periodic=True)
    report = check(lambda f: f * (1 + f.shape[-1] ** -rate), (16, 32, 64, 128), domain=grid, in_channels=1)
    assert report.converges is converges


class Noisy(nn.Module):
    """Drops out at random also in evaluation mode."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.lift, self.drop, self.out, self.amount = nn.Conv2d(1, 8, 1), nn.Identity(), nn.Conv2d(8, 1, 1), amount
        self.drop.register_forward_hook(lambda _, __, out: nn.functional.dropout(out, amount))

    def forward(self, f: Tensor) -> Tensor:
        return self.out(self.drop(self.lift(f).tanh()))


@pytest.mark.parametrize("amplitude", [0.003, 0.1, 10.0])
def test_random_outputs_are_no_operator(amplitude):
    """White noise is no function, however small it is beside the rest."""
    torch.manual_seed(0)
    domain = Grid.uniform((1, 1), periodic=True)
    report = check(lambda f: f + amplitude * torch.randn_like(f), FEW, domain=domain)
    assert not report.converges
    assert not report.consistent
    assert report.remark is not None
    assert "is random" in str(report)
    assert report.to_xarray().attrs["remark"] == report.remark
    assert abs(report.order) < 0.2


def test_the_layer_that_draws_at_random_is_the_culprit():
    torch.manual_seed(0)
    report = check(Noisy(0.05), FEW)
    assert not report.converges
    assert not report.consistent
    assert report.culprit == "drop"
    quiet = check(Noisy(0.0), FEW)
    assert quiet.converges
    assert quiet.remark is None


def test_errors_below_a_high_floor_tell_nothing():
    """A wave so short that rounding moves the argument by half of it."""
    domain = Grid.uniform((1, 1), periodic=True)
    report = check(lambda f: torch.sin(1e6 * f), FEW, domain=domain)
    assert report.floor > 1
    assert not report.converges
    assert report.remark is not None
    assert "Check it in float64" in report.remark


@pytest.mark.parametrize("model", [DeepONet, NOMAD])
def test_the_domain_of_a_model_is_that_of_the_part_that_knows_it(model):
    torch.manual_seed(0)
    report = check(model(lengths=(2.0, 1.0), periodic=(True, False), width=8, n_functions=4), FEW, n_probes=1)
    assert report.converges
    assert report.consistent


def test_operators_on_clouds_are_checked_as_functions_of_the_grid():
    torch.manual_seed(0)
    model = GNO(dim=1, radius=0.3, width=6, n_layers=1, kernel_hidden=8)

    def on_grid(f: Tensor, grid: Grid) -> Tensor:
        clouds = grid.coords.flatten(0, -2)[None], grid.weights.reshape(1, -1)
        return model(f.flatten(2).mT, *clouds).mT.unflatten(2, f.shape[2:])

    assert check(on_grid, FEW, domain=Grid.uniform(2), n_probes=1).converges
