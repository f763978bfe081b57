"""Whether the nodes of a segment resolve the solution on it."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from mackeyglass.chebyshev import chebyshev_coefficients, constant

BOUND = {torch.float64: 1e-5, torch.float32: 1e-4}  # relative error in a delay from which it is said


def resolution(U: Float[Tensor, "*batch nodes"], n_nodes: int, panels: int = 1) -> Float[Tensor, "*batch"]:
    """Largest of the last three Chebyshev coefficients relative to the largest of all: about the relative error."""
    on_panels = U.unfold(-1, n_nodes + 1, n_nodes)
    size = (on_panels @ constant(chebyshev_coefficients(n_nodes), U).mT).abs()
    return size[..., -3:].amax((-1, -2)) / size.amax((-1, -2)).clamp_min(torch.finfo(U.dtype).tiny)


def production_error(F: Float[Tensor, "*batch nodes"], n_nodes: int, panels: int = 1) -> Float[Tensor, "*batch"]:
    """About the relative error of the integrals of a production on a delay.

    That of coefficients near degree M shrinks by M when they are integrated. Those of higher degrees look like lower
    ones at the nodes: how fast they fall is told by the last quarter and the last half of the coefficients.
    """
    on_panels = F.unfold(-1, n_nodes + 1, n_nodes)
    size = (on_panels @ constant(chebyshev_coefficients(n_nodes), F).mT).abs()
    size = size / size.amax((-1, -2), keepdim=True).clamp_min(torch.finfo(F.dtype).tiny)
    quarter, half = (size[..., -max(1, n_nodes // part) :].amax(-1) for part in (4, 2))
    folded = quarter * (quarter / half.clamp_min(torch.finfo(F.dtype).tiny)) ** 2
    return (size[..., -3:].amax(-1) / n_nodes + folded).amax(-1)


def warn_unresolved(found: float, n_nodes: int, dtype: torch.dtype, name: str = "n_nodes") -> None:
    """Warn the caller's caller where a `resolution` that was found is too coarse; `name` is what to raise."""
    if found > BOUND.get(dtype, 1e-4):
        warnings.warn(
            f"{n_nodes} nodes leave a relative error of about {found:.1g} in a delay: raise {name}",
            UserWarning,
            stacklevel=3,
        )
