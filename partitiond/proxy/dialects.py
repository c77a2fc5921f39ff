"""How the streams of each API look: content, usage, errors and the proper end.

completions, chat completions    `data: {...}` events; `data: {"error": ...}`; `data: [DONE]`
messages (Anthropic's)           named events; `error`; `message_stop`
responses (OpenAI's)             named events; `error`, `response.failed`; `response.completed`

`markers` are byte strings of which a raw piece of the stream must contain at least one where it
holds anything but plain output. The searches are exact: inside a JSON string neither a raw quote
nor a raw line break can occur, so text that a model writes never looks like one of them.
"""

import enum
import json
from typing import Any, Final, Protocol

from partitiond.proxy.errors import DONE_EVENT, ApiError
from partitiond.proxy.told_usage import Told, messages_usage, openai_usage, responses_usage

Markers = tuple[bytes, bytes, bytes, bytes]


class Kind(enum.Enum):
    """What one event is."""

    FRAME = enum.auto()
    """Carries no output: a role, a created response, the begin or end of a block."""
    CONTENT = enum.auto()
    """Carries output; keys pay for each one that they got where no usage is told."""
    OTHER = enum.auto()
    """Neither starts the answer nor ends it: a comment, a ping."""
    USAGE = enum.auto()
    """Tells the whole answer's usage, and carries no output. Chats send it to those who asked."""
    ERROR = enum.auto()
    END = enum.auto()
    BROKEN = enum.auto()
    """No event at all."""


class Dialect(Protocol):
    """One API's streams."""

    @property
    def markers(self) -> Markers:
        """See the module."""
        ...

    def kind_of(self, event: bytes) -> Kind:
        """What an event is, given without its final empty line; before content, parsed."""
        ...

    def usage_of(self, data: bytes) -> Told | None:
        """Usage that a whole answer or the data of an event tells."""
        ...

    def error_events(self, error: ApiError, opening: bytes) -> bytes:
        """An error of ours in the middle of a stream, and the stream's end.

        Args:
            opening: the first event of the stream, where it was seen.
        """
        ...

    def error_body(self, error: ApiError) -> bytes:
        """An error of ours instead of an answer."""
        ...

    def error_status(self, event: bytes) -> int | None:
        """The status of an engine's error event when it blames the request, else None."""
        ...

    def closing(self) -> bytes:
        """What follows an engine's own error event to end the stream properly."""
        ...


def payload_of(event: bytes) -> bytes:
    """The data of an event (engines write it in one line)."""
    at = event.find(b"data:")
    return event[at + 5 :].strip() if at >= 0 else b""


class ChatDialect:
    """completions and chat completions."""

    markers: Final = (b"[DONE]", b'data: {"error"', b'"choices":[]', b'"finish_reason":"')

    def kind_of(self, event: bytes) -> Kind:
        """See `Dialect`."""
        if not event.startswith(b"data:"):
            named = event.startswith((b":", b"event:", b"id:", b"retry:"))
            return Kind.OTHER if named else Kind.BROKEN
        payload = event[5:].strip()
        if payload == b"[DONE]":
            return Kind.END
        if payload.startswith(b'{"error"'):
            return Kind.ERROR
        try:
            parsed = json.loads(payload)
        except (ValueError, RecursionError):
            return Kind.BROKEN
        choices = parsed.get("choices") if isinstance(parsed, dict) else None
        if not isinstance(choices, list):
            return Kind.FRAME
        if not choices and parsed.get("usage"):
            return Kind.USAGE
        return Kind.CONTENT if any(map(_choice_has_content, choices)) else Kind.FRAME

    def usage_of(self, data: bytes) -> Told | None:
        """See `Dialect`."""
        return openai_usage(data)

    def error_events(self, error: ApiError, opening: bytes) -> bytes:  # noqa: ARG002 -- the port's
        """See `Dialect`."""
        return b"data: " + error.body() + b"\n\n" + DONE_EVENT

    def error_body(self, error: ApiError) -> bytes:
        """See `Dialect`."""
        return error.body()

    def error_status(self, event: bytes) -> int | None:
        """See `Dialect`."""
        return _blames_request(event, "code")

    def closing(self) -> bytes:
        """See `Dialect`."""
        return DONE_EVENT


def _choice_has_content(choice: Any) -> bool:
    """Text, a delta with more than its role, or the end of the choice."""
    if not isinstance(choice, dict):
        return False
    if choice.get("text") or choice.get("finish_reason"):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


def _blames_request(event: bytes, field: str) -> int | None:
    try:
        code = json.loads(payload_of(event))["error"][field]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return code if type(code) is int and 400 <= code < 500 else None


_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's word for each status; any other is an `api_error`."""


class MessagesDialect:
    """Anthropic's messages."""

    markers: Final = (
        b"event: message_", b"event: error", b"event: content_block_s", b"event: ping",
    )  # fmt: skip
    _frames: Final = (b"message_start", b"content_block_start", b"content_block_stop", b"ping")

    def kind_of(self, event: bytes) -> Kind:
        """See `Dialect`."""
        name = _event_name(event)
        if name is None:
            return Kind.OTHER if event.startswith(b":") else Kind.BROKEN
        if name == b"message_stop":
            return Kind.END
        if name == b"error":
            return Kind.ERROR
        if name == b"message_delta":
            return Kind.USAGE
        return Kind.FRAME if name in self._frames else Kind.CONTENT

    def usage_of(self, data: bytes) -> Told | None:
        """See `Dialect`."""
        return messages_usage(data)

    def error_events(self, error: ApiError, opening: bytes) -> bytes:  # noqa: ARG002 -- the port's
        """See `Dialect`."""
        return b"event: error\ndata: " + self.error_body(error) + b"\n\n"

    def error_body(self, error: ApiError) -> bytes:
        """Anthropic's shape and type with OpenAI's fields: clients of either kind can read it."""
        inner = json.loads(error.body())["error"]
        inner["type"] = _ANTHROPIC_TYPES.get(error.status, "api_error")
        return json.dumps({"type": "error", "error": inner}, separators=(",", ":")).encode()

    def error_status(self, event: bytes) -> int | None:
        """Its engines' error events name no status: never the request's fault."""
        return _blames_request(event, "code")

    def closing(self) -> bytes:
        """See `Dialect`."""
        return b""


class ResponsesDialect:
    """OpenAI's responses."""

    # Names that end so (created, completed, failed, added, done) are of events without output.
    markers: Final = (b'"response":{', b"event: error", b"ed\ndata:", b".done\ndata:")
    _ends: Final = (b"response.completed", b"response.incomplete")
    _errors: Final = (b"error", b"response.failed")
    _begins: Final = (b"response.created", b"response.queued", b"response.in_progress")

    def kind_of(self, event: bytes) -> Kind:
        """See `Dialect`."""
        name = _event_name(event)
        if name is None:
            return Kind.OTHER if event.startswith(b":") else Kind.BROKEN
        if name in self._ends:
            return Kind.END
        if name in self._errors:
            return Kind.ERROR
        frame = name in self._begins or name.endswith((b".added", b".done"))
        return Kind.FRAME if frame else Kind.CONTENT

    def usage_of(self, data: bytes) -> Told | None:
        """See `Dialect`."""
        return responses_usage(data)

    def error_events(self, error: ApiError, opening: bytes) -> bytes:
        """`response.failed` with the response as it began."""
        try:
            response = json.loads(payload_of(opening))["response"]
        except (ValueError, RecursionError, LookupError, TypeError):
            response = {"object": "response", "output": []}
        told = {"code": error.code or "server_error", "message": error.message}
        event = {
            "type": "response.failed",
            "sequence_number": -1,
            "response": {**response, "status": "failed", "error": told},
        }
        data = json.dumps(event, separators=(",", ":")).encode()
        return b"event: response.failed\ndata: " + data + b"\n\n"

    def error_body(self, error: ApiError) -> bytes:
        """See `Dialect`."""
        return error.body()

    def error_status(self, event: bytes) -> int | None:
        """See `Dialect`."""
        return _blames_request(event, "code")

    def closing(self) -> bytes:
        """See `Dialect`."""
        return b""


def _event_name(event: bytes) -> bytes | None:
    if not event.startswith(b"event:"):
        return None
    line, _, rest = event.partition(b"\n")
    return line[6:].strip() if rest.startswith(b"data:") else None


CHAT: Final = ChatDialect()
MESSAGES: Final = MessagesDialect()
RESPONSES: Final = ResponsesDialect()
