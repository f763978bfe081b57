"""What the deterministic experiments measure, on cases whose answers are known."""

import math

import numpy as np
import pytest
from sciml.experiment import RunDirectory
from sciml.runtime import Runtime
from symplectic_opt import Exponential, Polynomial, growing_steps
from symplectic_opt.experiments import integrators


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path, 0, Runtime("cpu"))


def test_orders_are_slopes_above_rounding():
    steps = np.array([10, 20, 40, 80])
    assert integrators.measured_order(steps, 3.0 / steps**2.0) == pytest.approx(2)
    assert integrators.measured_order(steps, np.array([1e-2, 1e-6, 1e-14, 1e-14])) == pytest.approx(math.log2(1e4))
    assert math.isnan(integrators.measured_order(steps, np.full(4, 1e-15)))


def test_gradients_for_an_error_are_interpolated_on_log_axes():
    counts = [10, 20, 40, 80]
    errors = 1.0 / np.array(counts) ** 2
    assert integrators.needed(counts, errors, 1 / 30**2) == pytest.approx(30)
    assert integrators.needed(counts, errors, 1e-9) == math.inf
    assert integrators.needed(counts, errors, 1.0) == 10
    # an error that grows again has not been reached for good
    assert integrators.needed(counts, np.array([1e-6, 1.0, 1e-2, 1e-4]), 1e-2) == pytest.approx(40)


@pytest.mark.parametrize("system", [Exponential(1.0, 0.25), growing_steps(Polynomial(4.0, 0.1), 2.0)])
def test_every_integrator_goes_as_long_a_way(system):
    assert system.flow(1.0, integrators._width(system, 3.0)) == pytest.approx(4.0, rel=1e-12)


@pytest.mark.parametrize("name", integrators.STEPS)
def test_every_gradient_is_counted(name):
    step, points = integrators.STEPS[name][0], set()

    def gradient(x):
        points.add(x)  # what is known at a point is not computed again
        return x

    state = 1.0, 0.5, 1.0
    for _ in range(7):
        state = step(Exponential(), *state, 0.1, gradient)
    assert integrators.gradients(name, 7) == len(points)


def test_integrators_have_their_orders(directory):
    config = integrators.EXPERIMENT.config("smoke")
    report = integrators.run(config, directory)
    assert [str(bar) for bar in report.bars if not bar.met] == []
    assert len(report.bars) == len(integrators.STEPS) * len(integrators.SYSTEMS)
    # the method of higher order needs fewer gradients for a small error
    needed = [report.metric("gradients for 0.0001", f"{name}, polynomial p=2").value for name in ("SLC", "HTVI")]
    assert needed[0] < needed[1]
    assert (directory.path / "figures" / "efficiency.png").stat().st_size <= 200_000
