"""Messages between the parent and one worker, over a socket pair: JSON with its length before it.

The parent asks, and the worker answers in order; what the worker says unasked is its farewell.
When either ends, the other sees the end of the stream.
"""

import asyncio
import json
import socket
import struct
from typing import Any, Final

_LENGTH: Final = struct.Struct("!I")

Message = dict[str, Any]


class Channel:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """On one end of a socket pair, which belongs to it from now on."""
        end.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end))

    async def send(self, message: Message) -> None:
        """Send one message. Raises ConnectionError when nobody takes it any more."""
        data = json.dumps(message, separators=(",", ":")).encode()
        try:
            self._writer.write(_LENGTH.pack(len(data)) + data)
            await self._writer.drain()
        except RuntimeError as error:  # how uvloop says that it is closed
            raise ConnectionResetError(str(error)) from error

    async def receive(self) -> Message | None:
        """The next message, or None when there is no other end any more."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            message: Message = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return message

    def close(self) -> None:
        """End it."""
        self._writer.close()
