"""Orthonormal bases of many small sets of vectors at once: the QR decomposition of Lyapunov exponents."""

import torch
from jaxtyping import Float
from torch import Tensor

# up to as many sets LAPACK, which takes one after the other, is faster on CPU than Gram–Schmidt over all of them
FEW_SETS = 256


def orthonormalise(
    V: Float[Tensor, "groups size k rows"],
) -> tuple[Float[Tensor, "groups size k rows"], Float[Tensor, "groups k rows"]]:
    """Q and the diagonal of R, positive, of the k vectors of each group and row. V may be overwritten.

    Modified Gram–Schmidt or, for few sets on CPU, Householder's method of LAPACK. By both R belongs to vectors that
    differ by rounding, however nearly parallel they are, which Cholesky's method on the products V·V does not achieve.
    Gram–Schmidt then loses orthogonality, without effect on the sums of log R.
    """
    groups, _, k, rows = V.shape
    if V.device.type == "cpu" and k > 1 and groups * rows <= FEW_SETS:
        Q, R = torch.linalg.qr(V.permute(0, 3, 1, 2))
        diagonal = R.diagonal(dim1=-2, dim2=-1).permute(0, 2, 1)
        return (Q.permute(0, 2, 3, 1) * diagonal.sign()[:, None]), diagonal.abs()
    lengths = []
    for j in range(k):
        q = V[:, :, j : j + 1]
        length = (q * q).sum(1, keepdim=True).sqrt_()
        lengths.append(length[:, 0, 0])
        q /= length
        if j + 1 < k:
            rest = V[:, :, j + 1 :]
            rest.addcmul_((rest * q).sum(1, keepdim=True), q, value=-1)
    return V, torch.stack(lengths, 1)
