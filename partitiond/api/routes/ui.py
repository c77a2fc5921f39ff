"""Serves /ui: the dashboard's files, and its log-in."""

import functools
import hashlib
import mimetypes
from importlib import resources
from typing import Annotated, Final

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from partitiond.api.replies import NO_STORE, Route, no_content
from partitiond.api.sessions import MAX_NAME, DashboardSessions, bearer
from partitiond.core.errors import NotFoundError, UnauthorizedError
from partitiond.fleet.parts import Body
from partitiond.models.listing import count_text, rows

router = APIRouter(prefix="/ui", include_in_schema=False, route_class=Route)

_POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS: Final = {
    "Content-Security-Policy": "; ".join(f"{key} {value}" for key, value in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # browsers may keep it, but must revalidate it
}
"""Nothing is loaded from elsewhere, no inline code runs, and no other page may frame the page."""


class LogIn(Body):
    """Who comes, and with what."""

    token: str = Field(max_length=4096)
    name: str = Field("", max_length=MAX_NAME)


class _File:
    """One file of the dashboard."""

    def __init__(self, name: str, content: bytes) -> None:
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        text = kind.startswith("text/") or kind.endswith("javascript")
        self.content = content
        self.media_type = f"{kind}; charset=utf-8" if text else kind
        self.tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'


@functools.cache
def _files() -> dict[str, _File]:
    """Return all files, read once; a request can get only one of these files."""
    folder = resources.files("partitiond.ui")
    served = (".html", ".css", ".js", ".svg")
    return {
        item.name: _File(item.name, item.read_bytes())
        for item in folder.iterdir()
        if item.name.endswith(served)
    }


@router.get("")
@router.get("/")
async def get_page(if_none_match: Annotated[str, Header()] = "") -> Response:
    """The page."""
    return _reply("index.html", if_none_match)


@router.get("/session")
async def get_session(request: Request) -> Response:
    """Whose session this is, and what forms offer."""
    session = _sessions(request).find(bearer(request.headers.raw))
    if session is None:
        return JSONResponse({"logged_in": False}, headers=NO_STORE)
    catalog = [
        {"name": row.name, "parameters": count_text(row.parameters), "purpose": row.purpose}
        for row in rows()
    ]
    known = {"logged_in": True, "name": session.name, "catalog": catalog}
    return JSONResponse(known, headers=NO_STORE)


@router.post("/session")
async def log_in(request: Request, body: LogIn) -> Response:
    """Begin a session: its value is in the answer's body, which nobody keeps, and nowhere else."""
    value = _sessions(request).log_in(body.token, body.name.strip())
    if value is None:
        raise UnauthorizedError(
            "the admin token is wrong.",
            hint="It is in the file admin-token of the daemon's state folder.",
        )
    return JSONResponse({"session": value}, headers=NO_STORE)


@router.delete("/session")
async def log_out(request: Request) -> Response:
    """End the session. Repeating it changes nothing."""
    _sessions(request).log_out(bearer(request.headers.raw))
    return no_content()


@router.get("/{name}")
async def get_file(name: str, if_none_match: Annotated[str, Header()] = "") -> Response:
    """One file of the dashboard."""
    return _reply(name, if_none_match)


def _reply(name: str, known_tag: str) -> Response:
    file = _files().get(name)
    if file is None:
        raise NotFoundError(f"the dashboard has no file {name[:80]!r}.", hint="It is at /ui.")
    headers = HEADERS | {"ETag": file.tag}
    if known_tag == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _sessions(request: Request) -> DashboardSessions:
    sessions: DashboardSessions = request.app.state.sessions
    return sessions
