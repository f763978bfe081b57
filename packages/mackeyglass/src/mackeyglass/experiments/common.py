"""What experiments of all kinds share."""

from typing import Annotated

from pydantic import Field

from mackeyglass.mackey_glass import MackeyGlass

SYSTEM = MackeyGlass(beta=2.0, gamma=1.0, theta=1.0)  # the paper's plane (n, τ)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
