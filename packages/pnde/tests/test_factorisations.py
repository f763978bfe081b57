"""Every factorisation gives the same projection, at the accuracy its conditioning allows."""

import numpy as np
import pytest
import torch
from pnde import (
    FunctionConstraint,
    PendulumConstraint,
    ProjectedField,
    RankDeficientConstraintError,
    min_norm_solve,
    project_tangent,
    retract,
)
from pnde.projection import Banded, SparseJacobian, _solve, detect_band
from sciml.errors import ConfigError
from torch.autograd import gradcheck, gradgradcheck

DENSE = ["auto", "cholesky", "qr", "svd", "banded"]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape) + seed))


def with_condition(kappa, samples=32, m=4, n=8):
    """Rows whose singular values run from 1 to 1/κ, and which scaling to unit length does not improve much."""
    left, right = torch.linalg.qr(random(samples, m, m))[0], torch.linalg.qr(random(samples, n, m))[0]
    return left @ torch.diag(torch.logspace(0, -float(np.log10(kappa)), m, dtype=torch.float64)) @ right.mT


def errors(G, v, **options):
    """Against the projector from singular vectors in float64, relative to v."""
    wide = G.double()
    Q = torch.linalg.svd(wide, full_matrices=False)[2]
    exact = v.double() - (Q.mT @ (Q @ v.double()[..., None]))[..., 0]
    p = project_tangent(G, v, **options)
    return (p.double() - exact).norm(dim=-1) / v.double().norm(dim=-1)


def error(G, v, **options):
    return float(errors(G, v, **options).median())


def weight(kind, n):
    if kind == "diagonal":
        return torch.linspace(0, 2, n, dtype=torch.float64)
    root = random(n, n - 1, seed=5)
    return None if kind is None else root @ root.mT


@pytest.mark.parametrize("method", DENSE)
@pytest.mark.parametrize("kind", [None, "diagonal", "semidefinite matrix"])
@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_all_methods_agree_with_the_pseudoinverse(method, kind, m):
    """p = v - W Gᵀ(G W Gᵀ)⁺(G v + b) by NumPy; the closed forms are `auto` for m ≤ 3."""
    G, v, b, W = random(6, m, 8), random(6, 8), random(6, m), weight(kind, 8)
    full = torch.eye(8, dtype=torch.float64) if W is None else W.diag() if W.ndim == 1 else W
    expected = torch.stack(
        [
            y - full @ g.mT @ torch.from_numpy(np.linalg.pinv((g @ full @ g.mT).numpy())) @ (g @ y + c)
            for g, y, c in zip(G, v, b)
        ]
    )
    p, multipliers = _solve(G, v, b, W, "error", method)
    torch.testing.assert_close(p, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(p, v - (multipliers[..., None, :] @ G @ full)[..., 0, :], rtol=1e-10, atol=1e-10)
    shortest = torch.stack([torch.from_numpy(np.linalg.lstsq(g.numpy(), c.numpy())[0]) for g, c in zip(G, b)])
    torch.testing.assert_close(min_norm_solve(G, b, method=method), shortest, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("scale", [True, False])
def test_closed_forms_are_cholesky(m, scale):
    G, v, b = random(20, m, 7), random(20, 7), random(20, m)
    closed = _solve(G, v, b, None, "error", "closed", None, scale)
    for x, y in zip(closed, _solve(G, v, b, None, "error", "cholesky", None, scale)):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", ["closed", *DENSE])
@pytest.mark.parametrize("kind", [None, "diagonal", "semidefinite matrix"])
def test_derivatives_of_all_orders(method, kind):
    W = weight(kind, 5)
    inputs = tuple(x.requires_grad_() for x in (random(2, 2, 5), random(2, 5), random(2, 2)))
    assert gradcheck(lambda *x: _solve(*x, W, "error", method), inputs, check_forward_ad=True)
    assert gradgradcheck(lambda *x: _solve(*x, W, "error", method), inputs)


@pytest.mark.parametrize("rank", ["pinv", "tikhonov"])
def test_derivatives_of_truncated_and_damped_solves(rank):
    inputs = tuple(x.requires_grad_() for x in (random(2, 2, 5), random(2, 5), random(2, 2)))

    def solve(*x):
        return _solve(*x, None, rank, "auto", None, True, 0.3 if rank == "tikhonov" else None)

    assert gradcheck(solve, inputs, check_forward_ad=True)
    assert gradgradcheck(solve, inputs)


def test_derivative_with_respect_to_the_metric():
    root = random(5, 5).requires_grad_()
    diagonal = (random(5).square() + 0.5).requires_grad_()
    G, v = random(3, 2, 5).requires_grad_(), random(3, 5).requires_grad_()
    for W, x in ((lambda r: r @ r.mT, root), (lambda d: d, diagonal)):
        assert gradcheck(lambda G, v, x, W=W: _solve(G, v, None, W(x)), (G, v, x), check_forward_ad=True)
        assert gradgradcheck(lambda G, v, x, W=W: _solve(G, v, None, W(x)), (G, v, x))


@pytest.mark.parametrize("method", ["cholesky", "qr", "svd"])
def test_a_matrix_metric_has_the_symmetric_derivative_in_both_modes(method):
    G, v, root = random(2, 5), random(5), random(5, 5)
    W = root @ root.mT

    def solve(W):
        return project_tangent(G, v, metric=W, method=method)

    reverse = torch.func.jacrev(solve)(W)
    torch.testing.assert_close(torch.func.jacfwd(solve)(W), reverse, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(reverse, reverse.mT, rtol=1e-10, atol=1e-10)


def test_a_matrix_metric_stays_a_weight_when_it_is_trained():
    target = random(3, 5, seed=1)
    metric = torch.nn.Parameter(torch.eye(5, dtype=torch.float64))
    constraint = FunctionConstraint(lambda u: u[:2] ** 2, n=5, m=2, kind="level")
    fields = (
        lambda u: ProjectedField(lambda t, u: u.sin(), constraint, metric=metric)(torch.zeros(3).double(), u),
        lambda u: retract(constraint, u, u[:, :2].detach() ** 2 + 0.1, metric=metric).u,
    )
    optimizer = torch.optim.SGD([metric], lr=1e-3)
    for field in fields:
        for _ in range(2):
            optimizer.zero_grad()
            (field(random(3, 5)) - target).square().sum().backward()
            assert metric.grad.abs().amax() > 0
            optimizer.step()


@pytest.mark.parametrize("method", ["closed", "cholesky", "qr", "svd", Banded(1, (1, 0))])
def test_transforms_agree_with_the_batch(method):
    G, v = random(6, 2, 5), random(6, 5)

    def solve(G, v):
        return project_tangent(G, v, method=method)

    P = torch.eye(5, dtype=torch.float64) - torch.linalg.pinv(G) @ G
    torch.testing.assert_close(torch.func.vmap(solve)(G, v), solve(G, v))
    torch.testing.assert_close(torch.func.vmap(solve, (0, None))(G, v[0]), solve(G, v[:1]))
    torch.testing.assert_close(torch.func.vmap(torch.func.jacrev(solve, 1))(G, v), P)
    torch.testing.assert_close(torch.func.vmap(torch.func.jacfwd(solve, 1))(G, v), P)


@pytest.mark.unchecked
@pytest.mark.parametrize("method", ["cholesky", "qr", Banded(3, (0, 1, 2, 3))])
def test_compiles_without_breaks(method):
    G, v = random(6, 4, 8), random(6, 8)

    def solve(G, v):
        return project_tangent(G, v, method=method)

    compiled = torch.compile(solve, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(G, v), solve(G, v))
    inputs = [(G.clone().requires_grad_(), v.clone().requires_grad_()) for _ in range(2)]
    for call, given in zip((compiled, solve), inputs):
        call(*given).square().sum().backward()
    for x, y in zip(*inputs):
        torch.testing.assert_close(x.grad, y.grad)


def test_float32_is_projected_in_float64():
    G, v = random(6, 4, 8, dtype=torch.float32), random(6, 8, dtype=torch.float32)
    torch.testing.assert_close(
        project_tangent(G, v), project_tangent(G.double(), v.double()).float(), rtol=3e-7, atol=0
    )


@pytest.mark.parametrize(("kappa", "once", "twice"), [(1e2, 2e-11, 1e-13), (1e4, 1e-7, 1e-10)])
def test_second_pass_reaches_the_accuracy_of_qr(kappa, once, twice):
    """In float64 one Cholesky pass is κ²·eps off, two of them κ·eps, as QR."""
    G, v = with_condition(kappa), random(32, 8)
    assert error(G, v, method="cholesky", passes=1) <= once
    assert error(G, v, method="cholesky") <= twice
    assert error(G, v, method="qr") <= 100 * kappa * 2.2e-16


@pytest.mark.parametrize("shape", [(1, 4), (2, 8), (3, 8), (4, 8), (16, 32)])
@pytest.mark.parametrize(
    ("dtype", "powers"), [(torch.float32, (1, 2, 2.5, 3, 4)), (torch.float64, (1, 3, 4, 5, 5.5, 6, 7, 8, 10))]
)
def test_auto_is_accurate_at_every_condition(shape, dtype, powers):
    """The worst of 256 samples is of order κ·eps until rows are dependent to rounding, by falling back where needed."""
    m, n = shape
    for kappa in (10.0**power for power in powers):
        G, v = with_condition(kappa, 256, m, n).to(dtype), random(256, n).to(dtype)
        assert errors(G, v).max() <= 10 * kappa * torch.finfo(dtype).eps


def test_only_the_samples_that_need_it_are_solved_apart():
    G, v = random(6, 4, 8), random(6, 8)
    alone = project_tangent(G[:2], v[:2])
    G[3] = with_condition(1e9)[0]
    mixed = project_tangent(G, v)
    torch.testing.assert_close(mixed[:2], alone, rtol=0, atol=1e-15)
    kappa_eps = 1e9 * torch.finfo(torch.float64).eps
    torch.testing.assert_close(mixed[3], project_tangent(G[3], v[3], method="svd"), rtol=0, atol=10 * kappa_eps)


@pytest.mark.parametrize("n_links", [8, 16, 32, 64])
def test_banded_is_dense_on_chains(n_links):
    constraint = PendulumConstraint(n_links)
    angles = 6 * torch.rand(5, n_links, dtype=torch.float64, generator=torch.Generator().manual_seed(n_links))
    parts = (angles.sin(), -angles.cos(), angles.cos() * angles, angles.sin() * angles)
    G, v = constraint.jacobian(None, torch.cat([x.cumsum(-1) for x in parts], -1)), random(5, 4 * n_links)
    band = detect_band(G)
    assert band.bandwidth <= 3  # the two rows of a link meet those of the next
    for method in ("banded", band):
        found = project_tangent(G, v, method=method)
        torch.testing.assert_close(found, project_tangent(G, v, method="svd"), rtol=0, atol=1e-12)


def chain_states(n_links, samples=5):
    angles = 6 * torch.rand(samples, n_links, dtype=torch.float64, generator=torch.Generator().manual_seed(n_links))
    speeds = torch.cos(3 * angles)
    parts = (angles.sin(), -angles.cos(), angles.cos() * speeds, angles.sin() * speeds)
    return torch.cat([x.cumsum(-1) for x in parts], -1)


@pytest.mark.parametrize("n_links", [1, 2, 8])
def test_the_band_of_a_pendulum_holds_at_every_state(n_links):
    constraint, u = PendulumConstraint(n_links), chain_states(n_links)
    rest = torch.cat([u[:, : 2 * n_links], torch.zeros_like(u[:, 2 * n_links :])], -1)
    for states in (u, rest):
        G, v = constraint.jacobian(None, states), random(5, 4 * n_links)
        found = project_tangent(G, v, method=constraint.band)
        torch.testing.assert_close(found, project_tangent(G, v, method="svd"), rtol=0, atol=1e-12)


@pytest.mark.unchecked
@pytest.mark.parametrize("weight", [None, torch.linspace(1, 2, 8).double(), torch.eye(8).double()])
def test_a_band_found_at_rest_is_refused_for_moving_states(weight):
    constraint, u = PendulumConstraint(2), chain_states(2)
    rest = torch.cat([u[:, :4], torch.zeros_like(u[:, 4:])], -1)
    narrow = detect_band(constraint.jacobian(None, rest))
    assert narrow.bandwidth == 1
    G, v = constraint.jacobian(None, u), random(5, 8)
    with pytest.raises(ConfigError, match=r"rows \[\d, \d\].*band of width 1.*PendulumConstraint.band"):
        project_tangent(G, v, method=narrow, metric=weight)
    project_tangent(G, v, method=constraint.band, metric=weight)


def test_rows_that_share_components_but_are_orthogonal_fit_a_diagonal_band():
    G = torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]], dtype=torch.float64)
    v = random(3)
    found = project_tangent(G, v, method=Banded(0, (0, 1)))
    torch.testing.assert_close(found, project_tangent(G, v, method="svd"), rtol=0, atol=1e-14)


def sparse_rows(m, n, samples=1):
    """Rows with three entries that overlap, on one pattern."""
    rows = torch.arange(m).repeat_interleave(3)
    columns = (torch.arange(m)[:, None] * 2 + torch.tensor([0, 1, 3])).reshape(-1) % n
    return SparseJacobian(random(samples, 3 * m) + 0.1, rows, columns, (m, n))


def dense(G):
    return torch.zeros(len(G.values), G.pattern.m, G.pattern.n, dtype=torch.float64).index_put(
        (torch.arange(len(G.values))[:, None], G.pattern.rows, G.pattern.columns), G.values, accumulate=True
    )


@pytest.mark.parametrize("kind", [None, "diagonal"])
def test_sparse_is_dense(kind):
    G, v, b = sparse_rows(200, 410, 3), random(3, 410), random(3, 200)
    W = None if kind is None else torch.linspace(0.1, 2, 410, dtype=torch.float64)
    full = dense(G)
    expected = project_tangent(full, v, rhs=b, metric=W, method="qr")
    found = project_tangent(G, v, rhs=b, metric=W)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    single = full[0].to_sparse_coo()
    for rows in (single, single.to_sparse_csr(), full.to_sparse_csr() if kind is None else single):
        many = project_tangent(rows, v, rhs=b, metric=W)
        torch.testing.assert_close(many[0], expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(min_norm_solve(G, b), min_norm_solve(full, b, method="qr"), rtol=1e-9, atol=1e-9)


def test_an_empty_batch_of_sparse_rows():
    G = sparse_rows(3, 7, 2)
    none = SparseJacobian(G.values[:0], G.pattern.rows, G.pattern.columns, (3, 7))
    assert project_tangent(none, torch.zeros(0, 7, dtype=torch.float64)).shape == (0, 7)
    assert project_tangent(SparseJacobian(G.values[0], *pattern(G)), torch.zeros(0, 7).double()).shape == (0, 7)


def pattern(G):
    return G.pattern.rows, G.pattern.columns, (G.pattern.m, G.pattern.n)


def test_derivatives_of_the_sparse_solve():
    base = sparse_rows(3, 7, 2)
    inputs = tuple(x.requires_grad_() for x in (base.values, random(2, 7), random(2, 3)))

    def solve(values, v, b):
        rows = SparseJacobian(values, base.pattern.rows, base.pattern.columns, (3, 7))
        return _solve(rows, v, b, torch.linspace(0.1, 1, 7, dtype=torch.float64))

    assert gradcheck(solve, inputs, check_forward_ad=True)
    assert gradgradcheck(solve, inputs)
    shared = (inputs[0][0].detach().requires_grad_(), *inputs[1:])  # one matrix for a batch of vectors
    assert gradcheck(solve, shared)


def test_gradient_reaches_the_values_of_torch_tensors():
    matrix = dense(sparse_rows(3, 7))[0]
    reference = matrix.clone().requires_grad_()
    project_tangent(reference, random(7)).square().sum().backward()
    for layout in ("to_sparse_coo", "to_sparse_csr"):
        leaf = matrix.clone().requires_grad_()
        project_tangent(getattr(leaf, layout)(), random(7)).square().sum().backward()
        torch.testing.assert_close(leaf.grad, torch.where(matrix != 0, reference.grad, 0))


def test_tikhonov_leaves_the_drift_it_says():
    G, v, b = random(4, 3, 6), random(4, 6), random(4, 3)
    G[2, 2] = G[2, 0]
    p, multipliers = _solve(G, v, b, None, "tikhonov", "auto", None, True, 0.1)
    damping = 0.01 * G.square().sum((-2, -1)) / 3
    drift = (G @ p[..., None])[..., 0] + b
    torch.testing.assert_close(drift, damping[:, None] * multipliers)
    assert drift.norm() > 1e-3
    assert project_tangent(torch.zeros(1, 6, dtype=torch.float64), v, rank="tikhonov").equal(v)


def test_truncation_is_relative_to_the_largest_singular_value():
    """κ(G) = 1e9 is of full rank to float64, though the Gram matrix is not."""
    G, v = with_condition(1e9), random(32, 8)
    assert error(G, v, rank="pinv") <= 1e-6
    dropped = project_tangent(G, v, rank="pinv", rtol=1e-8, scale=False)
    leading = torch.linalg.svd(G, full_matrices=False)[2][:, :3]
    expected = v - (leading.mT @ (leading @ v[..., None]))[..., 0]
    torch.testing.assert_close(dropped, expected, rtol=0, atol=1e-6)


def test_truncation_does_not_depend_on_the_lengths_of_rows():
    G, v = random(4, 3, 6), random(4, 6)
    short = G * torch.tensor([1.0, 1e-17, 1e3], dtype=torch.float64)[:, None]
    expected = project_tangent(G, v, method="svd")
    torch.testing.assert_close(project_tangent(short, v, rank="pinv"), expected, rtol=0, atol=1e-12)
    kept = project_tangent(short, v, rank="pinv", scale=False)  # the short row counts as zero
    torch.testing.assert_close(kept, project_tangent(G[:, [0, 2]], v, method="svd"), rtol=0, atol=1e-11)


@pytest.mark.unchecked
@pytest.mark.parametrize("method", ["auto", "cholesky", "qr", "svd", "banded"])
def test_dependent_rows_are_named(method):
    G, v = random(5, 4, 8), random(5, 8)
    G[1, 3] = -2 * G[1, 0]
    G[4] = torch.nan
    with pytest.raises(RankDeficientConstraintError, match="depend on each other") as caught:
        project_tangent(G[:4], v[:4], method=method)
    assert (caught.value.samples, caught.value.rows) == ([1], [0, 3])
    assert len(caught.value.singular_values) == 4
    with pytest.raises(RankDeficientConstraintError, match="not finite"):
        project_tangent(G[4], v[4], method=method)


@pytest.mark.unchecked
@pytest.mark.parametrize("rank", ["error", "tikhonov"])
def test_rows_without_weighted_support_are_named(rank):
    """Position rows under a weight that moves velocities only."""
    G, v = random(3, 2, 6), random(3, 6)
    G[:, 0, 3:] = 0
    W = torch.tensor([0.0, 0, 0, 1, 1, 1], dtype=torch.float64)
    with pytest.raises(RankDeficientConstraintError, match=r"rows \[0\] have no weighted support"):
        project_tangent(G, v, metric=W, rank=rank)


@pytest.mark.unchecked
def test_dependent_sparse_rows_are_named():
    base = sparse_rows(3, 7, 2)
    columns = base.pattern.columns.clone()
    columns[3:6] = columns[:3]
    values = base.values.clone()
    values[1, 3:6] = 2 * values[1, :3]
    with pytest.raises(RankDeficientConstraintError, match=r"first \[1\]") as caught:
        project_tangent(SparseJacobian(values, base.pattern.rows, columns, (3, 7)), random(2, 7))
    assert caught.value.rows == [0, 1]


@pytest.mark.unchecked
@pytest.mark.parametrize("sine", [0.9, 0.8, 0.7])
def test_sparse_rows_that_depend_to_rounding_are_refused(sine):
    """Rows of Kahan's matrix, with 2e8 ≤ κ: no pivot of the Gram matrix is as small as its least eigenvalue."""
    m, cosine = 40, (1 - sine**2) ** 0.5
    upper = torch.eye(m, dtype=torch.float64) - cosine * torch.ones(m, m, dtype=torch.float64).triu(1)
    G = torch.nn.functional.pad((upper * sine ** torch.arange(m)[:, None]).mT, (0, 1))
    with pytest.raises(RankDeficientConstraintError, match="Drop the redundant rows"):
        project_tangent(G.to_sparse_coo(), random(m + 1))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lu"}, "choose one of auto, closed"),
        ({"method": "closed"}, "one to three constraints"),
        ({"method": "sparse"}, "needs a sparse G"),
        ({"method": Banded(1, (0, 1))}, "permutation of 0 … 3"),
        ({"passes": 0}, "at least 1"),
        ({"rank": "pinv", "method": "qr"}, "leave them out"),
        ({"rank": "pinv", "passes": 2}, "leave them out"),
        ({"rtol": -1.0}, "must lie in"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        project_tangent(random(3, 4, 8), random(3, 8), **options)


@pytest.mark.unchecked
def test_structure_cannot_be_read_inside_transforms():
    with pytest.raises(ValueError, match="detect_band"):
        torch.func.vmap(lambda G, v: project_tangent(G, v, method="banded"))(random(3, 4, 8), random(3, 8))
    rows = sparse_rows(3, 7)
    with pytest.raises(ValueError, match="give a dense one"):
        torch.func.vmap(lambda v: project_tangent(rows, v))(random(3, 7))
    with pytest.raises(ValueError, match="method='sparse' with rank='error'"):
        project_tangent(sparse_rows(3, 7), random(7), rank="pinv")


def test_rows_that_vanish_are_not_called_dependent():
    G = random(4, 3, 6)
    G[2, 1] = 0
    with pytest.raises(RankDeficientConstraintError, match=r"rows \[1\] are zero in 1 sample.*first \[2\]") as caught:
        project_tangent(G, random(4, 6))
    assert caught.value.rows == [1]
    assert len(caught.value.singular_values) == 3


@pytest.mark.parametrize("method", ["auto", "cholesky", "closed"])
def test_rows_whose_squares_overflow_are_not_called_dependent(method):
    with pytest.raises(RankDeficientConstraintError, match="overflow") as caught:
        project_tangent(random(2, 2, 6) * 1e200, random(2, 6), method=method)
    assert caught.value.singular_values is None
    assert not caught.value.rows


def test_dependent_sparse_rows_are_not_sent_to_a_rank_that_takes_none():
    rows = torch.tensor([[1.0, 2.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]]).double().to_sparse_coo()
    with pytest.raises(RankDeficientConstraintError, match=r"Drop the redundant rows$") as caught:
        project_tangent(rows, random(4))
    assert caught.value.singular_values[1] == pytest.approx(0, abs=1e-12)
