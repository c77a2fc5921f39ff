"""Server-sent events of an engine: just enough understanding to relay them safely.

Only complete events are let through, so whatever is added later (an error, the end) never sticks
to half an event. Engines end each event with an empty line ("\\n\\n"), and usually send one event
per chunk, so the usual case is one `endswith` and two substring searches, without a copy.

Until the first content, events are held back and parsed: as long as nothing was let through, the
request can still go to another replica or get a proper HTTP status. Afterwards only `error` and
`[DONE]` are looked for. Both searches are exact: inside a JSON string neither a raw quote nor a
raw line break can occur.
"""

import json
import re
from typing import Any, Final

from partitiond.proxy.errors import AttemptError

_END: Final = b"\n\n"
_ERROR: Final = b'data: {"error"'
_DONE: Final = b"[DONE]"
_PROMPT_TOKENS: Final = re.compile(rb'"prompt_tokens":\s*(\d{1,9})')
_OUTPUT_TOKENS: Final = re.compile(rb'"completion_tokens":\s*(\d{1,9})')


def find_usage(data: bytes) -> tuple[int, int] | None:
    """(prompt tokens, output tokens) an engine reports in an answer or its last event."""
    prompt = _PROMPT_TOKENS.search(data)
    output = _OUTPUT_TOKENS.search(data)
    if prompt is None or output is None:
        return None
    return int(prompt.group(1)), int(output.group(1))


class EventScanner:
    """Reads one stream.

    Attributes:
        started: content was let through.
        done: the stream ended properly, or with an error event.
        error: payload of the engine's error event, or empty.
        events: number of events let through.
    """

    __slots__ = (
        "_held",
        "_last",
        "_max_event_bytes",
        "_tail",
        "done",
        "error",
        "events",
        "started",
    )

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._tail = b""
        self._held: list[bytes] = []
        self._last = b""
        self.started = False
        self.done = False
        self.error = b""
        self.events = 0

    def feed(self, data: bytes) -> bytes:
        """Complete events that may go to the client now; may be empty.

        Raises:
            AttemptError: an event is too large, or is no event at all.
        """
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if not data.endswith(_END):
            cut = data.rfind(_END) + 2
            if cut < 2:
                cut = 0
            self._keep(data[cut:])
            data = data[:cut]
            if not data:
                return b""
        if self.started and _DONE not in data and _ERROR not in data:
            self.events += data.count(_END)
            self._last = data
            return data
        return self._feed_carefully(data)

    def usage(self) -> tuple[int, int] | None:
        """Usage in the stream's last event before its end, if it was asked for."""
        return find_usage(self._last)

    def _keep(self, tail: bytes) -> None:
        if len(tail) > self._max_event_bytes:
            raise AttemptError("bad_response", "The engine sent an event that is too large.")
        self._tail = tail

    def _feed_carefully(self, data: bytes) -> bytes:
        out = self._held
        self._held = []
        for event in data.split(_END)[:-1]:
            if self.done:
                break
            self._look_at(event)
            out.append(event)
        if not (self.started or self.done):
            self._hold(out)
            return b""
        self.events += len(out) - (1 if self.done else 0)
        return _END.join(out) + _END

    def _hold(self, events: list[bytes]) -> None:
        if sum(map(len, events)) > self._max_event_bytes:
            raise AttemptError("bad_response", "The engine sends events without any content.")
        self._held = events

    def _look_at(self, event: bytes) -> None:
        if not event.startswith(b"data:"):
            if self.started or event.startswith((b":", b"event:", b"id:", b"retry:")):
                return
            raise AttemptError("bad_response", "The engine sent something that is no event.")
        payload = event[5:].strip()
        if payload == _DONE:
            self._end()
        elif payload.startswith(b'{"error"'):
            self.error = payload
            self.done = True
        else:
            self._last = event
            if not self.started:
                self.started = _has_content(payload)

    def _end(self) -> None:
        if not self._last:
            raise AttemptError("truncated", "The engine ended the stream without any event.")
        self.done = True


def _has_content(payload: bytes) -> bool:
    try:
        parsed = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise AttemptError("bad_response", "The engine sent an unreadable event.") from error
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    return isinstance(choices, list) and any(map(_choice_has_content, choices))


def _choice_has_content(choice: Any) -> bool:
    """Text, a delta with more than its role, or the end of the choice."""
    if not isinstance(choice, dict):
        return False
    if choice.get("text") or choice.get("finish_reason"):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")
