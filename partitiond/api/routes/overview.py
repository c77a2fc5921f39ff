"""Serves /overview: devices, models, replicas and jobs at once."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from partitiond.api.given import Overviews
from partitiond.api.replies import Route, reply
from partitiond.core.views.overview import WINDOW_SECONDS, Overview
from partitiond.serde import closed

router = APIRouter(prefix="/overview", tags=["daemon"], route_class=Route)


@router.get(
    "",
    operation_id="getOverview",
    summary="Show everything at once",
    response_model=closed(Overview),
)
async def get_overview(
    overview: Overviews,
    window_seconds: Annotated[
        float, Query(ge=2, le=1800, description="Rates and means are over the last so many.")
    ] = WINDOW_SECONDS,
) -> Response:
    """Devices, models, replicas and jobs, planned and measured, as of one moment.

    What the dashboard shows. `measured` and `traffic` are null until the
    endpoint has been looked at twice. Follow what happens with `GET /events?after=` and
    `last_event`.
    """
    return reply(await overview.overview(window_seconds))
