"""Fields: what each keeps exactly, whatever its network, and what it is for the true dynamics."""

import numpy as np
import pytest
import torch
from pnde import (
    CentralMotion,
    Constraint,
    DoublePendulum,
    EndPointMotion,
    FPUTEnergy,
    LearnedConstraint,
    PendulumConstraint,
    PowerBalance,
    SampleError,
    Status,
    _factorisations,
    projection,
    solve,
)
from pnde.fields import (
    MLP,
    ChainConv,
    ConstrainedHamiltonianField,
    ConstrainedMechanics,
    HamiltonianField,
    MLPField,
    ProjectedField,
    SecondOrderField,
    StabilizedField,
    VectorField,
    symplectic,
)
from sciml.errors import ConfigError, ShapeError
from scipy.integrate import solve_ivp
from torch.utils._python_dispatch import TorchDispatchMode

GRAVITY = 9.81


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pendulums(samples: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Moving double pendulums in Cartesian coordinates, and their exact rates without damping."""
    problem = DoublePendulum(damping=0.0)
    angles = torch.cat([6 * torch.rand(samples, 2), 4 * torch.rand(samples, 2) - 2], -1).double()
    rate = torch.from_numpy(problem.angular_field(angles.numpy()))
    cartesian = []
    for step in (-1e-4, 1e-4):
        cartesian.append(torch.from_numpy(problem.to_cartesian((angles + step * rate).numpy())))
    u = torch.from_numpy(problem.to_cartesian(angles.numpy()))
    return u, (cartesian[1] - cartesian[0]) / 2e-4


def network(n: int = 8, scale: float = 5.0) -> VectorField:
    field = MLPField(n, (16,), dtype=torch.float64)
    torch.nn.init.normal_(field.net.out.weight, std=scale)
    return field


class FreeFall(VectorField):
    n = 8

    def forward(self, t, u):
        down = torch.tensor([0.0, 0.0, -GRAVITY, -GRAVITY], dtype=u.dtype).expand_as(u[..., :4])
        return torch.cat([u[..., 4:], down], -1)


def rate_of(constraint, t, u, field):
    """dg/dt along a field."""
    rate = (constraint.jacobian(t, u) @ field[..., None])[..., 0]
    drift = constraint.time_derivative(t, u)
    return rate if drift is None else rate + drift


@pytest.mark.parametrize("gamma", [0.0, 3.0])
@pytest.mark.parametrize("constraint", [PendulumConstraint(2), CentralMotion("quartic", True, True), EndPointMotion(5)])
def test_projected_fields_relax_the_constraint_at_the_rate_gamma(constraint, gamma):
    u, t = torch.rand(7, constraint.n, dtype=torch.float64) + 0.3, torch.linspace(0, 1, 7, dtype=torch.float64)
    target = torch.rand(7, constraint.m, dtype=torch.float64)
    field = ProjectedField(network(constraint.n), constraint, gamma=gamma)
    expected = -gamma * (constraint(t, u) - target)
    torch.testing.assert_close(rate_of(constraint, t, u, field(t, u, target)), expected, rtol=0, atol=1e-11)


def test_algebraic_components_alone_are_corrected_by_their_metric():
    """x differential, y algebraic on x² + y² = 1: ẏ = -x ẋ/y."""
    base, g = network(2), CentralMotionCircle()
    u = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    rate = ProjectedField(base, g, metric=torch.tensor([0.0, 1.0], dtype=torch.float64))(None, u)
    x = base(None, u)[:, 0]
    torch.testing.assert_close(rate, torch.stack([x, -u[:, 0] * x / u[:, 1]], -1))


class CentralMotionCircle(LearnedConstraint):
    """|u|² of two components."""

    def __init__(self):
        super().__init__(torch.nn.Identity(), 2, 1)

    def forward(self, t, u):
        return u.square().sum(-1, keepdim=True)


def test_constrained_mechanics_of_free_masses_is_the_pendulum():
    u, exact = pendulums()
    for inverse_mass in (None, torch.ones(4), torch.eye(4)):
        kept = None if inverse_mass is None else inverse_mass.double()
        field = ConstrainedMechanics(FreeFall(), PendulumConstraint(2), inverse_mass=kept)
        torch.testing.assert_close(field(None, u), exact, rtol=0, atol=1e-5)


def test_masses_decide_how_forces_of_constraint_are_shared():
    """Least constraint: M(v̇ - a) is a combination of the rows of positions."""
    mass = torch.diag(torch.tensor([1.0, 2.0, 1.0, 2.0])).double() + 0.1
    u, g = pendulums()[0], PendulumConstraint(2)
    base = SecondOrderField(8, MLP(8, 4, (8,), dtype=torch.float64))
    change = ConstrainedMechanics(base, g, inverse_mass=mass.inverse())(None, u) - base(None, u)
    assert (change[:, :4] == 0).all()
    A = g.jacobian(None, u)[:, :2, :4]
    forces = change[:, 4:] @ mass
    off = forces - (torch.linalg.pinv(A) @ A @ forces[..., None])[..., 0]
    assert off.abs().max() <= 1e-10 * forces.abs().max()


def test_constrained_mechanics_damps_positions_critically():
    gamma, g = 3.0, PendulumConstraint(2)
    u = pendulums()[0] + 0.05 * torch.randn(6, 8, dtype=torch.float64)
    base = SecondOrderField(8, MLP(8, 4, (8,), dtype=torch.float64))
    field = ConstrainedMechanics(base, g, gamma=gamma)(None, u)
    phi, psi = g(None, u).split(2, -1)
    rate = rate_of(g, None, u, field)
    torch.testing.assert_close(rate[:, :2], 2 * psi)
    torch.testing.assert_close(rate[:, 2:], -2 * gamma * psi - gamma**2 / 2 * phi)


def test_stabilised_fields_without_a_base_shrink_the_deviation():
    class Still(VectorField):
        n = 8

        def forward(self, t, u):
            return torch.zeros_like(u)

    u, g = pendulums()[0] + 0.1, PendulumConstraint(2)
    rate = StabilizedField(Still(), g, 4.0)(None, u)
    torch.testing.assert_close(rate_of(g, None, u, rate), -4.0 * g(None, u))


def energy(u):
    return (u[..., 4:].square().sum(-1) / 2 + GRAVITY * u[..., 2:4].sum(-1))[..., None]


def test_the_oblique_projection_of_the_true_energy_is_the_pendulum():
    u, exact = pendulums()
    field = ConstrainedHamiltonianField(HamiltonianField(8, energy), PendulumConstraint(2))
    torch.testing.assert_close(field(None, u), exact, rtol=0, atol=1e-5)


def test_the_oblique_projection_keeps_constraints_and_energy_of_any_network():
    net = MLP(8, 1, (16,), dtype=torch.float64)
    base, g, u = HamiltonianField(8, net), PendulumConstraint(2), pendulums()[0]
    rate = ConstrainedHamiltonianField(base, g)(None, u)
    assert rate_of(g, None, u, rate).abs().max() <= 1e-11
    assert (base.gradient(u) * rate).sum(-1).abs().max() <= 1e-12
    rate.square().sum().backward()
    assert net.out.weight.grad.abs().max() > 0


def test_hamiltonian_fields_are_symplectic_gradients_also_without_grad():
    base, u = HamiltonianField(8, energy), pendulums()[0]
    with torch.no_grad():
        torch.testing.assert_close(base(None, u), FreeFall()(None, u))
    torch.testing.assert_close(symplectic(symplectic(u)), -u)


def test_a_chain_of_convolutions_sees_neighbours_only():
    net = ChainConv(10, 4, 2, dtype=torch.float64)
    u = torch.randn(3, 20, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(net, u[0]).reshape(10, 2, 10)
    i = torch.arange(10)
    far = (i[:, None] - i).abs() > 2
    assert (J.abs().amax(1)[far] == 0).all()
    assert (J.abs().amax(1)[~far] > 0).all()
    field = SecondOrderField(20, net)
    assert field(None, u).shape == u.shape
    projected = ProjectedField(field, FPUTEnergy(10))(None, u)
    assert rate_of(FPUTEnergy(10), None, u, projected).abs().max() <= 1e-12


def test_skip_connections_add_each_hidden_layer_but_the_first():
    net = MLP(2, 3, (5, 5, 5), skip=True, dtype=torch.float64)
    net.set_normalization(3 * torch.randn(50, 2, dtype=torch.float64) + 1)
    x = torch.randn(4, 2, dtype=torch.float64)
    gelu = torch.nn.functional.gelu
    h = gelu(net.hidden[0]((x - net.mean) / net.std))
    for layer in net.hidden[1:]:
        h = h + gelu(layer(h))
    torch.testing.assert_close(net(x), net.out(h))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: ProjectedField(network(4), PendulumConstraint(2)),
            ConfigError,
            "on 4 components, the constraint on 8",
        ),
        (lambda: StabilizedField(network(), PendulumConstraint(2), -1.0), ConfigError, "gamma=-1.0"),
        (lambda: SecondOrderField(3, torch.nn.Identity()), ConfigError, "even number"),
        (lambda: HamiltonianField(3, energy), ConfigError, "even number"),
        (lambda: MLP(2, 2, (3, 4), skip=True), ConfigError, "one width"),
        (lambda: ChainConv(4, kernel_size=2), ConfigError, "odd"),
        (
            lambda: ConstrainedMechanics(network(), PendulumConstraint(2), inverse_mass=torch.ones(3)),
            ConfigError,
            r"must be \(4,\)",
        ),
        (
            lambda: ConstrainedMechanics(network(4), CentralMotion(energy=True, angular_momentum=True)),
            ConfigError,
            "constraint CentralMotion",
        ),
        (lambda: ConstrainedMechanics(network(28), PowerBalance()), ConfigError, "constraint PowerBalance"),
        (lambda: ConstrainedMechanics(network(), PendulumConstraint(2), per_rate=0.0), ConfigError, "per_rate=0.0"),
        (
            lambda: ProjectedField(network(), PendulumConstraint(2), metric=torch.ones(3)),
            ConfigError,
            r"must be \(8,\)",
        ),
        (lambda: ProjectedField(network(), PendulumConstraint(2), metric=-torch.ones(8)), ValueError, "semidefinite"),
        (
            lambda: ConstrainedHamiltonianField(HamiltonianField(4, energy), CentralMotion()),
            ConfigError,
            "with 1 rows",
        ),
        (
            lambda: StabilizedField(network(4), CentralMotion(), 1.0)(None, torch.ones(2, 4).double()),
            ConfigError,
            "differs by trajectory",
        ),
        (
            lambda: StabilizedField(network(4), CentralMotion(), 1.0)(
                None, torch.ones(2, 4).double(), torch.ones(2, 2).double()
            ),
            ShapeError,
            r"target must be \(\.\.\., 1\)",
        ),
        (lambda: ProjectedField(network(4), "pendulum"), ConfigError, "'pendulum' must be a Constraint"),
        (
            lambda: ConstrainedHamiltonianField(HamiltonianField(4, energy), "pendulum"),
            ConfigError,
            "must be a Constraint",
        ),
        (lambda: ProjectedField(network(4), CentralMotion(), rtol=1.0), ConfigError, r"rtol=1\.0"),
    ],
)
def test_bad_fields_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "make",
    [
        lambda: ProjectedField(network(), PendulumConstraint(2)),
        lambda: ProjectedField(network(), PendulumConstraint(2), gamma=1.0),
        lambda: ConstrainedMechanics(network(), PendulumConstraint(2)),
        lambda: StabilizedField(network(), PendulumConstraint(2), 1.0),
    ],
)
def test_targets_fit_the_states_whatever_gamma_is(make):
    field, u = make(), torch.randn(2, 8, dtype=torch.float64)
    row = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(field(None, u, row), field(None, u, row.expand(2, 4)))
    for shape in ((3, 4), (2, 5), (), (2, 2, 4)):
        with pytest.raises(ShapeError, match=r"target must be \(\.\.\., 4\), one row or one for each"):
            field(None, u, torch.ones(shape, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"target must be torch\.float64"):
        field(None, u, torch.ones(2, 4))


def test_the_threshold_of_the_pseudoinverse_is_that_of_the_projection():
    """Near a circular orbit energy and angular momentum have one gradient, up to 1e-3."""
    base, g = network(4), CentralMotion(energy=True, angular_momentum=True)
    u = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64) + 1e-3
    for rtol, kept in ((1e-8, 2), (1e-1, 1)):
        f = ProjectedField(base, g, rank="pinv", rtol=rtol)(None, u)
        torch.testing.assert_close(
            f, projection.project_tangent(g.jacobian(None, u), base(None, u), rank="pinv", rtol=rtol)
        )
        assert int((g.jacobian(None, u) @ f[..., None]).abs().lt(1e-10).sum()) == 2 * (kept == 2)


def test_sparse_rows_give_the_same_field_with_gradients():
    balance, base = PowerBalance(), MLPField(28, (8,), dtype=torch.float64)
    u = torch.randn(4, 28, dtype=torch.float64)
    dense, sparse = (ProjectedField(base, balance, gamma=2.0, method=m)(None, u) for m in ("cholesky", "sparse"))
    torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-12)
    weight = next(base.parameters())
    found, expected = (torch.autograd.grad(x.square().sum(), weight)[0] for x in (sparse, dense))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_constraint_without_sparse_rows_says_so():
    field = ProjectedField(MLPField(8, dtype=torch.float64), PendulumConstraint(), method="sparse")
    with pytest.raises(ConfigError, match="PendulumConstraint has no sparse Jacobian"):
        field(None, torch.randn(2, 8, dtype=torch.float64))


class Lengthening(Constraint):
    """A pendulum of length ℓ = 1 + 0.1 sin t: |q|² - ℓ², and q·v - ℓℓ̇."""

    n, m, driven, per_rate = 4, 2, True, 0.5

    def forward(self, t, u):
        t = torch.as_tensor(t, dtype=u.dtype)
        length, rate = 1 + 0.1 * t.sin(), 0.1 * t.cos()
        q, v = u.chunk(2, -1)
        return torch.stack([q.square().sum(-1) - length**2, (q * v).sum(-1) - length * rate], -1)


def test_forces_of_driven_constraints_follow_them():
    """The angle of a pendulum of changing length obeys ℓθ̈ + 2ℓ̇θ̇ + g sin θ = 0."""

    class Fall(torch.nn.Module):
        def forward(self, u):
            return torch.tensor([0.0, -GRAVITY], dtype=u.dtype).expand(*u.shape[:-1], 2)

    field = ConstrainedMechanics(SecondOrderField(4, Fall()), Lengthening())
    angle, speed, radial = 0.7, 0.4, 0.1
    s, c = np.sin(angle), np.cos(angle)
    u0 = torch.tensor([[s, -c, radial * s + c * speed, -radial * c + s * speed]], dtype=torch.float64)
    t = torch.linspace(0, 2, 5).double()
    u = solve(field, u0, t, method="dopri8", rtol=1e-11, atol=1e-11).u
    assert Lengthening()(t.expand(1, -1), u).abs().max() <= 1e-9

    def angular(t, y):
        length, rate = 1 + 0.1 * np.sin(t), 0.1 * np.cos(t)
        return [y[1], -(2 * rate * y[1] + GRAVITY * np.sin(y[0])) / length]

    y = solve_ivp(angular, (0, 2), [angle, speed], t_eval=t.numpy(), rtol=1e-12, atol=1e-12, method="DOP853").y[0]
    length = 1 + 0.1 * np.sin(t.numpy())
    expected = torch.from_numpy(np.stack([length * np.sin(y), -length * np.cos(y)], -1))
    torch.testing.assert_close(u[0, :, :2], expected, rtol=0, atol=1e-8)


def test_a_singular_state_of_the_symplectic_projection_ends_alone():
    field = ConstrainedHamiltonianField(HamiltonianField(8, lambda u: u.square().sum(-1) / 2), PendulumConstraint())
    u, _ = pendulums(2)
    u0 = torch.cat([u, torch.zeros(1, 8).double()])
    with pytest.raises(SampleError, match=r"first \[2\]"):
        field(None, u0)
    assert solve(field, u0, torch.linspace(0, 0.1, 2).double()).status.tolist() == [0, 0, Status.NONFINITE]


def test_the_symplectic_projection_refuses_driven_constraints():
    with pytest.raises(ConfigError, match="driven"):
        ConstrainedHamiltonianField(HamiltonianField(4, lambda u: u.square().sum(-1)), Lengthening())


@pytest.mark.unchecked
@pytest.mark.parametrize("options", [{"method": "magic"}, {"rank": "none"}])
def test_options_of_a_projected_field_are_checked_when_it_is_made(options):
    with pytest.raises(ConfigError, match=next(iter(options.values()))):
        ProjectedField(MLPField(8), PendulumConstraint(), **options)


@pytest.mark.parametrize("constraint", [PendulumConstraint(3), Lengthening()])
def test_velocity_rows_are_rates_of_position_rows_in_the_ratio_declared(constraint):
    u, t = torch.randn(5, constraint.n, dtype=torch.float64), torch.linspace(0, 1, 5).double()
    v = u.chunk(2, -1)[1]
    moving = rate_of(constraint, t, u, torch.cat([v, torch.randn_like(v)], -1))
    rows = constraint.m // 2
    torch.testing.assert_close(constraint(t, u)[:, rows:], constraint.per_rate * moving[:, :rows])


@pytest.mark.parametrize("method", ["auto", "qr", "svd"])
def test_a_constant_metric_is_checked_and_factorised_once(method, monkeypatch):
    calls = []
    for name in ("check_metric", "square_root"):
        for module in (projection, _factorisations):
            if hasattr(module, name):
                known = getattr(module, name)
                monkeypatch.setattr(module, name, lambda *x, known=known: calls.append(1) or known(*x))
    root = torch.randn(8, 8, dtype=torch.float64)
    u, base = pendulums()[0], network()
    field = ProjectedField(base, PendulumConstraint(2), metric=root @ root.mT, method=method)
    assert calls
    calls.clear()
    p = field(None, u)
    assert not calls
    expected = projection.project_tangent(
        PendulumConstraint(2).jacobian(None, u), base(None, u), metric=root @ root.mT, method=method
    )
    assert torch.equal(p, expected)


def test_masses_and_weights_may_be_learned():
    """A metric that wants gradients is no constant: it is taken anew in every call."""
    mass = torch.rand(4, dtype=torch.float64, requires_grad=True)
    u, base = pendulums()[0], SecondOrderField(8, MLP(8, 4, (8,), dtype=torch.float64))
    for field in (
        ConstrainedMechanics(base, PendulumConstraint(2), inverse_mass=mass.exp()),
        ProjectedField(base, PendulumConstraint(2), metric=torch.cat([mass, mass]).exp()),
    ):
        loss = field(None, u).square().sum() + field(None, 2 * u).square().sum()
        assert torch.autograd.grad(loss, mass)[0].abs().min() > 0


class Launches(TorchDispatchMode):
    """Counts operations that compute or copy, and those that wait for their values."""

    def __init__(self):
        super().__init__()
        self.computed = self.waits = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name.removeprefix("aten::")
        self.waits += name in ("_local_scalar_dense", "nonzero")
        self.computed += not (operation.is_view or name in ("_unsafe_view", "empty"))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("n_links", [2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projected_right_hand_sides_are_few_operations_and_wait_once(n_links, dtype):
    """Small problems on accelerators cost what it takes to launch operations, and to wait for them."""
    base = SecondOrderField(4 * n_links, MLP(4 * n_links, 2 * n_links, (4,), dtype=dtype))
    constraint, u = PendulumConstraint(n_links), torch.randn(16, 4 * n_links, dtype=dtype)
    fields = (ProjectedField(base, constraint), ConstrainedMechanics(base, constraint))
    counted = []
    for field in (base, *fields, StabilizedField(base, constraint, 20.0)):
        with torch.no_grad(), Launches() as launches:
            field(None, u)
        counted.append((launches.computed, launches.waits))
    bare = counted[0][0]
    assert counted[0][1] == 0
    for (computed, waits), most in zip(counted[1:], (26, 34, 36)):
        assert waits == 1
        assert computed - bare <= most


@pytest.mark.unchecked
def test_a_projected_field_compiles_with_its_gradients():
    u = pendulums()[0]
    field = ProjectedField(network(), PendulumConstraint(2))
    compiled = torch.compile(field, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(None, u), field(None, u))
    gradients = []
    for call in (compiled, field):
        inputs = (u.clone().requires_grad_(), *field.parameters())
        gradients.append(torch.autograd.grad(call(None, inputs[0]).square().sum(), inputs))
    for x, y in zip(*gradients):
        torch.testing.assert_close(x, y)
