"""Sends requests to the privileged helper."""

import os
import socket
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import DeviceError
from partitiond.core.mig.changes import Step
from partitiond.devices.mig import protocol
from partitiond.devices.mig.reading import Placed

ANSWER_SECONDS: Final = 90.0
"""Longest wait for one answer: a change of the mode may reset the GPU."""


class MigHelper:
    """Client of the helper behind a socket; the helper need not run.

    Args:
        path: path of the helper's Unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def there(self) -> bool:
        """Whether the helper, or systemd on its behalf, listens, and this user may connect."""
        return self._path.is_socket() and os.access(self._path, os.W_OK)

    def perform(self, uuid: str, step: Step) -> None:
        """Let the helper do one step. Raises DeviceError."""
        self._ask(uuid, step)

    def read_placed(self, uuid: str) -> tuple[Placed, ...]:
        """Return the placed instances of a GPU. Raises DeviceError."""
        return protocol.parse_instances(self._ask(uuid, None))

    def _ask(self, uuid: str, step: Step | None) -> Any:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.connect(str(self._path))
                connection.sendall(protocol.request_line(uuid, step))
                line = _read_line(connection)
        except OSError as error:
            raise DeviceError(
                f"the MIG helper on {self._path} does not answer: {error}.",
                hint="Start partitiond-mig.socket and look at its log; this user has to be in the "
                "group that it serves.",
                facts={"socket": str(self._path)},
            ) from error
        if not line:
            raise DeviceError(
                f"the MIG helper on {self._path} closed the connection.",
                hint="Look at its log; this user has to be in the group that it serves.",
                facts={"socket": str(self._path)},
            )
        return protocol.parse_answer(line)


def _read_line(connection: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\n") and len(found) < protocol.MAX_LINE_BYTES:
        more = connection.recv(protocol.MAX_LINE_BYTES)
        if not more:
            break
        found += more
    return found
