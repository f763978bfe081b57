import math

import numpy as np
import pytest
import torch
from mackeyglass import MackeyGlass, PeriodicOrbit, SegmentMap, continue_branch
from mackeyglass.attractors import orbit_diagram
from mackeyglass.extrema import Maxima
from mackeyglass.learned_equation import LearnedDDE
from mackeyglass.lifetimes import (
    attractor_distance,
    fit_crisis,
    fit_intermittency,
    laminar_phases,
    transient_lifetime,
)
from sciml.errors import ConfigError

PAST_CRISIS = MackeyGlass(n=13.3, tau=1.5)
MAXIMA = np.array([1.37789, 0.88102])  # of the long cycle there


@pytest.fixture(scope="module")
def long_cycle() -> PeriodicOrbit:
    return PeriodicOrbit.from_simulation(PAST_CRISIS.with_parameters(n=13.8)).at(n=13.3)


@pytest.mark.slow
@pytest.mark.unchecked
def test_lifetime_past_the_crisis(long_cycle: PeriodicOrbit):
    result = transient_lifetime(PAST_CRISIS, long_cycle, 150, n_delays=3000)
    assert 700 < result.mean < 2800  # 1400
    assert result.stderr < 0.3 * result.mean
    assert result.jumped.mean() > 0.8
    assert len(result.times) + result.excluded == 150
    shorter = transient_lifetime(PAST_CRISIS, long_cycle, 150, n_delays=600)  # half of the jumps are not seen
    assert 0.2 < shorter.jumped.mean() < 0.8
    assert abs(shorter.mean - result.mean) < 3 * math.hypot(shorter.stderr, result.stderr)
    assert shorter.times.max() <= 560 * 1.5


@pytest.mark.parametrize("theta", [1.0, 0.01])  # the unit of all values
def test_chaos_before_the_crisis_does_not_end(theta: float):
    system = PAST_CRISIS.with_parameters(n=13.2, theta=theta)
    result = transient_lifetime(system, theta * MAXIMA, 40, n_delays=400)
    assert not result.jumped.any()
    assert math.isinf(result.mean)
    assert result.times == pytest.approx(360 * 1.5)  # a jump in the last 40 delays could not be confirmed


@pytest.mark.unchecked
@pytest.mark.parametrize("n_delays", [80, 120, 1000])
def test_mean_does_not_depend_on_the_length_of_the_run(n_delays: int, monkeypatch: pytest.MonkeyPatch):
    """Of members that jump at random, 100 delays after the clock starts in the mean, whatever they do before."""
    members, hazard = 4000, 0.1  # in a block of ten delays
    jumps = 9 + np.random.default_rng(0).geometric(hazard, members) + 1
    blocks = iter(range(1000))

    def resting(self: SegmentMap, U: torch.Tensor, k: int) -> torch.Tensor:
        return U.expand(k, *U.shape)

    def maxima(segment_map: SegmentMap, segments: torch.Tensor) -> Maxima:
        member = (segments[-1, :, 0] * 1e4).round().long().numpy() - 1
        values = np.where(next(blocks) >= jumps[member], 1.0, 2.0)[:, None]
        return Maxima(values, values)

    monkeypatch.setattr(SegmentMap, "trajectory", resting)
    monkeypatch.setattr("mackeyglass.lifetimes.local_maxima", maxima)
    numbers = (1 + torch.arange(members, dtype=torch.float64)[:, None]) / 1e4
    system = MackeyGlass(n=13, tau=1.5)
    found = transient_lifetime(system, np.array([1.0]), members, history=numbers, n_delays=n_delays)
    assert found.excluded == 0
    assert found.mean == pytest.approx(150, abs=3.5 * found.stderr)
    assert 2 < found.stderr < 6


@pytest.mark.unchecked
def test_unresolved_trajectories_are_reported():
    with pytest.warns(UserWarning, match="12 nodes leave .* raise n_nodes"):
        transient_lifetime(PAST_CRISIS, np.array([9.0]), 2, n_delays=80, n_nodes=12)


@pytest.mark.slow
@pytest.mark.unchecked
def test_distance_from_the_saddle_vanishes_at_the_crisis(long_cycle: PeriodicOrbit):
    branch = continue_branch(long_cycle, "n", (12.0, 13.4), direction=-1, detect=(), max_steps=60)
    n = branch["n"]
    distances, plane = [], []
    for value in (12.8, 13.0, 13.2):
        other_side = np.where(np.arange(len(n)) > n.argmin(), np.abs(n - value), np.inf).argmin()
        saddle = branch.orbit(int(other_side)).at(n=value)
        assert not saddle.stable
        system = PAST_CRISIS.with_parameters(n=value)
        diagram = orbit_diagram(system, "n", [12.6, value], n_transient=300)
        segment = torch.from_numpy(diagram["segment"].sel(direction="up").values[-1])
        segment_map = SegmentMap(system)
        segments = segment_map.trajectory(segment, 400)
        distances.append(attractor_distance(segments, segment_map, saddle))
        plane.append(attractor_distance(segments, segment_map, saddle, points=2))
    assert distances[0] > 1.4 * distances[1] > 2 * distances[2] > 0
    assert distances[0] > 0.01
    assert max(plane) < 1e-3  # curves cross in the plane


def test_distance_of_a_cycle_from_itself_and_from_a_shifted_one():
    system = MackeyGlass(n=7.0, tau=2.0)
    orbit = PeriodicOrbit.from_simulation(system)
    segment_map = SegmentMap(system)
    segments = segment_map.trajectory(segment_map.history(0.9), 220)[200:]
    assert attractor_distance(segments, segment_map, orbit) < 1e-4
    # no window of an equilibrium is closer than the least range of windows of the cycle
    still = torch.ones(4, segment_map.size, dtype=torch.float64)
    lags = np.linspace(0, 2, 16)
    windows = orbit.profile((np.linspace(0, orbit.period, 500)[:, None] - lags).ravel()).reshape(500, 16)
    expected = np.sqrt(((windows - 1) ** 2).mean(1)).min()
    assert attractor_distance(still, segment_map, orbit) == pytest.approx(expected, rel=1e-3)


def test_crisis_fit_recovers_a_power_law():
    n = np.array([13.28, 13.29, 13.31, 13.34, 13.4, 13.5])
    mean = 20 * (n - 13.27) ** -1.2
    law = fit_crisis(n, mean, 0.1 * mean)
    assert law.critical == pytest.approx(13.27, abs=1e-5)
    assert law.exponent == pytest.approx(-1.2, abs=1e-3)
    assert law.factor == pytest.approx(20, rel=1e-2)
    random = np.random.default_rng(0)
    fits = [fit_crisis(n, mean * (1 + 0.05 * random.standard_normal(6)), 0.05 * mean) for _ in range(40)]
    scatter = np.std([fit.exponent for fit in fits])
    assert 0.5 < scatter / np.mean([fit.exponent_stderr for fit in fits]) < 2
    with pytest.raises(ConfigError, match="at least 4"):
        fit_crisis(n[:3], mean[:3], mean[:3])
    with pytest.raises(ConfigError, match="finite"):
        fit_crisis(n, np.where(n < 13.3, np.inf, mean), mean)


def test_intermittency_fit_recovers_the_fold():
    n = np.array([11.10, 11.15, 11.18, 11.20])
    law = fit_intermittency(n, 3 * (11.2148 - n) ** -0.5)
    assert law.critical == pytest.approx(11.2148, abs=1e-8)
    assert law.factor == pytest.approx(3, rel=1e-6)
    random = np.random.default_rng(0)
    fits = [fit_intermittency(n, 3 * (11.2148 - n) ** -0.5 * (1 + 0.01 * random.standard_normal(4))) for _ in range(40)]
    assert np.std([fit.critical for fit in fits]) < 3 * np.mean([fit.critical_stderr for fit in fits])
    with pytest.raises(ConfigError, match="at least 3"):
        fit_intermittency(n[:2], n[:2])


def test_errors_of_three_points_are_in_the_units_of_n():
    n, length = [11.10, 11.15, 11.18], [3 * (11.2148 - n) ** -0.5 for n in (11.10, 11.15, 11.18)]
    assert fit_intermittency(n, length).critical_stderr < 1e-9  # points of the law itself
    length[1] *= 1.001
    assert fit_intermittency(n, length).critical_stderr < 1e-3


def test_lists_are_taken_for_arrays():
    assert laminar_phases([False, True, True, False]).tolist() == [2]
    n = [13.28, 13.29, 13.31, 13.34]
    mean = [20 / (value - 13.27) for value in n]
    assert fit_crisis(n, mean, mean).critical == pytest.approx(13.27, abs=1e-5)


def test_laminar_phases_are_whole_runs():
    near = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1], bool)
    assert laminar_phases(near).tolist() == [3, 1]
    assert laminar_phases(~near).tolist() == [1, 2, 1]
    assert laminar_phases(np.ones(5, bool)).size == 0


class Doubling(torch.nn.Module):
    """A production under which everything grows without bound."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1e30 * x


@pytest.mark.unchecked
def test_wrong_arguments():
    with pytest.raises(ConfigError, match="single system"):
        transient_lifetime(MackeyGlass(n=torch.tensor([13.3], dtype=torch.float64)), MAXIMA)
    with pytest.raises(ConfigError, match="list of its maxima"):
        transient_lifetime(PAST_CRISIS, np.array([]))
    with pytest.raises(ConfigError, match="n_delays 80"):
        transient_lifetime(PAST_CRISIS, MAXIMA, n_delays=40)
    with pytest.raises(ConfigError, match="each of 5 members"):
        transient_lifetime(PAST_CRISIS, MAXIMA, 5, history=torch.ones(3, 1, dtype=torch.float64))
    with pytest.raises(ConfigError, match="a LearnedDDE has no positive equilibrium"):
        transient_lifetime(LearnedDDE(torch.nn.Linear(1, 1), 1.0, 2.0), MAXIMA)
    history = torch.full((2, 1), 0.7, dtype=torch.float64)
    with pytest.raises(ConfigError, match="became infinite or no numbers"):
        transient_lifetime(LearnedDDE(Doubling(), 1.0, 2.0), MAXIMA, 2, history=history)  # pyright: ignore
    with pytest.raises(ConfigError, match="on the cycle from the beginning"):
        transient_lifetime(MackeyGlass(n=7.0, tau=2.0), np.array([1.228329]), 5, n_delays=100)
