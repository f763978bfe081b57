"""What a solver returns: states, and for each sample how it ended."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from sciml.errors import SciMLError
from torch import Tensor


class Status(IntEnum):
    """How the integration of a sample ended."""

    SUCCESS = 0
    EVENT = 1
    MAX_STEPS = 2
    STEP_UNDERFLOW = 3
    NONFINITE = 4
    RETRACTION_FAILED = 5


class SolveError(SciMLError, RuntimeError):
    """A sample could not be solved to the end, and `strict=True` asked for an error."""


class SampleError(ValueError):
    """What a field raises if it is not defined for some of the samples: `samples`, their rows.

    A solver ends these with a status, and goes on with the others.
    """

    def __init__(self, message: str, samples: list[int] | None = None) -> None:
        super().__init__(message)
        self.samples = samples or []


@dataclass(frozen=True)
class Solution:
    """States at the output times, and what it took to find them.

    Attributes
    ----------
    t
        Output times, shape (time,).
    u
        States, shape (batch, time, n). A sample that ended early is NaN after its last valid output.
    status
        How each sample ended, a `Status`, shape (batch,).
    nfe
        Calls of the field. A call evaluates all samples that are still integrated, so this depends on the batch.
    n_accepted, n_rejected
        Steps of each sample, shape (batch,). They do not depend on the batch.
    event_time, event_u
        When and where each sample met the event, shapes (batch,) and (batch, n), NaN for those that did not; None
        without an event.
    """

    t: Tensor
    u: Tensor
    status: Tensor
    nfe: int
    n_accepted: Tensor
    n_rejected: Tensor
    event_time: Tensor | None = None
    event_u: Tensor | None = None

    @property
    def solved(self) -> Tensor:
        """Which samples reached the last output time or their event, shape (batch,)."""
        return self.status <= Status.EVENT

    def raise_for_status(self) -> None:
        """Raise if a sample failed.

        Raises
        ------
        SolveError
            Naming the samples that failed, and how.
        """
        failed = (~self.solved).nonzero()[:, 0]
        if len(failed):
            ends = [f"{sample}: {Status(int(self.status[sample])).name.lower()}" for sample in failed[:5].tolist()]
            last = torch.isfinite(self.u[failed[0]]).all(-1).sum() - 1
            raise SolveError(
                f"{len(failed)} of {len(self.status)} samples were not solved ({', '.join(ends)}"
                f"{', …' if len(failed) > len(ends) else ''}); sample {int(failed[0])} is valid up to "
                f"t = {float(self.t[last]):.6g}. Loosen the tolerances, raise max_steps, or look at the field there; "
                "strict=False returns the partial solution"
            )
