"""Serves /events: what happened, why, and at whose request."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from partitiond.api.given import EventLog
from partitiond.api.replies import Route, reply
from partitiond.core.errors import InputError
from partitiond.core.events import Event, EventFilter
from partitiond.core.instants import unix_seconds, utc_iso

router = APIRouter(prefix="/events", tags=["events"], route_class=Route)


@router.get(
    "",
    operation_id="listEvents",
    summary="List events",
    response_model=list[Event],
)
async def list_events(
    *,
    events: EventLog,
    after: Annotated[
        int, Query(ge=0, le=2**63 - 1, description="Only events with a greater id.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 200,
    kind: Annotated[
        list[str] | None,
        Query(max_length=20, description='Only of these kinds; "plan-*" is all that begin so.'),
    ] = None,
    subject: Annotated[
        str, Query(max_length=200, description='Only about this; "opt-*" as above.')
    ] = "",
    actor: Annotated[
        str, Query(max_length=200, description='Only what this one asked for; "*" is anybody.')
    ] = "",
    since: Annotated[
        str, Query(max_length=40, description="Only from this moment on (ISO 8601; UTC).")
    ] = "",
    until: Annotated[str, Query(max_length=40, description="Only before this moment.")] = "",
    newest: Annotated[
        bool, Query(description="Of more than `limit` the newest, and not the first.")
    ] = False,
) -> Response:
    """Events, oldest first; without `after` and `since` the newest. Repeat with the last id to
    follow.
    """
    moments = _moment(since, "since"), _moment(until, "until")
    wanted = EventFilter(tuple(kind or ()), subject, actor, *moments, newest)
    return reply(list(events.events(after, limit, wanted)))


def _moment(text: str, name: str) -> str:
    """Return a time in the form of events, so that texts compare like times. Raises InputError."""
    if not text:
        return ""
    try:
        return utc_iso(unix_seconds(text))
    except ValueError as error:
        raise InputError(
            f"{name} {text!r} is no moment.",
            hint="Write it as 2030-01-31T17:00:00Z.",
        ) from error
