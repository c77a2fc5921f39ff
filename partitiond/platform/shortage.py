"""Tells a shortage of this host from a fault of what it befell."""

import errno
from collections.abc import Mapping
from typing import Final

LACKED: Final[Mapping[int, str]] = {
    errno.EAGAIN: "process or thread ids",
    errno.EMFILE: "files that this process may open",
    errno.ENFILE: "files that may be open",
    errno.ENOMEM: "memory",
    errno.ENOSPC: "room on a disk",
    errno.EDQUOT: "room in its disk quota",
}
"""What a host lacks, by the error of a call."""


def shortage(error: BaseException) -> str:
    """Return what this host lacks, as an error of a call says; empty if it says nothing of that."""
    if isinstance(error, MemoryError):
        return LACKED[errno.ENOMEM]
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return LACKED[errno.EAGAIN]
    return LACKED.get(error.errno or 0, "") if isinstance(error, OSError) else ""
