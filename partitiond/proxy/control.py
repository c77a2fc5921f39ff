"""The control listener's application: on a Unix socket in a folder of its owner only.

PUT /routing     a RoutingTable; {"version", "accepted"}; older versions are ignored
GET /state       what runs: in flight, queues, idle times, version, process, address
GET /metrics     Prometheus text
POST /shutdown   {"grace_seconds": x}: finish what runs, then exit
"""

import json
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from partitiond.core.errors import InputError
from partitiond.core.routing import RoutingTable
from partitiond.proxy.state import ProxyState
from partitiond.serde import from_json


def control_app(
    state: ProxyState,
    about: Callable[[], dict[str, object]],
    shut_down: Callable[[float], None],
) -> Starlette:
    """The application.

    Args:
        about: what /state says of the process itself.
        shut_down: starts a graceful shutdown with so many seconds of grace.
    """

    async def put_routing(request: Request) -> Response:
        try:
            table = from_json(RoutingTable, await request.body())
        except InputError as error:
            return _problem(400, error.message, error.hint)
        try:
            accepted = state.apply(table)
        except OSError as error:
            return _problem(
                500,
                f"The routing table could not be written: {error}.",
                "Make room in the state folder; the former table is still in force.",
            )
        return JSONResponse({"version": state.table.version, "accepted": accepted})

    async def get_state(_request: Request) -> Response:
        return JSONResponse(
            {
                **about(),
                "version": state.table.version,
                "draining": state.draining,
                "in_flight": state.in_flight(),
                "queues": state.queues(),
                "idle_seconds": state.idle_seconds(),
            }
        )

    async def get_metrics(_request: Request) -> Response:
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4")

    async def post_shutdown(request: Request) -> Response:
        try:
            grace = float(json.loads(await request.body() or b"{}").get("grace_seconds", 0))
        except (ValueError, TypeError, AttributeError):
            return _problem(400, "grace_seconds must be a number.", "Send a JSON object.")
        shut_down(max(0.0, grace))
        return JSONResponse({"shutting_down": True}, 202)

    return Starlette(
        routes=[
            Route("/routing", put_routing, methods=["PUT"]),
            Route("/state", get_state, methods=["GET"]),
            Route("/metrics", get_metrics, methods=["GET"]),
            Route("/shutdown", post_shutdown, methods=["POST"]),
        ]
    )


def _problem(status: int, message: str, hint: str) -> Response:
    return JSONResponse({"message": message, "hint": hint}, status)
