"""Wrong input gets an error that says what to do, and changes nothing."""

import copy
import math

import pytest
import torch
from sciml.errors import ConfigError
from symplectic_opt.clocks import PowerClock
from symplectic_opt.optimizer import BregmanSLC
from symplectic_opt.presets import HTVI, SV, ExpoSLC, PolySLC
from torch import nn

pytestmark = pytest.mark.unchecked


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0}, "lr=0 must be a finite number above zero"),
        ({"lr": -1.0}, "lr=-1.0 must be"),
        ({"lr": math.nan}, "lr=nan must be"),
        ({"lr": math.inf}, "lr=inf must be"),
        ({"C": 0}, "C=0 must be"),
        ({"C": -2.0}, "C=-2.0 must be"),
        ({"rate": 0}, "rate=0 must be"),
        ({"rate": -0.1}, "rate=-0.1 must be"),
        ({"beta": 0.0}, "beta=0.0 must lie between 0 and 1"),
        ({"beta": 1.0}, "beta=1.0 must lie between 0 and 1"),
        ({"t0": 1e-4}, "t0=0.0001 must be finite and not below t_min=0.001"),
        ({"t_min": 0.0}, "t_min=0.0"),
        ({"family": "logarithmic"}, "family='logarithmic' is unknown; choose exponential or polynomial"),
        ({"integrator": "rk4"}, "integrator='rk4' is unknown; choose one of slc, htvi, sv"),
        ({"restart": "always"}, "restart='always' is unknown; choose gradient, function, velocity"),
        ({"restart": 0}, "restart=0 is unknown"),
        ({"restart": True}, "restart=True is unknown"),
        ({"loop_test": "strict"}, "loop_test='strict' is unknown"),
        ({"order": "random"}, "order='random' is unknown"),
        ({"weight_decay": -1e-2}, "weight_decay=-0.01 must be"),
        ({"restart_smoothing": 1.0}, r"restart_smoothing=1.0 must lie in \[0, 1\)"),
        ({"restart_smoothing": 0.5, "restart": None}, "is for restart='gradient' only"),
        ({"lr": "0.1"}, "lr='0.1' must be a number"),
        ({"lr": torch.ones(2)}, "lr=tensor.* must be a number"),
        ({"C": "1"}, "C='1' must be a number"),
        ({"C": torch.ones(())}, "C=tensor.* must be a number"),
        ({"lr": torch.ones(1)}, "lr=tensor.* must be a number"),
        ({"temporal_looping": "no"}, "temporal_looping='no' must be True or False"),
        ({"maximize": "x"}, "maximize='x' must be True or False"),
        ({"decoupled": None}, "decoupled=None must be"),
        ({"capturable": "cuda"}, "capturable='cuda' must be"),
        ({"foreach": 2}, "foreach=2 must be"),
        ({"adaptive_to": PowerClock(2.0)}, r"adaptive_to=PowerClock\(exponent=2.0\) must be a number or None"),
        ({"rate": "x"}, "rate='x' must be a number"),
        ({"beta": None}, "beta=None must be a number"),
        ({"weight_decay": None}, "weight_decay=None must be a number"),
        ({"restart": ["gradient"]}, r"restart=\['gradient'\] is unknown"),
        ({"family": "polynomial", "adaptive_to": 7.0}, "steps grow from a Polynomial of a larger p"),
    ],
)
def test_settings_out_of_range(settings, message):
    BregmanSLC([nn.Parameter(torch.ones(2))], restart=1)  # equal to True, and cached
    with pytest.raises(ConfigError, match=message):
        BregmanSLC([nn.Parameter(torch.ones(2))], **settings)


@pytest.mark.parametrize("lr", [-0.1, math.nan])
def test_schedules_out_of_range(lr):
    _, optimizer = stepped()
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(ConfigError, match=f"lr={lr} of a group must be a finite number above zero"):
        optimizer.step()


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize(("name", "value"), [("lr", -4.0), ("lr", math.nan), ("C", -1.0), ("C", 0.0)])
def test_settings_of_every_group_are_checked_at_every_step(name, value, capturable):
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = BregmanSLC([{"params": [a]}, {"params": [b]}], lr=4.0, capturable=capturable)
    optimizer.param_groups[1][name] = value
    a.grad, b.grad = torch.ones(3), torch.ones(3)
    with pytest.raises(ConfigError, match=f"{name}={value} of a group"):
        optimizer.step()
    assert torch.equal(a, torch.ones(3))
    assert torch.equal(b, torch.ones(3))


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("lr", [-4.0, math.nan, math.inf])
@pytest.mark.parametrize("index", [0, 1])
def test_steps_in_tensors_are_checked(index, lr, capturable):
    """On the device they are counted."""
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    groups = [{"params": [p], "lr": torch.tensor(4.0)} for p in (a, b)]
    optimizer = BregmanSLC(groups, capturable=capturable)
    a.grad, b.grad = torch.ones(3), torch.ones(3)
    optimizer.param_groups[index]["lr"].fill_(lr)
    if capturable:
        optimizer.step()
        with pytest.raises(ConfigError, match="lr was negative, NaN or infinite in 1 steps, which were left out"):
            optimizer.diagnostics()
    else:
        with pytest.raises(ConfigError, match=r"lr=tensor.* of a group must be a finite number above zero"):
            optimizer.step()
    assert torch.equal(a, torch.ones(3))
    assert torch.equal(b, torch.ones(3))
    assert optimizer.diagnostics()["steps"] == 0


def test_what_is_maximised_is_shared_where_values_are_compared():
    a, b = (nn.Parameter(torch.ones(2)) for _ in range(2))
    BregmanSLC([{"params": [a]}, {"params": [b], "maximize": True}])
    with pytest.raises(ConfigError, match="maximize=True of a group differs"):
        BregmanSLC([{"params": [a]}, {"params": [b], "maximize": True}], restart="function")


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: x.square().sum().item(),
        lambda x: x.square().sum().reshape(1),
        lambda x: x.square().sum() if x.abs().max() < 1.5 else torch.tensor(math.inf),
    ],
)
def test_losses_of_every_shape_and_size_restart_on_the_device_too(loss):
    def run(capturable):
        p = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        optimizer = BregmanSLC([p], lr=20.0, restart="function", capturable=capturable)

        def closure():
            p.grad = 2 * p.detach()
            return loss(p.detach())

        for _ in range(30):
            optimizer.step(closure)
        return p.detach(), optimizer.diagnostics()["restarts"]

    (a, n), (b, m) = run(False), run(True)
    assert n == m > 0
    assert (a - b).abs().max() <= 1e-12


@pytest.mark.parametrize("state", [{}, {"state": {}, "param_groups": []}])
def test_states_of_no_optimizer(state):
    _, optimizer = stepped()
    with pytest.raises(ConfigError, match="the state is of the family None"):
        optimizer.load_state_dict(state)


def test_no_parameters():
    with pytest.raises(ValueError, match="empty parameter list"):
        BregmanSLC([])


@pytest.mark.parametrize("name", ["family", "rate", "beta", "restart", "order"])
def test_groups_share_the_clock(name):
    a, b = (nn.Parameter(torch.ones(2)) for _ in range(2))
    other = {"family": "polynomial", "rate": 0.5, "beta": 0.5, "restart": None, "order": "bravo"}[name]
    with pytest.raises(ConfigError, match=f"{name}={other!r} of a group differs from"):
        BregmanSLC([{"params": [a]}, {"params": [b], name: other}])
    optimizer = BregmanSLC([a])
    with pytest.raises(ConfigError, match="one clock"):
        optimizer.add_param_group({"params": [b], name: other})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ConfigError, match="C=-1 must be"):
        optimizer.add_param_group({"params": [b], "C": -1})


def stepped(steps=3, **settings):
    p = nn.Parameter(torch.ones(4))
    optimizer = BregmanSLC([p], lr=4.0, **settings)
    for _ in range(steps):
        p.grad = p.detach().clone()
        optimizer.step()
    return p, optimizer


def plain(tree):
    if isinstance(tree, dict):
        return {k: plain(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [plain(x) for x in tree]
    return tree.tolist() if isinstance(tree, torch.Tensor) else tree


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("steps", [0, 3])
def test_gradients_that_are_not_finite(steps, bad):
    p, optimizer = stepped(steps)
    before = copy.deepcopy(plain(optimizer.state_dict())), p.tolist()
    p.grad = torch.tensor([1.0, bad, 1.0, 1.0])
    with pytest.raises(FloatingPointError, match="a gradient is NaN or infinite in this step; parameters and"):
        optimizer.step()
    assert (plain(optimizer.state_dict()), p.tolist()) == before


@pytest.mark.parametrize("read", ["diagnostics", "state_dict"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("first", [True, False])
def test_gradients_that_are_not_finite_are_left_out_on_a_device(bad, read, first):
    p, optimizer = stepped(capturable=True)
    q, clean = stepped(capturable=True)
    if first:
        p = nn.Parameter(torch.ones(4))
        q = nn.Parameter(torch.ones(4))
        optimizer, clean = (BregmanSLC([x], lr=4.0, capturable=True) for x in (p, q))
    p.grad = torch.tensor([1.0, bad, 1.0, 1.0])
    optimizer.step()
    optimizer.step()
    with pytest.raises(FloatingPointError, match="NaN or infinite in 2 steps, which were left out"):
        getattr(optimizer, read)()
    for _ in range(3):
        p.grad, q.grad = p.detach().clone(), q.detach().clone()
        optimizer.step()
        clean.step()
    assert p.tolist() == q.tolist()
    assert plain(optimizer.state_dict()) == plain(clean.state_dict())


def test_large_and_small_gradients_are_finite():
    """Their squares are not in float32."""
    for size in (1e25, 1e-25):
        p = nn.Parameter(torch.zeros(4))
        optimizer = ExpoSLC([p], lr=1.0, C=1e-3)
        for _ in range(5):
            p.grad = torch.full((4,), size)
            optimizer.step()
        told = optimizer.diagnostics()
        assert told["steps"] == 5
        square = optimizer.param_groups[0]["motion"]["square"]
        expected = (optimizer.param_groups[0]["scale"] * optimizer.state[p]["momentum"].double()).square().sum()
        assert square == pytest.approx(float(expected), rel=1e-5)


def step_and_read(optimizer, closure=None):
    optimizer.step(closure)
    optimizer.diagnostics()


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("order", ["canonical", "bravo"])
def test_time_that_grows_beyond_all_numbers(order, capturable):
    """Without looping a vanishing gradient lets time grow; the next force overflows."""
    p = nn.Parameter(torch.ones(4))
    optimizer = BregmanSLC(
        [p], lr=200.0, temporal_looping=False, restart=None, order=order, capturable=capturable, foreach=False
    )
    for _ in range(60):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    before = optimizer.diagnostics()
    p.grad = torch.ones_like(p)
    message = (
        r"time grew to 12001 and the step s\(t\) beyond the numbers of the buffers.*: reduce lr or enable temporal"
    )
    with pytest.raises(OverflowError, match=message):
        step_and_read(optimizer)
    assert optimizer.diagnostics() == before
    assert p.tolist() == [1.0] * 4


@pytest.mark.parametrize("capturable", [False, True])
def test_steps_that_overflow_though_time_loops(capturable):
    p = nn.Parameter(torch.ones(4))
    optimizer = BregmanSLC([p], lr=1e21, rate=1e-21, C=1e300, capturable=capturable)
    p.grad = torch.ones_like(p)
    with pytest.raises(OverflowError, match=r"though time loops: reduce lr or C$"):
        step_and_read(optimizer)
    assert p.tolist() == [1.0] * 4


def test_function_restarts_need_the_loss():
    p = nn.Parameter(torch.ones(4))
    p.grad = torch.ones(4)
    optimizer = BregmanSLC([p], restart="function")
    for closure in (None, lambda: None):
        with pytest.raises(ConfigError, match=r"call step\(closure\) with a closure that returns the loss"):
            optimizer.step(closure)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_loss_that_is_nan_changes_nothing(capturable):
    p = nn.Parameter(torch.ones(4))
    p.grad = torch.ones(4)
    optimizer = BregmanSLC([p], restart="function", capturable=capturable)
    with pytest.raises(FloatingPointError, match="or the loss NaN, in 1 steps" if capturable else "the loss is NaN"):
        step_and_read(optimizer, lambda: torch.tensor(math.nan))
    assert p.tolist() == [1.0] * 4


@pytest.mark.parametrize("capturable", [False, True])
def test_sparse_gradients(capturable):
    table, dense = nn.Embedding(4, 2, sparse=True), nn.Parameter(torch.ones(4))
    optimizer = ExpoSLC([dense, *table.parameters()], capturable=capturable)
    (table(torch.tensor([1])).sum() + dense.sum()).backward()
    with pytest.raises(RuntimeError, match="sparse gradients are not supported"):
        optimizer.step()
    assert optimizer.state_dict()["state"] == {}


def test_states_of_another_family_or_optimizer():
    p = nn.Parameter(torch.ones(4))
    optimizer = ExpoSLC([p])
    with pytest.raises(ConfigError, match="of the family 'polynomial', this optimizer of 'exponential'"):
        optimizer.load_state_dict(PolySLC([p]).state_dict())
    with pytest.raises(ConfigError, match="of the family None"):
        optimizer.load_state_dict(torch.optim.SGD([p]).state_dict())
    for cls, own in ((HTVI, "htvi"), (SV, "sv")):
        with pytest.raises(ConfigError, match=f"of the integrator 'slc', this optimizer of '{own}'"):
            cls([p]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("entry", [{"momentum_buffer": torch.ones(4)}, {"momentum": torch.ones(5)}])
def test_states_of_other_buffers(entry):
    _, optimizer = stepped()
    state, before = optimizer.state_dict(), copy.deepcopy(plain(optimizer.state_dict()))
    with pytest.raises(ConfigError, match=r"no momentum of the shape \(4,\) of parameter 0: it is of another"):
        optimizer.load_state_dict({**state, "state": {0: entry}})
    assert plain(optimizer.state_dict()) == before
