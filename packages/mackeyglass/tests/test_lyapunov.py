import math

import numpy as np
import pytest
import torch
from mackeyglass import DDE, MackeyGlass, SegmentMap, characteristic_roots
from mackeyglass.chebyshev import clenshaw_curtis, differentiation_matrix, lagrange_basis
from mackeyglass.lyapunov import _members, _statistics, kaplan_yorke_dimension, lyapunov_spectrum
from mackeyglass.orbits import PeriodicOrbit
from mackeyglass.orthonormal import orthonormalise
from mackeyglass.tangent_flow import PseudospectralFlow, SegmentFlow
from sciml.errors import ConfigError
from torch import nn

# many runs are short: where that is not the subject, what they have in common is exact or within their errors
pytestmark = pytest.mark.filterwarnings("ignore:.* systems have not converged")

CYCLE, CHAOS = MackeyGlass(n=7.0, tau=2.0), MackeyGlass(n=10.0, tau=1.7)
# of CHAOS, by RK4 with 100 steps a delay and by the segment map, with their standard errors
REFERENCE, REFERENCE_ERROR = (0.05126, 0.0, -0.3871, -0.5277), (1.5e-4, 1e-4, 3e-4, 3e-4)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def agree(a: torch.Tensor, a_error: torch.Tensor, b: torch.Tensor, b_error: torch.Tensor) -> bool:
    return bool(((a - b).abs() < 3 * torch.hypot(a_error, b_error)).all())


def test_dimension_formula():
    assert kaplan_yorke_dimension(tensor(0.5, 0.0, -1.0)).item() == 2.5
    assert kaplan_yorke_dimension(tensor(-1.0, 0.5, 0.0)).item() == 2.5  # in any order
    assert kaplan_yorke_dimension(tensor(0.5, -0.75, -1.0)).item() == pytest.approx(1 + 2 / 3)
    assert kaplan_yorke_dimension(tensor(0.3, 0.2, 0.0, -0.4, -0.5)).item() == pytest.approx(4.2)
    assert kaplan_yorke_dimension(tensor(-0.1, -0.2)).item() == 0  # an equilibrium
    assert kaplan_yorke_dimension(tensor(0.0, -0.2)).item() == 1  # a cycle
    assert kaplan_yorke_dimension(tensor(-1e-6, -0.2)).item() == 0
    assert kaplan_yorke_dimension(tensor(-1e-6, -0.2), zero=1e-5).item() == 1
    assert kaplan_yorke_dimension(tensor(1e-6, -1e-6, -0.2), zero=1e-5).item() == 2  # a torus
    assert math.isnan(kaplan_yorke_dimension(tensor(0.1, 0.0, -0.05)).item())  # more exponents are needed
    assert kaplan_yorke_dimension(tensor(0.1, -math.inf)).item() == 1
    batch = torch.stack([tensor(0.5, 0.0, -1.0), tensor(0.0, -1.0, -2.0)])
    assert kaplan_yorke_dimension(batch).tolist() == [2.5, 1.0]
    assert kaplan_yorke_dimension([0.5, 0, -1]).item() == 2.5
    assert kaplan_yorke_dimension(batch.numpy()).tolist() == [2.5, 1.0]


@pytest.mark.parametrize("rows", [5, 400])  # LAPACK and Gram–Schmidt
def test_decomposition_is_that_of_numpy(rows: int):
    V = torch.randn(2, 9, 3, rows, dtype=torch.float64)
    V[:, :, 1] = V[:, :, 0] + 1e-9 * V[:, :, 1]  # nearly parallel
    expected = np.linalg.qr(V.permute(0, 3, 1, 2).numpy()).R.diagonal(axis1=-2, axis2=-1)
    Q, lengths = orthonormalise(V.clone())
    np.testing.assert_allclose(lengths.permute(0, 2, 1), np.abs(expected), rtol=1e-5, atol=0)
    gram = torch.einsum("gnjr,gnkr->grjk", Q, Q)
    torch.testing.assert_close(gram, torch.eye(3).to(gram).expand_as(gram), rtol=0, atol=1e-5)
    torch.testing.assert_close(Q[:, :, 0] * lengths[:, None, 0], V[:, :, 0])


def test_quadrature_and_differentiation():
    nodes = SegmentMap(MackeyGlass(tau=1.0), 8, 2).nodes.numpy()
    assert clenshaw_curtis(8, 2) @ nodes**8 == pytest.approx(1 / 9, rel=1e-14)
    nodes = SegmentMap(MackeyGlass(tau=1.0), 8).nodes.numpy()
    np.testing.assert_allclose(differentiation_matrix(8) @ nodes**8, 8 * nodes**7, atol=1e-12)
    x = tensor(0.0, 1e-9, 0.3, 0.5, 1.0)
    assert (lagrange_basis(x, 1000).sum(-1) - 1).abs().max() < 1e-13


def test_flow_is_the_segment_map_for_systems_of_any_delay():
    n, gamma = tensor(7, 9, 8, 10, 12), tensor(1, 1.5, 1, 1, 2)
    for tau in (tensor(2, 1, 2, 1, 1), tensor(2, 1, 1, 2, 1)):  # in groups of one size, and not
        system = MackeyGlass(n=n, gamma=gamma, tau=tau)
        segment_map, flow = SegmentMap(system, 20), SegmentFlow(system, 3, 20)
        U = segment_map.trajectory(segment_map.history(0.3 + torch.rand(3, 5, 1, dtype=torch.float64)), 4)[-1]
        V = torch.randn(2, 3, 5, 21, dtype=torch.float64)
        W = torch.cat([flow.start(x[:, None]) for x in (U, *V)], 2)
        W = flow.advance(W) * flow._inverse[:, None]
        size = flow.rows(W.flatten(1, 2)).unflatten(-1, (21, 3))
        torch.testing.assert_close(size[..., 0], segment_map(U), rtol=0, atol=1e-13)
        torch.testing.assert_close(size[..., 1:].movedim(-1, 0), segment_map.tangent(U, V), rtol=0, atol=1e-12)


@pytest.mark.unchecked
def test_pseudospectral_flow_converges_to_the_segment_map():
    system = MackeyGlass(n=tensor(7, 10), tau=tensor(2, 1.7))
    written_out = DDE(
        lambda x, y, p: -x + 2 * y / (1 + torch.exp(p.n * torch.log(y))), ["tau"], {"n": system.n, "tau": system.tau}
    )

    fine = SegmentMap(system, 48)
    U = fine.trajectory(fine.history(0.7), 12)
    V = torch.sin(3 * fine.nodes)
    for u in U[:-1]:
        V = fine.tangent(u, V)  # as smooth as the solution then, and over the same delay

    def end(flow: PseudospectralFlow | SegmentFlow) -> torch.Tensor:
        nodes = flow.delay[:, None] * (1 + flow.nodes)
        W = torch.cat([flow.start(fine.evaluate(x[None], nodes)[None, None]) for x in (U[-1], V)], 2)
        return flow.rows(flow.advance(W)[:, -1] / flow._root[-1].flatten())

    expected = end(SegmentFlow(system, 1, 48))
    scale = expected.abs().amax((0, 1))
    for kind in (system, written_out):
        for nodes, bound in ((16, 2e-4), (24, 1e-5)):
            assert (end(PseudospectralFlow(kind, 1, nodes)) - expected).abs().div(scale).max() < bound


@pytest.mark.slow
@pytest.mark.unchecked
def test_exponents_of_a_cycle_are_its_multipliers():
    orbit = PeriodicOrbit.from_simulation(CYCLE)
    expected = np.log(np.abs(orbit.multipliers(2))) / orbit.period
    result = lyapunov_spectrum(CYCLE, 3, n_delays=1000, n_transient=200, n_ensemble=8)
    np.testing.assert_allclose(result.exponents[0], [0, *expected], atol=1e-4)
    assert result.dimension.item() == 1
    assert result.converged.all()


@pytest.mark.slow
@pytest.mark.unchecked
def test_exponents_of_chaos():
    result = lyapunov_spectrum(CHAOS, 4, n_delays=1500, n_transient=300, n_ensemble=24)
    expected, error = tensor(*REFERENCE)[None], tensor(*REFERENCE_ERROR)[None]
    assert agree(result.exponents, result.stderr, expected, error)
    assert abs(result.exponents[0, 1]) < 3 * result.stderr[0, 1]
    assert result.dimension.item() == pytest.approx(2.1325, abs=5e-3)
    assert 1e-4 < result.dimension_stderr.item() < 2e-3
    assert (result.stderr < 2e-3).all()
    assert result.converged.all()


@pytest.mark.slow
@pytest.mark.unchecked
def test_halves_of_a_long_transient_contradict_each_other():
    """At (10, 2.1) chaos ends, trajectory by trajectory, after hundreds of delays: on a cycle."""
    options = {"n_delays": 600, "n_transient": 100, "n_ensemble": 512}
    found = lyapunov_spectrum(MackeyGlass(n=10.0, tau=tensor(2.1, 1.7)), 1, **options)
    assert (found.exponents[:, 0] > 4 * found.stderr[:, 0]).all()
    assert found.halves[1, 0, 0] < 0.8 * found.halves[0, 0, 0]
    assert found.converged.tolist() == [False, True]  # at (10, 1.7) it lasts


@pytest.mark.parametrize("members", [2, 24])  # averages over blocks of time, and over members
def test_error_estimates_are_the_scatter_of_independent_samples(members: int):
    spectrum, spread = tensor(0.05, 0.0, -0.4, -0.5), tensor(0.02, 0.01, 0.05, 0.05)
    rates = spectrum + spread * torch.randn(members, 2000, 20, 4, generator=torch.manual_seed(0), dtype=torch.float64)
    found = _statistics(rates, torch.ones(2000, dtype=torch.float64))
    assert found.dimension_stderr.mean().item() == pytest.approx(found.dimension.std().item(), rel=0.1)
    torch.testing.assert_close(found.stderr.mean(0), found.exponents.std(0), rtol=0.1, atol=0)


@pytest.mark.slow
@pytest.mark.unchecked
def test_error_estimates_agree_with_the_scatter_of_runs():
    options = {"n_delays": 200, "n_transient": 100, "n_nodes": 20}
    for ensemble in (4, 8):  # averages over blocks of time, and over members
        results = [lyapunov_spectrum(CHAOS, 3, seed=s, n_ensemble=ensemble, **options) for s in range(10)]
        for value, error in (("exponents", "stderr"), ("dimension", "dimension_stderr")):
            scatter = torch.stack([getattr(r, value).flatten()[0] for r in results]).std()
            estimate = torch.stack([getattr(r, error).flatten()[0] for r in results]).mean()
            assert 0.4 < scatter / estimate < 2.5


@pytest.mark.slow
@pytest.mark.unchecked
def test_exponents_do_not_depend_on_interval_and_nodes():
    options = {"n_delays": 400, "n_transient": 100, "n_ensemble": 16}
    base = lyapunov_spectrum(CHAOS, 3, **options)
    for change in ({"qr_every": 3}, {"n_nodes": 48}, {"n_nodes": 16, "panels": 2}):
        other = lyapunov_spectrum(CHAOS, 3, seed=1, **options, **change)
        assert agree(base.exponents, base.stderr, other.exponents, other.stderr)
    # the same trajectory and vectors: only the decomposition differs
    exact = [lyapunov_spectrum(CYCLE, 3, n_delays=100, n_transient=100, qr_every=q).exponents for q in (1, 5)]
    torch.testing.assert_close(*exact, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.unchecked
def test_units_scale_exponents():
    classic = MackeyGlass(beta=0.2, gamma=0.1, n=10.0, tau=17.0, theta=1.5)
    options = {"n_delays": 200, "n_transient": 100}
    a, b = (lyapunov_spectrum(system, 3, **options) for system in (classic, classic.scaled()))
    assert agree(a.exponents / 0.1, a.stderr / 0.1, b.exponents, b.stderr)
    torch.testing.assert_close(a.dimension, b.dimension, rtol=0, atol=0.05)
    cycle = MackeyGlass(beta=0.2, gamma=0.1, n=7.0, tau=20.0, theta=1.5)
    a, b = (lyapunov_spectrum(system, 3, **options) for system in (cycle, cycle.scaled()))
    torch.testing.assert_close(a.exponents / 0.1, b.exponents, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.unchecked
def test_each_system_gets_in_a_batch_what_it_gets_alone():
    n, tau = tensor(7, 6.5, 7, 6), tensor(2, 1.8, 1.8, 2)
    options = {"n_delays": 20, "n_transient": 100, "n_ensemble": 2}
    batch = lyapunov_spectrum(MackeyGlass(n=n, tau=tau), 2, **options)
    for i in range(4):
        alone = lyapunov_spectrum(MackeyGlass(n=n[i].item(), tau=tau[i].item()), 2, **options)
        torch.testing.assert_close(batch.exponents[i], alone.exponents[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(batch.halves[:, i], alone.halves[:, 0], rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.unchecked
def test_float32_keeps_the_statistics():
    options = {"n_delays": 300, "n_transient": 100}
    single = lyapunov_spectrum(CHAOS, 3, dtype=torch.float32, **options)
    double = lyapunov_spectrum(CHAOS, 3, **options)
    assert single.exponents.dtype == torch.float64
    assert agree(single.exponents, single.stderr, double.exponents, double.stderr)
    cycles = [lyapunov_spectrum(CYCLE, 3, dtype=d, **options).exponents for d in (torch.float32, torch.float64)]
    torch.testing.assert_close(*cycles, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.unchecked
@pytest.mark.parametrize(
    "system",
    [
        DDE(lambda x, y, p: -p.a * y * (1 + x), ["tau"], {"a": 1.2, "tau": 1.0}),
        DDE(
            lambda x, y, z, p: torch.stack([-x[0] + p.b * torch.tanh(y[1]), -2 * x[1] - torch.tanh(z[0])]),
            ["tau", 0.6],
            {"b": 1.5, "tau": 1.0},
            2,
        ),
    ],
)
def test_exponents_at_an_equilibrium_are_characteristic_roots(system: DDE):
    result = lyapunov_spectrum(system, 2, history=0.1, n_delays=20, n_transient=100, n_ensemble=1, n_nodes=6)
    # of a pair of roots the areas grow evenly, the lengths do not
    expected = np.real(characteristic_roots(system, k=2)).mean()
    assert result.exponents.mean().item() == pytest.approx(expected, abs=1e-3)
    assert result.dimension.item() == 0


@pytest.mark.slow
@pytest.mark.unchecked
def test_both_methods_agree_on_a_cycle():
    options = {"n_delays": 20, "n_transient": 100, "n_ensemble": 1, "history": 0.8}
    a = lyapunov_spectrum(CYCLE, 3, n_nodes=32, **options)
    b = lyapunov_spectrum(CYCLE, 3, n_nodes=12, method="pseudospectral", **options)
    torch.testing.assert_close(a.exponents, b.exponents, rtol=0, atol=3e-3)


class Feedback(nn.Module):
    gamma, tau = 1.0, 1.7

    def production(self, u: torch.Tensor) -> torch.Tensor:
        return 2 * u / (1 + u**10)


@pytest.mark.slow
@pytest.mark.unchecked
def test_a_module_with_linear_decay_has_exponents():
    options = {"n_delays": 20, "n_transient": 100, "n_ensemble": 2, "history": 0.7}
    system = MackeyGlass(n=10, tau=1.7)
    a, b = (lyapunov_spectrum(s, 2, **options).exponents for s in (Feedback(), system))
    torch.testing.assert_close(a, b, rtol=0, atol=0.05)  # rounding has made them different trajectories


@pytest.mark.slow
@pytest.mark.unchecked
def test_members_tell_two_attractors_apart():
    system = MackeyGlass(n=13.0, tau=1.5)  # chaos, λ₁ = 0.0975, and a cycle
    members = lyapunov_spectrum(system, 2, n_delays=600, n_transient=200, n_ensemble=24).members[:, 0]
    chaos = members[:, 0] > 0.05
    assert 0 < chaos.sum() < 24
    torch.testing.assert_close(members[chaos].mean(0), tensor(0.0975, 0), rtol=0, atol=0.01)
    torch.testing.assert_close(members[~chaos].mean(0), tensor(0, -0.1453), rtol=0, atol=2e-3)


def unresolved(recorded) -> list[str]:
    return [str(warning.message) for warning in recorded if "raise n_nodes" in str(warning.message)]


@pytest.mark.unchecked
def test_flows_tell_the_resolution_of_their_solutions():
    system = MackeyGlass(n=tensor(8.0, 9.0), tau=tensor(1.7, 2.0))
    segment_map = SegmentMap(system, 14)
    U = segment_map.trajectory(segment_map.history(lambda t: 0.9 + 0.1 * torch.sin(t)), 3)[-1]
    expected = segment_map.resolution(U)
    for flow in (SegmentFlow(system, 1, 14), PseudospectralFlow(system, 1, 14)):
        W = flow.start(U[None, None])
        W = torch.cat([W, torch.rand_like(W)], 2)  # a perturbation need not be resolved
        found = flow.rows(flow.resolution(W)[:, None])[0, :, 0]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@pytest.mark.unchecked
def test_default_nodes_resolve_one_system_of_a_batch_but_not_the_other(recwarn: pytest.WarningsRecorder):
    options = {"n_delays": 20, "n_transient": 100, "n_ensemble": 1}
    lyapunov_spectrum(CHAOS, 1, **options)
    assert not unresolved(recwarn)
    lyapunov_spectrum(MackeyGlass(n=tensor(10.0, 20.0), tau=tensor(1.7, 3.0)), 1, **options)
    assert len(unresolved(recwarn)) == 1


def test_halves_that_differ_by_many_errors_have_not_converged():
    rates = 0.5 + 0.01 * torch.randn(16, 2, 20, 1, generator=torch.manual_seed(0), dtype=torch.float64)
    error = rates[:, 1].mean(1).std() / 4
    rates[:, 1, 10:] += 20 * error  # 20 standard errors of the mean of all, 4 expected at most
    assert _statistics(rates, torch.ones(2, dtype=torch.float64)).converged.tolist() == [True, False]


def test_the_first_member_begins_with_the_history_itself():
    flow = SegmentFlow(CYCLE, 4, 8)
    members = _members(CYCLE, flow, 0.8, 4, torch.manual_seed(0), torch.float64, "cpu")[:, 0, 0, 0]
    assert members[0] == 0.8
    assert ((members[1:] != 0.8) & ((members[1:] / 0.8 - 1).abs() <= 0.01)).all()


def test_steps_are_short_enough_for_steep_decay():
    system = DDE(lambda x, y, p: -5 * x - 0.1 * torch.tanh(y), [30.0], {})
    flow = PseudospectralFlow(system, 1, 8)
    W = flow.advance(flow.start(torch.full((1, 1, 1, 9), 0.5, dtype=torch.float64)))
    assert W.abs().max() < 0.5


def test_exponents_are_numbers_where_derivatives_by_the_delay_are_taken():
    system = MackeyGlass(tau=tensor(2.0)[0].requires_grad_())
    result = lyapunov_spectrum(system, 1, n_delays=20, n_transient=100, n_ensemble=1, n_nodes=24)
    assert not result.exponents.requires_grad
    assert not PseudospectralFlow(system, 1, 4).delay.requires_grad


def test_short_runs_are_said_to_be_short():
    with pytest.warns(UserWarning, match="1 of 1 systems have not converged"):
        result = lyapunov_spectrum(MackeyGlass(n=8.9, tau=2.0), 1, n_delays=20, n_transient=100, n_ensemble=1)
    assert not result.converged.any()
    assert result.stderr[0, 0] > abs(result.exponents[0, 0])
    assert math.isnan(result.dimension.item()) or result.dimension.item() >= 0


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 4, "n_nodes": 2}, "4 exponents need at least 5 nodes"),
        ({"k": 0}, "k=0 must be a positive whole number"),
        ({"k": 2.5}, "k=2.5"),
        ({"dtype": torch.float16}, "torch.float16"),
        ({"dtype": torch.int64}, "torch.int64"),
        ({"system": MackeyGlass(n=torch.tensor([[9.0, 8.0]]))}, "flatten it"),
        ({"n_nodes": 1}, "n_nodes=1 must be a whole number, at least 2"),
        ({"n_delays": 10}, "at least 20 times"),
        ({"n_delays": 50, "qr_every": 5}, "at least 20 times"),
        ({"n_transient": 50}, "n_transient must be at least 100"),
        ({"n_ensemble": 0}, "n_ensemble=0 must be a positive whole number"),
        ({"method": "rk4"}, "'segment' or 'pseudospectral'"),
        ({"history": -1.0}, "positive"),
        ({"history": torch.ones(3, 1, dtype=torch.float64)}, "do not fit 1 systems"),
        ({"method": "pseudospectral", "panels": 2}, "one panel"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str):
    system = MackeyGlass(n=9.5, tau=2.0)
    with pytest.raises(ConfigError, match=message):
        lyapunov_spectrum(**{"system": system, "k": 1, **arguments})
    with pytest.raises(ConfigError, match="k ≥ 1"):
        kaplan_yorke_dimension([])


@pytest.mark.unchecked
def test_general_equations_need_a_history_and_their_method():
    system = DDE(lambda x, y, p: -x + torch.tanh(y), [1.0], {})
    with pytest.raises(ConfigError, match="give a history"):
        lyapunov_spectrum(system, 1)
    with pytest.raises(ConfigError, match="take 'pseudospectral' for a DDE"):
        lyapunov_spectrum(system, 1, method="segment", history=1.0)
    with pytest.raises(ConfigError, match="needs a DDE"):
        lyapunov_spectrum(Feedback(), 1, method="pseudospectral", history=1.0)
    unbounded = DDE(lambda x, y, p: x**3 + y, [1.0], {})
    with pytest.raises(ConfigError, match="left the floating-point numbers"):
        lyapunov_spectrum(unbounded, 1, history=1.0, n_delays=20, n_transient=100, n_nodes=2)
