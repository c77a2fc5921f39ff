"""Defines the errors of a run; the failure of a single request is an outcome, not an error."""


class LoadgenError(Exception):
    """Base of all errors of the load generator."""


class TargetError(LoadgenError):
    """The target's address is invalid, or a trial request to the target failed."""


class InputError(LoadgenError):
    """A file or an option of the run is wrong; the message names the line where there is one."""


class LoadAbortedError(LoadgenError):
    """The server failed request after request; the message holds the last failure."""


class StalledError(LoadAbortedError):
    """No request in flight got a token for as long as the caller allows."""
