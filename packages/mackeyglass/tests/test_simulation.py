import math
import warnings

import numpy as np
import pytest
import torch
from mackeyglass import DDE, IntegrationError, MackeyGlass
from mackeyglass import simulation as module
from mackeyglass.identities import averages
from mackeyglass.learned_equation import LearnedDDE
from mackeyglass.segment_map import SegmentMap
from mackeyglass.simulation import simulate
from sciml.errors import ConfigError, ShapeError
from torch import nn

CLASSIC = MackeyGlass(beta=0.2, gamma=0.1, n=10, tau=17.0)
REFERENCE = {50: 1.0609543629, 100: 1.0137240165, 200: 1.1867181071, 306: 0.80364320211}


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("method", "n_per_delay", "tolerance"), [("segment", 48, 5e-11), ("rk4", 600, 2e-9), ("dopri5", None, 2e-7)]
)
def test_methods_reach_the_reference(method, n_per_delay, tolerance):
    result = simulate(
        CLASSIC, 1.2, (0, 306), method=method, n_per_delay=n_per_delay, saveat=list(REFERENCE), rtol=1e-10
    )
    np.testing.assert_allclose(result.u[0], list(REFERENCE.values()), rtol=0, atol=tolerance)
    assert result.attrs["integrator"] == method


def test_result_is_labelled():
    n = tensor(8.0, 9.0, 10.0)
    result = simulate(MackeyGlass(n=n), 0.8, (5.0, 9.0), dt=0.5)
    assert result.u.dims == ("batch", "time")
    np.testing.assert_allclose(result.time, np.arange(5.0, 9.25, 0.5))
    np.testing.assert_array_equal(result.n, n)
    assert result.n.dims == ("batch",)
    assert result.attrs["tau"] == 2.0
    assert result.attrs["equation"] == "MackeyGlass"
    assert result.attrs["integrator"] == "segment"
    assert result.attrs["resolution"] < 1e-6
    assert result.time.attrs["units"] == "1"
    np.testing.assert_allclose(result.u[:, 0], 0.8, rtol=1e-14)
    single = simulate(MackeyGlass(), 0.8, (0, 4))
    assert single.u.shape == (1, 65)


def test_components_have_a_dimension():
    system = DDE(lambda x, x_tau, p: torch.stack([x[1], -p.k * x_tau[0]]), [1.0], {"k": tensor(1.0, 2.0, 3.0)}, dim=2)
    result = simulate(system, 0.3, (0, 3), dt=0.25)
    assert result.u.dims == ("batch", "component", "time")
    assert result.u.shape == (3, 2, 13)
    assert result.attrs["integrator"] == "dopri5"
    # until t = 1 the second component is 0.3 − 0.3kt
    np.testing.assert_allclose(result.u[:, 1, 4], 0.3 - 0.3 * np.array([1.0, 2.0, 3.0]), atol=1e-8)


@pytest.mark.parametrize("method", ["segment", "rk4"])
def test_one_delay_serves_a_batch(method):
    histories = tensor(0.7, 0.8, 0.9)[:, None]
    for n in (9.65, tensor(8.0, 9.0, 10.0)):
        found = simulate(MackeyGlass(n=n, tau=tensor(2.0)), histories, (0, 5), method=method, saveat=[0.3, 5.0])
        expected = simulate(MackeyGlass(n=n, tau=2.0), histories, (0, 5), method=method, saveat=[0.3, 5.0])
        np.testing.assert_allclose(found.u, expected.u, rtol=1e-13)


@pytest.mark.parametrize("method", ["segment", "rk4"])
def test_delays_that_differ_by_sample(method, monkeypatch):
    tau = tensor(1.0, 1.7, 2.4)
    expected = [simulate(MackeyGlass(tau=t), 0.8, (0, 25), method=method, dt=0.1).u[0] for t in tau.tolist()]
    monkeypatch.setattr(module, "CHUNK", 600)  # several chunks, whose ends differ by sample
    result = simulate(
        MackeyGlass(tau=tau), 0.8, (0, 25), method=method, saveat=np.arange(251) / 10,
        n_per_delay=24 if method == "rk4" else None,
    )  # fmt: skip
    tolerance = 1e-11 if method == "segment" else 1e-3
    for row, one in zip(result.u, expected, strict=True):
        np.testing.assert_allclose(row[:100], one[:100], rtol=0, atol=tolerance)
        assert np.isfinite(row).all()


def test_chunks_do_not_show(monkeypatch):
    whole = simulate(CLASSIC, lambda t: 1 + 0.2 * torch.sin(t / 3), (0, 400), dt=1.0)
    monkeypatch.setattr(module, "CHUNK", 70)
    parts = simulate(CLASSIC, lambda t: 1 + 0.2 * torch.sin(t / 3), (0, 400), dt=1.0)
    np.testing.assert_allclose(parts.u, whole.u, rtol=0, atol=1e-13)


def test_samples_of_a_batch_get_what_they_get_alone():
    levels = torch.linspace(0.5, 1.3, 5, dtype=torch.float64)
    together = simulate(CLASSIC, levels[:, None], (0, 500), dt=1.0)
    for i, level in enumerate(levels.tolist()):
        np.testing.assert_array_equal(together.u[i], simulate(CLASSIC, level, (0, 500), dt=1.0).u[0])


def test_histories_on_nodes_continue_a_run():
    segment_map = SegmentMap(CLASSIC, 32)
    U = segment_map.trajectory(segment_map.history(1.2), 5)[-1]
    continued = simulate(CLASSIC, U, (85, 170), dt=1.0)
    whole = simulate(CLASSIC, 1.2, (0, 170), dt=1.0)
    np.testing.assert_allclose(continued.u, whole.u[:, 85:], rtol=0, atol=1e-11)


def test_scaling_symmetry():
    system = MackeyGlass(beta=0.2, gamma=0.1, n=9.65, tau=17.0, theta=1.5)
    times = np.linspace(0, 200, 41)
    original = simulate(system, 1.2, (0, 200), saveat=times, n_per_delay=48).u
    scaled = simulate(system.scaled(), 0.8, (0, 20), saveat=0.1 * times, n_per_delay=48).u
    np.testing.assert_allclose(original / 1.5, scaled, rtol=1e-9)


def test_long_delays_are_divided_into_panels():
    result = simulate(MackeyGlass(tau=10.0), 0.8, (0, 40), dt=1.0)
    assert result.attrs["panels"] == 3
    expected = simulate(MackeyGlass(tau=10.0), 0.8, (0, 40), dt=1.0, n_per_delay=64)
    np.testing.assert_allclose(result.u, expected.u, rtol=0, atol=1e-5)


def test_unresolved_segments_are_reported():
    system, times = MackeyGlass(n=20, tau=3.0), [10.0, 30.0]
    with pytest.warns(UserWarning, match="raise n_per_delay"):
        coarse = simulate(system, 0.8, (0, 30), n_per_delay=12, saveat=times)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fine = simulate(system, 0.8, (0, 30), n_per_delay=96, saveat=times)
    assert float(np.abs(coarse.u - fine.u).max()) > 1e-3


def test_a_relative_error_of_some_1e_4_is_reported():
    with pytest.warns(UserWarning, match="20 nodes leave a relative error of about .* raise n_per_delay"):
        found = simulate(MackeyGlass(n=12.0, tau=2.0), 0.8, (0, 60), n_per_delay=20)
    assert 1e-5 < found.attrs["resolution"] < 1e-3


def test_histories_that_are_not_resolved_are_reported():
    # errors are 5e-2 and 2e-2; the solution alone looks resolved to 8e-4 and 5e-4
    for frequency, n_per_delay in ((26, 32), (60, 100)):
        with pytest.warns(UserWarning, match="raise n_per_delay") as caught:
            simulate(MackeyGlass(), lambda t, f=frequency: 1 + 0.4 * torch.sin(f * t), (0, 2), n_per_delay=n_per_delay)
        assert 5e-3 < float(str(caught[0].message).split()[8]) < 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for history in (1.2, lambda t: 1 + 0.2 * t, lambda t: 1 + 0.2 * torch.sin(2 * t)):
            simulate(MackeyGlass(n=15.0), history, (0, 2))


@pytest.mark.unchecked
def test_solutions_that_leave_the_numbers_are_refused():
    learned = LearnedDDE(Square(), 1.0, 1.7)
    for method in ("segment", "rk4"):
        with pytest.raises(IntegrationError, match="left the floating-point numbers"):
            simulate(learned, 3.0, (0, 40), method=method)


class Square(nn.Module):
    """A production without bound."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x**2


class Tent(nn.Module):
    """A production that is learned, as far as its type tells."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x / (1 + x**10)


@pytest.mark.unchecked
def test_all_methods_take_learned_equations_with_linear_decay():
    learned, exact = LearnedDDE(Tent(), 1.0, 1.7), simulate(MackeyGlass(n=10, tau=1.7), 0.8, (0, 9), dt=0.5)
    found = simulate(learned, 0.8, (0, 9), dt=0.5)
    assert found.attrs["integrator"] == "segment"
    np.testing.assert_allclose(found.u, exact.u, rtol=0, atol=1e-12)
    for method, tolerance in (("rk4", 1e-6), ("dopri5", 1e-6)):
        found = simulate(learned, 0.8, (0, 9), saveat=exact.time.values, method=method)
        np.testing.assert_allclose(found.u, exact.u, rtol=0, atol=tolerance)


@pytest.mark.unchecked
def test_nothing_is_kept_for_derivatives():
    seen = []

    class Watch(Tent):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_grad_enabled())
            return super().forward(x)

    system = LearnedDDE(Watch(), 1.0, 1.7)
    for method in ("segment", "rk4", "dopri5"):
        seen.clear()
        simulate(system, 0.8, (0, 3), method=method, n_per_delay=None if method == "dopri5" else 16)
        assert seen
        assert not any(seen)


def test_step_that_does_not_divide_the_delay_is_shortened():
    with pytest.warns(UserWarning, match=r"the step is τ/167"):
        result = simulate(CLASSIC, 1.2, (0, 100), method="rk4", dt=0.102)
    assert result.attrs["n_per_delay"] == 167
    np.testing.assert_allclose(np.diff(result.time), 0.102)
    exact = simulate(CLASSIC, 1.2, (0, 100), saveat=result.time.values)
    np.testing.assert_allclose(result.u, exact.u, rtol=0, atol=2e-7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert simulate(CLASSIC, 1.2, (0, 20), method="rk4", dt=0.1).attrs["n_per_delay"] == 170


def test_float32():
    single = simulate(CLASSIC, 1.2, (0, 34), dt=1.0, dtype=torch.float32)
    double = simulate(CLASSIC, 1.2, (0, 34), dt=1.0)
    np.testing.assert_allclose(single.u, double.u, rtol=1e-4)
    assert single.attrs["dtype"] == "float32"


@pytest.mark.parametrize("tau", [2.0, tensor(2.0)])
def test_float32_samples_long_runs_at_the_right_times(tau):
    times = np.arange(7_996, 8_000, 0.002)
    system = MackeyGlass(n=7.0, tau=tau)  # on a cycle, so that phases alone can differ
    single, double = (
        simulate(system, 0.9, (0, 8e3), saveat=times, dtype=d).u[0] for d in (torch.float32, torch.float64)
    )
    for order in (1, 2):
        steps = [float(np.abs(np.diff(u, order)).max()) for u in (single, double)]
        assert steps[0] == pytest.approx(steps[1], abs=4 * 33 * 1.2e-7)  # rounding, at 33 nodes and three times


def test_zero_history_stays_zero():
    with pytest.warns(UserWarning, match="so is its solution"):
        assert not simulate(CLASSIC, 0.0, (0, 50), method="rk4").u.any()


@pytest.mark.slow
@pytest.mark.unchecked
def test_averages_over_an_attractor_satisfy_their_identities():
    segment_map = SegmentMap(MackeyGlass(n=9.65, tau=2.0), 32)
    U = segment_map.trajectory(segment_map.history(0.8), 500)[-1]
    segments = segment_map.trajectory(U, 50_000)  # 1e5 time units
    # boundary terms vanish where the last value is the first one
    change = (segments[40_000:, -1] - segments[0, -1]).abs()
    segments = segments[: 40_001 + int(change.argmin())]
    found = averages(segment_map, segments)
    assert found.production == pytest.approx(found.decay, rel=1e-7)
    assert found.difference == pytest.approx(found.squared_slope, rel=1e-7)

    # E u, E u² and E u'² of 1.2e5 time units of another integrator, within four standard errors of both
    blocks = [averages(segment_map, block) for block in segments[:40_000].split(800)]
    expected = {"mean": 0.92471, "variance": 0.057204, "squared_slope": 0.099937}
    for name, value in expected.items():
        error = np.std([getattr(block, name) for block in blocks]) / math.sqrt(len(blocks))
        assert getattr(found, name) == pytest.approx(value, abs=4 * math.sqrt(2) * error)
        assert error < 1e-3


def test_identities_lack_boundary_terms_only():
    system = MackeyGlass(n=tensor(9.0, 10.0), gamma=tensor(0.9, 1.1), tau=tensor(1.5, 1.5))
    segment_map = SegmentMap(system, 40)
    segments = segment_map.trajectory(segment_map.history(0.8), 30)
    found, time = averages(segment_map, segments), 29 * 1.5
    change = segments[-1, :, -1] - segments[0, :, -1]
    assert found.production - found.decay == pytest.approx(change.mean().item() / time, abs=1e-9)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t_span": (5, 5)}, "later end"),
        ({"t_span": (0, math.nan)}, "later end"),
        ({"saveat": []}, "one or more times"),
        ({"saveat": [0.0, 11.0]}, "within t_span"),
        ({"saveat": [-1.0, 1.0]}, "within t_span"),
        ({"saveat": [2.0, 1.0]}, "sort it"),
        ({"saveat": [1.0, math.nan]}, "sort it"),
        ({"dt": 0.0}, "dt must be positive"),
        ({"dt": -0.1}, "dt must be positive"),
        ({"n_per_delay": 1}, "at least 2 for segment"),
        ({"n_per_delay": 0, "method": "rk4"}, "at least 1 for rk4"),
        ({"n_per_delay": 32.0}, "whole number, got 32.0"),
        ({"method": "euler"}, "'euler'"),
        ({"method": "rk4", "dt": 0.1, "n_per_delay": 10}, "give one of them"),
        ({"history": -0.5}, "must be positive"),
        ({"history": torch.ones(2, 20, dtype=torch.float64)}, "33 nodes"),
        ({"history": torch.ones(33, dtype=torch.int64)}, "floating-point"),
        ({"system": DDE(lambda x, x_tau, p: -x_tau, [1.0], {}), "method": "segment"}, "linear decay"),
        ({"history": torch.ones(2, 3, 1, dtype=torch.float64)}, "one axis"),
        ({"history": torch.ones(2, 3, 1).double(), "system": MackeyGlass(tau=tensor(1.0, 2.0, 3.0))}, "one axis"),
        ({"history": torch.ones(0, 1, dtype=torch.float64)}, "no samples"),
        ({"history": torch.ones(0, 1, dtype=torch.float64), "method": "dopri5"}, "no samples"),
        ({"dtype": torch.int64, "method": "rk4"}, "torch.int64"),
        ({"dtype": torch.float16}, "torch.float16"),
        ({"dtype": torch.bfloat16, "method": "dopri5"}, "torch.bfloat16"),
        ({"system": "x"}, "must be a DDE"),
    ],
)
def test_wrong_input_is_refused(options, message):
    arguments = {"system": MackeyGlass(), "history": 0.8, "t_span": (0, 10), **options}
    with pytest.raises(ShapeError if message in ("33 nodes", "no samples") else ConfigError, match=message):
        simulate(arguments.pop("system"), arguments.pop("history"), arguments.pop("t_span"), **arguments)
