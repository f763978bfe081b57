"""The experiment with echo state networks: what they are trained on, and what their forecasts are compared with."""

import torch
from mackeyglass.experiments import forecast
from mackeyglass.models import ESN


class Oracle(ESN):
    """Knows the series, and records which part of them it sees to train."""

    def regressions(self, series, washout):
        self.seen.append(series)
        return []

    def solve(self, regressions):
        return torch.zeros(len(self.u))

    def synchronise(self, before):
        """Where the values seen last stand in the series: all values differ."""
        self.memory = before.shape[-1]
        return torch.stack([(self.u[m] == b[:, -1:]).nonzero()[:, 1:] for m, b in enumerate(before)])

    def continue_from(self, state, steps):
        if state.shape[1] == 1:  # of the climate, no truth is known
            return torch.zeros(len(state), 1, steps, dtype=torch.float64)
        ahead = state + 1 + torch.arange(steps)
        return torch.stack([self.u[m][i] for m, i in enumerate(ahead)])

    def advance(self, state, member):
        return state


def test_a_perfect_forecast_has_no_error_and_sees_nothing_that_is_tested(monkeypatch):
    config = forecast.EXPERIMENT.config("smoke", network={"ridges": (1e-8, 1e-9)})
    u = 1 + 0.3 * torch.rand(2, config.length, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    monkeypatch.setattr(forecast, "map_exponents", lambda *a, **k: (torch.zeros(3, 4, dtype=torch.float64), None))
    oracle = Oracle(1, [0, 1])
    oracle.u, oracle.seen = u, []
    found = forecast._forecast(config, oracle, u)
    assert oracle.memory == config.memory
    values = forecast._measures(found, u, config, 0.005)
    assert [values[f"NRMSE_{h}"] for h in (1, 10, 84)] == [0, 0, 0]
    (seen,) = oracle.seen
    assert torch.equal(seen, u[:, : config.washout + config.train])


def test_the_seed_reaches_the_networks():
    config = forecast.EXPERIMENT.config("smoke")
    one, again, other = (config.model(20, seed) for seed in (0, 0, 1))
    assert torch.equal(one.W, again.W)
    assert not torch.equal(one.W, other.W)
    assert not torch.equal(one.W[0], one.W[1])


def test_figures_of_short_delays():
    """In the plane of u and the sample before."""
    config = forecast.EXPERIMENT.config("smoke")
    found = {"climate": torch.rand(2, 200)}
    panels = {"any name": ({**found, "tau": 0.5}, torch.rand(2, 300))}
    figure = forecast._attractors(panels, config)
    assert len(figure.axes[0].lines[0].get_xdata()) == 299
    panels = {"any name": ({**found, "tau": 17.5}, torch.rand(2, 300))}
    assert len(forecast._attractors(panels, config).axes[0].lines[0].get_xdata()) == 282
