"""The client side of the data listener: uvicorn's protocol, with the limits it leaves out.

Refused here, before any application code: connections beyond the limit, heads that are too large
or never end, a missing or double Host, and anything that is not HTTP/1.0 or 1.1. All in OpenAI's
error shape.
"""

import asyncio
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from partitiond.proxy.app import ABORT
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.errors import TOO_MANY_CONNECTIONS, ApiError
from partitiond.proxy.state import new_request_id

SURPLUS_SECONDS: Final = 1.0
"""A connection beyond the limit is answered when its head comes: closing it sooner would reset
what the client is sending, and it would not see why."""


class DataProtocol(HttpToolsProtocol):
    """One client connection. `options` is set by `protocol_with`."""

    options = ProxyOptions()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0
        self._in_head = True
        self._is_surplus = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._refusal: ApiError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first head."""
        super().connection_made(transport)
        self._is_surplus = len(self.connections) > self.options.max_connections
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the head's bytes as they come; the parser itself has no limit."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self.options.max_header_bytes:
                self._refusal = self._too_large()
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        if self._head_timer is None:
            self._await_head()
        self.scope[ABORT] = self._abort  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """Check what the parser does not, then hand the request on."""
        self._in_head = False
        self._stop_head_timer()
        self._refusal = self._check_head()
        if self._refusal is not None:
            raise ValueError(self._refusal.message)  # the parser turns it into a 400 response
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- uvicorn's text is ours here
        """Answer a request that cannot be read, in OpenAI's shape, and close."""
        refusal = self._refusal or ApiError(
            400, "The request is not valid HTTP.", code="invalid_http"
        )
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # another answer is under way; there is no place for this one
            return
        body = refusal.body()
        head = [STATUS_LINE[refusal.status]]
        for name, value in [
            *refusal.headers(),
            (b"x-request-id", new_request_id().encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]:
            head.append(name + b": " + value + b"\r\n")
        self.transport.write(b"".join([*head, b"\r\n", body]))
        self.transport.close()

    def _check_head(self) -> ApiError | None:
        if self._is_surplus:
            return TOO_MANY_CONNECTIONS
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.options.max_header_bytes:
            return self._too_large()
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if version not in {"1.0", "1.1"} or (hosts != 1 and version == "1.1") or hosts > 1:
            return ApiError(400, "The request needs exactly one Host header.", code="invalid_http")
        return None

    def _too_large(self) -> ApiError:
        return ApiError(
            431,
            f"The request's head is larger than {self.options.max_header_bytes} bytes.",
            code="headers_too_large",
        )

    def _await_head(self) -> None:
        seconds = self.options.client_timeout_seconds
        if self._is_surplus:  # it stays just long enough to be answered
            seconds = min(seconds, SURPLUS_SECONDS)
        self._head_timer = self.loop.call_later(seconds, self._head_too_slow)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _abort(self) -> None:
        """Close without sending what the client does not take."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.abort()


def protocol_with(options: ProxyOptions) -> type[DataProtocol]:
    """The protocol class with these limits (uvicorn makes the objects itself)."""
    return type("DataProtocol", (DataProtocol,), {"options": options})
