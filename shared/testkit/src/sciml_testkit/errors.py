"""How the suite says what is wrong."""


class ConformanceError(AssertionError):
    """A registered object breaks the contract; the message says which part, what was expected and what to do."""


def require(condition: object, message: str) -> None:
    """Raise `ConformanceError(message)` unless the condition holds."""
    if not condition:
        raise ConformanceError(message)
