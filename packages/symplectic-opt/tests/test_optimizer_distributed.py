"""Two gloo processes take the steps of one, also with shards that are empty or whose gradients nearly vanish."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from symplectic_opt import ExpoSLC

SCRIPT = """
import sys
from datetime import timedelta
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
sys.path.insert(0, sys.argv[1])
from test_optimizer_distributed import CASES, steps

def main(rank):
    store = dist.FileStore(sys.argv[2] + ".store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=20))
    mesh = init_device_mesh("cpu", (2,))
    found = {
        f"{case} {capturable}": steps(case, capturable, lambda x: distribute_tensor(x, mesh, [Shard(0)])).full_tensor()
        for case in CASES
        for capturable in (False, True)
    }
    if rank == 0:
        save_file(found, sys.argv[2])
    dist.barrier()
    dist.destroy_process_group()

torch.multiprocessing.start_processes(main, nprocs=2, start_method="fork")  # which share the imports
"""

# rows of the parameter, and gradients of its first row: the second process has none of it
CASES = {"shards": (4, (1.0, 0.5, -0.5)), "empty": (1, (1.0, 0.0, 1.0)), "tiny": (4, (1.0, 1e-17, 0.0, 1e-17))}


def steps(case, capturable, place):
    """The parameter after the steps of that case, which the first gradient moves as a whole."""
    rows, values = CASES[case]
    parameter = torch.nn.Parameter(place(torch.ones(rows, 3)))
    optimizer = ExpoSLC([parameter], lr=20.0, capturable=capturable)
    for k, value in enumerate(values):
        gradient = torch.full((rows, 3), float(k == 0))
        gradient[0] = value
        parameter.grad = place(gradient)
        optimizer.step()
    assert optimizer.diagnostics()["steps"] == len(values)
    return parameter.detach()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    folder, file = os.path.dirname(__file__), tmp_path / "found.safetensors"
    command = [sys.executable, str(tmp_path / "script.py"), folder, str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert file.exists(), done.stderr[-3000:]
    found = load_file(file)
    assert len(found) == 2 * len(CASES)
    for case in CASES:
        for capturable in (False, True):
            expected = steps(case, capturable, lambda x: x)
            torch.testing.assert_close(found[f"{case} {capturable}"], expected, rtol=1e-6, atol=1e-7)
