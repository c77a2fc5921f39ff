"""Reads request targets, and refuses heads that the parser accepts but we do not.

Not compiled (`native`): compiled code holds `httptools` to its stubs: that each target has a host.
"""

import urllib.parse
from collections.abc import Iterable
from typing import Final, NamedTuple

import httptools

from partitiond.proxy.request.errors import ApiError

_NEEDS_HOST: Final = ApiError(
    400, "The request needs exactly one Host header.", code="invalid_http"
)
_UNMET: Final = ApiError(
    417, "The only expectation that is met is '100-continue'.", code="expectation_failed"
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
    host = b"[%b]" % target.host if target.host and b":" in target.host else target.host
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
        elif name == b"expect" and value.lower() not in {b"", b"100-continue"}:
            return _UNMET
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
