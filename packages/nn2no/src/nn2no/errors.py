"""The errors and warnings of this package."""

from sciml.errors import SciMLError


class ConversionError(SciMLError, ValueError):
    """A network that cannot be converted; the message lists every layer in the way and what to do about it."""


class ResolutionWarning(UserWarning):
    """A grid too coarse for the layer that is applied on it: taps alias or modes are dropped."""
