"""Sends one HTTP request over a Unix socket, with one deadline over the whole exchange.

The daemon asks its engines a few small things a second (is the engine ready, its metrics). One
connection and one timeout for each request keep a frozen engine from blocking the daemon.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
from typing import Any, Final

from partitiond.core.errors import SilentError
from partitiond.platform.process_exit import AGAIN_SECONDS
from partitiond.platform.process_identity import SHORTAGE
from partitiond.platform.unix_socket import NoSocketError, socket_address

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""An engine's metrics are some 100 KiB, 1 MiB with thirty LoRA adapters."""
MAX_JSON_BYTES: Final = 64 * 1024
"""An engine's version and state take less than 100 bytes; JSON is read in the event loop."""
SHORTAGE_TRIES: Final = 60
"""Most tries, a second apart, while this process can open no socket. Chosen."""


class ExchangeError(Exception):
    """The engine could not be reached, or its answer was no HTTP. The message says which."""


class NotListeningError(ExchangeError):
    """Nothing accepts connections there: the engine has not started, still loads, or is gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status and body of an answer."""

    status: int
    body: bytes

    def fields(self) -> dict[str, Any]:
        """Return the members of the body, a small JSON object. Raises ExchangeError."""
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(self.body) if len(self.body) <= MAX_JSON_BYTES else None
            if isinstance(found, dict):
                return found
        raise ExchangeError(f"the answer is no small JSON object: {self.body[:200]!r}")


async def exchange(
    socket_path: str,
    method: str,
    path: str,
    payload: object | None = None,
    *,
    timeout_seconds: float,
) -> HttpAnswer:
    """Send one request and read the whole answer.

    While this process can open no socket, nothing is asked, and no time of it is the engine's.
    It is tried again a while.

    Raises:
        NotListeningError: nothing accepts connections on the socket.
        ExchangeError: the exchange took too long, broke off, or is not HTTP.
        SilentError: this process could open no socket in all that while: nothing was asked.
    """
    try:
        for _ in range(SHORTAGE_TRIES):
            try:
                async with asyncio.timeout(timeout_seconds):
                    return await _exchange(socket_path, _request(method, path, payload))
            except OSError as error:
                if error.errno not in SHORTAGE:
                    raise
                log.warning("an engine cannot be asked now: %s", error)
            await asyncio.sleep(AGAIN_SECONDS)
        raise SilentError(
            f"{method} {path}: nothing was asked, as this process can open no socket.",
            hint="See that the host has free files and memory.",
        )
    except TimeoutError as error:
        raise ExchangeError(f"no answer to {method} {path} in {timeout_seconds:g} s") from error
    except NoSocketError as error:
        raise ExchangeError(f"{error.filename} is not asked: {error.strerror}") from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotListeningError(f"no process listens on {socket_path}") from error
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ExchangeError(f"{method} {path} broke off: {error}") from error
    except ValueError as error:
        raise ExchangeError(f"the answer to {method} {path} is no HTTP: {error}") from error


def _request(method: str, path: str, payload: object | None) -> bytes:
    body = b"" if payload is None else json.dumps(payload).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _exchange(socket_path: str, request: bytes) -> HttpAnswer:
    with socket_address(socket_path) as address:
        reader, writer = await asyncio.open_unix_connection(address)
    try:
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.split("\r\n")
        headers = {
            name.strip().lower(): value.strip().lower()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        return HttpAnswer(int(lines[0].split()[1]), await _body(reader, headers))
    except IndexError as error:
        raise ValueError("the status line is too short") from error
    finally:
        # abort, not close: there is nothing left to flush, and closing could wait for the peer.
        writer.transport.abort()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        return await _chunks(reader)
    length = headers.get("content-length")
    if length is not None:
        return await reader.readexactly(_bounded(int(length)))
    body = bytearray()
    while part := await reader.read(MAX_ANSWER_BYTES):
        body += part
        _bounded(len(body))
    return bytes(body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readline()).partition(b";")[0], 16):
        _bounded(len(body) + size)
        body += await reader.readexactly(size)
        await reader.readline()
    return bytes(body)


def _bounded(size: int) -> int:
    if size > MAX_ANSWER_BYTES:
        raise ValueError(f"the answer has {size} bytes")
    return size
