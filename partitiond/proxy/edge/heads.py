"""Reads request heads: their target and the headers that the proxy uses; others are ignored.

Heads that the parser accepts but we do not are refused. Engines get only headers of ours: clients
must not send headers that an engine would obey (`x-data-parallel-rank`, ...).
"""

import random
import re
import urllib.parse
from collections.abc import Iterable
from typing import Final, NamedTuple

import httptools

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
    b"x-session-id": "session",
    b"x-partitiond-debug": "debug",
    b"x-partitiond-max-wait-seconds": "max_wait",
    b"origin": "origin",
    b"x-forwarded-for": "forwarded_for",
    b"traceparent": "traceparent",
}


def new_request_id() -> str:
    """Return an id for logs and answers, unique enough to correlate; it is not a secret."""
    return f"req-{random.getrandbits(96):024x}"


class RequestHead:
    """The used headers of a request.

    Attributes:
        authorization: the only such header; empty if there is none or more than one.
        api_key: `x-api-key`, as Anthropic's clients send it; the same rule.
        max_wait: longest wait for a slot that the client accepts, in seconds, as text.
    """

    __slots__ = (
        "api_key", "authorization", "content_encoding", "content_length", "content_type", "debug",
        "forwarded_for", "given_id", "max_wait", "origin", "session",
        "traceparent",
    )  # fmt: skip

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.authorization = b""
        self.api_key = b""
        self.content_type = b""
        self.content_encoding = b""
        self.content_length = b""
        self.given_id = b""
        self.session = b""
        self.debug = b""
        self.max_wait = b""
        self.origin = b""
        self.forwarded_for = b""
        self.traceparent = b""
        keys = 0
        for name, value in headers:
            field = _WANTED.get(name)
            if field is not None:
                keys += name in {b"authorization", b"x-api-key"}
                # Each proxy may add its own line; all lines form one list, in their order.
                is_more = field == "forwarded_for" and self.forwarded_for
                setattr(self, field, self.forwarded_for + b"," + value if is_more else value)
        if keys > 1:
            self.authorization = self.api_key = b""

    def key(self) -> bytes:
        """Return the request's API key, or empty."""
        if self.authorization:
            scheme, _, key = self.authorization.partition(b" ")
            return key.strip() if scheme.lower() == b"bearer" else b""
        return self.api_key.strip()

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


_NEEDS_HOST: Final = ApiError(
    400, "The request needs exactly one Host header.", code="invalid_http"
)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_ONLY_CHUNKED: Final = ApiError(
    400, "The one transfer encoding is 'chunked', and HTTP/1.0 has none.", code="invalid_http"
)


class RequestTarget(NamedTuple):
    """A request target.

    Attributes:
        path: decoded; empty if the target has none.
        host: of a target in absolute form, as a Host header has it, and in place of that header
            (RFC 9112, 3.2.2); None of any other target.
    """

    path: str
    host: bytes | None


def read_target(url: bytes) -> RequestTarget:
    """Read a request target. Raises an error of the parser, or ValueError if it has a fragment."""
    if b"#" in url:
        raise ValueError("clients do not send fragments")
    target = httptools.parse_url(url)
    path = (target.path or b"").decode("ascii")
    host: bytes | None = target.host
    if host is not None and b":" in host:
        host = b"[%b]" % host
    return RequestTarget(urllib.parse.unquote(path) if "%" in path else path, host)


def check_head(
    url: bytes, headers: Iterable[tuple[bytes, bytes]], version: str, max_bytes: int
) -> ApiError | None:
    """Return why a head is refused (its size, its Host, its version or its encoding), or None.

    Args:
        headers: names in lower case.
        version: of HTTP, as the parser reports it.
    """
    size = len(url)
    hosts = encodings = 0
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            # The parser accepts other encodings before "chunked"; a reverse proxy may not.
            encodings += 1 if value.lower() == b"chunked" else 2
    if size > max_bytes:
        return head_too_large(max_bytes)
    if version not in {"1.0", "1.1"} or hosts > 1 or (hosts == 0 and version == "1.1"):
        return _NEEDS_HOST
    if encodings > 1 or (encodings and version == "1.0"):
        return _ONLY_CHUNKED
    return None


def body_framing(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the header with the body's length (a checked head has at most one), or empty."""
    for name, value in headers:
        if name in _FRAMING:
            return name + b": " + value + b"\r\n"
    return b""


def head_too_large(max_bytes: int) -> ApiError:
    """431: the head is too large."""
    return ApiError(
        431,
        f"The request's head is larger than {max_bytes} bytes.",
        code="headers_too_large",
    )
