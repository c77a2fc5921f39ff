"""Raises the limit on open files of the process, and computes how many files it needs."""

import contextlib
import resource
from typing import Final

OWN_FILES: Final = 256
"""For libraries, logs, listeners and control sockets."""
FILES_PER_CONNECTION: Final = 2
"""The client's socket, and the socket to an engine while the request runs."""


def files_needed(max_connections: int) -> int:
    """Return the files needed for this many connections with one request each."""
    return OWN_FILES + FILES_PER_CONNECTION * max_connections


def raise_file_limit() -> None:
    """Raise the soft limit to the hard one; `partitiond doctor` says whether that is enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # The kernel rejects "unlimited" for one process.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
