"""SciML: structure-aware scientific machine learning. Names are imported on first use (PEP 562)."""

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "models": "registry",
    "optimizers": "registry",
    "problems": "registry",
    "experiments": "registry",
    "list_models": "registry",
    "list_optimizers": "registry",
    "list_problems": "registry",
    "list_experiments": "registry",
    "create_model": "create",
    "create_optimizer": "create",
    "create_problem": "create",
    "load": "model",
    "Model": "model",
    "Example": "model",
    "run": "experiment",
    "Experiment": "experiment",
    "Report": "report",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sciml' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sciml.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


if TYPE_CHECKING:
    from sciml.create import create_model as create_model
    from sciml.create import create_optimizer as create_optimizer
    from sciml.create import create_problem as create_problem
    from sciml.experiment import Experiment as Experiment
    from sciml.experiment import run as run
    from sciml.model import Example as Example
    from sciml.model import Model as Model
    from sciml.model import load as load
    from sciml.registry import experiments as experiments
    from sciml.registry import list_experiments as list_experiments
    from sciml.registry import list_models as list_models
    from sciml.registry import list_optimizers as list_optimizers
    from sciml.registry import list_problems as list_problems
    from sciml.registry import models as models
    from sciml.registry import optimizers as optimizers
    from sciml.registry import problems as problems
    from sciml.report import Report as Report
