"""Limits the size of request bodies."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from partitiond.api.errors import BodyTooLargeError, problem_response

MAX_BODY_BYTES: Final = 4 * 1024**2
"""The largest legitimate body is an imported profile: some 100 points of 1 KB each."""


class BodyLimit:
    """ASGI middleware: 413 if the declared length or the received bytes exceed the limit."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await problem_response(self._error(), scope["path"])(scope, receive, send)
            return
        received = 0

        async def counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._error().as_http()
            return message

        await self._app(scope, counting, send)

    def _error(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"the request body is larger than {self._max_bytes} bytes.",
            hint="The control API takes descriptions, not weights: name a folder instead.",
            facts={"max_bytes": self._max_bytes},
        )
