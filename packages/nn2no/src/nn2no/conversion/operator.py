"""Networks as operators: the same modules and weights on any grid (arXiv:2506.10973, §3)."""

import contextlib
import math
import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from nn2no.conversion.place import Options, Place, from_base, token_grid
from nn2no.conversion.report import ConversionReport
from nn2no.conversion.rules import RULES, Conversion
from nn2no.conversion.trace import Call, Trace, record
from nn2no.errors import ConversionError
from nn2no.scale import Ends, Scale, scale_between

# two passes at once must not swap tables of one network: the one that ends later would restore the other's
_SWAPPING = threading.RLock()
# the calls whose outputs are levels of the network
RESIZING = {k for k in RULES if "conv" in k or "pixel" in k or k.endswith("pooling")} | {"interpolation"}


class ConvertedOperator(nn.Module):
    """A network that acts on functions: on its base grid it is the network, on others it converges to one operator.

    It has the modules, parameters and buffers of the network, not copies, under the same names: a `state_dict` of one
    is that of the other, and training one trains the other. Made by `convert`.

    Switch gradient checkpointing off: what a backward pass runs again, it would run as on the base grid.

    `torch.compile` leaves it eager on other grids than the base grid. For a fixed shape,
    `torch.export.export(op, (x,), strict=False).module()` is the operator as one graph, which can be compiled.

    Attributes
    ----------
    base_grid
        The grid that the network was made for.
    report
        What became of every layer.
    weighted
        Which of "sums" and "indices" count the points of the base grid, on every grid.
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
        self.weighted: frozenset[str] = frozenset()
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
        return self.run(self.place(shape, scale, len(x)), x, args, kwargs)

    def place(self, shape: tuple[int, ...], scale: Scale, batch: int) -> Place:
        """A grid finer by `scale` than one of this shape at the spacing of the base grid."""
        base = self.base_grid
        at_nodes = tuple(axis.centering == "node" for axis in base.axes)
        given = {"weighted": self.weighted, "at_nodes": at_nodes}
        return Place(shape, scale, ends_of(base), base.periodic, self.options, batch, **given)

    # as torch.compiler.disable, which would import the compiler now
    @torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
    def run(
        self,
        place: Place,
        x: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        failures: list[tuple[Call, str]] | None = None,
    ) -> Any:
        """Run the network at another place than its base grid; `x` is not checked. `failures`: see `Conversion`."""
        lenient, network = bool(self.report.problems), self.original()
        with _SWAPPING if self.tables else contextlib.nullcontext():
            trace = self.trace(x, place.base, args, kwargs)
            _check_sizes(trace, place.base, place.scale, place.ends)
            tables = {name: self.refine_table(name, place) for name in self.tables}
            refined = {name: table for name, table in tables.items() if table is not None}
            with Conversion(trace, place, lenient, failures):
                if refined:
                    output = functional_call(network, refined, (x, *args), kwargs)
                else:
                    output = network(x, *args, **kwargs)
        known = failures is not None and any(call.problem for call in trace.calls)  # from which more would follow
        return self.finish(output, trace, place, lenient or known or bool(failures))

    def remember(self, trace: Trace, inputs: tuple[Any, ...]) -> None:
        """Use this trace for inputs like these."""
        like = resized(inputs, {}, self.base_grid.shape, 2 if self.training else 1)
        self.__dict__["_traces"][(self.base_grid.shape, self.training, _signature(like))] = trace

    def trace(self, x: Tensor, shape: tuple[int, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
        """What the network does on its base grid, in the present mode."""
        like = resized((x, *args), kwargs, shape, 2 if self.training else 1)
        key = (shape, self.training, _signature(like))
        if key not in self.__dict__["_traces"]:
            # copies, as the network may write to its inputs
            inputs, named = tree_map(lambda t: t.clone().contiguous() if isinstance(t, Tensor) else t, like)
            self.__dict__["_traces"][key] = record(self.original(), inputs, named)
        return self.__dict__["_traces"][key]

    def refine_table(self, name: str, place: Place) -> Tensor | None:
        """A table of positions, sampled at the base grid, at the points of another one."""
        owner, _, leaf = name.rpartition(".")
        table = getattr(self.original().get_submodule(owner), leaf)  # no parameter within torch.func.functional_call
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

    def finish(self, output: Any, trace: Trace, place: Place, lenient: bool) -> Any:
        """Outputs of fixed patches, which have the size of the base grid, as functions on the grid.

        Raises
        ------
        ConversionError
            An output has neither its size on the base grid nor that times the scale, or other channels, unless
            `lenient`.
        """
        base = trace.outputs
        leaves, spec = tree_flatten(output)
        if len(leaves) != len(base):
            return output
        whole = [place.refined(n, i) for i, n in enumerate(place.base)]
        readouts = {call.output for call in trace.calls if call.kind.startswith("adaptive")}
        for k, (y, shape) in enumerate(zip(leaves, base, strict=True)):
            if not lenient and isinstance(y, Tensor) and shape is not None:
                _check_output(place, shape, tuple(y.shape))
            if not isinstance(y, Tensor) or shape is None or not y.ndim == len(shape) == place.dim + 2:
                continue
            sizes = [{n, s * (n - e) + e} for n, s, e in zip(shape[2:], place.scale, place.ends, strict=True)]
            if not lenient and any(n not in possible for n, possible in zip(y.shape[2:], sizes, strict=True)):
                raise ConversionError(
                    f"an output of {shape[2:]} nodes on the base grid has {tuple(y.shape[2:])} here; some operation on "
                    "it (a crop, a difference of neighbours?) counts pixels."
                )
            stuck = shape[2:] == place.base == tuple(y.shape[2:])
            if place.options.patch == "ratio" and stuck and list(place.base) != whole and shape not in readouts:
                if not lenient:
                    raise ConversionError(
                        f"an output has the {shape[2:]} nodes of the base grid on a grid of {tuple(whole)} as well; "
                        "some operation (an inverse transform, a view?) has that size written into it; use x.shape."
                    )
            elif place.options.patch != "ratio" and stuck:
                leaves[k] = from_base(y, whole, place.scale, place.periodic)
        return tree_unflatten(leaves, spec)

    def extra_repr(self) -> str:
        return f"base_grid={self.base_grid.shape}, conv={self.options.conv!r}"


def _check_output(place: Place, base: tuple[int, ...], here: tuple[int, ...]) -> None:
    """ConversionError if an axis behind the batch is neither as long as on the base grid nor refined."""
    fields = len(base) == place.dim + 2
    for axis, (n0, n) in enumerate(zip(base, here, strict=False)):
        points = axis - 2 if fields else None
        if axis == 0 or n == n0 or (points is not None and points >= 0):
            continue
        refined = {s * (n0 - e) + e for s, e in zip(place.scale, place.ends, strict=True)}
        if (fields and axis == 1) or (n not in refined and token_grid(place, n0, n) is None):
            raise ConversionError(
                f"an output {base} on the base grid is {here} here: its axis {axis} holds other things than points, "
                "and must not grow with them; take the sizes of a view or a transform from x.shape."
            )


def resized(args: tuple[Any, ...], kwargs: dict[str, Any], shape: Sequence[int], batch: int) -> Any:
    """Inputs like these, for a network at another resolution and with another batch; nothing is copied.

    Fields (batch, channel, *space) that have the resolution of the first one become zeros; of other tensors with its
    number of rows the first row is repeated.
    """
    x = args[0]

    def like(t: Any) -> Any:
        if not isinstance(t, Tensor) or t.ndim == 0 or len(t) != len(x):
            return t
        if t.ndim == x.ndim and t.shape[2:] == x.shape[2:]:
            return t.new_zeros(()).expand(batch, t.shape[1], *shape)
        return t[:1].expand(batch, *t.shape[1:])

    return tree_map(like, (args, kwargs))


def _signature(inputs: Any) -> str:
    """What a trace depends on: shapes, and values that are no floating-point numbers."""
    leaves = [
        tuple(v.shape) if isinstance(v, Tensor) else float if isinstance(v, float) else v for v in tree_leaves(inputs)
    ]
    return f"{list(inputs[1])}: {leaves}"


def check_grid(grid: Grid) -> None:
    if not isinstance(grid, Grid):
        raise ConfigError(
            "base_grid must be the grid that the network was made for, e.g. Grid.uniform((64, 64), periodic=True), "
            f"got {grid!r}"
        )
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
