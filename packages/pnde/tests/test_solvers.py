"""The native solver: orders, exact solutions, independence of the batch, gradients, wrong inputs."""

import math

import numpy as np
import pytest
import torch
from pnde.solvers import ADAPTIVE, FIXED, SolveError, Status, solve
from pnde.solvers.stepping import dense_output
from sciml.errors import ConfigError, ShapeError
from scipy.special import ellipj
from torchdiffeq import odeint

F64 = torch.float64


def rotation(t, u):
    return torch.stack([u[:, 1], -u[:, 0]], dim=-1)


def rotated(u0, t):
    x, y = u0[:, :1], u0[:, 1:]
    return torch.stack([x * t.cos() + y * t.sin(), y * t.cos() - x * t.sin()], dim=-1)


def grid(start, stop, n):
    return torch.linspace(start, stop, n, dtype=F64)


def states(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 2, dtype=F64, generator=generator)


def pendulum(t, u):
    """The damped double pendulum of pnde.DoublePendulum in angles: no matrix products, one row at a time."""
    first, second, v, w = u.unbind(-1)
    c, s = (first - second).cos(), (first - second).sin()
    r1, r2 = -s * w * w - 2 * 9.81 * first.sin(), s * v * v - 9.81 * second.sin()
    det = 2 - c * c
    return torch.stack([v, w, (r1 - c * r2) / det - 0.1 * v, (2 * r2 - c * r1) / det - 0.1 * (w - v)], dim=-1)


def pendulums(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    angles = torch.rand(samples, 2, dtype=F64, generator=generator) * 2 * torch.pi
    return torch.cat([angles, torch.zeros_like(angles)], dim=-1)


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def trees(order, largest=None):
    """Rooted trees as tuples of their subtrees, none of these greater than `largest`."""

    def forests(size, bound):
        if not size:
            yield ()
        for first in range(min(size, bound[0] if bound else size), 0, -1):
            for index, tree in enumerate(trees(first)):
                if bound is None or (first, -index) <= bound:
                    yield from ((tree, *rest) for rest in forests(size - first, (first, -index)))

    return [tuple(forest) for forest in forests(order - 1, None)]


def elementary(A, tree):
    """Φ(tree) of each stage, and γ(tree) (Hairer, Nørsett & Wanner I, II.2)."""
    children = [elementary(A, child) for child in tree]
    weight = math.prod([size(tree), *(gamma for _, gamma in children)])
    return math.prod([np.ones(len(A)), *(A @ phi for phi, _ in children)]), weight


def size(tree):
    return 1 + sum(map(size, tree))


def test_numbers_of_rooted_trees():
    assert [len(set(trees(order))) for order in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED])
def test_tableau_meets_every_order_condition(method):
    """Σ b_i(θ) Φ_i = θ^r/γ of every tree of r vertices, up to the order of the step, its error and dense output."""
    table = (ADAPTIVE | FIXED)[method]
    A = np.zeros((table.stages, table.stages))
    for i, row in enumerate(table.a):
        A[i, : len(row)] = row
    b, c = np.array(table.b), np.array(table.c)
    np.testing.assert_allclose(A.sum(1), c, atol=2e-15)

    def defect(weights, order, theta=1.0):
        found = [elementary(A, tree) for tree in trees(order)]
        return max(abs(weights @ phi - theta**order / gamma) for phi, gamma in found)

    assert (
        max(defect(b, order) for order in range(1, table.order + 1)) <= 1e-15 * np.abs(b).sum() * np.abs(A).max() ** 2
    )
    assert defect(b, table.order + 1) > 1e-7
    if method in ADAPTIVE:
        np.testing.assert_allclose(A[-1], b, atol=1e-16)
        embedded = b - np.array(table.error)
        assert max(defect(embedded, order) for order in range(1, table.error_order)) <= 1e-14
        assert defect(embedded, table.error_order) > 1e-7
        dense = np.array(table.dense)
        np.testing.assert_allclose(dense.sum(1), b, atol=2e-14)
        for theta in (0.3, 0.7, 1.0):
            weights = dense @ theta ** np.arange(1, dense.shape[1] + 1)
            assert max(defect(weights, order, theta) for order in range(1, table.dense_order + 1)) <= 2e-14


@pytest.mark.parametrize("method", ADAPTIVE)
def test_error_and_cost_follow_the_tolerance(method):
    """Error ∝ tol, or h^(dense order + 1) if that is more, and the number of steps ∝ 1/h ∝ tol^(-1/q)."""
    u0, t = states(4), grid(0, 10, 21)
    tolerances = np.array([1e-4, 1e-6, 1e-8])
    errors, steps = [], []
    for tol in tolerances:
        solution = solve(rotation, u0, t, method=method, rtol=tol, atol=tol)
        errors.append(float((solution.u - rotated(u0, t)).abs().max()))
        steps.append(int(solution.n_accepted.max()))
    expected = min(1, (ADAPTIVE[method].dense_order + 1) / ADAPTIVE[method].error_order)
    assert 0.9 * expected <= slope(tolerances, errors) <= 1.15 * expected
    assert slope(tolerances, steps) == pytest.approx(-1 / ADAPTIVE[method].error_order, rel=0.15)


@pytest.mark.parametrize("method", FIXED)
def test_order_of_fixed_steps(method):
    u0, t, counts = states(3), grid(0, 2, 5), np.array([8, 16, 32])
    errors = [
        float((solve(rotation, u0, t, method=method, substeps=int(k)).u - rotated(u0, t)).abs().max()) for k in counts
    ]
    assert slope(counts, errors) == pytest.approx(-FIXED[method].order, abs=0.15)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_local_order_of_dense_output(method):
    """Inside one step of size h the error is O(h^(dense order + 1))."""
    table, sizes, errors = ADAPTIVE[method], np.array([0.4, 0.2, 0.1]), []
    u = states(1).expand(9, 2)
    theta = grid(0.1, 0.9, 9)
    for h in sizes:
        k = [rotation(0.0, u)]
        for row in table.a[1:]:
            k.append(rotation(0.0, u + h * sum(a * stage for a, stage in zip(row, k))))
        value = dense_output(table, theta, torch.full_like(theta, h), u, k)
        errors.append(float((value - rotated(u[:1], theta * h)[0]).abs().max()))
    assert slope(sizes, errors) == pytest.approx(table.dense_order + 1, abs=0.2)


def test_dopri8_outputs_between_steps_are_far_more_accurate_than_those_of_torchdiffeq():
    u0, t = states(4), grid(0, 10, 101)
    for tol, allowed in ((1e-6, 20), (1e-9, 80), (1e-11, 250)):
        found = solve(rotation, u0, t, method="dopri8", rtol=tol, atol=tol).u
        peer = odeint(lambda t, u: rotation(t, u), u0, t, rtol=tol, atol=tol, method="dopri8").transpose(0, 1)
        error, error_of_peer = (float((u - rotated(u0, t)).abs().max()) for u in (found, peer))
        assert error <= allowed * tol
        assert error <= 0.05 * error_of_peer


def test_rigid_body_is_jacobis_elliptic_functions():
    """Euler's equations, I = (1.6, 1, 2/3), from (cos φ, 0, sin φ): y = (x cn, -s sn, z dn)(λt)."""
    I1, I2, I3 = 1.6, 1.0, 2 / 3

    def field(t, y):
        y1, y2, y3 = y.unbind(-1)
        return torch.stack([(1 / I3 - 1 / I2) * y3 * y2, (1 / I1 - 1 / I3) * y1 * y3, (1 / I2 - 1 / I1) * y2 * y1], -1)

    phi = torch.tensor([0.8, 1.0, 1.2], dtype=F64)
    t = grid(0, 20, 41)
    y0 = torch.stack([phi.cos(), torch.zeros_like(phi), phi.sin()], dim=-1)
    found = solve(field, y0, t, rtol=1e-11, atol=1e-11).u
    a, b, c = 1 / I3 - 1 / I2, 1 / I3 - 1 / I1, 1 / I2 - 1 / I1
    for sample, angle in enumerate(phi.tolist()):
        x, z = math.cos(angle), math.sin(angle)
        # y = (x cn, -s sn, z dn)(λt): s² = x²b/a, λ² = z²ab, and the third equation gives m = x²c/(z²a)
        rate, m = z * math.sqrt(a * b), x * x * c / (z * z * a)
        assert m < 1
        sn, cn, dn, _ = ellipj(rate * t.numpy(), m)
        exact = np.stack([x * cn, -x * math.sqrt(b / a) * sn, z * dn], axis=-1)
        np.testing.assert_allclose(found[sample].numpy(), exact, atol=1e-9)


def kepler(t, u):
    q, p = u.split(2, dim=-1)
    return torch.cat([p, -q / q.square().sum(-1, keepdim=True) ** 1.5], dim=-1)


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_kepler_orbits_close_after_one_period(method):
    e = torch.tensor([0.5, 0.6, 0.7], dtype=F64)
    zero = torch.zeros_like(e)
    u0 = torch.stack([1 - e, zero, zero, ((1 + e) / (1 - e)).sqrt()], dim=-1)
    solution = solve(kepler, u0, torch.tensor([0.0, 2 * math.pi], dtype=F64), method=method, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(solution.u[:, -1], u0, rtol=0, atol=1e-8)
    assert solution.n_accepted[2] > solution.n_accepted[0]  # the narrower orbit needs more steps


def test_backward_in_time_returns_to_the_start():
    u0, t = pendulums(5), grid(0, 1, 11)
    options = {"rtol": 1e-11, "atol": 1e-11}
    there = solve(pendulum, u0, t, **options)
    back = solve(pendulum, there.u[:, -1], t.flip(0), **options)
    torch.testing.assert_close(back.u.flip(1), there.u, rtol=0, atol=1e-8)
    torch.testing.assert_close(back.t, t.flip(0))


def test_time_reaches_the_field_for_each_sample():
    """u̇ = cos t, and samples are at different times."""
    scale = torch.tensor([[1.0], [30.0]], dtype=F64)
    t = grid(1, 4, 7)
    solution = solve(
        lambda t, u, a: a * (a[:, 0] * t).cos()[:, None], scale * 0, t, args=(scale,), rtol=1e-9, atol=1e-9
    )
    exact = (scale * t).sin() - scale.sin()
    torch.testing.assert_close(solution.u[..., 0], exact, rtol=0, atol=1e-7)
    assert solution.n_accepted[1] > 5 * solution.n_accepted[0]


def test_stiff_decay_is_bounded_by_stability_not_accuracy():
    rate = torch.tensor([[1.0], [2000.0]], dtype=F64)
    solution = solve(lambda t, u, k: k * (t.cos()[:, None] - u), rate * 0, grid(0, 2, 5), args=(rate,))
    stiff = solution.u[1, 1:, 0]
    torch.testing.assert_close(stiff, solution.t[1:].cos(), rtol=0, atol=1e-3)
    assert solution.status.tolist() == [0, 0]
    assert 2000 * 2 / 3.4 <= int(solution.n_accepted[1]) <= 2 * 2000 * 2 / 3.3


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_a_sample_does_not_depend_on_its_batch_bitwise(method):
    """The same bits alone, in a batch, permuted, beside a failing sample, if the field's arithmetic is by rows."""
    u0, t = pendulums(1024), grid(0, 5, 101)
    full = solve(pendulum, u0, t, method=method)
    for rows in ([0], [7], [3, 4, 5], list(range(17)), list(range(64)), torch.randperm(1024).tolist()):
        part = solve(pendulum, u0[rows], t, method=method)
        assert torch.equal(part.u, full.u[rows])
        assert torch.equal(part.n_accepted, full.n_accepted[rows])
        assert torch.equal(part.n_rejected, full.n_rejected[rows])

    def breaking(t, u):
        f = pendulum(t, u)
        return torch.where((u[:, 2:3] > 100) | (u[:, 2:3] == 50), torch.nan, f)

    neighbour = torch.tensor([[0.0, 0.0, 50.0, 0.0]], dtype=F64)
    beside = solve(breaking, torch.cat([u0[:2], neighbour, u0[2:5]]), t, method=method)
    assert beside.status.tolist() == [0, 0, Status.NONFINITE, 0, 0, 0]
    assert torch.equal(beside.u[[0, 1, 3, 4, 5]], full.u[:5])
    assert beside.u[2, 1:].isnan().all()
    assert torch.equal(beside.u[2, 0], neighbour[0])


def test_a_sample_does_not_depend_on_its_batch_with_matrix_products():
    """Kernels round by the number of rows; the flow may magnify that to 1e-11 in 5 s, 1e-12 in 1 s."""

    def field(t, u):  # M(θ) θ̈ = r by a batched solve, shifted by a product that is zero but for rounding
        theta, omega = u.split(2, dim=-1)
        c = torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=F64)
        delta = theta[:, :, None] - theta[:, None, :]
        r = -((c * delta.sin()) @ omega.square()[:, :, None])[..., 0]
        r = r - 9.81 * torch.tensor([2.0, 1.0], dtype=F64) * theta.sin()
        damping = 0.1 * omega @ torch.tensor([[1.0, -1.0], [0.0, 1.0]], dtype=F64)
        return torch.cat([omega, torch.linalg.solve(c * delta.cos(), r) - damping], dim=-1)

    u0, t = pendulums(1024), grid(0, 5, 51)
    full = solve(field, u0, t)
    for rows in ([0], [3, 4, 5], list(range(17)), list(range(64)), torch.randperm(1024).tolist()):
        part = solve(field, u0[rows], t)
        assert torch.equal(part.n_accepted, full.n_accepted[rows])
        difference = (part.u - full.u[rows]).abs().amax(dim=(0, 2))
        assert difference[t <= 1].max() <= 1e-12
        assert difference.max() <= 1e-11


def test_finished_samples_are_no_longer_evaluated():
    rate = torch.tensor([[1.0]] * 7 + [[300.0]], dtype=F64)
    sizes = []

    def field(t, u, k):
        sizes.append(len(u))
        return k * torch.stack([u[:, 1], -u[:, 0]], dim=-1)

    solve(field, torch.ones(8, 2, dtype=F64), grid(0, 2, 3), args=(rate,))
    assert max(sizes) == 8
    assert sizes[-1] == 1
    assert sum(sizes) < 1.5 * len(sizes)


def test_step_budget_and_blow_up_end_a_sample_alone():
    """u̇ = u² is infinite at t = 1/u0."""
    u0, t = torch.tensor([[0.8], [-1.0], [0.1]], dtype=F64), grid(0, 2, 9)
    solution = solve(lambda t, u: u * u, u0, t, rtol=1e-6, atol=1e-6)
    assert solution.status[0] in (Status.STEP_UNDERFLOW, Status.NONFINITE)
    assert solution.status[1:].tolist() == [0, 0]
    exact = u0 / (1 - u0 * t)
    torch.testing.assert_close(solution.u[1:, :, 0], exact[1:], rtol=1e-4, atol=0)
    torch.testing.assert_close(solution.u[0, t < 1.25, 0], exact[0, t < 1.25], rtol=1e-4, atol=0)
    assert solution.u[0, t > 1.25].isnan().all()
    few = solve(lambda t, u: u * u, u0, t, rtol=1e-6, atol=1e-6, max_steps=20)
    assert few.status.tolist() == [Status.MAX_STEPS, 0, 0]
    assert few.n_accepted[0] + few.n_rejected[0] == 20
    assert few.u[0, :2].isfinite().all()
    with pytest.raises(SolveError, match=r"1 of 3 .*0: max_steps.*valid up to t"):
        solve(lambda t, u: u * u, u0, t, rtol=1e-6, atol=1e-6, max_steps=20, strict=True)


def test_the_step_budget_counts_across_jumps():
    options = {"jump_times": [0.5, 1.0, 1.5], "rtol": 1e-6, "atol": 1e-6}
    u0, t = states(3), grid(0, 2, 5)
    needed = solve(rotation, u0, t, **options)
    total = needed.n_accepted + needed.n_rejected
    budget = int(total.min())
    solution = solve(rotation, u0, t, max_steps=budget, **options)
    assert torch.equal(solution.status == Status.SUCCESS, total <= budget)
    assert (solution.n_accepted + solution.n_rejected).max() <= budget


def test_fixed_steps_that_overflow_end_a_sample_alone():
    u0 = torch.tensor([[3.0], [-0.1]], dtype=F64)
    solution = solve(lambda t, u: u**3, u0, grid(0, 3, 7), method="rk4", substeps=4)
    assert solution.status.tolist() == [Status.NONFINITE, Status.SUCCESS]
    assert solution.u[0, -1].isnan().all()
    exact = u0[1] / (1 - 2 * u0[1] ** 2 * solution.t).sqrt()
    torch.testing.assert_close(solution.u[1, :, 0], exact, rtol=1e-9, atol=0)


@pytest.mark.parametrize("jumps", [[], [0.55]])
def test_fixed_steps_have_a_budget_too(jumps):
    u0, t = states(2), grid(0, 1, 11)
    needed = 2 * (10 + len(jumps))
    options = {"method": "rk4", "substeps": 2, "jump_times": jumps}
    assert solve(rotation, u0, t, max_steps=needed, **options).status.tolist() == [Status.SUCCESS] * 2
    short = solve(rotation, u0, t, max_steps=needed - 1, **options)
    assert short.status.tolist() == [Status.MAX_STEPS] * 2
    assert short.n_accepted.tolist() == [needed - 2] * 2
    assert short.u[:, :10].isfinite().all()
    assert short.u[:, 10].isnan().all()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()

    def forward(self, t, u, scale):
        return scale * self.net(torch.cat([u, t[:, None]], dim=-1))


@pytest.mark.parametrize("direction", [1, -1])
def test_gradients_agree_by_autograd_adjoint_and_finite_differences(direction):
    net, u0, scale = Net(), states(3), torch.tensor([[0.5], [1.0], [2.0]], dtype=F64)
    t = torch.tensor([0.0, 0.4, 1.0, 2.0], dtype=F64)
    t = t if direction > 0 else 2 - t
    weights = torch.randn(3, 4, 2, dtype=F64)
    tensors = [u0, scale, *net.parameters()]

    def loss(adjoint=False):
        u = solve(net, u0, t, args=(scale,), rtol=1e-10, atol=1e-10, adjoint=adjoint).u
        return (weights * u.square()).sum()

    for x in tensors:
        x.requires_grad_()
    direct = torch.autograd.grad(loss(), tensors)
    adjoint = torch.autograd.grad(loss(adjoint=True), tensors)
    for a, b in zip(direct, adjoint):
        assert (a - b).norm() <= 1e-6 * a.norm()
    for x, gradient in zip(tensors, direct):
        v = torch.randn_like(x)
        with torch.no_grad():
            x += 1e-5 * v
            ahead = loss()
            x -= 2e-5 * v
            behind = loss()
            x += 1e-5 * v
        expected = float((gradient * v).sum())
        assert float(ahead - behind) / 2e-5 == pytest.approx(expected, rel=1e-6, abs=1e-7 * float(gradient.norm()))


@pytest.mark.parametrize("adjoint", [False, True])
def test_gradient_of_a_rotation_is_exact(adjoint):
    u0, t = states(3).requires_grad_(), grid(0, 3, 4)
    rate = torch.tensor(1.3, dtype=F64, requires_grad=True)
    weights = torch.randn(3, 4, 2, dtype=F64)
    solution = solve(lambda t, u: rate * rotation(t, u), u0, t, rtol=1e-10, atol=1e-10, adjoint=adjoint, params=[rate])
    found = torch.autograd.grad((weights * solution.u).sum(), (u0, rate))
    exact = torch.autograd.grad((weights * rotated(u0, rate * t)).sum(), (u0, rate))
    for a, b in zip(found, exact):
        assert (a - b).norm() <= 1e-6 * b.norm()


def test_rejected_and_failed_steps_do_not_reach_gradients():
    """One sample blows up; the gradient of the others and of its own valid outputs is finite and right."""
    u0 = torch.tensor([[1.0], [-1.0]], dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 2.0], dtype=F64)
    solution = solve(lambda t, u: torch.where(u > 5, torch.nan, u * u), u0, t, rtol=1e-10, atol=1e-10)
    assert solution.status.tolist() == [Status.NONFINITE, 0]
    (gradient,) = torch.autograd.grad(solution.u[0, 1].sum() + solution.u[1, 2].sum(), u0)
    exact = torch.tensor([[1 / (1 - 0.5) ** 2], [1 / (1 + 2.0) ** 2]], dtype=F64)  # ∂/∂u0 of u0/(1 - u0 t)
    torch.testing.assert_close(gradient, exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_are_differentiable(method):
    u0, t = states(2).requires_grad_(), grid(0, 1, 3)
    assert torch.autograd.gradcheck(lambda u: solve(rotation, u, t, method=method, substeps=2).u, (u0,))


def test_second_derivatives():
    u0, t = states(2).requires_grad_(), grid(0, 1, 3)
    scheme = {"rtol": 1e-3, "atol": 1e-3, "first_step": 0.25}
    assert torch.autograd.gradgradcheck(lambda u: solve(lambda t, u: torch.sin(u) * 0.1, u, t, **scheme).u, (u0,))


@pytest.mark.parametrize(
    "options",
    [{}, {"method": "rk4"}, {"adjoint": True, "params": []}, {"event": lambda t, u: u[:, 0]}, {"jump_times": [0.5]}],
)
def test_an_empty_batch_gives_empty_tensors(options):
    solution = solve(rotation, torch.zeros(0, 2, dtype=F64), grid(0, 1, 5), **options)
    assert solution.u.shape == (0, 5, 2)
    assert solution.status.shape == solution.n_accepted.shape == (0,)


def test_float32():
    u0, t = states(3).float(), grid(0, 5, 11)
    solution = solve(rotation, u0, t.float(), rtol=1e-5, atol=1e-5)
    assert solution.u.dtype == torch.float32
    torch.testing.assert_close(solution.u.double(), rotated(u0.double(), t), rtol=0, atol=1e-4)


GOOD = {"u0": torch.ones(3, 2, dtype=F64), "t": grid(0, 1, 3)}


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"u0": torch.ones(2, dtype=F64)}, ShapeError, r"\(batch, n\)"),
        ({"u0": torch.ones(3, 2)}, TypeError, "float64"),
        ({"u0": torch.ones(3, 2, dtype=torch.complex128)}, TypeError, "complex"),
        ({"u0": torch.ones(3, 2, dtype=torch.float16), "t": grid(0, 1, 3).half()}, TypeError, "float32 or both"),
        ({"u0": torch.full((3, 2), math.nan, dtype=F64)}, ValueError, r"samples \[0, 1, 2\]"),
        ({"t": torch.arange(3)}, ValueError, "int64"),
        ({"t": torch.zeros(1, dtype=F64)}, ShapeError, "two times"),
        ({"t": torch.zeros(3, dtype=F64)}, ValueError, "monotone"),
        ({"t": torch.tensor([0.0, math.nan], dtype=F64)}, ValueError, "finite"),
        ({"method": "rk45"}, ConfigError, "dopri5, tsit5"),
        ({"rtol": -1.0}, ConfigError, "rtol"),
        ({"atol": 0.0}, ConfigError, "atol"),
        ({"first_step": 0.0}, ConfigError, "first_step"),
        ({"max_steps": 0}, ConfigError, "max_steps"),
        ({"substeps": 0}, ConfigError, "substeps"),
        ({"retract_at": "never"}, ConfigError, "step or output"),
        ({"retract_at": "output"}, ConfigError, "give retract"),
        ({"substeps": 2}, ConfigError, "substeps is for rk4"),
        ({"method": "rk4", "first_step": 0.1}, ConfigError, "leave out first_step"),
        ({"method": "rk4", "event": lambda t, u: u[:, 0]}, ConfigError, "adaptive"),
        ({"reinitialise": lambda t, u: u}, ConfigError, "jump_times"),
        ({"jump_times": [math.nan]}, ConfigError, "jump_times"),
        ({"adjoint": True}, ConfigError, "params"),
        ({"adjoint": True, "retract": lambda t, u: u}, ConfigError, "without retract"),
        ({"args": (torch.ones(4),)}, ShapeError, "3 samples"),
        ({"field": lambda t, u: u[:, :1]}, ShapeError, r"shape of the state, .*2\); got .*1\)"),
        ({"field": lambda t, u: u.float()}, RuntimeError, "float32"),
        ({"event": lambda t, u: u}, ShapeError, "a number a sample"),
        ({"retract": lambda t, u: u[:, :1]}, ShapeError, "retract"),
    ],
)
def test_wrong_inputs_are_named(change, error, message):
    arguments = {"field": rotation} | GOOD | change
    with pytest.raises(error, match=message):
        solve(arguments.pop("field"), arguments.pop("u0"), arguments.pop("t"), **arguments)
