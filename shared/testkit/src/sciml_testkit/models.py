"""What every registered model promises."""

import contextlib
import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jaxtyping
import sciml
import torch
from sciml.create import arguments
from sciml.errors import CheckpointError, ConfigError, SciMLError
from sciml.model import Example, Model
from sciml.registry import Entry
from torch import Tensor

from sciml_testkit.errors import ConformanceError, require
from sciml_testkit.properties import PROPERTIES

ROUNDING = 1e3  # in units of eps: matrix kernels change their last bits with the number of rows


def tensors(output: Any) -> list[Tensor]:
    """The floating-point tensors in an output: a tensor, or a tree of lists, tuples, dicts and dataclasses."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() or output.is_complex() else []
    if dataclasses.is_dataclass(output):
        return [t for f in dataclasses.fields(output) for t in tensors(getattr(output, f.name))]
    if isinstance(output, Mapping):
        return [t for value in output.values() for t in tensors(value)]
    if isinstance(output, list | tuple):
        return [t for value in output for t in tensors(value)]
    return []


def build(entry: Entry, **changes: Any) -> tuple[Model, Example]:
    """The model's example instance in evaluation mode, built from its configuration as JSON gives it back."""
    cls = entry.load()
    require(
        isinstance(cls, type) and issubclass(cls, Model),
        f"{entry.name}: {entry.module}:{entry.attribute} is {cls!r}; register a subclass of sciml.Model",
    )
    example = cls.example()
    try:
        config = json.loads(json.dumps(example.config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConformanceError(f"{entry.name}: the config of example() is not JSON: {error}") from error
    torch.manual_seed(0)
    try:
        model = cls(**{**config, **changes})
    except ConfigError as error:
        raise ConformanceError(f"{entry.name}: its config is not JSON: {error}") from error
    return model.eval(), example


def check_config_is_json(entry: Entry, tmp_path: Path) -> None:
    """The recorded configuration is JSON and holds the arguments as they were given."""
    model, example = build(entry)
    try:
        recorded = json.loads(json.dumps(model.config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConformanceError(
            f"{entry.name}: its config is not JSON: {error}. Take numbers, strings, lists and dicts as arguments, "
            "a dtype as a string, another model by name and config"
        ) from error
    for name in arguments(type(model)):
        require(name in recorded, f"{entry.name}: the argument {name} is lost: config has only {sorted(recorded)}")
    for name, value in json.loads(json.dumps(example.config)).items():
        require(
            recorded[name] == value, f"{entry.name}: the argument {name}={value!r} is recorded as {recorded[name]!r}"
        )


def check_forward_is_finite_and_repeatable(entry: Entry, tmp_path: Path) -> None:
    """Outputs on the example are finite, and the same bits when computed again."""
    model, example = build(entry)
    first, second = tensors(model(*example.inputs)), tensors(model(*example.inputs))
    require(first, f"{entry.name}: the output on example().inputs has no floating-point tensor")
    for a, b in zip(first, second, strict=True):
        require(torch.isfinite(a).all(), f"{entry.name}: the output on example().inputs is not finite")
        require(torch.equal(a, b), f"{entry.name}: in evaluation mode, two calls on the same inputs differ")


def check_backward_reaches_every_parameter(entry: Entry, tmp_path: Path) -> None:
    """Gradients are finite, and there is one for every trainable parameter."""
    model, example = build(entry)
    torch.stack([t.abs().square().sum() for t in tensors(model(*example.inputs))]).sum().backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        require(
            parameter.grad is not None,
            f"{entry.name}: no gradient reaches the parameter {name}: use it, or set requires_grad=False",
        )
        require(torch.isfinite(parameter.grad).all(), f"{entry.name}: the gradient of {name} is not finite")  # type: ignore


def check_saves_and_loads(entry: Entry, tmp_path: Path) -> None:
    """What is saved comes back: configuration, dtypes, and outputs bit by bit; in both dtypes where there are two."""
    kinds = [{"dtype": d} for d in ("float32", "float64")] if "dtype" in arguments(entry.load()) else [{}]
    for changes in kinds:
        model, example = build(entry, **changes)
        randomize(model, 0.1)  # a constant initial value would come back without being saved
        where = tmp_path / "-".join(["model", *changes.values()])
        model.save_pretrained(where)
        try:
            loaded = sciml.load(where).eval()
        except CheckpointError as error:
            raise ConformanceError(
                f"{entry.name}: what was saved with {changes or 'no changes'} is lost: {error}"
            ) from error
        require(type(loaded) is type(model), f"{entry.name}: saved as {type(model)}, loaded as {type(loaded)}")
        before, after = model.state_dict(), loaded.state_dict()
        for name in before:
            require(
                after[name].dtype == before[name].dtype,
                f"{entry.name}: the dtype of {name} is lost by save → load: "
                f"{before[name].dtype} became {after[name].dtype}",
            )
        for name, value in model.config.items():
            require(
                loaded.config.get(name) == value,
                f"{entry.name}: the argument {name} is lost by save → load: "
                f"{value!r} became {loaded.config.get(name)!r}",
            )
        inputs = cast(example.inputs, changes.get("dtype"))
        for a, b in zip(tensors(model(*inputs)), tensors(loaded(*inputs)), strict=True):
            require(
                a.dtype == b.dtype and torch.equal(a, b),
                f"{entry.name}: the loaded model gives another output: an argument or a tensor is lost by save → load "
                "(is every argument in config used as it stands, and every state a parameter or a persistent buffer?)",
            )


def check_computes_in_float32_and_float64(entry: Entry, tmp_path: Path) -> None:
    """With an argument `dtype`, parameters and outputs have that dtype, and both agree to single precision."""
    if "dtype" not in arguments(entry.load()):
        return
    outputs = {}
    reference, example = build(entry, dtype="float64")
    for kind in ("float32", "float64"):
        model, _ = build(entry, dtype=kind)
        dtype = getattr(torch, kind)
        for name, value in model.named_parameters():
            require(
                value.dtype in (dtype, dtype.to_complex()),
                f"{entry.name}: with dtype={kind!r} the parameter {name} is {value.dtype}",
            )
        model.load_state_dict(reference.state_dict())
        outputs[kind] = tensors(model(*cast(example.inputs, kind)))
        for out in outputs[kind]:
            require(out.dtype in (dtype, dtype.to_complex()), f"{entry.name}: with dtype={kind!r} it gives {out.dtype}")
    for single, double in zip(outputs["float32"], outputs["float64"], strict=True):
        error = relative(single.to(double.dtype), double)
        limit = torch.finfo(torch.float32).eps ** 0.5
        require(
            error <= limit, f"{entry.name}: float32 and float64 differ by {error:.1e} (relative); at most {limit:.1e}"
        )


def check_does_not_depend_on_the_batch_size(entry: Entry, tmp_path: Path) -> None:
    """A sample's output is the same alone and in a batch, up to the rounding of other matrix kernels."""
    model, example = build(entry)
    if not example.batched:
        return
    inputs = list(example.inputs)
    n = len(inputs[example.batched[0]])
    order = torch.arange(7) % n
    batch = [value[order] if i in example.batched else value for i, value in enumerate(inputs)]
    together = tensors(model(*batch))
    for k in range(n):
        alone = tensors(model(*[v[k : k + 1] if i in example.batched else v for i, v in enumerate(inputs)]))
        for a, b in zip(alone, together, strict=True):
            error, limit = relative(a[0], b[k]), ROUNDING * torch.finfo(a.dtype).eps
            require(
                error <= limit,
                f"{entry.name}: its output depends on the batch size: sample {k} alone and among 7 differ by "
                f"{error:.1e} (relative); at most {limit:.1e}. Normalise over the sample, not over the batch",
            )


def check_refuses_wrong_inputs(entry: Entry, tmp_path: Path) -> None:
    """Integers, scalars, and what `example().refused` lists end in a ValueError, TypeError or SciMLError."""
    model, example = build(entry)
    first = example.inputs[0]
    wrong: dict[str, tuple[Any, ...]] = {f"refused[{i}]": inputs for i, inputs in enumerate(example.refused)}
    if isinstance(first, Tensor) and first.is_floating_point():
        wrong["integers"] = (first.to(torch.int64), *example.inputs[1:])
        wrong["a scalar"] = (first.flatten()[0], *example.inputs[1:])
    for what, inputs in wrong.items():
        with shapes_unchecked():
            try:
                model(*inputs)
            except (SciMLError, ValueError, TypeError):
                continue
            except Exception as error:
                raise ConformanceError(
                    f"{entry.name}: {what} as input end in {type(error).__name__} ({error}): check inputs first and "
                    "raise ValueError, TypeError or sciml.errors.ShapeError that names what was expected"
                ) from error
        raise ConformanceError(f"{entry.name}: {what} as input are accepted; raise a ValueError or TypeError")


def check_devices_agree(entry: Entry, tmp_path: Path) -> None:
    """CPU and GPU give the same output to rounding, where there is a GPU."""
    if not torch.cuda.is_available():
        return
    model, example = build(entry)
    here = tensors(model(*example.inputs))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        moved = [v.cuda() if isinstance(v, Tensor) else v for v in example.inputs]
        there = tensors(copy.deepcopy(model).cuda()(*moved))
    for a, b in zip(here, there, strict=True):
        error, limit = relative(b.cpu(), a), 1e4 * torch.finfo(a.dtype).eps
        require(error <= limit, f"{entry.name}: CPU and GPU differ by {error:.1e} (relative); at most {limit:.1e}")


def check_declared_properties(entry: Entry, tmp_path: Path) -> None:
    """Each declared property is measured, with random weights: it must not hold at initialisation only."""
    cls = entry.load()
    for name in sorted(cls.properties):
        require(
            name in PROPERTIES,
            f"{entry.name}: the declared property {name!r} has no measurement; there are "
            f"{', '.join(sorted(PROPERTIES))}. Register one with sciml_testkit.measures",
        )
        model, example = build(entry, **({"dtype": "float64"} if "dtype" in arguments(cls) else {}))
        randomize(model, 0.3)
        try:
            with shapes_unchecked():  # dynamo cannot trace the checks
                PROPERTIES[name](model, cast(example.inputs, "float64" if "dtype" in arguments(cls) else None))
        except AssertionError as error:
            raise ConformanceError(f"{entry.name} is declared {name}, but {error}") from error


@torch.no_grad()
def randomize(model: Model, scale: float) -> None:
    """Move every parameter by normal noise of standard deviation `scale`."""
    for parameter in model.parameters():
        parameter.add_(scale * torch.randn_like(parameter))


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest absolute value of `b`."""
    require(a.shape == b.shape, f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny)) if a.numel() else 0.0


def cast(inputs: tuple[Any, ...], dtype: str | None) -> tuple[Any, ...]:
    """The inputs with real floating-point tensors in `dtype` (None: as they are)."""
    if dtype is None:
        return inputs
    kind = getattr(torch, dtype)
    return tuple(v.to(kind) if isinstance(v, Tensor) and v.is_floating_point() else v for v in inputs)


@contextlib.contextmanager
def shapes_unchecked() -> Iterator[None]:
    """Without the shape checks that tests may have switched on, which would raise before the model's own errors."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
