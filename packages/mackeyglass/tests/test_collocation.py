from dataclasses import replace

import numpy as np
import pytest
import torch
from mackeyglass import DDE, MackeyGlass
from mackeyglass.collocation import CollocatedEquation, Solution, derivative_along, linearise, residual
from mackeyglass.defining_systems import FlipProblem, FoldProblem, OrbitProblem, TorusProblem
from mackeyglass.mesh import Mesh
from mackeyglass.newton import solve, tangent_of
from mackeyglass.orbits import PeriodicOrbit
from scipy.optimize import brentq

MG = MackeyGlass(n=7.0, tau=2.0)


def network(x, x_1, x_2, p):
    return torch.stack([-x[0] + p.a * torch.tanh(x_1[1] + x_2[0]), -x[1] * x[0] + p.b * torch.tanh(x_2[0])])


TWO = DDE(network, ["tau", 0.7], {"a": 2.0, "b": -2.0, "tau": 1.3}, dim=2)


def smooth(mesh: Mesh, d: int, copies: int, turns: float) -> np.ndarray:
    """Some positive profile and some vectors, the latter periodic or not."""
    t = mesh.points[:, None]
    profile = 1 + 0.3 * np.cos(2 * np.pi * t + np.arange(d))
    vectors = [np.cos(turns * np.pi * t + 1 + np.arange(d) + k) for k in range(copies)]
    return np.concatenate([profile, *vectors], axis=1)


CASES = {
    "orbit": (OrbitProblem, 0, (), 2),
    "fold": (FoldProblem, 1, (0.3,), 2),
    "flip": (FlipProblem, 1, (), 1),
    "torus": (TorusProblem, 2, (0.4,), 2),
}


@pytest.mark.parametrize("period", [5.4, 0.9])  # of the latter the delays are longer
@pytest.mark.parametrize("system", [MG, TWO], ids=["mackey-glass", "two-delays"])
@pytest.mark.parametrize("case", list(CASES))
def test_jacobian_is_the_derivative(case, system, period):
    kind, copies, extras, turns = CASES[case]
    problem, mesh = kind(system), Mesh(np.linspace(0, 1, 13) ** 1.2, 4)
    parameters = {name: float(value) for name, value in system.parameters.items()}
    free = list(parameters)
    solution = Solution(mesh, smooth(mesh, system.dim, copies, turns), period, extras, parameters)
    reference = replace(solution, values=solution.values + 0.1 * mesh.points[:, None])
    _, jacobian = linearise(problem, solution, free, reference)
    vector, rng = solution.vector(free), np.random.default_rng(0)
    size = solution.values.size
    directions = [np.append(rng.standard_normal(size), np.zeros(len(vector) - size))]
    directions += list(np.eye(len(vector))[size:])
    for direction in directions:
        step = 1e-6 * direction
        ahead, behind = (
            linearise(problem, solution.updated(vector + sign * step, free), free, reference)[0] for sign in (1, -1)
        )
        difference = (ahead - behind) / 2e-6
        assert np.abs(jacobian @ direction - difference).max() <= 1e-7 * max(1, np.abs(difference).max())


@pytest.mark.parametrize("system", [MG, TWO], ids=["mackey-glass", "two-delays"])
@pytest.mark.parametrize("case", list(CASES))
def test_derivative_along_a_direction_is_the_jacobian_times_it(case, system):
    kind, copies, extras, turns = CASES[case]
    problem, mesh = kind(system), Mesh(np.linspace(0, 1, 13) ** 1.2, 4)
    parameters = {name: float(value) for name, value in system.parameters.items()}
    free = list(parameters)
    solution = Solution(mesh, smooth(mesh, system.dim, copies, turns), 0.9, extras, parameters)
    reference = replace(solution, values=solution.values + 0.1 * mesh.points[:, None])
    collocated = CollocatedEquation.of(problem, solution, free)
    direction = np.random.default_rng(0).standard_normal(len(solution.vector(free)))
    _, jacobian = linearise(problem, solution, free, reference, direction)
    along = derivative_along(problem, collocated, problem.conditions(solution, reference), direction)
    expected = jacobian @ direction
    np.testing.assert_allclose(np.append(along, direction @ direction), expected, rtol=0, atol=1e-11)


@pytest.fixture(scope="module")
def commensurate():
    """An orbit of period 2.8 τ: on 7, 21 and 63 equal intervals knots reach the middles of others a delay before."""
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=7.0, tau=1.8), mesh=Mesh.uniform(100, 7))
    tau: float = brentq(lambda tau: orbit.at(tau=tau).period / tau - 2.8, 1.6, 1.9, xtol=1e-14)
    return orbit.at(tau=tau)


@pytest.mark.parametrize("degree", [3, 4, 5])
def test_order_of_the_period(degree, commensurate):
    errors = [abs(commensurate.on(Mesh.uniform(n, degree)).period - commensurate.period) for n in (7, 21, 63)]
    orders = -np.diff(np.log(errors)) / np.log(3)
    assert orders.min() >= degree + 0.5
    assert commensurate.period == pytest.approx(2.8 * commensurate.parameters["tau"], rel=1e-12)


def test_solution_of_the_linear_equation_is_exact():
    # x' = −(π/2) x(t − 1) has the solutions cos(πt/2) of period 4
    system = DDE(lambda x, x_1, p: -p.a * x_1, [1.0], {"a": np.pi / 2})
    mesh = Mesh.uniform(30, 6)
    exact = np.cos(2 * np.pi * mesh.points)[:, None]
    value, _ = linearise(
        OrbitProblem(system), Solution(mesh, exact, 4.0, (), {"a": np.pi / 2}), (), Solution(mesh, exact, 4.0)
    )
    assert np.abs(value).max() < 1e-9


def test_newton_converges_quadratically_and_says_where_it_fails():
    orbit = PeriodicOrbit.from_simulation(MG).solution
    start = replace(orbit, values=orbit.values + 1e-3 * np.sin(2 * np.pi * orbit.mesh.points)[:, None])
    assert solve(OrbitProblem(MG), start).iterations <= 4
    with pytest.raises(ArithmeticError, match=r"did not converge in 12 iterations .* near .*n=7"):
        solve(OrbitProblem(MG), replace(orbit, values=orbit.values - 2))


@pytest.mark.parametrize("accuracy", [1e-6, 0.0])  # of tangents: without it three corrections are not enough
@pytest.mark.parametrize("size", [1e-2, 1e-4])
def test_a_jacobian_that_serves_on_changes_nothing(monkeypatch, size, accuracy):
    monkeypatch.setattr("mackeyglass.newton.ACCURACY", accuracy)
    orbit = PeriodicOrbit.from_simulation(MG).solution
    start = replace(orbit, values=orbit.values + size * np.sin(2 * np.pi * orbit.mesh.points)[:, None])
    row = np.append(np.ones(orbit.values.size), [0.0, 1.0])

    def found():
        return solve(OrbitProblem(MG), start, ["n"], row=row, level=float(row @ orbit.vector(["n"])) + size)

    kept = found()
    monkeypatch.setattr("mackeyglass.newton.KEPT", 0.0)
    renewed = found()
    assert kept.iterations == renewed.iterations
    np.testing.assert_allclose(kept.solution.vector(["n"]), renewed.solution.vector(["n"]), rtol=0, atol=1e-12)
    value, jacobian = linearise(OrbitProblem(MG), kept.solution, ["n"], start, row)
    assert np.abs(value).max() < 1e-12
    np.testing.assert_allclose(kept.tangent, tangent_of(jacobian), rtol=0, atol=1e-6)


def frozen(x, x_tau, p):
    with torch.no_grad():  # as around a network that is not trained
        feedback = 2 * x_tau / (1 + x_tau**7)
    return feedback - x


def coupled(x, x_tau, p):
    with torch.no_grad():
        difference = 0.5 * (x_tau - x)
    return difference - x**3


def threshold(x, x_tau, p):
    return torch.where(x_tau > 0.9, (x_tau - 0.9) ** p.n, 0.0) - x


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("rhs", [frozen, coupled, threshold])
def test_derivatives_that_are_lost_backwards_are_taken_forwards(rhs, mode):
    system = DDE(rhs, ["tau"], {"n": 2.5, "tau": 1.3})
    assert not system.backwards
    if rhs is threshold:
        system.backwards = True  # as if it had been asked only above the threshold
    mesh = Mesh.uniform(10, 4)
    solution = Solution(mesh, smooth(mesh, 1, 0, 2), 3.0, (), {"n": 2.5, "tau": 1.3})
    free, problem = ["n", "tau"], OrbitProblem(system)
    with mode():
        value, jacobian = linearise(problem, solution, free, solution)
    vector = solution.vector(free)
    direction = np.random.default_rng(0).standard_normal(len(vector))
    ahead, behind = (
        residual(problem, solution.updated(vector + size * direction, free), solution) for size in (1e-6, -1e-6)
    )
    assert np.array_equal(value, residual(problem, solution, solution))
    np.testing.assert_allclose(jacobian @ direction, (ahead - behind) / 2e-6, rtol=0, atol=1e-6)


def test_fixed_delays_are_those_of_parameters_to_all_digits():
    def named(x, x_tau, p):
        return 2 * x_tau / (1 + x_tau**7) - x

    mesh = Mesh.uniform(10, 4)
    fixed, free = DDE(named, [2.3], {}), DDE(named, ["tau"], {"tau": 2.3})
    values = smooth(mesh, 1, 1, 2)
    one = Solution(mesh, values, 3.0, (0.2,), {})
    other = Solution(mesh, values, 3.0, (0.2,), {"tau": 2.3})
    found, expected = residual(FoldProblem(fixed), one, one), residual(FoldProblem(free), other, other)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_derivatives_backwards_are_used_where_nothing_hides_them():
    assert TWO.backwards
    assert DDE(lambda x, x_tau, p: -x + torch.tanh(x_tau.float()), [1.0], {}).backwards
