from dataclasses import dataclass
import numpy as np
import torch
import xarray
from sciml.config import config
from sciml.data import BatchLoader, Problem
from sciml.experiment import Experiment, Metric, Report
from sciml.model import Example, Model
from sciml.training import TrainerOptions

class Shears(Model):
    """The state (q, p) of a spring some time later, by shears of q and p in turn."""
    properties = frozenset({"symplectic"})
    def __init__(self, steps: int = 2, dtype: str = "float64"):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.full((steps, 2), 0.1, dtype=getattr(torch, dtype)))
    @classmethod
    def example(cls):
        return Example({"steps": 1}, (torch.eye(2, dtype=torch.float64),))
    def forward(self, state):
        if state.shape[-1:] != (2,) or not state.is_floating_point():
            raise ValueError(f"expected floating-point states (batch, 2), got {state.dtype} {tuple(state.shape)}")
        q, p = state.unbind(-1)
        for a, b in self.weights:
            p = p - a * q
            q = q + b * p
        return torch.stack([q, p], -1)

@dataclass(frozen=True)
class Spring(Problem):
    time: float = 0.5  # seconds between the two states of a sample
    def simulate(self, seeds):
        start = np.stack([np.random.default_rng(seed).normal(size=2) for seed in seeds])
        c, s = np.cos(self.time), np.sin(self.time)
        states = np.stack([start, start @ np.array([[c, -s], [s, c]])], axis=1)
        data = {"state": (("sample", "time", "component"), states, {"units": "m, m/s"})}
        return xarray.Dataset(data, {"time": ("time", [0.0, self.time], {"units": "s"}), "component": ["q", "p"]})

@config
class Config:
    seed: int = 0
    epochs: int = 100

def run(config, run):
    u = torch.tensor(run.generate("data", Spring(), 256)["state"].values)
    batches = BatchLoader({"start": u[:, 0], "end": u[:, 1]}, batch_size=64, seed=run.seed("batches"))
    error = lambda model, batch: (model(batch["start"]) - batch["end"]).square().mean()
    adam = lambda model: torch.optim.Adam(model.parameters(), lr=0.05)
    result = run.train("shears", Shears(), error, batches, TrainerOptions(epochs=config.epochs), adam)
    return Report([Metric("mean_squared_error", "shears", result.best_loss)])

EXPERIMENT = Experiment(run, {"smoke": Config(epochs=2), "small": Config(), "paper": Config()}, paper="an example")
