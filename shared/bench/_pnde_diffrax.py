"""The projected pendulum field of `shared.bench.pnde` in JAX, solved by diffrax: compiled, one step size a sample."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

if torch.get_num_threads() == 1:  # as many threads as torch has
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import diffrax
import jax
import jax.numpy as jnp
from pnde.fields import MLP
from torch import Tensor

jax.config.update("jax_enable_x64", True)


def projected_field(net: MLP, n_links: int) -> tuple[Any, Callable[[Any, Any], Any]]:
    """Weights of a network of accelerations, and f(weights, u) of one state: projected by Cholesky factors of GGᵀ."""
    weights = [
        (jnp.asarray(layer.weight.detach()), jnp.asarray(layer.bias.detach())) for layer in (*net.hidden, net.out)
    ]
    difference = np.eye(n_links) - np.eye(n_links, k=-1)

    def field(weights: Any, u: Any) -> Any:
        D = jnp.asarray(difference, u.dtype)
        h = u
        for i, (W, b) in enumerate(weights[:-1]):
            y = jax.nn.gelu(W @ h + b, approximate=False)
            h = h + y if net.skip and i else y
        W, b = weights[-1]
        f = jnp.concatenate([u[2 * n_links :], W @ h + b])
        x, y, vx, vy = (D @ part for part in jnp.split(u, 4))
        zero = jnp.zeros_like(D)
        position = jnp.concatenate([2 * x[:, None] * D, 2 * y[:, None] * D, zero, zero], 1)
        velocity = jnp.concatenate([vx[:, None] * D, vy[:, None] * D, x[:, None] * D, y[:, None] * D], 1)
        G = jnp.concatenate([position, velocity])
        factor = jax.scipy.linalg.cho_factor(G @ G.T)
        return f - G.T @ jax.scipy.linalg.cho_solve(factor, G @ f)

    return weights, field


def right_hand_side(net: MLP, n_links: int, u: Tensor) -> Callable[[], object]:
    """The field at a batch of states."""
    weights, field = projected_field(net, n_links)
    compiled, states = jax.jit(jax.vmap(field, (None, 0))), jnp.asarray(u)
    return lambda: compiled(weights, states).block_until_ready()


def solution(net: MLP, n_links: int, u0: Tensor, t: Tensor, tol: float) -> Callable[[], tuple[Tensor, Tensor]]:
    """States (batch, time, n) and steps (batch,)."""
    weights, field = projected_field(net, n_links)
    return solve(lambda t, u, weights: field(weights, u), u0, t, tol, weights)


def solve(
    field: Callable[..., Any], u0: Tensor, t: Tensor, tol: float, args: Any = None
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Dormand and Prince's method on f(t, u, args)."""
    control, times = diffrax.PIDController(rtol=tol, atol=tol), jnp.asarray(t)

    def one(start: Any) -> Any:
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri5(),
            times[0],
            times[-1],
            None,
            start,
            args,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=control,
            max_steps=10_000,
            throw=False,
        )
        return found.ys, found.stats["num_steps"]

    compiled, states = jax.jit(jax.vmap(one)), jnp.asarray(u0)

    def run() -> tuple[Tensor, Tensor]:
        u, steps = jax.block_until_ready(compiled(states))
        return torch.tensor(np.asarray(u)), torch.tensor(np.asarray(steps))

    return run


def training_step(net: MLP, n_links: int, u0: Tensor, t: Tensor) -> Callable[[], object]:
    """Gradient of a mean square by equal steps of Bogacki and Shampine's method, 3 evaluations each (RK4 has 4)."""
    weights, field = projected_field(net, n_links)
    term = diffrax.ODETerm(lambda t, u, weights: jax.vmap(field, (None, 0))(weights, u))
    times, states = jnp.asarray(t), jnp.asarray(u0)

    def loss(weights: Any) -> Any:
        found = diffrax.diffeqsolve(
            term,
            diffrax.Bosh3(),
            times[0],
            times[-1],
            times[1] - times[0],
            states,
            weights,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.ConstantStepSize(),
        )
        return (found.ys**2).mean()

    compiled = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(compiled(weights))


def pendulum(t: Any, u: Any, args: Any) -> Any:
    """The damped double pendulum in angles, as `shared.bench.pnde.pendulum`."""
    first, second, v, w = u
    c, s = jnp.cos(first - second), jnp.sin(first - second)
    r1, r2 = -s * w * w - 2 * 9.81 * jnp.sin(first), s * v * v - 9.81 * jnp.sin(second)
    det = 2 - c * c
    return jnp.stack([v, w, (r1 - c * r2) / det - 0.1 * v, (2 * r2 - c * r1) / det - 0.1 * (w - v)])
