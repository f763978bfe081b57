import dataclasses
import math
import sys

import numpy as np
import pytest
import torch
from sciml import create_problem, list_problems
from sciml.errors import ConfigError, ShapeError
from scipy.optimize import minimize
from symplectic_opt.problems import (
    Ackley,
    Beale,
    Blobs,
    CorrelatedQuadratic,
    FermatWeber,
    Log2d,
    LogisticRegression,
    NesterovChain,
    Objective,
    Quadratic,
    Quartic,
    QuarticSum,
    Rastrigin,
    Rosenbrock,
    XLogX,
)

CONVEX = [
    Log2d(),
    XLogX(),
    Quadratic(dimension=12),
    Quadratic(dimension=12, rotated=False),
    CorrelatedQuadratic(dimension=12),
    Quartic(),
    QuarticSum(),
    NesterovChain(dimension=12),
    LogisticRegression(),
    Blobs(),
    FermatWeber(dimension=5, points=40),
]
WITH_LOCAL_MINIMA = [Log2d(absolute=True), Rosenbrock(), Rosenbrock(dimension=5), Beale(), Ackley(), Rastrigin()]
ALL = CONVEX + WITH_LOCAL_MINIMA
each = pytest.mark.parametrize("problem", ALL, ids=repr)


def points(problem: Objective, n: int = 6) -> torch.Tensor:
    rng = np.random.default_rng(1)
    if isinstance(problem, Blobs | FermatWeber):
        return torch.from_numpy(rng.standard_normal((n, problem.dim)))
    return torch.from_numpy(np.stack([problem.draw(rng) for _ in range(n)]))


@each
def test_nothing_is_below_the_minimum_which_is_reached(problem):
    f = problem.function()
    torch.testing.assert_close(f(problem.minimizers), torch.full((len(problem.minimizers),), problem.minimum).double())
    assert bool((f(points(problem, 200)) > problem.minimum).all())
    assert f(problem.start).item() > problem.minimum + 1e-3


@each
def test_gradient_vanishes_at_minimizers(problem):
    f, scale = problem.function(), torch.func.grad(problem.function())(problem.start).norm()
    for x in problem.minimizers:
        assert torch.func.grad(f)(x).norm() <= 1e-11 * max(scale, 1)


@pytest.mark.parametrize("problem", CONVEX, ids=repr)
def test_solver_of_scipy_finds_the_same_minimum(problem):
    f = problem.function()
    derivative = torch.func.grad_and_value(f)

    def both(x):
        gradient, value = derivative(torch.from_numpy(x))
        return value.item(), gradient.numpy()

    bounds = [(1e-9, None)] * problem.dim if isinstance(problem, Log2d | XLogX) else None
    found = minimize(both, problem.start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds,
                     options={"ftol": 0, "gtol": 1e-11, "maxiter": 5000, "maxfun": 20000})  # fmt: skip
    assert found.fun == pytest.approx(problem.minimum, rel=1e-11, abs=1e-11)


@each
def test_batched_mapped_and_single_values_agree(problem):
    f, x = problem.function(), points(problem)
    one_by_one = torch.stack([f(row) for row in x])
    torch.testing.assert_close(f(x), one_by_one)
    torch.testing.assert_close(f(x.reshape(2, 3, -1)), one_by_one.reshape(2, 3))
    torch.testing.assert_close(torch.vmap(f)(x), one_by_one)
    gradients = torch.stack([torch.func.grad(f)(row) for row in x])
    torch.testing.assert_close(torch.vmap(torch.func.grad(f))(x), gradients)
    assert problem.function(torch.float32)(x.float()).dtype == torch.float32


@each
def test_gradient_is_the_limit_of_difference_quotients(problem):
    x = points(problem, 2).requires_grad_()
    assert torch.autograd.gradcheck(problem.function(), (x,), eps=1e-6, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("problem", CONVEX, ids=repr)
def test_convex(problem):
    f, x = problem.function(), points(problem, 200)
    a, b = x[:100], x[100:]
    assert bool((f((a + b) / 2) <= (f(a) + f(b)) / 2 + 1e-12).all())


def test_published_optima():
    assert Log2d().minimum == pytest.approx(1.5 + 0.5 * math.log(2))
    assert XLogX().minimum == pytest.approx(-5 / math.e)
    assert LogisticRegression().minimum == pytest.approx(0.05982947188, abs=5e-12)
    assert Blobs().minimum == pytest.approx(265.70139, abs=5e-6)
    assert FermatWeber().minimum == pytest.approx(41367.2813, abs=5e-5)


def test_published_starts():
    assert Log2d().start.tolist() == [5, 5]
    assert XLogX().start.tolist() == [5] * 5
    expected = 2 + 0.1 * np.random.RandomState(0).randn(50)
    np.testing.assert_array_equal(Quartic().start, expected)
    assert QuarticSum().start.tolist() == [1] * 50
    assert LogisticRegression().start.tolist() == [0] * 31
    assert Blobs().start.tolist() == [1, 1]
    assert FermatWeber().start.tolist() == [1] * 200


def test_functions_are_those_of_their_matrices():
    x = np.random.default_rng(0).standard_normal(6)
    i = np.arange(1, 7)
    B = np.sqrt(np.outer(i, i)) / 2.0 ** np.abs(i[:, None] - i)
    S = 0.9 ** np.abs(i[:, None] - i)
    at = torch.from_numpy(x)
    assert CorrelatedQuadratic(dimension=6).function()(at).item() == pytest.approx(x @ B @ x / 2)
    assert Quartic(dimension=6).function()(at).item() == pytest.approx(((x - 1) @ S @ (x - 1)) ** 2)
    assert QuarticSum(dimension=6).function()(at).item() == pytest.approx((i * x**4).sum())


@pytest.mark.parametrize("rotated", [True, False])
def test_hessian_of_the_quadratic_has_its_eigenvalues(rotated):
    problem = Quadratic(dimension=20, condition=100, rotated=rotated)
    hessian = torch.func.hessian(problem.function())(problem.start)
    found = torch.linalg.eigvalsh(hessian)
    torch.testing.assert_close(found, problem.eigenvalues)
    assert found[-1] / found[0] == pytest.approx(100)
    assert bool((hessian - hessian.diag().diag()).abs().max() > 0.01) is rotated


@pytest.mark.parametrize("problem", [Log2d(), XLogX(), Log2d(absolute=True)], ids=repr)
def test_values_are_not_finite_outside_the_domain(problem):
    f, x = problem.function(), torch.randn(200, problem.dim, generator=torch.Generator().manual_seed(0)).double()
    x[:3, 0] = torch.tensor([0.0, math.nan, math.inf])
    inside = problem.domain(x)
    assert inside.any()
    assert not inside[:3].any()
    assert torch.equal(f(x).isfinite(), inside)


def test_domain_is_everywhere_for_others():
    assert Quartic().domain(torch.randn(3, 4, 50, dtype=torch.float64)).tolist() == [[True] * 4] * 3


def test_starts_carry_the_nearest_minimizer():
    data = Log2d(absolute=True).generate(20, seed=2)
    assert data.start.shape == (20, 2)
    assert bool((data.start > 0).all())
    np.testing.assert_allclose(data.minimizer, [[1, math.sqrt(0.5)]] * 20)
    f = Log2d().function()
    np.testing.assert_array_equal(data.start_value, f(torch.from_numpy(data.start.values)))
    np.testing.assert_array_equal(data.minimum, [Log2d().minimum] * 20)


@pytest.mark.parametrize("problem", [Blobs(), FermatWeber(dimension=5, points=40)], ids=repr)
def test_instances_are_made_again_from_their_seeds(problem):
    data = problem.generate(5, seed=1)
    assert len(set(data.instance.values)) == 5
    for k in range(5):
        one = dataclasses.replace(problem, seed=int(data.instance[k]))
        np.testing.assert_array_equal(data.minimizer[k], one.minimizers[0])
        f = one.function()
        assert f(torch.from_numpy(data.minimizer[k].values)).item() == data.minimum[k]
        assert torch.func.grad(f)(one.minimizers[0]).norm() <= 1e-9


def test_clouds_that_a_line_separates_have_no_minimum():
    separable = []
    for seed in range(20):
        points, labels = Blobs(seed).data()
        angles = np.sort(np.arctan2(*(labels[:, None] * points).numpy().T))
        gaps = np.append(np.diff(angles), 2 * np.pi - (angles[-1] - angles[0]))
        if gaps.max() > np.pi:  # all y x lie in a half-plane
            separable.append(seed)
            with pytest.raises(ConfigError, match="separates"):
                _ = Blobs(seed).minimum
        else:
            assert Blobs(seed).minimum > 0
    assert 0 < len(separable) < 20


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: XLogX(0), "dimension=0"),
        (lambda: Rosenbrock(1), "at least 2"),
        (lambda: Quadratic(condition=1), "condition=1"),
        (lambda: Quadratic(seed=-1), "seed=-1"),
        (lambda: LogisticRegression(penalty=0), "penalty=0"),
        (lambda: Blobs(-1), "seed=-1"),
        (lambda: FermatWeber(points=2), "points=2"),
        (lambda: FermatWeber(tolerance=0.0), "tolerance=0.0"),
    ],
)
def test_fields_out_of_range(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.unchecked
@pytest.mark.parametrize("problem", [Quadratic(dimension=3), Rosenbrock(dimension=3)])
def test_points_of_another_type(problem):
    with pytest.raises(ConfigError, match=r"a function of torch.float64, and x of torch.float32: make it by function"):
        problem.function()(torch.ones(3))
    assert problem.function(torch.float32)(torch.ones(3)).dtype == torch.float32


@pytest.mark.unchecked
def test_wrong_number_of_components():
    with pytest.raises(ShapeError, match=r"2 components.*\(4, 3\)"):
        Log2d().function()(torch.ones(4, 3))


@pytest.mark.unchecked
def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "symplectic-opt\[ml\]"'):
        Blobs(seed=123456).data()


def test_registered():
    names = set(list_problems("symplectic-opt/*"))
    assert {"symplectic-opt/log2d", "symplectic-opt/quadratic", "symplectic-opt/fermat-weber"} <= names
    assert create_problem("symplectic-opt/quadratic", dimension=7).dim == 7
