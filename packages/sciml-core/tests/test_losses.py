"""Losses mean the same at every resolution, and compose."""

import math

import pytest
import torch
from sciml.derivatives import laplacian
from sciml.errors import ConfigError, DataError, ShapeError
from sciml.grids import Grid, PointCloud
from sciml.losses import H1Loss, LpLoss, ReLoBRaLo, ResidualLoss, SobolevLoss, SoftAdapt, Supervised, WeightedSum
from torch import nn


def fields(grid):
    """sin(x) + 0.1 sin(2x) against sin(x), twice."""
    x = grid.coords[..., 0]
    return (x.sin() + 0.1 * (2 * x).sin()).expand(2, 1, *grid.shape), x.sin().expand(2, 1, *grid.shape)


@pytest.mark.parametrize("n", [8, 15, 64])
def test_losses_are_those_of_the_functions_at_every_resolution(n):
    grid = Grid.uniform(n, 2 * math.pi, periodic=True)
    prediction, target = fields(grid)
    assert LpLoss(domain=grid)(prediction, target).item() == pytest.approx(0.1)
    assert LpLoss()(prediction, target).item() == pytest.approx(0.1)
    assert LpLoss(relative=False)(prediction, target, grid).item() == pytest.approx(0.1 * math.sqrt(math.pi))
    h1 = H1Loss(method="spectral", domain=grid)
    assert h1(prediction, target).item() == pytest.approx(0.1 * math.sqrt(5 / 2))
    h2 = SobolevLoss(2, method="spectral", domain=grid)
    assert h2(prediction, target).item() == pytest.approx(0.1 * math.sqrt(21 / 3))


def test_quadrature_weights_matter_on_uneven_nodes():
    grid = Grid.gauss_legendre(12)
    x = grid.coords[:, 0][None, None]
    zero = torch.zeros_like(x)
    assert LpLoss(1, domain=grid, relative=False)(x**3, zero).item() == pytest.approx(1 / 4)
    assert LpLoss(math.inf, domain=grid)(x, 2 * x).item() == pytest.approx(0.5)
    assert LpLoss(math.inf)(x, 2 * x).item() == pytest.approx(0.5)


def test_h1_loss_on_a_cloud_measures_slopes():
    cloud = PointCloud(Grid.uniform((4, 4)).coords.reshape(-1, 2) + 0.0)
    u = cloud.coords[None, :, :1]
    loss = H1Loss(domain=cloud, relative=False)
    assert loss(u + 1, u).item() == pytest.approx(1.0)  # a constant error has no slope
    assert loss(3 * u, u).item() > 2.0


def test_reductions():
    prediction, target = torch.tensor([[[1.0, 1.0]], [[3.0, 3.0]]]), torch.ones(2, 1, 2)
    assert LpLoss(reduction="none")(prediction, target).tolist() == [0.0, 2.0]
    assert LpLoss(reduction="sum")(prediction, target).item() == 2.0
    assert LpLoss()(prediction, target).item() == 1.0


def losses_on(grid):
    h1 = H1Loss(domain=grid)
    return [loss for p in (1, 2, 3, math.inf) for loss in (LpLoss(p), LpLoss(p, domain=grid))] + [h1]


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float32, 1e-4),
        (torch.float32, 1e-9),
        (torch.float32, 1e-25),
        (torch.float32, 1e-35),
        (torch.float32, 1e25),
        (torch.float32, 1e35),
        (torch.float64, 1e-17),
        (torch.float64, 1e-290),
        (torch.float64, 1e290),
    ],
)
def test_relative_losses_do_not_depend_on_the_scale_of_the_fields(dtype, scale):
    grid = Grid.uniform(9)
    target = scale * torch.linspace(0.5, 1, 9, dtype=dtype)[None, None]
    for loss in losses_on(grid):
        prediction = (3 * target).requires_grad_()
        value = loss(prediction, target)
        assert value.item() == pytest.approx(2, rel=1e-5)
        slope = torch.autograd.grad(value, prediction)[0]
        # homogeneous of degree 1 in the error (Euler)
        assert (slope * (prediction - target)).sum().item() == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relative_loss_of_a_target_that_vanishes_is_large_and_finite(dtype):
    grid = Grid.uniform(9)
    limits = torch.finfo(dtype)
    for target in (0.0, limits.tiny / 1000):
        for loss in losses_on(grid):
            prediction = torch.full((1, 1, 9), 100.0, dtype=dtype, requires_grad=True)
            value = loss(prediction, torch.full_like(prediction, target))
            assert value.item() == pytest.approx(100 / limits.eps)
            assert torch.isfinite(torch.autograd.grad(value, prediction)[0]).all()


@pytest.mark.parametrize("p", [1, 2, 3, math.inf])
def test_gradient_at_the_minimum_is_finite(p):
    grid = Grid.uniform(6)
    for target in (torch.ones(1, 1, 6), torch.zeros(1, 1, 6)):
        prediction = target.clone().requires_grad_()
        for loss in (LpLoss(p), LpLoss(p, domain=grid), H1Loss(domain=grid)):
            value = loss(prediction, target)
            assert value.item() == 0
            assert torch.isfinite(torch.autograd.grad(value, prediction)[0]).all()


def test_residual_loss_of_poisson_vanishes_at_the_solution():
    grid = Grid.uniform((12, 12), 2 * math.pi, periodic=True)
    u = grid.coords.sin().prod(-1)[None, None]

    def poisson(model, batch):
        return laplacian(model(batch["f"]), grid, method="spectral") - batch["f"]

    loss = ResidualLoss(poisson, domain=grid)
    assert loss(lambda f: u, {"f": -2 * u}).item() < 1e-20
    assert loss(lambda f: 0 * u, {"f": u}).item() == pytest.approx(math.pi**2)  # ∫ sin² sin²


def test_residual_at_points_trains_a_network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    cloud = PointCloud(torch.rand(20, 2, dtype=torch.float64), "monte-carlo", volume=2.0)
    loss = ResidualLoss(lambda model, batch: laplacian(model, batch["x"]) - 1, domain=cloud)
    value = loss(net, {"x": cloud.coords})
    value.backward()
    assert net[0].weight.grad.abs().sum() > 0
    plain = ResidualLoss(loss.residual)(net, {"x": cloud.coords})
    assert value.item() == pytest.approx(2 * plain.item())


def batch_of(n=4):
    generator = torch.Generator().manual_seed(0)
    return {"x": torch.randn(n, 1, 8, generator=generator), "y": torch.randn(n, 1, 8, generator=generator)}


def test_weighted_sum_composes_field_losses_and_training_losses():
    batch, model = batch_of(), nn.Identity()
    fits = WeightedSum({"l2": LpLoss(), "l1": LpLoss(1)}, {"l1": 0.5})
    terms = fits(batch["x"], batch["y"])
    assert list(terms) == ["l2", "l1"]
    assert terms["l1"].item() == pytest.approx(0.5 * LpLoss(1)(batch["x"], batch["y"]).item())
    physics = ResidualLoss(lambda model, batch: model(batch["x"]) - 1)
    loss = WeightedSum({"fit": Supervised(fits), "physics": physics}, {"physics": 3.0})
    nested = loss(model, batch)
    assert nested["fit"].item() == pytest.approx(sum(terms.values()).item())
    assert nested["physics"].item() == pytest.approx(3 * (batch["x"] - 1).square().mean().item())


def constant_terms(values):
    return {name: (lambda model, batch, name=name: batch[name]) for name in values}


def test_relobralo_follows_its_formula_and_favours_slow_terms():
    rule = ReLoBRaLo(alpha=0.5, temperature=0.5, lookback=1.0)
    loss = WeightedSum(constant_terms("ab"), adaptive=rule)
    first = {"a": torch.tensor(4.0), "b": torch.tensor(2.0)}
    assert [t.item() for t in loss(None, first).values()] == [4.0, 2.0]
    second = {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}
    terms = loss(None, second)
    balance = 2 * torch.softmax(torch.tensor([0.25, 1.0]) / 0.5, 0)
    expected = 0.5 + 0.5 * balance
    torch.testing.assert_close(torch.stack([terms["a"] / 1, terms["b"] / 2]), expected)
    assert expected[1] > expected[0]
    look_back = ReLoBRaLo(alpha=1.0, temperature=0.5, lookback=0.0)  # weights from the first losses alone
    loss = WeightedSum(constant_terms("ab"), adaptive=look_back)
    for values in (first, {"a": torch.tensor(9.0), "b": torch.tensor(9.0)}, second):
        terms = loss(None, values)
    torch.testing.assert_close(torch.stack([terms["a"] / 1, terms["b"] / 2]), balance)


@pytest.mark.parametrize("normalized", [False, True])
def test_softadapt_follows_its_formula(normalized):
    loss = WeightedSum(constant_terms("ab"), {"b": 10.0}, adaptive=SoftAdapt(beta=2.0, normalized=normalized))
    loss(None, {"a": torch.tensor(1.0), "b": torch.tensor(1.0)})
    terms = loss(None, {"a": torch.tensor(1.5), "b": torch.tensor(0.5)})
    slopes = torch.tensor([0.5, -0.5])  # already of unit sum of absolute values
    expected = 2 * torch.softmax(2.0 * slopes, 0) * torch.tensor([1.5, 5.0])
    torch.testing.assert_close(torch.stack(list(terms.values())), expected)


@pytest.mark.parametrize("make", [ReLoBRaLo, SoftAdapt])
def test_adaptive_weights_resume_exactly_and_leave_validation_alone(make):
    def build():
        return WeightedSum(constant_terms("ab"), adaptive=make())

    torch.manual_seed(0)
    history = [{"a": torch.rand(()), "b": torch.rand(())} for _ in range(6)]
    whole, part, resumed = build(), build(), build()
    torch.manual_seed(1)
    expected = [whole(None, values) for values in history]
    torch.manual_seed(1)
    for values in history[:3]:
        part(None, values)
    state = part.state_dict()
    assert sum(t.numel() for t in state.values()) == 7
    with torch.no_grad():
        assert part(None, history[0]) == history[0]
    assert part.eval()(None, history[0]) == history[0]
    resumed.load_state_dict(state)
    for values, terms in zip(history[3:], expected[3:]):
        assert resumed(None, values) == terms


def test_adaptive_weights_carry_no_gradient_and_survive_vanished_terms():
    for rule in (ReLoBRaLo(), SoftAdapt(normalized=True)):
        loss = WeightedSum(constant_terms("ab"), adaptive=rule)
        for _ in range(3):
            a = torch.tensor(2.0, requires_grad=True)
            terms = loss(None, {"a": a, "b": torch.tensor(0.0)})
            slope = torch.autograd.grad(sum(terms.values()), a)[0]
            assert slope.item() == pytest.approx(terms["a"].item() / 2)
            assert torch.isfinite(slope)


@pytest.mark.unchecked
def test_errors_say_what_to_do():
    u = torch.zeros(2, 1, 8)
    with pytest.raises(ShapeError, match="must be equal, since broadcasting"):
        LpLoss()(u, u[:1])
    with pytest.raises(ConfigError, match="p >= 1"):
        LpLoss(0.5)
    with pytest.raises(ConfigError, match="choose 'mean', 'sum' or 'none'"):
        LpLoss(reduction="avg")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pass domain="):
        H1Loss()(u, u)
    with pytest.raises(ConfigError, match="weights name 'l3'"):
        WeightedSum({"l2": LpLoss()}, {"l3": 1.0})
    with pytest.raises(ConfigError, match="weights name none"):
        WeightedSum({})
    with pytest.raises(ShapeError, match="must be a scalar"):
        WeightedSum({"l2": LpLoss(reduction="none")})(u, u)
    with pytest.raises(DataError, match="The batch has no target, only x, y"):
        Supervised(LpLoss(), target="target")(nn.Identity(), batch_of())
    with pytest.raises(ConfigError, match="temperature > 0"):
        ReLoBRaLo(temperature=0.0)
