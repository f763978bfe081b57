"""The error of numerical continuation."""

from sciml.errors import SciMLError


class ContinuationError(SciMLError, ArithmeticError):
    """Newton's method or a continuation that did not converge; the message says where and what to try."""
