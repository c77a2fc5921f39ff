"""Adds cross-origin headers to the application's answers, and answers preflight requests.

A browser's preflight comes without a key, so it is answered before a key is required; the answer
only tells which origins may call. The lane adds its own headers (see `exchange`).
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from partitiond.proxy.edge.origins import Cors
from partitiond.proxy.request.request_id import new_request_id
from partitiond.proxy.request.routes import BY_PATH

if TYPE_CHECKING:
    from collections.abc import Iterable

Asgi = Callable[[Any, Any, Any], Awaitable[None]]

_MODELS = "/v1/models"


def with_cors(app: Asgi, cors: Cors) -> Asgi:
    """Make the application callable from pages of the allowed origins."""
    if not cors:
        return app

    async def serve(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        origin, asked_method, asked_headers = _asked(scope["headers"])
        is_preflight = scope["method"] == "OPTIONS" and bool(origin and asked_method)
        if is_preflight:
            allowed = cors.preflight(origin, asked_headers) if _is_ours(scope["path"]) else None
            if allowed is not None:
                await _answer(send, allowed)
                return
            origin = b""  # refused: answered like any other OPTIONS, hidden from the page

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *cors.headers(origin)]
            await send(message)

        await app(scope, receive, send_with_headers)

    return serve


def origin_of(headers: "Iterable[tuple[bytes, bytes]]") -> bytes:
    """Return the origin of the page that sends a request, or empty."""
    return _asked(headers)[0]


def _asked(headers: "Iterable[tuple[bytes, bytes]]") -> tuple[bytes, bytes, bytes]:
    """Return the origin, method and headers that a preflight asks for."""
    found = dict(headers)
    return (
        found.get(b"origin", b""),
        found.get(b"access-control-request-method", b""),
        found.get(b"access-control-request-headers", b""),
    )


def _is_ours(path: str) -> bool:
    return path in BY_PATH or path == _MODELS or path.startswith(_MODELS + "/")


async def _answer(send: Any, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"x-request-id", new_request_id().encode())]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
