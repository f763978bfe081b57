"""Constraints: Jacobians against automatic differentiation, invariance under the exact dynamics, errors."""

import math

import pytest
import torch
from pnde import (
    CentralMotion,
    Constraint,
    ConverterEnergy,
    EndPointMotion,
    FPUTEnergy,
    FunctionConstraint,
    LearnedConstraint,
    LinearConstraint,
    LotkaVolterraInvariant,
    PendulumConstraint,
    RigidBodyInvariants,
    project_tangent,
    stack,
)
from pnde.constraints.base import differentiate
from sciml.errors import ConfigError, ShapeError

BOTH = {"energy": True, "angular_momentum": True}
SHIPPED = {
    "pendulum 1": PendulumConstraint(1),
    "pendulum 3": PendulumConstraint(3),
    "quartic": CentralMotion("quartic", **BOTH),
    "newton": CentralMotion("newton", **BOTH),
    "Lotka-Volterra": LotkaVolterraInvariant(),
    "rigid body": RigidBodyInvariants(casimir=True, energy=True),
    "converter": ConverterEnergy(),
    "FPUT": FPUTEnergy(5),
    "arm": EndPointMotion(4),
    "linear": LinearConstraint(torch.arange(6.0).double().reshape(2, 3) ** 2, torch.tensor([1.0, 2.0]).double()),
    "stack": stack(CentralMotion("quartic"), LinearConstraint(torch.ones(1, 4, dtype=torch.float64))),
}


def states(n: int, *shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return 0.5 + torch.rand(*shape, n, dtype=torch.float64)


@pytest.mark.parametrize("name", SHIPPED)
def test_jacobian_is_the_derivative(name):
    g = SHIPPED[name]
    u, t = states(g.n, 3, 4), torch.linspace(0, 1, 12, dtype=torch.float64).reshape(3, 4)
    G = g.jacobian(t, u)
    assert G.shape == (3, 4, g.m, g.n)
    torch.testing.assert_close(G, differentiate(g.forward, t, u, g.m), rtol=0, atol=1e-12)
    for mode in ("forward", "loop"):
        torch.testing.assert_close(G, differentiate(g.forward, t, u, g.m, mode), rtol=0, atol=1e-12)
    assert g(t, u).shape == (3, 4, g.m)
    assert g.jacobian(t, u.float()).dtype == torch.float32


def quartic(u):
    q, v = u.split(2, -1)
    return torch.cat([v, -q * q.square().sum(-1, keepdim=True)], -1)


def newton(u):
    q, v = u.split(2, -1)
    return torch.cat([v, -q * q.square().sum(-1, keepdim=True) ** -1.5], -1)


def lotka_volterra(u):
    x, y = u.unbind(-1)
    return torch.stack([1.5 * x - x * y, x * y - 3 * y], -1)


def rigid_body(u):
    y1, y2, y3 = u.unbind(-1)
    i1, i2, i3 = 1.6, 1.0, 2 / 3
    return torch.stack([(1 / i3 - 1 / i2) * y3 * y2, (1 / i1 - 1 / i3) * y1 * y3, (1 / i2 - 1 / i1) * y2 * y1], -1)


def converter(s):
    def field(u):
        v1, v2, i = u.unbind(-1)
        return torch.stack([(1 - s) * i / 0.1, s * i / 0.2, (-(1 - s) * v1 - s * v2) / 0.5], -1)

    return field


def fput(u):
    x = torch.nn.functional.pad(u[..., :5], (1, 1))
    left, here, right = x[..., :-2], x[..., 1:-1], x[..., 2:]
    return torch.cat([u[..., 5:], (right - 2 * here + left) * (1 + 0.25 * (right - left))], -1)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("quartic", quartic),
        ("newton", newton),
        ("Lotka-Volterra", lotka_volterra),
        ("rigid body", rigid_body),
        ("converter", converter(0)),
        ("converter", converter(1)),
        ("FPUT", fput),
    ],
)
def test_the_dynamics_of_the_problem_are_tangent_and_unchanged_by_the_projection(name, field):
    g = SHIPPED[name]
    u = states(g.n, 20)
    f = field(u)
    error = (project_tangent(g.jacobian(None, u), f) - f).norm(dim=-1)
    assert (error <= 1e-12 * f.norm(dim=-1)).all()


def test_end_point_of_the_arm_moves_as_prescribed():
    g, u = EndPointMotion(3), states(3, 5)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    expected = torch.stack([-(2 * math.pi * t).cos(), torch.zeros_like(t)], -1)  # of p
    torch.testing.assert_close(g.time_derivative(t, u), -expected)
    torch.testing.assert_close(g.time_derivative(t, u), Constraint.time_derivative(g, t, u))
    torch.testing.assert_close(g.time_derivative(t[1], u)[0], -expected[1])
    motion = torch.stack([-(2 * math.pi * t).sin() / (2 * math.pi), torch.zeros_like(t)], -1)
    torch.testing.assert_close(g(t, u), torch.stack([u.cos().sum(-1), u.sin().sum(-1)], -1) - motion)


def test_targets_of_levels_are_zero_and_those_of_invariants_their_values():
    part, level = CentralMotion("quartic"), LinearConstraint(torch.ones(1, 4, dtype=torch.float64))
    both, u = stack(part, level), states(4, 3)
    assert (both.kind, both.m, both.driven) == ("conserved", 2, False)
    assert both.time_derivative(None, u) is None
    torch.testing.assert_close(both.target(None, u), torch.cat([part(None, u), torch.zeros(3, 1).double()], -1))


def test_rates_of_a_stack_are_zero_where_a_part_does_not_depend_on_time():
    g = stack(EndPointMotion(3), LinearConstraint(torch.ones(1, 3, dtype=torch.float64)))
    rate = g.time_derivative(torch.tensor(0.2).double(), states(3, 4))
    assert g.driven
    assert rate.shape == (4, 3)
    assert (rate[:, 2] == 0).all()
    torch.testing.assert_close(rate[:, :2], EndPointMotion(3).time_derivative(torch.tensor(0.2).double(), states(3, 4)))


@pytest.mark.parametrize("mode", ["reverse", "forward", "loop"])
@pytest.mark.parametrize("jac", [None, lambda u: 2 * u[None]])
def test_a_function_of_one_state_is_a_constraint_on_many(mode, jac):
    sphere = FunctionConstraint(lambda u: u @ u[:, None] - 1, 3, 1, mode=mode, jac=jac)
    u = states(3, 2, 5)
    torch.testing.assert_close(sphere(None, u), u.square().sum(-1, keepdim=True) - 1)
    torch.testing.assert_close(sphere.jacobian(None, u), 2 * u[..., None, :])
    assert sphere(None, u[:0]).shape == (0, 5, 1)
    assert sphere.jacobian(None, u[:0]).shape == (0, 5, 1, 3)


def test_a_driven_function_has_its_own_time_at_every_state():
    g = FunctionConstraint(lambda t, u: u[:1] ** 2 - t.sin(), 2, 1, driven=True)
    u, t = states(2, 4), torch.linspace(0, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(g(t, u), u[:, :1] ** 2 - t.sin()[:, None])
    torch.testing.assert_close(g.time_derivative(t, u), -t.cos()[:, None])
    torch.testing.assert_close(g.jacobian(t, u)[:, 0, 0], 2 * u[:, 0])


def test_a_function_that_branches_on_values_needs_the_loop():
    def bent(u):
        return (u if u[0] > 1 else 2 * u)[:1]

    u = torch.tensor([[0.5, 1.0], [1.5, 1.0]], dtype=torch.float64)
    with pytest.raises(ConfigError, match="mode='loop'"):
        FunctionConstraint(bent, 2, 1).jacobian(None, u)
    assert FunctionConstraint(bent, 2, 1, mode="loop").jacobian(None, u)[:, 0, 0].tolist() == [2.0, 1.0]


@pytest.mark.parametrize("mode", ["reverse", "forward", "loop"])
@pytest.mark.parametrize(("function", "shape"), [(lambda u: u[:2], r"\(2,\)"), (lambda u: u.sum(), r"\(\)")])
def test_a_function_of_another_number_of_values_has_no_jacobian(function, shape, mode):
    with pytest.raises(ConfigError, match=rf"returns {shape} for one state \(3,\); \(1,\) was expected"):
        FunctionConstraint(function, 3, 1, mode=mode).jacobian(None, states(3, 2))


def test_a_constraint_that_writes_in_place_says_what_to_do():
    class Written(Constraint):
        n, m = 3, 1

        def forward(self, t, u):
            g = torch.zeros(1, dtype=u.dtype)
            g[0] = u.square().sum()
            return g

    with pytest.raises(ConfigError, match=r"Written\.forward does not run under.*define its jacobian"):
        Written().jacobian(None, states(3, 2))


def test_a_driven_function_of_numbers_says_what_is_missing():
    moving = FunctionConstraint(
        lambda t, u: torch.from_numpy(u[:1].detach().numpy() - t.numpy()),
        2,
        1,
        driven=True,
        mode="loop",
        jac=lambda t, u: torch.tensor([[1.0, 0.0]], dtype=u.dtype),
    )
    t = torch.tensor(0.5).double()
    assert moving(t, states(2, 3)).shape == (3, 1)
    with pytest.raises(ConfigError, match="override time_derivative"):
        moving.time_derivative(t, states(2, 3))


def test_what_the_loop_finds_is_differentiated_where_something_asks_for_it():
    weight = torch.ones((), dtype=torch.float64)
    g, u = FunctionConstraint(lambda u: weight * u[:1] ** 2, 2, 1, mode="loop"), states(2, 3)
    assert not g.jacobian(None, u).requires_grad
    weight.requires_grad_()
    assert g.jacobian(None, u).requires_grad
    with torch.no_grad():
        assert not g.jacobian(None, u).requires_grad
    weight.requires_grad_(False)
    (second,) = torch.autograd.grad(g.jacobian(None, u.requires_grad_()).sum(), u)
    assert second.tolist() == [[2.0, 0.0]] * 3


def test_learned_invariants_learn_through_their_jacobian():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    g, u = LearnedConstraint(net, 4, 2), states(4, 6)
    torch.testing.assert_close(g.jacobian(None, u)[3], torch.autograd.functional.jacobian(net, u[3]))
    project_tangent(g.jacobian(None, u), torch.ones_like(u)).square().sum().backward()
    assert net[0].weight.grad.abs().max() > 0
    assert g.kind == "conserved"


@pytest.mark.unchecked
@pytest.mark.parametrize("name", SHIPPED)
def test_states_of_another_size_are_refused(name):
    g = SHIPPED[name]
    wrong = torch.ones(2, g.n + 1, dtype=torch.float64)
    for call in (g, g.jacobian):
        with pytest.raises(ShapeError, match=rf"\.\.\., {g.n}\); got \(2, {g.n + 1}\)"):
            call(torch.tensor(0.0).double(), wrong)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CentralMotion("cubic"), "quartic"),
        (lambda: CentralMotion(energy=False), "at least one of energy, angular_momentum"),
        (lambda: LotkaVolterraInvariant(alpha=0.0), "positive"),
        (lambda: RigidBodyInvariants((1.0, 2.0)), "three positive moments"),
        (lambda: ConverterEnergy(c1=-1.0), "positive"),
        (lambda: FPUTEnergy(0), "at least 1"),
        (lambda: EndPointMotion(2), "at least 3 links"),
        (lambda: LinearConstraint(torch.ones(3, 3)), "m < n"),
        (lambda: FunctionConstraint(lambda u: u, 2, 2), "fewer than components"),
        (lambda: FunctionConstraint(lambda u: u, 3, 1, mode="magic"), "reverse, forward, loop"),
        (lambda: LearnedConstraint(torch.nn.Linear(2, 2), 2, 2), "fewer than components"),
        (lambda: stack(CentralMotion(), ConverterEnergy()), r"\[4, 3\] components"),
        (lambda: FunctionConstraint(lambda u: u, 3, 1)(None, torch.ones(2, 3)), r"\(1,\) was expected"),
        (lambda: FunctionConstraint(lambda u: u, 3, True), "fewer than components"),
    ],
)
def test_bad_constraints_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def unpacked(u: torch.Tensor) -> torch.Tensor:
    x, y, z = u
    return torch.stack([x * y, y * z])


@pytest.mark.parametrize("options", [{}, {"mode": "forward"}, {"mode": "loop"}, {"chunk_size": 1}])
def test_functions_of_no_states_give_nothing(options):
    constraint = FunctionConstraint(unpacked, n=3, m=2, **options)
    u = torch.randn(5, 3, dtype=torch.float64)
    assert constraint(None, u[:0]).shape == (0, 2)
    assert constraint.jacobian(None, u[:0]).shape == (0, 2, 3)
    x, y, z = u.unbind(-1)
    zero = torch.zeros_like(x)
    expected = torch.stack([torch.stack([y, x, zero], -1), torch.stack([zero, z, y], -1)], -2)
    torch.testing.assert_close(constraint.jacobian(None, u), expected)


def test_a_jacobian_of_another_shape_is_refused():
    sphere = FunctionConstraint(lambda u: u.square().sum()[None], n=3, m=1, jac=lambda u: 2 * u)
    with pytest.raises(ConfigError, match=r"jac returns \(3,\) for one state \(3,\); \(1, 3\) was expected"):
        sphere.jacobian(None, torch.randn(2, 3))
