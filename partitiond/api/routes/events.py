"""/events: what happened and why."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from partitiond.api.replies import Service, reply
from partitiond.ports import Event

router = APIRouter(prefix="/events", tags=["events"])


@router.get(
    "",
    operation_id="listEvents",
    summary="List events",
    response_model=list[Event],
)
async def list_events(
    service: Service,
    after: Annotated[
        int, Query(ge=0, le=2**63 - 1, description="Only events with a greater id.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 200,
) -> Response:
    """Events, oldest first; without `after` the newest. Repeat with the last id to follow."""
    return reply(list(service.events(after, limit)))
