"""What the projection refuses, before any arithmetic."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pnde._banded import Banded
from pnde._sparse import SparseJacobian


def values_are_known() -> bool:
    """Whether code may branch on values: not inside torch.compile and torch.func transforms."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is None  # type: ignore


def in_forward_mode() -> bool:
    """Whether tensors may carry tangents, of `torch.func` or `torch.autograd.forward_ad`."""
    return forward_ad._current_level >= 0


def in_nested_forward_modes() -> bool:
    """Whether `torch.func` has a forward mode inside another; True too where torch does not tell."""
    try:
        levels = torch._C._functorch.get_interpreter_stack() or []  # type: ignore[attr-defined]
        return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in levels) > 1  # type: ignore
    except AttributeError:
        return True


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape. Equal ones are seen at once: torch's function takes as long as a small solve."""
    first = shapes[0]
    return first if all(shape in (first, ()) for shape in shapes) else torch.broadcast_shapes(*shapes)


def check_shapes(G: Tensor | SparseJacobian, v: Tensor, rhs: Tensor | None, metric: Tensor | None) -> None:
    """Shapes, dtypes and devices of the arguments."""
    if isinstance(G, SparseJacobian):
        entries, shape = G.values, (*G.values.shape[:-1], G.pattern.m, G.pattern.n)
    else:
        entries, shape = G, tuple(G.shape)
    if len(shape) < 2 or v.ndim < 1 or shape[-1] != v.shape[-1]:
        raise ValueError(f"G must be (..., m, n) and v (..., n); got {shape} and {tuple(v.shape)}")
    m, n = shape[-2:]
    if m >= n:
        raise ValueError(f"{m} constraints in {n} dimensions leave no tangent direction; G has shape {shape}")
    if rhs is not None and (rhs.ndim < 1 or rhs.shape[-1] != m):
        raise ValueError(f"rhs must be (..., {m}), one number per constraint; got {tuple(rhs.shape)}")
    shapes = {"G": shape[:-2], "v": v.shape[:-1]} | ({} if rhs is None else {"rhs": rhs.shape[:-1]})
    try:
        broadcast(*shapes.values())
    except RuntimeError:
        found = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"the batch shapes do not match: {found}") from None
    if metric is not None and tuple(metric.shape) not in ((n,), (n, n)):
        raise ValueError(f"metric must be ({n},) or ({n}, {n}); got {tuple(metric.shape)}")
    given = {name: x for name, x in (("G", entries), ("v", v), ("rhs", rhs), ("metric", metric)) if x is not None}
    if entries.dtype not in (torch.float32, torch.float64) or len({x.dtype for x in given.values()}) > 1:
        found = ", ".join(f"{name} {x.dtype}" for name, x in given.items())
        raise TypeError(f"all arguments must be float32 or all float64; got {found}")
    if len({x.device for x in given.values()}) > 1:
        found = ", ".join(f"{name} {x.device}" for name, x in given.items())
        raise RuntimeError(f"all arguments must be on one device; got {found}")


def check_options(
    G: Tensor | SparseJacobian,
    metric: Tensor | None,
    method: str | Banded,
    passes: int | None,
    rank: str,
    rtol: float | None,
    methods: tuple[str, ...],
    ranks: tuple[str, ...],
) -> None:
    """Names and ranges of the options, and which of them go together."""
    if rank not in ranks:
        raise ValueError(f"rank={rank!r} is unknown; choose one of {', '.join(ranks)}")
    if not isinstance(method, Banded) and method not in methods:
        raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(methods)}, or a Banded")
    if passes is not None and (not isinstance(passes, int) or passes < 1):
        raise ValueError(f"passes={passes!r} must be a whole number, at least 1")
    if rtol is not None and not 0 <= rtol < 1:
        raise ValueError(f"rtol={rtol!r} must lie in [0, 1)")
    if rank == "pinv" and not isinstance(G, SparseJacobian) and (method != "auto" or passes is not None):
        raise ValueError(
            f"rank='pinv' is by singular values alone; got method={method!r} and passes={passes!r}, leave them out"
        )
    if rank == "pinv" and metric is not None and metric.requires_grad:
        raise ValueError("rank='pinv' does not differentiate the metric; detach it, or use rank='error'")
    if isinstance(G, SparseJacobian):
        if method not in ("auto", "sparse") or rank != "error":
            raise ValueError(f"a sparse G is solved by method='sparse' with rank='error'; got {method!r}, {rank!r}")
        return
    m = G.shape[-2]
    if method == "sparse":
        raise ValueError("method='sparse' needs a sparse G: a SparseJacobian, or torch's sparse COO or CSR layout")
    if method == "closed" and not 0 < m <= 3:
        raise ValueError(f"method='closed' is for one to three constraints; got {m}: use 'auto' or 'cholesky'")
    if isinstance(method, Banded) and (sorted(method.order) != list(range(m)) or method.bandwidth < 0):
        raise ValueError(f"Banded.order must be a permutation of 0 … {m - 1}, bandwidth not negative; got {method}")


@torch.no_grad()
def check_metric(metric: Tensor) -> None:
    """Finite, and positive semidefinite to rounding."""
    if metric.ndim == 1:
        proper = (metric >= 0).all() & metric.isfinite().all()
    else:
        rounding = 8 * len(metric) * torch.finfo(metric.dtype).eps * metric.abs().amax()
        shifted = metric + rounding * torch.eye(len(metric), dtype=metric.dtype, device=metric.device)
        symmetric = ((metric - metric.mT).abs() <= rounding).all()
        proper = symmetric & (torch.linalg.cholesky_ex(shifted).info == 0) & metric.isfinite().all()
    if not proper:
        raise ValueError(
            f"metric {tuple(metric.shape)} must be finite and, as a vector, without negative entries, as a matrix, "
            "symmetric positive semidefinite: give the weight W itself, for mechanics the inverse of the mass matrix"
        )


def check_values_can_be_read(G: Tensor | SparseJacobian, method: str | Banded, concrete: bool) -> None:
    """Structure is read from values, which transforms do not show."""
    if concrete:
        return
    if isinstance(G, SparseJacobian):
        raise ValueError("a sparse G cannot be used inside torch.compile or torch.func transforms; give a dense one")
    if method == "banded":
        raise ValueError(
            "method='banded' cannot look for the band inside torch.compile or torch.func transforms; "
            "pass method=detect_band(G), found outside of them"
        )
