"""`minimize`: the published algorithm, its stopping rule, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from sciml.errors import ConfigError, ShapeError
from symplectic_opt import Exponential, Monitor, PowerClock, minimize, minimize_batch
from symplectic_opt.methods import METHODS

F64 = torch.float64


def log2d(x):
    return x[..., 0] + x[..., 1] ** 2 - (x[..., 0] * x[..., 1]).abs().log()


def quadratic(d=20, condition=100.0):
    scale = torch.logspace(-math.log10(condition), 0, d, dtype=F64)
    return lambda x: (scale * x * x).sum(-1) / 2


def start(d=20):
    return torch.randn(d, dtype=F64, generator=torch.Generator().manual_seed(0))


# the iterations that the authors' MATLAB algorithm takes, with its restarts and loops
@pytest.mark.parametrize(
    ("settings", "tolerance", "iterations", "restarts", "loops"),
    [
        ({"method": "expo-slc-rtl", "rate": 0.01, "C": 1.0, "h": 10.0, "beta": 0.6}, 1e-10, 66, 25, 3),
        ({"method": "expo-slc-rtl", "rate": 0.01, "C": 1.0, "h": 10.0, "beta": 0.6}, 1e-8, 59, None, None),
        ({"method": "poly-slc-rtl", "rate": 6.0, "C": 0.1, "h": 0.25, "beta": 0.8}, 1e-10, 42, 25, 40),
        ({"method": "poly-slc-rtl", "rate": 6.0, "C": 0.1, "h": 0.25, "beta": 0.8}, 1e-8, 34, None, None),
    ],
)
def test_iterations_are_those_of_the_authors(settings, tolerance, iterations, restarts, loops):
    found = minimize(log2d, [5.0, 5.0], gtol=tolerance, ftol=tolerance, **settings)
    assert found.success
    assert abs(found.nit - iterations) <= 2
    assert found.fun == pytest.approx(1.5 + 0.5 * math.log(2), abs=1e-14)
    if restarts is not None:
        assert abs(float(found.trace.restarts[-1]) - restarts) <= 1
        assert abs(float(found.trace.loops[-1]) - loops) <= 2


def literal(f, x0, family, *, rate, C, h, beta, steps):
    """The algorithm in positions and momenta, as it is written down, with the time in the place that it has there."""
    q, r, t = x0.clone(), torch.zeros_like(x0), 1.0
    if family == "expo":
        a, b = (lambda s: rate * math.exp(-rate * s)), (lambda s: C * rate * math.exp(2 * rate * s))
    else:
        a, b = (lambda s: rate * s ** (-rate - 1)), (lambda s: C * rate * s ** (2 * rate - 1))

    def gradient(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(f(x), x)[0]

    r = r - h / 2 * b(t) * gradient(q)
    delta = h * a(t + h / 2) * r
    q = q + delta
    points = [q]
    for _ in range(steps - 1):
        G = gradient(q)
        if family == "expo":
            loop = C * h**2 * rate**2 * math.exp(rate * (t - h)) * G.norm() > delta.norm()
        else:
            loop = C * h**2 * rate**2 * (t + h) ** (rate + 1) * G.norm() > t * delta.norm()
        if G @ delta > 0:
            r = torch.zeros_like(r)
        if loop:
            t = max(1e-3, beta * t)
        t = t + h
        r = r - h * b(t) * G
        delta = h * a(t + h / 2) * r
        q = q + delta
        points.append(q)
    return torch.stack(points)


@pytest.mark.parametrize(
    ("family", "rate", "C", "h"), [("expo", 0.01, 1.0, 10.0), ("expo", 0.1, 0.3, 2.0), ("poly", 6.0, 0.1, 0.2)]
)
def test_displacements_are_the_method_in_momenta(family, rate, C, h):
    # the trajectory is contracting: rounding differences of the two forms do not grow
    f, x0 = quadratic(), start()
    points = literal(f, x0, family, rate=rate, C=C, h=h, beta=0.7, steps=60)
    found = []
    minimize(
        f,
        x0,
        method=f"{family}-slc-rtl",
        rate=rate,
        C=C,
        h=h,
        beta=0.7,
        max_iter=60,
        gtol=0,
        ftol=0,
        callback=lambda state: found.append(state.x),
    )
    error = (torch.stack(found) - points).abs().amax() / x0.abs().amax()
    assert error <= 1e-12


SETTINGS = {
    "nag": {"h": 1.0, "restart": "gradient"},
    "momentum": {"h": 0.5},
    "expo-rk4": {"h": 2.0},
    "poly-rk4": {"h": 0.05},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_minimises_a_quadratic(method):
    looped = {"h": 10.0 if method.startswith("expo") else 0.1, "restart": "gradient", "temporal_looping": True}
    settings = SETTINGS.get(method, looped)
    f, x0 = quadratic(), start()
    found = minimize(f, x0, method=method, max_iter=300, target=1e-3 * float(f(x0)), trace=False, **settings)
    assert found.success, found.message
    assert found.fun <= 1e-3 * float(f(x0))


@pytest.mark.parametrize("method", ["expo-slc-rtl", "poly-slc-rtl", "expo-htvi", "nag"])
def test_one_gradient_an_iteration(method):
    calls = []

    def counted(x):
        calls.append(len(calls))
        return quadratic()(x)

    found = minimize(counted, start(), method=method, h=0.01, max_iter=30, gtol=0, ftol=0)
    assert found.nit == 30
    assert len(calls) == found.njev == found.nfev == 31  # that of the start included


@pytest.mark.parametrize("restart", ["gradient", "function", "velocity", 7, None])
@pytest.mark.parametrize("method", ["expo-slc", "poly-slc", "nag"])
def test_restarts(method, restart):
    settings = {"nag": {"h": 1.0}}.get(method, {"h": 10.0 if method[0] == "e" else 0.1, "temporal_looping": True})
    found = minimize(quadratic(), start(), method=method, restart=restart, max_iter=200, gtol=0, ftol=0, **settings)
    restarts = float(found.trace.restarts[-1])
    if restart is None:
        assert restarts == 0
    elif restart == 7:
        assert restarts == 199 // 7
    else:
        assert 3 <= restarts <= 100


@pytest.mark.parametrize("method", ["expo-slc-rtl", "poly-slc-rtl"])
def test_restarts_accelerate(method):
    def iterations(**options):
        h = {"expo-slc-rtl": 20.0, "poly-slc-rtl": 0.1}[method]
        return minimize(quadratic(), start(), method=method, h=h, target=1e-10, max_iter=3000, **options).nit

    assert 3 * iterations() < iterations(restart=None)


def test_time_loops_bound_the_clock():
    settings = {"method": "expo-slc", "restart": "gradient", "C": 1.0, "h": 5.0, "max_iter": 2000, "gtol": 0, "ftol": 0}
    looped = minimize(quadratic(), start(), temporal_looping=True, **settings)
    assert float(looped.trace.t.max()) < 2000
    assert float(looped.trace.loops[-1]) > 10
    free = minimize(quadratic(), start(), temporal_looping=False, **settings)
    assert free.status == 2  # its clock grew until the step was too large
    assert "temporal looping" in free.message


@pytest.mark.parametrize(("c", "method"), [(7.0, "expo-slc-rtl"), (1e-3, "poly-slc-rtl")])
def test_scaling_the_function_is_scaling_C(c, method):
    f = quadratic()
    h = {"expo-slc-rtl": 10.0, "poly-slc-rtl": 0.1}[method]
    one = minimize(f, start(), method=method, C=0.1, h=h, max_iter=50, gtol=0, ftol=0)
    other = minimize(lambda x: c * f(x), start(), method=method, C=0.1 / c, h=h, max_iter=50, gtol=0, ftol=0)
    assert (one.x - other.x).abs().amax() <= 1e-12


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("c", [1e25, 1e-25])
def test_scaling_the_function_is_scaling_C_in_float32(c, batched):
    """Squares of these gradients are not in float32."""
    scale, run = torch.logspace(-2, 0, 6), minimize_batch if batched else minimize
    settings = {"h": 10.0, "max_iter": 60, "gtol": 0, "ftol": 0}
    one = run(lambda x: (scale * x * x).sum(-1) / 2, torch.ones(6), **settings)
    other = run(lambda x: c * ((scale * x * x).sum(-1) / 2), torch.ones(6), C=1 / c, **settings)
    assert (one.x - other.x).abs().amax() <= 1e-4


@pytest.mark.parametrize("method", ["expo-slc-rtl", "poly-slc-rtl", "expo-htvi-rtl", "poly-sv-rtl", "nag"])
def test_moving_and_turning_the_problem_moves_and_turns_the_iterates(method):
    f, x0, shift = quadratic(), start(), torch.linspace(-1, 1, 20, dtype=F64)
    Q = torch.linalg.qr(torch.randn(20, 20, dtype=F64, generator=torch.Generator().manual_seed(1)))[0]
    h = {"expo": 10.0, "poly": 0.1, "nag": 1.0}[method.partition("-")[0]]
    one = minimize(f, x0, method=method, h=h, max_iter=60, gtol=0, ftol=0)
    other = minimize(lambda y: f((y - shift) @ Q), Q @ x0 + shift, method=method, h=h, max_iter=60, gtol=0, ftol=0)
    assert (Q @ one.x + shift - other.x).abs().amax() <= 1e-10


@pytest.mark.slow
@pytest.mark.unchecked
@pytest.mark.parametrize("method", ["expo-slc-rtl", "poly-slc-rtl"])
def test_looping_keeps_the_minimum_for_long(method):
    settings = {"expo-slc-rtl": {"C": 1.0, "h": 10.0, "beta": 0.6}, "poly-slc-rtl": {"C": 0.1, "h": 0.25}}[method]
    worst = []

    def log2d_of_floats(x):  # which are faster than tensors here
        one, two = x.tolist()
        return torch.tensor(one + two**2 - math.log(abs(one * two)), dtype=F64)

    def gradient(x):
        one, two = x.tolist()
        return torch.tensor([1 - 1 / one, 2 * two - 1 / two], dtype=F64)

    minimize(
        log2d_of_floats,
        [5.0, 5.0],
        method=method,
        gtol=0,
        ftol=0,
        max_iter=100_000,
        trace=False,
        grad=gradient,
        callback=lambda state: worst.append(state.fun) if state.nit > 100 else None,
        **settings,
    )
    assert max(worst) - (1.5 + 0.5 * math.log(2)) <= 1e-12


@pytest.mark.unchecked
def test_float32_runs_for_long_without_overflow():
    found = minimize(quadratic(5, 10.0), torch.ones(5), max_iter=10_000, gtol=0, ftol=0, trace=False)
    assert found.x.dtype == torch.float32
    assert found.nit == 10_000
    assert bool(found.x.isfinite().all())


@pytest.mark.parametrize("clock", [3.0, PowerClock(2.0)])
def test_adaptive_steps_minimise(clock):
    found = minimize(quadratic(), start(), method="poly-slc-rtl", h=0.05, adaptive_to=clock, max_iter=3000)
    assert found.success


@pytest.mark.parametrize("method", ["expo-slc", "poly-htvi"])
def test_a_monitor_is_a_clock(method):
    def g(t):
        return 2 / t

    one, other = (minimize(quadratic(), start(), method=method, adaptive_to=c, max_iter=9) for c in (g, Monitor(g)))
    assert torch.equal(one.x, other.x)
    assert one.trace.t[-1] != minimize(quadratic(), start(), method=method, max_iter=9).trace.t[-1]


def test_result_is_of_the_kind_of_the_start():
    assert isinstance(minimize(quadratic(3), np.ones(3), max_iter=3).x, np.ndarray)
    assert isinstance(minimize(quadratic(3), torch.ones(3), max_iter=3).x, torch.Tensor)
    x0 = torch.ones(3, dtype=F64)
    minimize(quadratic(3), x0, max_iter=3)
    assert torch.equal(x0, torch.ones(3, dtype=F64))


def test_gradient_may_be_given():
    scale = torch.logspace(-2, 0, 20, dtype=F64)
    one = minimize(quadratic(), start(), max_iter=20)
    other = minimize(quadratic(), start(), max_iter=20, grad=lambda x: scale * x)
    assert (one.x - other.x).abs().amax() <= 1e-13


def test_stops():
    f = quadratic()
    assert minimize(f, start(), max_iter=5).status == 1
    stopped = minimize(f, start(), callback=lambda state: state.nit == 3)
    assert (stopped.status, stopped.nit) == (3, 3)
    found = minimize(f, start(), h=10.0, target=1e-3)
    assert found.fun <= 1e-3 < float(found.trace.f[-2])
    assert found.message == "f is not above the target"
    left = minimize(
        lambda x: -x.log().sum(-1) * 0 + (x - 1).square().sum(-1) + x.log().sum(-1), [0.5], method="momentum", h=10.0
    )
    assert left.status == 2
    assert np.isfinite(left.x).all()


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"h": 0.0}, ConfigError, "h=0.0"),
        ({"h": -1.0}, ConfigError, "h=-1.0"),
        ({"C": 0.0}, ConfigError, "C=0.0"),
        ({"rate": 0.0}, ConfigError, "eta=0.0"),
        ({"beta": 1.0}, ConfigError, "beta=1.0"),
        ({"beta": 0.0}, ConfigError, "beta=0.0"),
        ({"t0": 1e-4}, ConfigError, "t_min"),
        ({"method": "expo-slk"}, ConfigError, "expo-slc"),
        ({"method": "nag"}, ConfigError, "learning rate"),
        ({"method": "nag", "h": 1.0, "C": 1.0}, ConfigError, "nag has no C"),
        ({"method": "momentum", "h": 1.0, "restart": 3}, ConfigError, "momentum has no restart"),
        ({"method": "expo-rk4", "beta": 0.5, "loop_test": "paper"}, ConfigError, "no loop_test and no beta"),
        (
            {"method": "expo-slc", "beta": 0.5, "loop_test": "paper"},
            ConfigError,
            "expo-slc, which does not loop, has no loop_test and no beta",
        ),
        ({"temporal_looping": False, "beta": 0.5}, ConfigError, "does not loop, has no beta"),
        ({"temporal_looping": "no"}, ConfigError, "temporal_looping='no' must be True"),
        ({"method": "nag", "h": 0.1, "t0": 7.0, "t_min": 2.0}, ConfigError, "nag has no t_min and no t0"),
        ({"method": "poly-rk4", "t_min": 2.0}, ConfigError, "no t_min"),
        ({"adaptive_to": "x"}, ConfigError, "adaptive_to='x' must be a rate"),
        ({"adaptive_to": -1.0}, ConfigError, "adaptive_to=-1.0 must be a rate"),
        ({"adaptive_to": lambda t: -1.0}, ConfigError, "the monitor must be positive"),
        ({"h": "much"}, ConfigError, "h='much'"),
        ({"C": torch.ones(2)}, ConfigError, "must be one number"),
        ({"target": float("nan")}, ConfigError, "target=nan"),
        ({"max_iter": 2.5}, ConfigError, "whole number"),
        ({"restart": "often"}, ConfigError, "restart='often'"),
        ({"restart": 0}, ConfigError, "restart=0"),
        ({"loop_test": "mine"}, ConfigError, "loop_test"),
        ({"max_iter": 0}, ConfigError, "max_iter"),
        ({"gtol": -1.0}, ConfigError, "gtol"),
        ({"x0": np.ones((2, 3))}, ShapeError, "minimize_batch"),
        ({"x0": [-1.0, 2.0, 3.0], "f": lambda x: x.log().sum(-1)}, ValueError, "inside the domain"),
        ({"f": lambda x: x}, ShapeError, "vmap"),
        ({"x0": torch.ones(3, dtype=torch.complex128)}, ConfigError, "view_as_real"),
        (
            {"grad": lambda x: x[None]},
            ShapeError,
            r"grad must take points \(3,\) to tensors of that shape; got \(1, 3\)",
        ),
        ({"grad": lambda x: x[0]}, ShapeError, r"got \(\)"),
        ({"grad": lambda x: x.numpy()}, ShapeError, "got ndarray"),
        ({"f": lambda x: np.sum(x.numpy() ** 2)}, ConfigError, "f calls numpy, which has no gradients"),
        ({"f": lambda x: torch.zeros(())}, ConfigError, "f has no gradient at x"),
        ({"f": lambda x: x.sum().round().long()}, ConfigError, "torch.int64 values"),
        ({"gtol": None}, ConfigError, "gtol=None"),
        ({"t0": "a"}, ConfigError, "t0='a'"),
        ({"t_min": None}, ConfigError, "t_min=None"),
        ({"callback": lambda state: state.x}, ConfigError, "callback returned many numbers"),
        ({"callback": lambda state: torch.as_tensor(state.x)}, ConfigError, "callback returned many numbers"),
    ],
)
def test_wrong_input(change, error, words):
    with pytest.raises(error, match=words):
        minimize(**{"f": quadratic(3), "x0": [1.0, 2.0, 3.0], **change})


def flat(x):
    return 1e-14 * x.sum(-1)


@pytest.mark.parametrize(
    ("f", "settings"),
    [(quadratic(), {"h": 1e6}), (flat, {"method": "expo-slc", "h": 200.0})],
)
def test_steps_that_overflow_are_a_result(f, settings):
    found = minimize(f, start(), gtol=0, ftol=0, max_iter=5000, **settings)
    assert (found.status, found.success) == (2, False)
    assert "overflows" in found.message
    assert found.message.endswith("reduce h or C, or enable temporal looping" if "method" in settings else "h or C")
    assert bool(found.x.isfinite().all())


def test_whatever_is_true_stops():
    assert minimize(quadratic(), start(), callback=lambda state: state.x[0] < 10).nit == 1
    assert minimize(quadratic(), start().numpy(), callback=lambda state: state.x[0] < 10).nit == 1


def test_a_callback_stops_as_those_of_scipy():
    def callback(state):
        if state.nit == 3:
            raise StopIteration

    found = minimize(quadratic(), start(), callback=callback)
    assert (found.status, found.nit) == (3, 3)


@pytest.mark.unchecked
def test_numbers_of_numpy_are_numbers():
    one = minimize(quadratic(), start(), restart=5, max_iter=50)
    other = minimize(quadratic(), start(), restart=np.int64(5), max_iter=np.int64(50))
    assert torch.equal(one.x, other.x)


@pytest.mark.parametrize("name", ["slc", "htvi", "sv"])
def test_integrators_alone_are_methods(name):
    one, other = (minimize(quadratic(), start(), method=m, max_iter=50) for m in (name, f"expo-{name}-rtl"))
    assert torch.equal(one.x, other.x)


def test_a_start_below_the_target_is_left_alone():
    found = minimize(quadratic(), start(), target=1e9)
    assert (found.success, found.nit) == (True, 0)
    assert found.message == "f is not above the target"


def test_runge_kutta_has_order_four():
    system, x0, errors = Exponential(1.0, 0.25), torch.ones(1, dtype=F64), []
    exact = system.exact_quadratic(1.0, 1.0, 1.0, 0.0, 4.0)
    for n in (40, 80, 160):
        settings = {"method": "expo-rk4", "rate": 1.0, "C": 0.25, "h": 3 / n, "max_iter": n, "gtol": 0, "ftol": 0}
        errors.append(abs(float(minimize(lambda x: x.square().sum(-1) / 2, x0, **settings).x) - exact))
    assert math.log2(errors[1] / errors[2]) == pytest.approx(4, abs=0.1)


def test_momentum_is_polyaks():
    found = minimize(lambda x: x.sum(-1), [0.0], method="momentum", h=1.0, max_iter=3, gtol=0, ftol=0)
    assert float(found.x[0]) == pytest.approx(-(1 + 1.9 + 2.71))
