"""`pnde`: what projection costs beside the bare field, and solvers and projections beside those of others.

Targets: a projected right-hand side within 1.1 times the bare one on a CPU where the network is the paper's (10 layers
of 1024) and there are 1,024 samples, on an accelerator within 1.5 times from 1,024 samples on (there also compiled), a
training step within 1.6 times; at no more drift, five times fewer field evaluations with retraction than with
stabilisation, each at its cheapest tolerance; the native dopri5 faster than torchdiffeq's on 1,024 pendulums. Peers
that are not installed (torchode, diffrax) are left out. `OMP_NUM_THREADS=1` makes one thread of all.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from pnde.constraints import Constraint, PendulumConstraint
from pnde.fields import (
    MLP,
    ConstrainedMechanics,
    ProjectedField,
    SecondOrderField,
    StabilizedField,
    VectorField,
)
from pnde.neural_ode import NeuralODE
from pnde.solvers import Solution
from rich.console import Console
from rich.table import Table
from sciml.runtime import Runtime
from torch import Tensor
from torchdiffeq import odeint

from shared.bench.timing import compare, waiting

CONSOLE = Console()
F64 = torch.float64


@dataclass(frozen=True)
class Row:
    """A measured ratio and what it should be."""

    case: str
    ratio: float
    target: str
    met: bool


ROWS: list[Row] = []


class SolveProjected(VectorField):
    """Projection by hand: automatic differentiation through `torch.linalg.solve`."""

    def __init__(self, base: VectorField, constraint: Constraint) -> None:
        super().__init__()
        self.base, self.constraint, self.n = base, constraint, base.n

    def forward(self, t: Any, u: Tensor) -> Tensor:
        G, f = self.constraint.jacobian(None, u), self.base(t, u)
        return f - (G.mT @ torch.linalg.solve(G @ G.mT, G @ f[..., None]))[..., 0]


class PinvProjected(SolveProjected):
    """Projection by hand: automatic differentiation through `torch.linalg.pinv`."""

    def forward(self, t: Any, u: Tensor) -> Tensor:
        G, f = self.constraint.jacobian(None, u), self.base(t, u)
        return f - (torch.linalg.pinv(G) @ (G @ f[..., None]))[..., 0]


def fields(n_links: int, hidden: list[int], dtype: torch.dtype) -> dict[str, VectorField]:
    """What is made of one network of accelerations."""
    torch.manual_seed(0)
    net = MLP(4 * n_links, 2 * n_links, hidden, skip=len(hidden) > 3, dtype=dtype)
    base, constraint = SecondOrderField(4 * n_links, net), PendulumConstraint(n_links)
    return {
        "NDE": base,
        "PNDE": ProjectedField(base, constraint),
        "PNDE mechanics": ConstrainedMechanics(base, constraint),
        "SNDE": StabilizedField(base, constraint, 20.0),
        "by hand, linalg.solve": SolveProjected(base, constraint),
        "by hand, pinv": PinvProjected(base, constraint),
    }


def states(n_links: int, batch: int, speed: float, dtype: torch.dtype = F64) -> Tensor:
    """Pendulums at any angles, with angular velocities of that deviation."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.rand(batch, n_links, dtype=F64, generator=generator) * 2 * math.pi
    omega = torch.randn(batch, n_links, dtype=F64, generator=generator) * speed
    parts = [theta.sin(), -theta.cos(), theta.cos() * omega, theta.sin() * omega]
    return torch.cat([part.cumsum(-1) for part in parts], -1).to(dtype)


def diffrax_cases() -> ModuleType | None:
    """The same in JAX, if diffrax is installed."""
    if importlib.util.find_spec("diffrax") is None:
        return None
    return importlib.import_module("shared.bench._pnde_diffrax")


def network(field: VectorField) -> MLP:
    """The network of accelerations."""
    found = getattr(field, "base", field).acceleration
    assert isinstance(found, MLP)
    return found


def judge(case: str, ratio: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
    """Keep a ratio for the table of targets."""
    if at_most is not None:
        ROWS.append(Row(case, ratio, f"≤ {at_most:g}", ratio <= at_most))
    if at_least is not None:
        ROWS.append(Row(case, ratio, f"≥ {at_least:g}", ratio >= at_least))


def right_hand_sides() -> None:
    """One evaluation of each field."""
    peer = diffrax_cases()
    table = Table("network", "pendulum", "batch", "field", "µs", "times NDE", title="right-hand side")
    for hidden, dtype in (([128] * 3, F64), ([1024] * 10, torch.float32)):
        for n_links in (2, 8):
            for batch in (1, 1024):
                named, u = fields(n_links, hidden, dtype), states(n_links, batch, 8.0, dtype)
                cases: dict[str, Callable[[], object]] = {k: lambda f=f, u=u: f(None, u) for k, f in named.items()}
                if peer is not None:
                    cases["JAX"] = peer.right_hand_side(network(named["NDE"]), n_links, u)
                label = f"{len(hidden)}×{hidden[0]}, N={n_links}, batch {batch}"
                with torch.no_grad():
                    times = compare(f"right-hand side, {label}", cases, repeats=9 if batch * hidden[0] > 1e6 else 41)
                for name, taken in times.items():
                    cells = (f"{1e6 * taken:.0f}", f"{taken / times['NDE']:.2f}")
                    table.add_row(f"{len(hidden)}×{hidden[0]}", f"N={n_links}", str(batch), name, *cells)
                if len(hidden) > 3 and batch >= 1024:
                    judge(f"right-hand side, {label}: PNDE / NDE", times["PNDE"] / times["NDE"], at_most=1.1)
    CONSOLE.print(table)


def right_hand_sides_on(device: torch.device) -> None:
    """The same in single precision on an accelerator, as they are and compiled."""
    for n_links in (2, 8):
        for batch in (1, 1024, 65536):
            u = states(n_links, batch, 8.0, torch.float32).to(device)
            cases: dict[str, Callable[[], object]] = {}
            for name, field in fields(n_links, [1024] * 10, torch.float32).items():
                field = field.to(device)
                cases[name] = waiting(lambda field=field, u=u: field(None, u), device)
                if batch == 1024 and name in ("NDE", "PNDE"):
                    compiled = torch.compile(field)
                    cases[f"{name}, compiled"] = waiting(lambda field=compiled, u=u: field(None, u), device)
            label = f"{device}, 10×1024, N={n_links}, batch {batch}"
            with torch.no_grad():
                times = compare(f"right-hand side, {label}", cases)
            if batch >= 1024:
                judge(f"right-hand side, {label}: PNDE / NDE", times["PNDE"] / times["NDE"], at_most=1.5)
            if batch == 1024:
                ratio = times["PNDE, compiled"] / times["NDE, compiled"]
                judge(f"right-hand side, {label}: PNDE / NDE, both compiled", ratio, at_most=1.5)


def training_steps() -> None:
    """Five Runge-Kutta steps, and the gradient of the weights."""
    peer = diffrax_cases()
    for hidden, dtype, n_links, batch in (([128] * 3, F64, 2, 256), ([1024] * 10, torch.float32, 8, 32)):
        named, u0 = fields(n_links, hidden, dtype), states(n_links, batch, 8.0, dtype)
        t = torch.arange(6, dtype=dtype) * 0.01

        def ours(field: VectorField, u0: Tensor = u0, t: Tensor = t) -> None:
            NeuralODE(field, method="rk4")(u0, t).u.square().mean().backward()

        def by_hand(field: VectorField, u0: Tensor = u0, t: Tensor = t) -> None:
            odeint(field, u0, t, method="rk4").square().mean().backward()  # type: ignore[union-attr]

        cases: dict[str, Callable[[], object]] = {}
        for name, field in named.items():
            run = by_hand if name.startswith("by hand") else ours
            cases[name] = lambda field=field, run=run: run(field)
        cases["PNDE in torchdiffeq"] = lambda f=named["PNDE"]: by_hand(f)
        if peer is not None:
            cases["PNDE in diffrax, bosh3"] = peer.training_step(network(named["NDE"]), n_links, u0, t)
        label = f"training step, {len(hidden)}×{hidden[0]}, N={n_links}, batch {batch}"
        times = compare(f"{label}, 5 RK4 steps", cases, repeats=7)
        judge(f"{label}: PNDE / NDE", times["PNDE"] / times["NDE"], at_most=1.6)


def solutions() -> None:
    """A double pendulum from rest in every way: time, evaluations, drift."""
    named, u0, t = fields(2, [64] * 2, F64), states(2, 64, 0.0), torch.linspace(0, 5, 101, dtype=F64)
    base, constraint, peer = named["NDE"], PendulumConstraint(2), diffrax_cases()
    has_torchode = importlib.util.find_spec("torchode") is not None

    def drift(u: Tensor) -> tuple[float, float]:
        g = constraint(None, u).norm(dim=-1)
        largest = torch.where(g.isnan(), 0, g).amax(-1)
        return float(largest.median()), float(largest.max())

    reached: dict[str, list[tuple[int, float, float]]] = {}  # evaluations, largest ‖g‖, tolerance
    for tol in (1e-3, 1e-4, 1e-6):
        options: dict[str, Any] = {"rtol": tol, "atol": tol, "max_steps": 100_000}
        flows = {
            "PNDE": NeuralODE(named["PNDE"], **options),
            "PNDE, torchdiffeq": NeuralODE(named["PNDE"], backend="torchdiffeq", **options),
            "by hand, linalg.solve, torchdiffeq": NeuralODE(
                named["by hand, linalg.solve"], backend="torchdiffeq", **options
            ),
            "by hand, pinv, torchdiffeq": NeuralODE(named["by hand, pinv"], backend="torchdiffeq", **options),
            "PNDE, outputs retracted": NeuralODE(named["PNDE"], retract="output", **options),
            "PNDE, steps retracted": NeuralODE(named["PNDE"], retract="step", **options),
            "PNDE + stabilised γ=4": NeuralODE(ProjectedField(base, constraint, gamma=4.0), **options),
            "PNODE: free, steps retracted": NeuralODE(base, constraint=constraint, retract="step", **options),
            "SNDE γ=20": NeuralODE(StabilizedField(base, constraint, 20.0), **options),
            "SNDE γ=200": NeuralODE(StabilizedField(base, constraint, 200.0), **options),
            "NDE": NeuralODE(base, **options),
        }
        if has_torchode:
            flows["PNDE, torchode"] = NeuralODE(named["PNDE"], backend="torchode", **options)
        cases: dict[str, Callable[[], Any]] = {name: lambda f=f: f(u0, t) for name, f in flows.items()}
        if peer is not None:
            cases["PNDE, diffrax"] = peer.solution(network(base), 2, u0, t, tol)
        with torch.no_grad():
            found = {name: case() for name, case in cases.items()}
            times = compare(f"solution, batch 64, T = 5 s, tolerance {tol:g}", cases, repeats=3)
        columns = ("case", "ms", "evaluations", "steps, median", "failed", "‖g‖ median", "‖g‖ max")
        table = Table(*columns, title=f"solution, 64 double pendulums, T = 5 s, tolerance {tol:g}")
        for name, result in found.items():
            if isinstance(result, Solution):
                steps, calls, lost = result.n_accepted + result.n_rejected, str(result.nfe), int((~result.solved).sum())
            else:
                steps, calls, lost = result[1], f"{6 * int(result[1].max()) + 2}", 0
            u = result.u if isinstance(result, Solution) else result[0]
            cells = (
                f"{1e3 * times[name]:.0f}",
                calls,
                str(int(steps.median())),
                str(lost),
                *(f"{largest:.1e}" for largest in drift(u)),
            )
            table.add_row(name, *cells)
        CONSOLE.print(table)
        for name, result in found.items():
            if isinstance(result, Solution) and bool(result.solved.all()):
                reached.setdefault(name, []).append((result.nfe, drift(result.u)[1], tol))
    for name in ("SNDE γ=20", "SNDE γ=200"):
        least, bound, loosest = min(reached[name])
        for retracted in ("PNDE, outputs retracted", "PNDE, steps retracted"):
            fewest, largest, tol = min(
                (run for run in reached[retracted] if run[1] <= bound), default=(math.inf, math.nan, math.nan)
            )
            label = (
                f"evaluations: {name} at {loosest:g}, ‖g‖ ≤ {bound:.1e} / {retracted} at {tol:g}, ‖g‖ ≤ {largest:.1e}"
            )
            judge(label, least / fewest, at_least=5)


def pendulum(t: Any, u: Tensor) -> Tensor:
    """The damped double pendulum in angles: no matrix products, one row at a time."""
    first, second, v, w = u.unbind(-1)
    c, s = (first - second).cos(), (first - second).sin()
    r1, r2 = -s * w * w - 2 * 9.81 * first.sin(), s * v * v - 9.81 * second.sin()
    det = 2 - c * c
    return torch.stack([v, w, (r1 - c * r2) / det - 0.1 * v, (2 * r2 - c * r1) / det - 0.1 * (w - v)], -1)


def solvers() -> None:
    """1,024 exact pendulums at tolerance 1e-6, with errors of each sample."""
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(1024, 2, dtype=F64, generator=generator) * 2 * math.pi
    u0, t, tol = torch.cat([angles, torch.zeros_like(angles)], -1), torch.linspace(0, 5, 101, dtype=F64), 1e-6
    exact = NeuralODE(pendulum, method="dopri8", rtol=1e-13, atol=1e-13, max_steps=100_000)(u0, t[::20], strict=True).u
    cases: dict[str, Callable[[], Any]] = {
        "torchdiffeq dopri5": lambda: odeint(pendulum, u0, t, rtol=tol, atol=tol, method="dopri5"),
        **{f"native {m}": lambda m=m: NeuralODE(pendulum, method=m)(u0, t) for m in ("dopri5", "tsit5", "dopri8")},
    }
    if importlib.util.find_spec("torchode") is not None:
        for method in ("dopri5", "tsit5"):
            cases[f"torchode {method}"] = lambda m=method: NeuralODE(pendulum, backend="torchode", method=m)(u0, t)
    peer = diffrax_cases()
    if peer is not None:
        cases["diffrax dopri5"] = peer.solve(peer.pendulum, u0, t, tol)
    times = compare("1,024 double pendulums, T = 5 s, tolerance 1e-6, 101 outputs", cases, repeats=5)
    table = Table("case", "s", "error, median", "95 %", "max", title="1,024 double pendulums, error at 5 times")
    for name, case in cases.items():
        found = case()
        u = found.u if isinstance(found, Solution) else found[0] if isinstance(found, tuple) else found.transpose(0, 1)
        error = (u[:, ::20] - exact).norm(dim=-1).amax(-1)
        quantiles = (error.median(), error.quantile(0.95), error.max())
        table.add_row(name, f"{times[name]:.3f}", *(f"{float(x):.1e}" for x in quantiles))
    CONSOLE.print(table)
    judge(
        "1,024 pendulums: torchdiffeq dopri5 / native dopri5",
        times["torchdiffeq dopri5"] / times["native dopri5"],
        at_least=1,
    )


def main() -> None:
    """All tables, and the targets."""
    for package in ("torchode", "diffrax"):
        if importlib.util.find_spec(package) is None:
            CONSOLE.print(f"{package} is not installed: it is left out")
    solvers()
    solutions()
    training_steps()
    right_hand_sides()
    device = Runtime("auto").device
    if device.type != "cpu":
        right_hand_sides_on(device)
    table = Table("case", "ratio", "target", "met", title=f"targets, {torch.get_num_threads()} threads")
    for row in ROWS:
        table.add_row(row.case, f"{row.ratio:.2f}", row.target, "yes" if row.met else "no")
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
