"""Measurements of what models declare in `properties`; `measures` adds one."""

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sciml.grids import Grid
from sciml.model import Model
from torch import Tensor
from torch.func import functional_call, jacrev, jvp, vmap

from sciml_testkit.errors import require

Measurement = Callable[[Model, tuple[Any, ...]], None]
PROPERTIES: dict[str, Measurement] = {}


def measures(name: str) -> Callable[[Measurement], Measurement]:
    """Decorator: the function measures the property `name` of a model on inputs, and raises `ConformanceError`.

    It gets a float64 instance with random weights (where the model takes a `dtype`) and the inputs of `example()`.
    """

    def register(measurement: Measurement) -> Measurement:
        PROPERTIES[name] = measurement
        return measurement

    return register


def jacobians(model: Model, inputs: tuple[Any, ...]) -> Tensor:
    """Jacobians of the map of single states, (sample, n, n), at random states around those of the example.

    The state is one input (q, p), or two, where the model returns the pair (q, p). A trajectory (batch, time, n)
    counts as its last state.
    """
    pair = isinstance(model(*inputs), tuple | list)
    state, rest = (torch.cat(inputs[:2], -1), inputs[2:]) if pair else (inputs[0], inputs[1:])
    generator = torch.Generator().manual_seed(0)
    states = torch.cat([state, state[:1] + torch.randn(5, *state.shape[1:], generator=generator).to(state)])

    def flow(x: Tensor) -> Tensor:
        y = torch.cat(model(*x[None].chunk(2, -1), *rest), -1)[0] if pair else model(x[None], *rest)[0]
        return y if y.ndim == 1 else y[-1]

    return torch.stack([jacrev(flow)(x).detach() for x in states])


@measures("symplectic")
def symplectic(model: Model, inputs: tuple[Any, ...]) -> None:
    """Jᵀ Ω J = Ω for states (q, p)."""
    J = jacobians(model, inputs)
    n = J.shape[-1]
    require(J.shape[-2] == n and n % 2 == 0, f"it maps {n} components to {J.shape[-2]}; expected states (q, p)")
    half = torch.eye(n // 2, dtype=J.dtype)
    zero = torch.zeros_like(half)
    omega = torch.cat([torch.cat([zero, half], 1), torch.cat([-half, zero], 1)])
    error = (J.mT @ omega @ J - omega).abs().amax((-2, -1))
    limit = 1e3 * torch.finfo(J.dtype).eps * (1 + torch.linalg.matrix_norm(J, 2) ** 2)
    require(
        (error <= limit).all(),
        f"its Jacobian J breaks JᵀΩJ = Ω by {float(error.max()):.1e}, where rounding explains {float(limit.max()):.1e}",
    )


@measures("volume-preserving")
def volume_preserving(model: Model, inputs: tuple[Any, ...]) -> None:
    """|det J| = 1."""
    J = jacobians(model, inputs)
    error = (torch.linalg.det(J).abs() - 1).abs()
    limit = 1e3 * torch.finfo(J.dtype).eps * (1 + torch.linalg.cond(J))
    require((error <= limit).all(), f"|det J| of its Jacobian differs from 1 by {float(error.max()):.1e}")


@measures("on-manifold")
def on_manifold(model: Any, inputs: tuple[Any, ...]) -> None:
    """`model.field(u)` is tangent to the level sets of `model.residual(u)`, and `model.solve` stays on them.

    Of a model without `field`, the outputs satisfy `model.residual(output)` = 0 to rounding.
    """
    require(hasattr(model, "residual"), "it has no residual(u), which is zero on the manifold: nothing to measure")
    u = inputs[0]
    if not hasattr(model, "field"):
        output = model(*inputs)
        parts = output if isinstance(output, tuple | list) else (output,)
        off = float(model.residual(output).detach().abs().max())
        scale = 1 + max(float(part.detach().abs().max()) for part in parts)
        limit = 1e4 * torch.finfo(parts[0].dtype).eps * scale**2
        require(off <= limit, f"its outputs miss it: the constraint is {off:.1e}; rounding explains {limit:.1e}")
        return
    field = model.field(u).detach()
    value, along = jvp(model.residual, (u,), (field,))  # type: ignore[misc]
    eps = torch.finfo(u.dtype).eps
    require(
        value.abs().max() <= 1e3 * eps * (1 + u.abs().max()),
        f"the example's states are off it: the constraint is {float(value.abs().max()):.1e} there",
    )
    require(float(field.norm()) > 0, "the field vanishes at the example's states: give states that move")
    slopes = torch.linalg.matrix_norm(vmap(jacrev(model.residual))(u), 2)
    limit = 1e4 * eps * (1 + slopes.max() * field.norm(dim=-1).max())
    require(
        along.abs().max() <= limit,
        f"the constraint changes at the rate {float(along.abs().max()):.1e} along its field; rounding explains "
        f"{float(limit):.1e}",
    )
    if len(inputs) > 1 and hasattr(model, "solve"):
        tolerance = 1e-8
        drift = model.residual(model.solve(u, inputs[1], tol=tolerance).u).abs().max()
        require(drift <= 500 * tolerance, f"its solution at tolerance {tolerance:g} leaves it by {float(drift):.1e}")


@measures("torch.func")
def transformable(model: Model, inputs: tuple[Any, ...]) -> None:
    """`vmap` of `functional_call` over the samples equals the call on the batch."""
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state, *rest = inputs
    batch = model(*inputs).detach()
    single = vmap(lambda x: functional_call(model, weights, (x[None], *rest))[0])(state)
    difference = float((batch - single.detach()).abs().max() / batch.abs().max())
    require(difference <= 1e3 * torch.finfo(batch.dtype).eps, f"vmap over samples differs by {difference:.1e}")


@measures("torch.compile")
def compilable(model: Model, inputs: tuple[Any, ...]) -> None:
    """One graph without breaks, and the same output."""
    torch.compiler.reset()  # earlier models share the code of wrappers, of which there is a limited number of graphs
    compiled: Any = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    try:
        output = compiled(*inputs)
    except Exception as error:
        require(False, f"torch.compile(fullgraph=True) fails with {type(error).__name__}: {error}")
        return
    expected = model(*inputs).detach()
    difference = float((output.detach() - expected).abs().max() / expected.abs().max())
    require(difference <= 1e3 * torch.finfo(expected.dtype).eps, f"the compiled model differs by {difference:.1e}")


@measures("discretization-convergent")
@torch.no_grad()
def discretization_convergent(model: Model, inputs: tuple[Any, ...]) -> None:
    """The outputs e(N, 2N) = ‖u_N - u_2N‖ / ‖u_2N‖ at doubled resolutions converge, at the order ½ at least.

    `example(resolution=N)` gives the same input functions at N points an axis. Fields (batch, channel, *space) are
    compared as functions: on the `Grid` among the inputs, or on a periodic one.
    """
    parameter = inspect.signature(model.example).parameters.get("resolution")
    require(
        parameter is not None and isinstance(parameter.default, int),
        "example() takes no resolution: define example(cls, resolution: int = …), which samples the same functions at "
        "any resolution",
    )
    assert parameter is not None
    fields, grids = [], []
    for factor in (1, 2, 4, 8):
        at = tuple(
            x.to(inputs[0].dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            for x in model.example(resolution=factor * parameter.default).inputs  # type: ignore[call-arg]
        )
        field = model(*at)
        periodic = Grid.uniform(tuple(field.shape[2:]), periodic=True, dtype=field.dtype)
        fields.append(field)
        grids.append(next((x for x in at if isinstance(x, Grid)), periodic))
    errors = []
    for u, v, coarse, fine in zip(fields, fields[1:], grids, grids[1:], strict=False):
        norm = fine.norm(v).max().clamp_min(torch.finfo(v.dtype).tiny)
        errors.append(float(fine.norm(coarse.interpolate(u, fine) - v).max() / norm))
    listed = ", ".join(f"{error:.1e}" for error in errors)
    require(all(math.isfinite(error) for error in errors), f"its outputs are not finite at all resolutions: {listed}")
    if errors[-1] > 1e3 * torch.finfo(fields[0].dtype).eps:
        order = -np.polyfit(range(3), np.log2(np.maximum(errors, 1e-300)), 1)[0]
        require(
            order >= 0.5,
            f"its outputs at {parameter.default}, twice, 4 and 8 times as many points an axis differ by {listed} "
            f"(relative), an order of {order:.2f}; expected at least 0.5. Weigh sums over points by quadrature "
            "weights, and let kernels have a physical size",
        )
