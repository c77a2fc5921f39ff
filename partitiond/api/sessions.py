"""Sessions of the dashboard: a browser gives the admin token once, then carries a cookie.

The cookie is HttpOnly (no script reads it) and SameSite=Strict (no other site's page makes the
browser send it). A request that is let in by the cookie must carry the header `X-Partitiond-UI`,
which a page of another origin cannot set without asking first, and nobody answers such a question.
Sessions live in the daemon's memory: they end with it.
"""

import dataclasses
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

COOKIE: Final = "partitiond_session"
HEADER: Final = b"x-partitiond-ui"
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
        """The cookie's value for who gave the token; None for a wrong one."""
        if not hmac.compare_digest(token.strip().encode(), self._token):
            return None
        self._forget_ended()
        while len(self._open) >= MAX_SESSIONS:
            del self._open[next(iter(self._open))]
        value = secrets.token_urlsafe(32)
        self._open[_key(value)] = Session(name, self._clock() + SESSION_SECONDS)
        return value

    def find(self, value: str) -> Session | None:
        """Who carries this cookie."""
        session = self._open.get(_key(value))
        return session if session is not None and session.until > self._clock() else None

    def log_out(self, value: str) -> None:
        """The cookie counts no more. Idempotent."""
        self._open.pop(_key(value), None)

    def _forget_ended(self) -> None:
        now = self._clock()
        self._open = {key: s for key, s in self._open.items() if s.until > now}


def _key(value: str) -> str:
    """Kept instead of the value, so that comparing takes equally long for each."""
    return hashlib.sha256(value.encode()).hexdigest()


def cookie_value(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The session's cookie of a request; empty where there is none."""
    for name, value in headers:
        if name == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, _, text = part.strip().partition("=")
                if key == COOKIE:
                    return text
    return ""
