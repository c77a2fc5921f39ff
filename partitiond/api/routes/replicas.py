"""Serves /replicas: the replicas with their observed state."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from partitiond.api.given import Overviews
from partitiond.api.replies import Route, reply
from partitiond.core.views.lists import ReplicaView

router = APIRouter(prefix="/replicas", tags=["replicas"], route_class=Route)


@router.get(
    "",
    operation_id="listReplicas",
    summary="List replicas",
    response_model=list[ReplicaView],
)
async def list_replicas(
    overview: Overviews,
    model: Annotated[str | None, Query(description="Only replicas of this model.")] = None,
) -> Response:
    """All replicas, with state, partition, requests in flight, and why one failed."""
    views = overview.replicas()
    return reply([view for view in views if model is None or view.model == model])
