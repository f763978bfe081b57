import math

import pytest
import torch
from mackeyglass import MackeyGlass
from mackeyglass.chebyshev import lagrange_basis, lobatto_nodes
from mackeyglass.extrema import local_maxima
from mackeyglass.segment_map import SegmentMap
from sciml.errors import ConfigError, ShapeError
from torch import nn

CLASSIC = MackeyGlass(beta=0.2, gamma=0.1, n=10, tau=17.0)
# u(t) from the history 1.2, to the digits that RK4, an adaptive solver and this map have in common
REFERENCE = {34: 1.03232718829, 50: 1.0609543629, 100: 1.0137240165, 200: 1.1867181071, 340: 1.0068379929}
AT_300, AT_306 = 1.1525150999928, 0.80364320211


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def classic(n_nodes: int, *times: float) -> torch.Tensor:
    segment_map = SegmentMap(CLASSIC, n_nodes)
    return segment_map.evaluate(segment_map.trajectory(segment_map.history(1.2), 20), tensor(*times))


def test_reference_trajectory():
    torch.testing.assert_close(classic(64, *REFERENCE), tensor(*REFERENCE.values()), rtol=0, atol=5e-11)
    torch.testing.assert_close(classic(64, 300, 306), tensor(AT_300, AT_306), rtol=0, atol=5e-12)


def test_first_interval_is_the_analytic_solution():
    level = 2.4 / (1 + 1.2**10)
    times = torch.linspace(0, 17, 30, dtype=torch.float64)
    torch.testing.assert_close(
        classic(8, *times.tolist()), level + (1.2 - level) * torch.exp(-0.1 * times), rtol=0, atol=1e-8
    )
    assert classic(32, 17).item() == pytest.approx(level + (1.2 - level) * math.exp(-1.7), abs=1e-15)


def test_convergence_is_spectral():
    errors = [abs(classic(m, 306).item() - classic(80, 306).item()) for m in (16, 24, 32, 48)]
    assert errors[0] < 1e-6
    assert errors[1] < 1e-8
    assert errors[2] < 1e-10
    assert errors[3] < 1e-12
    assert errors[1] / errors[2] > 50  # eight nodes more; a fixed order p would give (4/3)^p


def test_panels_agree_with_one_panel_and_resolve_long_delays():
    times = tensor(0.1, 5.9, 6.0, 11.0, 30.0)
    system = MackeyGlass(n=9.65, tau=6.0)

    def trajectory(n_nodes: int, panels: int) -> torch.Tensor:
        segment_map = SegmentMap(system, n_nodes, panels)
        history = segment_map.history(lambda t: 1 + 0.3 * torch.sin(t))
        return segment_map.evaluate(segment_map.trajectory(history, 5), times)

    reference = trajectory(160, 1)
    torch.testing.assert_close(trajectory(32, 6), reference, rtol=0, atol=1e-9)
    assert (trajectory(32, 1) - reference).abs().max() > 1e-5


def test_resolution_estimates_the_error():
    for n_nodes in (16, 24, 32):
        segment_map, fine = SegmentMap(CLASSIC, n_nodes), SegmentMap(CLASSIC, 96)
        following = fine.trajectory(fine.history(1.2), 16)[-1:]
        coarse = fine.evaluate(following, segment_map.nodes)  # resolved, but for the number of nodes
        middles = (segment_map.nodes[1:] + segment_map.nodes[:-1]) / 2
        error = (segment_map.evaluate(coarse[None], middles) - fine.evaluate(following, middles)).abs().max().item()
        assert error / 10 < segment_map.resolution(coarse).item() < 100 * error


def test_resolution_sees_the_last_three_coefficients():
    segment_map = SegmentMap(CLASSIC, 16)
    angles = torch.arccos(1 - 2 * segment_map.nodes / 17)
    for degree, expected in ((16, 0.1), (15, 0.1), (14, 0.1), (13, 0.0)):
        U = 1 + 0.1 * torch.cos(degree * angles)
        assert segment_map.resolution(U).item() == pytest.approx(expected, abs=1e-14)


def test_weights_integrate_and_evaluation_interpolates():
    segment_map = SegmentMap(CLASSIC, 10, 3)
    nodes, weights = segment_map.nodes, segment_map.weights
    assert nodes[0] == 0
    assert nodes[-1] == 17
    assert (weights * nodes**10).sum().item() == pytest.approx(17**11 / 11, rel=1e-14)
    segments = torch.stack([nodes**10, (17 + nodes) ** 10]) / 17**10
    times = torch.linspace(0, 34, 41, dtype=torch.float64)
    torch.testing.assert_close(segment_map.evaluate(segments, times), (times / 17) ** 10, rtol=1e-13, atol=1e-13)


def test_lagrange_basis_is_differentiable_at_nodes():
    nodes = torch.from_numpy(lobatto_nodes(12))
    torch.testing.assert_close(lagrange_basis(nodes, 12), torch.eye(13, dtype=torch.float64), rtol=0, atol=1e-15)

    def power(x: torch.Tensor) -> torch.Tensor:
        return lagrange_basis(x, 12) @ nodes**12

    slope = torch.func.jvp(power, (nodes,), (torch.ones_like(nodes),))[1]
    torch.testing.assert_close(slope, 12 * nodes**11, rtol=1e-12, atol=1e-12)


def test_derivative_satisfies_the_equation():
    segment_map = SegmentMap(MackeyGlass(tau=1.5), 40)
    first, second = segment_map.trajectory(segment_map.history(lambda t: 1 + 0.2 * t), 2)

    def value(times: torch.Tensor) -> torch.Tensor:
        return segment_map.evaluate(second[None], times)

    slope = torch.func.jvp(value, (segment_map.nodes,), (torch.ones(41, dtype=torch.float64),))[1]
    torch.testing.assert_close(segment_map.derivative(first, second), slope, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["n", "beta", "gamma", "tau", "theta", "history"])
def test_gradients_by_finite_differences(name):
    # panels, and several parameters at once: every path of the derivative of E, Q and f
    values = {"n": 9.0, "beta": 2.1, "gamma": 0.9, "tau": 1.3, "theta": 1.1, "history": 0.8}

    def run(value: torch.Tensor) -> torch.Tensor:
        parameters = {key: value if key == name else torch.tensor(values[key], dtype=torch.float64) for key in values}
        level = parameters.pop("history")
        segment_map = SegmentMap(MackeyGlass(**parameters), 12, 2)
        history = segment_map.history(lambda t: level + 0.2 * torch.cos(3 * t))
        segments = segment_map.trajectory(history, 3)
        return segment_map.evaluate(segments, tensor(0.0, 0.7, 2.5, 3.6))

    value = torch.tensor(values[name], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (value,), eps=1e-6, rtol=1e-6, atol=1e-8)


def test_gradients_of_batched_parameters():
    def run(n: torch.Tensor, tau: torch.Tensor, U: torch.Tensor) -> torch.Tensor:
        return SegmentMap(MackeyGlass(n=n, tau=tau), 8).trajectory(U, 2)

    n, tau, U = tensor(7.0, 9.0), tensor(1.0, 2.0), torch.rand(2, 9, dtype=torch.float64) + 0.4
    inputs = tuple(x.requires_grad_() for x in (n, tau, U))
    assert torch.autograd.gradcheck(run, inputs, eps=1e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("tau", [2.0, tensor(1.0, 1.5, 2.0, 2.5)])
def test_tangent_is_the_derivative(tau):
    segment_map = SegmentMap(MackeyGlass(tau=tau), 20)
    generator = torch.Generator().manual_seed(0)
    U = torch.rand(4, 21, dtype=torch.float64, generator=generator) + 0.4
    V = torch.randn(3, 4, 21, dtype=torch.float64, generator=generator)
    expected = torch.stack([torch.func.jvp(segment_map.forward, (U,), (v,))[1] for v in V])
    torch.testing.assert_close(segment_map.tangent(U, V), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("batch", [1, 5, 16, 37])
def test_samples_of_a_batch_get_what_they_get_alone(batch):
    segment_map = SegmentMap(CLASSIC, 33)
    level = torch.linspace(0.5, 1.3, batch, dtype=torch.float64)[:, None]
    together = segment_map.trajectory(segment_map.history(level), 30)
    for i in range(batch):
        alone = segment_map.trajectory(segment_map.history(level[i].item()), 30)
        assert torch.equal(together[:, i], alone)
    V = torch.randn(2, batch, 34, dtype=torch.float64)
    U = together[-1]
    assert torch.equal(segment_map.tangent(U, V)[:, -1], segment_map.tangent(U[-1], V[:, -1]))


def test_systems_of_a_batch_get_what_they_get_alone():
    n, tau = torch.linspace(7, 12, 21, dtype=torch.float64), torch.linspace(1, 2.5, 21, dtype=torch.float64)
    together = SegmentMap(MackeyGlass(n=n, tau=tau), 20)
    segments = together.trajectory(together.history(0.8), 10)
    assert segments.shape == (10, 21, 21)
    shared = SegmentMap(MackeyGlass(n=n, tau=2.0), 20)
    shared_segments = shared.trajectory(shared.history(0.8), 10)
    for i in (0, 7, 20):
        alone = SegmentMap(MackeyGlass(n=n[i : i + 1], tau=tau[i : i + 1]), 20)
        # a single matrix multiplies all rows, others one row each: the sums round differently
        torch.testing.assert_close(segments[:2, i], alone.trajectory(alone.history(0.8), 2)[:, 0], rtol=1e-13, atol=0)
        alone = SegmentMap(MackeyGlass(n=n[i], tau=2.0), 20)
        assert torch.equal(shared_segments[:, i], alone.trajectory(alone.history(0.8), 10))
        pair = SegmentMap(MackeyGlass(n=n[[i, 3]], tau=tau[[i, 3]]), 20)
        assert torch.equal(segments[:, i], pair.trajectory(pair.history(0.8), 10)[:, 0])


def test_grid_of_parameters_shares_the_matrix_of_equal_delays():
    n, tau = torch.linspace(7, 12, 5, dtype=torch.float64), torch.linspace(1, 2, 3, dtype=torch.float64)[:, None]
    grid = SegmentMap(MackeyGlass(n=n, tau=tau), 16)
    segments = grid.trajectory(grid.history(0.7), 4)
    assert segments.shape == (4, 3, 5, 17)
    row = SegmentMap(MackeyGlass(n=n, tau=tau[1].item()), 16)
    torch.testing.assert_close(segments[:, 1], row.trajectory(row.history(0.7), 4), rtol=1e-13, atol=0)
    times = tensor(0.5, 1.0, 3.3)
    expected = row.evaluate(row.trajectory(row.history(0.7), 4), times)
    torch.testing.assert_close(grid.evaluate(segments, times)[1], expected, rtol=1e-13, atol=0)


def test_solutions_stay_positive_and_enter_the_absorbing_interval():
    system = MackeyGlass(n=9.65, tau=2.0)
    segment_map = SegmentMap(system, 48)
    generator = torch.Generator().manual_seed(1)
    a, b, c = torch.rand(3, 50, 1, dtype=torch.float64, generator=generator)
    history = segment_map.history(lambda t: 0.01 + 3 * a * (1 + 0.9 * b * torch.sin(9 * c * t)))
    segments = segment_map.trajectory(history, 60)
    assert (segments > 0).all()
    lower, upper = system.absorbing_interval()
    late = segments[30:]
    assert (late >= lower).all()
    assert (late <= upper).all()


def test_scaling_symmetry():
    system = MackeyGlass(beta=0.31, gamma=0.12, n=9.3, tau=14.0, theta=1.7)
    original, scaled = SegmentMap(system, 48), SegmentMap(system.scaled(), 48)
    k = 12
    first = original.trajectory(original.history(lambda t: 1.5 + 0.4 * torch.sin(0.3 * t)), k)
    second = scaled.trajectory(scaled.history(lambda s: (1.5 + 0.4 * torch.sin(0.3 * s / 0.12)) / 1.7), k)
    torch.testing.assert_close(first / 1.7, second, rtol=1e-9, atol=0)


def test_float32_follows_for_two_delays():
    single, double = SegmentMap(CLASSIC, 32, dtype=torch.float32), SegmentMap(CLASSIC, 32)
    short = single.trajectory(single.history(1.2), 2).double()
    exact = double.trajectory(double.history(1.2), 2)
    assert ((short - exact) / exact).abs().max() < 1e-4
    moved = SegmentMap(MackeyGlass(n=tensor(9.0, 10.0)), 32).float()
    assert moved.forward(moved.history(1.2)).dtype == torch.float32


def test_late_times_are_as_exact_as_early_ones_in_float32():
    segment_map, k = SegmentMap(MackeyGlass(tau=2.0), 32, dtype=torch.float32), 50_000
    segments = torch.sin(math.pi * segment_map.nodes).expand(k, -1)  # of period 2 = τ
    times = 2.0 * k - 4.0 + 0.001 * torch.arange(4000, dtype=torch.float64)
    found = segment_map.evaluate(segments, times)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.sin(math.pi * times), rtol=0, atol=3e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    levels = torch.linspace(0.5, 1.3, 37, dtype=torch.float64, device="cuda")[:, None]
    tau = torch.linspace(1, 2, 37, dtype=torch.float64, device="cuda")
    for system in (MackeyGlass(), MackeyGlass(tau=tau)):
        segment_map = SegmentMap(system, 32, device="cuda")
        together = segment_map.trajectory(segment_map.history(levels), 2)
        single = SegmentMap(MackeyGlass(tau=tau[5:6] if system.tau is tau else 2.0), 32, device="cuda")
        alone = single.trajectory(single.history(levels[5:6]), 2)
        torch.testing.assert_close(together[:, 5:6], alone, rtol=1e-12, atol=0)
        same = SegmentMap(MackeyGlass(tau=tau.cpu() if system.tau is tau else 2.0), 32)
        expected = same.trajectory(same.history(levels.cpu()), 2)
        torch.testing.assert_close(together.cpu(), expected, rtol=1e-12, atol=0)
        torch.set_float32_matmul_precision("high")  # what TF32 would do is not allowed here
        try:
            rough = SegmentMap(system, 32, dtype=torch.float32, device="cuda")
            found = rough.trajectory(rough.history(levels), 2).double().cpu()
        finally:
            torch.set_float32_matmul_precision("highest")
        assert ((found - expected) / expected).abs().max() < 1e-4


def test_long_run_keeps_statistical_identities_in_float32():
    # E[βf(u)] = γE[u] for every invariant measure
    segment_map = SegmentMap(MackeyGlass(), 32, dtype=torch.float32)
    U = segment_map.history(torch.linspace(0.5, 1.3, 32)[:, None])
    segments = segment_map.trajectory(segment_map.trajectory(U, 100)[-1], 200)
    mean = (segments * segment_map.weights).sum(-1).mean() / 2
    produced = (segment_map.system.production(segments) * segment_map.weights).sum(-1).mean() / 2
    assert produced.item() == pytest.approx(mean.item(), rel=2e-3)


def test_networks_as_production():
    class Learned(nn.Module):
        gamma = 1.0

        def __init__(self) -> None:
            super().__init__()
            self.tau = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
            self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()

        def production(self, u: torch.Tensor) -> torch.Tensor:
            return self.net(u[..., None])[..., 0]

    segment_map = SegmentMap(Learned(), 12)
    assert len(list(segment_map.parameters())) == 5
    U = segment_map.history(0.7)
    for _ in range(2):  # the operators are built anew for each backward pass
        segment_map.forward(U).sum().backward()
    assert segment_map.system.tau.grad is not None
    with torch.no_grad():
        before = segment_map.forward(U)
        segment_map.system.tau.add_(0.5)
        assert not torch.equal(segment_map.forward(U), before)
    V = torch.randn(13, dtype=torch.float64)
    expected = torch.func.jvp(segment_map.forward, (U,), (V,))[1]
    torch.testing.assert_close(segment_map.tangent(U, V), expected)


@pytest.mark.unchecked
def test_wrong_input_is_refused():
    segment_map = SegmentMap(MackeyGlass(), 16)
    with pytest.raises(ShapeError, match=r"\(…, 17\)"):
        segment_map.forward(torch.ones(3, 16, dtype=torch.float64))
    with pytest.raises(ConfigError, match="int64"):
        segment_map.forward(torch.ones(3, 17, dtype=torch.int64))
    with pytest.raises(ConfigError, match="float32"):
        segment_map.forward(torch.ones(3, 17))
    with pytest.raises(ConfigError, match="meta"):
        segment_map.forward(torch.ones(3, 17, dtype=torch.float64, device="meta"))
    batched = SegmentMap(MackeyGlass(n=tensor(7, 8, 9)), 16)
    with pytest.raises(ShapeError, match=r"\(…, 3, 17\)"):
        batched.forward(torch.ones(2, 17, dtype=torch.float64))
    with pytest.raises(ConfigError, match="n_nodes"):
        SegmentMap(MackeyGlass(), 1)
    with pytest.raises(ConfigError, match="panels"):
        SegmentMap(MackeyGlass(), 16, 0)
    with pytest.raises(ConfigError, match="between 0 and 1 delays"):
        segment_map.evaluate(torch.ones(1, 17, dtype=torch.float64), tensor(2.5))
    with pytest.raises(ConfigError, match="dopri5"):
        SegmentMap(object(), 16)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "n", [torch.full((3,), 8.0, dtype=torch.float64), torch.tensor(8.0), torch.full((3,), 8.0)], ids=str
)
def test_maps_follow_parameters_that_are_trained(n):
    exact = SegmentMap(MackeyGlass(n=tensor(9.0, 7.5, 8.5) if n.ndim else 9.0, tau=1.7), 20)
    target = exact.trajectory(exact.history(0.7), 3)
    n = n.clone().requires_grad_()
    segment_map, optimizer = SegmentMap(MackeyGlass(n=n, tau=1.7), 20), torch.optim.Adam([n], 0.15)
    for _ in range(40):
        optimizer.zero_grad()
        (segment_map.trajectory(segment_map.history(0.7), 3) - target).square().sum().backward()
        optimizer.step()
    expected = tensor(9.0, 7.5, 8.5) if n.ndim else tensor(9.0)[0]
    torch.testing.assert_close(n.detach().double(), expected, rtol=0, atol=0.1)


def test_maps_follow_parameters_that_change():
    n, tau = tensor(8.0, 9.0, 10.0), tensor(1.2, 1.7, 2.0)
    segment_map = SegmentMap(MackeyGlass(n=n, tau=tau), 16)
    U = segment_map.history(0.7)
    n += 1
    tau *= 1.1
    assert torch.equal(segment_map(U), SegmentMap(MackeyGlass(n=n.clone(), tau=tau.clone()), 16)(U))
    tau.requires_grad_()
    assert segment_map(U).requires_grad
    with torch.inference_mode():
        n = torch.ones(3, dtype=torch.float64) * 8
        segment_map = SegmentMap(MackeyGlass(n=n), 16)
        before = segment_map(U)
        n += 1
        assert not torch.equal(segment_map(U), before)


@pytest.mark.parametrize("shape", [(17, 17), (33, 17), (2, 17, 17)])
def test_tangent_of_one_segment_takes_many_directions(shape):
    segment_map = SegmentMap(MackeyGlass(n=8.3, tau=1.6), 16)
    U = segment_map.history(lambda t: 1 + 0.2 * t)
    V = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = V @ torch.func.jacfwd(segment_map)(U).mT
    torch.testing.assert_close(segment_map.tangent(U, V), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(segment_map.tangent(U[None], V), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n", [9.65, 10])
def test_solutions_of_rough_histories_are_not_negative(n):
    segment_map = SegmentMap(MackeyGlass(n=n), 16)
    U = 1e-3 + 10 * torch.rand(64, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    U[:, -1] = 1e-3
    segments = segment_map.trajectory(U, 30)
    assert (segments >= 0).all()
    assert (segments == 0).any()
    smooth = segment_map.history(0.7)
    together = segment_map.trajectory(torch.cat([smooth[None], U]), 30)
    assert torch.equal(together[:, 0], segment_map.trajectory(smooth, 30))


def test_negative_solutions_of_whole_exponents_stay_negative():
    segment_map = SegmentMap(MackeyGlass(n=10), 16)
    U = segment_map.history(torch.tensor([[0.7], [-0.7]], dtype=torch.float64))
    positive, negative = segment_map.trajectory(U, 5).unbind(1)
    assert torch.equal(positive, -negative)


@pytest.mark.parametrize("name", ["n", "tau"])
def test_maps_can_be_built_in_a_vectorised_function(name):
    def run(value: torch.Tensor) -> torch.Tensor:
        segment_map = SegmentMap(MackeyGlass(**{"n": 8.5, "tau": 1.6, name: value}), 16)
        return segment_map.evaluate(segment_map.trajectory(segment_map.history(0.8), 2), tensor(0.3, 1.9))

    values = tensor(2.0, 1.6)
    together = torch.func.vmap(run)(values)
    torch.testing.assert_close(together, torch.stack([run(value) for value in values]), rtol=1e-13, atol=0)


def test_error_is_that_of_the_next_segment():
    system = MackeyGlass()
    fine = SegmentMap(system, 60, 8)
    histories = [lambda t: 1 + 0.4 * torch.sin(3 * t), lambda t: 1 + 0.4 * torch.sin(26 * t)]
    histories += [lambda t: 1 + 0.5 * torch.sin(60 * t), lambda t: torch.where(t < -1, 0.001, 1.0) + 0 * t]
    for history, n_nodes in zip(histories, (32, 32, 100, 32), strict=True):
        segment_map = SegmentMap(system, n_nodes)
        U, exact = segment_map.history(history), fine(fine.history(history))
        times = torch.linspace(0, 2, 1000, dtype=torch.float64)
        exact = fine.evaluate(exact[None], times)
        error = ((segment_map.evaluate(segment_map(U)[None], times) - exact).abs().max() / exact.max()).item()
        assert error / 10 < segment_map.error(U).item() < 10 * error
    assert segment_map.error(segment_map.history(1.2)) < 1e-14


@pytest.mark.unchecked
def test_arguments_and_directions_of_wrong_make_are_refused():
    for arguments in ({"n_nodes": 16.5}, {"panels": 1.5}, {"dtype": torch.int32}, {"dtype": torch.float16}):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            SegmentMap(CLASSIC, **arguments)
    segment_map = SegmentMap(CLASSIC, 16)
    U = segment_map.history(torch.ones(3, 1, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"\(…, 3, 17\).*got \(17, 17\)"):
        segment_map.tangent(U, torch.ones(17, 17, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"got \(9,\)"):
        segment_map.tangent(U, torch.ones(9, dtype=torch.float64))
    with pytest.raises(ConfigError, match="no segments"):
        segment_map.evaluate(segment_map.trajectory(U, 0), tensor(0.0))


def test_maxima_of_systems_that_are_trained_are_numbers():
    segment_map = SegmentMap(MackeyGlass(n=tensor(9.0)[0].requires_grad_()), 16)
    segments = segment_map.trajectory(segment_map.history(0.7), 5)
    assert segments.requires_grad
    assert local_maxima(segment_map, segments).counts() > 0
