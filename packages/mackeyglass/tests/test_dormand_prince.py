import itertools
import math

import pytest
import torch
from mackeyglass import DDE, MackeyGlass
from mackeyglass.dormand_prince import IntegrationError, breaking_points, solve_dde
from mackeyglass.segment_map import SegmentMap
from sciml.errors import ConfigError, ShapeError

A1 = torch.tensor([[-0.8, 1.1], [-0.9, -0.3]], dtype=torch.float64)
A2 = torch.tensor([[0.2, -0.7], [0.6, -0.5]], dtype=torch.float64)
TAU1, TAU2, DECAY = 1.0, math.sqrt(2) / 2, 0.4
START = torch.tensor([1.0, -0.5], dtype=torch.float64)

# with x(t) = e^{at} z(t) this is x' = A₁ x(t−τ₁) + A₂ x(t−τ₂), whose solution from a constant is a sum over words
LINEAR = DDE(
    lambda z, z1, z2, p: (
        -p.a * z
        + math.exp(-DECAY * TAU1) * torch.tensordot(A1, z1, 1)
        + math.exp(-DECAY * TAU2) * torch.tensordot(A2, z2, 1)
    ),
    [TAU1, TAU2],
    {"a": DECAY},
    dim=2,
)


def linear_history(t: torch.Tensor) -> torch.Tensor:
    return START[:, None] * torch.exp(-DECAY * t)


def exact_linear(t: float) -> torch.Tensor:
    """x(t) = c + Σ_w A_w (A₁ + A₂)c (t − τ(w))₊^{m+1}/(m+1)! over words w of m letters, by the method of steps."""
    x = START.clone()
    for m in range(math.ceil(t / TAU2) + 1):
        for word in itertools.product(((A1, TAU1), (A2, TAU2)), repeat=m):
            left = t - sum(delay for _, delay in word)
            if left > 0:
                term = (A1 + A2) @ START
                for matrix, _ in reversed(word):
                    term = matrix @ term
                x = x + term * left ** (m + 1) / math.factorial(m + 1)
    return math.exp(-DECAY * t) * x


def test_two_delays_and_two_components_against_the_analytic_solution():
    times = torch.tensor([0.0, 0.3, TAU2, 1.0, 1.9, 3.3, 5.0], dtype=torch.float64)
    exact = torch.stack([exact_linear(t) for t in times.tolist()], -1)
    for rtol in (1e-5, 1e-8, 1e-11):
        solution = solve_dde(LINEAR, linear_history, (0, 5), rtol=rtol, atol=rtol / 10)
        values = solution.evaluate(times)
        assert values.shape == (2, 7)
        assert (values - exact).abs().max() < 20 * rtol


def test_values_at_many_times_are_those_at_each():
    """In any order, of the history and of the solution, also where not all fit into one go."""
    weights = torch.tensor([1.0, 0.8, -0.3], dtype=torch.float64)
    solution = solve_dde(LINEAR, lambda t: linear_history(t)[:, None] * weights[:, None], (0, 5), rtol=1e-6, atol=1e-8)
    times = torch.rand(70_000, generator=torch.manual_seed(0), dtype=torch.float64) * 6 - 1
    values = solution.evaluate(times)
    assert values.shape == (2, 3, 70_000)
    for i in (0, 1, 2, 34_952, 34_953, 69_999):
        torch.testing.assert_close(values[..., i], solution.at(times[i].item()), rtol=0, atol=0)
    past = times <= 0
    torch.testing.assert_close(values[:, 0, past], linear_history(times[past]), rtol=1e-14, atol=0)
    torch.testing.assert_close(values[:, 1], 0.8 * values[:, 0], rtol=0, atol=1e-5)
    assert solution.evaluate(times[:0]).shape == (2, 3, 0)


def test_the_first_step_may_be_a_delay_whatever_the_rounding_of_times():
    system = DDE(lambda x, x_tau, p: 1e-3 * x_tau, [0.7], {})
    for t0 in torch.rand(20, generator=torch.manual_seed(0), dtype=torch.float64).tolist():
        solution = solve_dde(system, 1.0, (t0, t0 + 0.7))
        assert len(solution.times) == 2
        assert solution.at(t0 + 0.7).item() == pytest.approx(1.0007, abs=1e-12)


def test_steps_end_at_all_breaking_points():
    solution = solve_dde(LINEAR, linear_history, (0, 5), rtol=1e-3, atol=1e-3)
    assert set(solution.breaking_points) <= set(solution.times)
    expected = sorted(
        {
            round(i * TAU1 + j * TAU2, 9)
            for i in range(6)
            for j in range(6)
            if 0 < i + j <= 5 and i * TAU1 + j * TAU2 < 5
        }
    )
    assert [round(point, 9) for point in solution.breaking_points] == expected
    assert max(b - a for a, b in itertools.pairwise(solution.times)) <= TAU2


def test_equal_sums_of_delays_are_one_breaking_point():
    assert breaking_points(0.0, 0.75, [0.1, 0.2]) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert breaking_points(5.0, 5.5, [1.0]) == []


def test_reference_trajectory():
    system = MackeyGlass(beta=0.2, gamma=0.1, n=10, tau=17.0)
    times = torch.tensor([17.0, 34.0, 50.0, 100.0], dtype=torch.float64)
    values = solve_dde(system, 1.2, (0, 100), rtol=1e-10, atol=1e-12).evaluate(times)[0]
    level = 2.4 / (1 + 1.2**10)
    expected = [level + (1.2 - level) * math.exp(-1.7), 1.03232718829, 1.0609543629, 1.0137240165]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("t0", [0.0, -3.7])
def test_histories_of_all_kinds_agree_with_the_segment_map(t0):
    system = MackeyGlass(n=9.0, tau=1.5)
    segment_map = SegmentMap(system, 32)

    def history(s: torch.Tensor) -> torch.Tensor:
        return 0.9 + 0.2 * torch.sin(2 * s)

    U = segment_map.history(history)
    times = torch.linspace(0, 6, 13, dtype=torch.float64)
    reference = segment_map.evaluate(segment_map.trajectory(U, 4), times)
    for given in (history, U):
        solution = solve_dde(system, given, (t0, t0 + 6), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(solution.evaluate(t0 + times)[0], reference, rtol=0, atol=1e-7)
        past = torch.tensor([-1.5, -0.7], dtype=torch.float64)
        torch.testing.assert_close(solution.evaluate(t0 + past)[0], history(past), rtol=0, atol=1e-12)


def test_delays_much_shorter_than_the_scale_of_the_solution():
    # x' = −x(t−τ) has the solution e^{λt} with λ = −e^{−λτ} if its history is that
    tau = 0.02
    rate = -1.0
    for _ in range(60):
        rate = -math.exp(-rate * tau)
    system = DDE(lambda x, x_tau, p: -x_tau, [tau], {})
    solution = solve_dde(system, lambda s: torch.exp(rate * s), (0, 2), rtol=1e-9, atol=1e-12)
    assert solution.at(2.0).item() == pytest.approx(math.exp(2 * rate), rel=1e-9)
    assert len(solution.times) - 1 >= 100


def test_batch_takes_common_steps():
    n = torch.tensor([7.0, 9.0, 11.0], dtype=torch.float64)
    levels = torch.tensor([[0.5], [0.8], [1.2]], dtype=torch.float64)
    times = torch.tensor([3.3, 8.0], dtype=torch.float64)
    together = solve_dde(MackeyGlass(n=n), levels, (0, 8)).evaluate(times)
    assert together.shape == (1, 3, 2)
    for i in range(3):
        single = solve_dde(MackeyGlass(n=n[i].item()), levels[i].item(), (0, 8)).evaluate(times)
        torch.testing.assert_close(together[:, i], single, rtol=0, atol=1e-6)


def test_gradients_by_finite_differences():
    # steps follow the parameter slightly: differences see the solver's error change, hence the tight tolerances
    def run(n: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        solution = solve_dde(MackeyGlass(n=n, tau=1.0), level, (0, 2), rtol=1e-11, atol=1e-12)
        return solution.evaluate(torch.tensor([0.7, 2.0], dtype=torch.float64))

    inputs = tuple(torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (8.0, [0.8]))
    assert torch.autograd.gradcheck(run, inputs, eps=1e-4, rtol=1e-5, atol=1e-7)


@pytest.mark.unchecked
def test_derivatives_by_a_delay_are_refused():
    tau = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    also_in_the_field = DDE(lambda x, x_tau, p: -x - p.tau * torch.tanh(x_tau), ["tau"], {"tau": tau})
    for system in (also_in_the_field, MackeyGlass(tau=tau)):
        with pytest.raises(ConfigError, match=r"by \.detach"):
            solve_dde(system, 0.5, (0.0, 3.0))
        with torch.no_grad():
            solved = solve_dde(system, 0.5, (0.0, 3.0)).at(3.0)
        detached = solve_dde(system.with_parameters(tau=tau.detach()), 0.5, (0.0, 3.0)).at(3.0)
        assert torch.equal(solved, detached)


@pytest.mark.parametrize("rtol", [1e-2, 1e-4])
def test_steps_are_not_longer_than_the_shortest_delay_at_loose_tolerances(rtol):
    """x' = −3y with y = x(t−0.3) + 0·x(t−5) decays; steps past the shortest delay would extrapolate."""
    system = DDE(lambda x, y, z, p: -3 * y + 0 * z, [0.3, 5.0], {})
    solution = solve_dde(system, 1.0, (0, 30), rtol=rtol, atol=1e-6)
    assert max(b - a for a, b in itertools.pairwise(solution.times)) <= 0.3 * (1 + 1e-12)
    fine = solve_dde(system, 1.0, (0, 30), rtol=1e-10, atol=1e-12)
    times = torch.linspace(0, 30, 61, dtype=torch.float64)
    assert (solution.evaluate(times) - fine.evaluate(times)).abs().max() < 10 * rtol


def test_tolerance_holds_in_each_sample_of_a_batch():
    """One that oscillates fast among many at rest: their average error would be a hundred times smaller."""
    system = DDE(lambda x, x_tau, p: p.rate * (torch.sin(8 * x_tau) - x), [0.5], {"rate": torch.ones(10_000).double()})
    rate = torch.zeros(10_000, dtype=torch.float64)
    rate[3] = 5.0
    errors = []
    for sizes in (rate, rate[3:4]):
        batched = system.with_parameters(rate=sizes)
        solution = solve_dde(batched, 0.7, (0, 4), rtol=1e-6, atol=1e-8)
        errors.append(len(solution.times))
    assert errors[0] == errors[1]


@pytest.mark.unchecked
def test_wrong_input_and_failures_have_their_errors():
    with pytest.raises(ConfigError, match="later end"):
        solve_dde(MackeyGlass(), 1.0, (3.0, 3.0))
    with pytest.raises(ConfigError, match="rtol"):
        solve_dde(MackeyGlass(), 1.0, (0.0, 1.0), rtol=0.0)
    with pytest.raises(ConfigError, match="differ by sample"):
        solve_dde(MackeyGlass(tau=torch.tensor([1.0, 2.0])), 1.0, (0.0, 1.0))
    with pytest.raises(ShapeError, match=r"\(2, times\)"):
        solve_dde(LINEAR, torch.ones(3, 1), (0.0, 1.0))
    solution = solve_dde(MackeyGlass(tau=2.0), 1.0, (0.0, 1.0))
    for time in (1.5, -2.5, math.nan):
        with pytest.raises(ConfigError, match="between -2, where the history begins, and 1"):
            solution.evaluate(torch.tensor([0.5, time], dtype=torch.float64))
    explosive = DDE(lambda x, x_tau, p: x**2 + 0 * x_tau, [1.0], {})
    with pytest.raises(IntegrationError, match=r"t = 0\.5|t = 0\.49"):
        solve_dde(explosive, 2.0, (0.0, 1.0))
    with pytest.raises(IntegrationError, match="10 steps lead to"):
        solve_dde(MackeyGlass(), 0.8, (0.0, 100.0), max_steps=10)
