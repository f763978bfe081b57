"""`nn2no`: spectral layers and operators beside neuraloperator's, converted convolutions beside torch's.

Targets: spectral convolution 2.5 times as fast as the peer's forward and 1.8 times forward and backward, and as fast
with many modes; whole operator 1.5 times at 64² and 1.35 times at 128² forward, 1.2 times forward and backward;
converted convolution within 1.03 times torch's on the base grid, 1.5 times on refined grids for 5 taps and more, 2.5
times for 3; the authors' kernel interpolation is timed beside it. Without neuraloperator what compares with it is left
out, without torch-harmonics its discrete-continuous convolution. `python -m shared.bench.nn2no --generator` times the
Navier-Stokes data of the preset `small` as well, some minutes.
"""

import contextlib
import ctypes
import importlib.util
import io
import platform
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from nn2no.attention import QuadratureAttention
from nn2no.convergence import check_discretization_convergence
from nn2no.conversion import convert
from nn2no.disco import DiscoConv2d
from nn2no.interop import from_neuralop
from nn2no.local import integral_conv
from nn2no.models.unet import UNetNO
from nn2no.problems.navier_stokes import NavierStokes
from nn2no.refinement import difference, random_fields
from nn2no.resample import fourier_resize
from nn2no.spectral import SpectralConv
from rich.console import Console
from rich.table import Table
from sciml.grids import Grid
from torch import Tensor, nn

from shared.bench.timing import compare

BATCH, CHANNELS = 16, 32
CONSOLE = Console()


@dataclass(frozen=True)
class Row:
    """A ratio of times to the reference, or of the reference to it where faster is asked for, and peaks of memory."""

    case: str
    ratio: float
    target: str
    met: bool | None
    memory: float
    reference_memory: float


ROWS: list[Row] = []


def race(
    title: str,
    reference: Callable[[], object],
    cases: Mapping[str, Callable[[], object]],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    repeats: int = 15,
) -> None:
    """Time the cases beside the reference; the target is how many times faster, or slower, they may be."""
    times = compare(title, {"reference": reference, **cases}, repeats)
    peak = peak_memory(reference)
    for name, case in cases.items():
        slower = times[name] / times["reference"]
        if at_least is not None:
            ratio, target, met = 1 / slower, f"≥ {at_least:g} times as fast", 1 / slower >= at_least
        elif at_most is not None:
            ratio, target, met = slower, f"≤ {at_most:g} times the time", slower <= at_most
        else:
            ratio, target, met = slower, "time, no target", None
        ROWS.append(Row(f"{title}: {name}", ratio, target, met, peak_memory(case), peak))


def peak_memory(case: Callable[[], object]) -> float:
    """The MB that a call takes at most beyond what is held before it; NaN where the system does not tell (Linux)."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists() or platform.libc_ver()[0] != "glibc":
        return float("nan")

    def read(key: str) -> float:
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(key))

    ctypes.CDLL(None).malloc_trim(0)
    before = read("VmRSS")
    reset.write_text("5")  # the peak begins anew
    case()
    return read("VmHWM") - before


def backward(call: Callable[[], Tensor]) -> Callable[[], None]:
    """A forward and a backward pass."""
    return lambda: call().square().mean().backward()


def both_ways(
    title: str,
    reference: nn.Module,
    cases: Mapping[str, nn.Module],
    x: Tensor,
    forward_target: float | None = None,
    backward_target: float | None = None,
) -> None:
    """Race forward, then forward and backward, with gradients of weights and input."""

    def call(module: nn.Module, x: Tensor) -> Callable[[], Tensor]:
        return lambda: module(x)

    with torch.no_grad():
        race(
            f"{title}, forward",
            call(reference, x),
            {name: call(m, x) for name, m in cases.items()},
            at_least=forward_target,
        )
    x = x.clone().requires_grad_()
    race(
        f"{title}, forward and backward",
        backward(call(reference, x)),
        {name: backward(call(m, x)) for name, m in cases.items()},
        at_least=backward_target,
    )


def spectral() -> None:
    """Spectral convolutions with as many modes; the peer's count both signs, and one of -8 and 8."""
    from neuralop.layers.spectral_convolution import SpectralConv as Peer

    for n, c, m, targets in ((64, 32, 8, (2.5, 1.8)), (128, 32, 8, (2.5, 1.8)), (128, 62, 32, (1.0, 1.0))):
        torch.manual_seed(0)
        title = f"spectral convolution, {c} channels, |k| ≤ {m}, {n}², batch {BATCH}"
        theirs, ours = Peer(c, c, n_modes=(2 * m, 2 * m)), SpectralConv(c, c, (m, m))
        both_ways(title, theirs, {"nn2no": ours}, torch.randn(BATCH, c, n, n), *targets)


def operators() -> None:
    """Fourier neural operators of equal width and depth, with equal weights."""
    from neuralop.models import FNO as Peer

    for n, target in ((64, 1.5), (128, 1.35)):
        torch.manual_seed(0)
        theirs = Peer(n_modes=(16, 16), in_channels=1, out_channels=1, hidden_channels=CHANNELS)
        ours = from_neuralop(theirs)
        cases = {"nn2no": ours, "nn2no compiled": torch.compile(ours)}
        x = torch.randn(BATCH, 1, n, n)
        with torch.no_grad():
            assert (ours(x) - theirs(x)).norm() < 1e-4 * theirs(x).norm()
        both_ways(f"FNO, width {CHANNELS}, 4 layers, {n}², batch {BATCH}", theirs, cases, x, target, 1.2)


def convolutions() -> None:
    """Converted convolutions beside torch's with as many taps on the same grid."""
    n, batch = 128, 8
    for k in (3, 5, 9):
        torch.manual_seed(0)
        conv = nn.Conv2d(CHANNELS, CHANNELS, k, padding=k // 2, padding_mode="circular")
        x = torch.randn(batch, CHANNELS, n, n)

        def layer(s: float, k: int = k, conv: nn.Conv2d = conv, x: Tensor = x, **options: Any) -> Callable[[], Tensor]:
            modes = {"padding": k // 2, "padding_mode": "circular", **options}
            return lambda: integral_conv(x, conv.weight, conv.bias, scale=(s, s), **modes)

        ops = {s: convert(conv, Grid.uniform((n // s, n // s), periodic=True)) for s in (1, 2, 4)}
        title = f"convolution, k={k}, {CHANNELS} channels, {n}², batch {batch}"
        with torch.no_grad():
            for s, op in ops.items():
                torch.testing.assert_close(op(x), layer(s, explicit=True)(), rtol=1e-3, atol=1e-4)
                cases = {f"converted, s={s}": lambda op=op, x=x: op(x), f"integral_conv, s={s}": layer(s)}
                limit = 1.03 if s == 1 else 1.5 if k >= 5 else 2.5
                race(title, lambda conv=conv, x=x: conv(x), cases, at_most=limit)
            kernels = {f"explicit kernel, s={s}": layer(s, explicit=True) for s in (2, 3.5, 4)}
            kernels["integral_conv, s=3.5"] = layer(3.5)
            grids = {s: Grid.uniform((n // s, n // s), periodic=True) for s in (2, 4)}
            resized = {s: convert(conv, grid, conv="kernel-interp") for s, grid in grids.items()}
            kernels |= {f"the authors' resized kernel, s={s}": lambda op=op, x=x: op(x) for s, op in resized.items()}
            race(title, lambda conv=conv, x=x: conv(x), kernels, repeats=3)
        x = x.clone().requires_grad_()
        ways = {f"converted, s={s}, and backward": backward(lambda op=op, x=x: op(x)) for s, op in ops.items()}
        race(f"{title}, forward and backward", backward(lambda conv=conv, x=x: conv(x)), ways)


@torch.no_grad()
def where_the_peer_is_wrong() -> None:
    """Relative errors as functions where the exact answer is known, or from one grid to the next."""
    from neuralop.layers.resample import resample
    from neuralop.layers.spectral_convolution import SpectralConv as Peer
    from neuralop.models import UNO

    torch.manual_seed(0)
    square = Grid.uniform((32, 32), periodic=True)
    draw = random_fields(square, 1, 3, 1, 0)
    grids = {n: Grid.uniform((n, n), periodic=True) for n in (32, 33, 64, 66, 128, 256)}
    f = {n: draw(grid).float() for n, grid in grids.items()}
    theirs, ours = Peer(1, 1, n_modes=(9, 9), bias=False), SpectralConv(1, 1, (4, 4), bias=False)
    table = Table("what is asked", "neuraloperator", "nn2no", title="where the peer is wrong: relative errors")

    def add(question: str, peer: float | str, own: float | str) -> None:
        table.add_row(question, *(v if isinstance(v, str) else f"{v:.1e}" for v in (peer, own)))

    for a, b in ((32, 64), (33, 66)):
        question = f"the same spectral convolution on {a}² and {b}²"
        add(question, difference(theirs(f[a]), theirs(f[b]), square), difference(ours(f[a]), ours(f[b]), square))
    for a, b in ((64, 128), (64, 32)):
        exact = theirs(f[b])
        out = difference(theirs(f[a], output_shape=(b, b)), exact, square)
        own = difference(ours(f[a], to=grids[b]), ours(f[b]), square)
        add(f"its output on {b}² for an input on {a}²", out, own)
    u = {n: draw(grids[n]) for n in (64, 128)}
    theirs.double(), ours.double()
    try:
        result = difference(theirs(u[64]), theirs(u[128]), square)
    except RuntimeError as error:
        result = f"RuntimeError: {str(error)[:60]}"
    add("the same in float64 on 64² and 128²", result, difference(ours(u[64]), ours(u[128]), square))
    add(
        "a band-limited periodic field resampled from 64² to 128²",
        difference(resample(f[64], 2, [2, 3]), f[128], square),
        difference(fourier_resize(f[64], (128, 128)), f[128], square),
    )
    net = {"uno_out_channels": [8, 8, 8], "uno_n_modes": [[8, 8]] * 3, "uno_scalings": [[1, 1], [0.5, 0.5], [2, 2]]}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its options
        uno = UNO(1, 1, 8, n_layers=3, positional_embedding=None, channel_mlp_skip="linear", **net)
    operator = UNetNO(padding_mode="circular", embedding="none")
    sizes = (64, 128, 256, 512)
    reports = [check_discretization_convergence(op, sizes, domain=square, probe=draw) for op in (uno, operator)]
    for a, b in pairwise(sizes):
        add(f"untrained U-shaped operators (UNO; UNetNO) on {a}² and {b}²", *(r.errors[a] for r in reports))
    add("linear attention, half of the nodes split in two of half the weight", *split_nodes())
    if importlib.util.find_spec("torch_harmonics") is None:
        add("discrete-continuous convolutions", "torch-harmonics is not installed", "")
    else:
        for question, errors in local_integrals(f).items():
            add(question, *errors)
    CONSOLE.print(table)


def split_nodes() -> tuple[float, float]:
    """Changes of linear attention at the nodes that stay whole; an integral stays what it is."""
    from neuralop.layers.attention_kernel_integral import AttentionKernelIntegral as Peer

    n, c = 128, 16
    theirs, ours = Peer(c, c, 2, c), QuadratureAttention(c, 2, kind="linear")
    x, weights = torch.randn(1, n, c), torch.full((1, n), 1 / n)
    twice = torch.cat([x, x[:, : n // 2]], 1)
    halved = torch.cat([weights[:, : n // 2] / 2, weights[:, n // 2 :], weights[:, : n // 2] / 2], 1)

    def change(call: Callable[[Tensor, Tensor], Tensor]) -> float:
        before, after = (call(*given)[:, n // 2 : n] for given in ((x, weights), (twice, halved)))
        return float((after - before).norm() / before.norm())

    peer = change(lambda u, w: theirs(u, u.new_zeros(*u.shape[:2], 3), weights=w))
    return peer, change(lambda u, w: ours(u, weights=w))


def local_integrals(f: Mapping[int, Tensor]) -> dict[str, tuple[float, float]]:
    """Discrete-continuous convolutions of a periodic field: shifted, and on the grid that they were not made on."""
    from neuralop.layers.discrete_continuous_convolution import EquidistantDiscreteContinuousConv2d as Peer

    square, radius = Grid.uniform((64, 64), periodic=True), 0.1875
    sizes = {"in_shape": (64, 64), "out_shape": (64, 64), "domain_length": [1, 1]}
    theirs = Peer(1, 1, kernel_shape=[3, 4], radius_cutoff=radius, periodic=True, bias=False, **sizes)
    ours = DiscoConv2d(1, 1, radius, bias=False)

    def errors(call: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        y = call(f[64])
        shifted = call(f[64].roll(16, -1)).roll(-16, -1)
        return difference(shifted, y, square), difference(call(f[32]), y, square)

    peer, own = errors(theirs), errors(lambda u: ours(u, Grid.uniform(tuple(u.shape[2:]), periodic=True)))
    questions = ("a periodic discrete-continuous convolution, and of the shifted field", "the same on 32² and 64²")
    return dict(zip(questions, zip(peer, own, strict=True), strict=True))


def generator(samples: int = 1024 + 128) -> None:
    """The seconds that the data of the preset `small` take: 64², Re = 100, float64."""
    started = time.perf_counter()
    NavierStokes(resolution=64, reynolds=100.0, dtype="float64").generate(samples, seed=0)
    seconds = time.perf_counter() - started
    CONSOLE.print(f"Navier-Stokes generator, {samples} samples, 64², Re = 100, float64: {seconds:.0f} s")


def main() -> None:
    """Every comparison, then one table of what was reached beside the targets."""
    warnings.filterwarnings("ignore")
    CONSOLE.print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), float32")
    if importlib.util.find_spec("neuralop") is None:
        CONSOLE.print("neuraloperator is not installed: `uv sync --group bench` adds it.")
    else:
        spectral()
        operators()
        where_the_peer_is_wrong()
    convolutions()
    if "--generator" in sys.argv:
        generator()
    table = Table("case", "reached", "target", "met", "peak MB", "reference's", title="reached and asked for")
    for row in ROWS:
        met = {True: "yes", False: "NO", None: ""}[row.met]
        table.add_row(row.case, f"{row.ratio:.2f}", row.target, met, f"{row.memory:.0f}", f"{row.reference_memory:.0f}")
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
