"""Serves the rare requests of the data listener, and the API documentation, with FastAPI.

Routes that engines answer are served below ASGI (see `data_protocol`); requests for them arrive
here only with a wrong method. Routes are matched on the decoded path, which authentication also
uses; "//", "/./" or a second layer of escapes match nothing.
"""

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

import partitiond
from partitiond.core.dispatch.routing import ModelRoute
from partitiond.proxy.edge.heads import RequestHead
from partitiond.proxy.edge.origins import plain_address
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.keys.auth import Caller
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import ApiError
from partitiond.proxy.request.openapi import document
from partitiond.proxy.request.request_id import new_request_id
from partitiond.proxy.request.routes import BY_PATH
from partitiond.proxy.telemetry.logs import json_line

MODELS: Final = "/v1/models"
HEALTH: Final = ("/healthz", "/health")
"""Engines use the second path, so load balancers and instruments ask for it."""
OPENAPI: Final = "/openapi.json"

_logger = logging.getLogger("partitiond.proxy")

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class RouteRefusedError(Exception):
    """Carries an `ApiError` out of a route."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def make_app(state: ProxyState) -> FastAPI:
    """Build the application."""
    app = FastAPI(
        title="partitiond: the OpenAI-compatible endpoint",
        version=partitiond.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )

    @app.exception_handler(RouteRefusedError)
    async def refused(request: Request, error: RouteRefusedError) -> Response:
        return _refuse(state, request, error.error)

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> Response:
        path, method = request.scope["path"], request.method
        if path in BY_PATH:
            return _refuse(state, request, errors.wrong_method(method, "POST"))
        if error.status_code == 405:
            return _refuse(state, request, errors.wrong_method(method, "GET"))
        return _refuse(state, request, errors.unknown_route(method, path))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        _logger.error("%s failed inside the proxy", request.scope["path"], exc_info=error)
        return _refuse(state, request, errors.INTERNAL)

    @app.api_route(HEALTH[0], methods=["GET", "HEAD"])
    @app.api_route(HEALTH[1], methods=["GET", "HEAD"])
    async def health() -> Response:
        if state.draining:
            status = "draining"
        elif state.table.version == 0:
            status = "starting"
        else:
            status = "keys_stale" if state.keys.is_stale() else "ok"
        return _json({"status": status}, 200 if status == "ok" else 503)

    @app.api_route(OPENAPI, methods=["GET", "HEAD"])
    async def openapi() -> Response:
        return _json(document())

    @app.api_route(MODELS, methods=["GET", "HEAD"])
    async def models(request: Request) -> Response:
        listing = [_model_object(name, route) for name, route in _visible(state, request).items()]
        return _json({"object": "list", "data": listing})

    @app.api_route(MODELS + "/{name:path}", methods=["GET", "HEAD"])
    async def model(request: Request, name: str) -> Response:
        route = _visible(state, request).get(name)
        if route is None:
            raise RouteRefusedError(errors.unknown_model(name))
        return _json(_model_object(name, route))

    return app


class QuietEnds:
    """Suppresses exceptions that were answered already, which Starlette raises a second time."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        try:
            await self._app(scope, receive, send)
        except Exception:  # noqa: BLE001 -- answered and logged by the handler above
            return


def _visible(state: ProxyState, request: Request) -> dict[str, ModelRoute]:
    """Return the models that the caller may use, by name and alias. Raises RefusedError."""
    if state.table.version == 0:
        raise RouteRefusedError(errors.NO_TABLE)
    caller = state.keys.identify(RequestHead(request.scope["headers"]).key())
    if not isinstance(caller, Caller):
        raise RouteRefusedError(caller)
    return {
        name: live.route for name, live in state.names().items() if caller.may_use(live.route.name)
    }


def _model_object(name: str, route: ModelRoute) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": route.created_at,
        "owned_by": "partitiond",
    }


def _json(value: object, status: int = 200) -> Response:
    headers = {"x-request-id": new_request_id()}
    return JSONResponse(value, status, headers=headers)


def _refuse(state: ProxyState, request: Request, error: ApiError) -> Response:
    head = RequestHead(request.scope["headers"])
    request_id = head.request_id()
    peer = plain_address(request.client.host) if request.client is not None else ""
    state.metrics.refusals[error.code or str(error.status)] += 1
    state.log.write(
        json_line(
            "request",
            request_id=request_id,
            route=request.scope["path"][:200],
            client=state.client_address(peer, head.forwarded_for),
            status=error.status,
            outcome="refused",
            error=error.code,
        )
    )
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    headers["x-request-id"] = request_id
    return Response(json.dumps(json.loads(error.body())), error.status, headers)
