"""Sessions of the dashboard: a page gives the admin token once, then sends its session's value.

The value travels in the header `Authorization` and nowhere else. A browser sends it by itself to
nobody: the page keeps it in the storage of its origin, which is scheme, host and port, so that no
page of another port of the host reads it. A cookie would go to all ports of the host. Sessions live
in the daemon's memory: they end with it.
"""

import dataclasses
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

SESSION_SECONDS: Final = 12 * 3600.0
"""A working day; afterwards the token is asked for again."""
MAX_SESSIONS: Final = 256
"""Beyond that the oldest one ends."""
MAX_NAME: Final = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is logged in.

    Attributes:
        name: who they said they are, for the events; may be empty.
        until: monotonic seconds.
    """

    name: str
    until: float


class Sessions:
    """Who is logged in.

    Args:
        token: the admin token.
        clock: seconds that only grow.
    """

    def __init__(self, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token.encode()
        self._clock = clock
        self._open: dict[str, Session] = {}

    def log_in(self, token: str, name: str) -> str | None:
        """The session's value for who gave the token; None for a wrong one."""
        if not hmac.compare_digest(token.strip().encode(), self._token):
            return None
        self._forget_ended()
        while len(self._open) >= MAX_SESSIONS:
            del self._open[next(iter(self._open))]
        value = secrets.token_urlsafe(32)
        self._open[_key(value)] = Session(name, self._clock() + SESSION_SECONDS)
        return value

    def find(self, value: str) -> Session | None:
        """Whose session this value is; None where it is none, or has ended."""
        session = self._open.get(_key(value))
        return session if session is not None and session.until > self._clock() else None

    def log_out(self, value: str) -> None:
        """The value counts no more. Idempotent."""
        self._open.pop(_key(value), None)

    def _forget_ended(self) -> None:
        now = self._clock()
        self._open = {key: s for key, s in self._open.items() if s.until > now}


def _key(value: str) -> str:
    """Kept instead of the value, so that comparing takes equally long for each."""
    return hashlib.sha256(value.encode()).hexdigest()


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """What a request presents as `Authorization: Bearer`; empty where there is nothing."""
    given = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, presented = given.partition(b" ")
    # Stripped as bytes: as text, some of the bytes of a token would count as spaces, too.
    return presented.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""
