"""Carries messages over a Unix socket, one connection for each message.

A request is two frames: a header (JSON: the host it is for, and the seconds within which it is to
be answered) and the message. An answer is two frames: a header (JSON: why the host is silent, or
nothing) and the answer. A frame is a length of four bytes, big-endian, and so many bytes. Who asked
and goes away closes its connection; who answers may then stop.

The program at the other end (a host's agent, or a bridge to the agents of other hosts) may hang, so
each message has a deadline at this end, too.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from partitiond.core.errors import HostSilentError

MOST_BYTES: Final = 64 * 1024 * 1024
"""Size of the largest frame that is read. Chosen: far above a plan over a thousand GPUs."""
READ_SECONDS: Final = 10.0
"""Longest time for a message to come once its connection is open: both ends are on one machine."""
MARGIN_SECONDS: Final = 2.0
"""Time beyond the deadline of a message, for whoever carries it to say that the host is silent."""

AnswerMessage = Callable[[str, float, bytes], Awaitable[bytes]]
"""Answers a message, of a host and a deadline in seconds. Raises HostSilentError."""


class SocketCarrier:
    """Implements `ports.cluster.Carrier` over the socket of an agent or of a bridge.

    Args:
        host: whom the messages are for; an agent's own socket answers for its host only.
        seconds: deadline of a message.
    """

    def __init__(self, path: Path, host: str, *, seconds: float) -> None:
        self._path = path
        self._host = host
        self._seconds = seconds

    async def call(self, body: bytes) -> bytes:
        """Return the answer. Raises HostSilentError."""
        try:
            async with asyncio.timeout(self._seconds + MARGIN_SECONDS):
                return await self._call(body)
        except TimeoutError as error:
            raise self._silent("no answer came in time") from error
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise self._silent(str(error) or type(error).__name__) from error

    async def _call(self, body: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        try:
            writer.write(_request(self._host, self._seconds, body))
            await writer.drain()
            header = json.loads(await _read_frame(reader))
            answer = await _read_frame(reader)
        finally:
            writer.close()
        if header.get("silent"):
            raise self._silent(header["silent"])
        return answer

    def _silent(self, why: str) -> HostSilentError:
        return HostSilentError(
            f"the host {self._host} does not answer: {why}.",
            hint="Its engines go on; look there with `systemctl status partitiond`.",
            facts={"host": self._host, "why": why},
        )


async def serve_line(path: Path, answer: AnswerMessage) -> asyncio.Server:
    """Answer messages on a socket that this user alone can open. The caller closes the server."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            contextlib.closing(writer),
            contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError),
        ):
            async with asyncio.timeout(READ_SECONDS):
                header = json.loads(await _read_frame(reader))
                body = await _read_frame(reader)
            working = asyncio.ensure_future(answer(header["host"], float(header["seconds"]), body))
            gone = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not working.done():
                working.cancel()
                return
            try:
                writer.write(_frame(b"{}") + _frame(working.result()))
            except HostSilentError as error:
                writer.write(_frame(json.dumps({"silent": error.message}).encode()) + _frame(b""))
            await writer.drain()

    path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, in a folder of ours
    server = await asyncio.start_unix_server(serve, str(path))
    path.chmod(0o600)  # noqa: ASYNC240 - the umask of the process already keeps others out
    return server


def _request(host: str, seconds: float, body: bytes) -> bytes:
    header = {"host": host, "seconds": seconds}
    return _frame(json.dumps(header).encode()) + _frame(body)


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > MOST_BYTES:
        raise ValueError(f"a frame of {size} bytes is too large")
    return await reader.readexactly(size)
