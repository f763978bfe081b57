import itertools
import math
import sys
from dataclasses import replace

import pytest
import torch
from mackeyglass import MackeyGlass
from mackeyglass.forward import jvp
from mackeyglass.runge_kutta import RungeKutta4
from mackeyglass.segment_map import SegmentMap
from sciml.errors import ConfigError, ShapeError
from torch.autograd import forward_ad

CLASSIC = MackeyGlass(beta=0.2, gamma=0.1, n=10, tau=17.0)
AT_306 = 0.80364320211


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def classic(steps: int, *times: float, engine="torch") -> torch.Tensor:
    solver = RungeKutta4(CLASSIC, steps, engine=engine)
    return solver.run(solver.history(1.2), 18).evaluate(tensor(*times))


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_order_is_four_from_a_constant_history(engine):
    # u' jumps at t = 0: with one slope there the order would be 2
    errors = [abs(classic(17 * 2**j, 306, engine=engine).item() - AT_306) for j in range(4)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(4, abs=0.15)
    assert errors[3] < 6.1e-9


def test_dense_output_has_order_four():
    exact = SegmentMap(CLASSIC, 64)
    times = torch.linspace(0, 51, 500, dtype=torch.float64)
    reference = exact.evaluate(exact.trajectory(exact.history(1.2), 3), times)
    errors = [(classic(steps, *times.tolist()) - reference).abs().max().item() for steps in (100, 200, 400)]
    assert math.log2(errors[1] / errors[2]) == pytest.approx(4, abs=0.3)
    assert errors[2] < 1e-7


def test_late_times_are_as_exact_as_early_ones_in_float32():
    system, k = MackeyGlass(tau=torch.tensor([2.0])), 50_000
    wave = math.pi * torch.linspace(0, 2, 101, dtype=torch.float64)[:, None]
    solver = RungeKutta4(system, 100, dtype=torch.float32)
    solution = solver.run(solver.history(0.9), 1)
    solution = replace(
        solution, values=wave.sin().float().expand(k, -1, 1), slopes=(math.pi * wave.cos()).float().expand(k, -1, 1)
    )
    times = 2.0 * k - 4.0 + 0.001 * torch.arange(4000, dtype=torch.float64)
    found = solution.evaluate(times)[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.sin(math.pi * times), rtol=0, atol=3e-6)


def test_first_interval_is_the_analytic_solution():
    level = 2.4 / (1 + 1.2**10)
    assert classic(100, 17).item() == pytest.approx(level + (1.2 - level) * math.exp(-1.7), abs=1e-9)


@pytest.mark.parametrize("n", [9.65, 10, 7])
def test_engines_give_the_same_numbers(n):
    tau = torch.linspace(1, 2.5, 6, dtype=torch.float64)
    system = MackeyGlass(n=n, tau=tau, theta=1.2)
    runs = []
    for engine in ("torch", "numba"):
        solver = RungeKutta4(system, 40, engine=engine)
        runs.append(solver.run(solver.history(lambda t: 1 + 0.5 * torch.sin(t)), 5))
    torch.testing.assert_close(runs[0].values, runs[1].values, rtol=1e-12, atol=0)
    torch.testing.assert_close(runs[0].slopes, runs[1].slopes, rtol=0, atol=1e-12)
    torch.testing.assert_close(runs[0].state, runs[1].state, rtol=1e-12, atol=0)
    times = tau[:, None] * tensor(0.0, 0.33, 4.9, 5.0)
    torch.testing.assert_close(runs[0].evaluate(times), runs[1].evaluate(times), rtol=1e-12, atol=0)


def test_engines_agree_on_negative_values_of_whole_exponents():
    for n in (4, 5):
        runs = []
        for engine in ("torch", "numba"):
            solver = RungeKutta4(MackeyGlass(n=n, tau=1.0), 10, engine=engine)
            runs.append(solver.run(solver.history(-0.6), 3).values)
        assert (runs[0] < 0).any()
        torch.testing.assert_close(runs[0], runs[1], rtol=1e-12, atol=1e-14)


def test_float32_and_systems_given_in_another_precision():
    system = MackeyGlass(n=tensor(8.0, 9.65))
    single, double = RungeKutta4(system, 50, dtype=torch.float32), RungeKutta4(system, 50)
    values = single.run(single.history(0.8), 2).values
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), double.run(double.history(0.8), 2).values, rtol=1e-4, atol=0)


def test_samples_of_a_batch_get_what_they_get_alone():
    n = torch.linspace(7, 12, 9, dtype=torch.float64)
    solver = RungeKutta4(MackeyGlass(n=n, tau=n / 5), 30, engine="numba")
    together = solver.run(solver.history(0.8), 20).values
    for i in range(9):
        single = RungeKutta4(MackeyGlass(n=n[i].item(), tau=n[i].item() / 5), 30, engine="numba")
        assert torch.equal(single.run(single.history(0.8), 20).values, together[..., i])


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_a_run_continues_from_its_state(engine):
    solver = RungeKutta4(MackeyGlass(), 20, engine=engine)
    whole = solver.run(solver.history(0.8), 6)
    first = solver.run(solver.history(0.8), 2)
    rest = solver.run(first.state, 4)
    assert torch.equal(whole.values[2:], rest.values)
    assert torch.equal(whole.state, rest.state)
    torch.testing.assert_close(rest.values[0, 0], first.values[-1, -1], rtol=0, atol=0)


def test_gradients_by_finite_differences():
    def run(n: torch.Tensor, gamma: torch.Tensor, tau: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        solver = RungeKutta4(MackeyGlass(n=n, gamma=gamma, tau=tau), 5)
        return solver.run(solver.history(level), 2).evaluate(tensor(0.4, 2.0))

    inputs = tuple(x.requires_grad_() for x in (tensor(9.0)[0], tensor(0.9)[0], tensor(1.3)[0], tensor(0.7)))
    assert torch.autograd.gradcheck(run, inputs, eps=1e-6, rtol=1e-6, atol=1e-8)


def test_statistics_of_chaos_agree_with_the_segment_map():
    system = MackeyGlass()
    levels = torch.linspace(0.5, 1.3, 64, dtype=torch.float64)[:, None]
    solver, segment_map = RungeKutta4(system, 100), SegmentMap(system, 32)
    state = solver.run(solver.history(levels), 100).state
    ours = solver.run(state, 300).values[:, :-1].mean().item()
    U = segment_map.trajectory(segment_map.history(levels), 100)[-1]
    other = ((segment_map.trajectory(U, 300) * segment_map.weights).sum(-1) / 2).mean().item()
    assert ours == pytest.approx(other, abs=1e-3)
    assert ours == pytest.approx(0.92471, abs=1e-3)


@pytest.mark.unchecked
def test_wrong_input_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="steps=0 must be a positive whole number"):
        RungeKutta4(CLASSIC, 0)
    with pytest.raises(ConfigError, match="'euler'"):
        RungeKutta4(CLASSIC, 10, engine="euler")
    with pytest.raises(ConfigError, match="float64 on CPU only"):
        RungeKutta4(CLASSIC, 10, engine="numba", dtype=torch.float32)
    solver = RungeKutta4(CLASSIC, 10)
    with pytest.raises(ShapeError, match=r"\(21, …\)"):
        solver.run(torch.ones(11, dtype=torch.float64), 1)
    with pytest.raises(ShapeError, match="21 ends and middles"):
        solver.history(torch.ones(3, 11))
    batched = RungeKutta4(MackeyGlass(n=tensor(8, 9, 10)), 10)
    with pytest.raises(ShapeError, match=r"\(21, …, 3\)"):
        batched.run(torch.ones(21, 2, dtype=torch.float64), 1)
    with pytest.raises(ConfigError, match="between 0 and 2 delays"):
        solver.run(solver.history(1.2), 2).evaluate(tensor(35.0))
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ConfigError, match=r"mackeyglass\[fast\]"):
        RungeKutta4(CLASSIC, 10, engine="numba")
    assert RungeKutta4(CLASSIC, 10).run(solver.history(1.2), 1).values.shape == (1, 11)


def test_forward_derivatives_are_not_dropped():
    system = MackeyGlass(n=8.0, tau=1.7)
    solver, torch_solver = RungeKutta4(system, 10), RungeKutta4(system, 10, engine="torch")
    state = solver.history(torch.tensor([[0.7]], dtype=torch.float64))

    def derivative(solver: RungeKutta4) -> torch.Tensor:
        return jvp(lambda x: solver.run(x, 2).values, (state,), (torch.ones_like(state),))[1]

    expected = derivative(torch_solver)
    assert expected.abs().max() > 0.1
    assert torch.equal(derivative(solver), expected)
    with forward_ad.dual_level():
        found = solver.run(forward_ad.make_dual(state, torch.ones_like(state)), 2).values
        torch.testing.assert_close(forward_ad.unpack_dual(found).tangent, expected)
        n = forward_ad.make_dual(tensor(8.0)[0], tensor(1.0)[0])
        found = RungeKutta4(MackeyGlass(n=n, tau=1.7), 10).run(state, 2).values
        assert forward_ad.unpack_dual(found).tangent is not None
    together = torch.func.vmap(lambda x: solver.run(x, 1).values)(torch.stack([state, 0.8 * state]))
    assert torch.equal(together[0], torch_solver.run(state, 1).values)


def test_runs_follow_parameters_that_are_trained():
    n = torch.tensor(8.0, requires_grad=True)  # not in the dtype of the computation
    solver = RungeKutta4(MackeyGlass(n=n, tau=1.7), 10)
    with torch.no_grad():
        n += 1
    expected = RungeKutta4(MackeyGlass(n=9.0, tau=1.7), 10, engine="torch")
    assert torch.equal(solver.run(solver.history(0.7), 2).values, expected.run(expected.history(0.7), 2).values)


@pytest.mark.unchecked
def test_what_cannot_be_computed_is_refused():
    for arguments, message in (({"steps": 2.5}, "steps=2.5"), ({"dtype": torch.int32}, "torch.int32")):
        with pytest.raises(ConfigError, match=message):
            RungeKutta4(CLASSIC, **arguments)
    solver = RungeKutta4(CLASSIC, 10, engine="numba")
    state = solver.history(1.2).requires_grad_()
    with pytest.raises(ConfigError, match="engine='torch'"):
        solver.run(state, 1)
    with torch.no_grad():
        assert solver.run(state, 1).values.shape == (1, 11)
