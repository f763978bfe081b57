"""Gradients are there whatever asks for them, and wherever: behind a jump, in one branch, in a retraction."""

import math
from itertools import pairwise

import pytest
import torch
from pnde import FunctionConstraint, LearnedConstraint, NeuralODE, ProjectedField
from pnde.solvers import solve
from torch.autograd import forward_ad

F64 = torch.float64
T = torch.linspace(0, 2, 5, dtype=F64)


def weight(value=0.7):
    return torch.tensor(value, dtype=F64, requires_grad=True)


def turning(t, u):
    return torch.stack([-u[:, 1], u[:, 0]], -1) * u.square().sum(-1, keepdim=True)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_parameters_behind_a_jump(method):
    """u̇ = -u before t = 1, -w u after: u(2) = e^{-1-w}."""
    w = weight()

    def field(t, u):
        return -u if float(t[0]) < 1 else -w * u

    options = {"substeps": 100} if method == "rk4" else {"rtol": 1e-10, "atol": 1e-10}
    solution = solve(field, torch.ones(1, 1, dtype=F64), T, jump_times=[1.0], method=method, **options)
    (found,) = torch.autograd.grad(solution.u[0, -1, 0], w)
    assert float(found) == pytest.approx(-math.exp(-1.7), rel=1e-7)
    assert solution.n_accepted.min() > 0


def test_parameters_of_a_branch_that_is_reached_inside_a_span_and_by_one_sample():
    """u̇ = 1 below u = 1, w above: from 0 the sample gets there at t = 1 and then grows by w (t - 1)."""
    w = weight()

    def field(t, u):
        high = u >= 1
        return torch.ones_like(u) if not bool(high.any()) else torch.where(high, w, 1.0)

    u0 = torch.tensor([[-5.0], [0.0]], dtype=F64)
    solution = solve(field, u0, T, rtol=1e-8, atol=1e-8)
    (found,) = torch.autograd.grad(solution.u[1, -1, 0], w)
    assert float(found) == pytest.approx(1.0, abs=1e-3)
    plain = solve(field, u0, T[:2], rtol=1e-8, atol=1e-8)
    assert not plain.u.requires_grad


@pytest.mark.parametrize("jumps", [[1.0], [0.5, 1.0]])
def test_parameters_of_reinitialisation(jumps):
    w = weight()
    solution = solve(
        lambda t, u: -u,
        torch.ones(1, 1, dtype=F64),
        T,
        jump_times=jumps,
        reinitialise=lambda t, u: u * w,
        rtol=1e-10,
        atol=1e-10,
    )
    assert not solution.u[0, 0].isnan().any()
    (found,) = torch.autograd.grad(solution.u[0, -1, 0], w)
    k = len(jumps)
    assert float(found) == pytest.approx(k * 0.7 ** (k - 1) * math.exp(-2), rel=1e-7)


def test_parameters_of_a_retraction_after_each_step():
    """On the circle of radius r the field turns at the rate r²; against finite differences."""

    def end(radius):
        return solve(
            turning,
            torch.tensor([[1.5, 0.0]], dtype=F64),
            T[:3],
            retract=lambda t, u: u / u.norm(dim=-1, keepdim=True) * radius,
            rtol=1e-9,
            atol=1e-9,
        ).u[0, -1]

    r, h = weight(1.5), 1e-5
    exact = torch.stack([r * (r**2).cos(), r * (r**2).sin()])
    torch.testing.assert_close(end(r), exact, rtol=0, atol=1e-7)
    found = torch.autograd.grad(end(r).sum(), r)[0]
    slope = (end(1.5 + h) - end(1.5 - h)).sum() / (2 * h)
    torch.testing.assert_close(found, slope, rtol=1e-6, atol=0)


def test_tangents_of_adaptive_steps_are_the_derivatives_of_reverse_mode():
    """In the state and a parameter, to second order, with a retraction after each step or without it."""
    t, u0 = T[:2], torch.tensor([[1.0, 0.5]], dtype=F64)

    def end(w, retract=None):
        start = u0 * w
        return solve(lambda t, u: w * turning(t, u), start, t, retract=retract, rtol=1e-2, atol=1e-2).u[0, -1].sum()

    def on_circle(w):
        return end(w, lambda t, u: u / u.norm(dim=-1, keepdim=True) * w)

    w, (forward, reverse) = weight(1.1).detach(), (torch.func.jacfwd, torch.func.jacrev)
    for solution in (end, on_circle):
        torch.testing.assert_close(forward(solution)(w), reverse(solution)(w), rtol=1e-12, atol=0)
    torch.testing.assert_close(forward(forward(end))(w), reverse(reverse(end))(w), rtol=1e-10, atol=0)


@pytest.mark.parametrize("grad", [True, False])
def test_tangents_of_turning_are_turned(grad):
    """u̇ = (u₂, -u₁), by dual numbers and by `jacfwd`, at outputs and after a jump that doubles the state."""
    t, u0, direction = T[:3] / 2, torch.tensor([[1.0, 0.5]], dtype=F64), torch.tensor([[0.3, -0.2]], dtype=F64)
    options = {"jump_times": [0.25], "reinitialise": lambda t, u: 2 * u, "rtol": 1e-6, "atol": 1e-6}

    def turned(u):
        return solve(lambda t, u: torch.stack([u[:, 1], -u[:, 0]], -1), u, t, **options).u[0]

    rotation = torch.stack([t.cos(), t.sin(), -t.sin(), t.cos()], -1).view(-1, 2, 2)
    rotation = rotation * torch.where(t < 0.25, 1, 2)[:, None, None]
    with torch.set_grad_enabled(grad):
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(turned(forward_ad.make_dual(u0, direction))).tangent
            torch.testing.assert_close(tangent, rotation @ direction[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.func.jacfwd(turned)(u0)[:, :, 0], rotation, rtol=0, atol=1e-5)


def test_tangents_of_retracted_outputs_are_those_of_the_flow():
    """On circles the projection of u̇ = a (u₂, -u₁) + u turns at the rate a."""
    circle = FunctionConstraint(lambda u: u.square().sum()[None], n=2, m=1, kind="conserved")
    field = ProjectedField(lambda t, u: u.flip(-1) * u.new_tensor([1.0, -1.0]) + u, circle)
    flow = NeuralODE(field, retract="output")
    u0, direction = torch.tensor([[1.0, 0.5]], dtype=F64), torch.tensor([[0.3, -0.2]], dtype=F64)
    with forward_ad.dual_level():
        solution = flow(forward_ad.make_dual(u0, direction), T[:2])
        tangent = forward_ad.unpack_dual(solution.u[0, -1]).tangent
    c, s = math.cos(0.5), math.sin(0.5)
    torch.testing.assert_close(tangent, direction[0] @ torch.tensor([[c, -s], [s, c]], dtype=F64), rtol=0, atol=1e-5)


def test_a_learned_constraint_of_a_known_field():
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 1, dtype=F64)
    flow = NeuralODE(lambda t, u: u.sin(), constraint=LearnedConstraint(net, 2, 1), retract="step", max_steps=100)
    solution = flow(torch.ones(1, 2, dtype=F64), T, strict=True)
    assert torch.autograd.grad(solution.u.sum(), net.weight)[0].norm() > 0


def test_without_anything_to_differentiate_by_the_steps_are_not_taken_again():
    """A field is called as often as under no_grad, and the outputs have no graph."""
    calls = []

    def field(t, u):
        calls.append(torch.is_grad_enabled())
        return turning(t, u)

    u0 = torch.tensor([[1.0, 0.0], [0.5, 0.2]], dtype=F64)
    plain = solve(field, u0, T)
    assert not plain.u.requires_grad
    with torch.no_grad():
        same = solve(field, u0, T)
    assert plain.nfe == same.nfe == len(calls) / 2
    assert torch.equal(plain.u, same.u)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("jumps", [[], [0.0, 0.02], [0.0]])
def test_the_field_is_seen_inside_the_interval_alone(direction, jumps):
    """Also by the estimate of the first step, which for slow fields is longer than the interval."""
    seen = []

    def field(t, u):
        seen.append(t)
        return 0 * u + 1e-3

    t, u0 = direction * torch.linspace(0, 0.02, 3, dtype=F64), torch.full((2, 1), 10.0, dtype=F64)
    for grad in (False, True):
        start = u0.clone().requires_grad_(grad)
        solve(field, start, t, jump_times=[direction * jump for jump in jumps] or None)
    times = direction * torch.cat(seen)
    assert times.min() >= 0
    assert times.max() <= 0.02
    assert not any(bool((times == jump).any()) for jump in jumps)


def test_the_first_step_stays_on_its_side_of_a_jump():
    seen = []

    def field(t, u):
        seen.append(t)
        return 0 * u + 1e-3

    solve(field, torch.full((1, 1), 10.0, dtype=F64), T, jump_times=[0.0, 1e-3, 1.9999])
    times = torch.cat(seen)
    spans = torch.tensor([0.0, 1e-3, 1.9999, 2.0], dtype=F64)
    first = [int(((times > left) & (times < right)).nonzero()[0]) for left, right in pairwise(spans)]
    where = torch.bucketize(times, spans)
    assert first == sorted(first)
    assert torch.equal(where, where.sort().values)
