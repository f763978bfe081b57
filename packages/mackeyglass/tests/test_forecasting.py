"""Measures of forecasts, on cases whose values are known."""

import math

import pytest
import torch
from mackeyglass import MackeyGlass, SegmentMap
from mackeyglass.forecasting import map_exponents, nrmse, squash, unsquash, valid_prediction_time, wasserstein
from sciml.errors import ConfigError, ShapeError


@pytest.mark.unchecked
def test_measures_of_nothing_and_in_no_units():
    x = torch.ones(3, 4)
    for std in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="std must be positive"):
            nrmse(x, x, std)
    with pytest.raises(ConfigError, match="dt must be positive, got -1"):
        valid_prediction_time(x, x, -1, 1.0)
    with pytest.raises(ShapeError, match=r"needs values, got shapes \(0,\)"):
        wasserstein(x[0, :0], x)


def test_squash_has_an_inverse():
    u = torch.linspace(0.2, 1.5, 50, dtype=torch.float64)
    torch.testing.assert_close(unsquash(squash(u)), u, rtol=1e-14, atol=0)
    assert squash(torch.tensor(1.0)) == 0


def test_error_at_horizons():
    """The mean as forecast has NRMSE 1; an error that grows by starts and time is averaged over starts only."""
    truth = torch.randn(3, 7, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = truth.mean((-1, -2), keepdim=True)
    error = nrmse(mean.expand_as(truth), truth)
    torch.testing.assert_close(error.square().mean(-1), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)
    wrong = truth + torch.arange(1.0, 51)
    torch.testing.assert_close(nrmse(wrong, truth, 2.0), torch.arange(1.0, 51).double().expand(3, -1) / 2)
    alternating = truth + torch.tensor([3.0, -3, 3, -3, 3, -3, 3])[:, None]
    torch.testing.assert_close(nrmse(alternating, truth, 3.0), torch.ones(3, 50, dtype=torch.float64))


def test_deviations_are_one_a_series():
    """Also where a batch is as long as the forecast."""
    truth = torch.zeros(5, 4, 5, dtype=torch.float64)
    std = torch.arange(1.0, 6).double()
    torch.testing.assert_close(nrmse(truth + 2, truth, std), (2 / std)[:, None].expand(5, 5))
    times = valid_prediction_time((truth + 1)[:, 0], truth[:, 0], 1.0, std, threshold=0.3)
    assert times.tolist() == [0, 0, 0, 5, 5]
    times = valid_prediction_time(truth + 1, truth, 1.0, std[:, None], threshold=0.3)
    assert times[:, 0].tolist() == [0, 0, 0, 5, 5]


def test_valid_time_counts_until_the_first_large_error():
    truth = torch.zeros(4, 10, dtype=torch.float64)
    forecast = truth.clone()
    forecast[0, 4:] = 1.0
    forecast[1, 6] = -1.0  # good again later, which does not count
    forecast[2, 0] = math.nan
    times = valid_prediction_time(forecast, truth, 0.5, 1.0, exponent=3.0)
    torch.testing.assert_close(times, 1.5 * torch.tensor([4.0, 6, 0, 10]).double())
    # the threshold is in standard deviations
    assert valid_prediction_time(forecast, truth, 1, 2.0, threshold=0.5)[0] == 10


def test_wasserstein_distance_of_shifted_and_scaled_values():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(40_000, generator=random, dtype=torch.float64)
    std = x.std(correction=0).item()
    assert wasserstein(x + 0.3, x) == pytest.approx(0.3 / std, rel=1e-12)
    assert wasserstein(x.flip(0).reshape(2, -1), x) == 0
    # E|a − 1||x| of a scaled normal variable, of another sample
    other = torch.randn(60_000, generator=random, dtype=torch.float64)
    assert wasserstein(1.5 * other, x) == pytest.approx(0.5 * math.sqrt(2 / math.pi), rel=0.02)
    assert wasserstein(torch.tensor([1.0, math.inf]), x) == math.inf


def test_quantiles_are_interpolated():
    """Of 0 and 1 they rise from 0 at 1/4 to 1 at 3/4, of ½ they are ½: the mean distance is 3/8."""
    pair = torch.tensor([0.0, 1.0], dtype=torch.float64)
    middle = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert wasserstein(middle, pair) * 0.5 == pytest.approx(3 / 8, abs=1e-4)


def test_exponents_of_a_linear_map():
    """Of a rotation of the diagonal, found by QR whatever the interval between decompositions."""
    rates = torch.tensor([0.3, -0.2, -1.0, -4.0], dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    matrix = basis @ rates.exp().diag() @ basis.mT
    for every in (1, 4):
        found, _ = map_exponents(lambda x: x @ matrix.mT, torch.ones(2, 4).double(), 3, 40, every=every)
        torch.testing.assert_close(found, rates[:3].expand(2, -1), rtol=0, atol=1e-12)


def test_exponent_of_the_logistic_map():
    state = torch.tensor([[0.3], [0.7123]], dtype=torch.float64)
    found, last = map_exponents(lambda x: 4 * (x - x * x), state, 1, 2000, transient=10)
    # conjugate to the tent map: the sum differs from n ln 2 by a term of the first and one of the last state
    torch.testing.assert_close(found, torch.full_like(found, math.log(2)), rtol=0, atol=5e-3)
    assert ((last > 0) & (last < 1)).all()


def test_exponents_of_the_segment_map():
    """(n, τ) = (7, 2): of the cycle, ln|μ|/T with the multipliers 1 and −0.77523516 and T = 5.44799721."""
    segment_map = SegmentMap(MackeyGlass(n=7.0), 32)
    start = segment_map.history(0.8)[None]
    found, _ = map_exponents(segment_map, start, 2, 400, transient=300)
    expected = torch.tensor([[0.0, math.log(0.77523516) / 5.44799721]]).double()
    # the growth within a period is not even: an average over 800 units of time misses it by at most 1/800
    torch.testing.assert_close(found / 2, expected, rtol=0, atol=1 / 800)


def test_exponents_of_a_run_that_diverges_are_not_numbers():
    found, _ = map_exponents(lambda x: 3 * x**2, torch.tensor([[0.1], [2.0]]).double(), 1, 50, align=1)
    assert not found[1].isfinite()


@pytest.mark.unchecked
def test_wrong_arguments():
    with pytest.raises(ShapeError, match="one shape"):
        nrmse(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match=r"std must be a number or \(3,\), one a series, got \(5,\)"):
        nrmse(torch.zeros(3, 4, 5), torch.zeros(3, 4, 5), torch.ones(5))
    with pytest.raises(ShapeError, match=r"std must be a number or \(3,\), one a series, got \(3, 1\)"):
        nrmse(torch.zeros(3, 4, 5), torch.zeros(3, 4, 5), torch.ones(3, 1))
    with pytest.raises(ShapeError, match=r"must be \(…, start, time\), got \(5,\)"):
        nrmse(torch.zeros(5), torch.zeros(5))
    with pytest.raises(ShapeError, match="one shape"):
        valid_prediction_time(torch.zeros(3), torch.zeros(4), 1.0, 1.0)
    with pytest.raises(ConfigError, match="k=3"):
        map_exponents(lambda x: x, torch.zeros(1, 2), 3, 10)
