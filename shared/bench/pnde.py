"""`pnde`: what the projection costs beside the bare field, and beside projections written by hand.

The target (arXiv 2410.23667 on CPUs): a projected right-hand side within 1.1 times the bare one where the network is
the paper's (10 layers of 1024), a training step within 1.6 times.
"""

import torch
from pnde.constraints import PendulumConstraint
from pnde.metrics import constraint_error
from pnde.models import NeuralODE, ProjectedNeuralODE, StabilizedNeuralODE
from pnde.problems import DoublePendulum
from rich.console import Console
from rich.table import Table
from torch import Tensor

from shared.bench.timing import compare


class SolveProjected(ProjectedNeuralODE):
    """Projection by hand: automatic differentiation through `torch.linalg.solve`."""

    def field(self, u: Tensor) -> Tensor:
        G, f = self.constraint.jacobian(None, u), self.base_field(u)
        return f - (G.mT @ torch.linalg.solve(G @ G.mT, G @ f[..., None]))[..., 0]


class PinvProjected(ProjectedNeuralODE):
    """Projection by hand: automatic differentiation through `torch.linalg.pinv`."""

    def field(self, u: Tensor) -> Tensor:
        G, f = self.constraint.jacobian(None, u), self.base_field(u)
        return f - (torch.linalg.pinv(G) @ (G @ f[..., None]))[..., 0]


def models(hidden: list[int]) -> dict[str, NeuralODE]:
    """The same network in every model."""
    kinds = {
        "NDE": lambda: NeuralODE(hidden=hidden),
        "PNDE": lambda: ProjectedNeuralODE(hidden=hidden),
        "PNDE mechanics": lambda: ProjectedNeuralODE(hidden=hidden, metric="mechanics"),
        "SNDE γ=20": lambda: StabilizedNeuralODE(hidden=hidden, gamma=20.0),
        "by hand, linalg.solve": lambda: SolveProjected(hidden=hidden),
        "by hand, pinv": lambda: PinvProjected(hidden=hidden),
    }
    made = {}
    for name, make in kinds.items():
        torch.manual_seed(0)
        made[name] = make()
    return made


def main() -> None:
    """Right-hand side, training step and solution of every model."""
    data = torch.tensor(DoublePendulum(duration=1.0).generate(64).state.values)
    t = torch.arange(6, dtype=torch.float64) * 0.05

    def step(model: NeuralODE, u0: Tensor) -> None:
        model(u0, t).square().mean().backward()

    for hidden in ([128] * 3, [1024] * 10):
        named = models(hidden)
        for batch in (1, 1024):
            u = data.flatten(0, 1)[:batch]
            label = f"{len(hidden)}×{hidden[0]}, batch {batch}"
            with torch.no_grad():
                compare(f"right-hand side, {label}", {n: lambda m=m, u=u: m.field(u) for n, m in named.items()})
    named, u0 = models([128] * 3), data[:, 0].repeat(4, 1)
    compare("training step, 3×128, batch 256, 5 RK4 steps", {n: lambda m=m: step(m, u0) for n, m in named.items()})
    table = Table("model", "field evaluations", "largest ‖g‖", title="solution, batch 64, T = 5 s, tolerance 1e-6")
    for name, model in named.items():
        solution = model.solve(data[:, 0], torch.linspace(0, 5, 101, dtype=torch.float64), tol=1e-6)
        drift = constraint_error(PendulumConstraint(), solution.u).max()
        table.add_row(name, str(solution.n_evaluations), f"{drift:.2e}")
    Console().print(table)


if __name__ == "__main__":
    main()
