"""Sends one HTTP request over a Unix socket, with one deadline over the whole exchange.

The daemon asks its engines a few small things a second (is the engine ready, its metrics). One
connection and one timeout for each request keep a frozen engine from blocking the daemon.
"""

import asyncio
import dataclasses
import json
import ssl
from typing import Any, Final

import httpx

from partitiond.platform.unix_socket import NoSocketError, socket_address

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""An engine's metrics are some 100 KiB; an answer of nearly this size cannot be a real one."""
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""A Unix socket needs none: httpx would otherwise read all certificate authorities each time."""
PLAIN: Final = {"Accept-Encoding": "identity"}


class ExchangeError(Exception):
    """The engine could not be reached, or its answer was no HTTP. The message says which."""


class NotListeningError(ExchangeError):
    """Nothing accepts connections there: the engine has not started, still loads, or is gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status and body of an answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON. Raises ExchangeError if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise ExchangeError(f"the answer is no JSON: {self.body[:200]!r}") from error


async def exchange(
    socket_path: str,
    method: str,
    path: str,
    payload: object | None = None,
    *,
    timeout_seconds: float,
) -> HttpAnswer:
    """Send one request and read the whole answer.

    Raises:
        NotListeningError: nothing accepts connections on the socket.
        ExchangeError: the exchange took too long, broke off, or is not HTTP.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            with socket_address(socket_path) as address:
                return await _exchange(address, method, path, payload)
    except TimeoutError as error:
        raise ExchangeError(f"no answer to {method} {path} in {timeout_seconds:g} s") from error
    except NoSocketError as error:
        raise ExchangeError(f"{error.filename} is not asked: {error.strerror}") from error
    except (FileNotFoundError, httpx.ConnectError) as error:
        raise NotListeningError(f"no process listens on {socket_path}") from error
    except (OSError, httpx.HTTPError) as error:
        raise ExchangeError(f"{method} {path} broke off: {error}") from error


async def _exchange(address: str, method: str, path: str, payload: object | None) -> HttpAnswer:
    transport = httpx.AsyncHTTPTransport(uds=address, verify=NO_TLS)
    async with (
        httpx.AsyncClient(transport=transport, timeout=None) as client,  # noqa: S113 - there is one
        client.stream(method, f"http://engine{path}", json=payload, headers=PLAIN) as answer,
    ):
        body = bytearray()
        async for part in answer.aiter_raw():
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise ExchangeError(f"the answer to {method} {path} is too large")
        return HttpAnswer(answer.status_code, bytes(body))
