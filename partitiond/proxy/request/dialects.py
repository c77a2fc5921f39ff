"""Interprets the streams of each API: content, usage, errors and the proper end.

completions, chat completions    `data: {...}` events; `data: {"error": ...}`; `data: [DONE]`
messages (Anthropic's)           named events; `error`; `message_stop`
responses (OpenAI's)             named events; `error`, `response.failed`; `response.completed`

A raw piece of the stream that holds anything but plain output (log probabilities and token ids are
more) contains at least one of the byte strings in `markers`. The searches are exact: neither a raw
quote nor a raw line break can occur inside a JSON string, so text that a model writes never looks
like a marker.
"""

import enum
import json
from typing import Any, Final

from partitiond.core.units import MIB
from partitiond.proxy.request.errors import (
    DONE_EVENT,
    REQUEST_REFUSED,
    ApiError,
    in_openai_shape,
)
from partitiond.proxy.request.reported_usage import (
    TokenCounts,
    messages_usage,
    openai_usage,
    responses_usage,
)

LARGE_BYTES: Final = 1 * MIB
"""Larger events are output, such as log probabilities, and are not read: that would take the event
loop 10 ms for each MiB. Errors and usage are never so large. Chosen."""
Markers = tuple[bytes, bytes, bytes, bytes, bytes, bytes]


class EventKind(enum.Enum):
    """The kind of an event."""

    FRAME = enum.auto()
    """Carries no output: a role, the begin or end of a block, a token that is held back."""
    BEGUN = enum.auto()
    """Carries no output, and comes before the engine has read the prompt: a created response."""
    CONTENT = enum.auto()
    """Carries output; if no usage is reported, keys pay for each such event that was sent."""
    OTHER = enum.auto()
    """Neither starts nor ends the answer: a comment, a ping."""
    USAGE = enum.auto()
    """Reports the usage of the whole answer; carries no output. Chats send it only on request."""
    ERROR = enum.auto()
    END = enum.auto()
    BROKEN = enum.auto()
    """The bytes are not an event."""


class Dialect:
    """The streams of one API.

    Attributes:
        markers: see the module.
    """

    markers: Markers

    def kind_of(self, event: bytes) -> EventKind:
        """Return the kind of an event, given without its final empty line; parse it if needed."""
        raise NotImplementedError

    def usage_of(self, data: bytes) -> TokenCounts | None:
        """Usage that a whole answer or the data of an event reports."""
        raise NotImplementedError

    def error_events(self, error: ApiError, opening: bytes) -> bytes:
        """Return the events that report an error of ours within a stream and end the stream.

        Args:
            opening: the first event of the stream, if it was seen.
        """
        raise NotImplementedError

    def error_body(self, error: ApiError) -> bytes:
        """Return the body of an error of ours that replaces the answer."""
        return error.body()

    def refusal_body(self, status: int, body: bytes) -> bytes:
        """Return an engine's error answer in this API's shape."""
        return in_openai_shape(status, body)

    def error_status(self, event: bytes) -> int | None:
        """Status in an engine's error event if the event blames the request, else None (as always
        for messages, whose error events have no status).
        """
        try:
            told = json.loads(payload_of(event))
            code = told.get("error", told)["code"]
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return None
        return code if type(code) is int and code in REQUEST_REFUSED else None

    def closing(self) -> bytes:
        """Return the bytes that end the stream properly after an engine's own error event."""
        return b""


def payload_of(event: bytes) -> bytes:
    """Return the data of an event (engines write it in one line)."""
    at = event.find(b"data:")
    return event[at + 5 :].strip() if at >= 0 else b""


_TEXTS: Final = frozenset(
    {"arguments", "content", "delta", "partial_json", "reasoning", "reasoning_content", "refusal",
     "text", "thinking"}
)  # fmt: skip
"""Fields that engines write output into, if they are strings; all dialects together."""


def output_of(payload: bytes) -> tuple[int, int]:
    """Return the bytes of output in an event's data, apart from how JSON writes some of them, and
    its tokens as far as it has their ids.

    A large event is not read: its tokens are then known only by its usage.
    """
    if len(payload) > LARGE_BYTES:
        return 0, 0
    found = tokens = 0
    try:
        todo = [json.loads(payload)]
    except (ValueError, RecursionError):
        return 0, 0
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, str):
                    if name in _TEXTS:
                        found += len(inner.encode("utf-8", "surrogatepass"))
                elif name == "token_ids" and isinstance(inner, list):
                    tokens += len(inner)
                elif name not in {"logprobs", "prompt_token_ids"}:
                    todo.append(inner)
    return found, tokens


class ChatDialect(Dialect):
    """Completions and chat completions."""

    markers = (
        b"[DONE]", b'"error"', b'"choices":[]', b'"choices": []', b'"logprobs":{', b'"token_ids":[',
    )  # fmt: skip

    def kind_of(self, event: bytes) -> EventKind:
        """See `Dialect`."""
        if not event.startswith(b"data:"):
            named = event.startswith((b":", b"event:", b"id:", b"retry:"))
            return EventKind.OTHER if named else EventKind.BROKEN
        if len(event) > LARGE_BYTES:
            return EventKind.CONTENT
        payload = event[5:].strip()
        if payload == b"[DONE]":
            return EventKind.END
        try:
            parsed = json.loads(payload)
        except (ValueError, RecursionError):
            return EventKind.BROKEN
        if not isinstance(parsed, dict):
            return EventKind.FRAME
        if parsed.get("error") or parsed.get("object") == "error":
            return EventKind.ERROR
        choices = parsed.get("choices")
        if not isinstance(choices, list):
            return EventKind.FRAME
        if not choices and parsed.get("usage"):
            return EventKind.USAGE
        return EventKind.CONTENT if any(map(_choice_has_content, choices)) else EventKind.FRAME

    def usage_of(self, data: bytes) -> TokenCounts | None:
        """See `Dialect`."""
        return openai_usage(data)

    def error_events(self, error: ApiError, opening: bytes) -> bytes:  # noqa: ARG002 -- others need it
        """See `Dialect`."""
        return b"data: " + error.body() + b"\n\n" + DONE_EVENT

    def closing(self) -> bytes:
        """See `Dialect`."""
        return DONE_EVENT


def _choice_has_content(choice: Any) -> bool:
    """Whether it has text, tokens, a delta with more than its role, or the end of the choice."""
    if not isinstance(choice, dict):
        return False
    if any(map(choice.get, ("text", "finish_reason", "token_ids", "logprobs"))):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


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
"""Anthropic's word for each status; any other status is an `api_error`."""


class MessagesDialect(Dialect):
    """Anthropic's messages."""

    markers = (
        b"event: message_s", b"event: message_d", b"event: error", b"event: content_block_start",
        b"event: content_block_stop", b"event: ping",
    )  # fmt: skip
    _frames: Final = (b"message_start", b"content_block_start", b"content_block_stop", b"ping")

    def kind_of(self, event: bytes) -> EventKind:
        """See `Dialect`."""
        name = _event_name(event)
        if name is None:
            return EventKind.OTHER if event.startswith(b":") else EventKind.BROKEN
        if name == b"message_stop":
            return EventKind.END
        if name == b"error":
            return EventKind.ERROR
        if name == b"message_delta":
            return EventKind.USAGE
        return EventKind.FRAME if name in self._frames else EventKind.CONTENT

    def usage_of(self, data: bytes) -> TokenCounts | None:
        """See `Dialect`."""
        return messages_usage(data)

    def error_events(self, error: ApiError, opening: bytes) -> bytes:  # noqa: ARG002 -- others need it
        """See `Dialect`."""
        return b"event: error\ndata: " + self.error_body(error) + b"\n\n"

    def error_body(self, error: ApiError) -> bytes:
        """Return Anthropic's shape and type with OpenAI's fields: both kinds of clients read it."""
        return self.refusal_body(error.status, error.body())

    def refusal_body(self, status: int, body: bytes) -> bytes:
        """See `Dialect`."""
        inner = json.loads(in_openai_shape(status, body))["error"]
        inner["type"] = _ANTHROPIC_TYPES.get(status, "api_error")
        return json.dumps({"type": "error", "error": inner}, separators=(",", ":")).encode()


class ResponsesDialect(Dialect):
    """OpenAI's responses."""

    # Events whose names end in these (created, completed, failed, added, done) have no output.
    markers = (
        b'"response":{', b"event: error", b"ed\ndata:", b".done\ndata:", b'"logprobs":[{',
        b'"logprobs": [{',
    )  # fmt: skip
    _ends: Final = (b"response.completed", b"response.incomplete")
    _errors: Final = (b"error", b"response.failed")
    _begins: Final = (b"response.created", b"response.queued", b"response.in_progress")

    def kind_of(self, event: bytes) -> EventKind:
        """See `Dialect`."""
        name = _event_name(event)
        if name is None:
            return EventKind.OTHER if event.startswith(b":") else EventKind.BROKEN
        if name in self._ends:
            return EventKind.END
        if name in self._errors:
            return EventKind.ERROR
        if name in self._begins:
            return EventKind.BEGUN
        return EventKind.FRAME if name.endswith((b".added", b".done")) else EventKind.CONTENT

    def usage_of(self, data: bytes) -> TokenCounts | None:
        """See `Dialect`."""
        return responses_usage(data)

    def error_events(self, error: ApiError, opening: bytes) -> bytes:
        """Return `response.failed` with the response as it was when the stream began."""
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


def _event_name(event: bytes) -> bytes | None:
    if not event.startswith(b"event:"):
        return None
    line, _, rest = event.partition(b"\n")
    return line[6:].strip() if rest.startswith(b"data:") else None


CHAT: Final = ChatDialect()
MESSAGES: Final = MessagesDialect()
RESPONSES: Final = ResponsesDialect()
