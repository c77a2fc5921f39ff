"""Reads the request headers that the proxy uses; all others are ignored, and none is forwarded.

Engines get only headers of ours: clients must not send headers that an engine would obey
(`x-data-parallel-rank`, ...).
"""

import random
import re
from collections.abc import Iterable
from typing import Final

from partitiond.proxy.request.errors import ApiError, body_too_large, invalid

_JSON_TYPE: Final = re.compile(rb"\s*application/(json|[\w.+-]+\+json)\s*(;|$)", re.IGNORECASE)
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_SECONDS: Final = re.compile(rb"[0-9]{1,6}(\.[0-9]{1,6})?")

_WANTED: Final = {
    b"authorization": "authorization",
    b"x-api-key": "api_key",
    b"content-type": "content_type",
    b"content-encoding": "content_encoding",
    b"content-length": "content_length",
    b"x-request-id": "given_id",
    b"x-partitiond-debug": "debug",
    b"x-partitiond-max-wait-seconds": "max_wait",
    b"origin": "origin",
    b"traceparent": "traceparent",
}


def new_request_id() -> str:
    """Return an id for logs and answers, unique enough to correlate; it is not a secret."""
    return f"req-{random.getrandbits(96):024x}"


class RequestHead:
    """The used headers of a request.

    Attributes:
        authorization: the only such header; empty if there is none.
        api_key: `x-api-key`, as Anthropic's clients send it. Both are empty if one comes twice.
        max_wait: longest wait for a slot that the client accepts, in seconds, as text.
    """

    __slots__ = (
        "api_key", "authorization", "content_encoding", "content_length", "content_type", "debug",
        "given_id", "max_wait", "origin", "traceparent",
    )  # fmt: skip

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.authorization = b""
        self.api_key = b""
        self.content_type = b""
        self.content_encoding = b""
        self.content_length = b""
        self.given_id = b""
        self.debug = b""
        self.max_wait = b""
        self.origin = b""
        self.traceparent = b""
        tokens = keys = 0
        for name, value in headers:
            field = _WANTED.get(name)
            if field is not None:
                tokens += name == b"authorization"
                keys += name == b"x-api-key"
                setattr(self, field, value)
        if tokens > 1 or keys > 1:
            self.authorization = self.api_key = b""

    def keys(self) -> list[bytes]:
        """Return the request's API keys: clients with two settings send both headers."""
        scheme, _, key = self.authorization.partition(b" ")
        first = key.strip() if scheme.lower() == b"bearer" else b""
        return [key for key in (first, self.api_key.strip()) if key]

    def request_id(self) -> str:
        """Return the client's own request id if it is harmless, else a new one."""
        if self.given_id and _REQUEST_ID.fullmatch(self.given_id):
            return self.given_id.decode()
        return new_request_id()

    def max_wait_seconds(self) -> float | None:
        """Return the longest wait for a slot that the client accepts, or None."""
        if not self.max_wait or not _SECONDS.fullmatch(self.max_wait):
            return None
        return float(self.max_wait)

    def body_bytes(self) -> int:
        """Return the declared length of the body, 0 without one; the parser has checked it."""
        return int(self.content_length or 0)

    def check(self, max_body_bytes: int) -> ApiError | None:
        """Return the error in the head as that of a JSON request, or None."""
        if self.content_encoding and self.content_encoding.strip().lower() != b"identity":
            return unsupported("Send the body uncompressed.")
        if self.body_bytes() > max_body_bytes:
            return body_too_large(max_body_bytes)
        # A browser form cannot have this type without a preflight, so no web page can use a proxy
        # that listens on its visitor's own machine.
        if self.content_type != b"application/json" and not _JSON_TYPE.match(self.content_type):
            return unsupported("Send the header 'Content-Type: application/json'.")
        if self.max_wait and not _SECONDS.fullmatch(self.max_wait):
            return invalid("x-partitiond-max-wait-seconds must be a number of seconds.")
        return None


def unsupported(message: str) -> ApiError:
    """415: the body is not plain JSON."""
    return ApiError(415, message, code="unsupported_media_type")
