"""Two gloo processes end with the parameters of one process at the same global batch, and resume alike."""

import json
import socket
import subprocess
import sys
from multiprocessing.connection import wait
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
from symplectic_opt import ExpoSLC

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

strategy, folder = sys.argv[1], Path(sys.argv[2])
data = BatchLoader({"x": torch.linspace(0, 3, 35, dtype=torch.float64)[:, None]}, 7)  # 5 batches an epoch
make = {
    "custom": lambda m: SignedMomentum(m.parameters()),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2),
    "slc": lambda m: ExpoSLC(m.parameters(), lr=20.0),  # decides by scalar products over all parameters
}
runtime = Runtime("cpu", strategy)
for task in sys.argv[3:]:
    name, epochs = task.split(":")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()
    trainer = Trainer(TrainerOptions(epochs=int(epochs)), folder / name, runtime=runtime)
    trainer.fit(model, residual, data, make[name.partition("-")[0]], validation=data)
    state = gather(model.state_dict())
    if runtime.is_main:
        save_file(state, folder / f"{name}-{epochs}.safetensors")
runtime.close()
'''

MAIN = "import sciml.cli; sciml.cli.main()"


def launch(fork, processes: int, code: str, *arguments: str, cwd: Path) -> str:
    """What so many processes print; they are forks with the environment that torchrun gives."""
    if processes == 1:
        return fork(code, *arguments, cwd=cwd).ended().stdout
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    ranks = [
        fork(code, *arguments, cwd=cwd, **shared, **sizes, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(processes)
    ]
    wait([rank.process.sentinel for rank in ranks], timeout=240)
    for rank in ranks:
        rank.process.join(20)  # without the others it would wait for days
        rank.process.terminate()
    ends = [rank.ended() for rank in ranks]
    return "\n".join(f"{end.stdout[-3000:]}\nexit status {end.returncode}" for end in ends)


def train(fork, folder: Path, strategy: str, processes: int, *tasks: str) -> Path:
    """Train as `tasks` say, each `<optimizer>[-<what for>]:<epochs>`; the folder then has the parameters after each."""
    folder.mkdir(exist_ok=True)
    printed = launch(fork, processes, SCRIPT, strategy, str(folder), *tasks, cwd=folder)
    # written before the processes leave: torch's threads sometimes abort the interpreter's own shutdown
    assert parameters(folder, tasks[-1]).exists(), printed
    return folder


def parameters(folder: Path, task: str) -> Path:
    return folder / f"{task.replace(':', '-')}.safetensors"


def assert_same(found: Path, expected: Path) -> None:
    one, two = load_file(expected), load_file(found)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def trained_alone(fork, tmp_path_factory) -> Path:
    return train(fork, tmp_path_factory.mktemp("alone"), "auto", 1, "custom:4", "adamw:4", "slc:4")  # 20 steps


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one_which_resumes_what_they_began(tmp_path, fork, trained_alone, strategy):
    two = train(fork, tmp_path, strategy, 2, "custom:4", "adamw:4", "slc:4", "adamw-resumed:2", "slc-resumed:2")
    for task in ("custom:4", "adamw:4", "slc:4"):
        assert_same(parameters(two, task), parameters(trained_alone, task))
    train(fork, two, "auto", 1, "adamw-resumed:4", "slc-resumed:4")
    for name in ("adamw", "slc"):
        assert_same(parameters(two, f"{name}-resumed:4"), parameters(trained_alone, f"{name}:4"))
    told = json.loads((two / "slc" / "metrics.jsonl").read_text().splitlines()[-2])["optimizer"]
    assert told["steps"] == 20
    assert told["restarts"] > 0


EXPERIMENT = ["run", "pnde/double-pendulum", "--preset", "smoke", "--device", "cpu"]  # in the default place


def report(folder: Path, printed: str) -> Report:
    """What was found in a place which the first process chose for all: their clocks differ."""
    (made,) = (folder / "runs/pnde/double-pendulum").iterdir()
    assert (made / "report.json").exists(), printed
    return Report.load(made)


@pytest.fixture(scope="module")
def experiment_alone(fork, tmp_path_factory) -> Report:
    folder = tmp_path_factory.mktemp("experiment")
    return report(folder, launch(fork, 1, MAIN, *EXPERIMENT, cwd=folder))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_experiment_of_two_processes_ends_with_the_metrics_of_one(tmp_path, fork, experiment_alone, strategy):
    arguments = [*EXPERIMENT, "--strategy", strategy]
    if strategy == "fsdp":  # by torchrun itself
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run([*torchrun, "-m", "sciml", *arguments], capture_output=True, text=True, cwd=tmp_path)
        printed = done.stderr
    else:
        printed = launch(fork, 2, MAIN, *arguments, cwd=tmp_path)
    two = report(tmp_path, printed)
    for metric in experiment_alone.metrics:
        if "time" not in metric.name:
            assert two.metric(metric.name, metric.subject).value == pytest.approx(metric.value, rel=1e-6), metric
