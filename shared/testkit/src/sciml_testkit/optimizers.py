"""What every registered optimizer promises.

An optimizer may have a classmethod `example() -> dict` with the settings that solve the suite's problem, a quadratic of
condition number 10 in at most 2,000 steps, to f below 1e-6; without it the defaults are used. Ordinary optimizers get
`Quadratic`, those that take the module `LinearLayer`, which has the same spectrum.
"""

import copy
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sciml.create import arguments
from sciml.errors import SciMLError
from sciml.registry import Entry
from sciml.state import load_state, save_state, tensors_equal
from torch import Tensor, nn

from sciml_testkit.errors import ConformanceError, require

Closure = Callable[[], Tensor]


class Quadratic(nn.Module):
    """½ Σ λ (x - 1)² with λ from 0.1 to 1, started at zero, in three parameters of different shapes."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(3, 4, dtype=dtype))
        self.b = nn.Parameter(torch.zeros(5, dtype=dtype))
        self.c = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self) -> Tensor:
        x = torch.cat([p.flatten() for p in (self.a, self.b, self.c)])
        return 0.5 * (torch.linspace(0.1, 1, len(x), dtype=x.dtype) * (x - 1).square()).sum()


class LinearLayer(nn.Module):
    """Least squares, averaged over the batch, by one `nn.Linear`: a quadratic with λ from 0.1 to 1, started at zero."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3, bias=False, dtype=dtype)
        nn.init.zeros_(self.a.weight)

    def forward(self) -> Tensor:
        x = (6 * torch.linspace(0.1, 1, 6, dtype=self.a.weight.dtype)).sqrt().diag()
        return 0.5 * (self.a(x) - x.sum(-1, keepdim=True)).square().sum(-1).mean()


def convex_problem(entry: Entry, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The convex problem for this optimizer."""
    return (LinearLayer if getattr(entry.load(), "takes_module", False) else Quadratic)(dtype)


def make(entry: Entry, module: nn.Module, groups: Any = None, **changes: Any) -> torch.optim.Optimizer:
    """The optimizer with its example's settings and `changes`, on the module or on `groups` of its parameters."""
    cls = entry.load()
    require(
        isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer),
        f"{entry.name}: {entry.module}:{entry.attribute} is {cls!r}; register a subclass of torch.optim.Optimizer",
    )
    settings = getattr(cls, "example", dict)()
    try:
        json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConformanceError(f"{entry.name}: the settings of example() are not JSON: {error}") from error
    takes_module = getattr(cls, "takes_module", False)
    target: Any = module if takes_module else module.parameters() if groups is None else groups
    return cls(target, **settings, **changes)


def closure_of(module: nn.Module, optimizer: torch.optim.Optimizer, calls: list[bool] | None = None) -> Closure:
    """Loss with gradients; records whether gradients were enabled."""

    def closure() -> Tensor:
        if calls is not None:
            calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = module()
        loss.backward()
        return loss

    return closure


def check_solves_a_convex_problem(entry: Entry, tmp_path: Path) -> None:
    """A well-conditioned quadratic falls below 1e-6 in 2,000 steps."""
    module = convex_problem(entry)
    optimizer = make(entry, module)
    first = float(module().detach())
    for _ in range(2000):
        optimizer.step(closure_of(module, optimizer))  # type: ignore[arg-type]
        if float(module()) < 1e-6:
            return
    raise ConformanceError(
        f"{entry.name}: a quadratic of condition number 10 went from {first:.2g} to {float(module()):.2e} in 2000 "
        "steps; expected below 1e-6. Give settings that solve it in a classmethod example()"
    )


def check_closures(entry: Entry, tmp_path: Path) -> None:
    """`step(closure)` enables gradients for the closure and returns the loss of its first call."""
    module = convex_problem(entry)
    optimizer, calls = make(entry, module), []
    before = float(module().detach())
    returned: Any = None
    try:
        with torch.no_grad():
            returned = optimizer.step(closure_of(module, optimizer, calls))  # type: ignore[arg-type]
    except RuntimeError:
        if all(calls):
            raise
    require(calls, f"{entry.name}: step(closure) never calls the closure")
    require(all(calls), f"{entry.name}: step(closure) calls it without gradients; wrap the call in torch.enable_grad()")
    require(
        returned is not None and abs(float(returned) - before) <= 1e-9 * before,
        f"{entry.name}: step(closure) returned {returned}; expected the loss {before:.6g} of its first call",
    )


def plain(value: Any, where: str) -> Iterator[str]:
    """Places in a state dict that the checkpoint format does not hold."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from plain(item, f"{where}[{i}]")
    elif value is not None and not isinstance(value, Tensor | bool | int | float | str):
        yield f"{where} is a {type(value).__name__}"


def check_state_round_trips(entry: Entry, tmp_path: Path) -> None:
    """Stopped after any of the first steps and restored from a file, it continues bit for bit."""
    for stop in (1, 3, 8):
        torch.manual_seed(0)
        module = convex_problem(entry)
        optimizer = make(entry, module)
        for _ in range(stop):
            optimizer.step(closure_of(module, optimizer))  # type: ignore[arg-type]
        strange = list(plain(optimizer.state_dict(), "state_dict()"))
        require(
            not strange,
            f"{entry.name}: {'; '.join(strange[:3])}; "
            "a state holds tensors, numbers, strings, None, lists, tuples and dicts",
        )
        save_state(tmp_path / f"{stop}", {"module": module.state_dict(), "optimizer": optimizer.state_dict()})
        state = load_state(tmp_path / f"{stop}")
        restored = convex_problem(entry)
        restored.load_state_dict(state["module"])
        again = make(entry, restored)
        again.load_state_dict(state["optimizer"])
        torch.manual_seed(1)
        for _ in range(5):
            optimizer.step(closure_of(module, optimizer))  # type: ignore[arg-type]
        torch.manual_seed(1)
        for _ in range(5):
            again.step(closure_of(restored, again))  # type: ignore[arg-type]
        require(
            tensors_equal(dict(module.state_dict()), dict(restored.state_dict())),
            f"{entry.name}: restored from its state_dict after {stop} steps it departs from the undisturbed run: its "
            "state does not round-trip. Keep all that step() reads in self.state and self.param_groups",
        )


def check_dtypes_and_layouts(entry: Entry, tmp_path: Path) -> None:
    """Float32 and non-contiguous parameters are updated, in their own dtype and finitely."""
    single = convex_problem(entry, torch.float32)
    strided = convex_problem(entry)
    matrix = next(strided.parameters())
    matrix.data = matrix.data.t().contiguous().t()
    for module, what in ((single, "float32"), (strided, "not contiguous")):
        optimizer = make(entry, module)
        try:
            for _ in range(3):
                optimizer.step(closure_of(module, optimizer))  # type: ignore[arg-type]
        except Exception as error:
            raise ConformanceError(f"{entry.name}: parameters that are {what} end in {error!r}") from error
        for name, parameter in module.named_parameters():
            kind = f"{parameter.dtype}, strides {parameter.stride()}"
            require(
                parameter.dtype == next(module.parameters()).dtype, f"{entry.name}: {name} changed its dtype to {kind}"
            )
            require(
                torch.isfinite(parameter).all() and parameter.abs().max() > 0,
                f"{entry.name}: the parameter {name} ({kind}) is not updated, or not finite",
            )
    reference = convex_problem(entry)
    optimizer = make(entry, reference)
    for _ in range(3):
        optimizer.step(closure_of(reference, optimizer))  # type: ignore[arg-type]
    require(
        torch.allclose(matrix, next(reference.parameters()), rtol=1e-9, atol=1e-12),
        f"{entry.name}: a parameter that is not contiguous is updated differently",
    )


def check_parameter_groups(entry: Entry, tmp_path: Path) -> None:
    """Settings are per group: parameters of a group whose `lr` is 1000 times smaller hardly move."""
    cls = entry.load()
    if getattr(cls, "takes_module", False) or "lr" not in inspect.signature(cls).parameters:
        return
    module = Quadratic()
    small = 1e-3 * float(make(entry, Quadratic()).param_groups[0]["lr"])
    try:
        optimizer = make(entry, module, [{"params": [module.a, module.c]}, {"params": [module.b], "lr": small}])
    except (ValueError, SciMLError) as error:  # torch's L-BFGS takes one group only, and says so
        require("group" in str(error), f"{entry.name}: two parameter groups end in {error!r}")
        return
    require(
        len(optimizer.param_groups) == 2, f"{entry.name}: two parameter groups became {len(optimizer.param_groups)}"
    )
    for _ in range(3):
        optimizer.step(closure_of(module, optimizer))  # type: ignore[arg-type]
    require(module.a.abs().max() > 0, f"{entry.name}: the first of two parameter groups is not updated")
    moved = [float(p.detach().abs().mean()) for p in (module.b, module.a)]
    require(
        moved[0] <= 0.1 * moved[1],
        f"{entry.name}: parameters of a group with 1000 times smaller lr move {moved[0] / moved[1]:.1e} times as far "
        "as the others; read the settings of each group in step()",
    )


def check_schedules(entry: Entry, tmp_path: Path) -> None:
    """A schedule that lets `lr` fall to zero is followed: the last steps change nothing."""
    cls = entry.load()
    if "lr" not in inspect.signature(cls).parameters:
        return
    module = convex_problem(entry)
    optimizer = make(entry, module)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: max(0.0, 1 - k / 4))
    for k in range(6):
        before = copy.deepcopy(module.state_dict())
        optimizer.step(closure_of(module, optimizer))  # type: ignore[arg-type]
        schedule.step()
        finite = all(bool(torch.isfinite(p).all()) for p in module.parameters())
        require(finite, f"{entry.name}: parameters are not finite under a schedule that lets lr fall to zero")
        require(
            tensors_equal(before, dict(module.state_dict())) == (k >= 4),
            f"{entry.name}: at step {k + 1} under a schedule that reaches lr=0 after 4 steps, parameters "
            f"{'move' if k >= 4 else 'stay'}; read lr from self.param_groups in step()",
        )


def check_diagnostics(entry: Entry, tmp_path: Path) -> None:
    """`diagnostics()`, if there is one, gives numbers by name at any time."""
    module = convex_problem(entry)
    optimizer = make(entry, module)
    if (diagnostics := getattr(optimizer, "diagnostics", None)) is None:
        return
    for steps in range(3):
        told = diagnostics()
        strange = {n: x for n, x in told.items() if not isinstance(n, str) or not isinstance(x, int | float)}
        require(not strange, f"{entry.name}: diagnostics() after {steps} steps has {strange}; give numbers by name")
        optimizer.step(closure_of(module, optimizer))  # type: ignore[arg-type]


def check_missing_and_sparse_gradients(entry: Entry, tmp_path: Path) -> None:
    """Parameters without gradient stay; sparse gradients work or are refused by a clear error."""
    module = convex_problem(entry)
    module.d = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = make(entry, module)
    for _ in range(2):
        optimizer.step(closure_of(module, optimizer))  # type: ignore[arg-type]
    require(bool((module.d == 1).all()), f"{entry.name}: a parameter without gradient was changed")
    module = convex_problem(entry)
    module.table = table = nn.Embedding(4, 2, sparse=True, dtype=torch.float64)
    before = copy.deepcopy(table)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module() + table(torch.tensor([1])).square().sum()
        loss.backward()
        return loss

    try:
        optimizer = make(entry, module)
        optimizer.step(closure)  # type: ignore[arg-type]
    except (RuntimeError, ValueError, TypeError, SciMLError) as error:
        require("sparse" in str(error).lower(), f"{entry.name}: a sparse gradient ends in {error!r}; name it")
        return
    changed = (table.weight != before.weight).any(-1)
    require(bool(changed[1]), f"{entry.name}: a sparse gradient is ignored; apply it, or raise an error that names it")


def check_vanishing_gradients(entry: Entry, tmp_path: Path) -> None:
    """Gradients that are zero for long, as where a hinge loss is met, and parameters without entries do no harm."""
    module = convex_problem(entry)
    if not getattr(entry.load(), "takes_module", False):
        module.empty = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
    optimizer = make(entry, module)
    force = 1.0

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = force * module()
        for p in module.parameters():
            loss = loss + 0 * p.sum()
        loss.backward()
        return loss

    for k in range(220):
        force = float(k < 5 or k >= 210)
        optimizer.step(closure)  # type: ignore[arg-type]
    largest = max(float(p.detach().abs().max()) for p in module.parameters() if p.numel())
    require(
        largest <= 100,
        f"{entry.name}: after 205 steps with gradients of zero, five more with their true ones end at {largest:.1e}; "
        "the minimum is at 1. What grows from step to step must not do so where no gradient bounds it",
    )


def check_maximize(entry: Entry, tmp_path: Path) -> None:
    """`maximize=True`, if there is one, takes the steps that the negative of the function is minimised by."""
    if "maximize" not in arguments(entry.load(), 1):
        return
    found = []
    for sign in (1, -1):
        module = convex_problem(entry)
        optimizer = make(entry, module, maximize=sign < 0)

        def closure(sign: int = sign, module: nn.Module = module, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = sign * module()
            loss.backward()
            return loss

        for _ in range(20):
            optimizer.step(closure)  # type: ignore[arg-type]
        found.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    require(
        torch.allclose(*found, rtol=1e-9, atol=1e-12),
        f"{entry.name}: with maximize=True, -f is not maximised by the steps by which f is minimised",
    )


def check_gradient_scaler(entry: Entry, tmp_path: Path) -> None:
    """Under a gradient scaler it takes the same steps, and none where a gradient is infinite."""
    cls = entry.load()
    if inspect.signature(cls.step).parameters["closure"].default is inspect.Parameter.empty:
        return
    plain_module, module = convex_problem(entry), convex_problem(entry)
    alone, optimizer = make(entry, plain_module), make(entry, module)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for k in range(8):
        before = copy.deepcopy(module.state_dict())
        optimizer.zero_grad()
        scaler.scale(module() * (float("inf") if k == 4 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        if k == 4:
            same = tensors_equal(before, dict(module.state_dict()))
            require(same, f"{entry.name}: under a gradient scaler it takes a step where gradients are infinite")
            continue
        closure_of(plain_module, alone)()
        alone.step()
    require(
        all(torch.allclose(p, q, rtol=1e-9) for p, q in zip(plain_module.parameters(), module.parameters())),
        f"{entry.name}: under a gradient scaler its steps are others",
    )


def check_complex_parameters(entry: Entry, tmp_path: Path) -> None:
    """Complex parameters are moved as pairs of real ones, or refused by a clear error."""
    if getattr(entry.load(), "takes_module", False):
        return
    weights = torch.tensor([1.0, 0.3, 0.1], dtype=torch.float64)
    z = nn.Parameter(torch.tensor([1 + 2j, -0.5j, 3.0], dtype=torch.complex128))
    pair = nn.Parameter(torch.view_as_real(z.detach()).clone())
    for parameter in (z, pair):
        module = nn.ParameterList([parameter])

        def closure(p: nn.Parameter = parameter) -> Tensor:
            p.grad = None
            squares = p.abs().square() if p.is_complex() else p.square().sum(-1)
            loss = (weights * squares).sum() / 2
            loss.backward()
            return loss

        try:
            optimizer = make(entry, module)
            for _ in range(10):
                optimizer.step(closure)  # type: ignore[arg-type]
        except (RuntimeError, ValueError, TypeError, SciMLError) as error:
            require("complex" in str(error).lower(), f"{entry.name}: complex parameters end in {error!r}; name them")
            return
    require(
        torch.allclose(torch.view_as_real(z.detach()), pair.detach(), rtol=1e-9, atol=1e-12),
        f"{entry.name}: complex parameters do not move as pairs of real ones; update torch.view_as_real of them",
    )


def check_capturable(entry: Entry, tmp_path: Path) -> None:
    """`capturable=True`, if there is one, takes the same steps, or is refused on this device by name."""
    if "capturable" not in arguments(entry.load(), 1):
        return
    found = []
    for capturable in (False, True):
        module = convex_problem(entry)
        optimizer = make(entry, module, capturable=capturable)
        try:
            for _ in range(20):
                optimizer.step(closure_of(module, optimizer))  # type: ignore[arg-type]
        except (AssertionError, RuntimeError, ValueError, SciMLError) as error:
            require("capturable" in str(error), f"{entry.name}: capturable=True ends in {error!r}; name it")
            return
        found.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    require(
        torch.allclose(*found, rtol=1e-9, atol=1e-12),
        f"{entry.name}: with capturable=True it takes other steps",
    )
