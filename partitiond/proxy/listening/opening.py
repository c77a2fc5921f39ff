"""Opens listening sockets, and takes the lock that limits a state folder to one proxy."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from partitiond.core.errors import ConflictError, SettingsError
from partitiond.platform.service_process import listening_error
from partitiond.proxy.process import LOCK_FILE

BACKLOG: Final = 2048


@contextlib.contextmanager
def exclusive(state_dir: Path) -> Iterator[None]:
    """Hold the lock of the state folder for the life of the process."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConflictError(
            f"Another proxy runs on {state_dir}.",
            hint=f"End the process that holds {state_dir / LOCK_FILE}, or give this one "
            "another state folder.",
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def listen_tcp(host: str, port: int, of: str = "[proxy] port") -> socket.socket:
    """Open a listening socket.

    Args:
        of: the setting that the port comes from.

    Raises:
        DeviceError: the port is in use.
        SettingsError: the address is none of this machine.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
    except OSError as error:
        raise listening_error(host, port, of, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise listening_error(host, port, of, error) from error
    listener.setblocking(False)
    return listener


def listen_unix(path: Path) -> socket.socket:
    """Listen in an owner-only folder; replace an old socket: the state's lock proves it stale."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Cannot listen on {path}: {error}.",
            hint="Unix socket paths must be shorter than 108 bytes: set a shorter run_dir.",
        ) from error
    listener.setblocking(False)
    return listener
