"""Converts errors to problem details (RFC 9457), with one table from our classes to statuses."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from partitiond.core import errors as e
from partitiond.core.replica.states import IllegalTransitionError
from partitiond.fleet.lines_of_mistakes import nearest_key
from partitiond.serde import words_of

MEDIA_TYPE: Final = "application/problem+json"
LOCKED_RETRY_SECONDS: Final = 5
"""Retry-After while another process holds the store's lock, for a time that is unknown."""


class BodyTooLargeError(e.InputError):
    """The request body exceeds the bound."""

    code = "body_too_large"

    def as_http(self) -> HTTPException:
        """Convert for raising inside `receive`: FastAPI passes on no other class from there."""
        return HTTPException(413, detail=self.message)


STATUS: Final[Mapping[type[e.PartitiondError], int]] = {
    e.PartitiondError: 500,
    e.InputError: 422,
    e.SpecError: 422,
    e.ProfileError: 422,
    e.SettingsError: 422,
    e.ModelSourceError: 422,
    e.NotFoundError: 404,
    e.ConflictError: 409,
    IllegalTransitionError: 409,
    e.PreconditionFailedError: 412,
    e.FencedError: 409,
    BodyTooLargeError: 413,
    e.UnauthorizedError: 401,
    e.StoreError: 503,
    e.StoreBusyError: 503,
    e.NotKeptError: 503,
    e.DeviceError: 503,
    e.SilentError: 503,
    e.HostSilentError: 503,
    e.NotReadyError: 503,
    e.DaemonUnreachableError: 503,
    e.DaemonTimeoutError: 503,
    e.EngineUnavailableError: 503,
    e.EngineError: 502,
    e.StartFailedError: 502,
    e.ExitedError: 502,
    e.UpstreamError: 502,
    e.StartTimedOutError: 504,
}
"""The nearest class in an error's ancestry decides. Tests fail if a class of ours has no status."""


def status_of(error: e.PartitiondError) -> int:
    """Return the HTTP status of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(
    status: int, code: str, detail: str, hint: str = "", facts: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Build the body: RFC 9457's members, with `code`, `hint` and `facts` as extensions."""
    return {
        "type": f"urn:partitiond:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
        "facts": dict(facts or {}),
    }


def problem_response(error: e.PartitiondError, path: str) -> JSONResponse:
    """Build the answer for an error of ours; `path` becomes the problem's `instance`."""
    status = status_of(error)
    body = problem(status, error.code, error.message, error.hint, error.facts)
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="partitiond"'
    if isinstance(error, e.StoreBusyError):
        headers["Retry-After"] = str(LOCKED_RETRY_SECONDS)
    return _response(status, body | {"instance": path}, headers)


def _response(status: int, body: dict[str, Any], headers: Mapping[str, str]) -> JSONResponse:
    return JSONResponse(
        body, status, {"Cache-Control": "no-store", **headers}, media_type=MEDIA_TYPE
    )


async def _on_ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, e.PartitiondError)
    return problem_response(error, request.url.path)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    items = error.errors()
    if any(item["type"] == "json_invalid" for item in items):
        where = next(item for item in items if item["type"] == "json_invalid")
        reason = where.get("ctx", {}).get("error", "it ends early or has a wrong character")
        return problem_response(
            e.InputError(
                f"the request's body is not JSON: {reason} (character {where['loc'][-1]}).",
                hint=_JSON_HINT,
            ),
            request.url.path,
        )
    if isinstance(error.body, bytes):  # JSON would have been read by now
        sent = request.headers.get("content-type", "")[:100]
        return problem_response(
            e.InputError(
                f"the request's body must be JSON, but its Content-Type is {sent or 'missing'}.",
                hint="Send the header 'Content-Type: application/json'.",
            ),
            request.url.path,
        )
    ours = e.InputError(
        "the request is not valid: " + "; ".join(_lines(items, _schema_of(request))) + ".",
        hint="Correct the named fields; GET /openapi.json describes them all.",
    )
    return problem_response(ours, request.url.path)


def _schema_of(request: Request) -> Mapping[str, Any]:
    """Return the JSON schema of the body that the route takes; empty if it is no table."""
    body = getattr(request.scope.get("route"), "body_field", None)
    if body is None:
        return {}
    schema = TypeAdapter(body.field_info.annotation).json_schema()
    for choice in schema.get("anyOf", ()):  # a body that may be left out
        if "$ref" in choice:
            return {**schema["$defs"][choice["$ref"].rpartition("/")[2]], "$defs": schema["$defs"]}
    return schema


def _lines(items: Sequence[Any], schema: Mapping[str, Any], most: int = 8) -> list[str]:
    lines = []
    for item in items[:most]:
        first, *place = item["loc"]
        place = place if first == "body" else place[:1]  # of a parameter, its name
        where = ".".join(map(str, place)) or "body"
        said = f"{words_of(item, 'an object')}{_got(item)}"
        if item["type"] == "extra_forbidden":
            near = nearest_key(str(place[-1]), schema, place[:-1]).rstrip(".")
            said = f"{words_of(item)} ({near})"
        lines.append(f"{where}: {said}")
    return lines


def _got(item: Any, longest: int = 60) -> str:
    """Quote the value that was sent, if it is a scalar and the message does not contain it."""
    value = item.get("input")
    if not isinstance(value, str | int | float) or item["type"] == "missing":
        return ""
    text = repr(value)
    if text in item["msg"]:
        return ""
    return f", got {text if len(text) <= longest else text[:longest] + '...'}"


_JSON_HINT: Final = "Send one JSON object in UTF-8; GET /openapi.json describes its members."
_HINTS: Final = {
    400: _JSON_HINT,
    404: "GET / names the resources; GET /openapi.json describes them all.",
    405: "The Allow header names the methods of this resource.",
    413: "The control API takes descriptions, not weights: name a folder instead.",
}
_CODES: Final = {
    400: "invalid_json",
    404: "not_found",
    405: "method_not_allowed",
    413: BodyTooLargeError.code,
}


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    detail = str(error.detail)
    if status in (404, 405):
        detail = f"there is no {request.method} {request.url.path}."
    elif status == 400:  # FastAPI's only 400: any error while reading the body
        detail = "the request's body is not JSON in UTF-8, or it is nested too deeply."
    body = problem(status, _CODES.get(status, "http"), detail, _HINTS.get(status, ""))
    return _response(status, body | {"instance": request.url.path}, error.headers or {})


async def _on_bug(request: Request, _error: Exception) -> JSONResponse:
    """Answer for a defect of ours; the server logs its traceback after this answer."""
    body = problem(
        500, "internal", "something broke inside the daemon.", "The daemon's log has the details."
    )
    return _response(500, body | {"instance": request.url.path}, {})


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(e.PartitiondError, _on_ours)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
