"""Serves the control listener: on a Unix socket in a folder that only its owner may use.

PUT /routing            a RoutingTable, of any release; {"version", "accepted"}; older versions are
                        ignored; the same one again says that its keys are still the newest
GET /state              requests in flight, queues, idle times, version, process, address
GET /metrics            Prometheus text
GET /traffic            a TrafficSample: counts by model, replica and key
POST /shutdown          {"grace_seconds": x}: finish requests in flight, then exit

The listener is the same for one serving process and for several workers: see `Plane`. A connection
carries one request.
"""

import asyncio
import contextlib
import json
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Protocol, Self

from partitiond.core.dispatch.routing import RoutingTable, on_own_clock
from partitiond.core.errors import InputError, NotKeptError
from partitiond.proxy.edge.answer import STATUS_LINES
from partitiond.serde import from_stored_json

NOT_KEPT: Final = 507
"""Status of a table that is in force, and could not be stored: Insufficient Storage (RFC 4918)."""
LAST_ANSWERS_SECONDS: Final = 1.0
"""Time for the last answers to reach the control plane at the end. Chosen."""

_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *([0-9]{1,12})\r\n")
_logger = logging.getLogger("partitiond.proxy")


class Plane(Protocol):
    """The part that serves requests: this process, or workers."""

    @property
    def version(self) -> int:
        """Version of the routing table in force."""
        ...

    async def apply(self, table: RoutingTable) -> bool:
        """Take over a newer table; True if it was taken.

        Raises:
            OSError: it was taken, and could not be stored.
        """
        ...

    async def describe(self) -> dict[str, Any]:
        """Return the answer to GET /state."""
        ...

    async def metrics(self) -> bytes:
        """Return Prometheus text."""
        ...

    async def traffic(self) -> dict[str, Any]:
        """Return the answer to GET /traffic."""
        ...

    def shut_down(self, grace_seconds: float) -> None:
        """Let requests in flight finish within the grace, then exit."""
        ...


class ControlReply(NamedTuple):
    """An answer to the control plane."""

    status: int
    body: bytes
    content_type: str = "application/json"


def routes(plane: Plane) -> dict[tuple[str, str], Callable[[bytes], Awaitable[ControlReply]]]:
    """Return what answers each method and path, given the request's body."""

    async def put_routing(body: bytes) -> ControlReply:
        try:
            table = from_stored_json(RoutingTable, body)
            accepted = await plane.apply(on_own_clock(table, time.monotonic()))
        except InputError as error:
            return _problem(400, error.message, error.hint)
        except NotKeptError as error:
            return _problem(NOT_KEPT, error.message, error.hint)
        except OSError as error:
            return _problem(
                500,
                f"The routing table could not be written, nor the former one removed: {error}.",
                "Make the state folder writable; a proxy that starts again takes the former table.",
            )
        return _json({"version": plane.version, "accepted": accepted})

    async def get_state(_body: bytes) -> ControlReply:
        return _json(await plane.describe())

    async def get_metrics(_body: bytes) -> ControlReply:
        return ControlReply(200, await plane.metrics(), "text/plain; version=0.0.4; charset=utf-8")

    async def get_traffic(_body: bytes) -> ControlReply:
        return _json(await plane.traffic())

    async def post_shutdown(body: bytes) -> ControlReply:
        try:
            grace = float(json.loads(body or b"{}").get("grace_seconds", 0))
        except (ValueError, TypeError, AttributeError):
            return _problem(400, "grace_seconds must be a number.", "Send a JSON object.")
        plane.shut_down(max(0.0, grace))
        return _json({"shutting_down": True}, 202)

    return {
        ("PUT", "/routing"): put_routing,
        ("GET", "/state"): get_state,
        ("GET", "/metrics"): get_metrics,
        ("GET", "/traffic"): get_traffic,
        ("POST", "/shutdown"): post_shutdown,
    }


class ControlServer:
    """The control listener. Whoever may open its socket owns it, so it trusts what it reads."""

    def __init__(self, plane: Plane) -> None:
        self._routes = routes(plane)
        self._server: asyncio.AbstractServer | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, plane: Plane, listener: socket.socket) -> Self:
        """Answer on the listener from now on."""
        self = cls(plane)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)
        return self

    async def close(self) -> None:
        """Stop listening, and let the requests under way have their answers."""
        if self._server is not None:
            self._server.close()
        if self._serving:
            await asyncio.wait(self._serving, timeout=LAST_ANSWERS_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        with contextlib.suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            # Whoever leaves or sends no HTTP has no answer.
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.decode().split(" ", 2)
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length is not None else b""
            reply = await self._answer(method, target.partition("?")[0], body)
            writer.write(
                b"%bcontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
                % (STATUS_LINES[reply.status], reply.content_type.encode(), len(reply.body))
            )
            writer.write(reply.body)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _answer(self, method: str, path: str, body: bytes) -> ControlReply:
        route = self._routes.get((method, path))
        if route is None:
            return _problem(404, f"There is no {method} {path} here.", "See the proxy's release.")
        try:
            return await route(body)
        except Exception:
            _logger.exception("%s %s failed inside the proxy", method, path)
            return _problem(500, "The proxy failed on this request.", "Its log has the details.")


def _json(value: object, status: int = 200) -> ControlReply:
    return ControlReply(status, json.dumps(value, separators=(",", ":")).encode())


def _problem(status: int, message: str, hint: str) -> ControlReply:
    return _json({"message": message, "hint": hint}, status)
