"""The measures of error on trajectories whose errors are known."""

import pytest
import torch
from pnde import (
    CentralMotion,
    EndPointMotion,
    LinearConstraint,
    constraint_error,
    relative_state_error,
    stack,
    valid_prediction_time,
)
from sciml.errors import ShapeError

T = torch.arange(10, dtype=torch.float64) / 4
# norms 1 and 7 in turn: their root mean square over time is 5, and no single state has it
REFERENCE = torch.tensor([1.0, 7.0], dtype=torch.float64).repeat(5)[None, :, None] * torch.tensor([0.6, 0.8]).double()


def displaced(relative: torch.Tensor) -> torch.Tensor:
    """A trajectory whose distance to the reference is `relative` times 5."""
    return REFERENCE + 5 * relative[..., None] * torch.tensor([0.0, 1.0]).double()


@pytest.mark.parametrize("beyond", range(1, 10))
def test_valid_prediction_time_is_the_last_before_a_ramp_reaches_the_threshold(beyond):
    ramp = 0.4 + 0.04 * (torch.arange(10) - beyond + 0.5).double()
    assert valid_prediction_time(displaced(ramp), REFERENCE, T) == T[beyond - 1]


def test_valid_prediction_time_at_the_ends():
    """Never beyond: the end; beyond at once, or never a number: the start. A later return does not count."""
    relative = torch.zeros(4, 10, dtype=torch.float64)
    relative[1] = 1
    relative[2] = torch.nan
    relative[3, 4] = 1
    times = valid_prediction_time(displaced(relative), REFERENCE.expand(4, -1, -1), T)
    assert times.tolist() == [T[-1], T[0], T[0], T[3]]


def test_state_error_is_relative_to_the_reference_at_that_time():
    factors = torch.linspace(0, 4, 10, dtype=torch.float64)
    error = relative_state_error(factors[:, None] * REFERENCE, REFERENCE)
    torch.testing.assert_close(error, (factors - 1).abs()[None])


def test_constraint_error_is_the_distance_from_the_target():
    plane = LinearConstraint(torch.eye(2, 3, dtype=torch.float64), torch.tensor([1.0, 2.0]).double())
    u = torch.tensor([[[1.0, 2.0, 9.0], [4.0, 6.0, 0.0]]]).double()
    assert constraint_error(plane, u).tolist() == [[0.0, 5.0]]
    assert constraint_error(plane, u, target=torch.tensor([[3.0, 4.0]]).double()).tolist() == [[5.0, 0.0]]


def test_constraint_error_of_a_stack_is_from_its_levels_and_from_the_start_of_what_it_conserves():
    """Energy changes from 0.5 by 4; x + y is 3 and 7 beside its level 0."""
    both = stack(CentralMotion(), LinearConstraint(torch.tensor([[1.0, 1.0, 0.0, 0.0]]).double()))
    u = torch.tensor([[[1.0, 2.0, 0.0, 0.0], [0.0, 7.0, 0.0, 0.0]]]).double()
    energy = u[..., :2].square().sum(-1).square()[0] / 4
    expected = torch.stack([torch.tensor(3.0).double(), (energy.diff()[0] ** 2 + 49).sqrt()])
    torch.testing.assert_close(constraint_error(both, u)[0], expected)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: relative_state_error(REFERENCE, REFERENCE[:, :1]), "of the same shape"),
        (lambda: relative_state_error(REFERENCE, REFERENCE.expand(2, -1, -1)), "of the same shape"),
        (lambda: valid_prediction_time(REFERENCE, REFERENCE[:, :1], T), "of the same shape"),
        (lambda: valid_prediction_time(REFERENCE, REFERENCE, T[:1]), r"t must be \(10,\)"),
        (
            lambda: constraint_error(CentralMotion(), torch.ones(2, 3, 4), target=torch.ones(3, 1)),
            r"target must be \(\.\.\., 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(measure, message):
    with pytest.raises(ShapeError, match=message):
        measure()


def test_constraint_error_of_a_driven_constraint_is_at_its_own_times():
    """A still arm has the error of the prescribed motion, which starts at zero."""
    t = torch.linspace(0, 0.5, 6).double()
    u = torch.tensor([0.3, -0.4, 1.0]).double().expand(1, 6, 3)
    error = constraint_error(EndPointMotion(3), u, t)
    torch.testing.assert_close(error[0], (2 * torch.pi * t).sin().abs() / (2 * torch.pi))
