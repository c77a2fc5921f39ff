"""Serves the control listener: on a Unix socket in a folder that only its owner may use.

PUT /routing            a RoutingTable, of any release; {"version", "accepted"}; older versions are
                        ignored; the same one again says that its keys are still the newest
GET /state              requests in flight, queues, idle times, version, process, address
GET /metrics            Prometheus text
GET /traffic            a TrafficSample: counts by model, replica and key
POST /shutdown          {"grace_seconds": x}: finish requests in flight, then exit
POST /restart-workers   every worker is replaced by a new one, one after the other

The application is the same for one serving process and for several workers: see `Plane`.
"""

import json
import time
from typing import TYPE_CHECKING, Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from partitiond.core.dispatch.routing import RoutingTable, on_own_clock
from partitiond.core.errors import ConflictError, InputError
from partitiond.serde import from_stored_json

if TYPE_CHECKING:
    from partitiond.proxy.edge.state import ProxyState


class Plane(Protocol):
    """The part that serves requests: this process, or workers."""

    @property
    def version(self) -> int:
        """Version of the routing table in force."""
        ...

    async def apply(self, table: RoutingTable) -> bool:
        """Take over a newer table; True if it was taken.

        Raises:
            OSError: it was taken, and could not be stored.
        """
        ...

    async def describe(self) -> dict[str, Any]:
        """Return the answer to GET /state."""
        ...

    async def metrics(self) -> bytes:
        """Return Prometheus text."""
        ...

    async def traffic(self) -> dict[str, Any]:
        """Return the answer to GET /traffic."""
        ...

    def shut_down(self, grace_seconds: float) -> None:
        """Let requests in flight finish within the grace, then exit."""
        ...

    def restart_workers(self) -> None:
        """Begin to replace the workers. Raises ConflictError if that cannot be done now."""
        ...


def describe(state: "ProxyState") -> dict[str, Any]:
    """Describe what runs in one process."""
    return {
        "version": state.table.version,
        "draining": state.draining,
        "in_flight": state.in_flight(),
        "queues": state.queues(),
        "idle_seconds": state.idle_seconds(),
        "keys": state.accounts.uses(),
    }


def control_app(plane: Plane) -> Starlette:
    """Build the application."""

    async def put_routing(request: Request) -> Response:
        try:
            table = from_stored_json(RoutingTable, await request.body())
            accepted = await plane.apply(on_own_clock(table, time.monotonic()))
        except InputError as error:
            return _problem(400, error.message, error.hint)
        except OSError as error:
            return _problem(
                500,
                f"The routing table could not be written: {error}.",
                "Make room in the state folder; the table is in force, and is lost with the proxy.",
            )
        return JSONResponse({"version": plane.version, "accepted": accepted})

    async def get_state(_request: Request) -> Response:
        return JSONResponse(await plane.describe())

    async def get_metrics(_request: Request) -> Response:
        return Response(await plane.metrics(), media_type="text/plain; version=0.0.4")

    async def get_traffic(_request: Request) -> Response:
        return JSONResponse(await plane.traffic())

    async def post_shutdown(request: Request) -> Response:
        try:
            grace = float(json.loads(await request.body() or b"{}").get("grace_seconds", 0))
        except (ValueError, TypeError, AttributeError):
            return _problem(400, "grace_seconds must be a number.", "Send a JSON object.")
        plane.shut_down(max(0.0, grace))
        return JSONResponse({"shutting_down": True}, 202)

    async def post_restart(_request: Request) -> Response:
        try:
            plane.restart_workers()
        except ConflictError as error:
            return _problem(409, error.message, error.hint)
        return JSONResponse({"restarting": True}, 202)

    return Starlette(
        routes=[
            Route("/routing", put_routing, methods=["PUT"]),
            Route("/state", get_state, methods=["GET"]),
            Route("/metrics", get_metrics, methods=["GET"]),
            Route("/traffic", get_traffic, methods=["GET"]),
            Route("/shutdown", post_shutdown, methods=["POST"]),
            Route("/restart-workers", post_restart, methods=["POST"]),
        ]
    )


def _problem(status: int, message: str, hint: str) -> Response:
    return JSONResponse({"message": message, "hint": hint}, status)
