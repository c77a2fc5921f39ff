"""How many files one process may have open: raised as far as it can be, told where too few."""

import resource
from typing import Final

OWN_FILES: Final = 256
"""Libraries, logs, listeners and control sockets."""
FILES_PER_CONNECTION: Final = 2
"""The client's, and while its request runs the one to an engine."""


def files_needed(max_connections: int) -> int:
    """For as many connections with a request each."""
    return OWN_FILES + FILES_PER_CONNECTION * max_connections


def raise_file_limit() -> int | None:
    """Raise the soft limit to the hard one; what it is now, None for no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # no limit at all is more than the kernel gives to one
            return soft
    return None if hard == resource.RLIM_INFINITY else hard
