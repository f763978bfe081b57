"""A field that is not defined for some samples ends these alone."""

import pytest
import torch
from pnde import (
    FunctionConstraint,
    LotkaVolterraInvariant,
    MLPField,
    NeuralODE,
    ProjectedField,
    RankDeficientConstraintError,
    Status,
    solve,
)
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


def test_gradients_flow_whichever_sample_fails():
    torch.manual_seed(0)
    invariant, gradients = LotkaVolterraInvariant(), []
    field = ProjectedField(MLPField(2, (8,), dtype=torch.float64), invariant)
    good, equilibrium = torch.tensor([[2.0, 2.0]]).double(), torch.tensor([[3.0, 1.5]]).double()
    for u0 in (torch.cat([equilibrium, good]), torch.cat([good, equilibrium])):
        found = solve(field, u0, torch.linspace(0, 1, 3).double(), args=(invariant.target(None, u0),))
        loss = found.u[found.solved].square().mean()
        gradients.append(torch.autograd.grad(loss, list(field.parameters()))[0])
    assert gradients[0].norm() > 0
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_a_step_whose_retraction_fails_is_tried_again_with_a_smaller_one(method):
    """Retraction here succeeds close to the circle only, which the first steps leave by far."""

    def retract(t: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        radius = u.norm(dim=-1)
        return u / radius[:, None], (radius - 1).abs() < 1e-7

    def turn(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.stack([-u[:, 1], u[:, 0]], -1)

    u0, t = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([0.0, 2.0]).double()
    found = solve(turn, u0, t, method=method, rtol=1e-2, atol=1e-2, first_step=1.0, retract=retract)
    assert found.status.tolist() == [Status.SUCCESS]
    assert found.n_rejected[0] > 0
    torch.testing.assert_close(found.u[0, -1], torch.stack([t[1].cos(), t[1].sin()]), rtol=0, atol=1e-3)


def test_a_retraction_that_never_succeeds_ends_the_sample_alone():
    u0, t = torch.ones(3, 2).double(), torch.linspace(0, 1, 3).double()
    which = torch.tensor([[0.0], [1.0], [0.0]]).double()
    found = solve(lambda t, u, which: -u, u0, t, args=(which,), retract=lambda t, u, which: (u, which[:, 0] == 0))
    assert found.status.tolist() == [Status.SUCCESS, Status.RETRACTION_FAILED, Status.SUCCESS]


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 100.0), (torch.float64, 1e4), (torch.float32, 10.0)])
@pytest.mark.parametrize("retract", ["step", "output"])
def test_large_states_are_retracted_to_rounding(dtype, size, retract):
    torch.manual_seed(0)
    sphere = FunctionConstraint(lambda u: u.square().sum()[None], n=3, m=1, kind="conserved")
    u0 = size * torch.nn.functional.normalize(torch.randn(20, 3, dtype=dtype), dim=-1)
    flow = NeuralODE(ProjectedField(MLPField(3, dtype=dtype), sphere), retract=retract, rtol=1e-5, atol=1e-5)
    found = flow(u0, torch.linspace(0, 1, 5, dtype=dtype))
    assert (found.status == Status.SUCCESS).all()
    assert (found.u.norm(dim=-1) / size - 1).abs().max() <= 20 * torch.finfo(dtype).eps
