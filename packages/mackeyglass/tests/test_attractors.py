import warnings

import numpy as np
import pytest
import torch
import xarray
from mackeyglass import DDE, MackeyGlass, PeriodicOrbit, SegmentMap
from mackeyglass.attractors import basin, hysteresis, orbit_diagram
from mackeyglass.extrema import Maxima, _root, local_maxima
from sciml.errors import ConfigError

CYCLE = MackeyGlass(n=7.0, tau=2.0)
PERIOD, HIGHEST = 5.44799721383, 1.22832947  # of CYCLE, by collocation


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def on_attractor(system: MackeyGlass, n_nodes: int, panels: int = 1) -> tuple[SegmentMap, torch.Tensor]:
    segment_map = SegmentMap(system, n_nodes, panels)
    return segment_map, segment_map.trajectory(segment_map.history(0.9), 340)[300:]


@pytest.mark.unchecked
@pytest.mark.parametrize(("n_nodes", "panels"), [(32, 1), (20, 3)])
def test_maxima_are_those_of_the_orbit_not_of_the_grid(n_nodes: int, panels: int):
    segment_map, segments = on_attractor(CYCLE, n_nodes, panels)
    maxima = local_maxima(segment_map, segments)
    assert np.nanmax(np.abs(maxima.values - HIGHEST)) < 1e-8
    np.testing.assert_allclose(np.diff(maxima.times[0]), PERIOD, atol=1e-6)
    grid = segments[1:].amax(-1)
    assert (grid[grid > 1.2] - HIGHEST).abs().max() > 1e-4
    # the derivative vanishes: by central differences of the dense output
    times, h = torch.from_numpy(maxima.times[0]), 1e-4
    left, right = (segment_map.evaluate(segments[1:], times + shift) for shift in (-h, h))
    assert ((right - left) / (2 * h)).abs().max() < 1e-6


def test_roots_of_slopes_that_bend_are_found_in_few_steps():
    segment_map = SegmentMap(CYCLE, 4)
    roots = tensor(0.55, 0.7, 0.85)[:, None]
    slopes = roots**4 - (segment_map.nodes / 2) ** 4  # between the nodes 0.5 and 0.854
    found = _root(segment_map, slopes, torch.full((3,), 2))
    torch.testing.assert_close(found, roots[:, 0], rtol=0, atol=1e-12)


@pytest.mark.unchecked
def test_maxima_of_a_batch_are_those_of_its_samples():
    n, tau = tensor(7, 6.5, 7.3), tensor(2, 2, 1.5)
    together = local_maxima(*on_attractor(MackeyGlass(n=n, tau=tau), 32))
    for i in range(3):
        alone = local_maxima(*on_attractor(MackeyGlass(n=n[i : i + 1], tau=tau[i : i + 1]), 32))
        size = alone.values.shape[1]
        np.testing.assert_allclose(together.values[i, :size], alone.values[0], rtol=0, atol=1e-9)
        assert np.isnan(together.values[i, size:]).all()


def test_kinds_of_sequences():
    nan = np.nan
    band = np.linspace(1, 1.1, 9)[[4, 0, 7, 2, 8, 1, 6, 3, 5]]
    values = np.array(
        [
            [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0],
            [1.0, 1.5, 1.0, 1.2, 1.0, 1.5, 1.0, 1.2, nan],
            band,
            [1.0, 1.0, 1.0, 1.0, nan, nan, nan, nan, nan],
            [nan] * 9,
        ]
    )
    maxima = Maxima(values, np.arange(9) * np.where(np.isnan(values), nan, 0.5))
    assert maxima.counts().tolist() == [2, 3, 9, 1, 0]
    assert maxima.counts(gap=0.02).tolist() == [2, 3, 1, 1, 0]  # chaos in one band
    assert maxima.repeats().tolist() == [2, 4, 0, 1, 0]
    assert maxima.repeats(gap=0.02).tolist() == [2, 4, 0, 1, 0]
    np.testing.assert_allclose(maxima.periods(), [1, 2, nan, 0.5, nan])
    np.testing.assert_allclose(maxima.cycles()[1, :5], [1, 1, 1.2, 1.5, nan])


@pytest.mark.slow
@pytest.mark.unchecked
def test_hysteresis_beside_a_fold_with_chaos_but_not_where_chaos_ends_in_it():
    n = np.array([11.1, 11.18, 11.24, 11.3, 12.6, 12.8, 13.0, 13.2, 13.5])
    diagram = orbit_diagram(MackeyGlass(tau=tensor(1.5, 2.0)), "n", n, n_transient=400)
    up, down = (diagram["kind"].sel(direction=direction).values.T for direction in ("up", "down"))
    assert (up[0, 4:] == ["chaos"] * 4 + ["cycle"]).all()
    assert (down[0, 4:] == ["chaos"] + ["cycle"] * 4).all()  # the fold is at 12.706, the crisis at 13.27
    assert (up[1] == down[1]).all()
    assert (up[1] == ["chaos"] * 2 + ["cycle"] * 7).all()  # the fold is at 11.2148
    found = hysteresis(diagram)
    assert found.dims == ("n", "batch")
    assert found.sel(batch=0).values[4:].tolist() == [False, True, True, True, False]
    assert not found.sel(batch=1).any()
    assert diagram["period"].sel(n=12.6, batch=1).values == pytest.approx([7.2730] * 2, abs=2e-4)


def test_hysteresis_is_a_difference_of_more_than_five_gaps():
    shifts = np.array([0.0, 0.006, 0.009, 0.02])
    cycle = np.full(4, "cycle")
    kinds = np.array([cycle, cycle])
    tables = {"lowest": np.array([np.ones(4), 1 + shifts]), "highest": np.full((2, 4), 1.2)}
    variables = {name: (("direction", "n"), table) for name, table in {**tables, "kind": kinds}.items()}
    diagram = xarray.Dataset(variables, {"direction": ["up", "down"], "n": np.arange(4)})
    assert hysteresis(diagram).values.tolist() == [False, False, True, True]


def test_unresolved_solutions_are_reported():
    with pytest.warns(UserWarning, match="10 nodes leave .* raise n_nodes"):
        orbit_diagram(CYCLE, "n", [7.0], n_transient=20, n_delays=10, n_nodes=10)
    with pytest.warns(UserWarning, match="10 nodes leave .* raise n_nodes"):
        basin(CYCLE, "linear", [0.9], [0.0], n_transient=20, n_delays=10, n_nodes=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        orbit_diagram(CYCLE, "n", [7.0], n_transient=20, n_delays=10)


def test_sweep_of_the_delay_carries_the_scaled_history_over():
    tau = np.array([1.9, 2.0])
    diagram = orbit_diagram(CYCLE, "tau", tau, n_transient=100, n_delays=60)
    assert (diagram["kind"] == "cycle").all()
    assert diagram["period"].sel(tau=2.0).values == pytest.approx([PERIOD] * 2, abs=1e-5)
    assert diagram["highest"].sel(tau=2.0).values == pytest.approx([HIGHEST] * 2, abs=1e-6)
    assert (diagram["count"] == 1).all()
    # by hand: values on the nodes are kept while the nodes move
    first = SegmentMap(CYCLE.with_parameters(tau=1.9))
    U = first.trajectory(first.history(0.9), 160)[-1]
    U = SegmentMap(CYCLE).trajectory(U, 160)[-1]
    np.testing.assert_allclose(diagram["segment"].sel(direction="up", tau=2.0), U, rtol=0, atol=1e-12)


@pytest.mark.unchecked
def test_kinds_are_the_same_in_all_units():
    """Before and after a period doubling, and in chaos; all in one batch of systems."""
    theta = tensor(1.0, 0.01, 100.0)
    system = MackeyGlass(n=7.0, tau=2.0, theta=theta)
    diagram = orbit_diagram(system, "n", [7.0, 7.5, 9.6], history=0.9 * theta[:, None], n_transient=200)
    for kind, batch in zip(["cycle", "cycle", "chaos"], diagram["kind"].values.swapaxes(0, 1), strict=True):
        assert (batch == kind).all()
    assert (diagram["count"].sel(n=[7.0, 7.5]).values == np.array([[1], [2]])).all()
    np.testing.assert_allclose(diagram["highest"].sel(n=7.0) / theta.numpy(), HIGHEST, rtol=1e-7)
    assert not hysteresis(diagram).any()
    shifted = diagram.assign(highest=diagram["highest"] + np.array([[[0.0]], [[0.02]]]) * theta.numpy())
    assert hysteresis(shifted).sel(n=[7.0, 7.5]).all()
    labels, attractors = basin(system.with_parameters(n=7.5, theta=0.01), "linear", [0.008, 0.01], [0.0])
    assert labels["label"].values.tolist() == [[0], [0]]
    (cycle,) = attractors
    np.testing.assert_allclose(cycle.maxima[[0, -1]], [cycle.lowest, cycle.highest], rtol=1e-4)
    assert len(cycle.maxima) == 2


def test_what_does_not_oscillate_is_no_chaos():
    """With β ≤ γ all solutions fall to zero, at β = γ like a power of the time."""
    system = MackeyGlass(n=7.0, tau=2.0)
    diagram = orbit_diagram(system, "beta", [0.5, 1.0], n_transient=50, n_delays=10)
    assert (diagram["kind"] == "equilibrium").all()
    assert (diagram["lowest"] < diagram["highest"]).all()
    assert (diagram["highest"] < 0.9).all()
    assert (diagram["lowest"] > 0).all()
    (zero,) = basin(system.with_parameters(beta=0.5), "linear", [0.5, 1.0], [0.0, 0.1], n_transient=50)[1]
    assert (zero.kind, len(zero.maxima)) == ("equilibrium", 0)


@pytest.mark.unchecked
def test_sweeps_of_a_single_system_from_several_histories():
    histories = tensor(0.5, 0.9)[:, None]
    together = orbit_diagram(CYCLE, "n", [7.0, 7.1], history=histories, n_transient=20, n_delays=10)
    assert together["segment"].dims == ("direction", "n", "batch", "node")
    for row, history in enumerate((0.5, 0.9)):
        alone = orbit_diagram(CYCLE, "n", [7.0, 7.1], history=history, n_transient=20, n_delays=10)
        np.testing.assert_array_equal(together["segment"].sel(batch=row), alone["segment"])


def test_equilibrium_has_no_maxima():
    diagram = orbit_diagram(MackeyGlass(tau=2.0), "n", [4.0], n_transient=200, n_delays=10)
    assert (diagram["kind"] == "equilibrium").all()
    assert (diagram["count"] == 0).all()
    assert diagram["highest"].values == pytest.approx(1.0)
    assert diagram["maxima"].isnull().all()


@pytest.mark.slow
@pytest.mark.unchecked
def test_basin_of_two_cycles():
    system, a, c = MackeyGlass(n=14.6, tau=1.2), np.linspace(0.4, 1.4, 6), np.linspace(-1, 1, 7)
    labels, attractors = basin(system, "linear", a, c, n_transient=600)
    assert [attractor.kind for attractor in attractors] == ["cycle"] * 2
    short, long = sorted(attractor.period for attractor in attractors)
    assert short == pytest.approx(3.84, abs=0.01)
    assert long == pytest.approx(4.39, abs=0.01)
    assert set(np.unique(labels["label"])) == {-1, 0, 1}
    # a + c s/τ is least at s = −τ or 0
    A, C = np.meshgrid(a, c, indexing="ij")
    assert ((labels["label"].values == -1) == (np.minimum(A, A - C) <= 0)).all()
    i, j = np.argwhere(labels["label"].values == 1)[0]
    slope = float(c[j] / system.tau)
    orbit = PeriodicOrbit.from_simulation(system, lambda t: float(a[i]) + slope * t, transient=600)
    assert orbit.period == pytest.approx(attractors[1].period, abs=1e-3)
    np.testing.assert_allclose(np.sort(orbit.maxima()), attractors[1].maxima, atol=1e-4)
    by_function, _ = basin(system, lambda a, c, s: a + c * s, a[:2], c[:2], n_transient=600)
    assert (by_function["label"].values == -1).tolist() == (labels["label"].values[:2, :2] == -1).tolist()


@pytest.mark.unchecked
def test_wrong_arguments():
    with pytest.raises(ConfigError, match="no parameter is called m"):
        orbit_diagram(CYCLE, "m", [1.0])
    with pytest.raises(ConfigError, match="numbers that rise"):
        orbit_diagram(CYCLE, "n", [8.0, 7.0])
    with pytest.raises(ConfigError, match="n_delays at least 10"):
        orbit_diagram(CYCLE, "n", [7.0], n_delays=3)
    with pytest.raises(ConfigError, match="greater than 1"):
        orbit_diagram(CYCLE, "n", [0.5, 7.0])
    with pytest.raises(ConfigError, match="must be positive"):
        orbit_diagram(MackeyGlass(n=7.5), "n", [7.5], history=-1.0)
    with pytest.raises(ConfigError, match="single system"):
        basin(MackeyGlass(n=tensor(7, 8)), "linear", [1.0], [0.0])
    with pytest.raises(ConfigError, match="'linear', 'sine'"):
        basin(CYCLE, "square", [1.0], [0.0])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"lists of numbers, got shapes \[\(1, 1\)"):
        basin(CYCLE, "linear", [[1.0]], [0.0])  # pyright: ignore[reportArgumentType]
    general = DDE(lambda x, x_tau, p: -p.a * x_tau, [1.0], {"a": 1.0})
    for call in (lambda: orbit_diagram(general, "a", [1.0]), lambda: basin(general, "linear", [1.0], [0.0])):  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigError, match="DDE has no gamma, tau, production"):
            call()
    with pytest.raises(ConfigError, match=r"one axis, .* got \(2, 3\)"):
        orbit_diagram(CYCLE, "n", [7.0], history=torch.ones(2, 3, 1, dtype=torch.float64))
    with pytest.raises(ConfigError, match="no history of the family is positive"):
        basin(CYCLE, "sine", [0.1], [1.0])
