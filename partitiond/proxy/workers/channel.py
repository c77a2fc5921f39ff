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
    """One end of the socket pair.

    It sends past its reader's transport, which drops what it has received, and what waits in the
    kernel, when something cannot be sent. So a farewell is read also by who was just asking.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sending: socket.socket
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._sending = sending
        self._turn = asyncio.Lock()

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """Return a channel on one end of a socket pair, and take ownership of that end."""
        end.setblocking(False)
        sending = end.dup()
        sending.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end), sending)

    async def send(self, message: Message) -> None:
        """Send one message. Cancelled, it may be cut off, and the channel is of no more use.

        Raises:
            ConnectionError: the other end is closed.
        """
        data = json.dumps(message, separators=(",", ":")).encode()
        loop = asyncio.get_running_loop()
        async with self._turn:
            if self._sending.fileno() < 0:
                raise ConnectionResetError("the channel is closed")
            await loop.sock_sendall(self._sending, _LENGTH.pack(len(data)) + data)

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
        self._sending.close()
