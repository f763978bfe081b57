"""Measurements of what models declare in `properties`; `measures` adds one."""

import copy
from collections.abc import Callable
from typing import Any

import torch
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

    A trajectory (batch, time, n) counts as its last state.
    """
    state, *rest = inputs
    generator = torch.Generator().manual_seed(0)
    states = torch.cat([state, state[:1] + torch.randn(5, *state.shape[1:], generator=generator).to(state)])

    def flow(x: Tensor) -> Tensor:
        y = model(x[None], *rest)[0]
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
    """`model.field(u)` is tangent to the level sets of `model.constraint(u)`, and `model.solve` stays on them."""
    u = inputs[0]
    field = model.field(u).detach()
    value, along = jvp(model.constraint, (u,), (field,))  # type: ignore[misc]
    eps = torch.finfo(u.dtype).eps
    require(
        value.abs().max() <= 1e3 * eps * (1 + u.abs().max()),
        f"the example's states are off it: the constraint is {float(value.abs().max()):.1e} there",
    )
    require(float(field.norm()) > 0, "the field vanishes at the example's states: give states that move")
    slopes = torch.linalg.matrix_norm(vmap(jacrev(model.constraint))(u), 2)
    limit = 1e4 * eps * (1 + slopes.max() * field.norm(dim=-1).max())
    require(
        along.abs().max() <= limit,
        f"the constraint changes at the rate {float(along.abs().max()):.1e} along its field; rounding explains "
        f"{float(limit):.1e}",
    )
    if len(inputs) > 1 and hasattr(model, "solve"):
        tolerance = 1e-8
        drift = model.constraint(model.solve(u, inputs[1], tol=tolerance).u).abs().max()
        require(drift <= 500 * tolerance, f"its solution at tolerance {tolerance:g} leaves it by {float(drift):.1e}")


@measures("torch.func")
def transformable(model: Model, inputs: tuple[Any, ...]) -> None:
    """`vmap` of `functional_call` over the samples equals the call on the batch."""
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state, *rest = inputs
    batch = model(*inputs)
    single = vmap(lambda x: functional_call(model, weights, (x[None], *rest))[0])(state)
    difference = float((batch - single).abs().max() / batch.abs().max())
    require(difference <= 1e3 * torch.finfo(batch.dtype).eps, f"vmap over samples differs by {difference:.1e}")


@measures("torch.compile")
def compilable(model: Model, inputs: tuple[Any, ...]) -> None:
    """One graph without breaks, and the same output."""
    compiled: Any = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    try:
        output = compiled(*inputs)
    except Exception as error:
        require(False, f"torch.compile(fullgraph=True) fails with {type(error).__name__}: {error}")
        return
    expected = model(*inputs)
    difference = float((output - expected).abs().max() / expected.abs().max())
    require(difference <= 1e3 * torch.finfo(expected.dtype).eps, f"the compiled model differs by {difference:.1e}")
