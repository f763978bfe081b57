"""The learned models: each does what it says, on cases whose answers are known."""

import pytest
import torch
from mackeyglass.models import ESN
from mackeyglass.problems import TimeSeries
from sciml.errors import ConfigError, DataError, ShapeError


@pytest.fixture(scope="module")
def series():
    return torch.from_numpy(TimeSeries(length=1500).generate(2, seed=7)["u"].values)


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
