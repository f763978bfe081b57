"""The tangent projection: algebra, derivatives of all orders, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pnde import DoublePendulum, PendulumConstraint, RankDeficientConstraintError, min_norm_solve, project_tangent
from pnde.projection import _solve
from torch.autograd import gradcheck, gradgradcheck


def pendulum_states(n_links: int, samples: int = 20, dtype=torch.float64) -> torch.Tensor:
    """States on the manifold with angular velocities of about 8 rad/s."""
    generator = torch.Generator().manual_seed(n_links)
    angles = 6.3 * torch.rand(samples, n_links, generator=generator, dtype=torch.float64)
    speeds = 8 * torch.randn(samples, n_links, generator=generator, dtype=torch.float64)
    states = torch.cat([angles, speeds], dim=-1).numpy()
    return torch.from_numpy(DoublePendulum(n_links=n_links).to_cartesian(states)).to(dtype)


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("n_links", [2, 4, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 5e-7)])
def test_projection_is_tangent(n_links, dtype, tolerance):
    u = pendulum_states(n_links, dtype=dtype)
    G, v = PendulumConstraint(n_links).jacobian(None, u), random(20, 4 * n_links, dtype=dtype)
    p = project_tangent(G, v)
    residual = (G @ p[..., None])[..., 0].norm(dim=-1)
    assert (residual <= tolerance * torch.linalg.matrix_norm(G) * v.norm(dim=-1)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**20))
def test_projection_is_the_nearest_solution_and_affine(m, free, batch, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    G, v, w, b = draw(batch, m, m + free), draw(batch, m + free), draw(batch, m + free), draw(batch, m)
    size = 1 + torch.linalg.pinv(G).norm(dim=(-2, -1)).max() * (v.norm() + w.norm() + b.norm())
    tolerance = 1e-14 * float(torch.linalg.cond(G).max()) * float(size)
    p = project_tangent(G, v, rhs=b)
    assert (G @ p[..., None] + b[..., None]).norm() <= tolerance * G.norm()
    assert project_tangent(G, p - v).norm() <= tolerance  # p - v is orthogonal to every tangent vector
    mixed = project_tangent(G, 2 * v - w, rhs=b)
    assert (mixed - (2 * p - project_tangent(G, w, rhs=b))).norm() <= 4 * tolerance


@pytest.mark.parametrize("n_links", [2, 4])
def test_projector_is_idempotent_symmetric_and_that_of_the_pseudoinverse(n_links):
    G = PendulumConstraint(n_links).jacobian(None, pendulum_states(n_links))
    n = G.shape[-1]
    P = project_tangent(G[:, None], torch.eye(n, dtype=torch.float64)).mT
    tolerance = 1e-12 * float(torch.linalg.cond(G).max())
    for other in (P @ P, P.mT, torch.eye(n, dtype=torch.float64) - torch.linalg.pinv(G) @ G):
        assert (P - other).abs().max() <= tolerance


def test_invariance_under_reparametrisation_and_gauge():
    G, v = PendulumConstraint(2).jacobian(None, pendulum_states(2)), random(20, 8)
    left, right = torch.linalg.qr(random(4, 4))[0], torch.linalg.qr(random(4, 4) + 1)[0]
    A = left @ torch.diag(torch.tensor([1.0, 0.3, 0.1, 0.01], dtype=torch.float64)) @ right
    p = project_tangent(G, v)
    torch.testing.assert_close(project_tangent(A @ G, v), p, rtol=0, atol=1e-11)
    normal = (G.mT @ random(20, 4)[..., None])[..., 0]
    torch.testing.assert_close(project_tangent(G, v + normal), p, rtol=0, atol=1e-12 * float(normal.abs().max()))


@pytest.mark.parametrize("n_links", [1, 2, 4, 8])
def test_true_pendulum_field_is_unchanged(n_links):
    problem = DoublePendulum(n_links=n_links)
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(10, 2 * n_links, generator=generator, dtype=torch.float64)
    rate = torch.from_numpy(problem.angular_field(y.numpy()))
    theta, omega = y.split(n_links, dim=-1)
    cos, sin, alpha = theta.cos(), theta.sin(), rate[:, n_links:]
    parts = [cos * omega, sin * omega, cos * alpha - sin * omega**2, sin * alpha + cos * omega**2]
    field = torch.cat([part.cumsum(-1) for part in parts], dim=-1)
    u = torch.from_numpy(problem.to_cartesian(y.numpy()))
    projected = project_tangent(PendulumConstraint(n_links).jacobian(None, u), field)
    assert ((projected - field).norm(dim=-1) <= 1e-12 * field.norm(dim=-1)).all()


@pytest.mark.parametrize("n_links", [1, 2, 4])
def test_analytic_jacobian_is_the_derivative(n_links):
    constraint, u = PendulumConstraint(n_links), random(6, 4 * n_links)
    expected = super(PendulumConstraint, constraint).jacobian(None, u)
    torch.testing.assert_close(constraint.jacobian(None, u), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("metric", [None, "semidefinite diagonal", "matrix"])
def test_first_and_second_derivatives(metric):
    W = None
    if metric == "semidefinite diagonal":
        W = torch.tensor([0.0, 2.0, 1.0, 0.5, 1.0], dtype=torch.float64)
    elif metric == "matrix":
        root = random(5, 5)
        W = root @ root.mT
    inputs = tuple(x.requires_grad_() for x in (random(3, 2, 5), random(3, 5), random(3, 2)))

    def both(G, v, b):
        return _solve(G, v, b, W, "error")

    assert gradcheck(both, inputs, check_forward_ad=True)
    assert gradgradcheck(both, inputs)


def test_function_transforms_agree_with_the_batched_call():
    G, v = random(6, 2, 5), random(6, 5)
    torch.testing.assert_close(torch.func.vmap(project_tangent)(G, v), project_tangent(G, v))
    jacobian = torch.func.vmap(torch.func.jacrev(project_tangent, argnums=1))(G, v)
    torch.testing.assert_close(jacobian, torch.eye(5, dtype=torch.float64) - torch.linalg.pinv(G) @ G)
    forward = torch.func.vmap(torch.func.jacfwd(project_tangent))(G, v)
    torch.testing.assert_close(forward, torch.func.vmap(torch.func.jacrev(project_tangent))(G, v))


@pytest.mark.parametrize("method", ["auto", "cholesky", "qr", "svd"])
def test_forward_and_reverse_mode_nest_in_any_order(method):
    D, E, root = random(3, 2, 5), random(3, 5), random(5, 5)

    def project(x):
        W = (root * x.sum().cos()) @ root.mT
        G, v = torch.tensordot(x.sin(), D, 1), torch.tensordot(x.cos(), E, 1)
        return (project_tangent(G, v, rhs=x[:2], metric=W, method=method) * E[0]).sum()

    x, (forward, reverse) = random(3), (torch.func.jacfwd, torch.func.jacrev)
    expected = reverse(reverse(project))(x)
    for outer, inner in ((forward, forward), (forward, reverse), (reverse, forward)):
        torch.testing.assert_close(outer(inner(project))(x), expected, rtol=1e-10, atol=1e-10)


def test_minimum_norm_solution_is_that_of_the_pseudoinverse():
    G, b = random(6, 2, 5), random(6, 2)
    torch.testing.assert_close(min_norm_solve(G, b), (torch.linalg.pinv(G) @ b[..., None])[..., 0])


def test_dependent_rows_are_refused_or_dropped():
    G, v = random(4, 3, 6), random(4, 6)
    G[2, 2] = G[2, 0] - 2 * G[2, 1]
    with pytest.raises(RankDeficientConstraintError, match=r"1 sample\(s\), first \[2\]"):
        project_tangent(G, v)
    expected = v - (torch.linalg.pinv(G, rtol=1e-10) @ (G @ v[..., None]))[..., 0]
    torch.testing.assert_close(project_tangent(G, v, rank="pinv"), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("G", "v", "error", "message"),
    [
        (torch.ones(2, 5), torch.ones(4), ValueError, r"got \(2, 5\) and \(4,\)"),
        (torch.ones(5, 5), torch.ones(5), ValueError, "leave no tangent direction"),
        (torch.ones(3, 2, 5), torch.ones(4, 5), ValueError, "do not match"),
        (torch.ones(2, 5).half(), torch.ones(5).half(), TypeError, "float32 or all float64"),
    ],
)
def test_bad_input_is_named(G, v, error, message):
    with pytest.raises(error, match=message):
        project_tangent(G, v)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": "ridge"}, ValueError, "choose one of error, pinv, tikhonov"),
        ({"rhs": random(4, 2)}, ValueError, r"do not match: G \(3,\), v \(3,\), rhs \(4,\)"),
        ({"rhs": random(3, 1)}, ValueError, "one number per constraint"),
        ({"rhs": random(3, 2).float()}, TypeError, "rhs torch.float32"),
        ({"metric": random(4)}, ValueError, r"metric must be \(5,\)"),
        ({"metric": torch.ones(5)}, TypeError, "metric torch.float32"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        project_tangent(random(3, 2, 5), random(3, 5), **options)


@pytest.mark.parametrize("rank", ["error", "pinv"])
def test_a_metric_that_is_no_weight_is_refused(rank):
    """Negative, indefinite, not symmetric, not finite; only the first gives a G W Gᵀ that is never positive."""
    G, v, one = random(3, 2, 5), random(3, 5), torch.ones(5, dtype=torch.float64)
    skew = torch.eye(5, dtype=torch.float64)
    skew[0, 1] = 0.1
    indefinite = torch.tensor([1.0, 1.0, 1.0, 1.0, -1e-3], dtype=torch.float64)
    for metric in (-one, indefinite, indefinite.diag(), skew, one / 0, (one / 0).diag(), one * torch.nan):
        with pytest.raises(ValueError, match="positive semidefinite") as caught:
            project_tangent(G, v, metric=metric, rank=rank)
        assert not isinstance(caught.value, RankDeficientConstraintError)


@pytest.mark.parametrize("n", [3, 10, 60])
def test_a_semidefinite_metric_is_accepted_in_spite_of_rounding(n):
    root = random(n, 2)
    for W in (root @ root.mT, root[:, :1] @ root[:, :1].mT + 0):
        p = project_tangent(random(1, n), random(n), metric=W)
        assert (random(1, n) @ p).abs() <= 1e-12 * n


def test_one_vector_is_projected_for_many_right_hand_sides():
    G, v, b = random(2, 5), random(5), random(7, 2)
    torch.testing.assert_close(project_tangent(G, v, rhs=b) @ G.mT, -b)


def test_empty_batch():
    assert project_tangent(random(0, 2, 5), random(0, 5)).shape == (0, 5)
