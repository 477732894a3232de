"""The error of scoring with a trained model."""


class ScorerError(ValueError):
    """A model cannot be loaded, or a request cannot be answered; the message says why."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
