"""Makes the tokens of the control API once, and checks them on every request but the probes.

The admin token opens everything. The metrics token opens only the metrics, so that a scraper need
not be trusted with more.
"""

import contextlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from partitiond.api.errors import problem_response
from partitiond.api.sessions import DashboardSessions, bearer
from partitiond.core.errors import SettingsError, UnauthorizedError

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
"""Probes carry no credentials; without credentials they report only health."""
ADMITTED: Final = "partitiond.admitted"
"""Key in a request's scope: whether the request has valid credentials for its path. It is also set
for open paths, so that a probe gives reasons only to the operator."""
DASHBOARD: Final = "/ui"
"""Its files contain no secrets, and the log-in asks for the token itself (`api.routes.ui`)."""
METRICS_PATH: Final = "/metrics"
"""The only path that the metrics token opens, by GET."""
TOKEN_BYTES: Final = 32
MIN_TOKEN_CHARACTERS: Final = 16
"""A shorter token was written by hand and can be guessed."""


def ensure_token(path: Path) -> str:
    """Return the token in a file of the state folder; make the file (mode 0600) if needed.

    Raises:
        SettingsError: the file is empty, too short, or cannot be read or written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with contextlib.suppress(FileExistsError):  # another process was first
                _write_new(path, secrets.token_urlsafe(TOKEN_BYTES))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the token {path} cannot be made or read: {error}.",
            hint="Make the state folder writable for this user, or remove the file.",
            facts={"path": str(path)},
        ) from error
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise SettingsError(
            f"the token in {path} is shorter than {MIN_TOKEN_CHARACTERS} characters.",
            hint="Remove the file: the daemon makes a good one at its next start.",
            facts={"path": str(path)},
        )
    return token


def _write_new(path: Path, token: str) -> None:
    """Write under another name and link, so that no reader ever sees half a token."""
    draft = path.with_name(f"{path.name}.new-{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(token + "\n")
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def is_open(path: str) -> bool:
    """Whether a path is answered without credentials."""
    return path in OPEN_PATHS or path == DASHBOARD or path.startswith(f"{DASHBOARD}/")


def _opens_the_address(scope: Scope) -> bool:
    """Whether a request without a token asks for the bare address, as a browser does."""
    given = any(name == b"authorization" for name, _ in scope["headers"])
    return scope["method"] in ("GET", "HEAD") and scope["path"] == "/" and not given


class AdminAuth:
    """ASGI middleware: 401 for every request without the token, before anything else is read.

    Args:
        token: the admin token.
        sessions: of the dashboard; a session's value is accepted instead of the token.
        metrics_token: opens only the metrics; empty if there is none.
    """

    def __init__(
        self, app: ASGIApp, token: str, sessions: DashboardSessions, metrics_token: str = ""
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._metrics_token = metrics_token.encode()
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] == "http":
            error = self._refusal(scope["method"], scope["path"], scope["headers"])
            scope[ADMITTED] = error is None
            if error is not None and not is_open(scope["path"]):
                redirected = _opens_the_address(scope)
                answer = (
                    RedirectResponse(DASHBOARD)
                    if redirected
                    else problem_response(error, scope["path"])
                )
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(
        self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]
    ) -> UnauthorizedError | None:
        headers = list(headers)
        given = any(name == b"authorization" for name, _ in headers)
        presented = bearer(headers)
        token = presented.encode("latin-1")
        if hmac.compare_digest(token, self._token) or self._sessions.find(presented) is not None:
            return None
        if self._opens_metrics(token):
            if (method, path) == ("GET", METRICS_PATH):
                return None
            return UnauthorizedError(
                f"the metrics token opens GET {METRICS_PATH} and nothing else.",
                hint="Send the token in the file admin-token of the daemon's state folder.",
            )
        return UnauthorizedError(
            "the admin token is wrong." if given else "the admin token is missing.",
            hint="Send 'Authorization: Bearer TOKEN' with the token in the file admin-token of "
            "the daemon's state folder.",
        )

    def _opens_metrics(self, token: bytes) -> bool:
        known = self._metrics_token
        return bool(known) and hmac.compare_digest(token, known)
