import numpy as np
import pytest
import torch
from mackeyglass import DDE, MackeyGlass, simulate
from mackeyglass.errors import ContinuationError
from mackeyglass.hopf import hopf_points
from mackeyglass.mesh import Mesh
from mackeyglass.orbits import PeriodicOrbit, order_of_magnitude, recurrence
from sciml.errors import ConfigError, ShapeError
from scipy.optimize import minimize_scalar


@pytest.fixture(scope="module")
def orbit():
    return PeriodicOrbit.from_simulation(MackeyGlass(n=7.0, tau=2.0), mesh=Mesh.uniform(80, 5))


def test_reference_orbit(orbit):
    assert orbit.period == pytest.approx(5.44799721383, abs=2e-11)
    assert orbit.maxima() == pytest.approx([1.22832947], abs=2e-8)
    assert orbit.samples.min() == pytest.approx(0.63611846, abs=1e-5)  # of samples, not of the polynomial
    assert orbit.stable
    expected = [-0.77523516, 0.10448404, 0.00711439 + 0.02292334j, 0.00711439 - 0.02292334j, -0.01220310]
    np.testing.assert_allclose(orbit.multipliers(5), expected, atol=2e-8)
    assert orbit.defect < 1e-9


def test_collocation_and_simulation_agree(orbit):
    times = np.linspace(600, 600 + orbit.period, 400)
    u = simulate(orbit.system, 0.9, (0.0, 610.0), saveat=times, n_per_delay=64)["u"].values[0]
    phases = np.linspace(0, orbit.period, 4001)
    shift = phases[np.argmin([np.abs(orbit.profile(times[::40] + s)[:, 0] - u[::40]).max() for s in phases])]

    def mismatch(shift: float) -> float:
        return np.abs(orbit.profile(times + shift)[:, 0] - u).max()

    aligned = minimize_scalar(mismatch, bounds=(shift - 2e-3, shift + 2e-3), options={"xatol": 1e-10})
    assert aligned.fun < 1e-6


def test_scaling_symmetry(orbit):
    classic = MackeyGlass(beta=0.2, gamma=0.1, n=7.0, tau=20.0, theta=1.7)
    other = PeriodicOrbit.from_profile(classic, 1.7 * orbit.solution.values, 10 * orbit.period, mesh=orbit.mesh)
    assert other.period == pytest.approx(10 * orbit.period, rel=1e-9)
    np.testing.assert_allclose(other.multipliers(4), orbit.multipliers(4), atol=1e-9)


def test_orbits_of_delays_longer_by_their_period_are_the_same_but_not_as_stable(orbit):
    longer = orbit.at(tau=2.0 + 2 * orbit.period)
    assert longer.period == pytest.approx(orbit.period, rel=1e-9)
    assert longer.defect < 1e-9
    assert not longer.stable


def tangent_multipliers(orbit: PeriodicOrbit, count: int) -> np.ndarray:
    """Multipliers from Runge–Kutta steps along the orbit of many perturbed histories."""
    d, delays = orbit.system.dim, [float(delay) for delay in orbit.system.delay_values]
    steps = 120
    h = orbit.period / steps
    width = int(np.ceil(max(delays) / h)) + 2
    grid = np.arange(-width, steps + 1)
    states = orbit.profile(grid * h)
    eye = np.eye((width + 1) * d).reshape(width + 1, d, -1)
    y = np.concatenate([eye, np.zeros((steps, d, eye.shape[2]))])

    def value(time):  # quintic interpolation
        k = int(np.clip(np.floor(time / h), -width + 2, filled - 3)) + width
        nodes = grid[k - 2 : k + 4] * h
        weights = [np.prod([(time - b) / (a - b) for b in nodes if b != a]) for a in nodes]
        return np.tensordot(weights, y[k - 2 : k + 4], axes=1)

    def slope(time, now):
        lagged = [torch.from_numpy(orbit.profile(np.array([time - delay])).T.copy()) for delay in delays]
        x = torch.from_numpy(orbit.profile(np.array([time])).T.copy())
        wide = [value.expand(-1, now.shape[1]).clone() for value in (x, *lagged)]
        moved = [torch.from_numpy(value(time - delay).copy()) for delay in delays]
        now = torch.from_numpy(now.copy())
        return orbit.system.differential(wide[0], wide[1:], orbit.parameters, now, moved).numpy()

    assert states.shape[1] == d
    for k in range(steps):
        filled = k
        time, now = k * h, y[k + width]
        k1 = slope(time, now)
        k2 = slope(time + h / 2, now + h / 2 * k1)
        k3 = slope(time + h / 2, now + h / 2 * k2)
        y[k + 1 + width] = now + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(time + h, now + h * k3))
    values = np.linalg.eigvals(y[-width - 1 :].reshape((width + 1) * d, -1))
    return values[np.argsort(-np.abs(values))][:count]


def ring(x, x_1, x_2, p):
    return torch.stack([-x[0] + p.a * torch.tanh(x_1[1]), -x[1] + p.b * torch.tanh(x_2[0])])


OTHERS = {
    "tanh": (
        DDE(lambda x, x_tau, p: -p.a * x + p.b * torch.tanh(x_tau), ["tau"], {"a": 1.0, "b": -2.0, "tau": 3.0}),
        0.3,
    ),
    "logistic": (DDE(lambda x, x_tau, p: -p.alpha * x_tau * (1 + x), [1.0], {"alpha": 1.7}), 0.3),
    "two delays": (
        DDE(ring, ["tau_1", "tau_2"], {"a": 2.0, "b": -2.0, "tau_1": 1.0, "tau_2": 0.5}, dim=2),
        torch.tensor([[0.3], [0.1]], dtype=torch.float64),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OTHERS))
def test_multipliers_of_other_equations_by_another_route(name):
    system, history = OTHERS[name]
    orbit = PeriodicOrbit.from_simulation(system, history)
    assert orbit.stable
    assert orbit.defect < 1e-9
    independent = tangent_multipliers(orbit, 4)
    trivial = np.argmin(np.abs(independent - 1))
    assert abs(independent[trivial] - 1) < 1e-6
    np.testing.assert_allclose(np.abs(orbit.multipliers(2)), np.abs(np.delete(independent, trivial))[:2], atol=1e-5)


def test_orbits_are_born_at_hopf_points_with_an_amplitude_like_a_root():
    point = hopf_points(MackeyGlass(tau=2.0))[0]
    small = [PeriodicOrbit.from_hopf(point, "n", amplitude=a) for a in (0.01, 0.02)]
    moved = [orbit.parameters["n"] - point.parameters["n"] for orbit in small]
    assert moved[0] > 0
    assert moved[1] / moved[0] == pytest.approx(4, abs=0.02)
    assert small[0].period == pytest.approx(2 * np.pi / point.omega, abs=1e-4)
    assert small[0].stable  # supercritical


@pytest.mark.parametrize("theta", [0.01, 100.0])
def test_small_orbits_are_the_same_in_other_units(theta):
    one, other = (PeriodicOrbit.from_hopf(hopf_points(MackeyGlass(tau=2.0, theta=t))[0], "n") for t in (1.0, theta))
    assert other.parameters["n"] == pytest.approx(one.parameters["n"], abs=1e-9)
    np.testing.assert_allclose(other.samples / theta, one.samples, rtol=1e-9)


def test_orders_of_magnitude():
    assert order_of_magnitude(np.array([[0.6], [1.43]])) == 1
    assert order_of_magnitude(np.array([900.0, 200.0])) == 1000
    assert order_of_magnitude(np.array([-2e-3])) == 1e-3
    assert order_of_magnitude(np.array([0.02, -0.02])) == order_of_magnitude(np.zeros(1)) == 1
    assert order_of_magnitude(np.array([1e-17])) == 1
    assert order_of_magnitude(np.array([50.0, -20.0])) == 100


def test_just_past_a_period_doubling_the_stable_orbit_is_found():
    """At n = 10 the orbit of the period 9.49 doubles at τ = 1.57930; here turns differ by 1 percent of the range."""
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=10.0, tau=1.5795))
    assert orbit.stable
    assert orbit.period == pytest.approx(18.98, abs=0.02)


def test_unstable_orbits_of_a_simulation_are_announced():
    with pytest.warns(UserWarning, match=r"unstable, with a multiplier -1\.0\d+.*longer transient"):
        PeriodicOrbit.from_simulation(MackeyGlass(n=10.0, tau=1.582), transient=15, longest=8)


def test_logistic_amplitude_near_its_hopf_point():
    # amplitude² = 40/(3π − 2) (ατ − π/2) + …, a classic expansion
    from mackeyglass.hopf import locate_hopf

    system = DDE(lambda x, x_tau, p: -p.alpha * x_tau * (1 + x), [1.0], {"alpha": 1.5})
    point = locate_hopf(system, "alpha", 0.0)
    assert point.parameters["alpha"] == pytest.approx(np.pi / 2, abs=1e-12)
    orbit = PeriodicOrbit.from_hopf(point, "alpha", amplitude=0.02)
    predicted = 0.02**2 * (3 * np.pi - 2) / 40
    assert orbit.parameters["alpha"] - np.pi / 2 == pytest.approx(predicted, rel=2e-3)


@pytest.mark.unchecked
def test_errors(orbit):
    system, mesh = orbit.system, orbit.mesh
    with pytest.raises(ConfigError, match=r"constant .*\.from_hopf"):
        PeriodicOrbit.from_profile(system, np.ones(401), 5.0, mesh=mesh)
    with pytest.raises(ConfigError, match="period must be positive"):
        PeriodicOrbit.from_profile(system, orbit.solution.values, -1.0, mesh=mesh)
    with pytest.raises(ShapeError, match=r"\(401, 1\), got \(400, 1\)"):
        PeriodicOrbit.from_profile(system, np.ones(400), 5.0, mesh=mesh)
    with pytest.raises(ContinuationError, match=r"2 turns along an orbit of period 5\.448"):
        PeriodicOrbit.from_profile(system, lambda t: orbit.profile(2 * t * orbit.period), 2 * orbit.period)
    with pytest.raises(ContinuationError, match="did not return"):
        PeriodicOrbit.from_simulation(MackeyGlass(n=9.65, tau=2.0), longest=5)
    with pytest.raises(ContinuationError, match="did not return"):
        PeriodicOrbit.from_simulation(MackeyGlass(n=4.5, tau=2.0))  # a stable equilibrium
    with pytest.raises(ConfigError, match="give a history"):
        PeriodicOrbit.from_simulation(OTHERS["tanh"][0])
    with pytest.raises(ConfigError, match="no parameter is called m"):
        orbit.at(m=2.0)


def test_profiles_at_any_times(orbit):
    times = np.array([[0.3, 1.0, 7.0], [0.3 + orbit.period, -1.0, 2.0]])
    x = orbit.profile(times)
    assert x.shape == (2, 3, 1)
    assert x[0, 0] == pytest.approx(x[1, 0], abs=1e-12)
    np.testing.assert_allclose(orbit.profile(0.3), x[0, 0], rtol=1e-14)
    np.testing.assert_allclose(orbit.profile([0.3, 1.0, 7]), x[0], rtol=1e-14)


def test_samples_of_one_component_need_no_second_axis(orbit):
    samples = orbit.profile(np.arange(0, 20, 0.01))
    found = [PeriodicOrbit.from_samples(orbit.system, given, 0.01) for given in (samples, samples[:, 0])]
    assert found[0].period == found[1].period == pytest.approx(orbit.period, abs=1e-7)


@pytest.mark.unchecked
def test_trajectories_that_are_not_of_one_system(orbit):
    batch, samples = MackeyGlass(n=torch.tensor([7.0, 8.0]), tau=2.0), orbit.profile(np.arange(0, 20, 0.01))
    with pytest.raises(ConfigError, match="one system, not a batch: n must be numbers"):
        PeriodicOrbit.from_simulation(batch)
    with pytest.raises(ConfigError, match="one system, not a batch"):
        PeriodicOrbit.from_samples(batch, samples, 0.01)
    with pytest.raises(ShapeError, match=r"\(times, 1\), got \(1, 2000\)"):
        PeriodicOrbit.from_samples(orbit.system, samples.T, 0.01)
    with pytest.raises(ConfigError, match=r"spacing positive, got dt=0"):
        PeriodicOrbit.from_samples(orbit.system, samples, 0)
    with pytest.raises(ConfigError, match="must be finite"):
        PeriodicOrbit.from_samples(orbit.system, np.where(samples > 1.2, np.nan, samples), 0.01)


def test_default_meshes_resolve_steep_profiles_once_they_are_fitted():
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=12.0, tau=2.0))
    assert (orbit.mesh.intervals, orbit.mesh.degree) == (50, 5)
    assert orbit.refined().defect < 1e-6


def test_recurrence_is_not_fooled_by_short_lags():
    times = np.arange(0, 60, 0.01)
    samples = (np.sin(2 * np.pi * times / 4) + 0.3 * np.sin(np.pi * times / 4))[:, None]
    assert recurrence(samples, 0.01, 4.0, 0.02) == pytest.approx(8.0, abs=0.011)
