"""Two gloo processes end with the parameters of one process at the same global batch, and resume alike."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sciml.report import Report

SCRIPT = '''
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from sciml.data import BatchLoader
from sciml.runtime import Runtime, gather
from sciml.training import Trainer, TrainerOptions

class SignedMomentum(torch.optim.Optimizer):
    """A custom optimizer: momentum with a damped sign."""
    def __init__(self, params):
        super().__init__(params, {"lr": 1e-2})
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
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].mul_(0.9).add_(p.grad)
                p.add_(torch.tanh(state["momentum"]), alpha=-group["lr"])
        return loss

def residual(model, batch):
    """u' = cos with u(0) = 0: the loss differentiates the output with respect to the input."""
    x = batch["x"].detach().requires_grad_()
    u = model(x)
    (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return {"residual": (du - x.cos()).square().mean(), "value": (u - x.sin()).square().mean()}

strategy, optimizer, out, epochs = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()
data = BatchLoader({"x": torch.linspace(0, 3, 35, dtype=torch.float64)[:, None]}, 7)
make = {
    "custom": lambda m: SignedMomentum(m.parameters()),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2),
}
runtime = Runtime("cpu", strategy)
trainer = Trainer(TrainerOptions(epochs=epochs), out, runtime=runtime)
trainer.fit(model, residual, data, make[optimizer], validation=data)
state = gather(model.state_dict())
if runtime.is_main:
    save_file(state, out / f"after-{epochs}.safetensors")
runtime.close()
'''


def train(directory: Path, strategy: str, optimizer: str, out: str, epochs: int, processes: int) -> dict:
    script = directory / "script.py"
    script.write_text(SCRIPT)
    (directory / out).mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] * (processes > 1)
    command = [sys.executable, *launcher, str(script), strategy, optimizer, str(directory / out), str(epochs)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    # written before the processes leave: torch's threads sometimes abort the interpreter's own shutdown
    written = directory / out / f"after-{epochs}.safetensors"
    assert written.exists(), result.stderr[-3000:]
    return load_file(written)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("optimizer", ["custom", "adamw"])
def test_two_processes_equal_one(tmp_path, strategy, optimizer):
    one = train(tmp_path, "auto", optimizer, "one", 4, 1)  # 5 batches an epoch: 20 steps
    two = train(tmp_path, strategy, optimizer, "two", 4, 2)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-10)


@pytest.mark.slow
def test_sharded_checkpoint_resumes_on_one_process(tmp_path):
    whole = train(tmp_path, "auto", "adamw", "one", 4, 1)
    train(tmp_path, "fsdp", "adamw", "two", 2, 2)
    resumed = train(tmp_path, "auto", "adamw", "two", 4, 1)
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_experiment_of_two_processes_ends_with_the_metrics_of_one(tmp_path, strategy):
    run = ["-m", "sciml", "run", "pnde/double-pendulum", "--preset", "smoke", "--device", "cpu"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, command in (("one", run), ("two", [*launcher, *run, "--strategy", strategy])):
        out = str(tmp_path / name)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *command, "--out", out], capture_output=True, text=True, env=environment)
        assert (tmp_path / name / "report.json").exists(), done.stderr[-3000:]
    one, two = (Report.load(tmp_path / name) for name in ("one", "two"))
    for metric in one.metrics:
        if "time" not in metric.name:
            assert two.metric(metric.name, metric.subject).value == pytest.approx(metric.value, rel=1e-6), metric
