"""What attractor an equation has, as a function of its parameters learned from simulations."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from sciml.data import Normalizer
from sciml.errors import ConfigError
from sciml.model import Example, Model
from torch import Tensor, nn

from mackeyglass.hopf import hopf_curve
from mackeyglass.mackey_glass import MackeyGlass
from mackeyglass.models._checks import check_dtype, check_sizes, check_tensor
from mackeyglass.models._perceptron import perceptron

TYPES = ("equilibrium", "cycle", "chaos")


class AttractorMap(Model):
    """(n, γτ) ↦ logits of `TYPES` and λ₁/γ, for the equation with a given β/γ.

    It knows the first bifurcation: beside n and γτ it sees n − n_H(γτ), the distance to the Hopf curve k = 0, whose
    formula is exact. The later ones it learns. It is differentiable by n and γτ.

    Parameters
    ----------
    gain
        β/γ.
    hidden
        Width of each hidden layer.
    dtype
        "float64" or "float32".

    Raises
    ------
    ConfigError
        If an argument is out of range.
    """

    def __init__(self, gain: float | int = 2.0, hidden: Sequence[int] = (64, 64), dtype: str = "float64") -> None:
        super().__init__()
        self.kind = check_dtype(dtype)
        check_sizes(hidden)
        if not gain > 1:
            raise ConfigError(f"gain={gain} must exceed 1: else there is no positive equilibrium")
        self.gain = gain
        self.scale = Normalizer(3, dim=-1, dtype=self.kind)
        self.net = perceptron([3, *hidden, 4], nn.GELU, self.kind)

    @classmethod
    def example(cls) -> Example:
        """A small network at two points of the plane."""
        x = torch.tensor([[7.0, 2.0], [9.65, 1.5]], dtype=torch.float64)
        return Example({"hidden": [8]}, (x,), refused=((x[:, :1],), (x.float(),), (x[0],)))

    @torch.no_grad()
    def set_normalization(self, points: Float[Tensor, "batch 2"]) -> None:
        """Let the network see its inputs in units of their deviations on these points."""
        self.scale.fit(self._features(points))

    def forward(self, points: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch 4"]:
        """Three logits and λ₁/γ at points (n, γτ).

        Raises
        ------
        ShapeError, TypeError
            For another shape or dtype.
        """
        check_tensor("points (n, γτ)", points, "(batch, 2)", self.kind, 2, 2)
        return self.net(self.scale(self._features(points)))

    def _features(self, points: Tensor) -> Tensor:
        n, tau = points.double().unbind(-1)
        hopf = hopf_curve(MackeyGlass(beta=float(self.gain), gamma=1.0), 0, tau)[0]
        # far from the curve, at small delays, its distance tells no more
        return torch.stack([n, tau, (n - hopf).clamp(min=-5)], -1).to(points)
