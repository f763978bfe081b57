"""The front door: convert a network, or explain what that would do."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import nn

from nn2no.conversion.operator import ConvertedOperator, check_grid
from nn2no.conversion.place import Options
from nn2no.conversion.report import ALONE, UNSURE, ConversionReport, describe
from nn2no.conversion.trace import record
from nn2no.conversion.trial import choose_reading, run_trial
from nn2no.errors import ConversionError
from nn2no.refinement import input_channels

CHOICES = {
    "conv": ("integral", "kernel-interp", "kernel-interp-fourier", "differential", "spectral"),
    "norm": ("quadrature", "torch"),
    "attention": ("quadrature", "torch"),
    "pool": ("physical", "torch"),
    "activation": ("pointwise", "antialiased"),
    "padding_mode": (None, "circular"),
}


def convert(
    module: nn.Module,
    base_grid: Grid,
    *,
    conv: Literal["integral", "kernel-interp", "kernel-interp-fourier", "differential", "spectral"] = "integral",
    norm: Literal["quadrature", "torch"] = "quadrature",
    attention: Literal["quadrature", "torch"] = "quadrature",
    pool: Literal["physical", "torch"] = "physical",
    patch: Literal["ratio", "fixed"] | Sequence[str] = "ratio",
    activation: Literal["pointwise", "antialiased"] = "pointwise",
    padding_mode: Literal["circular"] | None = None,
    position_params: Sequence[str] = (),
    strict: bool = True,
    example_input: Any = None,
) -> ConvertedOperator:
    """Make a network, as it is and with its weights, an operator between functions.

    Its modules stay as they are: while it runs on another grid than `base_grid`, the functions of torch that see more
    than one point are replaced by quadratures of what they are on the base grid. So functional calls, shared modules
    and control flow that does not depend on sizes are converted like modules, and the base grid sees no change.

    Products of tensors and lengths (`einsum`, `matmul`, `norm`) over points, and indices of points (`arange`), grow
    with the number of points, unless the network itself divides by it or by another such sum. A trial with random
    fields on a grid twice as fine says what the network of the base grid is: with these as they are, or with integrals
    and places that count the points of the base grid; neither is warned about. Fourier transforms are left as they are.

    A softmax over points gives shares of them, which fall as points are added; it is refused where it reaches the
    output or another layer before a sum over the points, and warned about where it cannot be followed.

    What a coarse grid cannot hold is left out with a `ResolutionWarning`, also if `strict`, which is about layers;
    `warnings.simplefilter("error", nn2no.ResolutionWarning)` makes that an error, if it is set before the first pass
    on the grid: each resolution is warned of once.

    Parameters
    ----------
    conv
        "integral": kernels of fixed physical size. "kernel-interp": kernels resized like images (as the authors do),
        "kernel-interp-fourier": by Fourier interpolation; both for comparison.
        "differential": the differential operator of the same moments (up to 3 taps). "spectral": a multiplier of the
        modes of the base grid (periodic axes).
    norm, attention, pool
        "torch" leaves that kind of layer as it is.
    patch
        Convolutions with stride = kernel: "ratio" keeps the ratio of resolutions, so that tokens grow in number;
        "fixed", or a list of names of layers, keeps the patches, and so their number.
    activation
        "antialiased" evaluates nonlinearities, products and ratios of fields on a grid twice as fine, also on the base
        grid (periodic axes). `where`, `einsum` and softmaxes over channels stay point by point.
    padding_mode
        "circular" treats zero padding along periodic axes as periodic, also on the base grid.
    position_params
        Parameters that are functions sampled at the base grid, in addition to those that are added to fields.
    strict
        Raise if a layer cannot be converted; else it runs as it is.
    example_input
        An input on the base grid, or a tuple of all inputs, where one cannot be made from the first layer's shape.

    Raises
    ------
    ConversionError
        The network is converted already, or has layers that cannot be; all are listed, with what to do.
    ConfigError
        An unknown option, or a grid that is not uniform.
    ShapeError
        An `example_input` that is no field on the base grid.
    """
    if not isinstance(module, nn.Module):
        raise ConversionError(f"a network to convert is a torch.nn.Module, got {type(module).__name__}: wrap it in one")
    if isinstance(module, ConvertedOperator):
        raise ConversionError("the network is already converted: use it as it is, or convert its original()")
    if inner := [name for name, m in module.named_modules() if isinstance(m, ConvertedOperator)]:
        raise ConversionError(f"{inner[0]} is already converted: put its original() there, or convert only the others")
    check_grid(base_grid)
    chosen = {
        "conv": conv,
        "norm": norm,
        "attention": attention,
        "pool": pool,
        "activation": activation,
        "padding_mode": padding_mode,
    }
    for name, value in chosen.items():
        if value not in CHOICES[name]:
            raise ConfigError(f"{name}={value!r}; choose one of {', '.join(map(repr, CHOICES[name]))}.")
    if isinstance(patch, str) and patch not in ("ratio", "fixed"):
        raise ConfigError(f"patch={patch!r}; choose 'ratio', 'fixed' or a list of names of layers.")
    if activation == "antialiased" and not all(base_grid.periodic):
        raise ConfigError("activation='antialiased' resizes by Fourier series: the axes of the grid must be periodic.")
    names = dict(module.named_parameters())
    if unknown := [name for name in position_params if name not in names]:
        raise ConversionError(f"position_params: there is no parameter {unknown[0]}; write names as in state_dict().")
    options = Options(**chosen, patch=patch if isinstance(patch, str) else tuple(patch))
    operator = _try(module, base_grid, options, tuple(position_params), example_input)
    report = operator.report
    if strict and report.problems:
        lines = "\n".join(f"  {row.name or '(network)'} ({row.kind}): {row.rule}" for row in report.problems)
        raise ConversionError(
            f"{len(report.problems)} of {len(report.rows)} layers cannot be converted:\n{lines}\n"
            "Replace them, or pass strict=False to let them run as they are."
        )
    for row in report.rows:
        if row.rule.startswith((ALONE, UNSURE)):
            warnings.warn(f"{row.name or 'the network'}: {row.kind} {row.rule}", stacklevel=2)
    if any(isinstance(m, nn.Dropout) and m.p > 0 for m in module.modules()) and module.training:
        warnings.warn(
            "elementwise Dropout of a field is white noise, which is no function: it does not converge while training. "
            "Use Dropout1d to Dropout3d, which drop channels.",
            stacklevel=2,
        )
    return operator


def explain(module: nn.Module, base_grid: Grid, *, example_input: Any = None, **options: Any) -> ConversionReport:
    """What `convert` would make of each layer, and why it cannot where it cannot; the network is left alone."""
    return convert(module, base_grid, strict=False, example_input=example_input, **options).report


def _example(module: nn.Module, grid: Grid, given: Any) -> tuple[Any, ...]:
    if given is not None:
        example = given if isinstance(given, tuple) else (given,)
        shape = tuple(example[0].shape) if example and isinstance(example[0], torch.Tensor) else type(given).__name__
        if len(shape) != grid.dim + 2 or shape[2:] != grid.shape:
            raise ShapeError(
                f"example_input must be a field (batch, channel, *{grid.shape}) on the base grid, or a tuple of all "
                f"inputs that begins with one; got {shape}."
            )
        return example
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    if (channels := input_channels(module)) is not None:
        kind = {"dtype": first.dtype, "device": first.device} if first is not None else {}
        return (torch.zeros(2 if module.training else 1, channels, *grid.shape, **kind),)
    raise ConversionError("the number of input channels is not known: pass an example_input on the base grid")


def _try(
    module: nn.Module, grid: Grid, options: Options, tables: tuple[str, ...], example_input: Any
) -> ConvertedOperator:
    """Run on the base grid, then on a finer one: with its tables of positions as they are, else with them refined.

    What fails both times cannot be converted.
    """
    example = _example(module, grid, example_input)
    try:
        trace = record(module, example, {})
    except Exception as error:
        raise ConversionError(
            f"the network does not run on an input {tuple(example[0].shape)} on its base grid ({type(error).__name__}: "
            f"{error}): correct base_grid, or pass an example_input"
        ) from error

    def operator(tables: tuple[str, ...], report: ConversionReport) -> ConvertedOperator:
        found = ConvertedOperator(module, grid, options, tables, report)
        found.remember(trace, example)
        return found

    more = (*tables, *(name for name in trace.tables if name not in tables))
    trial = run_trial(operator(tables, ConversionReport(())), example, trace)
    if trial.failures and more != tables:
        second = run_trial(operator(more, ConversionReport(())), example, trace)
        if len(second.failures) < len(trial.failures):
            trial, tables = second, more
        else:  # whose marks in the trace are to be described
            trial = run_trial(operator(tables, ConversionReport(())), example, trace)
    weighted: frozenset[str] = frozenset()
    if not trial.failures and any(call.counts for call in trace.calls):
        weighted = choose_reading(operator(tables, ConversionReport(())), example, trace)
    done = operator(tables, ConversionReport(tuple(describe(module, trace, tables, options, trial))))
    done.weighted = weighted
    return done
