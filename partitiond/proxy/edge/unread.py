"""Counts what a connection's other side has not read of whole answers, as bytes that are held."""

import asyncio
import fcntl
import struct
import termios

from partitiond.proxy.edge.state import ProxyState


class UnreadAnswers:
    """What one connection holds of a caller's whole answers, until its other side has read nearly
    all.
    """

    def __init__(self, state: ProxyState) -> None:
        self.held_bytes = 0
        self._state = state
        self.caller = ""

    def look(self, transport: asyncio.Transport, *, paused: bool, whole: int = 0) -> None:
        """Count anew.

        Args:
            paused: the other side reads too slowly, by the event loop's word.
            whole: bytes of the answer that was written just now. TLS tells neither its buffer nor
                a pause for a single write: all of the answer counts while the kernel is not empty.
        """
        if transport.get_extra_info("sslcontext") is not None:
            self._set(self.held_bytes + whole if unsent_bytes(transport) else 0)
        else:
            self._set(transport.get_write_buffer_size() if paused else 0)

    def forget(self) -> None:
        """Count nothing more: the connection has ended."""
        self._set(0)

    def _set(self, size: int) -> None:
        self._state.answers.add(self.caller, size - self.held_bytes)
        self.held_bytes = size


def unsent_bytes(transport: asyncio.BaseTransport) -> int:
    """Written bytes that the kernel still holds because the client has not read them.

    The buffers of a TLS transport are not visible from outside, but they drain into the kernel's
    buffer, which is therefore the last to be empty.
    """
    connection = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except (AttributeError, OSError, ValueError):
        return 0  # it is closed
    return int(struct.unpack("i", answer)[0])
