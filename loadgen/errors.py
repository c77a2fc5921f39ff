"""What can go wrong with the instrument itself, as against with a single request."""


class LoadgenError(Exception):
    """Base of everything loadgen raises on purpose; the message says what to do next."""


class TargetError(LoadgenError):
    """The target's address cannot be read."""


class LoadAbortedError(LoadgenError):
    """A run was given up: nothing answers, or every request fails."""
