"""A field that is not defined for some samples ends these alone."""

import pytest
import torch
from pnde import LotkaVolterraInvariant, MLPField, ProjectedField, RankDeficientConstraintError, Status, solve
from pnde.solvers import SampleError


def positive_only(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    bad = (u[:, 0] <= 0.5).nonzero()[:, 0].tolist()
    if bad:
        raise SampleError("too small", bad)
    return -u


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4"])
def test_samples_that_leave_the_domain_end_and_the_others_are_as_without_them(method):
    u0 = torch.tensor([[1.0], [3.0], [0.6], [9.0]], dtype=torch.float64)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    found = solve(positive_only, u0, t, method=method)
    assert (found.status == Status.SUCCESS).tolist() == [False, True, False, True]
    assert torch.equal(found.u[[1, 3]], solve(positive_only, u0[[1, 3]], t, method=method).u)
    assert found.u[0, :5].isfinite().all()
    assert found.u[0, -1].isnan().all()


def test_a_dependent_constraint_is_an_error_of_the_field_and_a_status_of_the_solver():
    invariant = LotkaVolterraInvariant()
    field = ProjectedField(MLPField(2, dtype=torch.float64), invariant)
    u0 = torch.tensor([[3.0, 1.5], [1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)  # the first is the equilibrium
    with pytest.raises(RankDeficientConstraintError, match=r"first \[0\]"):
        field(None, u0)
    found = solve(field, u0, torch.linspace(0, 1, 5).double(), args=(invariant.target(None, u0),))
    assert found.status.tolist() == [Status.NONFINITE, Status.SUCCESS, Status.SUCCESS]
    drift = invariant(None, found.u[1:]) - invariant.target(None, u0[1:])[:, None]
    assert drift.abs().max() <= 1e-5


def test_an_error_that_names_no_sample_is_raised():
    def broken(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        raise SampleError("everything is wrong")

    with pytest.raises(SampleError, match="everything"):
        solve(broken, torch.ones(2, 1).double(), torch.tensor([0.0, 1.0]).double())
