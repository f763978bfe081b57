"""The optimizers keep what torch promises of optimizers: dtypes, layouts, closures, states, AMP, training."""

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from sciml.data import BatchLoader
from sciml.errors import ConfigError
from sciml.runtime import Runtime
from sciml.state import load_state, save_state, tensors_equal
from sciml.training import Trainer, TrainerOptions
from symplectic_opt import _products
from symplectic_opt import optimizer as module
from symplectic_opt._buckets import Buckets
from symplectic_opt.optimizer import BregmanSLC
from symplectic_opt.presets import HTVI, SV, EBravo, ExpoSLC, PBravo, PolySLC
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

F64 = torch.float64
PRESETS = (ExpoSLC, PolySLC, EBravo, PBravo, HTVI, SV)


def network(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)


def minibatches(steps, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 3, generator=generator)
        yield x.to(dtype), x.sin().sum(-1, keepdim=True).to(dtype)


def train(model, optimizer, steps, start=0):
    dtype = next(model.parameters()).dtype
    for k, (x, y) in enumerate(minibatches(steps, dtype)):
        if k >= start:
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
    return model


def points(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("cls", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_minibatches_are_fitted_in_every_precision(cls, dtype):
    model = network(dtype)
    x, y = next(minibatches(1, dtype))
    before = (model(x) - y).square().mean().item()
    optimizer = cls(model.parameters(), **cls.example())
    train(model, optimizer, 300)
    assert (model(x) - y).square().mean().item() < 0.5 * before
    assert {p.dtype for p in model.parameters()} == {dtype}
    expected = torch.promote_types(dtype, torch.float32)
    assert {s["momentum"].dtype for s in optimizer.state.values()} == {expected}


def test_there_is_one_buffer_a_parameter():
    model = network()
    optimizer = ExpoSLC(model.parameters())
    train(model, optimizer, 3)
    state = optimizer.state_dict()["state"].values()
    assert [[*entry] for entry in state] == [["momentum"]] * 4


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.01}, {"weight_decay": 0.01, "decoupled": False}])
@pytest.mark.parametrize("cls", PRESETS)
def test_foreach_and_loop_agree(cls, settings):
    one, two = network(), network()
    train(one, cls(one.parameters(), foreach=True, **settings), 50)
    train(two, cls(two.parameters(), foreach=False, **settings), 50)
    torch.testing.assert_close(points(one), points(two), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("capturable", [False, True])
def test_parameters_of_several_dtypes_share_the_clock(capturable):
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    targets = [torch.randn(4, 5, dtype=F64, generator=generator) for _ in dtypes]
    mixed = [nn.Parameter(torch.zeros(4, 5, dtype=dtype)) for dtype in dtypes]
    exact = [nn.Parameter(torch.zeros(4, 5, dtype=F64)) for _ in dtypes]
    for parameters, option in ((mixed, capturable), (exact, False)):
        optimizer = BregmanSLC(parameters, lr=8.0, restart=5, capturable=option)
        for _ in range(20):
            for p, target in zip(parameters, targets):
                p.grad = (p.detach().double() - target).to(p.dtype)
            optimizer.step()
    for p, q, eps in zip(mixed, exact, (1e-12, 1e-5, 2e-2)):
        # float64 too is moved by the common decisions alone, which the others change by rounding only
        torch.testing.assert_close(p.double(), q.detach(), rtol=0, atol=max(eps, 1e-9) * 4)


def test_complex_parameters_are_pairs_of_real_ones():
    z = nn.Parameter(torch.tensor([1 + 2j, -0.5j, 3.0], dtype=torch.complex128))
    pair = nn.Parameter(torch.view_as_real(z.detach()).clone())
    weights = torch.tensor([1.0, 0.3, 0.1], dtype=F64)
    one, two = ExpoSLC([z], lr=10.0), ExpoSLC([pair], lr=10.0)
    for _ in range(60):
        for optimizer, value in ((one, lambda: (weights * z.abs().square()).sum()),
                                 (two, lambda: (weights[:, None] * pair.square()).sum())):  # fmt: skip
            optimizer.zero_grad()
            value().backward()
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(z), pair, rtol=1e-12, atol=1e-13)
    assert pair.detach().abs().max() < 1e-2


def test_layouts_do_not_matter():
    x = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    variants = [x.clone(), x.clone(memory_format=torch.channels_last), x.transpose(0, 3).contiguous().transpose(0, 3)]
    found = []
    for start in variants:
        p = nn.Parameter(start)
        optimizer = ExpoSLC([p], lr=10.0)
        for k in range(40):
            p.grad = (p.detach() - 1) * (1 + k % 3)
            optimizer.step()
        assert p.stride() == start.stride()
        found.append(p.detach())
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-6)


def snapshot(optimizer):
    return copy.deepcopy(optimizer.state_dict())


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("capturable", [False, True])
def test_a_step_without_gradients_changes_nothing(capturable):
    model = network()
    optimizer = ExpoSLC(model.parameters(), capturable=capturable)
    optimizer.step()
    assert optimizer.diagnostics()["steps"] == 0
    train(model, optimizer, 5)
    before, weights = snapshot(optimizer), points(model)
    optimizer.zero_grad()
    optimizer.step()
    assert same(before, snapshot(optimizer))
    assert torch.equal(points(model), weights)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_step_of_length_zero_changes_nothing(capturable):
    model = network()
    optimizer = ExpoSLC(model.parameters(), capturable=capturable)
    train(model, optimizer, 5)
    before, weights = optimizer.diagnostics(), points(model)
    optimizer.param_groups[0]["lr"] = 0.0
    train(model, optimizer, 1)
    assert optimizer.diagnostics() == before
    assert torch.equal(points(model), weights)
    optimizer.param_groups[0]["lr"] = 4.0
    train(model, optimizer, 1)
    assert optimizer.diagnostics()["steps"] == 6


@pytest.mark.parametrize("capturable", [False, True])
def test_parameters_without_gradient_stay_and_keep_their_momentum(capturable):
    """The others move as without them; their momentum goes on when gradients come again."""
    a, b = (nn.Parameter(torch.ones(3, dtype=F64)) for _ in range(2))
    optimizer = BregmanSLC([a, b], lr=8.0, restart=None, temporal_looping=False, capturable=capturable)
    alone = BregmanSLC([c := nn.Parameter(torch.ones(3, dtype=F64))], lr=8.0, restart=None, temporal_looping=False)
    for k in range(12):
        a.grad, c.grad = a.detach().clone(), c.detach().clone()
        b.grad = b.detach().clone() if k < 4 or k > 7 else None
        before = b.detach().clone()
        optimizer.step()
        alone.step()
        assert torch.equal(b.detach(), before) == (b.grad is None)
    torch.testing.assert_close(a, c, rtol=1e-13, atol=0)
    assert (b > a).all()


def test_a_group_with_lr_zero_stays():
    a, b = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = BregmanSLC([{"params": [a]}, {"params": [b], "lr": 1.0}], lr=8.0)
    for k in range(6):
        optimizer.param_groups[1]["lr"] = 1.0 if k < 3 else 0.0
        before = b.detach().clone()
        a.grad, b.grad = a.detach().clone(), b.detach().clone()
        optimizer.step()
        assert torch.equal(b.detach(), before) == (k >= 3)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("restart", ["gradient", "function"])
def test_a_step_calls_its_closure_once(restart, capturable):
    model, calls = network(), []
    optimizer = ExpoSLC(model.parameters(), restart=restart, capturable=capturable)
    x, y = next(minibatches(1))

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    values = [optimizer.step(closure) for _ in range(30)]
    assert calls == [True] * 30
    assert values[-1] < values[0]


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("stop", [1, 2, 7, 20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("cls", [ExpoSLC, PBravo])
def test_a_restored_run_is_the_undisturbed_one_bitwise(tmp_path, cls, dtype, stop, capturable):
    def build():
        model = network(dtype)
        optimizer = cls(model.parameters(), capturable=capturable)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)

    def go(parts, start, steps):
        model, optimizer, schedule = parts
        for k, (x, y) in enumerate(minibatches(steps, dtype)):
            if k >= start:
                optimizer.zero_grad()
                (model(x) - y).square().mean().backward()
                optimizer.step()
                schedule.step()

    whole = build()
    go(whole, 0, 30)
    parts = build()
    go(parts, 0, stop)
    save_state(tmp_path / "s", {str(i): part.state_dict() for i, part in enumerate(parts)})
    resumed = build()
    state = load_state(tmp_path / "s")
    for i, part in enumerate(resumed):
        part.load_state_dict(state[str(i)])
    go(resumed, stop, 30)
    assert tensors_equal(whole[0].state_dict(), resumed[0].state_dict())
    assert same(whole[1].state_dict(), resumed[1].state_dict())


def test_a_state_that_was_loaded_is_a_copy():
    """Of an optimizer that goes on."""
    a, b = (nn.Parameter(torch.ones(3)) for _ in range(2))
    one, other = ExpoSLC([a]), ExpoSLC([b])
    a.grad = torch.ones(3)
    one.step()
    other.load_state_dict(one.state_dict())
    before = snapshot(one)
    b.grad = torch.ones(3)
    other.step()
    assert same(before, snapshot(one))


def test_optimizers_are_copied_with_their_clock():
    model = network()
    optimizer = ExpoSLC(model.parameters())
    train(model, optimizer, 5)
    again, other = copy.deepcopy((model, optimizer))
    assert torch.equal(points(train(model, optimizer, 9, 5)), points(train(again, other, 9, 5)))
    assert optimizer.diagnostics() == other.diagnostics()


@pytest.mark.parametrize("capturable", [False, True])
def test_parameters_without_entries_change_nothing(capturable):
    found = []
    for more in ([], [nn.Parameter(torch.zeros(0, 3))]):
        p = nn.Parameter(torch.ones(3))
        optimizer = ExpoSLC([*more, p], lr=4.0, capturable=capturable)
        for g in (1.0, 0.0, 1e-25, 0.0, 1.0):
            for q in (*more, p):
                q.grad = torch.full_like(q, g)
            optimizer.step()
        found.append(p.tolist())
    assert found[0] == found[1]
    empty = nn.Parameter(torch.zeros(0))
    empty.grad = torch.zeros(0)
    ExpoSLC([empty], capturable=capturable).step()


CHANGES = {
    "a gradient is missing": lambda o, ps: setattr(ps[0], "grad", None),
    "a gradient is another one": lambda o, ps: setattr(ps[0], "grad", 3 * ps[0].grad),
    "parameters are of float64": lambda o, ps: [setattr(p, "data", p.data.double()) for p in ps],
    "one is of bfloat16": lambda o, ps: setattr(ps[2], "data", ps[2].data.bfloat16()),
    "a group is held": lambda o, ps: o.param_groups[1].update(lr=0.0),
    "a group has more": lambda o, ps: o.param_groups[0]["params"].append(ps[3]),
    "a group is new": lambda o, ps: o.add_param_group({"params": [ps[3]]}),
    "the state is replaced": lambda o, ps: o.load_state_dict(copy.deepcopy(o.state_dict())),
    "a buffer is replaced": lambda o, ps: o.state[ps[1]].update(momentum=torch.zeros(4)),
    "the decay is": lambda o, ps: o.param_groups[0].update(weight_decay=0.1, decoupled=False),
    "C is": lambda o, ps: o.param_groups[1].update(C=3.0),
    "what is maximised is": lambda o, ps: o.param_groups[1].update(maximize=True),
}


@pytest.mark.parametrize("when", [1, 2])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_kept_from_step_to_step_is_never_stale(monkeypatch, change, when):
    found = []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr(Buckets, "keep", lambda self, *_: None)
        torch.manual_seed(0)
        ps = [nn.Parameter(torch.randn(4)) for _ in range(4)]
        optimizer = BregmanSLC([{"params": ps[:2]}, {"params": ps[2:3], "lr": 2.0}], lr=4.0)
        for k in range(6):
            for p in ps:
                p.grad = None
                p.grad = (1 + k) * p.detach()
            before = optimizer._kept
            if k == when:
                change(optimizer, ps)
                for p in ps:
                    p.grad = None if p.grad is None else p.grad.to(p.dtype)
            optimizer.step()
            if kept:
                # without gradients, which would take memory
                assert not any(bucket.gradients for bucket in optimizer._kept.buckets)
                assert optimizer._kept is before or k in (0, when, when + 1)
        found.append([p.tolist() for p in ps])
    assert found[0] == found[1]


def test_gradients_are_clipped_before_a_step():
    one, two = (nn.Parameter(torch.tensor([3.0, -4.0])) for _ in range(2))
    a, b = ExpoSLC([one], lr=8.0), ExpoSLC([two], lr=8.0)
    for _ in range(20):
        one.grad, two.grad = one.detach().clone(), two.detach() / max(1.0, float(two.detach().norm()))
        nn.utils.clip_grad_norm_([one], 1.0)
        a.step()
        b.step()
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert one.detach().norm() < 5


@pytest.mark.parametrize("first", [False, True])
def test_an_optimizer_may_move_to_the_device_and_back(first):
    """Set `capturable` on the way, and the steps stay the same."""
    one, two = network(F64), network(F64)
    plain, changed = ExpoSLC(one.parameters(), lr=4.0), ExpoSLC(two.parameters(), lr=4.0, capturable=first)
    train(one, plain, 9)
    for start, stop, capturable in ((0, 3, first), (3, 6, not first), (6, 9, first)):
        changed.param_groups[0]["capturable"] = capturable
        train(two, changed, stop, start)
    torch.testing.assert_close(points(one), points(two), rtol=1e-10, atol=1e-12)
    assert changed.diagnostics()["steps"] == 9


@pytest.mark.parametrize("capturable", [False, True])
def test_a_group_of_steps_in_a_tensor_that_is_zero_stays(capturable):
    a, b = (nn.Parameter(torch.ones(3)) for _ in range(2))
    groups = [{"params": [a], "lr": torch.tensor(8.0)}, {"params": [b], "lr": torch.tensor(8.0)}]
    optimizer = BregmanSLC(groups, capturable=capturable)
    for k in range(6):
        if k == 3:
            optimizer.param_groups[1]["lr"].zero_()
            before = b.detach().clone()
        a.grad, b.grad = a.detach().clone(), b.detach().clone()
        optimizer.step()
    assert torch.equal(b, before)
    assert (a < b).all()


@pytest.mark.parametrize("kind", [float, torch.tensor])
@pytest.mark.parametrize("capturable", [False, True])
def test_the_clock_goes_by_the_first_group_that_moves(capturable, kind):
    """A backbone that is listed first may be frozen, whatever its gradients are."""
    a, b, c, d = (nn.Parameter(torch.ones(3)) for _ in range(4))
    groups = [{"params": [a], "C": 2.0, "lr": kind(4.0)}, {"params": [b], "lr": kind(8.0)}]
    both = BregmanSLC([*groups, {"params": [d], "lr": kind(2.0)}], capturable=capturable)
    both.param_groups[0]["lr"] = kind(0.0)
    alone = BregmanSLC([{"params": [c], "lr": 8.0}, {"params": [nn.Parameter(torch.ones(3))], "lr": 2.0}])
    e = alone.param_groups[1]["params"][0]
    for _ in range(10):
        b.grad, c.grad, d.grad, e.grad = (p.detach().clone() for p in (b, c, d, e))
        a.grad = torch.full((3,), math.nan)
        both.step()
        alone.step()
    assert torch.equal(a, torch.ones(3))
    assert both.state[a].get("momentum", torch.zeros(())).isfinite().all()
    torch.testing.assert_close(b, c, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(d, e, rtol=1e-5, atol=1e-6)
    assert both.diagnostics()["t"] == alone.diagnostics()["t"]


class NoHost(TorchDispatchMode):
    """Fails where the host would wait for a device, or a device for what lies on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            raise AssertionError(f"{func} waits for the device")
        if func is torch.ops.aten.nonzero.default or func is torch.ops.aten.equal.default:
            raise AssertionError(f"{func} waits for the device")
        found = func(*args, **kwargs or {})
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            sources = [x for x in args if isinstance(x, torch.Tensor)]
            assert {x.device for x in sources} == {found.device}, f"{func} from {sources[-1].device} to {found.device}"
        return found


def refuse(self, *args):
    raise AssertionError("the host waits for the device")


@pytest.mark.parametrize("order", ["canonical", "bravo"])
@pytest.mark.parametrize("restart", ["gradient", "function", "velocity", 3, None])
def test_a_capturable_step_never_waits_for_the_device(monkeypatch, restart, order):
    model = network()
    lr = torch.tensor(4.0)
    optimizer = BregmanSLC(
        [{"params": [p], "weight_decay": 0.01} for p in model.parameters()],
        lr=lr, restart=restart, order=order, capturable=True,
    )  # fmt: skip
    x, y = next(minibatches(1))

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    for _ in range(4):
        loss = closure()
        with NoHost(), monkeypatch.context() as patch:
            for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__"):
                patch.setattr(torch.Tensor, name, refuse)
            optimizer.step(lambda loss=loss: loss)
    assert optimizer.diagnostics()["steps"] == 4


@pytest.mark.parametrize("order", ["canonical", "bravo"])
@pytest.mark.parametrize("restart", ["gradient", "function"])
def test_a_capturable_step_copies_nothing_to_the_device(restart, order):
    """Of a GPU, which need not exist for that."""
    with FakeTensorMode():
        ps = [nn.Parameter(torch.empty(4, device="cuda")) for _ in range(2)]
        optimizer = BregmanSLC(
            [{"params": [p], "weight_decay": 0.1} for p in ps], lr=4.0, restart=restart, order=order, capturable=True
        )
        for _ in range(3):
            for p in ps:
                p.grad = torch.empty(4, device="cuda")
            loss = torch.empty((), device="cuda")
            with NoHost():
                optimizer.step(lambda loss=loss: loss)
                optimizer.step(lambda: 1.0)
        with NoHost(), pytest.raises(AssertionError, match="from cpu to cuda"):
            torch.zeros(()).to("cuda")


def test_a_step_reads_from_the_device_once(monkeypatch):
    model = network()
    optimizer = BregmanSLC([{"params": [p]} for p in model.parameters()], lr=4.0)
    reads, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(1) or tolist(self))
    for k in range(5):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        with NoHost():
            optimizer.step()
        assert len(reads) == k + 1


@pytest.mark.parametrize("order", ["canonical", "bravo"])
def test_device_and_host_take_the_same_steps(order):
    one, two = network(F64), network(F64)
    host = EBravo(one.parameters(), lr=4.0, order=order, weight_decay=1e-3)
    device = EBravo(two.parameters(), lr=torch.tensor(4.0), order=order, weight_decay=1e-3, capturable=True)
    train(one, host, 60)
    train(two, device, 60)
    torch.testing.assert_close(points(one), points(two), rtol=1e-10, atol=1e-11)
    told = host.diagnostics(), device.diagnostics()
    assert told[0]["restarts"] == told[1]["restarts"] > 0
    assert told[0]["t"] == pytest.approx(told[1]["t"], rel=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"restart": "velocity", "order": "bravo", "loop_test": "consistent"},
        {"restart": "velocity", "integrator": "sv", "adaptive_to": 3.0},
        {"restart": "function", "integrator": "htvi"},
        {"restart": "function", "order": "bravo", "adaptive_to": 3.0},
        {"restart": 7, "integrator": "sv", "order": "bravo"},
        {"restart": 7, "loop_test": "consistent", "C": 0.3},
        {"restart": None, "order": "bravo"},
        {"restart": None, "temporal_looping": False, "integrator": "htvi", "order": "bravo"},
        {"restart_smoothing": 0.5},
        {"restart_smoothing": 0.5, "order": "bravo", "temporal_looping": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["exponential", "polynomial"])
def test_device_and_host_decide_alike(family, settings):
    """With groups of a step of their own, gradients that vanish and parameters that rest, in the last step too."""
    found, scales = [], torch.logspace(-2, 0, 6, dtype=F64)
    for capturable in (False, True):
        ps = [nn.Parameter(torch.ones(6, dtype=F64)) for _ in range(3)]
        lr = 8.0 if family == "exponential" and "adaptive_to" not in settings else 0.3
        groups = [{"params": ps[:2]}, {"params": ps[2:], "lr": lr / 2, "weight_decay": 1e-3}]
        optimizer = BregmanSLC(groups, lr=lr, family=family, capturable=capturable, **settings)
        for k in range(19):
            for p in ps:
                p.grad = scales * p.detach() * (k % 9 != 8)
            if k % 4 == 2:
                ps[1].grad = None
            loss = sum((scales * p.detach().square()).sum() for p in ps)
            optimizer.step(lambda loss=loss: loss)
        told = optimizer.diagnostics()
        found.append((torch.cat(ps).detach(), told))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-9, atol=1e-12)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-9)


class Launches(TorchDispatchMode):
    """Counts what would start a kernel, each call of a foreach function once."""

    FREE = frozenset(
        (
            *(
                "view",
                "_unsafe_view",
                "reshape",
                "unbind",
                "select",
                "slice",
                "detach",
                "alias",
                "unsqueeze",
                "squeeze",
            ),
            *("expand", "as_strided", "split", "empty", "empty_like", "device", "promote_types"),
            *("unflatten_dense_tensors", "_record_function_enter_new", "_record_function_exit"),
        )
    )

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        self.count += name not in self.FREE
        if name.startswith("_foreach") and len(args) > 1 and isinstance(args[1], torch.Tensor):
            assert args[1].dtype == args[0][0].dtype, "which is a call a tensor"
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(("settings", "most"), [({}, 80), ({"restart": None, "temporal_looping": False}, 60)])
def test_launches_of_a_capturable_step_do_not_grow_with_tensors(settings, most):
    found = []
    for tensors in (2, 40):
        with FakeTensorMode():
            ps = [nn.Parameter(torch.empty(3, device="cuda")) for _ in range(tensors)]
            optimizer = BregmanSLC(ps, capturable=True, **settings)
            for p in ps:
                p.grad = torch.empty(3, device="cuda")
            optimizer.step()
            kept = optimizer.param_groups[0]["motion"]
            with Launches() as launches:
                optimizer.step()
            assert optimizer.param_groups[0]["motion"] is kept  # as a CUDA graph asks
        found.append(launches.count)
    assert found[0] == found[1] <= most


def test_products_on_an_accelerator_are_those_of_the_host(monkeypatch):
    """Small tensors together, large ones by themselves, in any layout."""
    monkeypatch.setattr(_products, "ALONE", 40)
    monkeypatch.setattr(_products, "COPIED", 50)
    generator = torch.Generator().manual_seed(0)
    shapes = [(), (3, 4), (7,), (50,), (0, 3), (2, 3, 5), (4, 10), (6, 1)]
    lists = [[torch.randn(shape, dtype=F64, generator=generator) for shape in shapes] for _ in range(2)]
    lists[0][5] = lists[0][5].transpose(0, 2).contiguous().transpose(0, 2)
    g, r = (torch.cat([x.flatten() for x in tensors]) for tensors in lists)
    found = _products._in_few_calls(*lists, squares=True)
    torch.testing.assert_close(found, torch.stack([g @ g, g @ r, r @ r]), rtol=1e-13, atol=0)
    torch.testing.assert_close(_products._in_few_calls(*lists, squares=False), found[:2], rtol=0, atol=0)
    parts = [part for part, _ in _products.pieces(lists)]
    assert [(part.start, part.stop) for part in parts] == [(0, 3), (3, 4), (4, 6), (6, 7), (7, 8)]


def test_the_speed_by_its_recurrence_is_measured_anew_when_digits_are_lost(monkeypatch):
    """Kicks that nearly undo one another cost |Δ|² in float32 all digits; what decides keeps half of them."""
    used, move = [], module.move
    monkeypatch.setattr(module, "move", lambda d, m, h, found, *more: used.append(found) or move(d, m, h, found, *more))
    measured, products = [], module.products
    monkeypatch.setattr("symplectic_opt._products.products", lambda b, all: measured.append(all) or products(b, all))
    generator = torch.Generator().manual_seed(0)
    p, direction = nn.Parameter(torch.zeros(1000)), torch.randn(1000, generator=generator)
    optimizer = BregmanSLC([p], lr=1.0, rate=1e-6, restart=None, temporal_looping=False)
    exact, lost, size, last = 0.0, 0, 1.0, torch.zeros(1000)
    for k in range(300):
        p.grad = direction + 1e-5 * torch.randn(1000, generator=generator)
        if k % 10 == 9:
            p.grad += last / size - direction
        optimizer.step()
        if k:
            assert used[-1].square == pytest.approx(exact, rel=2e-3)
        lead, size = optimizer.param_groups[0], optimizer.diagnostics()["s"]
        last = lead["scale"] * optimizer.state[p]["momentum"]
        exact = float(last.double().square().sum())
        lost += abs(lead["motion"]["square"] / exact - 1) > 0.1
    assert lost > 10  # without it
    assert sum(measured) < 60


def test_grad_scaler_skips_steps_with_infinite_gradients():
    model = network()
    optimizer = ExpoSLC(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x, y = next(minibatches(1))
    for k in range(6):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean() * (math.inf if k == 3 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.diagnostics()["steps"] == 5
    assert points(model).isfinite().all()


@pytest.mark.parametrize("cls", [BregmanSLC, HTVI, SV])
def test_each_family_has_its_own_defaults(cls):
    x = torch.logspace(-2, 0, 4, dtype=F64)
    for family, settings in (("exponential", (4.0, 1.0, 0.01)), ("polynomial", (0.01, 0.1, 6.0))):
        p = nn.Parameter(torch.ones(4, dtype=F64))
        optimizer = cls([p], family=family)
        assert tuple(optimizer.param_groups[0][name] for name in ("lr", "C", "rate")) == settings
        for _ in range(1000):
            p.grad = x * p.detach()
            optimizer.step()
        assert float((x * p * p).sum().detach()) < 0.5 * float(x.sum())


@pytest.mark.unchecked
def test_numbers_of_numpy_are_kept_as_numbers():
    p = nn.Parameter(torch.ones(3))
    optimizer = BregmanSLC([p], lr=np.float32(2.0), C=np.float64(3.0), restart=np.int64(5), maximize=np.bool_(False))
    group = optimizer.param_groups[0]
    assert [type(group[name]) for name in ("lr", "C", "restart", "maximize")] == [float, float, int, bool]


@pytest.mark.unchecked
def test_presets_refuse_what_they_set():
    p = [nn.Parameter(torch.ones(3))]
    with pytest.raises(ConfigError, match=r"EBravo calls its rate eta: set eta=0\.1"):
        EBravo(p, rate=0.1)
    with pytest.raises(ConfigError, match="PolySLC calls its rate p: set p=4"):
        PolySLC(p, rate=4)
    with pytest.raises(ConfigError, match="PolySLC sets family itself: leave it out, or take BregmanSLC"):
        PolySLC(p, family="exponential")
    with pytest.raises(ConfigError, match="HTVI sets integrator itself"):
        HTVI(p, integrator="slc")


@pytest.mark.parametrize("cls", PRESETS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_trainer_resumes_exactly(tmp_path, cls, precision):
    x = torch.linspace(-2, 2, 40)[:, None].repeat(1, 3)

    def fit(folder, epochs):
        model = network()
        trainer = Trainer(TrainerOptions(epochs=epochs), tmp_path / folder, runtime=Runtime("cpu", precision=precision))
        result = trainer.fit(
            model,
            lambda m, batch: (m(batch["x"]) - batch["y"]).square().mean(),
            BatchLoader({"x": x, "y": x[:, :1].sin()}, 8),
            lambda m: cls(m.parameters(), **cls.example()),
            scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda k: 1 - k / 100),
        )
        return model, result

    whole, result = fit("whole", 6)
    fit("parts", 2)
    resumed, again = fit("parts", 6)
    assert tensors_equal(whole.state_dict(), resumed.state_dict())
    assert (result.steps, result.best_loss) == (again.steps, again.best_loss)


COMPILED = """
import torch
from symplectic_opt import ExpoSLC
from torch._dynamo.utils import counters

found = []
for compiled in (False, True):
    parameters = [torch.nn.Parameter(torch.ones(n, dtype=torch.float64)) for n in (3, 5)]
    optimizer = ExpoSLC(parameters, lr=torch.tensor(40.0), capturable=True)
    step = torch.compile(optimizer.step, fullgraph=True, backend="aot_eager") if compiled else optimizer.step
    for _ in range(12):
        for k, p in enumerate(parameters):
            p.grad = p.detach() * (k + 1) / 3 * torch.arange(1, len(p) + 1)
        step()
    found.append((torch.cat(parameters).detach(), optimizer.diagnostics()["restarts"]))
torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=1e-13)
assert found[0][1] == found[1][1] > 0
assert counters["stats"]["unique_graphs"] == 2, counters
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < "2.11", reason="dynamo of torch 2.6 cannot trace a step whole")
def test_a_capturable_step_compiles_into_one_graph():
    """One for the first step, which makes the state, and one for all others; in a process without checks of shapes."""
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("dtype", "steps"), [(torch.float32, 100_000), (torch.bfloat16, 10_000), (torch.float16, 10_000)]
)
@pytest.mark.parametrize("cls", [ExpoSLC, PolySLC])
def test_long_runs_of_low_precision_stay_finite(cls, dtype, steps):
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(1000, 8, generator=generator)
    scales = torch.linspace(0.01, 1, 8)
    p = nn.Parameter(torch.ones(8, dtype=dtype))
    optimizer = cls([p], **cls.example())
    for k in range(steps):
        p.grad = (scales * p.detach() + noise[k % 1000]).to(dtype)
        optimizer.step()
    assert p.abs().max() < 10
    assert optimizer.state[p]["momentum"].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_momentum_that_grows_without_restarts_stays_finite(dtype):
    """In float16 the buffer itself would not, with its scale down to 1e-10."""
    p = nn.Parameter(torch.ones(8, dtype=dtype))
    optimizer = BregmanSLC([p], lr=1.0, C=1e-12, rate=0.3, restart=None, temporal_looping=False)
    largest = 0.0
    for _ in range(80):
        p.grad = torch.ones(8, dtype=dtype)
        optimizer.step()
        largest = max(largest, float(optimizer.state[p]["momentum"].abs().max()))
    assert p.isfinite().all()
    assert torch.finfo(torch.float16).max < largest < math.inf
