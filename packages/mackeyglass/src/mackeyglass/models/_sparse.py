"""Products with constant sparse matrices, of which torch takes derivatives in all modes."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class CompressedRows:
    """A square matrix without its zeros: where its rows start, columns and values of the entries.

    To transforms like vmap it is no tensor: they cannot wrap one that is sparse.
    """

    starts: Int[Tensor, "rows_and_end"]
    columns: Int[Tensor, "entries"]
    values: Float[Tensor, "entries"]
    transposed: bool = False

    def tensor(self) -> Tensor:
        """As a tensor of torch; its warning that these are new is not passed on."""
        size = len(self.starts) - 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            matrix = torch.sparse_csr_tensor(
                self.starts, self.columns, self.values, (size, size), check_invariants=False
            )
        return matrix.mT if self.transposed else matrix

    def times(self, x: Float[Tensor, "rows batch"]) -> Float[Tensor, "rows batch"]:
        """The product with a dense matrix, by whose entries derivatives are taken."""
        product: Tensor = _Product.apply(self, x)
        return product


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(matrix: CompressedRows, x: Tensor) -> Tensor:
        return matrix.tensor() @ x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.matrix = inputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, replace(ctx.matrix, transposed=not ctx.matrix.transposed).times(gradients[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return ctx.matrix.times(tangents[1])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        matrix, x = args
        columns = x.movedim(in_dims[1], -1)
        return matrix.times(columns.flatten(1)).unflatten(1, columns.shape[1:]), 2
