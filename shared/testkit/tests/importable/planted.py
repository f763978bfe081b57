"""Correct miniature plugins, and the same with one defect planted in each."""

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from sciml.config import config
from sciml.data import Problem
from sciml.errors import DataError
from sciml.experiment import Experiment, Metric, Report
from sciml.model import Example, Model

STATES = torch.tensor([[0.3, -0.8], [1.0, 0.2]], dtype=torch.float64)


class Shears(Model):
    """A symplectic map of (q, p)."""

    properties: ClassVar[frozenset[str]] = frozenset({"symplectic", "volume-preserving", "torch.func", "torch.compile"})

    def __init__(self, steps: int = 2, options: dict[str, Any] | None = None, dtype: str = "float64") -> None:
        super().__init__()
        self.scale = (options or {}).get("scale", 1.0)
        self.weights = torch.nn.Parameter(torch.full((steps, 2), 0.1, dtype=getattr(torch, dtype)))

    @classmethod
    def example(cls) -> Example:
        return Example({"steps": 2, "options": {"scale": 2.0}}, (STATES,))

    def forward(self, state):
        if state.ndim != 2 or state.dtype != self.weights.dtype:
            raise ValueError(f"state must be (batch, 2) of {self.weights.dtype}")
        q, p = state.unbind(-1)
        for a, b in self.weights:
            p = p - self.scale * a * torch.sin(q)
            q = q + b * p
        return torch.stack([q, p], -1)


class NotSymplectic(Shears):
    def forward(self, state):
        return 1.001 * super().forward(state)


class Undeclared(Shears):
    properties = frozenset({"beautiful"})


class NotJson(Shears):
    """Stores a tensor in its configuration."""

    def __init__(self, steps: int = 2, dtype: str = "float64") -> None:
        super().__init__(steps, dtype=dtype)

    @classmethod
    def example(cls) -> Example:
        return Example({"steps": torch.tensor(2)}, (STATES,))


class NotJsonInside(Shears):
    """Its arguments are JSON, but what it keeps is not."""

    def forward(self, state):
        return super().forward(state)

    @property
    def config(self):
        return {**self._config, "weights": self.weights}

    @config.setter
    def config(self, value):
        self._config = value


class BatchNormalised(Shears):
    properties = frozenset()

    def forward(self, state):
        return super().forward(state) / (1 + state.std(0, correction=0))


class LosesDtype(Shears):
    """Saves without its `dtype`, and converts back nothing."""

    def save_pretrained(self, directory, weights=None):
        self.config = {**self.config, "dtype": "float64"}
        super().save_pretrained(directory, {k: v.double() for k, v in self.state_dict().items()})


class LosesNested(Shears):
    """Saves without its nested argument."""

    def save_pretrained(self, directory, weights=None):
        self.config, kept = {**self.config, "options": None}, self.config
        super().save_pretrained(directory, weights)
        self.config = kept


class HasIdleParameter(Shears):
    def __init__(self, steps: int = 2, options: dict[str, Any] | None = None, dtype: str = "float64") -> None:
        super().__init__(steps, options, dtype)
        self.idle = torch.nn.Parameter(torch.ones(1, dtype=getattr(torch, dtype)))


class AcceptsAnything(Shears):
    properties = frozenset()

    def forward(self, state):
        return super().forward(state.reshape(-1, 2).to(self.weights.dtype) if state.ndim else STATES)


class PairShears(Shears):
    """The same map of the pair (q, p)."""

    @classmethod
    def example(cls) -> Example:
        return Example({"steps": 2}, (STATES[:, :1], STATES[:, 1:]), batched=(0, 1))

    properties = frozenset({"symplectic", "volume-preserving"})

    def forward(self, q, p):
        if q.shape != p.shape or q.dtype != p.dtype:
            raise ValueError("q and p must have one shape and dtype")
        y = super().forward(torch.cat([q, p], -1))
        return y[:, :1], y[:, 1:]


class OnCircle(Model):
    """Directions in the plane, normalised."""

    properties = frozenset({"on-manifold"})

    def __init__(self) -> None:
        super().__init__()
        self.turn = torch.nn.Parameter(torch.tensor([0.1], dtype=torch.float64))

    @classmethod
    def example(cls) -> Example:
        return Example({}, (STATES,))

    def forward(self, state):
        if state.ndim != 2 or state.dtype != torch.float64:
            raise ValueError("state must be (batch, 2) of float64")
        y = state + self.turn * state.flip(-1)
        return y / y.norm(dim=-1, keepdim=True)

    def residual(self, y):
        return y.square().sum(-1) - 1


class OffCircle(OnCircle):
    def forward(self, state):
        return 1.001 * super().forward(state)


class Smoothing(Model):
    """Convolution on the circle by a kernel of fixed physical width, weighted by the mesh width."""

    properties = frozenset({"discretization-convergent"})

    def __init__(self) -> None:
        super().__init__()
        self.width = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))

    @classmethod
    def example(cls, resolution: int = 16) -> Example:
        x = torch.arange(resolution, dtype=torch.float64) / resolution
        return Example({}, (torch.stack([(6.283185307 * x).sin(), (12.566370614 * x).cos().exp()])[:, None],))

    def forward(self, u):
        if u.ndim != 3 or u.dtype != torch.float64:
            raise ValueError("u must be (batch, channel, x) of float64")
        return self.smooth(u, torch.fft.rfftfreq(u.shape[-1], 1 / u.shape[-1], dtype=torch.float64))

    def smooth(self, u, frequency):
        kernel = torch.exp(-0.1 * (self.width * frequency) ** 2)
        return torch.fft.irfft(torch.fft.rfft(u) * kernel, n=u.shape[-1])


class SumsPoints(Smoothing):
    """Forgets the mesh width."""

    def smooth(self, u, frequency):
        return u.shape[-1] * super().smooth(u, frequency)


class HasNoResolution(Smoothing):
    @classmethod
    def example(cls) -> Example:
        return super().example()


class Momentum(torch.optim.Optimizer):
    """Gradient descent with momentum, written as it should be."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise RuntimeError("Momentum does not support sparse gradients")
                self.update(p, group)
        return loss

    def update(self, p, group):
        state = self.state[p]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(p)
        state["velocity"].mul_(group["momentum"]).add_(p.grad)
        p.add_(state["velocity"], alpha=-group["lr"])


class OneRateForAll(Momentum):
    """Reads the settings of the first group only."""

    def update(self, p, group):
        super().update(p, self.param_groups[0])


class KeepsItsRate(Momentum):
    """Reads the learning rate in the first step only."""

    def update(self, p, group):
        super().update(p, {**group, "lr": group.setdefault("rate", group["lr"])})


class TellsTensors(Momentum):
    """Its diagnostics are no numbers."""

    def diagnostics(self):
        return {"rate": torch.ones(2)}


class ForgetsVelocity(Momentum):
    """Keeps its velocity outside its state."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9) -> None:
        super().__init__(params, lr, momentum)
        self.velocity: dict[Any, Any] = {}

    def update(self, p, group):
        velocity = self.velocity.setdefault(p, torch.zeros_like(p))
        velocity.mul_(group["momentum"]).add_(p.grad)
        p.add_(velocity, alpha=-group["lr"])


class StrangeState(Momentum):
    """Keeps an object in its state that no file format holds."""

    def update(self, p, group):
        super().update(p, group)
        self.state[p]["strange"] = object()


class ClosureWithoutGradients(Momentum):
    """Forgets to enable gradients for the closure where they are switched off outside."""

    def step(self, closure=None):
        if closure is None:
            return super().step()
        loss = closure()
        super().step()
        return loss


class GrowsInTheDark(Momentum):
    """Its steps grow from step to step, where nothing holds them."""

    def update(self, p, group):
        state = self.state[p]
        state["quiet"] = state.get("quiet", 0) + (not p.grad.any().item())
        super().update(p, {**group, "lr": group["lr"] * 1.1 ** state["quiet"]})


class CannotBeEmpty(Momentum):
    """Asks for the largest gradient of every parameter."""

    def update(self, p, group):
        p.grad.abs().max()
        super().update(p, group)


class MinimisesAlways(Momentum):
    """Has an argument that it does not read."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9, maximize: bool = False) -> None:
        super().__init__(params, lr, momentum)


class ScalesItself(Momentum):
    """Says that it looks for infinite gradients, and does not."""

    _step_supports_amp_scaling = True


class MovesRealParts(Momentum):
    """Forgets the imaginary parts."""

    def update(self, p, group):
        if p.is_complex():
            p.grad = p.grad.real.to(p.dtype)
        super().update(p, group)


class CapturesOthers(Momentum):
    """Takes shorter steps on a device."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9, capturable: bool = False) -> None:
        super().__init__(params, lr / 2 if capturable else lr, momentum)


@dataclass(frozen=True)
class Waves(Problem):
    """Sines of random phase."""

    chunk: ClassVar[int] = 4

    frequency: float = 1.0

    def phases(self, seeds):
        return np.array([np.random.default_rng(seed).uniform() for seed in seeds])

    def simulate(self, seeds):
        t = np.linspace(0, 1, 5)
        u = np.sin(self.frequency * t + self.phases(seeds)[:, None])
        return xarray.Dataset({"u": (("sample", "time"), u, {"units": "m"})}, {"time": ("time", t, {"units": "s"})})


class DependsOnWorkers(Waves):
    """Draws from a generator of the process instead of its samples' seeds."""

    def phases(self, seeds):
        return super().phases(seeds) + (os.getpid() % 1000) * 1e-3


class HasNoUnits(Waves):
    def simulate(self, seeds):
        return super().simulate(seeds).drop_attrs()


class NotConverged(Waves):
    accuracy: ClassVar[float] = 1e-6

    def refined(self):
        return Waves(frequency=self.frequency + 1e-3)


class NeedsFiles(Waves):
    needs: ClassVar[str] = "waves.csv"

    def simulate(self, seeds):
        raise DataError("give data_root=…, a folder with waves.csv")


class NeedsFilesSilently(Waves):
    needs: ClassVar[str] = "waves.csv"

    def simulate(self, seeds):
        return open("no/waves.csv")


class NeedsNothing(Waves):
    needs: ClassVar[str] = "waves.csv"


@config
class Config:
    seed: int = 0


def once(config, run):
    x = run.step("numbers", lambda: torch.randn(3))
    y = run.step("square", lambda: x.square())
    z = run.step("sum", lambda: float(y.sum()))
    return Report([Metric("sum", "numbers", z)])


def anew(config, run):
    for name in ("a", "b"):
        run.step(name, lambda: 1.0)
    return Report([Metric("sum", "numbers", float(np.random.default_rng().normal()))])


def once_only(config, run):
    for name in ("a", "b"):
        run.step(name, lambda: 1.0)
    (run.path / "mine").mkdir()
    run.step("c", lambda: 1.0)
    return Report([Metric("sum", "numbers", 1.0)])


PRESETS = dict.fromkeys(("smoke", "small", "paper"), Config())
ONCE = Experiment(once, PRESETS, paper="an example")
ANEW = Experiment(anew, PRESETS, paper="an example")
ONCE_ONLY = Experiment(once_only, PRESETS, paper="an example")
UNSOURCED = Experiment(once, PRESETS, paper=" ")
