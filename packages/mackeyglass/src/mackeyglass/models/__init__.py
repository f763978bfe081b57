"""Models that learn the dynamics from data."""

from mackeyglass.models.esn import ESN

__all__ = ["ESN"]
