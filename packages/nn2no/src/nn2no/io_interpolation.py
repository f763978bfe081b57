"""The simplest way to use a network at other resolutions: resize its input and its output (arXiv:2506.10973, §4)."""

from typing import Literal

from jaxtyping import Float
from sciml.errors import ConfigError, ShapeError
from sciml.grids import Grid
from torch import Tensor, nn

from nn2no.resample import fourier_resize, linear_resize


class InterpolatedIO(nn.Module):
    """A network that sees its input on the base grid, whatever the grid of the field; see `interpolate_io`."""

    def __init__(self, module: nn.Module, base_grid: Grid, mode: Literal["fourier", "linear"] = "fourier") -> None:
        super().__init__()
        if mode not in ("fourier", "linear"):
            raise ConfigError(f"mode={mode!r}; choose 'fourier' or 'linear'.")
        if any(axis.kind != "uniform" for axis in base_grid.axes) or len(set(base_grid.centering)) > 1:
            raise ConfigError("Fields are resized between uniform grids with one centering of all axes; give such one.")
        if mode == "fourier" and not all(base_grid.periodic):
            raise ConfigError(f"mode='fourier' on axes with periodic={base_grid.periodic}: use mode='linear'.")
        self.module, self.base_grid, self.mode = module, base_grid, mode

    def forward(self, f: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch out_channel *space"]:
        """The output, on the nodes of `f`. ShapeError if `f` has another dimension than the base grid."""
        if f.ndim != self.base_grid.dim + 2:
            raise ShapeError(f"Expected (batch, channel, *space) of {self.base_grid.dim} axes; got {tuple(f.shape)}.")
        g = self.module(self._resize(f, self.base_grid.shape))
        return self._resize(g, tuple(f.shape[2:]))

    def _resize(self, f: Tensor, size: tuple[int, ...]) -> Tensor:
        centering = self.base_grid.centering[0]
        if self.mode == "fourier":
            return fourier_resize(f, size, centering=centering)
        return linear_resize(f, size, periodic=self.base_grid.periodic, centering=centering)

    def extra_repr(self) -> str:
        return f"base={self.base_grid.shape}, mode={self.mode!r}"


def interpolate_io(
    module: nn.Module, base_grid: Grid, mode: Literal["fourier", "linear"] = "fourier"
) -> InterpolatedIO:
    """`module` for fields at any resolution: resized to `base_grid`, mapped, resized back.

    On the base grid it is `module` itself, and what it does there it does at every resolution: errors are flat, but
    scales that the base grid does not hold are neither seen nor made. The weights are shared, not copied.

    Parameters
    ----------
    module
        From fields (batch, channel, *space) on the base grid to fields on it.
    mode
        "fourier" (periodic axes only; exact for every function that the grids resolve, without aliasing), or
        "linear" (no filter: on a finer grid it reads values).

    Raises
    ------
    ConfigError
        An unknown mode, or a grid that it cannot resize.
    """
    return InterpolatedIO(module, base_grid, mode)
