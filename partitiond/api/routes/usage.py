"""Serves /usage: the use of models by keys."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from partitiond.api.given import Usages
from partitiond.api.replies import Route, reply
from partitiond.core.views.usage import UsageBy, UsageReport
from partitiond.serde import closed

router = APIRouter(prefix="/usage", tags=["usage"], route_class=Route)


@router.get(
    "",
    operation_id="getUsage",
    summary="Show what keys used of models",
    response_model=closed(UsageReport),
)
async def get_usage(
    usage: Usages,
    since: Annotated[
        str | None,
        Query(
            alias="from", max_length=40, description="ISO 8601; the start of this month by default."
        ),
    ] = None,
    until: Annotated[
        str | None,
        Query(
            alias="to",
            max_length=40,
            description="ISO 8601; that hour, or that day where no time is given, is included. "
            "Now by default.",
        ),
    ] = None,
    by: Annotated[
        list[UsageBy] | None,
        Query(
            description="What a line is for; several may be given: key, model, and one of hour, "
            "day and month. Default: key and model.",
        ),
    ] = None,
) -> Response:
    """Requests and tokens of whole hours, in UTC. Requests without a key have an empty `key_id`."""
    chosen = by or [UsageBy.KEY, UsageBy.MODEL]
    return reply(await usage.report(since, until, chosen))
