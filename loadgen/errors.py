"""What can go wrong with a run (not with a request: that is an outcome)."""


class LoadgenError(Exception):
    """Base of all errors of the load generator."""


class TargetError(LoadgenError):
    """The address is not one."""


class InputError(LoadgenError):
    """A file or an option of the run is wrong; the message names the line where there is one."""


class LoadAbortedError(LoadgenError):
    """The server failed request after request; the message holds the last failure."""


class StalledError(LoadAbortedError):
    """No request in flight got a token for as long as the caller allows."""
