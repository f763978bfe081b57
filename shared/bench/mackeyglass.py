"""`mackeyglass`: simulation beside `jitcdde`, `ddeint`, `torchdde` and `reservoirpy`, with the error beside the time;
Lyapunov exponents beside `jitcdde`; branches, curves of folds, and batches alone.

Peers that are not installed are left out; `jitcdde` needs a C compiler, and its compilation is timed apart. Targets, on
one thread: the segment map takes a tenth of the time a delay that Runge–Kutta on a grid takes at an error of 1e-9, in a
batch; 100 points of the principal branch with multipliers within 1.6 s, 150 points of the curve of folds within 7 s.
`OMP_NUM_THREADS=1` makes one thread of all. On an accelerator, if there is one: 2·10⁹ steps of τ/100 a second, and
three exponents on 400 × 300 points over 2000 delays within 60 s.
"""

import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mackeyglass import (
    Branch,
    MackeyGlass,
    PeriodicOrbit,
    RungeKutta4,
    SegmentMap,
    continue_bifurcation,
    continue_branch,
    hopf_points,
    locate,
    lyapunov_spectrum,
    simulate,
)
from rich.console import Console
from rich.table import Table
from sciml.runtime import Runtime

from shared.bench.timing import compare

CONSOLE = Console()
CLASSIC = MackeyGlass(beta=0.2, gamma=0.1, n=10.0, tau=17.0)
HISTORY, END = 1.2, 306.0
REFERENCE = 0.80364320211  # x(306), to the digits given by simulations of several orders
# of (n, τ) = (10, 1.7), by RK4 and by the segment map; standard errors are 1.5e-4, 1e-4, 3e-4 and 3e-4
EXPONENTS = np.array([0.05126, 0.0, -0.3871, -0.5277])
TARGETS: list[tuple[str, float, str, bool]] = []


def main() -> None:
    """All tables."""
    simulations()
    per_delay()
    lyapunov()
    branches()
    throughput()
    table = Table("case", "measured", "target", "", title="mackeyglass: targets")
    for case, value, target, met in TARGETS:
        table.add_row(case, f"{value:.3g}", target, "met" if met else "MISSED")
    CONSOLE.print(table)


def judge(case: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
    """Keep a number for the table of targets."""
    if at_most is not None:
        TARGETS.append((case, value, f"≤ {at_most:g}", value <= at_most))
    if at_least is not None:
        TARGETS.append((case, value, f"≥ {at_least:g}", value >= at_least))


def installed(name: str) -> bool:
    """Whether a peer is there."""
    return importlib.util.find_spec(name) is not None


def peers() -> dict[str, Callable[[], float]]:
    """Functions that simulate to the end and return x there."""
    found: dict[str, Callable[[], float]] = {}
    if installed("jitcdde"):
        found["jitcdde, rtol 1e-8"] = jitcdde_simulation()
    if installed("ddeint"):
        found["ddeint"] = ddeint_simulation
    if installed("torchdde"):
        found["torchdde, dopri5, float32"] = torchdde_simulation
    if installed("reservoirpy"):
        found["reservoirpy"] = reservoirpy_simulation
    return found


def compiled(equation: Any, name: str) -> Any:
    """The equation of jitcdde, compiled in a folder of its own; what that takes is printed."""
    started, here = time.perf_counter(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            equation.compile_C()
        finally:
            os.chdir(here)
    CONSOLE.print(f"{name}: compiled in {time.perf_counter() - started:.2f} s")
    return equation


def jitcdde_simulation() -> Callable[[], float]:
    """A compiled equation."""
    from jitcdde import jitcdde, t, y  # type: ignore[import-not-found]

    equation = jitcdde([0.2 * y(0, t - 17.0) / (1 + y(0, t - 17.0) ** 10) - 0.1 * y(0)], verbose=False)
    compiled(equation, "jitcdde")

    def run() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            equation.purge_past()
            equation.constant_past([HISTORY], time=0.0)
            equation.set_integration_parameters(rtol=1e-8, atol=1e-10)
            equation.step_on_discontinuities()
            return float(equation.integrate(END)[0])

    return run


def ddeint_simulation() -> float:
    """SciPy's solver with an interpolated past."""
    from ddeint import ddeint  # type: ignore[import-not-found]

    def model(y: Any, t: float) -> Any:
        past = y(t - 17.0)
        return 0.2 * past / (1 + past**10) - 0.1 * y(t)

    return float(np.ravel(ddeint(model, lambda _: HISTORY, np.linspace(0, END, 3061))[-1])[0])


def torchdde_simulation() -> float:
    """Adaptive steps in torch."""
    from torchdde import AdaptiveStepSizeController, Dopri5, integrate  # type: ignore[import-not-found]

    def field(_: Any, y: torch.Tensor, __: Any, history: Any) -> torch.Tensor:
        return 0.2 * history[0] / (1 + history[0] ** 10) - 0.1 * y

    # its solver has coefficients in float32 and takes no other numbers
    ts, start, delays = torch.linspace(0, END, 307), torch.full((1, 1), HISTORY), torch.tensor([17.0])
    steps = AdaptiveStepSizeController(rtol=1e-5, atol=1e-6)
    found = integrate(field, Dopri5(), ts[0], ts[-1], ts, lambda _: start, None, steps, delays=delays, max_steps=20000)
    return float(found[0, -1, 0])


def reservoirpy_simulation() -> float:
    """A series for benchmarks of forecasting, made with a past that is constant over a step."""
    from reservoirpy.datasets import mackey_glass  # type: ignore[import-not-found]

    past = np.full(18, HISTORY)
    return float(mackey_glass(int(END) + 1, tau=17, a=0.2, b=0.1, n=10, x0=HISTORY, h=1.0, history=past)[-1, 0])


def simulations() -> None:
    """One trajectory, x(306) from a constant history, with the error of each."""
    cases: dict[str, Callable[[], float]] = {
        "segment map, M = 32": lambda: at_end("segment", n_per_delay=32),
        "Runge–Kutta, K = 214": lambda: at_end("rk4", n_per_delay=214),
        "dopri5, rtol 1e-8": lambda: at_end("dopri5"),
        **peers(),
    }
    errors, working = {}, {}
    for name, run in cases.items():
        try:
            errors[name] = abs(run() - REFERENCE)
            working[name] = run
        except Exception as error:  # a peer that cannot do it is reported, not hidden
            CONSOLE.print(f"{name}: {type(error).__name__}: {error}")
    compare("one trajectory to t = 306", working, repeats=5)
    table = Table("program", "error of x(306)")
    for name, error in errors.items():
        table.add_row(name, f"{error:.1e}")
    CONSOLE.print(table)


def at_end(method: Any, n_per_delay: int | None = None) -> float:
    """x(306) by one of our methods."""
    found = simulate(CLASSIC, HISTORY, (0.0, END), method=method, n_per_delay=n_per_delay, saveat=[END])
    return float(found["u"].values[0, -1])


def per_delay() -> None:
    """One delay of a batch at an error of x(306) below 1e-9."""
    segments, grid = SegmentMap(CLASSIC, 28), RungeKutta4(CLASSIC, 214)
    for batch in (1, 8, 16, 64, 512):
        constant = torch.full((batch, 1), HISTORY, dtype=torch.float64)
        times = compare(
            f"100 delays, batch {batch}, error of x(306) below 1e-9",
            {
                "Runge–Kutta": partial(grid.run, grid.history(constant), 100),
                "segment map": partial(segments.trajectory, segments.history(constant), 100),
            },
            repeats=7,
        )
        if batch == 512:
            judge("Runge–Kutta over segment map, batch 512", times["Runge–Kutta"] / times["segment map"], at_least=10)


def lyapunov() -> None:
    """Four exponents of (n, τ) = (10, 1.7), with their distance from the reference."""
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        system = MackeyGlass(n=10.0, tau=1.7)
        spectrum = lyapunov_spectrum(system, 4, n_delays=175, n_transient=100, n_ensemble=48, seed=0)
        found["48 trajectories of 175 delays"] = spectrum.exponents[0].numpy()
        found["its standard errors"] = spectrum.stderr[0].numpy()

    cases: dict[str, Callable[[], object]] = {"48 trajectories of 175 delays": ours}
    if installed("jitcdde"):
        peer = jitcdde_lyapunov()
        cases["jitcdde, 8400 delays"] = lambda: found.update({"jitcdde, 8400 delays": peer()})
    compare("Lyapunov exponents, 8400 delays", cases, repeats=3)
    table = Table("program", *(f"λ{i}" for i in range(1, 5)), "largest error")
    for name, values in {"reference": EXPONENTS, **found}.items():
        error = "" if name in ("reference", "its standard errors") else f"{np.abs(values - EXPONENTS).max():.1e}"
        table.add_row(name, *(f"{value:.5f}" for value in values), error)
    CONSOLE.print(table)


def jitcdde_lyapunov() -> Callable[[], np.ndarray]:
    """Four exponents along one trajectory: averages of the local ones, weighted by their times."""
    from jitcdde import jitcdde_lyap, t, y  # type: ignore[import-not-found]

    equation = jitcdde_lyap(
        [2.0 * y(0, t - 1.7) / (1 + y(0, t - 1.7) ** 10) - y(0)], n_lyap=4, verbose=False, max_delay=1.7
    )
    compiled(equation, "jitcdde, exponents")

    def run() -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            equation.purge_past()
            equation.constant_past([0.9], time=0.0)
            equation.step_on_discontinuities()
            local = [equation.integrate(equation.t + 1.7)[1:] for _ in range(8400)][100:]  # vectors align before
        known = [(values, weight) for values, weight in local if weight > 0]
        return np.average([values for values, _ in known], axis=0, weights=[weight for _, weight in known])

    return run


def branches() -> None:
    """Continuation with Floquet multipliers at each point."""
    start = PeriodicOrbit.from_hopf(hopf_points(MackeyGlass(tau=2.0))[0], "n")
    seconds = 100 * seconds_of_a_point(
        lambda: continue_branch(start, "n", (5, 20), ds=0.05, ds_max=0.16, max_steps=100)
    )
    judge("principal branch, s for 100 points with multipliers", seconds, at_most=1.6)
    orbit = PeriodicOrbit.from_simulation(MackeyGlass(n=12.0, tau=2.0)).refined()
    found = continue_branch(orbit, "n", (10, 13), direction=-1, max_steps=20, detect=["LP"])
    fold = locate(found, found.special[0])
    seconds = 150 * seconds_of_a_point(
        lambda: continue_bifurcation(
            fold, ("n", "tau"), {"n": (8, 26), "tau": (1, 4)}, direction=-1, ds_max=0.1, max_steps=150
        )
    )
    judge("curve of folds, s for 150 points with multipliers", seconds, at_most=7)


def seconds_of_a_point(follow: Callable[[], Branch]) -> float:
    """The median of three continuations after a first one, which also makes torch ready."""
    follow()
    found = []
    for _ in range(3):
        started = time.perf_counter()
        branch = follow()
        found.append((time.perf_counter() - started) / (len(branch) - 1))
    return sorted(found)[1]


def throughput() -> None:
    """Steps of whole batches, on an accelerator too where there is one."""
    found = (Runtime("cpu").device, Runtime("auto").device)
    for device in dict.fromkeys(found):
        for batch in (1024, 8192, 65536):
            segments = SegmentMap(CLASSIC, 32, device=device)
            state = segments.history(torch.full((batch, 1), HISTORY, dtype=torch.float64, device=device))

            def run(segments: SegmentMap = segments, state: torch.Tensor = state) -> None:
                u = state
                for _ in range(20):
                    u = segments(u)
                u[0, 0].item()  # waits for the device

            run()
            started = time.perf_counter()
            run()
            rate = 20 * batch / (time.perf_counter() - started)
            CONSOLE.print(f"{device}, batch {batch}: {rate:.3g} delays a second ({rate * 100:.3g} steps of τ/100)")
            if device.type != "cpu" and batch == 65536:
                judge(f"{device}, steps of τ/100 a second", 100 * rate, at_least=2e9)
        if device.type != "cpu":
            judge(f"{device}, s for the map of three exponents", exponent_map(device), at_most=60)


def exponent_map(device: torch.device, n: int = 400, tau: int = 300, n_delays: int = 2000) -> float:
    """Seconds for three exponents on a grid of the plane, over 2000 delays."""
    grid = torch.cartesian_prod(
        torch.linspace(1, 3, tau, dtype=torch.float64), torch.linspace(6, 20, n, dtype=torch.float64)
    ).to(device)
    system = MackeyGlass(n=grid[:, 1].contiguous(), tau=grid[:, 0].contiguous())
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # at bifurcations exponents converge slowly
        lyapunov_spectrum(system, 3, n_delays=n_delays, n_transient=100, n_ensemble=1, device=device)
    return time.perf_counter() - started
