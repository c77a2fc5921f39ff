"""Defines the parts of attacks: one row of the table, and the good request that a row spoils."""

import dataclasses
from typing import Any, Final

from tests.security.wire import post

BODY: Final = b'{"model":"m","prompt":"x"}'
AUTH: Final = b"authorization: Bearer sk-good"
CHUNKED: Final = b"transfer-encoding: chunked"
LENGTH: Final = b"content-length: %d" % len(BODY)
END: Final = b"0\r\n\r\n"


@dataclasses.dataclass(frozen=True)
class Attack:
    """One row.

    Attributes:
        answers: statuses of all answers in order. Where there is none, a good request was followed
            at once by malformed bytes, and may end with them.
        code: error code of the last answer.
        closed: whether the connection ends.
        forwarded: requests the engine sees (without an answer: at most).
        head_only: the answer has no body.
    """

    name: str
    data: bytes
    answers: tuple[int, ...] = (400,)
    code: str = "invalid_http"
    closed: bool = True
    forwarded: int = 0
    head_only: bool = False


def good(*headers: bytes, body: bytes = BODY, **rest: Any) -> bytes:
    """A good request, but for what the row does to it."""
    return post(body, AUTH, *headers, **rest)


HIDDEN: Final = good()
"""A request with a good key: where it lies inside another, it must never run."""


def chunk(data: bytes, size: bytes | None = None, extension: bytes = b"") -> bytes:
    """One chunk; `size` replaces the true one."""
    return (b"%x" % len(data) if size is None else size) + extension + b"\r\n" + data + b"\r\n"


def chunked(*parts: bytes, headers: tuple[bytes, ...] = (), end: bytes = END) -> bytes:
    """A chunked request."""
    return good(*headers, CHUNKED, body=b"".join(parts) + end, length=b"")


def served(name: str, data: bytes) -> Attack:
    """Harmless after all: answered once, forwarded once, the connection goes on."""
    return Attack(name, data, (200,), "", closed=False, forwarded=1)


def answered(name: str, data: bytes, *answers: int, code: str = "", **rest: Any) -> Attack:
    """Several requests, each with its answer, after which the connection goes on."""
    return Attack(name, data, answers, code, **{"closed": False, **rest})


def ended(name: str, data: bytes, *answers: int, code: str = "", forwarded: int = 0) -> Attack:
    """The same, and the connection ends."""
    return Attack(name, data, answers, code, forwarded=forwarded)


def refused(name: str, data: bytes, status: int, code: str, *, closed: bool = False) -> Attack:
    """Understood and refused."""
    return Attack(name, data, (status,), code, closed=closed)
