"""Builds the application of the control API."""

import functools
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi.responses import JSONResponse
from starlette.routing import BaseRoute

from partitiond import __version__
from partitiond.api import errors, openapi
from partitiond.api.actor import ActorScope
from partitiond.api.auth import AdminAuth
from partitiond.api.limits import BodyLimit
from partitiond.api.profile_rows import ProfileRows
from partitiond.api.replies import only_known_query, until_writable
from partitiond.api.routes import ROUTERS, health, ui, ui_endpoint
from partitiond.api.sessions import DashboardSessions
from partitiond.controller.service import Service
from partitiond.fleet.registration import RegistrationRules

CHECKS: Final = (Depends(only_known_query), Depends(until_writable))
DESCRIPTION: Final = (
    "Register models, measure them, plan and apply, and see what runs. Requests to models go to "
    "the OpenAI-compatible endpoint, not here. Errors are problem details (RFC 9457) whose `hint` "
    "says what to do next."
)


def create_app(
    service: Service,
    *,
    admin_token: str,
    metrics_token: str = "",
    options: RegistrationRules | None = None,
    endpoint: tuple[str, Path] = ("", Path()),
) -> FastAPI:
    """Build the control API over a service.

    Args:
        admin_token: the token that requests must carry, as made by `auth.ensure_token`.
        metrics_token: opens only `GET /metrics`; if empty, that path takes the admin token.
        options: options from the settings; the defaults of RegistrationRules if None.
        endpoint: URL of the endpoint and path of its log, for the dashboard.

    The first call takes some tenths of a second; it may be made in a thread.
    """
    if not admin_token:
        raise ValueError("an empty admin token would open the API to everyone")
    app = FastAPI(
        title="partitiond control API",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,  # these pages load scripts from elsewhere, and cannot send the token
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.options = options or RegistrationRules()
    app.state.endpoint_url, app.state.endpoint_log = endpoint
    app.state.sessions = DashboardSessions(admin_token)
    app.state.profile_rows = ProfileRows()
    app.router.routes.extend(routes())
    errors.install(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(ActorScope, sessions=app.state.sessions)
    # The middleware that is added last runs first.
    app.add_middleware(
        AdminAuth, token=admin_token, sessions=app.state.sessions, metrics_token=metrics_token
    )

    def cached_document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.document(app, ROUTERS)
        return app.openapi_schema

    setattr(app, "openapi", cached_document)  # noqa: B010 - FastAPI's documented way

    @app.get("/openapi.json", include_in_schema=False)
    def _document() -> Response:  # in a thread: it takes a second the first time
        return JSONResponse(cached_document())

    return app


@functools.cache
def routes() -> tuple[BaseRoute, ...]:
    """Return the routes with their request parsers; they know no application.

    FastAPI builds the parsers when the first request looks for its route; in the event loop that
    would block everything else for a fifth of a second.
    """
    together = APIRouter(redirect_slashes=False)
    for router in ROUTERS:
        # Shutdown must not wait for the store.
        changes = router not in (health.router, ui.router, ui_endpoint.router)
        together.include_router(router, dependencies=CHECKS if changes else [])
    nowhere = {"type": "http", "method": "GET", "path": "/ ", "root_path": "", "headers": []}
    for route in together.routes:
        route.matches(nowhere)
    return tuple(together.routes)
