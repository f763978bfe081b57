"""The optimizers are the algorithm of arXiv 2207.11460 on positions and momenta, over all parameters together."""

import math

import pytest
import torch
from symplectic_opt.bregman import Exponential, Polynomial
from symplectic_opt.descent import Descent
from symplectic_opt.heavy_ball import HeavyBall
from symplectic_opt.methods import bregman_system
from symplectic_opt.optimizer import BregmanSLC
from symplectic_opt.presets import EBravo
from symplectic_opt.steppers import BregmanStepper
from torch import nn

F64 = torch.float64
FAMILIES = {
    "exponential": {"rate": 0.02, "C": 1.0, "lr": 8.0},
    "polynomial": {"rate": 4.0, "C": 0.05, "lr": 0.2},
}


def quadratic(d=24, condition=300.0, seed=0):
    """Symmetric A with eigenvalues from 1/condition to 1, and a start."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d, d, dtype=F64, generator=generator))[0]
    start = torch.randn(d, dtype=F64, generator=generator)
    return basis @ torch.diag(torch.logspace(-math.log10(condition), 0, d, dtype=F64)) @ basis.T, start


def pieces(start):
    """Parameters of different shapes with the entries of `start`."""
    return [nn.Parameter(x.clone()) for x in (start[:12].view(3, 4), start[12:13].view(()), start[13:])]


def flat(parameters):
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def run(optimizer, parameters, function, steps, schedule=None):
    """Points after each step."""
    points = []

    def closure():
        optimizer.zero_grad()
        loss = function(torch.cat([p.reshape(-1) for p in parameters]))
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        if schedule is not None:
            schedule.step()
        points.append(flat(parameters))
    return torch.stack(points)


def positions_and_momenta(A, q, *, family, rate, C, steps, widths, weights=1.0, restart=True, looping=True, beta=0.8):
    """SLC-RTL literally: half a kick first, full kicks then, in (q, r), with the step widths[k] of step k."""
    system = Exponential(rate, C) if family == "exponential" else Polynomial(rate, C)
    r, t, before, delta, points, loops, restarts = torch.zeros_like(q), 1.0, 0.0, None, [], 0, 0
    for h in widths[:steps]:
        G = A @ q
        if delta is not None:
            norm, speed = float((weights * G).norm()), float(delta.norm())
            if restart and float(G @ delta) > 0:
                r, restarts = torch.zeros_like(r), restarts + 1
            if family == "exponential":
                unstable = C * before**2 * rate**2 * math.exp(rate * (t - before)) * norm > speed
            else:
                unstable = C * before**2 * rate**2 * (t + before) ** (rate + 1) * norm > t * speed
            if looping and unstable:
                t, loops = max(1e-3, beta * t), loops + 1
            t += before
        r = r - (before + h) / 2 * system.kick(t) * weights * G
        delta = h * system.drift(t + h / 2) * r
        q, before = q + delta, h
        points.append(q)
    return torch.stack(points), restarts, loops


@pytest.mark.parametrize("looping", [True, False])
@pytest.mark.parametrize("restart", ["gradient", None])
@pytest.mark.parametrize("family", FAMILIES)
def test_iterates_are_those_of_positions_and_momenta(family, restart, looping):
    A, start = quadratic()
    settings = FAMILIES[family]
    expected, restarts, loops = positions_and_momenta(
        A, start, family=family, rate=settings["rate"], C=settings["C"], steps=60, widths=[settings["lr"]] * 60,
        restart=restart == "gradient", looping=looping,
    )  # fmt: skip
    parameters = pieces(start)
    optimizer = BregmanSLC(parameters, family=family, restart=restart, temporal_looping=looping, **settings)
    found = run(optimizer, parameters, lambda x: x @ A @ x / 2, 60)
    assert (found - expected).norm(dim=1).div(expected.norm(dim=1)).max() < 1e-12
    told = optimizer.diagnostics()
    assert (told["restarts"], told["loops"], told["steps"]) == (restarts, loops, 60)
    if restart and looping:
        assert restarts > 0
        assert loops > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_schedule_changes_the_step_of_positions_and_momenta(family):
    A, start = quadratic()
    settings = FAMILIES[family]
    parameters = pieces(start)
    optimizer = BregmanSLC(parameters, family=family, **settings)
    factors = [1.0, 1.2, 0.7, 0.4, 0.9]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: factors[k % 5])
    found = run(optimizer, parameters, lambda x: x @ A @ x / 2, 50, schedule)
    widths = [settings["lr"] * factors[k % 5] for k in range(50)]
    expected, restarts, loops = positions_and_momenta(
        A, start, family=family, rate=settings["rate"], C=settings["C"], steps=50, widths=widths
    )
    assert (found - expected).norm(dim=1).div(expected.norm(dim=1)).max() < 1e-12
    assert min(restarts, loops) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_are_a_diagonal_metric_with_one_clock(family):
    A, start = quadratic()
    settings = FAMILIES[family]
    a, b, c = pieces(start)
    groups = [
        {"params": [a]},
        {"params": [b], "C": 2 * settings["C"]},
        {"params": [c], "lr": 0.5 * settings["lr"], "C": 3 * settings["C"]},
    ]
    optimizer = BregmanSLC(groups, family=family, **settings)
    found = run(optimizer, [a, b, c], lambda x: x @ A @ x / 2, 60)
    weights = torch.cat([torch.ones(12), 2 * torch.ones(1), 0.75 * torch.ones(11)]).double()
    expected, restarts, loops = positions_and_momenta(
        A, start, family=family, rate=settings["rate"], C=settings["C"], steps=60, widths=[settings["lr"]] * 60,
        weights=weights,
    )  # fmt: skip
    assert (found - expected).norm(dim=1).div(expected.norm(dim=1)).max() < 1e-12
    assert min(restarts, loops) > 0


@pytest.mark.parametrize("order", ["canonical", "bravo"])
def test_equal_groups_are_one_group(order):
    A, start = quadratic()
    one, three = pieces(start), pieces(start)
    whole = run(BregmanSLC(one, lr=8.0, order=order), one, lambda x: x @ A @ x / 2, 60)
    parts = BregmanSLC([{"params": [p]} for p in three], lr=8.0, order=order)
    torch.testing.assert_close(run(parts, three, lambda x: x @ A @ x / 2, 60), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("order", ["canonical", "bravo"])
@pytest.mark.parametrize("restart", ["gradient", "function", "velocity", 7, None])
@pytest.mark.parametrize("integrator", ["slc", "htvi", "sv"])
def test_every_variant_is_its_heavy_ball(integrator, restart, order, capturable):
    A, start = quadratic()
    for family, settings in FAMILIES.items():
        adaptive = 2.0 if family == "polynomial" and restart == "gradient" else None
        system = bregman_system(family, settings["C"], settings["rate"], adaptive)
        stepper = BregmanStepper(Descent(HeavyBall(system, integrator), restart, order=order), settings["lr"])
        x = start.clone()
        move = stepper.start
        for _ in range(36):  # before the exponential member becomes unstable and rounding errors grow
            x = move(x, float(x @ A @ x / 2), A @ x, lambda y: (0.0, y))
            move = stepper.next
        parameters = pieces(start)
        optimizer = BregmanSLC(
            parameters, family=family, integrator=integrator, restart=restart, order=order, adaptive_to=adaptive,
            capturable=capturable, **settings,
        )  # fmt: skip

        def closure(optimizer=optimizer, parameters=parameters):
            optimizer.zero_grad()
            y = torch.cat([p.reshape(-1) for p in parameters])
            loss = y @ A @ y / 2
            loss.backward()
            return loss

        for _ in range(36):  # before the exponential member becomes unstable and rounding errors grow
            optimizer.step(closure)
        assert (flat(parameters) - x).norm() < 1e-12 * x.norm(), family
        told = optimizer.diagnostics()
        assert (told["restarts"], told["loops"]) == (stepper.state.restarts, stepper.state.loops)
        assert told["t"] == pytest.approx(stepper.state.t, rel=1e-12)
        assert told["mu"] == pytest.approx(stepper.last.mu, rel=1e-12)
        assert told["s"] == pytest.approx(math.exp(stepper.last.log_step), rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "iterations"),
    [
        ({"family": "exponential", "rate": 0.01, "C": 1.0, "lr": 10.0, "beta": 0.6}, 66),
        ({"family": "polynomial", "rate": 6, "C": 0.1, "lr": 0.25, "beta": 0.8}, 42),
    ],
)
def test_iterations_of_the_published_algorithm(settings, iterations):
    x = nn.Parameter(torch.tensor([5.0, 5.0], dtype=F64))
    optimizer = BregmanSLC([x], **settings)
    last, done = math.inf, 0
    while done < 200:
        optimizer.zero_grad()
        value = x[0] + x[1] ** 2 - (x[0] * x[1]).abs().log()
        value.backward()
        if abs(value.item() - last) <= 1e-10 and x.grad.norm() <= 1e-10:
            break
        last, done = value.item(), done + 1
        optimizer.step()
    assert abs(done - iterations) <= 2
    assert last == pytest.approx(1.5 + math.log(2) / 2, abs=1e-14)


@pytest.mark.parametrize("order", ["canonical", "bravo"])
def test_the_scaled_buffer_survives_that_its_scale_leaves_its_range(order):
    """μ = e^(-0.3): the scale leaves 1e±10 every 77 steps without a restart."""
    A, start = quadratic()
    settings = {"rate": 0.3, "C": 1e-12, "lr": 1.0}
    system = Exponential(settings["rate"], settings["C"])
    stepper = BregmanStepper(Descent(HeavyBall(system), None, False, order=order), settings["lr"])
    x, move = start.clone(), stepper.start
    parameters = pieces(start)
    optimizer = BregmanSLC(parameters, restart=None, temporal_looping=False, order=order, **settings)
    found = run(optimizer, parameters, lambda y: y @ A @ y / 2, 100)
    for k in range(100):
        x, move = move(x, 0.0, A @ x, lambda y: (0.0, y)), stepper.next
        assert (found[k] - x).norm() < 1e-12 * start.norm()
    assert math.exp(-0.3 * 100) < 1e-10 < optimizer.param_groups[0]["scale"]
    assert x.norm() < 0.9 * start.norm()


def test_translations_and_rotations_carry_over_to_iterates():
    A, start = quadratic()
    rotation = torch.linalg.qr(torch.randn(24, 24, dtype=F64, generator=torch.Generator().manual_seed(5)))[0]
    one, two = pieces(start), pieces(rotation @ start + 3)
    plain = run(BregmanSLC(one, lr=8.0), one, lambda x: x @ A @ x / 2, 60)
    turned = run(BregmanSLC(two, lr=8.0), two, lambda x: (y := rotation.T @ (x - 3)) @ A @ y / 2, 60)
    torch.testing.assert_close((turned - 3) @ rotation, plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 1e-3}])
@pytest.mark.parametrize("family", FAMILIES)
def test_scaling_the_objective_is_undone_by_c(family, settings):
    A, start = quadratic()
    settings = {**FAMILIES[family], "family": family, **settings}
    one, two = pieces(start), pieces(start)
    plain = run(BregmanSLC(one, **settings), one, lambda x: x @ A @ x / 2, 60)
    scaled = BregmanSLC(two, **{**settings, "C": settings["C"] / 37})
    torch.testing.assert_close(run(scaled, two, lambda x: 37 * (x @ A @ x / 2), 60), plain, rtol=1e-12, atol=1e-12)


def test_coupled_decay_is_a_penalty():
    A, start = quadratic()
    one, two = pieces(start), pieces(start)
    coupled = BregmanSLC(one, lr=8.0, weight_decay=0.3, decoupled=False)
    penalty = BregmanSLC(two, lr=8.0)
    found = run(coupled, one, lambda x: x @ A @ x / 2, 60)
    expected = run(penalty, two, lambda x: x @ A @ x / 2 + 0.15 * x @ x, 60)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_decoupled_decay_is_by_the_time_of_the_group():
    """Without forces x(t) = e^(-λt) x(0), whatever the steps, and s(t) has no part in it."""
    for lr, steps in ((4.0, 8), (1.0, 32)):
        a, b = nn.Parameter(torch.ones(3, dtype=F64)), nn.Parameter(torch.ones(2, dtype=F64))
        groups = [{"params": [a]}, {"params": [b], "lr": lr / 2}]
        optimizer = BregmanSLC(groups, lr=lr, C=1e5, weight_decay=0.01)
        run(optimizer, [a, b], lambda x: 0 * x.sum(), steps)
        torch.testing.assert_close(a.detach(), torch.full((3,), math.exp(-0.32), dtype=F64), rtol=1e-13, atol=0)
        torch.testing.assert_close(b.detach(), torch.full((2,), math.exp(-0.16), dtype=F64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "decoupled": False}, {"weight_decay": 1e-3}])
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("order", ["canonical", "bravo"])
@pytest.mark.parametrize("restart", ["gradient", "function", "velocity", 7, None])
def test_maximising_is_minimising_the_negative(restart, order, capturable, settings):
    A, start = quadratic()
    settings = {"lr": 8.0, "restart": restart, "order": order, "capturable": capturable, **settings}
    one, two = pieces(start), pieces(start)
    up = run(BregmanSLC(one, maximize=True, **settings), one, lambda x: -(x @ A @ x / 2), 30)
    down = run(BregmanSLC(two, **settings), two, lambda x: x @ A @ x / 2, 30)
    if settings.get("decoupled", True):
        assert torch.equal(up, down)
    torch.testing.assert_close(up, down, rtol=1e-12, atol=1e-12)


def test_deciding_after_the_move_restarts_less_with_minibatches_but_diverges_sooner():
    def run(lr, order):
        generator = torch.Generator().manual_seed(0)
        p = nn.Parameter(torch.ones(8))
        optimizer = EBravo([p], lr=lr, order=order)
        for _ in range(100):
            x = torch.randn(8, 8, generator=generator) * torch.linspace(0.1, 1, 8)
            p.grad = x.T @ (x @ p.detach() + 0.1 * torch.randn(8, generator=generator)) / 8
            optimizer.step()
        return optimizer.diagnostics()["restarts"], float(p.detach().norm())

    (restarts, size), (fewer, smaller) = run(4.0, "canonical"), run(4.0, "bravo")
    assert fewer < restarts
    assert smaller < size
    assert run(16.0, "canonical")[1] < size < 1e3 < run(16.0, "bravo")[1]


def test_smoothed_restarts_follow_the_mean_of_the_slope():
    x = nn.Parameter(torch.zeros(1, dtype=F64))
    gradients = [-1.0, -1.0, 0.1, 1.0, 1.0, 1.0]
    optimizer = BregmanSLC([x], lr=4.0, temporal_looping=False, restart_smoothing=0.9)
    raw = BregmanSLC([y := nn.Parameter(torch.zeros(1, dtype=F64))], lr=4.0, temporal_looping=False)
    trend, last, expected, fired = 0.0, 0.0, 0, []
    for g in gradients:
        for one, parameter in ((optimizer, x), (raw, y)):
            parameter.grad = torch.full((1,), g, dtype=F64)
            before = x.item()
            one.step()
            if one is optimizer:
                trend = 0.9 * trend + 0.1 * g * last
                last = x.item() - before
                if trend > 0:
                    expected, trend = expected + 1, 0.0
        fired.append((optimizer.diagnostics()["restarts"], raw.diagnostics()["restarts"]))
        assert fired[-1][0] == expected
    assert fired[2] == (0, 1)  # one gradient against the trend
    assert fired[-1][0] > 0


@pytest.mark.parametrize("order", ["canonical", "bravo"])
def test_a_restart_forgets_the_mean_too(order):
    x = nn.Parameter(torch.zeros(1, dtype=F64))
    optimizer = BregmanSLC([x], lr=4.0, temporal_looping=False, restart_smoothing=0.5, order=order)
    restarts = []
    for g in [-1.0] * 30 + [5.0, 1e-3]:  # uphill for once, then hardly a force
        x.grad = torch.full((1,), g, dtype=F64)
        optimizer.step()
        restarts.append(optimizer.diagnostics()["restarts"])
    assert restarts == [0] * 30 + [1, 1]


def kicks_first(A, q, *, rate, C, h, weights, steps, beta=0.8):
    """The order "bravo" literally, in the exponential family: kick, drift, time, restart, loop."""
    r, t, points, restarts, loops = torch.zeros_like(q), 1.0, [], 0, 0
    system = Exponential(rate, C)
    for _ in range(steps):
        G = A @ q
        r = r - h * system.kick(t) * weights * G
        delta = h * system.drift(t + h / 2) * r
        q = q + delta
        unstable = C * h**2 * rate**2 * math.exp(rate * (t - h)) * (weights * G).norm() > delta.norm()
        t = t + h
        if G @ delta > 0:
            r, restarts = torch.zeros_like(r), restarts + 1
        if unstable:
            t, loops = max(1e-3, beta * t), loops + 1
        points.append(q)
    return torch.stack(points), restarts, loops


def test_groups_are_a_diagonal_metric_in_the_order_of_kicks_first():
    A, start = quadratic()
    a, b, c = pieces(start)
    groups = [{"params": [b]}, {"params": [a], "C": 0.1}, {"params": [c], "lr": 4.0, "C": 0.4}]
    optimizer = BregmanSLC(groups, lr=8.0, rate=0.02, order="bravo")
    found = run(optimizer, [a, b, c], lambda x: x @ A @ x / 2, 150)
    weights = torch.where(torch.arange(24) == 12, 1.0, torch.tensor(0.1, dtype=F64))
    expected, restarts, loops = kicks_first(A, start, rate=0.02, C=1.0, h=8.0, weights=weights, steps=150)
    assert (found - expected).norm(dim=1).div(expected.norm(dim=1)).max() < 1e-12
    assert min(restarts, loops) > 0


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_forces_that_vanish_for_long_and_come_again_are_no_shock(family, capturable):
    p = nn.Parameter(torch.ones(3, dtype=F64))
    optimizer = BregmanSLC([p], family=family, capturable=capturable, **FAMILIES[family])
    for k in range(800):
        p.grad = p.detach() * (k < 20 or k > 600)
        optimizer.step()
    assert optimizer.diagnostics()["steps"] == 800
    assert p.abs().max() < 1


@pytest.mark.parametrize("capturable", [False, True])
def test_what_is_learned_exactly_stays(capturable):
    """A hinge loss has no force where all is classified; what moves there comes to rest."""
    x, y = torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), torch.tensor([1.0, -1.0])
    w = nn.Parameter(torch.zeros(2))
    optimizer = BregmanSLC([w], lr=10.0, capturable=capturable)
    for k in range(600):
        optimizer.zero_grad()
        torch.relu(1 - y * (x @ w)).mean().backward()
        optimizer.step()
        if k == 400:
            then = w.detach().clone()
    assert torch.equal(w.detach(), then)
    assert (y * (x @ w) >= 1).all()
    assert optimizer.diagnostics()["t"] < 100


def test_diagnostics_are_those_of_the_system():
    A, start = quadratic()
    parameters = pieces(start)
    optimizer = BregmanSLC(parameters, lr=8.0, rate=0.02)
    assert optimizer.diagnostics() == {"steps": 0, "t": 1.0, "s": 0, "mu": 0, "restarts": 0, "loops": 0, "energy": 0}
    points = run(optimizer, parameters, lambda x: x @ A @ x / 2, 30)
    told = optimizer.diagnostics()
    system, t = Exponential(0.02), told["t"]
    r = (points[-1] - points[-2]) / (8.0 * system.drift(t + 4))
    assert told["energy"] == pytest.approx(system.drift(t) * float(r @ r) / 2, rel=1e-9)
    assert told["s"] == pytest.approx(8.0**2 * system.kick(t) * system.drift(t + 4), rel=1e-12)


@pytest.mark.parametrize("capturable", [False, True])
def test_restarts_reach_parameters_without_gradient(capturable):
    a, b = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    optimizer = BregmanSLC([a, b], lr=4.0, restart=2, temporal_looping=False, capturable=capturable)
    for k in range(4):
        a.grad = torch.ones(2, dtype=torch.float64)
        b.grad = torch.ones(2, dtype=torch.float64) if k in (0, 3) else None
        before = b.detach().clone()
        optimizer.step()
    # after the restart at the third step the momentum of the first is forgotten, so that b falls by a kick alone
    s = optimizer.diagnostics()["s"]
    assert optimizer.diagnostics()["restarts"] == 1
    assert (before - b.detach() - s).abs().max() <= 1e-12


def test_energy_of_the_motion_survives_cancellation():
    """Gradients that undo the last displacement, in float32: the energy is that of the buffers."""
    generator = torch.Generator().manual_seed(0)
    p, d = nn.Parameter(torch.zeros(1000)), torch.randn(1000, generator=generator)
    optimizer = BregmanSLC([p], lr=1.0, rate=1e-6, restart=None, temporal_looping=False)
    last, size = torch.zeros(1000), 1.0
    for k in range(60):
        p.grad = d + 1e-5 * torch.randn(1000, generator=generator)
        if k % 10 == 9:
            p.grad += last / size - d
        optimizer.step()
        told, lead = optimizer.diagnostics(), optimizer.param_groups[0]
        size = told["s"]
        last = lead["scale"] * optimizer.state[p]["momentum"]
        # ½ a |r|² with r = Δ/A
        log_a = Exponential(1e-6, 1.0).log_drift(told["t"])
        energy = 0.5 * float(last.double().square().sum()) * math.exp(log_a - 2 * lead["motion"]["log_amplitude"])
        assert told["energy"] == pytest.approx(energy, rel=1e-2)


def test_gradients_that_vanish_leave_the_momentum():
    p = nn.Parameter(torch.ones(3))
    optimizer = BregmanSLC([p], lr=1.0, restart=None, temporal_looping=False)
    p.grad = torch.ones(3)
    optimizer.step()
    moved = p.detach().clone()
    p.grad = torch.zeros(3)
    optimizer.step()
    assert bool((p.detach() < moved).all())
