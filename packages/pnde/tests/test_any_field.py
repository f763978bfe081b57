"""A constraint is put around any function or module f(t, u), and what is none says so."""

import pytest
import sciml
import torch
from pnde import (
    ConstrainedMechanics,
    EndPointMotion,
    FunctionConstraint,
    LinearConstraint,
    MLPField,
    NeuralODE,
    PendulumConstraint,
    PowerBalance,
    ProjectedField,
    StabilizedField,
    stack,
)
from sciml.errors import ConfigError

F64 = torch.float64


class Plain(torch.nn.Module):
    """A module that knows nothing of this package."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3, dtype=F64)

    def forward(self, t, u):
        return self.layer(u)


def energy():
    return FunctionConstraint(lambda u: (u.square().sum() / 2)[None], 3, 1, kind="conserved")


@pytest.mark.parametrize("base", [Plain(), lambda t, u: u.sin()])
def test_modules_and_functions_are_projected(base):
    u, g = torch.randn(5, 3, dtype=F64), energy()
    field = ProjectedField(base, g)
    assert (u * field(None, u)).sum(-1).abs().max() <= 1e-14
    stabilized = StabilizedField(base, g, 2.0)(None, u, g(None, u))
    torch.testing.assert_close(stabilized, base(None, u))
    solution = NeuralODE(field, rtol=1e-9, atol=1e-9)(u, torch.linspace(0, 1, 3, dtype=F64), strict=True)
    torch.testing.assert_close(solution.u.norm(dim=-1), u.norm(dim=-1)[:, None].expand(-1, 3), rtol=1e-7, atol=0)
    assert bool(list(field.parameters())) == isinstance(base, torch.nn.Module)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: NeuralODE(sciml.create_model("pnde/pnde", hidden=[4])), ConfigError, r"model\.dynamics"),
        (lambda: ProjectedField(sciml.create_model("pnde/pnde"), PendulumConstraint()), ConfigError, r"\.dynamics"),
        (lambda: ProjectedField(torch.nn.Linear(3, 3), energy()), ConfigError, r"f\(t, u\); Linear takes other"),
        (lambda: StabilizedField(3, energy(), 1.0), ConfigError, "got int"),
        (lambda: ConstrainedMechanics(MLPField(4), PendulumConstraint(2)), ConfigError, "on 4 components"),
        (lambda: StabilizedField(Plain(), energy(), 1.0, method="magic"), ConfigError, "magic"),
        (lambda: ProjectedField(Plain(), energy(), rank="pinv", method="qr"), ConfigError, "leave it out"),
        (lambda: ProjectedField(Plain(), energy(), rank="tikhonov", method="sparse"), ConfigError, "rank='error'"),
        (lambda: LinearConstraint(torch.ones(1, 3), kind="conseved"), ConfigError, "choose from level, conserved"),
    ],
)
def test_what_is_no_field_says_so(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "constraint", [EndPointMotion(3), FunctionConstraint(lambda t, u: u[:1] - t, 3, 1, driven=True)]
)
def test_driven_constraints_need_the_time(constraint):
    u = torch.rand(2, 3, dtype=F64)
    with pytest.raises(ConfigError, match="driven, it depends on time: give t"):
        ProjectedField(Plain(), constraint)(None, u)
    with pytest.raises(ConfigError, match="give t"):
        constraint(None, u)


def test_sparse_rows_of_a_stack_and_of_a_stabilised_field():
    """The loads of a grid, below each other twice, and with the slack bus."""
    both = stack(PowerBalance(slack=False), PowerBalance(slack=False))
    u = torch.randn(3, 28, dtype=F64)
    rows = both.sparse_jacobian(None, u)
    found = torch.zeros(3, both.m * 28, dtype=F64)
    found = found.index_add(-1, rows.pattern.rows * 28 + rows.pattern.columns, rows.values)
    torch.testing.assert_close(found.view(3, both.m, 28), both.jacobian(None, u))

    balance, base = PowerBalance(), MLPField(28, (4,), dtype=F64)
    one = stack(balance)
    dense = StabilizedField(base, balance, 2.0)(None, u)
    for constraint in (balance, one):
        torch.testing.assert_close(StabilizedField(base, constraint, 2.0, method="sparse")(None, u), dense)
    empty = ProjectedField(base, one, method="sparse")(None, u[:0])
    assert empty.shape == (0, 28)
