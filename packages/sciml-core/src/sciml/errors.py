"""The errors that users meet: each says what was wrong, what was expected and what to do."""


class SciMLError(Exception):
    """Base of every error raised on purpose by SciML."""


class UnknownNameError(SciMLError, KeyError):
    """A name that no installed plugin registers."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class PluginLoadError(SciMLError):
    """An installed plugin whose import or metadata fails."""


class ConfigError(SciMLError, ValueError):
    """A configuration with unknown, missing or ill-typed fields."""


class CheckpointError(SciMLError):
    """A saved model or training state that is corrupt, truncated, edited or of another format."""


class DataError(SciMLError, ValueError):
    """A dataset or store that is incomplete, corrupt or of another problem."""


class NonFiniteLossError(SciMLError, FloatingPointError):
    """Training stopped at a NaN or infinite loss; the last good state was kept."""


class ShapeError(SciMLError, ValueError):
    """An array whose shape does not fit; the message names expected and actual shapes."""


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C during a run; the message says how to go on with it."""
