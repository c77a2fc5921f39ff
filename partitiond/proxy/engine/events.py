"""Reads an engine's server-sent events, just as far as relaying them safely requires.

Only complete events are relayed, so that text added later (an error, the end) never follows half an
event. Until the first content, events are held back and parsed: as long as nothing was relayed, the
request can still go to another replica or get a proper HTTP status. Afterwards a piece is parsed
only if it contains one of its dialect's markers. Who feeds the scanner bounds what it holds.

The engine is always asked for usage. If the client did not ask for it, the event with the usage is
dropped.
"""

from typing import Final

from partitiond.core.keys.tokens_charged import Usage
from partitiond.proxy.request.dialects import (
    LARGE_BYTES,
    Dialect,
    EventKind,
    output_of,
    payload_of,
)
from partitiond.proxy.request.errors import AttemptError

_END: Final = b"\n\n"
FEW_EVENTS: Final = 64
"""So many events may be held back that are as large as a request: each has all of its text. More
together are at most `LARGE_BYTES`. Chosen."""
_LAST: Final = (EventKind.USAGE, EventKind.END, EventKind.ERROR)


class EventScanner:
    """Reads one stream.

    Attributes:
        started: content was relayed, or more events without any than are held back.
        done: the stream ended properly, or with an error event.
        error: the engine's error event, or empty.
        opening: the first event of the stream.
        work_events: number of events that an engine sends only once it has read the prompt.
        output_events: number of relayed events with output; one with token ids counts for each.
        text_bytes: of the output in the others.
        frame_bytes: of a plain event beside its text, as of the first one; 0 before it.
        prompt_tokens: as reported in any event, or None.
        usage: of the whole answer, as reported at its end; or None.
    """

    __slots__ = (
        "_dialect", "_event_bytes", "_held", "_hide_usage", "_markers", "_tail", "_tail_bytes",
        "done", "error", "frame_bytes", "opening", "output_events", "prompt_tokens", "started",
        "text_bytes", "usage", "work_events",
    )  # fmt: skip

    def __init__(self, dialect: Dialect, *, hide_usage: bool = False) -> None:
        self._dialect = dialect
        self._markers = dialect.markers
        self._hide_usage = hide_usage
        self._tail: list[bytes] = []
        self._held: list[bytes] = []
        self._tail_bytes = self._event_bytes = 0
        self.started = False
        self.done = False
        self.error = b""
        self.opening = b""
        self.output_events = self.text_bytes = self.frame_bytes = self.work_events = 0
        self.prompt_tokens: int | None = None
        self.usage: Usage | None = None

    @property
    def is_clean(self) -> bool:
        """Whether plain content flows and no half event is kept: pieces may be relayed unparsed."""
        return self.frame_bytes > 0 and not (self.done or self._tail)

    @property
    def held_bytes(self) -> int:
        """Bytes of half an event, and of the events that are held back."""
        return self._tail_bytes + self._event_bytes

    def feed(self, data: bytes) -> bytes:
        """Return the complete events that may go to the client now; may be empty.

        Raises:
            AttemptError: the data is not an event, or events without any content do not end.
        """
        tail = self._tail
        if tail:
            tail.append(data)
            if _END not in tail[-2][-1:] + data:
                return self._keep(tail, self._tail_bytes + len(data))
            data = b"".join(tail)
            self._keep([], 0)
        if not data.endswith(_END):
            cut = data.rfind(_END) + 2
            if cut < 2:
                cut = 0
            self._keep([data[cut:]], len(data) - cut)
            data = data[:cut]
            if not data:
                return b""
        if self.frame_bytes and self._is_plain(data):
            events = data.count(_END)
            self.output_events += events
            self.text_bytes += len(data) - events * self.frame_bytes
            return data
        return self._feed_carefully(data)

    def _is_plain(self, data: bytes) -> bool:
        return all(marker not in data for marker in self._markers)

    def _keep(self, tail: list[bytes], size: int) -> bytes:
        self._tail, self._tail_bytes = tail, size
        return b""

    def _feed_carefully(self, data: bytes) -> bytes:
        out = self._held
        self._held = []
        for event in data.split(_END)[:-1]:
            if self.done:
                break
            self._take(event, out)
        self._event_bytes = 0 if self.started or self.done else self._event_bytes + len(data)
        if not (self.started or self.done):
            are_few = not self.work_events and len(out) <= FEW_EVENTS
            if are_few or self._event_bytes <= LARGE_BYTES:
                self._held = out
                return b""
            if not self.work_events:
                raise AttemptError("bad_response", "The engine sends events without any content.")
            self.started = True
            self.frame_bytes = len(out[-1]) + len(_END)
            self._event_bytes = 0
        if not out:
            return b""
        return _END.join(out) + _END

    def _note_output(self, event: bytes) -> None:
        text, tokens = output_of(payload_of(event))
        self.output_events += tokens or 1
        if not tokens:
            self.text_bytes += text
        # A large event is not read, so what of it is text is not known.
        if not self.frame_bytes and len(event) <= LARGE_BYTES and self._is_plain(event):
            self.frame_bytes = len(event) + len(_END) - text

    def _take(self, event: bytes, out: list[bytes]) -> None:
        """Process one event, and append to `out` what the client gets."""
        kind = self._dialect.kind_of(event)
        if kind is EventKind.BROKEN:
            raise AttemptError("bad_response", "The engine sent something that is no event.")
        if kind is EventKind.OTHER:
            out.append(event)
            return
        if kind is EventKind.END and not self.opening:
            raise AttemptError("truncated", "The engine ended the stream without any event.")
        self.opening = self.opening or event
        self._note_usage(kind, event)
        self.work_events += kind is EventKind.CONTENT or kind is EventKind.FRAME
        if kind is EventKind.CONTENT:
            self.started = True
            self._note_output(event)
        elif kind is EventKind.USAGE:
            if self._hide_usage:
                return
        elif kind is not EventKind.FRAME and kind is not EventKind.BEGUN:
            self.error = event if kind is EventKind.ERROR else b""
            self.done = True
        out.append(event)

    def _note_usage(self, kind: EventKind, event: bytes) -> None:
        """Note reported usage: the last events have the whole usage, earlier ones the prompt's."""
        told = self._dialect.usage_of(payload_of(event))
        if told is None:
            return
        prompt, output = told
        if prompt is None:
            prompt = self.prompt_tokens
        self.prompt_tokens = prompt
        if kind in _LAST and prompt is not None and output is not None:
            self.usage = (prompt, output)
