"""Operators learned from pairs of segments: history on one delay → solution on the next."""

import torch
from jaxtyping import Float
from sciml.data import Normalizer
from sciml.errors import ConfigError, ShapeError
from sciml.model import Example, Model
from torch import Tensor, nn

from mackeyglass.arguments import check_whole
from mackeyglass.chebyshev import chebyshev_coefficients, lobatto_nodes
from mackeyglass.models._checks import check_choice, check_dtype, check_sizes, check_tensor
from mackeyglass.models._perceptron import perceptron

ARCHITECTURES = ("mlp", "deeponet", "fno")


class SegmentOperator(Model):
    """U_{k+1}(s) = U_k(τ) + √s · net(U_k; c)(s), s ∈ [0, 1] in delays: continuous where segments meet, by construction.

    Parameters
    ----------
    nodes
        M: segments have M + 1 values, at Chebyshev–Lobatto nodes.
    architecture
        "mlp": from all values to all values. "deeponet": coefficients from all values, times learned functions of s.
        "fno": layers that multiply the first `modes` Chebyshev coefficients, beside pointwise ones.
    width, depth
        Of hidden layers (of both networks of "deeponet"); channels and layers of "fno".
    modes
        Of "fno"; at most M + 1.
    conditions
        Number of parameters c, such as n and γτ, that it sees.
    dtype
        "float32" or "float64".

    Raises
    ------
    ConfigError
        If an argument is out of range.
    """

    def __init__(
        self,
        nodes: int = 32,
        architecture: str = "mlp",
        width: int = 256,
        depth: int = 3,
        modes: int = 16,
        conditions: int = 0,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        self.kind = check_dtype(dtype)
        check_sizes(nodes=nodes, width=width, depth=depth, modes=modes)
        check_choice("architecture", architecture, ARCHITECTURES)
        check_whole("conditions", conditions, 0)
        if architecture == "fno" and modes > nodes + 1:
            raise ConfigError(f"modes={modes} must be at most nodes + 1 = {nodes + 1}")
        self.nodes, self.conditions = nodes, conditions
        self.scale = Normalizer(1, dim=-1, dtype=self.kind)
        self.condition_scale = Normalizer(conditions, dim=-1, dtype=self.kind) if conditions else None
        if architecture == "mlp":
            self.net: nn.Module = _Perceptron(nodes, width, depth, conditions, self.kind)
        elif architecture == "deeponet":
            self.net = _DeepONet(nodes, width, depth, conditions, self.kind)
        else:
            self.net = _ChebyshevOperator(nodes, width, depth, modes, conditions, self.kind)

    @classmethod
    def example(cls) -> Example:
        """A small perceptron that sees two parameters, on two histories."""
        s = torch.from_numpy(lobatto_nodes(8)).float()
        U = torch.stack([1 + 0.3 * torch.sin(3 * s), 0.8 + 0.2 * torch.cos(2 * s)])
        c = torch.tensor([[9.0, 1.7], [10.0, 2.0]])
        config = {"nodes": 8, "width": 16, "depth": 2, "conditions": 2, "modes": 4}
        return Example(
            config,
            (U, c),
            batched=(0, 1),
            refused=((U[:, :5], c), (U.double(), c), (U, c[:, :1]), (U, c.double()), (U,)),
        )

    @torch.no_grad()
    def set_normalization(
        self, u: Float[Tensor, "*samples"], conditions: Float[Tensor, "batch c"] | None = None
    ) -> None:
        """Let the network see values and conditions in units of their deviations."""
        self.scale.fit(u.reshape(-1, 1))
        if self.condition_scale is not None:
            self.condition_scale.fit(self._check(None, conditions))

    def forward(
        self, history: Float[Tensor, "batch nodes"], conditions: Float[Tensor, "batch c"] | None = None
    ) -> Float[Tensor, "batch nodes"]:
        """The next segment.

        Raises
        ------
        ShapeError, TypeError
            For another shape or dtype.
        """
        check_tensor("a history", history, f"(batch, {self.nodes + 1})", self.kind, 2, self.nodes + 1)
        c = self._check(len(history), conditions)
        c = c if self.condition_scale is None else self.condition_scale(c)
        x = (history - self.scale.mean) / self.scale.std
        root = torch.from_numpy(lobatto_nodes(self.nodes)).to(x).sqrt()
        return history[:, -1:] + root * self.net(x, c) * self.scale.std

    def free_run(
        self, history: Float[Tensor, "batch nodes"], segments: int, conditions: Float[Tensor, "batch c"] | None = None
    ) -> Float[Tensor, "segments batch nodes"]:
        """Successive segments, each the image of the one before."""
        found = []
        for _ in range(segments):
            history = self(history, conditions)
            found.append(history)
        return torch.stack(found) if found else history.new_empty(0, *history.shape)

    def _check(self, batch: int | None, conditions: Tensor | None) -> Tensor:
        if not self.conditions and conditions is None:
            return torch.empty(batch or 0, 0, dtype=self.kind, device=self.scale.mean.device)
        good = conditions is not None and conditions.ndim == 2 and conditions.shape[1] == self.conditions
        if not good or conditions is None or batch not in (None, len(conditions)):
            found = None if conditions is None else tuple(conditions.shape)
            raise ShapeError(f"conditions must be (batch, {self.conditions}), a row for each history; got {found}")
        if conditions.dtype != self.kind:
            raise TypeError(f"conditions must be {self.kind}, as the model is, got {conditions.dtype}: convert them")
        return conditions


class _Perceptron(nn.Module):
    """From all values to all values."""

    def __init__(self, nodes: int, width: int, depth: int, conditions: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = perceptron([nodes + 1 + conditions, *[width] * depth, nodes + 1], nn.GELU, dtype)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.layers(torch.cat([x, c], -1))


class _DeepONet(nn.Module):
    """Σ_k b_k(U, c) t_k(s)."""

    def __init__(self, nodes: int, width: int, depth: int, conditions: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.branch = perceptron([nodes + 1 + conditions, *[width] * depth, width], nn.GELU, dtype)
        self.trunk = perceptron([1, *[width] * depth, width], nn.GELU, dtype)
        self.nodes, self.scale = nodes, width**0.5

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        s = torch.from_numpy(lobatto_nodes(self.nodes)).to(x)[:, None]
        return self.branch(torch.cat([x, c], -1)) @ self.trunk(2 * s - 1).mT / self.scale


class _ChebyshevOperator(nn.Module):
    """Layers v ← gelu(A v + T⁻¹ R T v) of functions on [0, 1] with T to the first Chebyshev coefficients, R learned."""

    def __init__(self, nodes: int, width: int, depth: int, modes: int, conditions: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.nodes, self.modes = nodes, modes
        self.lift = nn.Linear(2 + conditions, width, dtype=dtype)
        self.local = nn.ModuleList(nn.Linear(width, width, dtype=dtype) for _ in range(depth))
        # each coefficient of the output depends on every one of the input: time is not translated to itself
        self.mixing = nn.ParameterList(torch.randn(modes, modes, dtype=dtype) / modes**0.5 for _ in range(depth))
        self.channels = nn.ParameterList(torch.randn(modes, width, width, dtype=dtype) / width for _ in range(depth))
        self.project = perceptron([width, width, 1], nn.GELU, dtype)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        to = torch.from_numpy(chebyshev_coefficients(self.nodes)).to(x)
        back = torch.linalg.inv(to)[:, : self.modes]
        s = torch.from_numpy(lobatto_nodes(self.nodes)).to(x)
        columns = [x, (2 * s - 1).expand_as(x), *(value[:, None].expand_as(x) for value in c.unbind(-1))]
        v = self.lift(torch.stack(columns, -1))
        for local, mixing, channels in zip(self.local, self.mixing, self.channels, strict=True):
            spectrum = torch.einsum("jn,bni->bji", to[: self.modes], v)
            spectrum = torch.einsum("kj,bji,kio->bko", mixing, spectrum, channels)
            v = nn.functional.gelu(local(v) + back @ spectrum)
        return self.project(v)[..., 0]
