"""Losses of fields, weighted by the quadrature of their domain, and their composition.

A field loss is `loss(prediction, target)`; a training loss is `loss(model, batch)` and returns a tensor or named
terms. `Supervised` makes the second from the first, `ResidualLoss` is one, and `WeightedSum` adds up either kind.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml._axes import Real
from sciml.errors import ConfigError, DataError, ShapeError
from sciml.grids import Domain, Grid, lp_norm

Reduction = Literal["mean", "sum", "none"]


class FieldLoss(nn.Module):
    """A norm of the difference of two fields, one number a sample, reduced over the batch.

    `relative` divides by the norm of the target, whatever its scale. A target that vanishes (its norm is no normal
    number) has no scale: its norm counts as the machine epsilon, so that the loss is large but finite. `domain` may
    also be given, or replaced, in the call: one loss serves every resolution.
    """

    def __init__(self, domain: Domain | None, relative: bool, reduction: Reduction) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ConfigError(f"reduction={reduction!r}; choose 'mean', 'sum' or 'none'.")
        self.domain, self.relative = domain, relative
        self.reduction: Reduction = reduction

    def norm(self, u: Float[Tensor, "batch *field"], domain: Domain | None) -> Float[Tensor, " batch"]:
        raise NotImplementedError

    def forward(
        self,
        prediction: Float[Tensor, "batch *field"],
        target: Float[Tensor, "batch *field"],
        domain: Domain | None = None,
    ) -> Tensor:
        """The loss; a scalar, or (batch) without reduction. ShapeError unless both fields have the same shape."""
        if prediction.shape != target.shape:
            raise ShapeError(
                f"The prediction has shape {tuple(prediction.shape)}, the target {tuple(target.shape)}; they must be "
                "equal, since broadcasting would compare every sample with every other one."
            )
        domain = domain or self.domain
        error = self.norm(prediction - target, domain)
        if self.relative:
            scale, limits = self.norm(target, domain), torch.finfo(error.dtype)
            error = error / torch.where(scale < limits.tiny, limits.eps, scale)
        return _reduce(error, self.reduction)


class LpLoss(FieldLoss):
    """||prediction - target||_p, relative to ||target||_p by default.

    Without a domain all nodes weigh the same and the norm is the p-mean over all entries of a sample.
    """

    def __init__(
        self,
        p: Real = 2,
        *,
        domain: Domain | None = None,
        relative: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(domain, relative, reduction)
        if not p >= 1:
            raise ConfigError(f"The exponent of an Lp loss is {p}; give p >= 1 (math.inf for the maximum).")
        self.p = p

    def norm(self, u: Float[Tensor, "batch *field"], domain: Domain | None) -> Float[Tensor, " batch"]:
        if domain is not None:
            return domain.norm(u, self.p)
        return lp_norm(u, self.p, lambda powers: powers.flatten(1).mean(1))


class SobolevLoss(FieldLoss):
    """The norm of H^order of the difference: the derivatives up to that order count as well.

    On a grid they are computed by `method` and `accuracy` (see `sciml.derivatives`); a cloud has piecewise linear
    gradients, hence order 1.
    """

    def __init__(
        self,
        order: int,
        *,
        domain: Domain | None = None,
        relative: bool = True,
        reduction: Reduction = "mean",
        method: Literal["spectral", "finite-difference"] = "finite-difference",
        accuracy: int = 2,
    ) -> None:
        super().__init__(domain, relative, reduction)
        if order < 0:
            raise ConfigError(f"The order of a Sobolev loss is {order}; give a number >= 0.")
        self.order, self.accuracy = order, accuracy
        self.method: Literal["spectral", "finite-difference"] = method

    def norm(self, u: Float[Tensor, "batch *field"], domain: Domain | None) -> Float[Tensor, " batch"]:
        if domain is None:
            raise ConfigError("A Sobolev loss needs the domain of its fields; pass domain= to it or to the call.")
        if isinstance(domain, Grid):
            return domain.sobolev_norm(u, self.order, method=self.method, accuracy=self.accuracy)
        return domain.sobolev_norm(u, self.order)


class H1Loss(SobolevLoss):
    """The norm of H1: values and first derivatives. Arguments as for `SobolevLoss`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(1, **options)


class ResidualLoss(nn.Module):
    """The mean square of a physics residual: `loss(model, batch)` = mean over the batch of ∫ |residual|².

    `residual(model, batch)` returns a field on `domain`, or values (point, channel), which count as one sample on a
    cloud. Without a domain the square is averaged over all entries.
    """

    def __init__(self, residual: Callable[[Any, Any], Tensor], *, domain: Domain | None = None) -> None:
        super().__init__()
        self.residual, self.domain = residual, domain

    def forward(self, model: Any, batch: Any) -> Float[Tensor, ""]:
        r = self.residual(model, batch)
        if self.domain is None:
            return r.square().mean()
        r = r[None] if r.ndim == 2 else r
        return self.domain.inner(r, r).mean()


class Supervised(nn.Module):
    """The training loss `field_loss(model(*inputs), target)` of a batch, which names inputs and target.

    Raises `DataError` for a name that the batch does not have.
    """

    def __init__(
        self, field_loss: Callable[[Tensor, Tensor], Any], inputs: str | Sequence[str] = "x", target: str = "y"
    ) -> None:
        super().__init__()
        self.field_loss = field_loss
        self.inputs, self.target = ((inputs,) if isinstance(inputs, str) else tuple(inputs)), target

    def forward(self, model: Any, batch: Mapping[str, Tensor]) -> Any:
        missing = [name for name in (*self.inputs, self.target) if name not in batch]
        if missing:
            raise DataError(
                f"The batch has no {', '.join(missing)}, only {', '.join(sorted(batch))}; name its variables in "
                "Supervised(loss, inputs, target)."
            )
        return self.field_loss(model(*(batch[name] for name in self.inputs)), batch[self.target])


class AdaptiveWeights(nn.Module):
    """Weights of several losses, updated from their values in every training step; the state is in buffers.

    Not for optimizers that evaluate the loss several times a step: the objective would change under a line search.
    """

    history: Tensor
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("history", torch.empty(0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def begin(self, n_terms: int) -> None:
        """Reserve the state for that many losses."""
        self.history = torch.ones(3, n_terms, dtype=torch.float64)  # first losses, previous losses, weights

    @torch.no_grad()
    def update(self, losses: Float[Tensor, " term"]) -> Float[Tensor, " term"]:
        """The weights of this step, from detached values; ones in the first step."""
        now = _mean_over_processes(losses.detach().to(self.history))
        first, previous, weights = self.history.unbind()
        if self.steps == 0:
            first = now
        else:
            weights = self.weigh(now, first, previous, weights)
        self.history = torch.stack([first, now, weights])
        self.steps = self.steps + 1
        return weights.to(losses)

    def weigh(self, now: Tensor, first: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        raise NotImplementedError


class ReLoBRaLo(AdaptiveWeights):
    """Relative loss balancing with random lookback (arXiv:2110.09813): slow terms gain weight; the sum is their number.

    `alpha` is the memory of past weights, `temperature` flattens the softmax, and `lookback` the probability of
    comparing with the previous weights instead of the first losses (drawn from torch's global generator).
    """

    def __init__(self, alpha: Real = 0.999, temperature: Real = 1.0, lookback: Real = 0.999) -> None:
        super().__init__()
        if not (0 <= alpha <= 1 and 0 <= lookback <= 1 and temperature > 0):
            raise ConfigError(
                f"ReLoBRaLo got alpha={alpha}, temperature={temperature}, lookback={lookback}; give alpha and lookback "
                "in [0, 1] and a temperature > 0."
            )
        self.alpha, self.temperature, self.lookback = alpha, temperature, lookback

    def weigh(self, now: Tensor, first: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        def balance(reference: Tensor) -> Tensor:
            ratio = now / (self.temperature * reference.clamp_min(torch.finfo(now.dtype).tiny))
            return len(now) * torch.softmax(ratio.clamp_max(torch.finfo(torch.float32).max), dim=0)

        rho = float(torch.rand(()) < self.lookback)
        history = rho * weights + (1 - rho) * balance(first)
        return self.alpha * history + (1 - self.alpha) * balance(previous)


class SoftAdapt(AdaptiveWeights):
    """Weights by the softmax of `beta` times the change of each loss in one step (arXiv:1912.12355).

    They are scaled to sum to the number of terms, so that a learning rate means the same as without them. With
    `normalized` the changes are divided by the sum of their absolute values, which makes them free of scale.
    """

    def __init__(self, beta: Real = 0.1, normalized: bool = False) -> None:
        super().__init__()
        self.beta, self.normalized = beta, normalized

    def weigh(self, now: Tensor, first: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        slope = now - previous
        if self.normalized:
            slope = slope / slope.abs().sum().clamp_min(torch.finfo(now.dtype).tiny)
        return len(now) * torch.softmax(self.beta * slope, dim=0)


class WeightedSum(nn.Module):
    """Named losses times their weights; the total is the sum of the returned terms.

    Every loss gets the arguments of the call, so that terms are all field losses or all training losses; a term that
    itself returns named terms contributes their sum. `weights` default to one. `adaptive` multiplies them while
    training with gradients enabled only: validation always sees the fixed weights and stays comparable.

    Raises
    ------
    ConfigError
        No terms, or weights that name other terms or are not finite.
    ShapeError
        A term that is not a scalar.
    """

    def __init__(
        self,
        terms: Mapping[str, Callable[..., Any]],
        weights: Mapping[str, Real] | None = None,
        *,
        adaptive: AdaptiveWeights | None = None,
    ) -> None:
        super().__init__()
        weights = dict(weights or {})
        unknown = sorted(set(weights) - set(terms))
        if not terms or unknown:
            raise ConfigError(f"The terms are {_names(terms)}; weights name {_names(unknown)}. Use the terms' names.")
        values = torch.tensor([float(weights.get(name, 1.0)) for name in terms])
        if not bool(torch.isfinite(values).all()):
            raise ConfigError(f"The weights {weights} are not all finite; give finite numbers.")
        self.terms = dict(terms)
        self.modules_of_terms = nn.ModuleList(term for term in terms.values() if isinstance(term, nn.Module))
        self.weights = {name: float(weights.get(name, 1.0)) for name in terms}
        self.adaptive = adaptive
        if adaptive is not None:
            adaptive.begin(len(terms))

    def forward(self, *args: Any) -> dict[str, Tensor]:
        losses = {name: _scalar(name, term(*args)) for name, term in self.terms.items()}
        scaled = {name: self.weights[name] * loss for name, loss in losses.items()}
        if self.adaptive is None or not self.training or not torch.is_grad_enabled():
            return scaled
        factors = self.adaptive.update(torch.stack(list(losses.values())))
        return {name: factor * loss for factor, (name, loss) in zip(factors, scaled.items(), strict=True)}


def _mean_over_processes(values: Tensor) -> Tensor:
    """The same weights in every process, as they would be for the whole batch (if it is shared equally)."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    values = values.clone()
    torch.distributed.all_reduce(values)
    return values / torch.distributed.get_world_size()


def _scalar(name: str, value: Any) -> Tensor:
    loss = torch.stack(list(value.values())).sum() if isinstance(value, Mapping) else value
    if loss.ndim:
        raise ShapeError(f"The term {name!r} has shape {tuple(loss.shape)}; it must be a scalar: reduce it.")
    return loss


def _reduce(values: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
