"""Serves the routes of the daemon itself: index, health, readiness, metrics, shutdown."""

from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.background import BackgroundTask

from partitiond import __version__
from partitiond.api.answers import Health, Index, Ready, Stopping
from partitiond.api.auth import ADMITTED
from partitiond.api.given import DaemonControl, MetricsSource, ReadinessCheck
from partitiond.api.replies import NO_STORE, Route, problems
from partitiond.api.schemas import ShutdownBody
from partitiond.core.errors import NotReadyError

router = APIRouter(tags=["daemon"], route_class=Route)

METRICS_MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
RESOURCES: Final = {
    "overview": "/overview",
    "models": "/models",
    "jobs": "/jobs",
    "profiles": "/profiles",
    "plan": "/plan",
    "replicas": "/replicas",
    "devices": "/devices",
    "hosts": "/hosts",
    "events": "/events",
    "keys": "/keys",
    "health": "/healthz",
    "readiness": "/readyz",
    "metrics": "/metrics",
    "openapi": "/openapi.json",
}


@router.get("/", operation_id="getIndex", summary="Index", response_model=Index)
async def get_index() -> Response:
    """Name, version and the resources."""
    index = Index(name="partitiond", version=__version__, resources=RESOURCES)
    return JSONResponse(index.model_dump())


@router.get("/healthz", operation_id="getHealth", summary="Health", response_model=Health)
async def get_health() -> Response:
    """200 while the process answers. Needs no token."""
    return JSONResponse(Health().model_dump(), headers=NO_STORE)


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Readiness",
    response_model=Ready,
    responses=problems(503),
)
async def get_readiness(request: Request, readiness: ReadinessCheck) -> Response:
    """200 when all parts work, else 503. Needs no token; with it, says which parts do not and why.

    Reasons name paths and quote drivers, which is nothing for everybody who reaches the listener.
    """
    missing = dict(readiness.problems())
    if missing and not request.scope.get(ADMITTED, False):
        raise NotReadyError(
            "not ready.", hint="With the admin token this request says which part, and why."
        )
    if missing:
        parts = "; ".join(f"{part}: {why}" for part, why in sorted(missing.items()))
        raise NotReadyError(
            f"not ready: {parts}.",
            hint="Wait a moment; GET /events says more if it stays so.",
            facts=missing,
        )
    return JSONResponse(Ready().model_dump(), headers=NO_STORE)


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Metrics",
    response_class=PlainTextResponse,
)
async def get_metrics(metrics: MetricsSource) -> Response:
    """Metrics in Prometheus' text form. The metrics token opens this and nothing else."""
    return Response(await metrics.text(), media_type=METRICS_MEDIA_TYPE, headers=NO_STORE)


@router.post(
    "/shutdown",
    operation_id="shutDown",
    summary="End the daemon",
    status_code=202,
    response_model=Stopping,
)
async def shut_down(daemon: DaemonControl, body: ShutdownBody | None = None) -> Response:
    """End the daemon; engines and endpoint go on serving unless `stop_engines`.

    The answer comes at once; the end follows.
    """
    stop_engines = (body or ShutdownBody()).stop_engines

    async def end() -> None:
        await daemon.shutdown(stop_engines=stop_engines)

    stopping = Stopping(stop_engines=stop_engines)
    return JSONResponse(stopping.model_dump(), 202, NO_STORE, background=BackgroundTask(end))
