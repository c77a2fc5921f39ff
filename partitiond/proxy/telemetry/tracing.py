"""Gives a request its place in a trace (W3C Trace Context), where engines send spans.

If a client sends a `traceparent`, its engine gets the same: its spans belong to the client's trace,
and the client decides whether they are recorded. Otherwise the engine begins a trace for a share of
the requests, and is told to record none of the others. The endpoint has no spans of its own: what
it knows of a request is one line of its log, with the trace's id.
"""

import random
import re
from typing import Final

_TRACEPARENT: Final = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16


def place_in_trace(given: bytes, ratio: float) -> tuple[str, bytes]:
    """Return the id of the client's trace (or empty) and the header for the engine (or empty).

    Args:
        given: `traceparent` as the client sent it, or empty.
        ratio: share of the requests without one that engines record.

    Returns:
        The header as the continuation of a request's head.
    """
    match = _TRACEPARENT.fullmatch(given.strip()) if given else None
    if match is not None and match[1] != _NO_TRACE and match[2] != _NO_SPAN:
        return match[1].decode(), b"\r\ntraceparent: " + match[0]
    if random.getrandbits(53) < ratio * 2**53:
        return "", b""
    trace, span = random.getrandbits(128) or 1, random.getrandbits(64) or 1
    return "", b"\r\ntraceparent: 00-%032x-%016x-00" % (trace, span)
