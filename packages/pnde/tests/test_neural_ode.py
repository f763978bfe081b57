"""Flows of any field: targets, retraction, initial states, gradients, and what is refused."""

import builtins
import math
import warnings

import pytest
import torch
from pnde import (
    PNDE,
    ConstrainedHamiltonianField,
    ConstrainedMechanics,
    Constraint,
    FunctionConstraint,
    HamiltonianField,
    LotkaVolterraInvariant,
    MLPField,
    PendulumConstraint,
    ProjectedField,
    SecondOrderField,
    StabilizedField,
    VectorField,
    stack,
)
from pnde.neural_ode import NeuralODE, OffManifoldWarning
from pnde.solvers import SolveError, Status
from sciml.errors import ConfigError, DataError, ShapeError

F64 = torch.float64
T = torch.linspace(0, 2, 9, dtype=F64)


def sphere():
    return FunctionConstraint(lambda u: (u.square().sum() - 1)[None], 3, 1)


def energy():
    return FunctionConstraint(lambda u: (u.square().sum() / 2)[None], 3, 1, kind="conserved")


def states(samples=4, seed=0):
    u = torch.randn(samples, 3, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return u / u.norm(dim=-1, keepdim=True)


def base(seed=0):
    torch.manual_seed(seed)
    return MLPField(3, (16,), dtype=F64)


def pendulums(samples=4):
    angles = torch.rand(samples, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    x, y = angles.sin().cumsum(-1), -angles.cos().cumsum(-1)
    return torch.cat([x, y, torch.zeros(samples, 4, dtype=F64)], -1)


def test_any_callable_is_solved_in_three_lines():
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    ode = NeuralODE(lambda t, u: net(u))
    u = ode(torch.randn(5, 2), torch.linspace(0, 1, 6)).u
    assert u.shape == (5, 6, 2)
    u.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("backend", ["native", "torchdiffeq"])
@pytest.mark.parametrize("gamma", [0.0, 5.0])
def test_conserved_quantities_keep_the_value_of_each_trajectory(backend, gamma):
    ode = NeuralODE(ProjectedField(base(), energy(), gamma=gamma), backend=backend, rtol=1e-9, atol=1e-9)
    u0 = states() * torch.tensor([[0.5], [1.0], [1.5], [2.0]], dtype=F64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        u = ode(u0, T, strict=True).u
    held = u.square().sum(-1) / 2
    torch.testing.assert_close(held, held[:, :1].expand_as(held), rtol=1e-7, atol=0)


def test_a_target_is_what_the_stabilised_field_is_drawn_to():
    """f = 0: g - target decays as e^{-γt} (row 9)."""

    class Rest(VectorField):
        n = 3

        def forward(self, t, u):
            return torch.zeros_like(u)

    ode = NeuralODE(StabilizedField(Rest(), energy(), 3.0), rtol=1e-10, atol=1e-10)
    u0, target = states(), torch.full((4, 1), 0.8, dtype=F64)
    with pytest.warns(OffManifoldWarning, match=r"0\.3.*samples \[0, 1, 2, 3\]"):
        u = ode(u0, T, target=target).u
    gap = u.square().sum(-1) / 2 - 0.8
    torch.testing.assert_close(gap, gap[:, :1] * (-3 * T).exp(), rtol=0, atol=1e-8)


def test_every_kind_of_constrained_field_is_solved():
    torch.manual_seed(0)
    constraint = PendulumConstraint()
    net = SecondOrderField(8, torch.nn.Linear(8, 4, dtype=F64))
    energy = torch.nn.Sequential(torch.nn.Linear(8, 8, dtype=F64), torch.nn.Tanh(), torch.nn.Linear(8, 1, dtype=F64))
    fields = [
        net,
        ProjectedField(net, constraint),
        StabilizedField(net, constraint, 5.0),
        ConstrainedMechanics(net, constraint, gamma=2.0),
        ConstrainedHamiltonianField(HamiltonianField(8, energy), constraint),
    ]
    for field in fields:
        solution = NeuralODE(field)(pendulums(), T, strict=True)
        assert solution.u.shape == (4, 9, 8)
        solution.u.square().mean().backward()
    drift = [constraint(None, NeuralODE(field)(pendulums(), T).u.detach()).norm(dim=-1).max() for field in fields]
    assert drift[0] > 0.1
    assert max(drift[1], drift[3], drift[4]) < 1e-3


@pytest.mark.parametrize("retract", ["step", "output"])
def test_outputs_are_on_the_manifold(retract):
    """With retraction ‖g - target‖ is rounding, without it follows the tolerance."""
    field = ProjectedField(base(), stack(sphere(), FunctionConstraint(lambda u: u[2:], 3, 1, kind="conserved")))
    u0 = states()
    target = field.constraint.target(None, u0)
    loose = NeuralODE(field, rtol=1e-3, atol=1e-3)(u0, T).u.detach()
    found = NeuralODE(field, rtol=1e-3, atol=1e-3, retract=retract)(u0, T).u.detach()
    tight = NeuralODE(field, rtol=1e-10, atol=1e-10)(u0, T).u.detach()
    off = [(field.constraint(None, u) - target[:, None]).abs().max() for u in (loose, found)]
    assert off[1] <= 3e-13 < 1e-7 < off[0]
    assert (found - tight).norm() <= 1.5 * (loose - tight).norm()


def test_a_free_field_is_retracted_onto_a_constraint_of_its_flow():
    field, constraint = base(), sphere()
    ode = NeuralODE(field, constraint=constraint, retract="step", rtol=1e-8, atol=1e-8)
    u = ode(states(), T).u.detach()
    torch.testing.assert_close(u.norm(dim=-1), torch.ones(4, 9, dtype=F64), rtol=0, atol=1e-12)
    free = NeuralODE(field)(states(), T).u.detach()
    assert (free.norm(dim=-1) - 1).abs().max() > 1e-2


@pytest.mark.parametrize("backend", ["native", "torchdiffeq"])
@pytest.mark.parametrize("retract", [None, "output"])
def test_gradients_through_targets_and_retraction(backend, retract):
    """By steps and by the adjoint, against finite differences along all parameters and initial states."""
    field, u0 = ProjectedField(base(), energy(), gamma=1.0), states(2)
    weights = torch.randn(2, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(2))
    tensors = [u0.requires_grad_(), *field.parameters()]

    def loss(adjoint=False, tol=1e-10):
        ode = NeuralODE(field, backend=backend, retract=retract, adjoint=adjoint, rtol=tol, atol=tol)
        return (weights * ode(u0, T[:3]).u).sum()

    direct = torch.autograd.grad(loss(), tensors)
    for a, b in zip(direct, torch.autograd.grad(loss(adjoint=True), tensors)):
        assert (a - b).norm() <= 1e-6 * a.norm()
    generator = torch.Generator().manual_seed(3)
    directions = [torch.randn(x.shape, dtype=F64, generator=generator) for x in tensors]
    values, h = {}, 1e-3
    with torch.no_grad():
        for k in (-2, -1, 1, 2):
            for x, v in zip(tensors, directions):
                x += k * h * v
            values[k] = float(loss(tol=1e-11))
            for x, v in zip(tensors, directions):
                x -= k * h * v
    slope = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * h)
    assert slope == pytest.approx(float(sum((g * v).sum() for g, v in zip(direct, directions))), rel=1e-6)


def test_gradients_through_retracted_steps():
    field, u0 = base(), states(2).requires_grad_()
    ode = NeuralODE(field, constraint=energy(), retract="step", rtol=1e-3, atol=1e-3)
    t = torch.tensor([0.0, 0.5], dtype=F64)
    direct = torch.autograd.grad(ode(u0, t).u.sin().sum(), u0)[0]
    tight = NeuralODE(field, constraint=energy(), retract="step", rtol=1e-9, atol=1e-9)
    expected = torch.zeros_like(u0)
    with torch.no_grad():
        for i in range(u0.numel()):
            step = torch.zeros(u0.numel(), dtype=F64)
            step[i] = 1e-5
            ahead, behind = (tight(u0 + s * step.view_as(u0), t).u.sin().sum() for s in (1, -1))
            expected.view(-1)[i] = (ahead - behind) / 2e-5
    assert (direct - expected).norm() <= 3e-3 * expected.norm()


def test_initial_states_off_the_manifold_are_named_or_moved():
    field, u0 = ProjectedField(base(), sphere()), states()
    u0[2] *= 1.2
    with pytest.warns(OffManifoldWarning, match=r"0\.44.*1e-05.*\[2\]"):
        NeuralODE(field)(u0, T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        u = NeuralODE(field, initial="retract")(u0, T).u
        u0[2] /= 1.2
        NeuralODE(field)(u0, T)
    assert (u.norm(dim=-1) - 1).abs().max() <= 1e-5
    torch.testing.assert_close(u[2, 0], u0[2], rtol=0, atol=1e-12)
    with pytest.raises(DataError, match=r"samples \[1\].*nearer"):
        NeuralODE(field, initial="retract")(u0 * torch.tensor([[1.0], [0.0], [1.0], [1.0]], dtype=F64), T)


def test_initial_states_are_moved_in_the_metric_of_the_field():
    """g = y - 2x with y alone free to move: (1, 1) goes to (1, 2)."""
    g = FunctionConstraint(lambda u: u[1:] - 2 * u[:1], 2, 1)
    field = ProjectedField(MLPField(2, (4,), dtype=F64), g, metric=torch.tensor([0.0, 1.0], dtype=F64))
    u = NeuralODE(field, initial="retract")(torch.ones(1, 2, dtype=F64), T[:2]).u
    torch.testing.assert_close(u[0, 0], torch.tensor([1.0, 2.0], dtype=F64), rtol=0, atol=1e-13)


class Moving(FunctionConstraint):
    """u₀ = position(t), which jumps at t = 1."""

    def __init__(self):
        super().__init__(lambda t, u: u[:1] - torch.where(t < 1, t, t + 2), 3, 1, driven=True)


@pytest.mark.parametrize("backend", ["native", "torchdiffeq"])
@pytest.mark.parametrize("retract", ["step", "output"])
def test_states_are_projected_anew_after_a_jump(backend, retract):
    if backend == "torchdiffeq" and retract == "step":
        pytest.skip("refused")
    field = ProjectedField(base(), Moving())
    u0 = torch.cat([torch.zeros(4, 1, dtype=F64), states()[:, 1:]], 1)
    ode = NeuralODE(field, backend=backend, retract=retract, jump_times=[1.0])
    u = ode(u0, T, strict=True).u
    torch.testing.assert_close(u[:, :, 0], torch.where(T < 1, T, T + 2).expand(4, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["native", "torchdiffeq"])
def test_a_projection_after_a_jump_that_fails_has_its_status(backend):
    """From t = 1 on u₀² = 4 holds instead of u₂ = 0: at u₀ = 0 it has no gradient."""

    def switched(t, u):
        return torch.where(t < 1, u[2], u[0].square() - 4)[None]

    u0 = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 0.0]], dtype=F64)
    constraint = FunctionConstraint(switched, 3, 1, driven=True)
    flow = NeuralODE(lambda t, u: 0 * u, constraint=constraint, retract="output", backend=backend, jump_times=[1.0])
    solution = flow(u0, torch.tensor([0.0, 0.5, 1.5], dtype=F64))
    assert solution.status.tolist() == [Status.SUCCESS, Status.RETRACTION_FAILED]
    assert solution.u[1, :2].isfinite().all()
    assert solution.u[1, 2].isnan().all()
    torch.testing.assert_close(solution.u[0, -1], torch.tensor([2.0, 0.5, 0.0], dtype=F64), rtol=0, atol=1e-12)


def test_a_failed_sample_has_its_status_and_the_others_their_values():
    class Burst(VectorField):
        n = 4

        def forward(self, t, u):
            return u * u

    u0 = torch.tensor([[0.1] * 4, [0.9, 0.1, 0.2, 0.3], [-1.0] * 4], dtype=F64)
    for backend in ("native", "torchdiffeq"):
        solution = NeuralODE(Burst(), backend=backend)(u0, T)
        assert solution.solved.tolist() == [True, False, True]
        assert solution.u[1, -1].isnan().all()
        with pytest.raises(SolveError, match="1 of 3"):
            NeuralODE(Burst(), backend=backend)(u0, T, strict=True)


def test_an_output_that_cannot_be_retracted_ends_the_sample():
    constraint = FunctionConstraint(lambda u: (u.square().sum() - 1)[None], 3, 1)
    ode = NeuralODE(lambda t, u: -4 * u, constraint=constraint, retract="output", atol=1e-9)
    solution = ode(states(), torch.linspace(0, 9, 4, dtype=F64))
    failed = solution.status == Status.RETRACTION_FAILED
    assert bool(failed.all())
    assert solution.u[:, -1].isnan().all()


GOOD = {"field": ProjectedField(MLPField(3, (4,), dtype=F64), sphere())}


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "scipy"}, "native, torchdiffeq, torchode"),
        ({"method": "rk45"}, "dopri5, tsit5, dopri8"),
        ({"backend": "torchdiffeq", "method": "tsit5"}, "dopri5, dopri8, bosh3"),
        ({"backend": "torchdiffeq", "retract": "step"}, "native"),
        ({"retract": "always"}, "step, output"),
        ({"initial": "guess"}, "check, retract"),
        ({"rtol": -1.0}, "rtol"),
        ({"atol": 0.0}, "atol"),
        ({"max_steps": 0}, "max_steps"),
        ({"jump_times": [math.nan]}, "jump_times"),
        ({"adjoint": True, "method": "rk4"}, r"native \(dopri5.*torchdiffeq \(dopri5"),
        ({"adjoint": True, "retract": "step"}, "continuous adjoint"),
        ({"adjoint": True, "retract": "output", "jump_times": [1.0]}, "after a jump have no continuous adjoint"),
        ({"constraint": sphere()}, "of its own"),
        ({"field": lambda t, u: -u, "constraint": "sphere"}, "'sphere' must be a Constraint"),
        ({"field": lambda t, u: -u, "retract": "step"}, "constraint="),
        ({"field": lambda t, u: -u, "adjoint": True}, "nn.Module"),
    ],
)
def test_wrong_options_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        NeuralODE(**(GOOD | change))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("u0", "t", "target", "error", "message"),
    [
        (torch.ones(2, 4, dtype=F64), T, None, ShapeError, r"\(batch, 3\)"),
        (states(2), T, torch.zeros(2, 2, dtype=F64), ShapeError, r"target must be \(2, 1\)"),
        (states(2) * math.nan, T, None, ValueError, "samples"),
        (states(2), T[:1], None, ShapeError, "two times"),
        (states(2), T * 0, None, ValueError, "monotone"),
        (states(2).float(), T, None, TypeError, "float64"),
        (states(2).half(), T.half(), None, TypeError, "float32 or both"),
        (states(2) + 0j, T, None, TypeError, "Split complex"),
        (states(2).float(), T, None, TypeError, r"Give u0\.double"),
        (states(2).float(), T.float(), None, TypeError, r"base\.net\.hidden\.0\.weight torch.float64.*field\.to"),
        (states(2), T.tolist(), None, TypeError, "t must be a tensor; got list"),
        (states(2).numpy(), T, None, TypeError, "u0 must be a tensor; got ndarray"),
    ],
)
def test_wrong_inputs_are_named(u0, t, target, error, message):
    with pytest.raises(error, match=message):
        NeuralODE(**GOOD)(u0, t, target=target)


def test_parameters_that_are_not_finite_are_named():
    field = base()
    with torch.no_grad():
        field.net.out.bias[1] = math.nan
    with pytest.raises(ValueError, match=r"field\.net\.out\.bias"):
        NeuralODE(field)(states(), T)


def test_a_target_needs_a_constraint():
    with pytest.raises(ConfigError, match="constraint="):
        NeuralODE(base())(states(), T, target=torch.zeros(4, 1, dtype=F64))


def test_torchode_that_is_not_installed_says_how(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "torchode":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install torchode"):
        NeuralODE(base(), backend="torchode")


@pytest.mark.parametrize("bad", [[1.0, -1.0], [0.0, 1.0]])
def test_starts_outside_the_domain_of_the_constraint_are_refused(bad):
    field = ProjectedField(MLPField(2, dtype=torch.float64), LotkaVolterraInvariant())
    u0, t = torch.tensor([[1.0, 1.0], bad]).double(), torch.tensor([0.0, 1.0]).double()
    model = PNDE(state_dim=2, hidden=(4,), second_order=False, constraint="lotka-volterra")
    for target in (None, torch.full((2, 1), 3.0).double()):
        for solve in (NeuralODE(field), model.solve):
            with pytest.raises(ValueError, match=r"no finite value at the start of samples \[1\]"):
                solve(u0, t, target=target)


def test_targets_are_finite_and_of_the_states_type():
    flow = NeuralODE(ProjectedField(MLPField(2, dtype=torch.float64), LotkaVolterraInvariant()))
    u0, t = torch.ones(2, 2).double(), torch.tensor([0.0, 1.0]).double()
    with pytest.raises(ValueError, match="no finite value"):
        flow(u0, t, target=torch.full((2, 1), torch.nan).double())
    with pytest.raises(TypeError, match=r"target must be torch.float64 as u0; got torch.float32"):
        flow(u0, t, target=torch.ones(2, 1))


def test_models_warn_of_states_off_the_manifold_too():
    with pytest.warns(OffManifoldWarning, match=r"samples \[0, 1\].*pnde.retract moves"):
        PNDE(hidden=(4,)).solve(torch.randn(2, 8).double(), torch.tensor([0.0, 0.1]).double())


@pytest.mark.unchecked
@pytest.mark.parametrize("steps", [2.5, 0, "many"])
def test_numbers_of_steps_are_whole(steps):
    with pytest.raises(ConfigError, match="max_steps"):
        NeuralODE(MLPField(2), max_steps=steps)


@pytest.mark.unchecked
def test_integer_times_are_refused():
    with pytest.raises(ValueError, match=r"t must be of the states' dtype"):
        NeuralODE(MLPField(2))(torch.ones(1, 2), torch.tensor([0, 1]))


def test_after_a_jump_differential_components_stay_and_algebraic_ones_follow():
    """0 = y - s(t) x with s jumping from 1 to 2 at t = 1: x goes on, y doubles."""

    class Switched(Constraint):
        n, m, driven = 2, 1, True

        def forward(self, t, u):
            s = 1 + (torch.as_tensor(t, dtype=u.dtype) >= 1).to(u.dtype)
            return (u[..., 1] - s * u[..., 0])[..., None]

        def time_derivative(self, t, u):
            return torch.zeros_like(u[..., :1])

    class Decay(VectorField):
        n = 2

        def forward(self, t, u):
            return torch.stack([-u[..., 0], torch.zeros_like(u[..., 0])], -1)

    field = ProjectedField(Decay(), Switched(), metric=torch.tensor([0.0, 1.0]).double())
    flow = NeuralODE(field, jump_times=[1.0], retract="step", rtol=1e-9, atol=1e-9)
    t = torch.tensor([0.0, 0.5, 1.0, 2.0]).double()
    u, x = flow(torch.tensor([[1.0, 1.0]]).double(), t).u[0], t.neg().exp()
    torch.testing.assert_close(u, torch.stack([x, x * torch.tensor([1.0, 1.0, 2.0, 2.0])], -1), rtol=0, atol=1e-8)
