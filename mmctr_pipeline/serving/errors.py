"""The error of scoring with a trained model."""


class ScorerError(ValueError):
    """A model cannot be loaded, or a request cannot be answered; the message says why."""
