"""Echo state networks: a random recurrent network of which the readout alone is trained, by linear regression."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from sciml.errors import ConfigError, DataError, ShapeError
from sciml.model import Example, Model
from torch import Tensor, nn

from mackeyglass.arguments import check_whole
from mackeyglass.models._checks import check_dtype, check_sizes, check_tensor
from mackeyglass.models._sparse import CompressedRows


class ESN(Model):
    """Forecasts a scalar series: x ← (1−a)x + a tanh(Wx + w_in(u − centre)·scale + b), next u = readout of (1, u, x).

    One model holds a network for each of `seeds`; all are driven, trained and run together. `fit` trains, there is no
    loss to minimise by steps.

    Parameters
    ----------
    n_units
        Size of each network.
    seeds
        Seeds of the random weights of the networks.
    spectral_radius, leak
        Of W, and a in (0, 1].
    input_scale, bias
        Half-widths of the uniform distributions of w_in and b.
    connections
        Non-zero weights in a row of W, on average.
    ridge
        Weight of the squared readout in the regression, per sample: its data have the variance of the states.
    centre
        Subtracted from the input.
    dtype
        "float64" or "float32"; in float32 the regression is too ill-conditioned for good forecasts.

    Raises
    ------
    ConfigError
        If an argument is out of range.

    References
    ----------
    H. Jaeger and H. Haas, Science 304 (2004) 78.
    """

    row_starts: Tensor
    columns: Tensor
    weights: Tensor
    input_weights: Tensor
    bias_weights: Tensor

    def __init__(
        self,
        n_units: int = 300,
        seeds: Sequence[int] = (0,),
        spectral_radius: float | int = 1.2,
        leak: float | int = 0.5,
        input_scale: float | int = 1.0,
        bias: float | int = 0.2,
        connections: int = 10,
        ridge: float | int = 1e-12,
        centre: float | int = 1.0,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        self.kind = kind = check_dtype(dtype)
        check_sizes(n_units=n_units, connections=connections)
        if isinstance(seeds, str) or not isinstance(seeds, Sequence) or not seeds or not all(map(_is_seed, seeds)):
            raise ConfigError(f"seeds={seeds!r} must list at least one whole number that is not negative")
        if not 0 < leak <= 1 or not spectral_radius > 0 or not ridge >= 0:
            raise ConfigError(
                f"leak={leak} must be in (0, 1], spectral_radius={spectral_radius} positive, ridge={ridge} not negative"
            )
        self.n_units, self.leak, self.ridge, self.centre = n_units, leak, ridge, centre
        reservoirs = [_reservoir(seed, n_units, connections) for seed in seeds]
        entries = [matrix.nonzero(as_tuple=True) for matrix, _, _ in reservoirs]
        self._begin = [0, *itertools.accumulate(len(rows) for rows, _ in entries)]
        # compressed rows of one matrix that has those of the networks on its diagonal
        counts = [torch.bincount(rows, minlength=n_units) for rows, _ in entries]
        columns = [columns + i * n_units for i, (_, columns) in enumerate(entries)]
        weights = [matrix[where].to(kind) for (matrix, _, _), where in zip(reservoirs, entries, strict=True)]
        self.register_buffer("row_starts", nn.functional.pad(torch.cat(counts).cumsum(0), (1, 0)))
        self.register_buffer("columns", torch.cat(columns))
        self.register_buffer("weights", spectral_radius * torch.cat(weights))
        self.register_buffer("input_weights", input_scale * torch.stack([w for _, w, _ in reservoirs]).to(kind))
        self.register_buffer("bias_weights", bias * torch.stack([b for _, _, b in reservoirs]).to(kind))
        self.readout = nn.Parameter(torch.zeros(len(seeds), n_units + 2, dtype=self.kind))

    @classmethod
    def example(cls) -> Example:
        """Two networks of ten units on two series."""
        t = torch.arange(12, dtype=torch.float64)
        u = torch.stack([1 + 0.3 * torch.sin(0.4 * t), 1 + 0.3 * torch.cos(0.7 * t)])
        return Example({"n_units": 10, "seeds": [0, 1], "connections": 3}, (u,), refused=((u[0],), (u.float(),)))

    @property
    def members(self) -> int:
        """Number of networks."""
        return len(self.readout)

    @property
    def W(self) -> Float[Tensor, "members n n"]:
        """The recurrent weights, which are kept and multiplied as sparse matrices."""
        return torch.stack([self._matrix(m).tensor().to_dense() for m in range(self.members)])

    def forward(self, series: Float[Tensor, "batch time"]) -> Float[Tensor, "batch members time"]:
        """Forecasts of the next value after each value of the series, by each network.

        Raises
        ------
        ShapeError, TypeError
            For another shape or dtype.
        """
        check_tensor("a series", series, "(batch, time)", self.kind, 2)
        u = series.expand(self.members, *series.shape)
        states = self._drive(u)
        features = torch.cat([torch.ones_like(u)[..., None], u[..., None], states], -1)
        return (features @ self.readout[:, None, :, None])[..., 0].movedim(0, 1)

    @torch.no_grad()
    def fit(self, series: Float[Tensor, "series time"], washout: int = 200) -> Float[Tensor, "members"]:
        """Train each network on a series of its own (or all on one, ``(1, time)``).

        Parameters
        ----------
        washout
            Samples at the beginning that are not fitted: till then the states remember that they began with zeros.

        Returns
        -------
        Tensor
            Root mean square residuals of the forecasts one step ahead, in the units of the series.

        Raises
        ------
        ConfigError, ShapeError
            If the washout is negative, there are not as many series as networks, or no sample is left to fit.
        DataError
            If a value is not finite.
        """
        return self.solve(self.regressions(series, washout))

    @torch.no_grad()
    def regressions(
        self, series: Float[Tensor, "series time"], washout: int = 200
    ) -> list[tuple[Float[Tensor, "samples size"], Float[Tensor, "samples"]]]:
        """What `fit` solves, for each network: features (1, u, x) after the washout, and the values that follow."""
        check_whole("washout", washout, 0)
        check_tensor("the series", series, f"({self.members}, time)", self.kind, 2)
        if len(series) not in (1, self.members) or series.shape[1] < washout + 2:
            raise ShapeError(
                f"the series must be ({self.members}, time), one a network, with more than washout + 1 = {washout + 1} "
                f"times, got {tuple(series.shape)}"
            )
        if not bool(torch.isfinite(series).all()):
            raise DataError("the series has values that are not finite")
        found = []
        for member in range(self.members):
            u = series[member % len(series)]
            x = self._drive(u[None, None, :-1], member)[0, 0, washout:]
            features = torch.cat([torch.ones_like(x[:, :1]), u[washout:-1, None], x], 1)
            found.append((features, u[washout + 1 :]))
        return found

    @torch.no_grad()
    def solve(
        self, regressions: Sequence[tuple[Float[Tensor, "samples size"], Float[Tensor, "samples"]]]
    ) -> Float[Tensor, "members"]:
        """Set the readouts by `ridge`, to compare several of them on the same `regressions`; the residuals of `fit`."""
        residuals = []
        for member, (features, target) in enumerate(regressions):
            self.readout[member] = _ridge(features, target, self.ridge)
            residuals.append((features @ self.readout[member] - target).square().mean().sqrt())
        return torch.stack(residuals)

    @torch.no_grad()
    def synchronise(self, series: Float[Tensor, "members batch time"]) -> Float[Tensor, "members batch size"]:
        """States (u, x) of the closed loop after each network saw its series: u is the last value, x was before it."""
        check_tensor("the series", series, "(members, batch, time)", self.kind, 3)
        if not series.shape[-1]:
            raise ShapeError(f"the series must have at least one value, got {tuple(series.shape)}")
        x = series.new_zeros(*series.shape[:2], self.n_units)
        for value in series[..., :-1].unbind(-1):
            x = self._update(value[..., None], x, None)
        return torch.cat([series[..., -1:], x], -1)

    def advance(
        self, state: Float[Tensor, "members batch size"], member: int | None = None
    ) -> Float[Tensor, "members batch size"]:
        """One step of the closed loop, in which a forecast is the next input; of one network, ``(1, batch, size)``."""
        u, x = state[..., :1], state[..., 1:]
        x = self._update(u, x, member)
        features = torch.cat([torch.ones_like(u), u, x], -1)
        return torch.cat([features @ self.readout[_chosen(member), :, None], x], -1)

    @torch.no_grad()
    def free_run(self, series: Float[Tensor, "members batch time"], steps: int) -> Float[Tensor, "members batch steps"]:
        """Forecasts of the values after each series, from its own forecasts alone.

        Raises
        ------
        ConfigError
            If the networks are not fitted.
        """
        return self.continue_from(self.synchronise(series), steps)

    @torch.no_grad()
    def continue_from(
        self, state: Float[Tensor, "members batch size"], steps: int
    ) -> Float[Tensor, "members batch steps"]:
        """The free run from states that `synchronise` gave: several runs, or several readouts, can share them.

        Raises
        ------
        ConfigError
            If the networks are not fitted.
        """
        check_whole("steps", steps, 0)
        if not bool(self.readout.any()):
            raise ConfigError("the readouts are zero: train the networks by fit() before they run freely")
        values = []
        for _ in range(steps):
            state = self.advance(state)
            values.append(state[..., 0])
        return torch.stack(values, -1) if values else state.new_empty(*state.shape[:2], 0)

    def _drive(self, u: Tensor, member: int | None = None) -> Tensor:
        """States after each value of `u` (members, batch, time), from rest."""
        x = u.new_zeros(*u.shape[:2], self.n_units)
        states = []
        for value in u.unbind(-1):
            x = self._update(value[..., None], x, member)
            states.append(x)
        return torch.stack(states, -2) if states else x[..., None, :][..., :0, :]

    def _matrix(self, member: int | None) -> CompressedRows:
        """W of one network, or the matrix with all of them on its diagonal."""
        n, starts, columns, weights = self.n_units, self.row_starts, self.columns, self.weights
        if member is not None:
            first, last = self._begin[member], self._begin[member + 1]
            starts = starts[n * member : n * (member + 1) + 1] - first
            columns, weights = columns[first:last] - n * member, weights[first:last]
        return CompressedRows(starts, columns, weights)

    def _update(self, u: Tensor, x: Tensor, member: int | None) -> Tensor:
        chosen = _chosen(member)
        drive = (u - self.centre) * self.input_weights[chosen, None] + self.bias_weights[chosen, None]
        columns = x.mT.flatten(0, 1)
        recurrent = self._matrix(member).times(columns).unflatten(0, (-1, self.n_units)).mT
        return (1 - self.leak) * x + self.leak * torch.tanh(recurrent + drive)


def _chosen(member: int | None) -> slice:
    return slice(None) if member is None else slice(member, member + 1)


def _is_seed(seed: Any) -> bool:
    return isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0


def _reservoir(seed: int, n: int, connections: int) -> tuple[Tensor, Tensor, Tensor]:
    """W of spectral radius one, and input and bias weights in [−1, 1]."""
    random = torch.Generator().manual_seed(seed)
    W = torch.rand(n, n, generator=random, dtype=torch.float64) * 2 - 1
    W = W * (torch.rand(n, n, generator=random, dtype=torch.float64) < connections / n)
    radius = torch.linalg.eigvals(W).abs().max()
    w_in, b = (torch.rand(2, n, generator=random, dtype=torch.float64) * 2 - 1).unbind(0)
    return W / radius if radius > 0 else W, w_in, b


def _ridge(features: Float[Tensor, "time size"], target: Float[Tensor, "time"], ridge: float) -> Float[Tensor, "size"]:
    """argmin ‖Fw − y‖²/T + ridge ‖w‖², as least squares of stacked rows: the square of F would lose half the digits."""
    samples, size = features.shape
    damping = math.sqrt(ridge * samples) * torch.eye(size, dtype=features.dtype, device=features.device)
    rows, values = torch.cat([features, damping]), torch.cat([target, target.new_zeros(size)])[:, None]
    driver = "gels" if ridge > 0 else None  # QR without pivoting: damped rows have full rank
    return torch.linalg.lstsq(rows, values, driver=driver).solution[:, 0]
