"""The classical Runge–Kutta method on a grid that divides the delay.

Over one delay interval the delayed terms βf(u(t−τ)) are known beforehand, at the ends and middles of steps: one call
gives them all, and the four stages of a step with linear decay add up to one recurrence.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from torch import Tensor
from torch.autograd import forward_ad

from mackeyglass.arguments import check_precision, whole
from mackeyglass.equation import Value, is_batched
from mackeyglass.history import History, batch_shape, sample_history, tensors_of
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.segment_map import LinearDecay, moved

Engine = Literal["auto", "numba", "torch"]


@dataclass(frozen=True, eq=False)
class GridSolution:
    """Values and slopes at the ends of steps, delay by delay.

    Each delay interval has its own slopes at both ends, so where u' jumps (at t = 0, where the history ends) both
    one-sided values are kept: a cubic Hermite interpolant that mixed them would be of order 2 in the cells beside it.
    """

    values: Float[Tensor, "k nodes *batch"]
    slopes: Float[Tensor, "k nodes *batch"]
    step: Float[Tensor, "*tau"]  # in float64, for times late in a long run
    state: Float[Tensor, "halves *batch"]  # of the last interval, at ends and middles of steps: what continues the run

    def evaluate(self, times: Float[Tensor, "*tau times"]) -> Float[Tensor, "*batch times"]:
        """Cubic Hermite interpolation at times counted from the beginning of the first interval.

        Raises
        ------
        ConfigError
            If a time lies outside the intervals.
        """
        k, nodes = self.values.shape[:2]
        scaled = times / self.step[..., None]
        cells = k * (nodes - 1)
        slack = 1e3 * torch.finfo(self.values.dtype).eps * cells
        if not is_batched(scaled) and not bool(((scaled >= -slack) & (scaled <= cells + slack)).all()):
            raise ConfigError(f"times must lie between 0 and {k} delays, which the solution covers")
        cell = scaled.detach().floor().clamp(0, cells - 1)
        s, index = (scaled - cell).to(self.values.dtype), cell.long()
        index = index + index // (nodes - 1)  # each interval has one node more than cells
        left, right = self._at(self.values, index), self._at(self.values, index + 1)
        slope_left, slope_right = self._at(self.slopes, index), self._at(self.slopes, index + 1)
        h = self.step.to(left)[..., None]
        return cubic_hermite(s, left, right, h * slope_left, h * slope_right)

    def _at(self, stored: Tensor, index: Tensor) -> Tensor:
        flat = stored.flatten(0, 1).movedim(0, -1)
        if index.ndim == 1:
            return flat[..., index]
        return flat.gather(-1, index.expand(*flat.shape[:-1], -1))


def cubic_hermite(s: Tensor, left: Tensor, right: Tensor, slope_left: Tensor, slope_right: Tensor) -> Tensor:
    """The cubic with these values and slopes by s at s = 0 and 1."""
    secant = right - left
    return left + s * (secant + (1 - s) * (slope_left * (1 - s) - slope_right * s - secant * (1 - 2 * s)))


class RungeKutta4:
    """RK4 with h = τ/K and delayed values at middles of steps by cubic Hermite interpolation: order 4 from any history.

    Parameters
    ----------
    system
        A `MackeyGlass`, or another object with `gamma`, `tau` and `production`, on which only the engine "torch" works.
    steps
        K, the number of steps in a delay.
    engine
        "numba" (of the extra ``fast``; compiled, one sample after the other, each gets what it gets alone, bit for bit)
        or "torch" (any device, differentiable); "auto" takes numba where it is installed and can do it. Both give the
        same numbers up to the rounding of powers.
    dtype, device
        Of everything; device defaults to that of the system's tensors. The engine numba has float64 on CPU only.

    Raises
    ------
    ConfigError
        For a number of steps below 1, other dtypes than float32 and float64, or an engine that is missing or cannot do
        this.
    """

    def __init__(
        self,
        system: LinearDecay,
        steps: int = 100,
        *,
        engine: Engine = "auto",
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        steps = whole("steps", steps)
        check_precision(dtype)
        if engine not in ("auto", "numba", "torch"):
            raise ConfigError(f'engine must be "auto", "numba" or "torch", got {engine!r}')
        if device is None:
            tensors = tensors_of(system)
            device = tensors[0].device if tensors else "cpu"
        self.given = system  # its tensors are the caller's, who may train them
        self.steps, self.engine, self.dtype, self.device = steps, engine, dtype, torch.device(device)
        if engine == "numba":
            reason = self._obstacle()
            if reason:
                raise ConfigError(f"the engine numba {reason}: use engine='torch'")

    @property
    def system(self) -> LinearDecay:
        """The system, its tensors in the dtype and on the device of the computation."""
        return moved(self.given, lambda value: value.to(self.device, self.dtype))

    def history(self, history: History) -> Float[Tensor, "halves *batch"]:
        """The state on [−τ, 0]: values at the 2K + 1 ends and middles of steps, as `GridSolution.state`.

        Raises
        ------
        ConfigError, ShapeError
            For histories that do not fit; see `sample_history`.
        """
        grid = torch.linspace(-1, 0, 2 * self.steps + 1, dtype=self.dtype, device=self.device)
        times = self._tensor(self.system.tau)[..., None] * grid
        values = sample_history(history, self.system, times, on_nodes="ends and middles of steps")
        return values[0].movedim(-1, 0).contiguous()

    def run(self, state: Float[Tensor, "halves *batch"], k: int) -> GridSolution:
        """The solution on the next k ≥ 1 delays.

        Raises
        ------
        ShapeError
            If the state does not have 2K + 1 values, or does not fit the batch of systems.
        ConfigError
            Where derivatives of what the engine numba computes are to be taken.
        """
        batch = batch_shape(self.given)
        broadcasts = all(a == b or b == 1 for a, b in zip(state.shape[:0:-1], reversed(batch), strict=False))
        if state.ndim <= len(batch) or state.shape[0] != 2 * self.steps + 1 or not broadcasts:
            raise ShapeError(
                f"a state must have shape ({2 * self.steps + 1}, …{''.join(f', {size}' for size in batch)}), "
                f"values at ends and middles of steps, got {tuple(state.shape)}"
            )
        tracked = [state, *(self.given.parameters.values() if isinstance(self.given, MackeyGlass) else ())]
        tensors = [value for value in tracked if isinstance(value, Tensor)]
        forward = any(map(_in_transformation, tensors))
        differentiable = forward or any(value.requires_grad for value in tensors)
        if self.engine == "numba" and (forward or (differentiable and torch.is_grad_enabled())):
            raise ConfigError("the engine numba has no derivatives: use engine='torch', or detach tensors")
        if self.engine == "numba" or (self.engine == "auto" and not differentiable and not self._obstacle()):
            return self._run_compiled(state, k)
        return self._run_torch(state, k)

    def _run_torch(self, state: Tensor, k: int) -> GridSolution:
        system = self.system
        gamma, h = self._tensor(system.gamma), self._tensor(system.tau) / self.steps
        z = gamma * h
        growth = 1 - z + z**2 / 2 - z**3 / 6 + z**4 / 24
        # the four stages of u' = −γu + g(t), of which g is known at ends and middles of steps
        weights = h / 6 * (1 - z + z**2 / 2 - z**3 / 4), h / 6 * (4 - 2 * z + z**2 / 2), h / 6
        u, values, slopes = state[-1], [], []
        for _ in range(k):
            g = system.production(state)
            forcing = weights[0] * g[:-2:2] + weights[1] * g[1::2] + weights[2] * g[2::2]
            nodes = [u]
            for added in forcing.unbind(0):
                u = torch.addcmul(added, growth, u)
                nodes.append(u)
            x = torch.stack(nodes)
            slope = g[::2] - gamma * x
            middles = (x[:-1] + x[1:]) / 2 + h / 8 * (slope[:-1] - slope[1:])
            state = torch.cat([torch.stack([x[:-1], middles], 1).flatten(0, 1), x[-1:]])
            values.append(x)
            slopes.append(slope)
        return GridSolution(torch.stack(values), torch.stack(slopes), self._step(), state)

    def _run_compiled(self, state: Tensor, k: int) -> GridSolution:
        from mackeyglass.runge_kutta_numba import integrate

        shape, system = state.shape[1:], self.system
        assert isinstance(system, MackeyGlass)
        names = ("beta", "gamma", "n", "theta", "tau")
        parameters = torch.stack([self._tensor(getattr(system, name)).expand(shape).flatten() for name in names], -1)
        whole = not isinstance(system.n, Tensor) and system.n == int(system.n)
        rows = state.detach().reshape(len(state), -1).T.contiguous()
        values, slopes, last = (
            torch.from_numpy(array) for array in integrate(rows.numpy(), parameters.numpy(), k, whole)
        )
        return GridSolution(
            values.permute(1, 2, 0).unflatten(-1, shape) if shape else values[0],
            slopes.permute(1, 2, 0).unflatten(-1, shape) if shape else slopes[0],
            self._step(),
            last.T.unflatten(-1, shape) if shape else last[0],
        )

    def _step(self) -> Tensor:
        return torch.as_tensor(self.system.tau, dtype=torch.float64, device=self.device) / self.steps

    def _obstacle(self) -> str | None:
        """Why the compiled engine cannot be used, if so."""
        if type(self.given) is not MackeyGlass:
            return f"knows the Mackey–Glass equation only, not {type(self.given).__name__}"
        if self.dtype != torch.float64 or self.device.type != "cpu":
            return f"computes in float64 on CPU only, not in {self.dtype} on {self.device}"
        try:
            import numba  # noqa: F401
        except ImportError:
            return "needs numba, which is not installed (pip install 'mackeyglass[fast]')"
        return None

    def _tensor(self, value: Value) -> Tensor:
        return torch.as_tensor(value, dtype=self.dtype, device=self.device)


def _in_transformation(value: Tensor) -> bool:
    """Whether forward-mode differentiation or a transformation of `torch.func` acts on a tensor."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(value)  # pyright: ignore[reportAttributeAccessIssue]
    return wrapped or forward_ad.unpack_dual(value).tangent is not None
