"""Jumps, events and retractions of the native solver."""

import math

import pytest
import torch
from pnde import PendulumConstraint
from pnde.retraction import retract as retract_onto
from pnde.solvers import ADAPTIVE, Status, solve

F64 = torch.float64
METHODS = [*ADAPTIVE, "rk4"]


def grid(start, stop, n):
    return torch.linspace(start, stop, n, dtype=F64)


def rotation(t, u):
    return torch.stack([u[:, 1], -u[:, 0]], dim=-1)


def switched(t, u):
    """The converter: C1 = 0.1, C2 = 0.2, L3 = 0.5, period 3, duty 0.5 (arXiv 2306.09739)."""
    s = ((t % 3) / 3 >= 0.5).to(u.dtype)
    v1, v2, current = u.unbind(-1)
    return torch.stack([(1 - s) * current / 0.1, s * current / 0.2, (-(1 - s) * v1 - s * v2) / 0.5], dim=-1)


def exact_switched(u0, t):
    """Each piece of 1.5 is an oscillator of one capacitor C and the coil L: I + i√(C/L) V turns at the rate 1/√(CL)."""
    out = []
    for time in t.tolist():
        u, left, piece = u0.clone(), time, 0
        while left > 0:
            capacity, which = ((0.1, 0), (0.2, 1))[piece % 2]
            angle, ratio = min(left, 1.5) / math.sqrt(capacity * 0.5), math.sqrt(capacity / 0.5)
            v, current = u[:, which].clone(), u[:, 2].clone()
            u[:, which] = v * math.cos(angle) + current / ratio * math.sin(angle)
            u[:, 2] = current * math.cos(angle) - v * ratio * math.sin(angle)
            left, piece = left - 1.5, piece + 1
        out.append(u)
    return torch.stack(out, dim=1)


@pytest.mark.parametrize("method", METHODS)
def test_steps_end_at_jumps(method):
    torch.manual_seed(0)
    u0, t = torch.rand(5, 3, dtype=F64), grid(0, 6, 9)
    options = {"substeps": 100} if method == "rk4" else {"rtol": 1e-7, "atol": 1e-7}
    jumps = [1.5, 3.0, 4.5, 6.0]
    solution = solve(switched, u0, t, method=method, jump_times=jumps, **options)
    torch.testing.assert_close(solution.u, exact_switched(u0, t), rtol=0, atol=1e-5)


def test_known_jumps_cost_no_rejected_steps():
    """u̇ = ±1 is exact in any step, if no step sees the other side of a jump."""

    def field(t, u):
        return torch.where((t % 2 < 1)[:, None], torch.ones_like(u), -torch.ones_like(u))

    for t in (grid(0, 4, 9), grid(4, 0, 9)):
        solution = solve(field, torch.zeros(1, 1, dtype=F64), t, jump_times=[0, 1, 2, 3, 4])
        assert solution.n_rejected.item() == 0
        exact = 0.5 - ((t % 2) - 1).abs() + 0.5
        torch.testing.assert_close(solution.u[0, :, 0], exact, rtol=0, atol=1e-12)
    blind = solve(field, torch.zeros(1, 1, dtype=F64), grid(0, 4, 9))
    assert blind.n_rejected.item() > 10


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_reinitialise_after_a_jump(method):
    """u̇ = -u, halved at t = 1; the output there is the state after the jump, and gradients pass."""
    u0, t = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True), grid(0, 2, 5)
    options = {"substeps": 50} if method == "rk4" else {"rtol": 1e-10, "atol": 1e-10}
    solution = solve(
        lambda t, u: -u, u0, t, method=method, jump_times=[1.0], reinitialise=lambda t, u: u / 2, **options
    )
    exact = u0 * (-t).exp() * torch.where(t >= 1, 0.5, 1.0)
    torch.testing.assert_close(solution.u[..., 0], exact, rtol=0, atol=1e-8)
    (gradient,) = torch.autograd.grad(solution.u[:, -1].sum(), u0)
    torch.testing.assert_close(gradient, torch.full_like(u0, math.exp(-2) / 2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("direction", [1, -1])
def test_events_end_each_sample_at_its_own_time(method, direction):
    """x = cos(t - φ) falls to 0.3 at φ + arccos 0.3; one sample never does."""
    phase = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    u0 = torch.stack([phase.cos(), direction * phase.sin()], dim=-1)
    u0 = torch.cat([u0, torch.full((1, 2), 10.0, dtype=F64)])
    frozen = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=F64)
    t = direction * grid(0, 4, 41)
    options = {"rtol": 1e-10, "atol": 1e-10, "method": method}
    solution = solve(lambda t, u, k: k[:, None] * rotation(t, u), u0, t, args=(frozen,), event=level, **options)
    assert solution.status.tolist() == [Status.EVENT] * 3 + [Status.SUCCESS]
    time = phase + math.acos(0.3)
    torch.testing.assert_close(solution.event_time[:3], direction * time, rtol=0, atol=1e-8)
    torch.testing.assert_close(solution.event_u[:3, 0], torch.full((3,), 0.3, dtype=F64), rtol=0, atol=1e-12)
    assert solution.event_time[3].isnan()
    expected = (direction * t) <= time[:, None]
    assert torch.equal(solution.u[:3].isfinite().all(-1), expected)
    assert solution.solved.all()


def level(t, u, *args):
    return u[:, 0] - 0.3


def test_event_in_a_batch_is_the_event_alone():
    torch.manual_seed(0)
    u0, t = torch.randn(64, 2, dtype=F64), grid(0, 7, 15)
    together = solve(rotation, u0, t, event=level)
    for sample in (0, 5, 63):
        alone = solve(rotation, u0[sample : sample + 1], t, event=level)
        torch.testing.assert_close(alone.event_time[0], together.event_time[sample], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(alone.u[0], together.u[sample], rtol=0, atol=0, equal_nan=True)


def test_a_zero_at_the_start_is_no_event():
    u0 = torch.tensor([[0.3, 1.0]], dtype=F64)
    solution = solve(rotation, u0, grid(0, 6, 7), event=level, rtol=1e-9, atol=1e-9)
    angle = math.atan2(1.0, 0.3)
    assert solution.event_time.item() == pytest.approx(2 * angle, abs=1e-7)


def test_gradient_of_the_state_at_an_event_holds_the_time_fixed():
    u0 = torch.tensor([[1.0, 0.0]], dtype=F64, requires_grad=True)
    solution = solve(rotation, u0, grid(0, 4, 5), event=level, rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(solution.event_u[0, 0], u0)
    expected = torch.tensor([[0.3, math.sin(math.acos(0.3))]], dtype=F64)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-7)


def to_circle(t, u, radius):
    return u / u.norm(dim=-1, keepdim=True) * radius[:, None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["step", "output"])
def test_retracted_outputs_lie_on_the_manifold(method, where):
    radius, t = torch.tensor([1.0, 2.0, 3.0], dtype=F64), grid(0, 20, 81)
    u0 = torch.stack([radius, 0 * radius], dim=-1)
    options = {"args": (radius,), "method": method}

    def field(t, u, radius):
        return rotation(t, u)

    plain = solve(field, u0, t, **options)
    solution = solve(field, u0, t, retract=to_circle, retract_at=where, **options)
    assert (plain.u.norm(dim=-1) - radius[:, None]).abs().max() > 1e-9
    assert (solution.u.norm(dim=-1) - radius[:, None]).abs().max() <= 1e-14 * 3
    exact = torch.stack([t.cos(), -t.sin()], dim=-1) * radius[:, None, None]
    tolerance = 2e-3 if method in ("bosh3", "rk4") else 1e-4
    assert (solution.u - exact).abs().max() <= tolerance


@pytest.mark.parametrize("steps", [1, 2])
def test_retraction_keeps_the_order_of_fixed_steps(steps):
    radius, errors = torch.ones(1, dtype=F64), []
    for substeps in (10 * steps, 20 * steps):
        solution = solve(
            lambda t, u, r: rotation(t, u) * (1 + u[:, :1]),
            torch.tensor([[1.0, 0.0]], dtype=F64),
            grid(0, 1, 2),
            args=(radius,),
            method="rk4",
            substeps=substeps,
            retract=to_circle,
        )
        # θ̇ = 1 + cos θ from 0: tan(θ/2) = t, and u = (cos θ, -sin θ)
        angle = 2 * math.atan(1.0)
        errors.append(float((solution.u[0, -1] - torch.tensor([math.cos(angle), -math.sin(angle)])).norm()))
    assert math.log2(errors[0] / errors[1]) >= 3.7


@pytest.mark.parametrize("where", ["step", "output"])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_failed_retraction_ends_its_sample_alone(method, where):
    def failing(t, u, radius):
        return to_circle(t, u, radius), (t < 1.05) | (radius != 2)

    radius, t = torch.tensor([1.0, 2.0, 3.0], dtype=F64), grid(0, 2, 21)
    u0 = torch.stack([radius, 0 * radius], dim=-1)
    solution = solve(
        lambda t, u, r: rotation(t, u), u0, t, args=(radius,), method=method, retract=failing, retract_at=where
    )
    assert solution.status.tolist() == [0, Status.RETRACTION_FAILED, 0]
    assert solution.u[[0, 2]].isfinite().all()
    assert solution.u[1, 0].isfinite().all()
    assert solution.u[1, t > 1.05].isnan().all()
    if where == "output":
        assert solution.u[1, t < 1.04].isfinite().all()


def test_gradients_pass_through_retractions():
    radius, t = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True), grid(0, 1, 3)
    u0 = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64, requires_grad=True)
    solution = solve(lambda t, u, r: rotation(t, u), u0, t, args=(radius,), retract=to_circle, rtol=1e-10, atol=1e-10)
    gradient, by_radius = torch.autograd.grad(solution.u[:, -1, 0].sum(), (u0, radius))
    # on the circle only the angle of u0 counts: u = r (cos(t - φ), …) with ∂φ/∂y = 1/r
    expected = torch.tensor([[0.0, math.sin(1.0)]] * 2, dtype=F64)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(by_radius, torch.full((2,), math.cos(1.0), dtype=F64), rtol=1e-6, atol=0)


def test_adjoint_across_a_jump():
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    u0, t = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True), grid(0, 2, 3)

    def field(t, u):
        return rate * torch.where((t < 1.5)[:, None], -u, 2 * u)

    options = {"jump_times": [1.5], "rtol": 1e-10, "atol": 1e-10}
    solution = solve(field, u0, t, adjoint=True, params=[rate], **options)
    found = torch.autograd.grad(solution.u[:, -1].sum(), (u0, rate))
    exact = torch.autograd.grad((u0 * (rate * (-1.5 + 2 * 0.5)).exp()).sum(), (u0, rate))
    for a, b in zip(found, exact):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def test_events_outside_the_interval_do_not_happen():
    solution = solve(rotation, torch.tensor([[1.0, 0.0]], dtype=F64), grid(0, 1, 3), event=level)
    assert solution.status.item() == Status.SUCCESS
    assert solution.event_time.isnan().all()


def test_the_retraction_of_this_package_can_be_passed():
    constraint = PendulumConstraint(1)
    u0 = torch.tensor([[1.0, 0.0, 0.0, 0.5]], dtype=F64)

    def field(t, u):
        x, y, v, w = u.unbind(-1)
        tension = v * v + w * w - 9.81 * y
        return torch.stack([v, w, -tension * x, -9.81 - tension * y], dim=-1)

    def onto(t, u):
        return retract_onto(constraint, u, torch.zeros_like(u[:, :2]))

    solution = solve(field, u0, grid(0, 10, 41), retract=onto)
    assert constraint(0.0, solution.u).abs().max() <= 1e-12
