"""Accelerated optimizers for torch: Bregman dynamics by symplectic integrators (arXiv 2207.11460)."""

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from sciml.errors import ConfigError
from sciml.precision import widest
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from symplectic_opt import _updates as updates
from symplectic_opt._buckets import Bucket, Buckets, buffer_dtype, local
from symplectic_opt._motion import Motion, move, move_on_device
from symplectic_opt._products import NOT_FINITE, combine, combine_on_device, products, read
from symplectic_opt._settings import SHARED, Family, check, check_step, decay_of, descent_of, leading, weight_of
from symplectic_opt.descent import Clockwork, Descent, Order, Restart
from symplectic_opt.heavy_ball import LoopTest
from symplectic_opt.integrators import Integrator
from symplectic_opt.methods import DEFAULTS

__all__ = ["BregmanSLC", "Family"]

LEFT_OUT = ("not_finite", "overflown", "improper")  # why capturable steps were left out, in the order of their counts


class BregmanSLC(Optimizer):
    """Symplectic integration of Bregman dynamics, with momentum restarts and temporal looping.

    With one gradient G a step at the parameters q, at the time t of one clock and over all parameters,

        Δ ← μ Δ - s(t) G,    q ← q + Δ,

    where μ and s(t) are those of `HeavyBall`, a restart sets Δ to zero before, and a loop sets t back; see `Descent`
    for both tests. `lr` is the step h in units of time, 1 to 200 in the exponential family: the length of a step is
    s(t). One buffer a parameter is kept, in float32 for parameters of lower precision, whose gradients are copied to
    float32 in every step.

    Parameters
    ----------
    lr
        The step h, that of the first group that moves; by default 4, or 0.01 in the polynomial family. A scheduler may
        change it; lr = 0 holds a group.
    C
        Scale of the objective: f and C give the iterates of c f and C/c. By default 1, or 0.1 in the polynomial family.
    family, rate
        "exponential" with η = `rate`, by default 0.01, or "polynomial" with p = `rate`, by default 6.
    beta, temporal_looping, loop_test, t0, t_min
        Time starts at t0; where the test says unstable, t ← max(t_min, β t).
    integrator, order, adaptive_to
        As in `HeavyBall`, `Descent` and `bregman_system`, but no `Clock`, which a state dict does not hold.
    restart
        "gradient", "function", "velocity", a number of steps, or None. "function" compares the values that closures
        return for successive points, so these must be of one function: of the same minibatch, of all processes.
    restart_smoothing
        Weight of the past in an exponential mean of G·Δ, which is then what "gradient" tests: for noisy gradients.
    weight_decay, decoupled
        Coupled: G + λ q is the gradient, as of `torch.optim.SGD`. Decoupled: q ← e^(-λ lr) q, the decay at rate λ per
        unit of the group's own time; it depends neither on the scale of f nor on s(t), and vanishes with lr. AdamW's
        decay λ at its rate r is that of λ r/lr here: with lr = 3 it takes 1e-4 for what is 0.01 at a rate of 0.03.
    capturable
        Clock, counters and decisions are one tensor on the device, which the host never waits for; a step compiles into
        one graph (not by torch 2.6), and may be captured in a CUDA graph after a step that makes the state. Then `lr`
        is a tensor, which a schedule fills, gradients stay where they are, and a loss that is compared is a tensor too.
        In float32 |G| beyond 1e19 counts as infinite there, below 1e-23 as zero. Otherwise a step reads from the device
        once, and once more where |G| is below 1e-15 or its square is no number of the buffers.

    Notes
    -----
    A group with an `lr` or `C` of its own has the effective C_g (lr_g/h)²: one clock, in a diagonal metric.
    Parameters without gradient stay, and keep their momentum r, which a restart forgets with all others. A gradient
    that is not finite raises `FloatingPointError` and changes nothing; with `capturable` the step is left out, and
    `diagnostics` or `state_dict` raise it. To clip gradients, call `torch.nn.utils.clip_grad_norm_` before `step`.

    Raises
    ------
    ConfigError
        If a setting is out of its range, groups differ in what is shared, or `restart="function"` gets no loss.
    FloatingPointError
        If a gradient is NaN or infinite, or the loss that `restart="function"` compares NaN.
    OverflowError
        If s(t) or |Δ| left the range of the buffers.
    RuntimeError
        If a gradient is sparse.
    """

    fixed: ClassVar[tuple[str, ...]] = ()  # what a class by name sets itself
    _kept: Buckets | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | int | Tensor | None = None,
        C: float | int | None = None,
        family: Family = "exponential",
        rate: float | int | None = None,
        beta: float = 0.8,
        t0: float | int = 1.0,
        t_min: float = 1e-3,
        integrator: Integrator = "slc",
        restart: Restart = "gradient",
        temporal_looping: bool = True,
        loop_test: LoopTest = "paper",
        order: Order = "canonical",
        adaptive_to: float | int | None = None,
        restart_smoothing: float | int = 0.0,
        weight_decay: float | int = 0.0,
        decoupled: bool = True,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in ("self", "params", "__class__")}
        for name, value in DEFAULTS.get(family, DEFAULTS["exponential"]).items():
            if settings[name] is None:
                settings[name] = value
        super().__init__(params, settings)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group, lead = self.param_groups[-1], self.param_groups[0]
        try:
            check(group)
            for parameter in group["params"]:
                widest(parameter.device)
            for name in (*SHARED, "maximize") if lead["restart"] == "function" else SHARED:
                if group[name] != lead[name]:
                    raise ConfigError(
                        f"{name}={group[name]!r} of a group differs from {lead[name]!r} of the first: an optimizer has "
                        "one clock; use two optimizers, or leave it out of the group"
                    )
        except ConfigError:
            del self.param_groups[-1]
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; a closure, called once, returns the loss after computing gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        lead = self.param_groups[0]
        if lead["restart"] == "function" and loss is None:
            raise ConfigError(
                "restart='function' compares values of the objective: call step(closure) with a closure that returns "
                "the loss, or choose restart='gradient'"
            )
        check_step(self.param_groups)
        value = loss if lead["restart"] == "function" else None
        if value is not None and lead["maximize"]:
            value = -value
        known = len(self.state)
        try:
            moving = self._moving()
            if moving.buckets:
                (self._step_on_device if lead["capturable"] else self._step_on_host)(moving, value)
        except Exception:
            for parameter in list(self.state)[known:]:  # of a step that was refused
                del self.state[parameter]
            raise
        return loss

    def diagnostics(self) -> dict[str, float | int]:
        """Steps, time t of the last kick, s(t), μ, restarts, loops and kinetic energy ½ a(t)|r|²; waits for the device.

        In the order "bravo" t is the time of the next kick. s is 0 where the last gradient vanished.

        Raises
        ------
        FloatingPointError
            If `capturable` has left out steps since this was last asked.
        """
        self._raise_masked()
        lead = self.param_groups[0]
        descent, motion = descent_of(lead), self._host_motion(lead)
        if motion is None:
            zeros = dict.fromkeys(("s", "mu", "restarts", "loops", "energy"), 0)
            return {"steps": 0, "t": float(lead["t0"]), **zeros}
        clockwork = motion.clockwork
        square = motion.square  # of the buffers that moved
        if motion.error > math.sqrt(self._rounding()) * square or not lead.get("complete", False):
            square = self._square()
        square = max(square, 5e-324)
        log_r = math.log(square) / 2 - clockwork.log_amplitude
        log_energy = descent.coefficients.system.log_drift(clockwork.t) + 2 * log_r - math.log(2)
        return {
            "steps": int(motion.steps),
            "t": clockwork.t,
            "s": math.exp(motion.log_step),
            "mu": motion.mu,
            "restarts": int(clockwork.restarts),
            "loops": int(clockwork.loops),
            "energy": math.exp(log_energy) if log_energy < 709 else math.inf,
        }

    def state_dict(self) -> dict[str, Any]:
        self._raise_masked()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a copy of a state of the same family; settings are those of the state.

        Raises
        ------
        ConfigError
            If the state is of another family, an integrator that this optimizer has not, another optimizer or model.
        """
        groups = state_dict.get("param_groups") or [{}]
        for name in dict.fromkeys(("family", *self.fixed)):
            own, saved = self.param_groups[0][name], groups[0].get(name)
            if saved != own:
                raise ConfigError(
                    f"the state is of the {name} {saved!r}, this optimizer of {own!r}: "
                    f"resume with the {name} it was made with"
                )
        buffers: dict[Tensor, Tensor] = {}
        for group, old in zip(self.param_groups, groups, strict=False):
            for parameter, index in zip(group["params"], old["params"], strict=False):
                if entry := state_dict["state"].get(index):
                    buffers[parameter] = entry.get("momentum")
                    if getattr(buffers[parameter], "shape", None) != parameter.shape:
                        raise ConfigError(
                            f"the state has no momentum of the shape {tuple(parameter.shape)} of parameter {index}: "
                            "it is of another optimizer or model"
                        )
        super().load_state_dict(state_dict)
        for parameter, buffer in buffers.items():  # torch casts buffers to the dtype of their parameters
            dtype = buffer_dtype(parameter.dtype)
            self.state[parameter]["momentum"] = buffer.to(parameter.device, dtype, copy=True)
        self._kept = None

    def _moving(self) -> Buckets:
        compiling = torch.compiler.is_compiling()
        if compiling or self._kept is None or not self._kept.lasts(self.param_groups, self.state):
            moving = Buckets(self.param_groups, self.state)
            if not compiling:
                self._kept = moving.keep(self.param_groups, self.state)
            return moving
        return self._kept

    def _step_on_host(self, moving: Buckets, loss: Any) -> None:
        lead = self.param_groups[0]
        buckets, complete = [bucket.with_gradients() for bucket in moving.buckets], moving.complete
        descent, step = descent_of(lead), leading(self.param_groups)
        h = float(step)
        motion = self._host_motion(lead) or Motion.at_rest(descent, h)
        scale, known = lead.get("scale", 1.0), complete and lead.get("complete", False)
        rounding = self._rounding()
        # |Δ|² is known by its recurrence until the terms of this have cancelled half of the digits
        squares = not known or motion.error > math.sqrt(rounding) * motion.square
        rows, value = read(buckets, squares, loss)
        weights = [float(weight_of(bucket.group, step, lead["C"])) for bucket in buckets]
        found = combine(rows, weights, scale, motion.square)
        if squares:
            motion = motion._replace(error=rounding * found.square)
        try:
            after = move(descent, motion, h, found, value, lead["restart_smoothing"], rounding)
            limit = min(torch.finfo(bucket.buffers[0].dtype).max for bucket in buckets)
            s = math.exp(after.log_step)
            if s * max(weights) > limit or after.square**0.5 > limit:
                raise OverflowError
        except OverflowError:
            raise OverflowError(_overflow(descent, motion.clockwork)) from None
        lead["scale"] = self._update(buckets, weights, after.mu, s, scale)
        lead["motion"], lead["complete"] = after.pack(), complete

    def _update(self, buckets: list[Bucket], weights: list[float], mu: float, s: float, scale: float) -> float:
        """Δ ← μ Δ - s w G, q ← q + Δ for buffers r with Δ = scale r; the new scale.

        Scaled so, Δ is multiplied by μ without a pass over memory, but where the scale leaves a wide range.
        """
        together = self.param_groups[0]["foreach"] is not False
        after = mu * scale
        if not 1e-10 < after < 1e10 or s * max(weights) > 1e20 * after:
            buffers = [local(state["momentum"]) for state in self.state.values()]
            if after == 0:
                updates.zero(buffers, together)
            else:
                updates.scale(buffers, after, together)
            after = 1.0
        for bucket, weight in zip(buckets, weights, strict=True):
            updates.add(bucket.buffers, bucket.gradients, -s * weight / after, together)
            if (decay := decay_of(bucket.group)) is not None:
                updates.scale(bucket.parameters, math.exp(-decay), together)
            updates.add(bucket.parameters, bucket.buffers, after, together)
        return after

    def _step_on_device(self, moving: Buckets, loss: Any) -> None:
        """As on the host, with 0-dim tensors, every branch by `where`; |Δ|² is computed anew in every step.

        The state is one tensor, in which the motion is followed by what counts steps left out.
        """
        lead = self.param_groups[0]
        buckets = [bucket.with_gradients() for bucket in moving.buckets]
        device = buckets[0].parameters[0].device
        dtype = widest(device)

        def number(x: Any) -> Tensor:
            if isinstance(x, Tensor):
                return x.detach().to(device, dtype).reshape(())
            return torch.full((), x, dtype=dtype, device=device)

        several = len({id(group["lr"]) for group in self.param_groups}) > 1
        step = leading(self.param_groups, number) if several else lead["lr"]
        descent, h = descent_of(lead), number(step) if isinstance(step, Tensor) else step
        kept = self._motion_on_device(descent, h, device, number)
        count = len(Motion.names())

        rates = [bucket.group["lr"] for bucket in buckets]
        rates = [number(lr) if isinstance(lr, Tensor) else None for lr in rates]
        moves = [lr > 0 if several and lr is not None else None for lr in rates]  # one step is asked below
        rows = [products(bucket, True).to(device, dtype) for bucket in buckets]
        rows = [row if there is None else torch.where(there, row, 0.0) for there, row in zip(moves, rows, strict=True)]
        weights = [weight_of(bucket.group, step, lead["C"]) for bucket in buckets]
        weights = [number(weight) if isinstance(weight, Tensor) else weight for weight in weights]
        found, sums = combine_on_device(rows, weights)
        value = None if loss is None else number(loss)
        motion = Motion.unflatten(kept[:count].unbind())
        after, s = move_on_device(descent, motion, h, found, sums, value, lead["restart_smoothing"])

        valid = finite = torch.linalg.vector_norm(rows[0] if len(rows) == 1 else torch.stack(rows), math.inf) < math.inf
        if value is not None:
            valid = finite = finite & (value == value)
        limit = min(torch.finfo(bucket.buffers[0].dtype).max for bucket in buckets)
        valid = valid & (after.square < limit * limit)
        for weight in set(weights):
            valid = valid & (s * weight <= limit if isinstance(weight, Tensor) else s <= limit / weight)
        failures = [~finite, finite > valid]
        if isinstance(h, Tensor):
            asked = torch.stack([h, *(lr for lr in rates if lr is not None)]) if several else h
            proper = ((asked >= 0) & (asked < math.inf)).all()
            moving_at_all = proper & (h > 0)
            valid, failures = valid & moving_at_all, [failures[0], failures[1] & moving_at_all, ~proper]
        mu = torch.where(valid, after.mu, 1.0)
        updates.rest_on_device(moving.resting, mu)
        for bucket, weight, there in zip(buckets, weights, moves, strict=True):
            decay = decay_of(bucket.group)
            if isinstance(decay, Tensor):
                decay = number(-decay).exp()
            elif decay is not None:
                decay = math.exp(-decay)
            updates.move_on_device(bucket, valid if there is None else valid & there, mu, s * -weight, decay)
        kept[:count].copy_(torch.where(valid, torch.stack([*after.pack().values()]), kept[:count]))
        kept[count : count + len(failures)].add_(torch.stack(failures))

    def _motion_on_device(
        self, descent: Descent, h: Any, device: torch.device, number: Callable[[Any], Tensor]
    ) -> Tensor:
        """The motion and the counts of `LEFT_OUT` in one tensor, which is made once."""
        lead = self.param_groups[0]
        kept = lead.get("motion")
        if isinstance(kept, Tensor):
            if kept.device != device:
                lead["motion"] = kept = kept.to(device, widest(device))
            return kept
        if kept is None:
            kept = Motion.at_rest(descent, torch.where(h.isfinite(), h, 0.0) if isinstance(h, Tensor) else h).pack()
        if (scale := lead.get("scale", 1.0)) != 1:
            updates.scale([local(state["momentum"]) for state in self.state.values() if state], scale, True)
            lead["scale"] = 1.0
        kept = {**dict.fromkeys(LEFT_OUT, 0.0), **kept, "error": math.inf}  # |Δ|² is not known by its recurrence
        lead["motion"] = torch.stack([number(kept[name]) for name in (*Motion.names(), *LEFT_OUT)])
        return lead["motion"]

    def _rounding(self) -> float:
        """The relative error of scalar products of buffers."""
        dtypes = {p.dtype for group in self.param_groups for p in group["params"]}
        return 4 * max(torch.finfo(buffer_dtype(dtype)).eps for dtype in dtypes)

    def _square(self) -> float:
        """|Δ|² of the last move, measured."""
        scale, total = self.param_groups[0].get("scale", 1.0), 0.0
        for state in filter(None, self.state.values()):
            norm = torch.linalg.vector_norm(state["momentum"])
            total += float(norm.full_tensor() if isinstance(norm, DTensor) else norm) ** 2
        return scale**2 * total

    def _raise_masked(self) -> None:
        lead = self.param_groups[0]
        kept, start = lead.get("motion"), len(Motion.names())
        if not isinstance(kept, Tensor):
            return
        not_finite, overflown, improper = map(int, kept[start:].tolist())
        if not_finite or overflown or improper:
            kept[start:].zero_()
        if improper:
            raise ConfigError(f"lr was negative, NaN or infinite in {improper} steps, which were left out: check it")
        if not_finite:
            loss = ", or the loss NaN," if lead["restart"] == "function" else ""
            raise FloatingPointError(NOT_FINITE.format(f"{loss} in {not_finite} steps, which were left out"))
        if overflown:
            where = f" in {overflown} steps, which were left out"
            raise OverflowError(_overflow(descent_of(lead), Motion.unflatten(kept[:start].tolist()).clockwork, where))

    def _host_motion(self, lead: dict[str, Any]) -> Motion | None:
        kept = lead.get("motion")
        if isinstance(kept, Tensor):
            return Motion.unflatten(kept[: len(Motion.names())].tolist())
        return None if kept is None else Motion.unpack({name: float(x) for name, x in kept.items()})


def _overflow(descent: Descent, state: Clockwork, where: str = "") -> str:
    """Why a step from this state overflows, and what to do."""
    if descent.looping:
        return f"the step s(t) is beyond the numbers of the buffers{where}, though time loops: reduce lr or C"
    t = state.t if descent.order == "bravo" else descent.coefficients.advance(state.t, state.h)
    return (
        f"time grew to {t:.6g} and the step s(t) beyond the numbers of the buffers{where}: "
        "reduce lr or enable temporal looping"
    )
