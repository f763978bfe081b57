"""Multiple shooting: its derivatives are exact, and it finds the parameters of noisy chaos."""

import numpy as np
import pytest
import torch
from mackeyglass import MackeyGlass, SegmentMap, inference, segments_from_series, simulate
from mackeyglass.inference import infer_parameters
from mackeyglass.series import curve
from mackeyglass.shooting import Shooting, logarithms
from sciml.errors import ConfigError, DataError, ShapeError

TRUTH = MackeyGlass(n=9.0, tau=1.6)
DT = 0.08


@pytest.fixture(scope="module")
def series():
    times = 160 + DT * np.arange(280)
    return torch.from_numpy(simulate(TRUTH, 0.9, (0, times[-1]), saveat=times, n_per_delay=48)["u"].values[0])


def noisy(u, share, seed=0):
    sigma = share * u.std().item()
    return u + sigma * torch.randn(len(u), generator=torch.Generator().manual_seed(seed), dtype=torch.float64), sigma


class TestShooting:
    """On a short series at parameters that are not the true ones."""

    @pytest.fixture
    def problem(self, series):
        start = TRUTH.with_parameters(n=8.7, tau=1.63)
        free = ("n", "tau", "beta", "gamma")
        shooting = Shooting(series[:110], DT, start, free, 0.02, n_nodes=10)
        return shooting, shooting.start(curve(series[:110], DT, smooth=True)), logarithms(start, free)

    def test_exact_parameters_and_histories_leave_no_residual(self, series):
        shooting = Shooting(series, DT, TRUTH, ("n", "tau"), 1.0, n_nodes=32)
        U = shooting.start(curve(series, DT, smooth=True))  # from splines through data without noise, smoothed a little
        theta = logarithms(TRUTH, ("n", "tau"))
        assert shooting.misfit(U, theta) < 5e-3
        assert shooting.misfit(U, theta + 0.05) > 1e-2

    def test_right_hand_side_is_minus_the_gradient(self, problem):
        shooting, U, theta = problem
        normal = shooting.normal_equations(U, theta, 0.5)
        dU, dtheta = torch.randn_like(U), torch.randn_like(theta)
        h = 1e-6
        up, down = (shooting.cost(U + s * h * dU, theta + s * h * dtheta, 0.5) for s in (1, -1))
        slope = -(normal.rhs * dU).sum() - normal.rhs_corner @ dtheta
        assert (up - down) / (2 * h) == pytest.approx(slope.item(), rel=1e-6)

    def test_steps_solve_the_normal_equations(self, problem):
        """Against the assembled dense matrix; without damping, it is JᵀJ of the residuals."""
        shooting, U, theta = problem
        normal = shooting.normal_equations(U, theta, 0.5)
        windows, nodes = U.shape

        def residuals(x):
            U, theta = x[: windows * nodes].reshape(windows, nodes), x[windows * nodes :]
            observed, after, early = shooting.predictions(U, theta)
            parts = [observed - shooting.observed, early - shooting.before, (after[:-1] - U[1:]) / 0.5]
            return torch.cat([part.flatten() for part in parts]) / shooting.noise

        x = torch.cat([U.flatten(), theta])
        columns = [torch.func.jvp(residuals, (x,), (e,))[1] for e in torch.eye(len(x), dtype=x.dtype)]
        J = torch.stack(columns, -1)
        matrix = J.mT @ J
        for damping in (0.0, 0.1):
            dense = matrix + damping * torch.diag(matrix.diagonal())
            expected = torch.linalg.solve(dense, -J.mT @ residuals(x))
            dU, step, information = normal.solve(damping)
            found = torch.cat([dU.flatten(), step])
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
            inverse = torch.linalg.inv(information)
            torch.testing.assert_close(inverse, torch.linalg.inv(dense)[-4:, -4:], rtol=1e-5, atol=1e-12)


def test_finds_n_and_tau(series):
    u, sigma = noisy(series, 0.01)
    found = infer_parameters(u, DT, TRUTH.with_parameters(n=8.0, tau=1.7), noise=sigma)
    assert found.converged
    assert not found.scanned
    assert found.misfit == pytest.approx(1, abs=0.15)
    for name in ("n", "tau"):
        value, error = float(found.system.parameters[name]), found.stderr[name]
        truth = float(TRUTH.parameters[name])
        assert abs(value / truth - 1) < 5e-3
        assert abs(value - truth) < 5 * error < 0.02 * truth


def test_finds_n_alone_where_the_delay_is_known(series):
    u, sigma = noisy(series[:180], 0.01)
    found = infer_parameters(u, DT, TRUTH.with_parameters(n=7.5), noise=sigma, free=("n",))
    assert found.converged
    assert set(found.stderr) == {"n"}
    assert float(found.system.tau) == 1.6
    assert float(found.system.n) == pytest.approx(9.0, abs=4 * found.stderr["n"])


def test_finds_all_four_parameters(series):
    u, sigma = noisy(series, 0.005, seed=1)
    start = MackeyGlass(n=8.3, tau=1.7, beta=2.2, gamma=1.1)
    found = infer_parameters(u, DT, start, noise=sigma, free=("n", "tau", "beta", "gamma"))
    assert found.converged
    for name, value in TRUTH.parameters.items():
        assert float(found.system.parameters[name]) == pytest.approx(value, rel=5e-3), name


def test_a_start_that_leads_nowhere_is_replaced(series):
    """Half the delay and n far away at once: a scan over both finds another start."""
    u, sigma = noisy(series[:180], 0.01)
    start = MackeyGlass(n=14.0, tau=0.8)
    found = infer_parameters(u, DT, start, noise=sigma)
    assert found.converged
    assert found.scanned
    assert float(found.system.tau) == pytest.approx(1.6, rel=5e-3)
    assert float(found.system.n) == pytest.approx(9.0, rel=2e-2)


def test_says_where_nothing_fits(series):
    """A series of another kind is not explained."""
    u = 1 + 0.3 * torch.sin(0.9 * torch.arange(120).double()) * torch.cos(0.013 * torch.arange(120).double() ** 2)
    with pytest.warns(UserWarning, match=r"times the given noise .* not explained"):
        found = infer_parameters(u, DT, TRUTH, noise=1e-3, max_iterations=3)
    assert not found.converged
    assert found.misfit > 2
    assert found.iterations <= 4 * 7 * 3


def test_gaps_are_tight_enough(series, monkeypatch):
    """A tenth of them would move no parameter by a thirtieth of its standard error."""
    u, sigma = noisy(series[:180], 0.01)
    found = infer_parameters(u, DT, TRUTH, noise=sigma)
    monkeypatch.setattr(inference, "LOOSENESS", (*inference.LOOSENESS, inference.LOOSENESS[-1] / 10))
    tighter = infer_parameters(u, DT, TRUTH, noise=sigma)
    for name, error in found.stderr.items():
        change = float(found.system.parameters[name]) - float(tighter.system.parameters[name])
        assert abs(change) < error / 30


def test_noise_that_is_given_too_small_widens_the_standard_errors(series):
    """A misfit of 1.6 is not explained, and errors are then those at the true noise."""
    u, sigma = noisy(series[:180], 0.01)
    exact = infer_parameters(u, DT, TRUTH, noise=sigma)
    ranges = {"n": (8.9, 9.1), "tau": (1.59, 1.61)}
    with pytest.warns(UserWarning, match="not explained"):
        found = infer_parameters(u, DT, TRUTH, noise=sigma / 1.6, scan=ranges)
    assert found.misfit == pytest.approx(1.6 * exact.misfit, rel=1e-2)
    assert not found.converged
    for name, error in exact.stderr.items():
        assert found.stderr[name] == pytest.approx(error * exact.misfit, rel=0.03)


def test_noise_that_is_given_too_large_is_told(series):
    u, sigma = noisy(series[:180], 0.01)
    with pytest.warns(UserWarning, match="it is too large"):
        found = infer_parameters(u, DT, TRUTH, noise=2 * sigma, free=("n",))
    assert not found.converged
    assert found.misfit == pytest.approx(0.5, abs=0.1)


def test_errors_of_many_draws_are_as_large_as_the_standard_errors(series):
    ratios = []
    for seed in range(8):
        u, sigma = noisy(series[:120], 0.01, seed)
        found = infer_parameters(u, DT, TRUTH, noise=sigma)
        ratios += [(float(found.system.parameters[k]) - TRUTH.parameters[k]) / e for k, e in found.stderr.items()]
    assert np.sqrt(np.mean(np.square(ratios))) == pytest.approx(1, abs=0.35)


def test_other_starts_are_looked_for_where_told(series):
    """The delay is 2.7 times the given one, outside of the ranges that are taken by default."""
    u, sigma = noisy(series[:150], 0.01)
    found = infer_parameters(
        u, DT, TRUTH.with_parameters(tau=0.65), noise=sigma, scan={"n": (8.0, 10.0), "tau": (1.5, 1.7)}
    )
    assert found.scanned
    assert found.converged
    assert float(found.system.tau) == pytest.approx(1.6, rel=5e-3)


class TestSegmentsFromSeries:
    def test_follow_each_other_and_the_map(self):
        """With an error of order four in the step."""
        fine = simulate(TRUTH, 0.9, (0, 40), saveat=0.02 * np.arange(2001), n_per_delay=48)["u"].values[0]
        exact = segments_from_series(fine[1000:], 0.02, 1.6)
        assert exact.shape == (12, 33)
        torch.testing.assert_close(exact[:-1, -1], exact[1:, 0], rtol=0, atol=1e-14)
        torch.testing.assert_close(SegmentMap(TRUTH)(exact[:-1]), exact[1:], rtol=0, atol=1e-7)
        # the first and the last segment see the ends of splines
        errors = [(segments_from_series(fine[1000::k], 0.02 * k, 1.6) - exact)[1:-1].abs().max().item() for k in (2, 4)]
        assert np.log2(errors[1] / errors[0]) == pytest.approx(4, abs=0.5)

    def test_of_a_batch(self, series):
        both = segments_from_series(torch.stack([series, series.flip(0)]), DT, 1.6, 8)
        assert both.shape == (13, 2, 9)
        torch.testing.assert_close(both[:, 1], segments_from_series(series.flip(0), DT, 1.6, 8), rtol=0, atol=0)

    def test_smoothing_takes_noise(self, series):
        u, _ = noisy(series, 0.01)
        exact = segments_from_series(series, DT, 1.6, 16)
        raw, smooth = (segments_from_series(u, DT, 1.6, 16, smooth=s) - exact for s in (False, True))
        assert 0.4 < smooth.std() / raw.std() < 0.8

    @pytest.mark.unchecked
    def test_wrong_arguments(self, series):
        with pytest.raises(ShapeError, match="one delay"):
            segments_from_series(series[:20], DT, 1.6)
        with pytest.raises(ConfigError, match="tau"):
            segments_from_series(series, DT, -1.0)
        with pytest.raises(ConfigError, match=r"nodes=8\.0"):
            segments_from_series(series, DT, 1.6, 8.0)
        with pytest.raises(DataError, match="finite"):
            segments_from_series(series / 0, DT, 1.6)


@pytest.mark.unchecked
def test_wrong_arguments(series):
    with pytest.raises(ConfigError, match="free"):
        infer_parameters(series, DT, TRUTH, noise=0.1, free=("theta",))
    with pytest.raises(ConfigError, match="free"):
        infer_parameters(series, DT, TRUTH, noise=0.1, free=())
    with pytest.raises(ConfigError, match="noise"):
        infer_parameters(series, DT, TRUTH, noise=0.0)
    with pytest.raises(ConfigError, match="dt"):
        infer_parameters(series, -1.0, TRUTH, noise=0.1)
    with pytest.raises(ConfigError, match="too few"):
        infer_parameters(series[:50], DT, TRUTH, noise=0.1)
    with pytest.raises(ConfigError, match="too few"):
        infer_parameters(series, 0.5, TRUTH, noise=0.1)
    with pytest.raises(ShapeError, match="one by one"):
        infer_parameters(series[None], DT, TRUTH, noise=0.1)
    with pytest.raises(DataError, match="finite"):
        infer_parameters((series / 0).tolist(), DT, TRUTH, noise=0.1)
    with pytest.raises(ConfigError, match="too few"):
        infer_parameters(series[:50].numpy(), DT, TRUTH, noise=0.1)
    with pytest.raises(DataError, match=r"falls to -1\.\d+, but solutions are positive"):
        infer_parameters((series - series.mean()) / series.std(), DT, TRUTH, noise=0.01)
    for change, told in (
        ({"max_iterations": 0}, "max_iterations=0 must be a positive whole number"),
        ({"n_nodes": 1}, "n_nodes=1"),
        ({"scan": {"beta": (1.0, 2.0)}}, "range of 'beta'"),
        ({"scan": {"n": (5.0, 9.0)}, "free": ("tau",)}, r"range of 'n'.*here: tau"),
        ({"scan": {"n": (12.0, 7.0)}}, "1 < low <= high"),
        ({"scan": {"tau": (0.0, 7.0)}}, "0 < low <= high"),
    ):
        with pytest.raises(ConfigError, match=told):
            infer_parameters(series, DT, TRUTH, noise=0.1, **change)
    with pytest.raises(ConfigError, match="one system"):
        infer_parameters(series, DT, MackeyGlass(n=torch.tensor([8.0, 9.0])), noise=0.1)
