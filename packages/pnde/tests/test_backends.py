"""Every backend solves the same problem: states, gradients, jumps, failures of single samples, numbers of steps."""

import importlib.util
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pnde.backends import BACKENDS, InitialValueProblem
from pnde.solvers import SolveError, Status
from sciml.errors import ConfigError
from scipy.integrate import solve_ivp

F64 = torch.float64
HAS_TORCHODE = importlib.util.find_spec("torchode") is not None
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(name == "torchode" and not HAS_TORCHODE, reason="torchode is an extra"))
    for name in BACKENDS
]
ADAPTIVE = [
    pytest.param(name.values[0], method, marks=name.marks)
    for name in NAMES
    for method in BACKENDS[name.values[0]].methods
    if method not in ("rk4", "midpoint", "euler", "fehlberg2", "adaptive_heun", "heun", "bosh3")
]


class Driven(torch.nn.Module):
    """A pendulum, driven: q̈ = -a sin q + b cos t."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(1.3, dtype=F64))
        self.b = torch.nn.Parameter(torch.tensor(0.4, dtype=F64))

    def forward(self, t, u):
        q, v = u.unbind(-1)
        return torch.stack([v, -self.a * q.sin() + self.b * t.cos()], -1)


def states(samples=5):
    return torch.randn(samples, 2, dtype=F64, generator=torch.Generator().manual_seed(0))


def grid(start, stop, n):
    return torch.linspace(start, stop, n, dtype=F64)


def reference(u0, t):
    found = [
        solve_ivp(
            lambda s, u: [u[1], -1.3 * math.sin(u[0]) + 0.4 * math.cos(s)],
            (float(t[0]), float(t[-1])),
            u.numpy(),
            "DOP853",
            t.numpy(),
            rtol=1e-13,
            atol=1e-13,
        ).y.T
        for u in u0
    ]
    return torch.tensor(np.stack(found))


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(("name", "method"), ADAPTIVE)
def test_all_backends_agree_with_dop853(name, method, direction):
    u0, t = states(), grid(0, 5 * direction, 21)
    problem = InitialValueProblem(Driven(), u0, t, method=method, rtol=1e-9, atol=1e-9)
    solution = BACKENDS[name].solve(problem)
    assert solution.u.shape == (5, 21, 2)
    assert solution.status.tolist() == [Status.SUCCESS] * 5
    assert float((solution.u.detach() - reference(u0, t)).abs().max()) <= 2e-7
    assert torch.equal(solution.u[:, 0], u0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["rk4", "midpoint", "euler", "bosh3", "fehlberg2", "adaptive_heun", "heun"])
def test_the_other_methods_converge(name, method):
    """To the tolerance, or by their order in the interval of outputs."""
    if method not in BACKENDS[name].methods:
        pytest.skip(f"{name} has no {method}")
    u0, errors = states(), []
    for n in (50, 100):
        t = grid(0, 1, n + 1)
        u = BACKENDS[name].solve(InitialValueProblem(Driven(), u0, t, method=method, rtol=1e-7, atol=1e-7)).u.detach()
        errors.append(float((u - reference(u0, t)).abs().max()))
    if order := {"rk4": 4, "midpoint": 2, "euler": 1}.get(method):
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)
    else:
        assert errors[1] <= 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_by_steps_adjoint_and_finite_differences(name):
    """Row 15 of the properties: to 1e-6, at tolerance 1e-10."""
    field, u0, t = Driven(), states(3), torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    scale = torch.tensor([[0.5], [1.0], [1.5]], dtype=F64)
    tensors = [u0, scale, field.a, field.b]
    weights = torch.randn(3, 3, 2, dtype=F64, generator=torch.Generator().manual_seed(1))

    def loss(adjoint=False, tol=1e-10):
        problem = InitialValueProblem(
            lambda t, u, s: s * field(t, u),
            u0,
            t,
            args=(scale,),
            rtol=tol,
            atol=tol,
            adjoint=adjoint,
            params=list(field.parameters()),
        )
        return (weights * BACKENDS[name].solve(problem).u.square()).sum()

    for x in tensors:
        x.requires_grad_()
    direct = torch.autograd.grad(loss(), tensors)
    if BACKENDS[name].adjoint_methods:
        for a, b in zip(direct, torch.autograd.grad(loss(adjoint=True), tensors)):
            assert (a - b).norm() <= 1e-6 * a.norm()
    for x, gradient in zip(tensors, direct):
        values, h = {}, 2e-3
        with torch.no_grad():
            for k in (-2, -1, 1, 2):
                x += k * h
                values[k] = float(loss(tol=1e-12))
                x -= k * h
        slope = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * h)
        assert slope == pytest.approx(float(gradient.sum()), rel=1e-6, abs=1e-7 * float(gradient.norm()))


@pytest.mark.unchecked
@pytest.mark.parametrize("name", [name for name in BACKENDS if BACKENDS[name].adjoint_methods])
def test_the_adjoint_refuses_derivatives_that_it_has_not(name):
    """Of the sum of two terms, one of which has a second derivative: it was taken for all of it."""
    field, u0 = Driven(), states(1).requires_grad_()

    def loss(u0, adjoint=True):
        problem = InitialValueProblem(field, u0, grid(0, 1, 2), adjoint=adjoint, params=list(field.parameters()))
        return BACKENDS[name].solve(problem).u[:, -1].square().sum() + u0.square().sum()

    with pytest.raises(ConfigError, match=r"first derivatives alone.*adjoint=False"):
        torch.autograd.grad(loss(u0), u0, create_graph=True)
    with pytest.raises(ConfigError, match="first derivatives alone"):
        torch.autograd.functional.hessian(loss, u0)
    for transform in (torch.func.grad, torch.func.jacfwd):
        with pytest.raises(ConfigError, match=r"reverse mode alone.*adjoint=False"):
            transform(loss)(u0.detach())
    if name == "torchdiffeq":
        with pytest.raises(ConfigError, match="backend='native'"):
            torch.func.jacfwd(lambda u: loss(u, adjoint=False))(u0.detach())


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("name", NAMES)
def test_jumps_are_met_exactly_and_the_state_goes_on_reinitialised(name, direction):
    """u̇ = u before t = 1 and -2u after; u is doubled there. The field is called on the side of the step alone."""
    u0, t = torch.tensor([[1.0], [3.0]], dtype=F64), grid(0, 2, 9) if direction > 0 else grid(2, 0, 9)
    seen = []

    def field(t, u):
        seen.append(t)
        return torch.where(t < 1, 1.0, -2.0)[:, None] * u

    problem = InitialValueProblem(
        field,
        u0,
        t,
        rtol=1e-11,
        atol=1e-11,
        jumps=[1.0, 7.0],
        reinitialise=lambda t, u: torch.where(t == 1, 2, 0)[:, None] * u,
    )
    solution = BACKENDS[name].solve(problem)
    forward = torch.where(t < 1, t, 1 - 2 * (t - 1)).exp() * torch.where(t < 1, 1, 2)
    backward = torch.where(t > 1, -2 * (t - 2), 2 + (t - 1)).exp() * torch.where(t > 1, 1, 2)
    exact = u0 * (forward if direction > 0 else backward)
    torch.testing.assert_close(solution.u[..., 0], exact, rtol=1e-9, atol=0)
    assert bool((torch.cat(seen) != 1).all())
    assert int(solution.n_rejected.max()) <= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_that_blows_up_ends_alone(name):
    """u̇ = u² is infinite at t = 1/u0."""
    u0, t = torch.tensor([[0.1], [-1.0], [0.8], [0.3], [-0.2]], dtype=F64), grid(0, 2, 9)
    solution = BACKENDS[name].solve(InitialValueProblem(lambda t, u: u * u, u0, t))
    assert solution.status[[0, 1, 3, 4]].tolist() == [Status.SUCCESS] * 4
    assert solution.status[2] in (Status.STEP_UNDERFLOW, Status.NONFINITE, Status.MAX_STEPS)
    exact = (u0 / (1 - u0 * t))[..., None]
    torch.testing.assert_close(solution.u[[0, 1, 3, 4]], exact[[0, 1, 3, 4]], rtol=1e-4, atol=0)
    torch.testing.assert_close(solution.u[2, t < 1.25], exact[2, t < 1.25], rtol=1e-4, atol=0)
    assert solution.u[2, t > 1.25].isnan().all()
    with pytest.raises(SolveError, match=r"1 of 5 .*2: .*valid up to t = 1"):
        solution.raise_for_status()


@pytest.mark.parametrize("name", NAMES)
def test_a_field_that_is_not_finite_ends_a_sample_alone(name):
    u0, t = torch.tensor([[0.5], [5.0], [1.0]], dtype=F64), grid(0, 1, 5)
    solution = BACKENDS[name].solve(InitialValueProblem(lambda t, u: torch.where(u > 4, torch.nan, -u), u0, t))
    assert solution.status.tolist() == [Status.SUCCESS, Status.NONFINITE, Status.SUCCESS]
    assert solution.u[1, 1:].isnan().all()
    torch.testing.assert_close(solution.u[[0, 2], :, 0], u0[[0, 2]] * (-t).exp(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_step_budget_ends_a_sample_with_its_outputs_so_far(name):
    rate = torch.tensor([[1.0], [400.0], [1.0]], dtype=F64)
    problem = InitialValueProblem(
        lambda t, u, k: k * torch.stack([u[:, 1], -u[:, 0]], -1),
        torch.ones(3, 2, dtype=F64),
        grid(0, 2, 101),
        (rate,),
        max_steps=200,
    )
    solution = BACKENDS[name].solve(problem)
    assert solution.status.tolist() == [Status.SUCCESS, Status.MAX_STEPS, Status.SUCCESS]
    assert int(solution.n_accepted[1] + solution.n_rejected[1]) == 200
    assert int((solution.n_accepted + solution.n_rejected)[[0, 2]].max()) <= 200
    valid = solution.u[1].isfinite().all(-1)
    assert 2 <= int(valid.sum()) < 101
    assert valid[: int(valid.sum())].all()


@pytest.mark.parametrize("name", NAMES)
def test_what_one_sample_spends_before_a_jump_is_not_missing_to_the_others_after_it(name):
    """The second sample fails before the jump; of the others one needs 15 steps in all, the last some 170."""
    rate = torch.tensor([[1.0], [400.0], [12.0]], dtype=F64)

    def problem(rows):
        return InitialValueProblem(
            lambda t, u, k: torch.where(t < 1, 1, 2)[:, None] * k * torch.stack([u[:, 1], -u[:, 0]], -1),
            torch.ones(3, 2, dtype=F64)[rows],
            grid(0, 2, 5),
            (rate[rows],),
            max_steps=200,
            jumps=[1.0],
        )

    solution = BACKENDS[name].solve(problem([0, 1, 2]))
    assert solution.status.tolist() == [Status.SUCCESS, Status.MAX_STEPS, Status.SUCCESS]
    assert solution.u[[0, 2]].isfinite().all()
    assert int((solution.n_accepted + solution.n_rejected)[[0, 2]].max()) <= 200
    tight = BACKENDS[name].solve(replace(problem([2, 0]), max_steps=100))
    assert tight.status.tolist() == [Status.MAX_STEPS, Status.SUCCESS]
    assert tight.u[1].isfinite().all()
    torch.testing.assert_close(tight.u[1], solution.u[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_evaluations_are_counted(name):
    calls = []

    def field(t, u):
        calls.append(len(u))
        return -u

    solution = BACKENDS[name].solve(InitialValueProblem(field, states(), grid(0, 3, 4)))
    assert solution.nfe == len(calls)
    assert solution.nfe >= 6 * int(solution.n_accepted.max())
    assert set(calls) == {5} or name == "native"


def test_steps_of_torchdiffeq_are_those_of_the_batch():
    rate = torch.tensor([[1.0], [50.0]], dtype=F64)
    found = {
        name: BACKENDS[name]
        .solve(
            InitialValueProblem(
                lambda t, u, k: k * torch.stack([u[:, 1], -u[:, 0]], -1),
                torch.ones(2, 2, dtype=F64),
                grid(0, 2, 3),
                (rate,),
            )
        )
        .n_accepted
        for name in ("native", "torchdiffeq")
    }
    assert found["torchdiffeq"][0] == found["torchdiffeq"][1] > 10 * found["native"][0]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_gives_empty_tensors(name):
    solution = BACKENDS[name].solve(InitialValueProblem(lambda t, u: -u, torch.zeros(0, 2, dtype=F64), grid(0, 1, 5)))
    assert solution.u.shape == (0, 5, 2)
    assert solution.status.shape == solution.n_accepted.shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_float32(name):
    u0, t = states().float(), grid(0, 2, 5)
    solution = BACKENDS[name].solve(InitialValueProblem(Driven().float(), u0, t.float(), rtol=1e-5, atol=1e-5))
    assert solution.u.dtype == torch.float32
    torch.testing.assert_close(solution.u.double(), reference(u0.double(), t), rtol=0, atol=5e-4)
