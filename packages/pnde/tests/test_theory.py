"""Solutions of constrained fields against what theory says of drift, stiffness, driven motion and loss of rank."""

import numpy as np
import pytest
import torch
from pnde import (
    CentralMotion,
    DoublePendulum,
    EndPointMotion,
    MLPField,
    PendulumConstraint,
    ProjectedField,
    QuarticPotential,
    RankDeficientConstraintError,
    RobotArm,
    SecondOrderField,
    StabilizedField,
    Status,
    project_tangent,
    retract,
    solve,
)
from pnde.experiments.small_systems import zero_base
from pnde.fields import MLP

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pendulums(samples: int = 4) -> torch.Tensor:
    angles = torch.cat([torch.rand(samples, 2, dtype=F64) * 2 * torch.pi, torch.zeros(samples, 2, dtype=F64)], -1)
    return torch.from_numpy(DoublePendulum().to_cartesian(angles.numpy()))


@torch.no_grad()
def test_one_chord_iteration_a_step_stays_on_the_manifold_and_keeps_the_order():
    constraint, u0 = PendulumConstraint(), pendulums()
    field = ProjectedField(SecondOrderField(8, MLP(8, 4, (16,), dtype=F64)), constraint)
    exact = solve(field, u0, torch.tensor([0.0, 2.0], dtype=F64), rtol=1e-12, atol=1e-12).u[:, -1]
    error = []
    for steps in (40, 80, 160):
        u = solve(
            field,
            u0,
            torch.linspace(0, 2, steps + 1, dtype=F64),
            method="rk4",
            retract=lambda t, u: retract(constraint, u, torch.zeros(len(u), 4, dtype=F64), method="single"),
        ).u
        assert constraint(None, u).norm(dim=-1).max() <= 1e-12
        error.append(float((u[:, -1] - exact).norm(dim=-1).max()))
    assert np.log2(error[0] / error[1]) >= 3.7
    assert np.log2(error[1] / error[2]) >= 3.7


@torch.no_grad()
def test_stabilisation_leaves_a_floor_and_makes_stiff_where_projection_does_neither():
    """‖g‖ settles near ‖G f‖/γ, and steps are bound by γh < 3.3; a projected field takes the steps of a free one."""
    constraint, u0, t = PendulumConstraint(), pendulums(), torch.linspace(0, 2, 5, dtype=F64)
    gamma, base, options = 200.0, MLPField(8, (16,), dtype=F64), {"rtol": 1e-6, "atol": 1e-6}
    stiff = solve(StabilizedField(base, constraint, gamma), u0, t, args=(torch.zeros(4, 4).double(),), **options)
    end = stiff.u[:, -1]
    floor = (constraint.jacobian(None, end) @ base(None, end)[..., None])[..., 0] / gamma
    assert ((constraint(None, end) - floor).norm(dim=-1) <= 0.05 * floor.norm(dim=-1)).all()
    assert stiff.nfe >= 1.8 * gamma * 2
    free, projected = (solve(f, u0, t, **options) for f in (base, ProjectedField(base, constraint)))
    assert free.u.norm(dim=-1).max() < 10 * u0.norm(dim=-1).max()
    assert projected.nfe <= 1.5 * free.nfe


def test_the_projection_of_nothing_moves_the_arm_as_prescribed():
    problem = RobotArm(duration=2.0)
    data = problem.generate(3, seed=0)
    u, t, constraint = torch.tensor(data.state.values), torch.tensor(data.time.values), EndPointMotion()

    class Still(MLPField):
        def forward(self, t, u):
            return torch.zeros_like(u)

    target = constraint.target(t[0], u[:, 0])
    found = solve(ProjectedField(Still(3), constraint), u[:, 0], t, args=(target,), rtol=1e-11, atol=1e-11).u
    off = constraint(t.expand(3, -1), found) - target[:, None]
    assert off.norm(dim=-1).max() <= 1e-8
    assert (found - u).abs().max() <= 1e-8
    assert zero_base(problem, u) == pytest.approx(float((found - u).abs().max()), abs=1e-15)
    assert zero_base(problem, u + 0.1 * (t > 0)[:, None]) == pytest.approx(0.1, abs=1e-8)


def test_circular_orbits_where_both_gradients_are_parallel_end_or_go_on_without_one():
    """v = r² on a circle of the quartic potential: ∇E = r² ∇L."""
    both, energy = CentralMotion(energy=True, angular_momentum=True), CentralMotion()
    r = 0.8
    u0 = torch.tensor([[0.8, 0.1, -0.3, 0.5], [r, 0.0, 0.0, r**2]], dtype=F64)
    G, v = both.jacobian(None, u0), torch.randn(2, 4, dtype=F64)
    with pytest.raises(RankDeficientConstraintError, match=r"first \[1\]") as caught:
        project_tangent(G, v)
    assert caught.value.rows == [0, 1]
    kept = project_tangent(G, v, rank="pinv")
    torch.testing.assert_close(kept[1], project_tangent(energy.jacobian(None, u0[1]), v[1]), rtol=0, atol=1e-12)
    torch.testing.assert_close(kept[0], project_tangent(G[0], v[0]), rtol=0, atol=1e-12)

    class Motion(MLPField):
        def forward(self, t, u):
            return torch.from_numpy(QuarticPotential().field(None, u.numpy()))

    t, target = torch.linspace(0, 3, 4, dtype=F64), both.target(None, u0)
    options = {"args": (target,), "rtol": 1e-9, "atol": 1e-9}
    ended = solve(ProjectedField(Motion(4), both), u0, t, **options)
    assert ended.status.tolist() == [Status.SUCCESS, Status.NONFINITE]
    found = solve(ProjectedField(Motion(4), both, rank="pinv"), u0, t, **options)
    assert found.status.tolist() == [Status.SUCCESS, Status.SUCCESS]
    turned = torch.stack([r * (r * t).cos(), r * (r * t).sin()], -1)
    torch.testing.assert_close(found.u[1, :, :2], turned, rtol=0, atol=1e-6)
