"""Multiple shooting: its derivatives are exact, and it finds the parameters of noisy chaos."""

import numpy as np
import pytest
import torch
from mackeyglass import MackeyGlass, simulate
from mackeyglass.inference import infer_parameters
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
        return shooting, shooting.start(1.63), logarithms(start, free)

    def test_exact_parameters_and_histories_leave_no_residual(self, series):
        shooting = Shooting(series, DT, TRUTH, ("n", "tau"), 1.0, n_nodes=32)
        U = shooting.start(1.6)  # from splines through data without noise, smoothed a little
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
    found = infer_parameters(u, DT, TRUTH, noise=1e-3, max_iterations=3)
    assert not found.converged
    assert found.misfit > 2


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
    with pytest.raises(ConfigError, match="one system"):
        infer_parameters(series, DT, MackeyGlass(n=torch.tensor([8.0, 9.0])), noise=0.1)
