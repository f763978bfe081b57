import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from mackeyglass import DDE, MackeyGlass, continuation, growth
from mackeyglass.bifurcations import orbit_part, problem_of, singular_vectors, solved_point, with_null_vector
from mackeyglass.branch import continue_bifurcation, continue_branch, locate
from mackeyglass.branch_files import branch_dataset, branch_from_dataset, checksum, load_branch
from mackeyglass.codimension_two import (
    CodimensionTwoPoint,
    antiperiodic_linearisation,
    bordered,
    locate_codimension_two,
    periodic_linearisation,
)
from mackeyglass.collocation import linearise
from mackeyglass.errors import ContinuationError
from mackeyglass.flip import flip_normal_form
from mackeyglass.floquet import floquet_multipliers
from mackeyglass.growth import JOINED, VANISHED
from mackeyglass.hopf import hopf_points, locate_hopf
from mackeyglass.mesh import Mesh
from mackeyglass.orbits import PeriodicOrbit
from sciml.errors import ConfigError, DataError
from scipy.optimize import brentq


@pytest.fixture(scope="module")
def principal():
    point = hopf_points(MackeyGlass(tau=2.0))[0]
    return continue_branch(PeriodicOrbit.from_hopf(point, "n"), "n", (5, 9), ds_max=0.4)


@pytest.fixture(scope="module")
def doubling(principal):
    return locate(principal, principal.special[0])


@pytest.fixture(scope="module")
def fold():
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=12.0, tau=2.0)).refined()
    branch = continue_branch(orbit, "n", (10, 13), direction=-1, max_steps=20, detect=["LP"])
    return locate(branch, branch.special[0])


def residual_of(point) -> float:
    return np.abs(linearise(problem_of(point.kind, point.system), point.solution, (), point.solution)[0]).max()


def test_principal_branch_and_its_first_period_doubling(principal, doubling):
    assert principal.stop_reason == "n reached its bound 9"
    assert principal["n"][-1] == 9
    assert [special.kind for special in principal.special] == ["PD"]
    assert principal.stable[principal["n"] < 7.39].all()
    assert not principal.stable[principal["n"] > 7.4].any()
    mesh = principal.orbit(0).mesh
    assert (mesh.intervals, mesh.degree) == (50, 5)
    assert principal.defects.max() < 1e-6
    assert doubling.parameters["n"] == pytest.approx(7.395926925, abs=1e-8)
    assert doubling.period == pytest.approx(5.425485348, abs=1e-8)
    assert residual_of(doubling) < 1e-9
    assert np.abs(doubling.multipliers + 1).min() < 1e-6


def test_orbits_of_twice_the_period_begin_with_the_square_of_the_amplitude(doubling):
    amplitudes = np.array([0.005, 0.01, 0.02])
    moved = [
        PeriodicOrbit.from_period_doubling(doubling, amplitude=a).parameters["n"] - doubling.parameters["n"]
        for a in amplitudes
    ]
    assert np.polyfit(np.log(amplitudes), np.log(moved), 1)[0] == pytest.approx(2, abs=0.02)


def test_normal_form_predicts_multipliers_of_the_doubled_orbit(doubling):
    form = flip_normal_form(doubling)
    assert form.supercritical
    doubled = PeriodicOrbit.from_period_doubling(doubling, amplitude=0.005)
    assert np.log(doubled.multipliers(1)[0].real) / 0.005**2 == pytest.approx(-4 * form.coefficient, rel=0.01)


@pytest.mark.parametrize("kind", ["orbit", "PD"])
def test_multipliers_along_a_branch_are_those_of_its_orbits(principal, doubling, kind):
    """Also where the mesh has just been adapted, and where the branch lands on its bound."""
    if kind == "orbit":
        branch = continue_branch(principal.orbit(5), "n", (5, 7), ds=0.1, ds_max=0.2, adapt_every=2)
        assert branch["n"][-1] == 7
    else:
        bounds = {"n": (5, 9), "tau": (1.9, 2.2)}
        branch = continue_bifurcation(doubling, ("n", "tau"), bounds, adapt_every=2, max_steps=30, detect=[])
        assert branch["tau"][-1] == 2.2 or branch["n"][-1] in (5, 9)
    assert len({id(state.solution.mesh) for state in branch.states}) >= 3
    for state, found in zip(branch.states, branch.multipliers, strict=True):
        expected = floquet_multipliers(branch.system, orbit_part(state.solution, 1), len(found.values))
        np.testing.assert_allclose(found.values[:6], expected.values[:6], rtol=0, atol=1e-8)
        assert abs(found.trivial - expected.trivial) <= 1e-8


def test_the_old_mesh_serves_on_where_no_step_leads_from_a_new_one(principal, monkeypatch):
    hopeless = Mesh(np.append(np.linspace(0, 1e-3, 50), 1.0), 5)
    orbit, options = principal.orbit(-1), {"ds": 0.1, "ds_max": 0.2, "direction": -1, "max_steps": 7}
    expected = continue_branch(orbit, "n", (5, 9), adapt_every=0, **options)
    monkeypatch.setattr(Mesh, "adapted", lambda mesh, values: hopeless)
    branch = continue_branch(orbit, "n", (5, 9), adapt_every=3, **options)
    assert [state.age for state in branch.states] == [0, 1, 2, 3, 1, 2, 3, 1]
    assert all(state.solution.mesh is orbit.solution.mesh for state in branch.states)
    np.testing.assert_array_equal(branch["n"], expected["n"])


def test_steps_across_a_hopf_point_and_a_bound_do_not_hide_how_a_branch_ends(principal):
    """The last step leads past n = 5 on the equilibria, where no orbit lands."""
    options = {"ds": 0.05, "ds_max": 0.2, "adapt_every": 1, "max_steps": 40, "direction": -1}
    branch = continue_branch(principal.orbit(-1), "n", (5, 9.5), **options)
    assert branch.stop_reason == VANISHED


def test_a_bound_is_reached_where_landings_fail_after_an_adaptation(monkeypatch):
    """Short steps then begin on the old mesh: from a new one as coarse as that they fail."""
    landings, land = [], continuation._land

    def failing(*arguments):
        landings.append(arguments)
        if len(landings) <= 7:
            raise ContinuationError("no landing")
        return land(*arguments)

    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=12.0, tau=2.0)).on(Mesh.uniform(12, 3))
    monkeypatch.setattr(continuation, "_land", failing)
    branch = continue_branch(orbit, "n", (11, 12.07), ds=0.05, ds_max=0.05, adapt_every=1, detect=())
    assert len(landings) == 8
    assert branch["n"][-1] == 12.07


def test_multipliers_that_are_no_numbers_end_a_branch(principal, monkeypatch):
    orbit = principal.orbit(5)
    broken = replace(orbit.solution, values=np.where(orbit.solution.mesh.points[:, None] < 0.5, 1.0, np.nan))
    with pytest.raises(ContinuationError, match="no Floquet multipliers were found"):
        floquet_multipliers(orbit.system, broken)
    known = growth._multipliers

    def overflowing(branch, state, collocated=None):
        if len(branch) < 4:
            return known(branch, state, collocated)
        return known(branch, replace(state, solution=broken))

    monkeypatch.setattr(growth, "_multipliers", overflowing)
    branch = continue_branch(orbit, "n", (5, 7), ds=0.1, ds_max=0.2)
    assert len(branch) == len(branch.multipliers) == 4
    assert "no Floquet multipliers" in branch.stop_reason


def test_second_period_doubling(doubling):
    branch = continue_branch(PeriodicOrbit.from_period_doubling(doubling), "n", (7, 9), ds_max=0.15)
    point = locate(branch, next(special for special in branch.special if special.kind == "PD"))
    assert point.parameters["n"] == pytest.approx(8.672829553818, abs=5e-9)
    assert point.period == pytest.approx(11.8589340568, abs=1e-7)
    assert branch.defects.max() < 1e-6  # of orbits of twice the period


def test_branches_end_where_orbits_vanish_or_halve_their_period(principal, doubling):
    back = continue_branch(principal.orbit(6), "n", (4, 9), direction=-1)
    assert back.stop_reason == VANISHED
    doubled = PeriodicOrbit.from_period_doubling(doubling)
    joined = continue_branch(doubled, "n", (7, 9), direction=-1, ds=0.02)
    assert joined.stop_reason == JOINED
    assert len(joined) < 20


def test_fold_with_the_change_of_the_period(fold):
    assert fold.parameters["n"] == pytest.approx(11.21484654, abs=2e-8)
    assert fold.period == pytest.approx(7.21371146, abs=2e-8)
    assert abs(fold.solution.extras[0]) > 0.1
    assert residual_of(fold) < 1e-9
    assert np.abs(fold.multipliers - 1).min() < 1e-3
    moved = fold.on(Mesh.uniform(80, 5))
    assert moved.parameters["n"] == pytest.approx(fold.parameters["n"], abs=1e-6)


def test_torus_bifurcation_of_the_doubled_orbit():
    base = PeriodicOrbit.from_simulation(MackeyGlass(n=9.0, tau=1.35))
    branch = continue_branch(base, "n", (8, 12), ds_max=0.5)
    doubling = locate(branch, next(special for special in branch.special if special.kind == "PD"))
    assert doubling.parameters["n"] == pytest.approx(9.737755, abs=1e-6)
    doubled = continue_branch(PeriodicOrbit.from_period_doubling(doubling), "n", (9, 16), ds_max=0.5)
    point = locate(doubled, next(special for special in doubled.special if special.kind == "NS"))
    assert point.parameters["n"] == pytest.approx(15.096887, abs=1e-5)
    assert point.period == pytest.approx(8.212591, abs=1e-5)
    assert point.angle == pytest.approx(0.12169, abs=1e-5)
    assert residual_of(point) < 1e-9
    assert np.abs(np.abs(point.multipliers) - 1).min() < 1e-6


@pytest.mark.parametrize("kind", ["doubling", "fold"])
def test_sensitivities_are_derivatives(kind, request):
    point = request.getfixturevalue(kind)
    sensitivity = point.sensitivity()
    for name in ("tau", "beta", "gamma"):
        ahead, behind = (point.at(**{name: point.parameters[name] + step}).parameters["n"] for step in (1e-4, -1e-4))
        assert (ahead - behind) / 2e-4 == pytest.approx(sensitivity[name], rel=1e-5)
    assert abs(sensitivity["theta"]) < 1e-9  # a unit
    # units of time: n depends on γτ and β/γ only
    assert 2 * sensitivity["beta"] + sensitivity["gamma"] - 2 * sensitivity["tau"] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("kind", ["doubling", "fold"])
def test_bifurcations_are_the_same_in_classic_units(kind, request):
    point = request.getfixturevalue(kind)
    d, orbit = point.system.dim, point.orbit.solution
    classic = MackeyGlass(beta=0.2, gamma=0.1, n=point.parameters["n"] + 1e-4, tau=20.0, theta=1.7)
    values = {name: float(value) for name, value in classic.parameters.items()}
    start = replace(orbit, values=1.7 * orbit.values, period=10 * orbit.period, parameters=values)
    scaled = solved_point(point.kind, classic, with_null_vector(point.kind, classic, start), "n")
    assert scaled.parameters["n"] == pytest.approx(point.parameters["n"], rel=1e-9)
    assert scaled.period == pytest.approx(10 * point.period, rel=1e-9)
    np.testing.assert_allclose(scaled.solution.values[:, :d], 1.7 * orbit.values, rtol=2e-8)


def test_doubled_orbits_and_curves_are_the_same_in_other_units(doubling):
    theta = 0.01
    values = {**doubling.parameters, "theta": theta}
    start = replace(doubling.solution, values=doubling.solution.values * [theta, 1.0], parameters=values)
    scaled = solved_point("PD", doubling.system, start, "n")
    orbits = [PeriodicOrbit.from_period_doubling(point).parameters["n"] for point in (doubling, scaled)]
    assert orbits[1] == pytest.approx(orbits[0], abs=1e-8)
    bounds = {"n": (6, 9), "tau": (1.5, 2.6)}
    curves = [continue_bifurcation(point, ("n", "tau"), bounds, detect=(), max_steps=4) for point in (doubling, scaled)]
    np.testing.assert_allclose(curves[1]["tau"], curves[0]["tau"], atol=1e-7)


def test_steps_along_a_branch_are_the_same_in_other_units():
    """Hutchinson's equation, whose state is of the size of K."""
    branches = []
    for capacity in (1.0, 1000.0):
        system = DDE(lambda x, x_tau, p: p.r * x * (1 - x_tau / p.K), ["tau"], {"r": 1.5, "K": capacity, "tau": 1.0})
        orbit = PeriodicOrbit.from_hopf(locate_hopf(system, "r", capacity), "r", mesh=Mesh.uniform(20, 3))
        branches.append(continue_branch(orbit, "r", (1.5, 1.7), ds=0.05, ds_max=0.1))
        assert branches[-1].stop_reason == "r reached its bound 1.7"
    one, thousand = branches
    assert len(thousand) < 1.2 * len(one)  # Newton's iterations, which lengthen steps, may differ by one
    assert thousand.periods[-1] == pytest.approx(one.periods[-1], rel=1e-4)
    assert thousand.extremes()[1][-1] / 1000 == pytest.approx(one.extremes()[1][-1], rel=1e-3)


def test_branches_may_start_on_a_bound_that_they_leave(principal):
    orbit = principal.orbit(4)
    n = orbit.parameters["n"]
    upwards = continue_branch(orbit, "n", (n, 9), max_steps=2, detect=())
    assert (np.diff(upwards["n"]) > 0).all()
    downwards = continue_branch(orbit, "n", (4, n), max_steps=2, direction=-1, detect=())
    assert (np.diff(downwards["n"]) < 0).all()
    with pytest.raises(ConfigError, match="must lie within its bounds"):
        continue_branch(orbit, "n", (n, 9), direction=-1)


def test_cusp_and_fold_flip_are_found_on_the_fold_curve(fold):
    bounds = {"n": (10, 16), "tau": (1.0, 2.5)}
    curve = continue_bifurcation(fold, ("n", "tau"), bounds, direction=-1, ds_max=0.3)
    found = {special.kind: locate_codimension_two(curve, special) for special in curve.special}
    cusp, flip = found["cusp"], found["fold-flip"]
    assert cusp.parameters["n"] == pytest.approx(15.162656, abs=2e-6)
    assert cusp.parameters["tau"] == pytest.approx(1.0998704, abs=2e-7)
    assert cusp.period == pytest.approx(3.829158, abs=1e-6)
    assert flip.parameters["n"] == pytest.approx(15.054045, abs=2e-6)
    assert flip.parameters["tau"] == pytest.approx(1.3397758, abs=2e-7)
    assert flip.period == pytest.approx(4.071701, abs=2e-6)
    assert np.abs(flip.bifurcation.multipliers + 1).min() < 1e-6
    # both folds meet at the cusp with a distance like the 3/2 power
    offsets, widths = np.array([0.002, 0.004, 0.008]), []
    for offset in offsets:
        tau = cusp.parameters["tau"] + offset
        ends = []
        for index in np.flatnonzero(np.diff(np.sign(curve["tau"] - tau)))[:2]:
            ends.append(curve.point(int(index)).at(tau=tau).parameters["n"])
        widths.append(abs(ends[1] - ends[0]))
    assert np.polyfit(np.log(offsets), np.log(widths), 1)[0] == pytest.approx(1.5, abs=0.1)


def test_curves_of_period_doublings(doubling):
    curve = continue_bifurcation(doubling, ("n", "tau"), {"n": (6, 9), "tau": (1.5, 2.6)}, ds_max=0.3)
    assert curve.stop_reason == "tau reached its bound 2.6"
    assert curve["n"][-1] == pytest.approx(6.62915, abs=1e-5)
    point = curve.point(len(curve) // 2)
    assert np.abs(point.multipliers + 1).min() < 1e-6


def a_branch_of_orbits(request, max_steps):
    principal = request.getfixturevalue("principal")
    orbit = principal.orbit(int(np.abs(principal["n"] - 6.9).argmin()))
    return continue_branch(orbit, "n", (5, 8.9), max_steps=max_steps)


def a_curve_of_folds(request, max_steps):
    fold = request.getfixturevalue("fold")
    bounds = {"n": (10, 14), "tau": (1.3, 2.5)}
    return continue_bifurcation(fold, ("n", "tau"), bounds, direction=-1, max_steps=max_steps)


@pytest.mark.parametrize("follow", [a_branch_of_orbits, a_curve_of_folds])
def test_branches_are_read_back_bit_by_bit_and_go_on_alike(follow, request, tmp_path):
    short = follow(request, 6)
    short.save(tmp_path / "branch.nc")
    loaded = load_branch(tmp_path / "branch.nc")
    whole = follow(request, 14)
    assert len(whole) == 15
    assert [special.kind for special in whole.special] == (["PD"] if whole.kind == "orbit" else [])
    for other in (short.extended(8), loaded.extended(8)):
        assert len(other) == len(whole)
        for one, two in zip(other.states, whole.states, strict=True):
            assert np.array_equal(one.solution.values, two.solution.values)
            assert np.array_equal(one.solution.mesh.knots, two.solution.mesh.knots)
            assert np.array_equal(one.tangent, two.tangent)
            assert one.solution.parameters == two.solution.parameters
            assert (one.ds, one.age, one.solution.period) == (two.ds, two.age, two.solution.period)
            assert one.solution.extras == two.solution.extras
        assert all(
            np.array_equal(a.values, b.values) for a, b in zip(other.multipliers, whole.multipliers, strict=True)
        )
        assert other.special == whole.special
    assert (loaded.kind, loaded.free, loaded.stop_reason) == (short.kind, short.free, short.stop_reason)
    assert loaded.stepping == short.stepping


def test_branches_of_version_2_are_read(principal):
    data = branch_dataset(principal)
    header = json.loads(data.attrs["branch"])
    header["stepping"] = header["stepping"][:3]  # no scale yet
    data = data.assign_attrs(branch=json.dumps(header), version=2)
    read = branch_from_dataset(data.assign_attrs(sha256=checksum(data)))
    assert read.stepping == principal.stepping
    assert np.array_equal(read["n"], principal["n"])


@pytest.mark.unchecked
def test_files_that_are_no_branches(principal, tmp_path):
    path = tmp_path / "branch.nc"
    with pytest.raises(DataError, match="no such file"):
        load_branch(path)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        load_branch(path)
    general = DDE(lambda x, x_tau, p: -p.a * x + p.b * torch.tanh(x_tau), ["tau"], {"a": 1.0, "b": -2.0, "tau": 3.0})
    branch = continue_branch(PeriodicOrbit.from_simulation(general, 0.3), "b", (-3, -1), max_steps=2)
    branch.save(path)
    with pytest.raises(DataError, match="general equation: give it"):
        load_branch(path)
    with pytest.raises(DataError, match="with delays"):
        load_branch(path, MackeyGlass())
    assert load_branch(path, general)["b"] == pytest.approx(branch["b"])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="damaged"):
        load_branch(path, general)


@pytest.mark.unchecked
def test_files_with_a_flipped_bit_are_refused(fold, tmp_path):
    """Wherever it is: in arrays, in names, in the header; some bytes of a file mean nothing."""
    path = tmp_path / "branch.nc"
    bounds = {"n": (10, 14), "tau": (1.5, 2.5)}
    curve = continue_bifurcation(fold, ("n", "tau"), bounds, max_steps=2)
    curve.save(path)
    data = bytearray(path.read_bytes())
    profile = data.find(curve.states[1].solution.values.tobytes())
    header = data.find(b'"stop_reason": "2 steps')
    assert profile > 0
    assert header > 0
    for place in (profile, profile + 1000, header + 17):
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"branch\.nc: damaged or edited, .* checksum"):
            load_branch(path)
        data[place] ^= 1
    path.write_bytes(data)
    whole = [state.solution.values for state in load_branch(path).states]
    for place in range(0, len(data), len(data) // 60):
        data[place] ^= 16
        path.write_bytes(data)
        try:
            read = load_branch(path)
        except DataError:
            continue
        finally:
            data[place] ^= 16
        assert all(np.array_equal(a.solution.values, b) for a, b in zip(read.states, whole, strict=True))
        assert read.special == curve.special


@pytest.mark.unchecked
def test_errors(principal, doubling):
    orbit = principal.orbit(3)
    with pytest.raises(ConfigError, match="must lie within its bounds"):
        continue_branch(orbit, "n", (8, 9))
    with pytest.raises(ConfigError, match="detect must be of LP, PD, NS, BP, got HB"):
        continue_branch(orbit, "n", (5, 9), detect=["HB"])
    with pytest.raises(ConfigError, match="no parameter is called m"):
        continue_branch(orbit, "m", (5, 9))
    with pytest.raises(ConfigError, match="0 < ds <= ds_max"):
        continue_branch(orbit, "n", (5, 9), ds=-1.0, ds_max=1.0)
    with pytest.raises(ConfigError, match="bounds must be given for each of n, tau"):
        continue_bifurcation(doubling, ("n", "tau"), {"n": (5, 9)})
    with pytest.raises(ConfigError, match="only a period doubling"):
        PeriodicOrbit.from_period_doubling(type(doubling)("LP", doubling.system, doubling.solution, "n"))
    with pytest.raises(ConfigError, match="n is what the bifurcation determines"):
        doubling.at(n=8.0)


def test_curves_end_on_the_bound_that_comes_first(fold):
    """The folds are at n = 11.653139 where τ is 1.8: a step passes both bounds."""
    bounds = {"n": (10, 11.66), "tau": (1.8, 2.5)}
    curve = continue_bifurcation(fold, ("n", "tau"), bounds, direction=-1)
    assert curve.stop_reason == "tau reached its bound 1.8"
    assert curve["n"][-1] == pytest.approx(11.653139, abs=1e-5)


def test_branches_go_on_without_a_bound(principal):
    branch = continue_branch(principal.orbit(3), "n", (5, np.inf), max_steps=4)
    assert (len(branch), branch.stop_reason) == (5, "4 steps were done")
    assert branch.stepping.ds_max == pytest.approx(0.05 * principal["n"][3])
    assert (np.diff(branch["n"]) > 0).all()


def test_a_branch_that_ended_on_its_bound_does_not_become_longer(principal):
    again = principal.extended(3)
    assert (len(again), again.stop_reason) == (len(principal), "n reached its bound 9")
    wider = principal.extended(2, {"n": (5, 9.2)})
    assert len(wider) > len(principal)
    assert (np.diff(wider["n"]) > 0).all()
    back = wider.extended(50, {"n": (5, 9.2)})
    assert back.stop_reason == "n reached its bound 9.2"


@pytest.mark.unchecked
def test_new_bounds_of_a_branch_have_its_names_and_contain_its_end(principal):
    with pytest.raises(ConfigError, match=r"n=9 of the last point must lie within its new bounds \(8, 8\.5\)"):
        principal.extended(3, {"n": (8, 8.5)})
    with pytest.raises(ConfigError, match="dictionary with some of n, got m"):
        principal.extended(3, {"m": (6, 10)})
    with pytest.raises(ConfigError, match=r"dictionary with some of n, got \(6, 10\)"):
        principal.extended(3, (6, 10))
    with pytest.raises(ConfigError, match="max_steps must be a whole number of at least 1, got 0"):
        principal.extended(0)


def test_orbits_that_their_mesh_does_not_resolve_are_announced_once():
    system = DDE(lambda x, x_tau, p: -p.a * x_tau * (1 + x), [1.0], {"a": 1.7})
    orbit = PeriodicOrbit.from_simulation(system, 0.3, mesh=Mesh.uniform(16, 3))
    with pytest.warns(UserWarning, match=r"orbits in a: the trivial multiplier .* finer mesh than Mesh\(16") as told:
        branch = continue_branch(orbit, "a", (1.6, 3.0))
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        branch.extended(2, {"a": (1.6, 3.1)})
        continue_branch(orbit.on(Mesh.uniform(80, 5)), "a", (1.6, 2.2), max_steps=3)


def test_folds_are_no_reason_to_announce_inaccurate_orbits(fold):
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=12.0, tau=2.0)).refined()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        branch = continue_branch(orbit, "n", (10, 12.2), direction=-1, max_steps=60)
        continue_bifurcation(fold, ("n", "tau"), {"n": (10, 14), "tau": (1.5, 2.5)}, max_steps=3)
    assert [special.kind for special in branch.special] == ["LP"]


def test_what_a_notebook_shows_is_short(principal, doubling):
    assert repr(principal) == f"Branch(orbit, {len(principal)} points, n=5.04371 … 9, 1 special)"
    assert str(principal).splitlines()[1:] == [f"  {principal.special[0]}", "ended: n reached its bound 9"]
    assert repr(doubling).startswith("BifurcationPoint(PD at n=7.395926925, beta=2, ")
    assert repr(doubling.orbit).endswith("period=5.42548535, Mesh(50 intervals of degree 5))")
    for shown in (doubling, doubling.orbit, principal.states[0]):
        assert len(repr(shown)) < 200


@pytest.mark.unchecked
def test_objects_in_the_wrong_place(principal, doubling):
    hopf, orbit, n = hopf_points(MackeyGlass(tau=2.0))[0], principal.orbit(3), {"n": (5, 9), "tau": (1, 3)}
    cases = [
        (lambda: continue_branch(hopf, "n", (5, 9)), r"got a HopfPoint: begin with PeriodicOrbit\.from_hopf"),
        (lambda: continue_branch(doubling, "n", (5, 9)), r"got a BifurcationPoint: give its orbit, point\.orbit"),
        (lambda: continue_branch(orbit, "n", 9), r"bounds of n must be two numbers .* got 9"),
        (lambda: continue_branch(orbit, "n", (9, 5)), r"must be \(lowest, highest\), got \(9, 5\)"),
        (lambda: continue_bifurcation(orbit, ("n", "tau"), n), r"got a PeriodicOrbit: find one by continue_branch"),
        (lambda: continue_bifurcation(hopf, ("n", "tau"), n), "got a HopfPoint: Hopf points are followed by"),
        (lambda: continue_bifurcation(doubling, ("n",), n), "two different parameters, got n"),
        (lambda: continue_bifurcation(doubling, "n", n), "two different parameters, got n"),
        (lambda: continue_bifurcation(doubling, ("n", "tau"), (5, 9)), r"as a dictionary, got \(5, 9\)"),
        (lambda: PeriodicOrbit.from_hopf(doubling, "n"), r"born at a HopfPoint, .* got BifurcationPoint\(PD"),
        (lambda: PeriodicOrbit.from_period_doubling(hopf), r"only a period doubling .* got HopfPoint"),
        (lambda: continue_bifurcation(CodimensionTwoPoint("R2", doubling), ("n", "tau"), n), r"point\.bifurcation"),
        (lambda: locate(principal, "PD"), r"one of branch\.special \(PD near n=.*\), got 'PD'"),
        (lambda: locate(principal, replace(principal.special[0], index=400)), "not of this branch"),
        (lambda: continue_branch(orbit, "n", (5, 9), detect="XX"), "must be of LP, PD, NS, BP, got XX"),
    ]
    for call, message in cases:
        with pytest.raises(ConfigError, match=message):
            call()
    one = continue_branch(orbit, "n", (5, 9), detect="PD", max_steps=1)
    assert one.detect == ("PD",)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": -1}, "at least 1, got -1"),
        ({"max_steps": 2.5}, r"at least 1, got 2\.5"),
        ({"direction": "up"}, "direction must be 1 .* got 'up'"),
        ({"direction": 0}, "direction must be 1 .* got 0"),
        ({"ds": 0.0}, "0 < ds <= ds_max"),
        ({"ds_max": np.inf}, "both finite"),
        ({"ds": np.nan}, "0 < ds <= ds_max"),
    ],
)
def test_steps_that_make_no_sense(options, message, principal, doubling):
    with pytest.raises(ConfigError, match=message):
        continue_branch(principal.orbit(3), "n", (5, 9), **options)
    with pytest.raises(ConfigError, match=message):
        continue_bifurcation(doubling, ("n", "tau"), {"n": (5, 9), "tau": (1, 3)}, **options)


def test_bordered_scalars_vanish_where_the_defining_systems_say(doubling, fold):
    # a second route: zeros of smooth scalars along orbits, without null vectors as unknowns
    def flip(n: float) -> float:
        return bordered(antiperiodic_linearisation(doubling.system, doubling.orbit.at(n=n).solution), left, right)

    left, right = singular_vectors(antiperiodic_linearisation(doubling.system, doubling.orbit.solution))
    n = doubling.parameters["n"]
    assert brentq(flip, n - 0.01, n + 0.01, xtol=1e-13) == pytest.approx(n, abs=1e-9)

    # of the two orbits beyond the fold one has a positive, the other a negative scalar, and the fold has none
    left, right = singular_vectors(periodic_linearisation(fold.system, fold.orbit.solution))
    scalar = bordered(periodic_linearisation(fold.system, fold.orbit.solution), left, right)
    beyond = fold.system.with_parameters(n=fold.parameters["n"] + 1e-3)
    sides = []
    for sign in (1, -1):
        profile = fold.orbit.solution.values + sign * 0.03 * fold.null_vector
        period = fold.period + sign * 0.03 * fold.solution.extras[0]
        orbit = PeriodicOrbit.from_profile(beyond, profile, period, mesh=fold.solution.mesh)
        sides.append(bordered(periodic_linearisation(beyond, orbit.solution), left, right))
    assert sides[0] * sides[1] < 0
    assert abs(scalar) < 1e-6 * min(map(abs, sides))
