"""Errors about vectors that cannot be fused."""


class FusionError(ValueError):
    """The item vectors cannot be fused; the message says why and what to do."""
