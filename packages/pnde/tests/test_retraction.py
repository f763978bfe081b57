"""Retraction: lands on the manifold along the rows, at the order of its iteration, with the exact derivative."""

import pytest
import torch
from pnde.constraints import Constraint, FunctionConstraint, PendulumConstraint
from pnde.retraction import retract
from torch.autograd import forward_ad, gradcheck, gradgradcheck


class Quadric(Constraint):
    """Σ a_i u_i² = c: a sphere or an ellipsoid; all arithmetic is by component."""

    def __init__(self, axes):
        super().__init__()
        self.n, self.m = len(axes), 1
        self.axes = torch.nn.Parameter(torch.tensor(axes, dtype=torch.float64))

    def forward(self, t, u):
        return (self.axes * u * u).sum(-1, keepdim=True)

    def jacobian(self, t, u):
        return (2 * self.axes * u)[..., None, :]


class QuarticEnergy(Constraint):
    """½|v|² + ¼|x|⁴ of u = (x, y, v_x, v_y)."""

    n, m = 4, 1

    def forward(self, t, u):
        r2 = u[..., :2].square().sum(-1, keepdim=True)
        return u[..., 2:].square().sum(-1, keepdim=True) / 2 + r2.square() / 4

    def jacobian(self, t, u):
        r2 = u[..., :2].square().sum(-1, keepdim=True)
        return torch.cat([r2 * u[..., :2], u[..., 2:]], dim=-1)[..., None, :]


class Algebraic(Constraint):
    """y_i + y_i³ = x_i + t for u = (x, y) in R⁴."""

    n, m = 4, 2

    def forward(self, t, u):
        x, y = u.split(2, -1)
        return y + y**3 - x - t

    def jacobian(self, t, u):
        one = torch.eye(2, dtype=u.dtype).expand(*u.shape[:-1], 2, 2)
        return torch.cat([-one, one * (1 + 3 * u[..., 2:].square())[..., None]], -1)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape) + seed))


def chain(samples=20, n_links=3, violation=0.05):
    """A pendulum chain off its manifold by about `violation`."""
    angles, speeds = random(samples, n_links), random(samples, n_links, seed=1)
    parts = (angles.sin(), -angles.cos(), angles.cos() * speeds, angles.sin() * speeds)
    u = torch.cat([x.cumsum(-1) for x in parts], -1)
    return PendulumConstraint(n_links), u, u + violation / 2 * random(*u.shape, seed=2) / 2


def problems():
    pendulum, _, off = chain()
    return [
        (pendulum, off, torch.zeros(20, 6, dtype=torch.float64)),
        (Quadric([1.0, 1, 1]), random(20, 3), torch.ones(20, 1, dtype=torch.float64) * 2),
        (ellipsoid := Quadric([1.0, 2, 4]), u := random(20, 3), 1.2 * ellipsoid(None, u).detach()),
        (energy := QuarticEnergy(), u := random(20, 4), 1.2 * energy(None, u)),
    ]


@pytest.mark.parametrize("problem", range(4))
def test_lands_on_the_manifold_along_the_rows(problem):
    constraint, u, target = problems()[problem]
    found = retract(constraint, u, target)
    assert found.converged.all()
    assert (constraint(None, found.u) - target).abs().amax() <= 1e-12
    normal = torch.linalg.qr(constraint.jacobian(None, u).mT)[0]
    step = found.u - u
    torch.testing.assert_close((normal @ (normal.mT @ step[..., None]))[..., 0], step, rtol=0, atol=1e-12)


def history(constraint, u, target, method):
    return torch.stack([retract(constraint, u, target, method=method, max_iter=k).residual for k in range(1, 5)])


def test_newton_is_quadratic_and_the_chord_linear_at_a_rate_in_proportion_to_the_distance():
    constraint, _, u = chain()
    target = torch.zeros(20, 6, dtype=torch.float64)
    assert 1e-2 <= constraint(None, u).abs().amax(-1).median() <= 1e-1
    assert retract(constraint, u, target).iterations.max() <= 5
    sphere, v = Quadric([1.0, 2, 4]), torch.nn.functional.normalize(random(20, 3), dim=-1)
    level = sphere(None, v).detach()
    newton = history(sphere, v, 1.1 * level, "newton").detach()
    slope = (newton[1] / newton[0]).log() / (newton[0] / (0.1 * level[:, 0])).log()
    torch.testing.assert_close(slope, torch.full_like(slope, 2), rtol=0, atol=0.35)
    rates = []
    for distance in (0.1, 0.05):
        chord = history(sphere, v, (1 + distance) * level, "chord").detach()
        torch.testing.assert_close(chord[2] / chord[1], chord[1] / chord[0], rtol=0.1, atol=0)
        rates.append(chord[2] / chord[1])
    torch.testing.assert_close(rates[0] / rates[1], torch.full_like(rates[0], 2), rtol=0.1, atol=0)


def test_single_is_one_step_of_the_chord():
    constraint, _, u = chain()
    target = torch.zeros(20, 6, dtype=torch.float64)
    one = retract(constraint, u, target, method="single")
    chord = retract(constraint, u, target, method="chord", max_iter=1)
    torch.testing.assert_close(one.u, chord.u, rtol=0, atol=1e-13)
    assert (one.iterations == 1).all()
    assert not one.converged.any()


@pytest.mark.parametrize("method", ["newton", "chord"])
def test_a_sample_does_not_depend_on_its_batch(method):
    """Bit for bit with arithmetic by component, next to a hopeless neighbour too."""
    constraint, u = Quadric([1.0, 2, 4]), 0.05 * random(17, 3) + 1
    u[5], u[7] = torch.nan, 0  # no row at the centre
    target = torch.full((17, 1), 7.0, dtype=torch.float64)
    target[9] = -1  # no such point
    together = retract(constraint, u, target, method=method)
    bad = [5, 7, 9]
    assert (~together.converged).nonzero()[:, 0].tolist() == bad
    assert together.residual[9] > 1e-3
    for i in set(range(17)) - set(bad):
        alone = retract(constraint, u[i], target[i], method=method)
        assert alone.u.equal(together.u[i])
        assert alone.iterations.equal(together.iterations[i])
        again = retract(constraint, u[i], target[i], method=method, max_iter=50)
        assert again.u.equal(alone.u)  # it stopped when it had converged


def test_a_sample_that_fails_leaves_the_gradient_of_the_others_finite():
    u = torch.tensor([[0.0, 0, 0], [1, 0.1, 0]], dtype=torch.float64, requires_grad=True)
    found = retract(Quadric([1.0, 1, 1]), u, torch.ones(2, 1, dtype=torch.float64))
    assert found.converged.tolist() == [False, True]
    found.u[found.converged].sum().backward()
    assert u.grad.isfinite().all()
    assert u.grad[1].abs().sum() > 0


def test_steps_that_do_not_suffice_are_reported():
    constraint, _, u = chain()
    found = retract(constraint, u, torch.zeros(20, 6, dtype=torch.float64), max_iter=1)
    assert not found.converged.any()
    assert (found.iterations == 1).all()
    assert (found.residual > 1e-10).all()


@pytest.mark.parametrize("method", ["newton", "chord", "single"])
@pytest.mark.parametrize("violation", [0.0, 0.1])
def test_first_and_second_derivatives(method, violation):
    """By finite differences, on the manifold and off it, in the state, the target and the parameters."""
    constraint = Quadric([1.0, 2, 4])
    u = torch.nn.functional.normalize(random(3, 3), dim=-1)
    target = (constraint(None, u).detach() * (1 + violation)).requires_grad_()

    def solve(u, target, axes):
        return torch.func.functional_call(Wrapped(constraint, method), {"constraint.axes": axes}, (u, target))

    inputs = (u.requires_grad_(), target, constraint.axes.detach().clone().requires_grad_())
    assert gradcheck(solve, inputs)
    assert gradgradcheck(solve, inputs)


class Wrapped(torch.nn.Module):
    def __init__(self, constraint, method):
        super().__init__()
        self.constraint, self.method = constraint, method

    def forward(self, u, target):
        return retract(self.constraint, u, target, method=self.method, tol=1e-14, max_iter=40).u


def test_derivatives_on_the_manifold_are_the_projector_and_the_pseudoinverse():
    constraint, u, _ = chain(4)
    target = constraint(None, u)

    def solve(u, target):
        return retract(constraint, u, target).u

    G = constraint.jacobian(None, u)
    inverse = torch.linalg.pinv(G)
    P = torch.func.vmap(torch.func.jacrev(solve))(u, target)
    torch.testing.assert_close(P, torch.eye(12, dtype=torch.float64) - inverse @ G, rtol=0, atol=1e-11)
    torch.testing.assert_close(torch.func.vmap(torch.func.jacrev(solve, 1))(u, target), inverse, rtol=0, atol=1e-11)


@pytest.mark.parametrize("method", ["newton", "chord", "single"])
def test_forward_and_reverse_mode_agree_to_second_order(method):
    constraint, u = Quadric([1.0, 2, 4]), torch.nn.functional.normalize(random(3), dim=-1)
    target = 1.001 * constraint(None, u).detach()

    def solve(u):
        return retract(constraint, u, target, method=method, tol=1e-13, max_iter=5).u

    assert method == "single" or retract(constraint, u, target, method=method, tol=1e-13, max_iter=5).converged
    forward, reverse = torch.func.jacfwd, torch.func.jacrev
    torch.testing.assert_close(forward(forward(solve))(u), reverse(reverse(solve))(u), rtol=0, atol=1e-8)


@pytest.mark.parametrize("grad", [True, False])
def test_tangents_pass_a_state_on_the_manifold_through_the_projector(grad):
    constraint, u, _ = chain(4)
    direction, G = random(4, 12), constraint.jacobian(None, u)
    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        found = retract(constraint, forward_ad.make_dual(u, direction), constraint(None, u)).u
        tangent = forward_ad.unpack_dual(found).tangent
    expected = direction - (torch.linalg.pinv(G) @ (G @ direction[..., None]))[..., 0]
    torch.testing.assert_close(tangent, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("method", "gradient", "calls"), [("single", True, 1), ("newton", False, 1), ("newton", True, 2)]
)
def test_the_jacobian_is_evaluated_once_a_state(method, gradient, calls, monkeypatch):
    constraint, u, _ = chain(4)
    states, jacobian = [], constraint.jacobian
    monkeypatch.setattr(constraint, "jacobian", lambda t, u: (states.append(u), jacobian(t, u))[1])
    with torch.set_grad_enabled(gradient):
        retract(constraint, u, torch.zeros(6, dtype=torch.float64), method=method, max_iter=1)
    assert len(states) == calls


@pytest.mark.parametrize("method", ["newton", "chord"])
def test_metric_moves_only_what_has_weight(method):
    """W = diag(0, I): the algebraic components go to the new manifold, the differential ones stay, bit for bit."""
    u = random(10, 4)
    W = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
    target = torch.zeros(10, 2, dtype=torch.float64)
    constraint = Algebraic()
    start = retract(constraint, u, target, 0.0, metric=W, max_iter=60, method="newton").u
    found = retract(constraint, start, target, 0.1, metric=W, max_iter=60, method=method)
    assert found.converged.all()
    assert found.u[:, :2].equal(start[:, :2])
    y = found.u[:, 2:]
    torch.testing.assert_close(y + y**3, start[:, :2] + 0.1, rtol=0, atol=1e-12)


def test_single_precision_lands_to_its_tolerance():
    constraint, _, u = chain()
    found = retract(constraint, u.float(), torch.zeros(6))
    assert found.converged.all()
    assert found.residual.max() <= 3.1e-6


def test_empty_batch():
    found = retract(QuarticEnergy(), random(0, 4), random(0, 1))
    assert found.u.shape == (0, 4)
    assert found.converged.shape == (0,)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "secant"}, "choose one of newton, chord, single"),
        ({"tol": 0.0}, "positive and finite"),
        ({"max_iter": 0}, "at least 1"),
        ({"u": random(3, 5)}, r"u must be \(..., 4\)"),
        ({"target": random(2, 1)}, "one row, or as many as the states"),
        ({"metric": random(3)}, r"metric must be \(4,\)"),
        ({"metric": -torch.ones(4, dtype=torch.float64)}, "positive semidefinite"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"u": random(3, 4), "target": random(3, 1)} | change
    with pytest.raises(ValueError, match=message):
        retract(QuarticEnergy(), **arguments)


@pytest.mark.unchecked
def test_half_precision_is_refused():
    u = torch.ones(2, 8, dtype=torch.float16)
    with pytest.raises(TypeError, match="float16"):
        retract(PendulumConstraint(), u, u[:, :4])


def test_states_on_the_manifold_whose_rows_vanish_have_the_gradients_of_the_identity():
    energy = FunctionConstraint(lambda u: u.square().sum()[None], n=2, m=1, kind="conserved")
    u = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    found = retract(energy, u, torch.tensor([[0.0], [5.0]], dtype=torch.float64))
    assert bool(found.converged.all())
    found.u.sum().backward()
    assert torch.equal(u.grad[0], torch.ones(2, dtype=torch.float64))
    # of the other, the part along the circle
    expected = torch.tensor([1.0, 1.0]).double() - 3 / 5 * torch.tensor([1.0, 2.0]).double()
    assert (u.grad[1] - expected).abs().max() <= 1e-12
