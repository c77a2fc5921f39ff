"""Server-sent events of a completions stream, read as cheaply as counting tokens allows.

The instrument shares its cores with the engine it measures, so the common event costs one
regular expression and no JSON parser: with `continuous_usage_stats` each event says how many
tokens there are so far, which also stays right where the server puts several tokens into one
event. Servers without it get one token per event with text; the final usage tells whether that
was true.
"""

import json
import re
from collections.abc import Callable
from typing import Final

from loadgen.records import Record

MAX_EVENT_BYTES: Final = 1 << 20
"""A completions event is some hundred bytes; a server that sends no event end is broken."""

# In generated text a quote is escaped, so neither pattern can match inside a JSON string.
_COMPLETION_TOKENS: Final = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')
_PROMPT_TOKENS: Final = re.compile(rb'"prompt_tokens"\s*:\s*(\d+)')
_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_ERROR_EVENT: Final = re.compile(rb'^\s*\{\s*"(?:error"|object"\s*:\s*"error")')


class StreamReader:
    """Feeds a record from the bytes of one streamed answer.

    Attributes:
        done: the server sent `[DONE]`.
        error: message of an error event, or of bytes that are no stream; empty if none.
    """

    def __init__(self, record: Record, on_tokens: Callable[[float, int], None] | None) -> None:
        self._record = record
        self._on_tokens = on_tokens
        self._buffer = b""
        self._continuous = False
        self.done = False
        self.error = ""

    def feed(self, data: bytes, now: float) -> None:
        """Take body bytes that arrived at `now`."""
        buffer = self._buffer + data if self._buffer else data
        if b"\r\n" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        *events, self._buffer = buffer.split(b"\n\n")
        for event in events:
            self._event(event, now)
        if len(self._buffer) > MAX_EVENT_BYTES:
            self.error = f"an event longer than {MAX_EVENT_BYTES} bytes"
            self._buffer = b""

    def _event(self, event: bytes, now: float) -> None:
        for line in event.split(b"\n"):
            if line.startswith(b"data:"):
                self._data(line[5:].strip(), now)

    def _data(self, payload: bytes, now: float) -> None:
        if payload == b"[DONE]":
            self.done = True
            return
        if _ERROR_EVENT.match(payload):
            self.error = error_message(payload)
            return
        usage = _COMPLETION_TOKENS.search(payload)
        total = int(usage.group(1)) if usage else None
        if total is not None and _NO_CHOICES.search(payload):
            self._record.usage_tokens = total
            prompt = _PROMPT_TOKENS.search(payload)
            self._record.prompt_tokens = int(prompt.group(1)) if prompt else None
        elif total is not None:
            self._continuous = True
            self._count(total - self._record.output_tokens, now)
        elif not self._continuous:
            self._count(_tokens_by_text(payload), now)

    def _count(self, tokens: int, now: float) -> None:
        if tokens <= 0:
            return
        self._record.output_tokens += tokens
        self._record.chunk_times.append(now)
        self._record.chunk_tokens.append(tokens)
        if self._on_tokens is not None:
            self._on_tokens(now, tokens)


def _tokens_by_text(payload: bytes) -> int:
    """One for an event that carries output; 0 for a closing event with neither text nor more."""
    try:
        choices = json.loads(payload).get("choices") or []
    except (ValueError, AttributeError):
        return 0
    if not choices or not isinstance(choices[0], dict):
        return 0
    return 1 if choices[0].get("text") or choices[0].get("finish_reason") is None else 0


def error_message(payload: bytes) -> str:
    """The message in an error body of OpenAI's shape, or the bytes themselves, shortened."""
    try:
        body = json.loads(payload)
    except ValueError:
        return payload[:200].decode("utf-8", "replace").strip()
    inner = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(inner, dict):
        inner = inner.get("message") or inner.get("detail") or inner
    return str(inner)[:300]
