import numpy as np
import pytest
import torch
from mackeyglass import DDE, MackeyGlass
from mackeyglass.equilibria import follow_equilibrium
from mackeyglass.hopf import hopf_points
from mackeyglass.linearisation import equilibrium
from sciml.errors import ConfigError


def test_hopf_points_along_the_positive_equilibrium():
    branch = follow_equilibrium(MackeyGlass(n=3.0, tau=2.6), "n", (3.0, 14.0))
    assert branch.stop_reason == "n reached its bound 14"
    assert branch.values[-1] == 14
    np.testing.assert_allclose(branch.states, 1, rtol=1e-14)
    assert [point.kind for point in branch.special] == ["Hopf"] * 3
    exact = hopf_points(MackeyGlass(tau=2.6), "n", 3)
    for point, expected in zip(branch.special, exact, strict=True):
        assert point.value == pytest.approx(expected.parameters["n"], rel=1e-12)
        assert point.omega == pytest.approx(expected.omega, rel=1e-12)
    np.testing.assert_array_equal(
        branch.unstable, 2 * (branch.values[:, None] > [p.value for p in branch.special]).sum(1)
    )


def test_hopf_points_as_a_delay_grows_within_few_steps():
    system = MackeyGlass(n=10.0, tau=0.3)
    branch = follow_equilibrium(system, "tau", (0.3, 4.0), ds=3.0, ds_max=5.0)
    expected = [point.parameters["tau"] for point in hopf_points(system, "tau", 3)]
    assert [point.value for point in branch.special] == pytest.approx(expected, rel=1e-11)
    assert len(branch.values) <= 4


def test_fold():
    """0 = p + x − x³ folds at x = ±1/√3, p = ∓2/(3√3); the branch runs from p = −1 to p = 1 in an S."""
    system = DDE(lambda x, y, p: p.p + y - x**3, [0.5], {"p": -1.0})
    branch = follow_equilibrium(system, "p", (-1.0, 1.0), -1.3247179572447460)
    assert [point.kind for point in branch.special] == ["fold", "fold"]
    limit = 2 / (3 * np.sqrt(3))
    assert [point.value for point in branch.special] == pytest.approx([limit, -limit], abs=1e-12)
    assert [point.state[0] for point in branch.special] == pytest.approx([-(3**-0.5), 3**-0.5], abs=1e-7)
    assert branch.states[-1, 0] == pytest.approx(1.3247179572447460, rel=1e-12)
    np.testing.assert_allclose(branch.values + branch.states[:, 0] - branch.states[:, 0] ** 3, 0, atol=1e-13)


def test_transcritical_point():
    """The origin of the Mackey–Glass equation and its positive equilibrium meet at β = γ."""
    system = MackeyGlass(beta=2.0, gamma=1.0, n=2.0, tau=0.5)
    origin = follow_equilibrium(system, "beta", (0.5, 2.0), 0.0, ds=0.1, direction=-1)
    (point,) = origin.special
    assert (point.kind, point.value, point.state[0]) == ("branch point", pytest.approx(1, abs=1e-12), 0)
    assert origin.unstable[0] == 1
    assert origin.unstable[-1] == 0
    logistic = DDE(lambda x, y, p: p.r * x - x * y, [1.0], {"r": -0.5})
    (point,) = follow_equilibrium(logistic, "r", (-0.5, 0.5), 0.0).special
    assert (point.kind, point.value) == ("branch point", pytest.approx(0, abs=1e-12))


def test_a_branch_with_two_components():
    def rhs(x, y, z, p):
        return torch.stack(
            [x[0] - x[0] ** 3 / 3 - x[1] + 0.8 * (y[0] - x[0]) + p.drive, 0.08 * (z[0] + 0.7 - 0.8 * x[1])]
        )

    system = DDE(rhs, [1.5, 0.4], {"drive": 0.0}, dim=2)
    branch = follow_equilibrium(system, "drive", (0.0, 2.0), equilibrium(system, [-1.2, -0.6]))
    kinds = [point.kind for point in branch.special]
    assert kinds[0] == kinds[-1] == "Hopf"
    assert branch.unstable[0] == branch.unstable[-1] == 0
    # x ↦ −x maps the equation with drive to that with 2·0.7/0.8 − drive
    values = [point.value for point in branch.special]
    np.testing.assert_allclose(np.add(values, values[::-1]), 1.75, atol=1e-11)


def test_a_branch_without_a_bound_says_how_it_ended():
    branch = follow_equilibrium(MackeyGlass(n=9.0, tau=2.0), "n", (-np.inf, np.inf), max_steps=3, direction=-1)
    assert branch.stop_reason == "3 steps were done"
    assert (np.diff(branch.values) < 0).all()
    assert repr(branch) == f"EquilibriumBranch(4 points, n={branch.values[-1]:.6g} … 9, 0 special)"


@pytest.mark.unchecked
def test_errors():
    with pytest.raises(ConfigError, match="no parameter is called m"):
        follow_equilibrium(MackeyGlass(), "m", (0.0, 1.0))
    with pytest.raises(ConfigError, match="parameter must be the name of one"):
        follow_equilibrium(MackeyGlass(), np.ones(1), "n", (2.0, 12.0))
    with pytest.raises(ConfigError, match="not an equilibrium"):
        follow_equilibrium(MackeyGlass(), "n", (2.0, 12.0), 0.7)
    with pytest.raises(ConfigError, match=r"bounds of n must be \(lowest, highest\), got \(12, 2\)"):
        follow_equilibrium(MackeyGlass(), "n", (12.0, 2.0))
    with pytest.raises(ConfigError, match="outside the bounds"):
        follow_equilibrium(MackeyGlass(), "n", (2.0, 5.0))
    with pytest.raises(ConfigError, match="0 < ds <= ds_max"):
        follow_equilibrium(MackeyGlass(), "n", (2.0, 12.0), ds=1.0, ds_max=0.5)
    with pytest.raises(ConfigError, match="0 < ds <= ds_max"):
        follow_equilibrium(MackeyGlass(), "n", (2.0, 12.0), ds=0.0)
    with pytest.raises(ConfigError, match=r"direction must be 1 .* got 'up'"):
        follow_equilibrium(MackeyGlass(), "n", (2.0, 12.0), direction="up")
    with pytest.raises(ConfigError, match="max_steps must be a whole number of at least 1, got -1"):
        follow_equilibrium(MackeyGlass(), "n", (2.0, 12.0), max_steps=-1)
    with pytest.raises(ConfigError, match="no positive equilibrium for beta<=gamma"):
        follow_equilibrium(MackeyGlass(beta=1.0), "n", (2.0, 12.0))
