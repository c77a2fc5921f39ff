"""Provides what all routes use: JSON answers, entity tags."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from partitiond.api.answers import NewKey
from partitiond.controller.service import Service
from partitiond.core.errors import InputError, PreconditionFailedError
from partitiond.core.events import Event
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import Device
from partitiond.core.keys.record import KeyRecord
from partitiond.core.model.record import ModelRecord
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job
from partitiond.core.profile.record import Profile
from partitiond.core.views.lists import KeyView, ModelView, ProfileView, ReplicaView
from partitiond.core.views.overview import Overview
from partitiond.core.views.preview import PlanPreview
from partitiond.serde import closed, to_json_bytes

NO_STORE: Final = {"Cache-Control": "no-store"}
"""Answers show the present state, so no cache may keep them."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
JSON_TYPE: Final = "application/json"

_VERSION_DIGITS: Final = 18
"""No version has more digits, and Python refuses to parse numbers of thousands of digits."""

ANSWERS: Final = tuple(
    closed(kind)
    for kind in (
        ModelRecord,
        ModelView,
        Job,
        Profile,
        ProfileView,
        Plan,
        PlanPreview,
        ReplicaView,
        Device,
        DeviceDetails,
        Event,
        KeyRecord,
        KeyView,
        NewKey,
        Overview,
    )
)
"""The types of answers. They are closed here, before the schema of any route is made from them."""


class Route(APIRoute):
    """A route that makes its answers itself: their schemas, a second of CPU time, are made for the
    document alone."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self._documented = options
        told = {status: {**text, "model": None} for status, text in options["responses"].items()}
        super().__init__(path, endpoint, **{**options, "response_model": None, "responses": told})

    def documented(self) -> APIRoute:
        """Return the route with the schema of its answers."""
        return APIRoute(self.path, self.endpoint, **self._documented)


async def until_writable(request: Request) -> None:
    """Delay a changing request while another process holds the lock of the store.

    Raises:
        StoreBusyError: the store is locked for too long; nothing was changed.
    """
    if request.method not in SAFE_METHODS:
        service: Service = request.app.state.service
        await service.store_waits.until_writable()


async def only_known_query(request: Request) -> None:
    """Raises InputError for a query parameter that the route does not have, as one mistyped."""
    if not request.query_params:
        return
    known = set(_query_names(request.scope["route"].dependant))
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        raise InputError(
            f"there is no query parameter {unknown[0][:80]!r} here.",
            hint=f"There are {', '.join(sorted(known))}." if known else "There is none.",
        )


def _query_names(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for below in dependant.dependencies:
        yield from _query_names(below)


def reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a core value (or a list of them) as JSON."""
    return reply_bytes(to_json_bytes(value), status, headers)


def reply_bytes(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with bytes that are JSON already."""
    return Response(body, status, {**NO_STORE, **(headers or {})}, JSON_TYPE)


def no_content() -> Response:
    """Answer 204: done, without content."""
    return Response(status_code=204, headers=NO_STORE)


def etag(record: ModelRecord) -> dict[str, str]:
    """Return the entity tag of a model: the version of its registration."""
    return {"ETag": f'"{record.version}"'}


def _expected_version(
    if_match: Annotated[
        str | None,
        Header(
            description="ETag of the version that was read; the change is refused (412) when the "
            "model was changed meanwhile. Without it the change applies to what is there."
        ),
    ] = None,
) -> int | None:
    """Return the version in `If-Match`; None if there is no such header, or it is `*`."""
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().strip('"')
    if not text.isascii() or not text.isdigit() or len(text) > _VERSION_DIGITS:
        shown = if_match if len(if_match) <= 40 else if_match[:40] + "..."
        raise InputError(
            f"If-Match {shown!r} is no entity tag of a model.",
            hint='Send the ETag of GET /models/{name} as it is, as "3".',
        )
    return int(text)


ExpectedVersion = Annotated[int | None, Depends(_expected_version)]


def check_version(record: ModelRecord, expected: int | None) -> None:
    """Raise PreconditionFailedError if the model's version is not the one in the request."""
    if expected is not None and record.version != expected:
        raise PreconditionFailedError(
            f"model {record.spec.name} has version {record.version}, not {expected}.",
            hint="Read it again and repeat the change with its new ETag.",
            facts={"model": record.spec.name, "version": record.version},
        )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route for OpenAPI, beside 401 and 422."""
    words = {
        404: "There is no such thing.",
        409: "It conflicts with what is there.",
        412: "The version named by If-Match is not the present one.",
        503: "The daemon cannot do this now.",
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {"application/problem+json": {"schema": schema}}
    return {status: {"description": words[status], "content": content} for status in statuses}
