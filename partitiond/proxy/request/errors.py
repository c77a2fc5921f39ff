"""Defines all error answers of the proxy, in OpenAI's shape.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

An `ApiError` is a value that tells the client what could not be done. Errors of an engine that
already have this shape are passed on unchanged; other shapes are converted.
"""

import dataclasses
import json
from typing import Final

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.errors import UpstreamError

INVALID: Final = "invalid_request_error"
SERVER: Final = "server_error"
LIMITED: Final = "rate_limit_error"

DONE_EVENT: Final = b"data: [DONE]\n\n"


@dataclasses.dataclass(frozen=True, slots=True)
class ApiError:
    """An error answer.

    Attributes:
        status: HTTP status.
        kind: `type` in the answer.
        retry_after_seconds: for a Retry-After header, or None.
        allow: for an Allow header (405).
        close: the connection cannot be used again (its request was not read to the end).
    """

    status: int
    message: str
    kind: str = INVALID
    param: str | None = None
    code: str | None = None
    retry_after_seconds: int | None = None
    allow: str = ""
    close: bool = False

    def body(self) -> bytes:
        """Return the error as JSON, as OpenAI's API does."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}, separators=(",", ":")).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that belong to this error, beside those of each answer."""
        headers: list[tuple[bytes, bytes]] = []
        if self.retry_after_seconds is not None:
            headers.append((b"retry-after", str(self.retry_after_seconds).encode()))
        if self.allow:
            headers.append((b"allow", self.allow.encode()))
        return headers


class AttemptError(UpstreamError):
    """An attempt on a replica failed.

    Attributes:
        kind: connect, connect_timeout, first_token_timeout, between_tokens_timeout,
            total_timeout, reset, truncated, bad_response, engine_error.
        no_byte: the engine had sent nothing at all on the connection.
    """

    def __init__(self, kind: str, message: str, *, no_byte: bool = False) -> None:
        super().__init__(message, after_first_byte=False)
        self.kind = kind
        self.no_byte = no_byte


FAILURE_STATUS: Final = {
    "connect": 503,
    "connect_timeout": 504,
    "first_token_timeout": 504,
    "between_tokens_timeout": 504,
    "total_timeout": 504,
    "reset": 502,
    "truncated": 502,
    "bad_response": 502,
    "engine_error": 502,
}
"""By kind of failure."""
TOLD_BY_HOSTS: Final = {
    **{f"upstream_{kind}": status for kind, status in FAILURE_STATUS.items()},
    "queue_full": 429,
    "wait_too_long": 429,
    "queue_timeout": 429,
    "model_starting": 503,
    "model_asleep": 503,
    "model_unavailable": 503,
    "model_on_other_host": 503,
    "shutting_down": 503,
    "bodies_full": 503,
    "answers_full": 503,
    "answer_too_large": 400,
    "timeout": 408,
    "request_quarantined": 422,
    "internal_error": 500,
}
"""Status by code: all codes with which another host may say that a request got no answer. Others
become `upstream_bad_response`, since each code is a series of the metrics and a word of the API."""


REQUEST_REFUSED: Final = frozenset({400, 404, 413, 422})
"""Statuses by which an engine refuses the request itself. The client is told of no others: they
mean the proxy's access to the engine (401, 403, 407), what the proxy sent (405, 411, 415, 421), or
the engine's own trouble (408, 429, 5xx)."""


def from_failure(failure: AttemptError) -> ApiError:
    """Return the error for the client when no attempt is left."""
    status = FAILURE_STATUS[failure.kind]
    return ApiError(
        status,
        failure.message,
        SERVER,
        code=f"upstream_{failure.kind}",
        retry_after_seconds=1 if status == 503 else None,
    )


def from_rejected(rejected: Rejected) -> ApiError:
    """Return the error for a request that the admission rule refused."""
    return ApiError(
        rejected.status,
        rejected.message,
        LIMITED if rejected.status == 429 else SERVER,
        code=rejected.code,
        retry_after_seconds=rejected.retry_after_seconds,
    )


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """400: the request itself is wrong."""
    return ApiError(400, message, param=param, code=code)


def unknown_route(method: str, path: str) -> ApiError:
    """404 for everything outside the allow-list."""
    shown = path if len(path) <= 100 else path[:100] + "..."
    near = "" if path.startswith("/v1/") else " What is served here begins with /v1."
    return ApiError(404, f"Unknown request URL: {method} {shown}.{near}", code="unknown_url")


def wrong_method(method: str, allow: str) -> ApiError:
    """405 with the methods that are allowed."""
    return ApiError(
        405, f"{method} is not allowed here; use {allow}.", code="method_not_allowed", allow=allow
    )


def unknown_model(name: str) -> ApiError:
    """404 in OpenAI's words; the same for a model the key may not use."""
    shown = name if len(name) <= 100 else name[:100] + "..."
    return ApiError(
        404,
        f"The model '{shown}' does not exist or you do not have access to it. "
        "GET /v1/models lists what there is.",
        param="model",
        code="model_not_found",
    )


def route_not_supported(path: str) -> ApiError:
    """404: the route is not for models of this kind."""
    return ApiError(
        404,
        f"The model's engine has no {path}: generating models answer completions and chats, "
        "pooling models embeddings, scores and rankings.",
        param="model",
        code="route_not_supported",
    )


def route_not_allowed(kind: str) -> ApiError:
    """403: the route is outside the key's scope."""
    return ApiError(
        403,
        f"This API key may not use routes of the kind '{kind}'.",
        "permission_error",
        code="route_not_allowed",
    )


def body_too_large(limit_bytes: int) -> ApiError:
    """413: the body is too large."""
    return ApiError(
        413,
        f"The request body is larger than {limit_bytes} bytes.",
        code="request_too_large",
    )


_SEND_KEY: Final = (
    "Send one header 'Authorization: Bearer <key>' with a key made by `partitiond keys create`."
)
NO_KEY: Final = ApiError(401, f"No API key was given. {_SEND_KEY}", code="invalid_api_key")
BAD_KEY: Final = ApiError(401, f"Incorrect API key provided. {_SEND_KEY}", code="invalid_api_key")
HEAD_TOO_SLOW: Final = ApiError(408, "The request's head did not arrive in time.", code="timeout")
BODY_TOO_SLOW: Final = ApiError(
    408, "The request's body did not arrive in time.", code="timeout", close=True
)
NO_TABLE: Final = ApiError(
    503,
    "The proxy has not been told of any model yet.",
    SERVER,
    code="starting",
    retry_after_seconds=1,
)
KEYS_STALE: Final = ApiError(
    503,
    "The proxy has had no word from its control plane for so long that it does not know which API "
    "keys are still valid. Your key may be good: try again later, or on another host.",
    SERVER,
    code="keys_stale",
    retry_after_seconds=10,
)
BODIES_FULL: Final = ApiError(
    503,
    "The proxy holds as many large request bodies as it may. Try again, or send a smaller one.",
    SERVER,
    code="bodies_full",
    retry_after_seconds=1,
)
ANSWERS_FULL: Final = ApiError(
    503,
    "The proxy holds as many large whole answers as it may. Try again, or ask for a stream.",
    SERVER,
    code="answers_full",
    retry_after_seconds=1,
)
ANSWER_TOO_LARGE: Final = ApiError(
    400,
    "The answer, or an event of its stream, is larger than the proxy holds. Ask for less at once.",
    code="answer_too_large",
)
NO_ROOM: Final = {one.code: one for one in (ANSWERS_FULL, ANSWER_TOO_LARGE)}
"""The errors of a request whose whole answer the proxy does not hold."""
SHUTTING_DOWN: Final = ApiError(
    503, "The proxy is shutting down.", SERVER, code="shutting_down", retry_after_seconds=2
)
TOO_MANY_CONNECTIONS: Final = ApiError(
    503,
    "The proxy has too many open connections.",
    SERVER,
    code="too_many_connections",
    retry_after_seconds=1,
)
INTERNAL: Final = ApiError(
    500,
    "The proxy failed on this request; its log has the details under this request id.",
    SERVER,
    code="internal_error",
)


def in_openai_shape(status: int, body: bytes) -> bytes:
    """Return an engine's error answer in OpenAI's shape; convert others, as `{"detail": ...}`."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if isinstance(error, dict) and error.get("message") and isinstance(error["message"], str):
        return body
    detail = error or (parsed.get("detail") if isinstance(parsed, dict) else None)
    message = (
        detail
        if detail and isinstance(detail, str)
        else f"The engine answered with status {status}."
    )
    return ApiError(status, message, code="engine_error").body()
