"""Exchanges messages between the parent and one worker, over a socket pair: length, then JSON.

The parent asks, and the worker answers in order. The only unrequested message of the worker is its
farewell. When either process ends, the other sees the end of the stream.
"""

import asyncio
import json
import socket
import struct
from typing import Any, Final

_LENGTH: Final = struct.Struct("!I")

Message = dict[str, Any]


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """Return a channel on one end of a socket pair, and take ownership of that end."""
        end.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end))

    async def send(self, message: Message) -> None:
        """Send one message. Raises ConnectionError if the other end is closed."""
        data = json.dumps(message, separators=(",", ":")).encode()
        try:
            self._writer.write(_LENGTH.pack(len(data)) + data)
            await self._writer.drain()
        except RuntimeError as error:  # uvloop's error for a closed stream
            raise ConnectionResetError(str(error)) from error

    async def receive(self) -> Message | None:
        """Return the next message, or None if the other end is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            message: Message = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return message

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
