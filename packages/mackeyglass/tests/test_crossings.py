"""Points at chosen values along branches, extrema of curves, and ends of branches."""

import numpy as np
import pytest
import torch
from mackeyglass import DDE, MackeyGlass, codimension_two, locate_hopf
from mackeyglass.bifurcations import singular_vectors, solved_point, with_null_vector
from mackeyglass.branch import continue_bifurcation, continue_branch, locate
from mackeyglass.codimension_two import locate_codimension_two
from mackeyglass.collocation import Solution
from mackeyglass.continuation import State
from mackeyglass.crossings import orbits_at, points_at, turning_points
from mackeyglass.flip import flip_normal_form
from mackeyglass.floquet import Multipliers
from mackeyglass.growth import JOINED
from mackeyglass.hopf import hopf_points
from mackeyglass.mesh import Mesh
from mackeyglass.orbits import PeriodicOrbit
from sciml.errors import ConfigError

MESH = Mesh.uniform(30, 4)


@pytest.fixture(scope="module")
def principal():
    orbit = PeriodicOrbit.from_hopf(hopf_points(MackeyGlass(tau=2.0))[0], "n", mesh=MESH)
    return continue_branch(orbit, "n", (5, 8), ds_max=0.5)


@pytest.fixture(scope="module")
def doubling(principal):
    return locate(principal, principal.special[0])


@pytest.fixture(scope="module")
def folds():
    """From the long cycle around the cusp, and beyond the fold-flip."""
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=14.0, tau=1.3), mesh=MESH).refined()
    branch = continue_branch(orbit, "n", (13, 15), direction=-1, max_steps=15, detect=["LP"])
    bounds = {"n": (13, 16), "tau": (1.0, 1.5)}
    fold = locate(branch, branch.special[0])
    return continue_bifurcation(fold, ("n", "tau"), bounds, direction=-1, ds_max=0.3, detect=["cusp", "fold-flip"])


def test_orbits_at_a_value_of_the_parameter(principal):
    (orbit,) = orbits_at(principal, 6.0)
    assert orbit.parameters["n"] == pytest.approx(6, abs=1e-12)
    near = principal.orbit(int(np.abs(principal["n"] - 6).argmin()))
    assert orbit.period == pytest.approx(near.at(n=6.0).period, abs=1e-9)
    (stored,) = orbits_at(principal, float(principal["n"][4]))
    assert np.array_equal(stored.solution.values, principal.orbit(4).solution.values)
    assert orbits_at(principal, 4.0) == []


def test_steps_do_not_jump_from_one_side_of_a_cusp_to_the_other(folds):
    assert [special.kind for special in folds.special] == ["cusp", "fold-flip"]
    places = np.stack([folds["n"], folds["tau"]], axis=-1)
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() <= 0.3  # the longest step


def test_critical_multipliers_do_not_count_as_unstable(folds):
    beyond = folds.special[1].index  # the fold-flip
    assert (folds.unstable[:beyond] == 0).all()
    assert (folds.unstable[beyond:] == 1).all()


def test_points_of_a_curve_are_bifurcations(folds):
    first, second = points_at(folds, "tau", 1.2)
    assert [first.parameters["n"], second.parameters["n"]] == pytest.approx([14.445681, 14.798837], abs=1e-5)
    for point in (first, second):
        assert point.parameters["tau"] == pytest.approx(1.2, abs=1e-12)
        assert point.at(tau=1.2001).at(tau=1.2).parameters["n"] == pytest.approx(point.parameters["n"], abs=1e-8)
    (same,) = [p for p in points_at(folds, "n", first.parameters["n"]) if p.parameters["tau"] < 1.25]
    assert (same.parameter, same.parameters["tau"]) == ("tau", pytest.approx(1.2, abs=1e-9))


def test_cusps_are_no_turning_points(folds):
    (highest,) = turning_points(folds, "tau")
    assert highest.parameters["tau"] == pytest.approx(1.346831, abs=1e-5)
    (leftmost,) = turning_points(folds, "n")
    beyond = folds["n"][int(np.argmin(folds["tau"])) :]
    assert leftmost.parameters["n"] == pytest.approx(beyond.min(), abs=1e-3)
    near = [point.parameters["n"] for value in (-1e-4, 1e-4) for point in points_at(folds, "tau", 1.346831 + value)]
    assert len(near) == 2  # on one side of the extremum only


def test_a_fold_flip_is_no_generalised_period_doubling(folds):
    """The normal form of period doublings has a pole there, and so another sign beyond it."""
    flip = locate_codimension_two(folds, next(s for s in folds.special if s.kind == "fold-flip"))
    system, orbit = MackeyGlass(), flip.bifurcation.orbit.solution
    doubling = solved_point("PD", system, with_null_vector("PD", system, orbit), "n").at(tau=1.36)
    curve = continue_bifurcation(doubling, ("n", "tau"), {"n": (14, 16), "tau": (1.32, 1.4)}, direction=-1)
    assert [special.kind for special in curve.special] == ["fold-flip"]
    assert locate_codimension_two(curve, curve.special[0]).parameters == pytest.approx(flip.parameters, abs=1e-6)


def test_a_generalised_period_doubling_is_found_between_both_criticalities():
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=7.2, tau=2.6), mesh=Mesh.uniform(60, 4)).refined()
    branch = continue_branch(orbit, "n", (7, 7.6), ds_max=0.2, detect=["PD"])
    doubling = locate(branch, branch.special[0])
    curve = continue_bifurcation(
        doubling, ("n", "tau"), {"n": (7, 9), "tau": (2.4, 2.7)}, direction=-1, ds_max=0.1, detect=["GPD", "R2"]
    )
    (special,) = curve.special
    found = locate_codimension_two(curve, special)
    assert found.kind == "GPD"
    assert found.parameters["n"] == pytest.approx(7.880518, abs=1e-4)
    assert found.parameters["tau"] == pytest.approx(2.437841, abs=1e-4)
    before, at, after = map(
        flip_normal_form, (curve.point(special.index - 1), found.bifurcation, curve.point(special.index))
    )
    assert before.coefficient > 100 * abs(at.coefficient)
    assert after.coefficient < -100 * abs(at.coefficient)


def state(omega):
    return State(Solution(MESH, np.zeros((len(MESH.points), 1)), 1.0, (omega,)), np.ones(3), 0.1)


@pytest.mark.parametrize(
    ("kind", "omegas", "multipliers", "expected"),
    [
        ("NS", (0.05, -0.05), ([], []), ["R1"]),
        ("NS", (0.95, 1.05), ([], []), ["R2"]),
        ("NS", (0.6, 0.7), ([], []), ["R3"]),
        ("NS", (0.55, 0.45), ([], []), ["R4"]),
        ("NS", (0.3, 0.4), ([], []), []),
        ("LP", (0.0, 0.0), ([1, 1.02, 0.1], [1, 0.98, 0.1]), ["R1"]),
        ("LP", (0.0, 0.0), ([1, -0.98, 0.1], [1, -1.02, 0.1]), ["fold-flip"]),
        ("LP", (0.0, 0.0), ([1, 0.98, 0.1], [1, 0.96, 0.1]), []),
        ("PD", (0.0, 0.0), ([-1, -1.02, 0.1], [-1, -0.98, 0.1]), ["R2"]),
        ("PD", (0.0, 0.0), ([-1, 1.02, 0.1], [-1, 0.98, 0.1]), ["fold-flip"]),
        ("PD", (0.0, 0.0), ([-1, -1.02 + 0.1j, -1.02 - 0.1j], [-1, -0.98 + 0.1j, -0.98 - 0.1j]), []),
    ],
)
def test_resonances_by_what_crosses(kind, omegas, multipliers, expected):
    states = state(omegas[0]), state(omegas[1])
    found = tuple(Multipliers(np.array(values, complex), 1.0 + 0j) for values in multipliers)
    wanted = ("cusp", "fold-flip", "R1", "R2", "R3", "R4")
    assert codimension_two.crossed(kind, MackeyGlass(), states, found, wanted) == expected


def test_a_multiplier_torn_into_a_pair_at_a_fold_is_no_branch_point():
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=9.5, tau=1.3))
    branch = continue_branch(orbit, "n", (9, 16), max_steps=32)
    assert [special.kind for special in branch.special] == ["PD", "PD", "LP"]
    # on the very fold
    fold = locate(branch, branch.special[2])
    near = fold.orbit.multipliers(1)
    assert near[0].imag == 0
    assert near[0].real == pytest.approx(1, abs=1e-3)


def test_an_orbit_that_loses_its_symmetry_is_at_a_branch_point():
    system = DDE(lambda x, x_tau, p: -x - p.b * x_tau * torch.exp(-(x_tau**2)), ["tau"], {"b": 1.5, "tau": 2.0})
    start = PeriodicOrbit.from_hopf(locate_hopf(system, "b", [0.0]), "b", mesh=MESH)
    branch = continue_branch(start, "b", (1.4, 4.5))
    (special,) = branch.special
    assert special.kind == "BP"
    before, after = (branch.multipliers[i].real[0] for i in (special.index - 1, special.index))
    assert before < 1 < after
    symmetric = branch.orbit(special.index)
    assert symmetric.profile(symmetric.period / 2) == pytest.approx(-symmetric.profile(0.0), abs=1e-5)
    with pytest.raises(ConfigError, match="has no defining system"):
        locate(branch, special)


def test_the_trivial_multiplier_is_told_by_its_direction():
    """Another component has a multiplier much closer to 1 than errors of the mesh leave the trivial one."""
    rate, mg = 1e-7, MackeyGlass(n=12.0, tau=2.0)

    def field(x, x_tau, p):
        return torch.stack([-x[0] + mg.production(x_tau[0]), rate * x[1]])

    values = PeriodicOrbit.from_simulation(MackeyGlass(n=12.0, tau=2.0), mesh=Mesh.uniform(20, 3))
    system = DDE(field, [2.0], {}, dim=2)
    both = PeriodicOrbit.from_profile(
        system,
        lambda t: np.stack([values.profile(t * values.period)[:, 0], 0 * t], axis=-1),
        values.period,
        mesh=Mesh.uniform(20, 3),
    )
    multipliers = both.multipliers()
    assert both.defect > 1e-5
    assert np.abs(multipliers - np.exp(rate * both.period)).min() < 1e-9


def test_long_steps_are_shortened_before_the_end_of_a_branch(doubling):
    doubled = PeriodicOrbit.from_period_doubling(doubling)
    branch = continue_branch(doubled, "n", (7, 9), direction=-1, ds=0.002, ds_max=0.4)
    assert branch.stop_reason == JOINED
    last, turn = branch.orbit(-1), np.arange(400) / 400
    apart = last.profile(turn * last.period) - last.profile((turn + 0.5) * last.period)
    assert 0 < np.sqrt(np.mean(apart**2)) / 2 < 0.002  # the end is not a first step away
    assert branch["n"][-1] > doubling.parameters["n"]
    again = continue_branch(doubled, "n", (7, 9), direction=-1, ds=0.002, ds_max=0.4, max_steps=len(branch) - 3)
    assert np.array_equal(again.extended(10)["n"], branch["n"])


@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")  # attraction by more than all digits in a period
def test_branches_turn_around_sharp_folds():
    """Circles of the squared radius 1 ± (μ/K)^½, of which the fold at μ = 0 has a radius of curvature about 1/K."""

    def field(x, x_tau, p):
        growth = p.mu - 1e5 * ((x**2).sum(0) - 1) ** 2
        return torch.stack([growth * x[0] - x[1], growth * x[1] + x[0]])

    def circle(t):
        return (1 + 1e-7**0.5) ** 0.5 * np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], axis=-1)

    system = DDE(field, [1.0], {"mu": 0.01}, dim=2)
    orbit = PeriodicOrbit.from_profile(system, circle, 2 * np.pi, mesh=Mesh.uniform(10, 4))
    branch = continue_branch(orbit, "mu", (-0.1, 0.02), ds=0.002, ds_max=0.01, direction=-1, adapt_every=0)
    assert branch.stop_reason == "mu reached its bound 0.02"
    assert [special.kind for special in branch.special] == ["LP"]
    assert branch["mu"].min() == pytest.approx(0, abs=1e-4)


def test_singular_vectors_of_exactly_singular_matrices():
    left, right = singular_vectors(np.array([[1.0, 2.0], [2.0, 4.0]]))
    assert np.abs(left) == pytest.approx([2 / 5**0.5, 1 / 5**0.5], abs=1e-12)
    assert np.abs(right) == pytest.approx([2 / 5**0.5, 1 / 5**0.5], abs=1e-12)


@pytest.mark.unchecked
def test_errors(principal, folds):
    with pytest.raises(ConfigError, match="use points_at"):
        orbits_at(folds, 7.0)
    with pytest.raises(ConfigError, match="beta is not one of two parameters of a curve: this is LP in n, tau"):
        points_at(folds, "beta", 2.0)
    with pytest.raises(ConfigError, match="this is orbit in n"):
        turning_points(principal, "n")
