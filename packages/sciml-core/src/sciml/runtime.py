"""Where computation runs: device, precision, strategy. Nothing else in the repository names a device."""

import datetime
import os
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sciml.errors import ConfigError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DEVICES = ("auto", "cpu", "cuda", "mps")
STRATEGIES = ("auto", "ddp", "fsdp")
PRECISIONS = ("32-true", "bf16-mixed")
# while the first process generates data or evaluates, the others wait for it
TIMEOUT = datetime.timedelta(days=7)


class Runtime:
    """Device, precision and strategy of a process, built on Lightning Fabric.

    `precision="32-true"` computes in the models' own dtypes, float64 included; "bf16-mixed", for float32 models, casts
    where torch's autocast does. `compile` sends the models' `forward` through `torch.compile`.

    Under torchrun, every process makes its own `Runtime` and `strategy` says how they share the work: `ddp`
    replicates the model, `fsdp` shards it.

    Raises
    ------
    ConfigError
        If the device, strategy or precision is unknown, the device is not present, or a strategy for several processes
        is given to one.
    """

    def __init__(
        self,
        device: str = "auto",
        strategy: str = "auto",
        precision: str = "32-true",
        *,
        compile: bool = False,
    ) -> None:
        if device not in DEVICES:
            raise ConfigError(f"device={device!r} is unknown; choose one of {', '.join(DEVICES)}")
        if strategy not in STRATEGIES:
            raise ConfigError(f"strategy={strategy!r} is unknown; choose one of {', '.join(STRATEGIES)}")
        if precision not in PRECISIONS:
            raise ConfigError(f"precision={precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device='cuda' was asked for, but torch sees no CUDA device; see `sciml doctor`")
        if device == "mps" and not torch.backends.mps.is_available():
            raise ConfigError("device='mps' was asked for, but torch sees no MPS device; see `sciml doctor`")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if strategy != "auto" and "WORLD_SIZE" not in os.environ:
            raise ConfigError(
                f"strategy={strategy!r} shares the work of several processes, but there is one: start them with "
                "torchrun --nproc-per-node <processes> -m sciml run …"
            )
        if world > 1 and strategy == "auto":
            strategy = "ddp"
        self.strategy = strategy if world > 1 else "auto"
        self.compile, self.precision = compile, precision
        self.world = world  # number of processes
        # of a single process; several have their own
        self._device = torch.device(device) if device == "cpu" else torch.device(device, 0)
        if world > 1:
            self.fabric.launch()

    @cached_property
    def fabric(self) -> "Fabric":
        """Made when it is needed: its import takes as long as that of torch."""
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy
        from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

        chosen: Any = {
            "auto": "auto",
            "ddp": DDPStrategy(timeout=TIMEOUT),
            "fsdp": ModelParallelStrategy(
                _shard, data_parallel_size=self.world, tensor_parallel_size=1, timeout=TIMEOUT
            ),
        }[self.strategy]
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.world > 1 else 1
        return Fabric(
            accelerator=self._device.type,
            devices=local,
            num_nodes=max(1, self.world // local),
            strategy=chosen,
            precision=cast(Any, self.precision),  # one of Fabric's, as was checked
            plugins=[] if self.world > 1 else [LightningEnvironment()],  # a single process asks no scheduler
        )

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.fabric.device if self.world > 1 else self._device

    @property
    def float64_device(self) -> torch.device:
        """Where this process computes in float64: its device, or the CPU where that has none."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    @property
    def rank(self) -> int:
        """Index of this process."""
        return self.fabric.global_rank if self.world > 1 else 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def setup(
        self, model: nn.Module, losses: Sequence[Callable[..., Any]], make_optimizer: Callable[[nn.Module], Optimizer]
    ) -> tuple[Any, Any]:
        """Move, wrap and (if asked) compile the model, then build its optimizer on the final parameters.

        What is returned computes `losses[i]` of a batch as `objective(batch, i)`. The strategy wraps model and losses
        together: its hooks then see one forward and one backward pass, whatever methods a loss calls and however
        often it differentiates the model by its inputs.

        Raises
        ------
        ConfigError
            If a mixed precision is asked for a model of float64.
        """
        if self.precision != "32-true" and any(p.dtype == torch.float64 for p in model.parameters()):
            raise ConfigError(
                f"precision={self.precision!r} is for models of float32, and {type(model).__name__} has parameters of "
                "float64: leave precision at '32-true', which computes in the model's own dtype"
            )
        if self.compile:
            model.compile()
        objective = self.fabric.setup_module(_Objective(model, losses))
        return objective, self.fabric.setup_optimizers(make_optimizer(model))

    def release(self, model: nn.Module) -> None:
        """Make a model that was set up an ordinary one again, with whole parameters in every process."""
        whole = {
            parameter: nn.Parameter(_whole(parameter).detach(), requires_grad=parameter.requires_grad)
            for parameter in model.parameters()
            if _is_sharded(parameter)
        }
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                setattr(module, name, whole.get(parameter, parameter))

    def to_device(self, batch: Any) -> Any:
        """The batch with every tensor on this process's device."""
        return self.fabric.to_device(batch)

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the processes, on the CPU."""
        if self.world == 1:
            return value
        total: Any = self.fabric.all_reduce(value.to(self.device), reduce_op="sum")
        return total.cpu()

    def broadcast(self, value: Any) -> Any:
        """The value that the first process has."""
        return value if self.world == 1 else self.fabric.broadcast(value)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return flag if self.world == 1 else bool(self.sum(torch.tensor(float(flag))) > 0)

    def close(self) -> None:
        """Leave the process group together: a process that is gone early takes the others down."""
        if self.world > 1:
            self.barrier()
            torch.distributed.destroy_process_group()

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            self.fabric.barrier()


class _Objective(nn.Module):
    def __init__(self, model: nn.Module, losses: Sequence[Callable[..., Any]]) -> None:
        super().__init__()
        self.model, self.losses = model, losses
        # their buffers move with the model; only the parameters given to the optimizer are trained
        self.loss_modules = nn.ModuleList(loss for loss in dict.fromkeys(losses) if isinstance(loss, nn.Module))

    def forward(self, batch: Any, which: int = 0) -> dict[str, Tensor]:
        value = self.losses[which](self.model, batch)
        terms = value if isinstance(value, dict) else {"loss": value}
        if not terms or not all(isinstance(term, Tensor) and term.ndim == 0 for term in terms.values()):
            found = {name: getattr(term, "shape", type(term).__name__) for name, term in terms.items()}
            raise ConfigError(f"a loss returns a scalar tensor or a dict of named ones; got {found}")
        return terms


def _shard(module: nn.Module, mesh: Any) -> Any:
    from torch.distributed.fsdp import fully_shard

    return fully_shard(module, mesh=mesh["data_parallel"])


def _is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor. The import of that class takes a second, also where nothing is sharded."""
    return hasattr(tensor, "full_tensor")


def _whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def local_part(tensor: Any) -> Tensor:
    """What this process has of it."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def gather(tree: Any) -> Any:
    """A copy of the tree on the CPU, sharded tensors whole; every process must call it."""
    if isinstance(tree, Tensor):
        return _whole(tree).detach().cpu().clone()
    if isinstance(tree, Mapping):
        return {key: gather(item) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gather(item) for item in tree)
    return tree


def scatter_like(value: Tensor, template: Any) -> Tensor:
    """`value` on the device of the tensor `template`, and sharded as it is."""
    moved = value.to(template.device)
    if _is_sharded(template):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(moved, template.device_mesh, template.placements)
    return moved


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """State of the random generators of Python, numpy and torch, as tensors, numbers and strings."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
