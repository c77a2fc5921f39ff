"""Sets up a process that runs as a service: its log, its folders, and the signals that end it."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from partitiond.core.errors import DeviceError, SettingsError

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HOST_OF: Final = {
    "[control] port": "[control] host",
    "[proxy] port": "[proxy] host",
    "[proxy] peers_port": "[cluster] address",
}
"""By the setting of a port, that of its address."""


def set_up_logging() -> None:
    """Log to standard error, unless somebody has set up logging already."""
    if not logging.getLogger().handlers:
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request to the proxy
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it logs three lines for each start


def make_folder(folder: Path, setting: str) -> None:
    """Make a folder of the daemon. Raises SettingsError if it cannot be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable for this user, or read-only")
    except OSError as error:
        raise SettingsError(
            f"the folder {folder} ({setting}) cannot be used: {error.strerror or error}.",
            hint=f"Name a folder that this user can write, on a disk with room, as {setting} "
            f"in the settings file or with `--set {setting}=PATH`.",
            facts={"path": str(folder)},
        ) from error


@contextlib.asynccontextmanager
async def received_signals() -> AsyncIterator["asyncio.Queue[signal.Signals]"]:
    """SIGTERM, SIGINT and SIGHUP, in order of arrival; the handlers only enqueue.

    On a terminal SIGHUP keeps its default: a closing terminal means the end, not a reload.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[signal.Signals] = asyncio.Queue()
    numbers = SIGNALS[:-1] if os.isatty(0) else SIGNALS
    for number in numbers:
        loop.add_signal_handler(number, queue.put_nowait, number)
    try:
        yield queue
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def listening_error(host: str, port: int, of: str, error: OSError) -> DeviceError | SettingsError:
    """Return why a socket cannot listen at a port that comes from a setting: the port is in use
    (DeviceError), or the address is none of this machine.
    """
    facts = {"host": host, "port": port}
    if error.errno == errno.EADDRINUSE:
        return DeviceError(
            f"Port {port} on {host} is in use by another program.",
            hint=f"Find it with `ss -ltnp 'sport = :{port}'`, or set {of} to a free one.",
            facts=facts,
        )
    return SettingsError(
        f"Cannot listen on {host}:{port}: {error.strerror or error}.",
        hint=f"Set {_HOST_OF[of]} to an address of this machine, and {of} to 1024 or above.",
        facts=facts,
    )
