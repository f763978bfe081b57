"""Networks as operators: the same modules and weights on any grid (arXiv:2506.10973, §3)."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn
from torch.func import functional_call

from nn2no.conversion.place import Options, Place, from_base, token_grid
from nn2no.conversion.report import ConversionReport
from nn2no.conversion.rules import RULES, Conversion
from nn2no.conversion.trace import Trace, record
from nn2no.errors import ConversionError
from nn2no.scale import Ends, Scale, scale_between

# the calls whose outputs are levels of the network
RESIZING = {k for k in RULES if "conv" in k or "pixel" in k or k.endswith("pooling")} | {"interpolation"}


class ConvertedOperator(nn.Module):
    """A network that acts on functions: on its base grid it is the network, on others it converges to one operator.

    It has the modules, parameters and buffers of the network, not copies, under the same names: a `state_dict` of one
    is that of the other, and training one trains the other. Made by `convert`.

    `torch.compile` leaves it eager on other grids than the base grid. For a fixed shape,
    `torch.export.export(op, (x,), strict=False).module()` is the operator as one graph, which can be compiled.

    Attributes
    ----------
    base_grid
        The grid that the network was made for.
    report
        What became of every layer.
    """

    def __init__(
        self, module: nn.Module, base_grid: Grid, options: Options, tables: Sequence[str], report: ConversionReport
    ) -> None:
        super().__init__()
        check_grid(base_grid)
        # the very dictionaries of the network: moving, casting or loading either does it for both
        self._modules, self._parameters, self._buffers = module._modules, module._parameters, module._buffers
        self._non_persistent_buffers_set = module._non_persistent_buffers_set
        self.__dict__["_network"] = module
        self.__dict__["_traces"] = {}
        self.base_grid, self.options, self.tables, self.report = base_grid, options, tuple(tables), report
        self.training = module.training

    def original(self) -> nn.Module:
        """The network itself."""
        return self.__dict__["_network"]

    def train(self, mode: bool = True) -> "ConvertedOperator":
        """Set the mode of both."""
        super().train(mode)
        self.original().training = mode
        return self

    def forward(
        self, x: Float[Tensor, "batch channel *space"], grid: Grid | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """The operator on the field `x`, whose nodes are those of `grid`; further arguments go to the network.

        Without a grid the domain is that of `base_grid`, and its resolution the shape of `x`.

        Raises
        ------
        ShapeError
            `x` is no field on the grid, or has other axes than the base grid.
        ConversionError
            A level of the network would have no whole number of nodes; the nearest sizes that do are named.
        """
        base, ends = self.base_grid, ends_of(self.base_grid)
        if x.ndim != base.dim + 2 or not x.dtype.is_floating_point:
            raise ShapeError(
                f"The operator was converted for real fields (batch, channel, *space) with {base.dim} axes; got "
                f"{tuple(x.shape)} of {x.dtype}."
            )
        if grid is None:
            scale, shape = scale_between(base.shape, x.shape[2:], ends), base.shape
        else:
            grid.check(x)
            scale, shape = _scale_of_grids(base, grid)
        unchanged = self.options.activation == "pointwise" and self.options.padding_mode is None
        if unchanged and all(s == 1 for s in scale):
            return self.original()(x, *args, **kwargs)
        return self.run(Place(shape, scale, ends, base.periodic, self.options, len(x)), x, args, kwargs)

    @torch._disable_dynamo  # as torch.compiler.disable, which would import the compiler now
    def run(self, place: Place, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the network at another place than its base grid; `x` is not checked."""
        trace = self.trace(x, place.base, args, kwargs)
        _check_sizes(trace, place.base, place.scale, place.ends)
        tables = {name: self.refine_table(name, place) for name in self.tables}
        refined = {name: table for name, table in tables.items() if table is not None}
        network = self.original()
        with Conversion(trace, place):
            output = functional_call(network, refined, (x, *args), kwargs) if refined else network(x, *args, **kwargs)
        return self.finish(output, trace.output, place)

    def remember(self, trace: Trace, x: Tensor) -> None:
        """Use this trace for inputs like `x`."""
        self.__dict__["_traces"][(self.base_grid.shape, x.shape[1], self.training)] = trace

    def trace(self, x: Tensor, shape: tuple[int, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
        """What the network does on its base grid, in the present mode."""
        key = (shape, x.shape[1], self.training)
        if key not in self.__dict__["_traces"]:
            batch = 2 if self.training else 1
            example = torch.zeros((batch, x.shape[1], *shape), dtype=x.dtype, device=x.device)
            more = [a[:batch] if isinstance(a, Tensor) and len(a) == len(x) else a for a in args]
            self.__dict__["_traces"][key] = record(self.original(), (example, *more), kwargs)
        return self.__dict__["_traces"][key]

    def refine_table(self, name: str, place: Place) -> Tensor | None:
        """A table of positions, sampled at the base grid, at the points of another one."""
        table = self.original().get_parameter(name)
        if table.ndim == place.dim + 2 and tuple(table.shape[2:]) != (1,) * place.dim:
            sizes = [s * (n - e) + e for n, s, e in zip(table.shape[2:], place.scale, place.ends, strict=True)]
            if any(n.denominator != 1 for n in sizes):
                return None
            return from_base(table, [int(n) for n in sizes], place.scale, place.periodic)
        axis = table.ndim - 2
        found = token_grid(place, table.shape[axis]) if axis >= 0 else None
        if found is None:
            return None
        atoms, fine, base = found
        points = table.movedim(axis, -1)
        lead = points.shape[:-1]
        grid = points[..., atoms:].reshape(1, -1, *base)
        grid = from_base(grid, list(fine), place.scale, place.periodic).reshape(*lead, -1)
        return torch.cat([points[..., :atoms], grid], -1).movedim(-1, axis)

    def finish(self, output: Any, base: tuple[int, ...] | None, place: Place) -> Any:
        """Outputs of fixed patches, which have the size of the base grid, as functions on the grid."""
        if place.options.patch == "ratio" or base is None or base[2:] != place.base:
            return output
        if tuple(output.shape[2:]) != place.base:
            return output
        return from_base(output, [place.refined(n, i) for i, n in enumerate(place.base)], place.scale, place.periodic)

    def extra_repr(self) -> str:
        return f"base_grid={self.base_grid.shape}, conv={self.options.conv!r}"


def check_grid(grid: Grid) -> None:
    if any(axis.kind != "uniform" for axis in grid.axes):
        raise ConfigError("base_grid must have equispaced nodes, as the taps of a convolution do: use Grid.uniform.")


def ends_of(grid: Grid) -> Ends:
    return tuple(axis.centering == "node" and not axis.periodic for axis in grid.axes)


def _scale_of_grids(base: Grid, grid: Grid) -> tuple[Scale, tuple[int, ...]]:
    """The ratio of spacings, and the shape that `grid` would have at the spacing of `base`."""
    check_grid(grid)
    if grid.periodic != base.periodic or ends_of(grid) != ends_of(base):
        raise ShapeError("The axes of the grid and of the base grid must be of one kind: periodic, nodes or cells.")
    scale, shape = [], []
    for a, b in zip(base.axes, grid.axes, strict=True):
        s = Fraction(a.spacing / b.spacing).limit_denominator(4096)
        if not math.isclose(float(s) * b.spacing, a.spacing, rel_tol=1e-6):
            raise ShapeError(f"The spacings {a.spacing:g} and {b.spacing:g} have no simple ratio.")
        end = a.centering == "node" and not a.periodic
        n0 = (b.n - end) / s + end
        if n0.denominator != 1:
            raise ShapeError(
                f"A grid of {b.n} nodes has {float(n0):g} at the base spacing {a.spacing:g}, no whole number."
            )
        scale.append(s)
        shape.append(int(n0))
    return tuple(scale), tuple(shape)


def _check_sizes(trace: Trace, shape: tuple[int, ...], scale: Scale, ends: Ends) -> None:
    """Every level must have a whole number of nodes."""
    for axis, (n0, s, end) in enumerate(zip(shape, scale, ends, strict=True)):
        sizes = {n0 - end}
        for call in trace.calls:
            if call.scaled and call.kind in RESIZING and len(call.output) == len(shape) + 2:
                sizes.add(call.output[2 + axis] - end)
        common = math.gcd(*sizes) or 1
        if (s * common).denominator != 1:
            step = n0 // common if not end else (n0 - 1) // common
            nearest = max(1, round(s * common))
            raise ConversionError(
                f"Axis {axis} of {float(s * (n0 - end)) + end:g} nodes: not every level of the network would have a "
                f"whole number of them. The nearest size is {nearest * step + end}; multiples of {step}"
                f"{' plus one' if end else ''} are possible."
            )
