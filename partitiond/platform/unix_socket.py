"""Finds a Unix socket in a folder of another user, who must not lead a client elsewhere."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator


class NoSocketError(ConnectionRefusedError):
    """There is something else than a socket at the path, for example a link to another socket."""


@contextlib.contextmanager
def socket_address(path: str) -> Iterator[str]:
    """Yield the address at which to connect to the socket at a path, within this block.

    The path is in a folder of ours and may be a link, which we made. What it names is in a folder
    of the engine, which may put anything there: a link is not followed. The address stays with the
    socket that was looked at, whatever is put in its place meanwhile.

    Raises:
        NoSocketError: there is something else.
        OSError: there is nothing, or it cannot be reached.
    """
    with contextlib.suppress(OSError):  # no link, or nothing at all
        path = os.readlink(path)  # noqa: PTH115 - a path of text, at each connection
    found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(found).st_mode):
            raise NoSocketError(
                errno.ECONNREFUSED,
                "it is no socket: the engine put something else there; see its log, and stop it",
                path,
            )
        yield f"/proc/self/fd/{found}"
    finally:
        os.close(found)
