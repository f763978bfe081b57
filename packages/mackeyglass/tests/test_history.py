import warnings

import numpy as np
import pytest
import torch
from mackeyglass import DDE, MackeyGlass
from mackeyglass.history import sample_history
from sciml.errors import ConfigError, ShapeError

TIMES = torch.linspace(-2, 0, 5, dtype=torch.float64)
SYSTEM = MackeyGlass(n=9.65)
PLANE = DDE(lambda x, x_tau, p: -x + x_tau, [2.0], {}, dim=2)


def sample(history, system=SYSTEM, times=TIMES, on_nodes="nodes"):
    return sample_history(history, system, times, on_nodes=on_nodes)


def test_numbers_constants_values_and_functions():
    assert torch.equal(sample(1), torch.ones(1, 5, dtype=torch.float64))
    values = torch.rand(3, 5, dtype=torch.float64) + 0.1
    assert torch.equal(sample(values), values[None])
    assert torch.equal(sample(values[0]), values[:1])
    assert torch.equal(sample(values[:, :1]), values[None, :, :1].expand(1, 3, 5))
    assert torch.equal(sample(lambda t: 1 + t**2), (1 + TIMES**2)[None])
    assert sample(values.float()).dtype == torch.float64


def test_batches_come_from_the_system_the_history_or_the_times():
    batched = MackeyGlass(n=torch.tensor([7.0, 8.0, 9.5], dtype=torch.float64))
    assert sample(1.2, batched).shape == (1, 3, 5)
    assert sample(torch.ones(3, 5, dtype=torch.float64), batched).shape == (1, 3, 5)
    times = TIMES * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None]
    assert torch.equal(sample(lambda t: 1 - t, times=times), (1 - times)[None])


def test_components_come_first():
    values = torch.rand(2, 4, 5, dtype=torch.float64)
    assert torch.equal(sample(values, PLANE), values)
    assert torch.equal(sample(lambda t: torch.stack([t, -t]), PLANE), torch.stack([TIMES, -TIMES]))
    assert torch.equal(sample(0.5, PLANE), torch.full((2, 5), 0.5, dtype=torch.float64))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("history", "system", "error", "message"),
    [
        (-0.5, SYSTEM, ConfigError, "positive: its least value is -0.5"),
        (lambda t: 1 + t, SYSTEM, ConfigError, "least value is -1"),
        (-1.0, MackeyGlass(n=torch.tensor([8.0])), ConfigError, "not given as tensors"),
        (float("nan"), SYSTEM, ConfigError, "not a number"),
        (torch.ones(5, dtype=torch.int64), SYSTEM, ConfigError, r"floating-point numbers, got torch.int64"),
        (torch.ones(5, device="meta"), SYSTEM, ConfigError, "lies on meta"),
        (torch.ones(3, 4), SYSTEM, ShapeError, r"\(3, 4\) does not fit: expected .* with 5 nodes"),
        (torch.ones(5), PLANE, ShapeError, r"\(2, times\)"),
        (torch.ones(2, 5), MackeyGlass(n=torch.full((3,), 9.0)), ShapeError, r"batch of \(3,\) systems"),
        ("1.2", SYSTEM, ConfigError, "got str"),
        (lambda t: 1.0, SYSTEM, ConfigError, "returned float"),
    ],
)
def test_wrong_histories_are_refused(history, system, error, message):
    with pytest.raises(error, match=message):
        sample(history, system)
    assert issubclass(error, ValueError)


def test_whole_exponents_admit_negative_histories():
    assert (sample(-0.5, MackeyGlass(n=10)) == -0.5).all()


def test_zero_history_warns_and_part_of_zero_is_refused():
    with pytest.warns(UserWarning, match="so is its solution"):
        assert not sample(0.0).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(1.0)
    with pytest.raises(ConfigError, match="least value is 0"):
        sample(lambda t: -t)
    with pytest.warns(UserWarning, match="so is its solution"):  # one of a batch
        sample(torch.tensor([[1.0], [0.0], [0.5]], dtype=torch.float64))


@pytest.mark.unchecked
def test_zero_history_where_the_equation_does_not_rest_is_no_mistake():
    driven = DDE(lambda x, y, z, p: -0.1 * x + 0.1 * torch.cos(y) + p.a * z, [0.05, 2.0], {"a": torch.ones(3).double()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not sample(0.0, driven).any()
    with pytest.warns(UserWarning, match="so is its solution"):
        sample(0.0, PLANE)


@pytest.mark.unchecked
def test_values_need_nodes():
    with pytest.raises(ConfigError, match="no fixed nodes"):
        sample(torch.ones(5), on_nodes=None)


@pytest.mark.unchecked
def test_numbers_of_numpy_are_numbers():
    assert torch.equal(sample(np.float32(0.5)), sample(0.5))
