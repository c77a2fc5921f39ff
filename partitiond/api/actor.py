"""Identifies the caller of a request, so that all events of the request name the caller."""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from partitiond.api.errors import problem_response
from partitiond.api.sessions import DashboardSessions, bearer
from partitiond.core.actors import HEADER, actor_from, actor_of
from partitiond.core.errors import InputError
from partitiond.ports.actor import acting

_HEADER: Final = HEADER.lower().encode()


class ActorScope:
    """ASGI middleware, behind the one that checks the token: sets the caller for the events.

    A caller that does not name itself is "api@ADDRESS". A user of the dashboard is the name given
    at log-in, or "dashboard@ADDRESS".

    Args:
        sessions: of the dashboard.
    """

    def __init__(self, app: ASGIApp, sessions: DashboardSessions) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under the caller's name, or answer 422 if the name is not valid."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            actor = self._actor(scope)
        except InputError as error:
            await problem_response(error, scope["path"])(scope, receive, send)
            return
        with acting(actor):
            await self._app(scope, receive, send)

    def _actor(self, scope: Scope) -> str:
        """Return the caller's name. Raises InputError if the given name is not valid."""
        headers = dict(scope["headers"])
        client = scope.get("client")
        address = client[0] if client else "here"
        session = self._sessions.find(bearer(scope["headers"]))
        if session is not None:
            name = session.name
            return actor_from(name, "dashboard") if name else actor_from("dashboard", address)
        named = headers.get(_HEADER)
        return actor_of(named.decode("latin-1")) if named else actor_from("api", address)
