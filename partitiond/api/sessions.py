"""Manages dashboard sessions: a page gives the admin token once, then sends its session's value.

The value travels only in the header `Authorization`. A browser never sends it by itself: the page
keeps it in the storage of its origin (scheme, host and port), so that no page of another port of
the host can read it. A cookie would go to all ports of the host. Sessions live in the daemon's
memory and end with the daemon.
"""

import dataclasses
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

SESSION_SECONDS: Final = 12 * 3600.0
"""A working day; afterwards the page asks for the token again."""
MAX_SESSIONS: Final = 256
"""Beyond this number the oldest session ends."""
MAX_NAME: Final = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """The session of a user who is logged in.

    Attributes:
        name: the name that the user gave, for the events; may be empty.
        until: when the session ends, in monotonic seconds.
    """

    name: str
    until: float


class DashboardSessions:
    """The open sessions.

    Args:
        token: the admin token.
        clock: returns monotonic seconds.
    """

    def __init__(self, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token.encode()
        self._clock = clock
        self._open: dict[str, Session] = {}

    def log_in(self, token: str, name: str) -> str | None:
        """Begin a session and return its value; None for a wrong token."""
        if not hmac.compare_digest(token.strip().encode(), self._token):
            return None
        self._forget_ended()
        while len(self._open) >= MAX_SESSIONS:
            del self._open[next(iter(self._open))]
        value = secrets.token_urlsafe(32)
        self._open[_key(value)] = Session(name, self._clock() + SESSION_SECONDS)
        return value

    def find(self, value: str) -> Session | None:
        """Return the session of a value; None if there is none, or it has ended."""
        session = self._open.get(_key(value))
        return session if session is not None and session.until > self._clock() else None

    def log_out(self, value: str) -> None:
        """End the session of a value. Idempotent."""
        self._open.pop(_key(value), None)

    def _forget_ended(self) -> None:
        now = self._clock()
        self._open = {key: s for key, s in self._open.items() if s.until > now}


def _key(value: str) -> str:
    """Return the hash that is kept instead of the value, so that comparisons leak no timing."""
    return hashlib.sha256(value.encode()).hexdigest()


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the value that a request sends as `Authorization: Bearer`, or empty."""
    given = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, presented = given.partition(b" ")
    # Strip bytes, not text: some bytes of a token would count as spaces in text.
    return presented.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""
