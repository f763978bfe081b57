"""The learned models: each does what it says, on cases whose answers are known."""

import itertools
import math

import numpy as np
import pytest
import torch
from mackeyglass import MackeyGlass, SegmentMap, characteristic_roots, hopf_points, simulate
from mackeyglass.chebyshev import lobatto_nodes
from mackeyglass.forward import jacobian
from mackeyglass.learned_equation import LearnedDDE
from mackeyglass.models import ESN, AttractorMap, NeuralDDE, SegmentOperator
from mackeyglass.problems import TimeSeries
from sciml.errors import ConfigError, DataError, ShapeError
from torch import nn


@pytest.fixture(scope="module")
def series():
    return torch.from_numpy(TimeSeries(length=1500).generate(2, seed=7)["u"].values)


def reverse(function, at):
    """The Jacobian matrix in reverse mode."""
    return torch.func.jacrev(function)(at)


class TestESN:
    def test_forecasts_a_chaotic_series(self, series):
        model = ESN(n_units=100, seeds=[0, 1])
        residual = model.fit(series[:, :1200])
        std = series.std()
        assert (residual / std < 1e-2).all()
        ahead = model(series)[[0, 1], [0, 1], 1200:-1] - series[:, 1201:]
        assert (ahead.square().mean(-1).sqrt() / std < 2e-2).all()
        run = model.free_run(series[:, None, :1200], 50)[:, 0]
        assert ((run - series[:, 1200:1250]).abs().amax(-1) / std < 0.4).all()

    def test_a_free_run_feeds_forecasts_back(self, series):
        model = ESN(n_units=40, seeds=[3, 4])
        model.fit(series[:, :800])
        whole = model.free_run(series[:, None, :600], 5)
        fed = series[:, None, :600]
        for _ in range(5):
            ahead = torch.stack([model(fed[i])[:, i, -1] for i in (0, 1)])
            fed = torch.cat([fed, ahead[..., None]], -1)
        torch.testing.assert_close(whole, fed[..., 600:], rtol=1e-9, atol=1e-12)

    def test_networks_do_not_depend_on_each_other(self, series):
        both, second = ESN(n_units=30, seeds=[5, 6]), ESN(n_units=30, seeds=[6])
        both.fit(series)
        second.fit(series[1:])
        torch.testing.assert_close(both.readout[1:], second.readout, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(both(series[:, :100])[:, 1:], second(series[:, :100]), rtol=1e-8, atol=1e-8)

    def test_the_readout_is_a_ridge_regression(self, series):
        """The gradient of ‖Fw − y‖²/T + ridge‖w‖² vanishes."""
        model = ESN(n_units=20, ridge=1e-3)
        model.fit(series[:1], washout=100)
        model.readout.requires_grad_()
        error = model(series[:1])[0, 0, 100:-1] - series[0, 101:]
        (error.square().mean() + 1e-3 * model.readout.square().sum()).backward()
        assert model.readout.grad.abs().max() < 1e-12
        assert model.readout.abs().max() > 1e-2

    def test_the_reservoir_has_the_spectral_radius(self):
        model = ESN(n_units=60, seeds=[0, 1], spectral_radius=0.7)
        radii = torch.linalg.eigvals(model.W).abs().amax(-1)
        torch.testing.assert_close(radii, torch.full((2,), 0.7, dtype=torch.float64), rtol=1e-10, atol=0)

    def test_one_step_of_one_network(self, series):
        model = ESN(n_units=30, seeds=[5, 6])
        model.fit(series)
        state = model.synchronise(series[:, None, :300])
        torch.testing.assert_close(model.advance(state)[1:], model.advance(state[1:], 1), rtol=1e-12, atol=1e-13)

    def test_states_are_those_of_the_recurrence(self, series):
        """x ← (1−a)x + a tanh(Wx + w_in(u − c) + b), written with dense matrices."""
        model = ESN(n_units=30, seeds=[5, 6], centre=0.7, leak=0.4)
        u, x = series[:, :20], torch.zeros(2, 30, dtype=torch.float64)
        for value in u[:, :-1].unbind(1):
            drive = (value[:, None] - 0.7) * model.input_weights + model.bias_weights
            x = 0.6 * x + 0.4 * torch.tanh((model.W @ x[..., None])[..., 0] + drive)
        found = model.synchronise(u[:, None])[:, 0]
        torch.testing.assert_close(found, torch.cat([u[:, -1:], x], -1), rtol=1e-12, atol=1e-13)
        assert 0.05 < (model.W != 0).double().mean() < 1

    def test_derivatives_in_both_modes(self, series):
        model = ESN(n_units=15, seeds=[5, 6], connections=4)
        model.fit(series)
        state = model.synchronise(series[:, None, :300])
        forward, backward = (f(lambda x: model.advance(x[None], 1)[0, 0], state[1]) for f in (jacobian, reverse))
        torch.testing.assert_close(forward, backward, rtol=1e-12, atol=1e-13)
        assert torch.autograd.gradcheck(model.advance, (state.requires_grad_(),))

    def test_ridges_share_features_and_runs_share_states(self, series):
        model, other = ESN(n_units=20, ridge=1e-3), ESN(n_units=20, ridge=1e-8)
        regressions = model.regressions(series[:1])
        model.ridge = 1e-8
        assert torch.equal(model.solve(regressions), other.fit(series[:1]))
        state = model.synchronise(series[:1, None, :300])
        assert torch.equal(model.continue_from(state, 4), other.free_run(series[:1, None, :300], 4))
        assert model.continue_from(state, 0).shape == (1, 1, 0)
        assert model(series[:1, :0]).shape == (1, 1, 0)

    @pytest.mark.unchecked
    def test_wrong_arguments(self, series):
        for change in ({"seeds": []}, {"seeds": [-1]}, {"leak": 0.0}, {"n_units": 0}, {"dtype": "int"}, {"ridge": -1}):
            with pytest.raises(ConfigError, match=next(iter(change))):
                ESN(**{"n_units": 5, **change})
        model = ESN(n_units=5, seeds=[0, 1, 2])
        with pytest.raises(ShapeError, match="washout"):
            model.fit(series)
        with pytest.raises(ShapeError, match="washout"):
            model.fit(series[:1, :100])
        with pytest.raises(DataError, match="finite"):
            model.fit(series[:1] / 0)
        with pytest.raises(ConfigError, match="washout=-5"):
            model.fit(series[:1], washout=-5)
        with pytest.raises(ConfigError, match="train the networks"):
            model.free_run(series[None, :1, :50].expand(3, 1, -1), 5)
        with pytest.raises(ShapeError, match="at least one value"):
            model.synchronise(series[None, :1, :0].expand(3, 1, -1))


class Feedback(nn.Module):
    """The exact production of values (…, 1), or (…, 2) with n, as a network would be called."""

    def forward(self, x):
        n = x[..., 1:] if x.shape[-1] == 2 else 9.65
        return 2 * x[..., :1] / (1 + x[..., :1] ** n)


@pytest.fixture
def histories():
    s = torch.from_numpy(lobatto_nodes(32))
    return torch.stack([1 + 0.2 * torch.sin(2 * s), 0.9 + 0.2 * s, 1.1 - 0.3 * s**2])


class TestLearnedDDE:
    """With the exact production in the place of the network, all is as for the equation itself."""

    def test_segment_map(self, histories):
        exact, learned = (SegmentMap(e) for e in (MackeyGlass(), LearnedDDE(Feedback(), 1.0, 2.0)))
        torch.testing.assert_close(learned(histories), exact(histories), rtol=1e-13, atol=0)
        V = histories.flip(0) - 1
        torch.testing.assert_close(learned.tangent(histories, V), exact.tangent(histories, V), rtol=1e-11, atol=1e-13)

    def test_conditions_are_parameters_of_a_batch(self, histories):
        n = torch.tensor([8.0, 9.0, 10.0], dtype=torch.float64)
        tau = torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64)
        exact = SegmentMap(MackeyGlass(n=n, tau=tau))
        learned = SegmentMap(LearnedDDE(Feedback(), 1.0, tau, {"n": n}))
        torch.testing.assert_close(learned(histories), exact(histories), rtol=1e-13, atol=0)

    def test_right_hand_side_and_solvers_of_general_equations(self):
        learned = LearnedDDE(Feedback(), 1.0, 2.0, {"n": 9.0})
        u = simulate(learned, 0.8, (0, 6), saveat=[1.0, 3.0, 6.0], rtol=1e-10, atol=1e-12)["u"]
        exact = simulate(MackeyGlass(n=9.0), 0.8, (0, 6), saveat=[1.0, 3.0, 6.0])["u"]
        assert abs(u - exact).max() < 1e-8
        moved = learned.with_parameters(n=7.0, gamma=0.5)
        assert moved.parameters == {"gamma": 0.5, "tau": 2.0, "n": 7.0}

    @pytest.mark.unchecked
    def test_wrong_parameters(self):
        with pytest.raises(ConfigError, match="differ from each other and from gamma and tau"):
            LearnedDDE(Feedback(), 1.0, 2.0, {"gamma": 9.0})
        with pytest.raises(ConfigError, match="tau"):
            LearnedDDE(Feedback(), 1.0, -2.0)
        with pytest.raises(ConfigError, match="no parameter is called m"):
            LearnedDDE(Feedback(), 1.0, 2.0).with_parameters(m=3.0)


class TestNeuralDDE:
    def test_both_ways_to_compute_a_segment_agree(self, histories):
        """N(u, u_τ) that does not depend on u, by Runge–Kutta steps: the segment map, to order 4."""
        spectral = NeuralDDE(hidden=[8])
        errors = []
        for steps in (10, 20, 40):
            stepped = NeuralDDE(hidden=[8], sees="both", steps=steps)
            first, other = spectral.network[1], stepped.network[1]
            with torch.no_grad():
                other.weight.zero_()
                other.weight[:, 1:] = first.weight
                other.bias.copy_(first.bias)
            stepped.network[3].load_state_dict(spectral.network[3].state_dict())
            errors.append((stepped(histories, segments=2) - spectral(histories, segments=2)).abs().max().item())
        orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
        assert errors[-1] < 1e-7
        assert orders == pytest.approx([4, 4], abs=0.3)

    def test_delays_of_many_lives_are_resolved(self, histories):
        """With γτ = 30, where one panel leaves 1e-8 after three delays."""
        torch.manual_seed(0)
        model = NeuralDDE(6.0, 5.0, hidden=[8])
        with torch.no_grad():
            model.network[1].weight.mul_(3)
            model.network[3].weight.mul_(18)
        one, fine = SegmentMap(model.detached()), SegmentMap(model.detached(), 64, 32)
        U = fine.history(lambda t: one.evaluate(histories[None], t + 5.0))
        exact = fine.evaluate(fine.trajectory(U, 3)[-1:], one.nodes)
        assert (one.trajectory(histories, 3)[-1] - exact).abs().max() > 1e-10
        assert (model(histories, segments=3)[:, -1] - exact).abs().max() < 1e-12

    def test_gradients_by_delay_and_decay(self, histories):
        for sees in ("delayed", "both"):
            model = NeuralDDE(hidden=[6], sees=sees, steps=20, learn_gamma=True, learn_tau=True)
            names = ["log_gamma", "log_tau"]

            def end(log_gamma, log_tau, model=model):
                values = {"log_gamma": log_gamma, "log_tau": log_tau}
                return torch.func.functional_call(model, values, (histories[:1],))[0, 0, -1:]

            start = tuple(getattr(model, name).detach().clone().requires_grad_() for name in names)
            assert torch.autograd.gradcheck(end, start, eps=1e-6, atol=1e-7)

    def test_learns_production_and_delay(self):
        """From windows in time of one series, with the delay unknown: both come out."""
        torch.manual_seed(0)
        exact = SegmentMap(MackeyGlass(n=6.0, tau=2.0))
        U = exact.history(torch.linspace(0.6, 1.2, 4, dtype=torch.float64)[:, None])
        segments = exact.trajectory(U, 12)
        model = NeuralDDE(tau=1.8, hidden=[12], learn_tau=True)
        model.set_normalization(segments)
        s = torch.from_numpy(lobatto_nodes(32))

        def window(first):
            """Values on [first, first + 1] delays of the model, in time."""
            times = (first + s) * model.tau
            return exact.evaluate(segments, times).reshape(-1, 33)

        def loss():
            pairs = [(window(a), window(a + 1)) for a in (1.0, 3.3, 5.6, 7.9)]
            return 1e4 * torch.stack([(model(x)[:, 0] - y).square().mean() for x, y in pairs]).mean()

        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=150, line_search_fn="strong_wolfe", tolerance_change=0, tolerance_grad=0
        )

        def closure():
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
        assert model.tau.item() == pytest.approx(2.0, rel=5e-3)
        u = torch.linspace(segments[1:].min().item(), segments[1:].max().item(), 50, dtype=torch.float64)
        error = model.detached().production(u) - exact.system.production(u)
        assert error.abs().max() < 5e-3

    def test_detached_shares_nothing(self):
        model = NeuralDDE(hidden=[4], conditions=["n"], learn_tau=True)
        equation = model.detached(n=8.0)
        before = equation.production(torch.ones(1, dtype=torch.float64)).clone()
        with torch.no_grad():
            model.network[1].weight.mul_(3)
        assert torch.equal(equation.production(torch.ones(1, dtype=torch.float64)), before)
        assert all(p.requires_grad for p in model.parameters())
        assert equation.tau == pytest.approx(2.0, rel=1e-15)

    def test_float32_models_are_analysed_in_float64(self):
        """With weights that make an equation with the equilibrium 0 and the slope −2 there."""
        model = NeuralDDE(tau=1.0, hidden=[3], dtype="float32")
        model.scale.mean.fill_(0.0)
        with torch.no_grad():
            for p in model.network.parameters():
                p.zero_()
            model.network[1].weight[0], model.network[3].weight[0, 0] = 1.0, -2.0
        equation = model.detached()
        assert model.network[1].weight.dtype == torch.float32
        # the tanh equation with a = 1, b = −2: its first pair of roots
        root = characteristic_roots(equation, 0.0, k=1)[0]
        assert abs(root + 1 + 2 * np.exp(-root)) < 1e-10
        u = simulate(equation, 0.5, (0, 3), saveat=[3.0], rtol=1e-9, atol=1e-9)["u"].item()
        U = SegmentMap(equation).trajectory(torch.full((33,), 0.5, dtype=torch.float64), 3)
        assert U[-1, -1].item() == pytest.approx(u, abs=1e-7)

    def test_normalisation_is_that_of_the_values(self):
        model = NeuralDDE(hidden=[3], conditions=["n"], sees="both")
        u, n = torch.tensor([[1.0, 5.0], [3.0, 3.0]]).double(), torch.tensor([7.0, 9.0]).double()
        model.set_normalization(u, n=n)
        seen = model.scale(torch.tensor([[1.0, 5.0, 9.0]]).double())
        expected = torch.tensor([[-(2**0.5), 2**0.5, 1.0]]).double()
        torch.testing.assert_close(seen, expected, rtol=1e-6, atol=0)

    def test_derivatives_by_the_history(self, histories):
        for sees in ("delayed", "both"):
            model = NeuralDDE(hidden=[6], nodes=6, sees=sees, steps=4)
            U = histories[:1, ::5][:, :7].clone().requires_grad_()
            assert torch.autograd.gradcheck(lambda U, model=model: model(U, segments=2), (U,))
            assert model(U, segments=0).shape == (1, 0, 7)

    @pytest.mark.unchecked
    def test_wrong_arguments(self, histories):
        for names in (["gamma"], ["n", "tau"], ["n", "n"], "n", [3]):
            with pytest.raises(ConfigError, match="conditions"):
                NeuralDDE(conditions=names)
        with pytest.raises(ConfigError, match="gamma must be a number"):
            NeuralDDE(gamma="1")
        for change in ({"tau": 0.0}, {"sees": "u"}, {"hidden": [0]}, {"dtype": "half"}, {"nodes": 1}, {"hidden": 8}):
            with pytest.raises(ConfigError, match=next(iter(change))):
                NeuralDDE(**change)
        model = NeuralDDE(hidden=[4], conditions=["n"])
        with pytest.raises(ShapeError, match="conditions"):
            model(histories)
        with pytest.raises(ConfigError, match="conditions"):
            model.equation()
        with pytest.raises(ConfigError, match="conditions"):
            model.set_normalization(histories)


@pytest.mark.parametrize("architecture", ["mlp", "deeponet", "fno"])
class TestSegmentOperator:
    def test_segments_meet(self, architecture, histories):
        """Whatever the weights, u is continuous."""
        model = SegmentOperator(architecture=architecture, width=16, depth=2, dtype="float64")
        for scale in (1.0, 30.0):
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(scale)
            run = torch.cat([histories[None], model.free_run(histories, 3)])
            torch.testing.assert_close(run[:-1, :, -1], run[1:, :, 0], rtol=0, atol=0)
            assert (run[1:, :, 5] - run[1:, :, 0]).abs().max() > 1e-4

    def test_grows_like_the_root_of_time(self, architecture, histories):
        """U(s) − U(0) is √s times what the network says."""
        model = SegmentOperator(architecture=architecture, width=8, depth=1, dtype="float64")
        model.scale.mean.fill_(0.5)
        model.scale.std.fill_(2.0)
        x = (histories - 0.5) / 2
        said = model.net(x, x.new_empty(3, 0))
        root = torch.from_numpy(lobatto_nodes(32)).sqrt()
        torch.testing.assert_close(model(histories), histories[:, -1:] + 2 * root * said, rtol=1e-12, atol=1e-12)

    def test_learns_a_map(self, architecture):
        torch.manual_seed(0)
        random = torch.Generator().manual_seed(1)
        s = torch.from_numpy(lobatto_nodes(12)).float()
        c = torch.rand(128, 1, generator=random)
        a = torch.rand(128, 1, generator=random)
        X, Y = 1 + a * s, 1 + a + c * torch.sin(s)  # following segments of functions with two parameters
        model = SegmentOperator(12, architecture, width=24, depth=2, modes=6, conditions=1)
        model.set_normalization(X, c)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(200):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 200)
            optimizer.zero_grad()
            (model(X, c) - Y).square().mean().backward()
            optimizer.step()
        assert ((model(X, c) - Y).norm() / Y.norm()).item() < 5e-3
        # without the condition it could not
        assert ((model(X, c.flip(0)) - Y).norm() / Y.norm()).item() > 5e-2

    def test_float32_and_float64_and_conditions(self, architecture, histories):
        c = torch.tensor([[9.0, 1.0], [9.5, 1.5], [10.0, 2.0]])
        model = SegmentOperator(32, architecture, width=8, depth=1, conditions=2, modes=8)
        out = model(histories.float(), c)
        assert out.dtype == torch.float32
        # each row sees its own condition
        torch.testing.assert_close(model(histories[1:2].float(), c[1:2])[0], out[1], rtol=1e-4, atol=1e-5)

    @pytest.mark.unchecked
    def test_wrong_arguments(self, architecture, histories):
        with pytest.raises(ConfigError, match="architecture"):
            SegmentOperator(architecture=architecture + "s")
        if architecture == "fno":
            with pytest.raises(ConfigError, match="modes=8 must be at most nodes"):
                SegmentOperator(nodes=4, architecture=architecture, modes=8)
        else:  # which have none
            assert SegmentOperator(nodes=4, architecture=architecture, modes=8).nodes == 4
        with pytest.raises(ConfigError, match="conditions=True"):
            SegmentOperator(architecture=architecture, conditions=True)
        model = SegmentOperator(architecture=architecture, width=4, conditions=2, dtype="float64")
        with pytest.raises(ShapeError, match="conditions"):
            model(histories)
        with pytest.raises(ShapeError, match="history"):
            model(histories[:, :-1], torch.zeros(3, 2).double())
        with pytest.raises(TypeError, match="float64"):
            model(histories.float(), torch.zeros(3, 2))
        with pytest.raises(TypeError, match=r"conditions must be torch\.float64"):
            model(histories, torch.zeros(3, 2))


class TestAttractorMap:
    def test_sees_the_distance_to_the_hopf_curve(self):
        point = hopf_points(MackeyGlass(tau=1.6), "n")[0]
        x = torch.tensor([[point.parameters["n"], 1.6], [9.0, 1.6], [3.0, 0.2]], dtype=torch.float64)
        distance = AttractorMap()._features(x)[:, 2]
        assert abs(distance[0].item()) < 1e-9
        assert distance[1].item() == pytest.approx(9.0 - point.parameters["n"], rel=1e-9)
        assert distance[2] == -5

    def test_derivatives_by_the_point(self):
        model = AttractorMap(hidden=(5,))
        x = torch.tensor([[9.0, 2.0], [5.0, 1.3]], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(model, (x,))
        slope = jacobian(model, x.detach())
        torch.testing.assert_close(slope, reverse(model, x.detach()), rtol=1e-10, atol=1e-13)
        assert slope[0, :, 0].abs().min() > 1e-6

    def test_learns_a_step_at_the_curve(self):
        torch.manual_seed(0)
        x = torch.tensor([4.5, 1.0]) + torch.rand(300, 2, dtype=torch.float64) * torch.tensor([3.0, 1.5])
        model = AttractorMap(hidden=(8,))
        model.set_normalization(x)
        kind = (model._features(x)[:, 2] > 0).long()
        assert 50 < kind.sum() < 250
        optimizer = torch.optim.Adam(model.parameters(), 3e-2)
        for _ in range(150):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x)[:, :3], kind).backward()
            optimizer.step()
        assert (model(x)[:, :3].argmax(-1) == kind).double().mean() > 0.97

    @pytest.mark.unchecked
    def test_wrong_arguments(self):
        for change in ({"gain": 1.0}, {"hidden": [0]}, {"dtype": "float16"}):
            with pytest.raises(ConfigError, match=next(iter(change))):
                AttractorMap(**change)
