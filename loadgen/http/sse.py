"""Reads the server-sent events of a completions stream, as cheaply as counting tokens allows.

The instrument shares its cores with the engine that it measures, so the common event costs three
searches and no JSON parser: with `continuous_usage_stats` each event says how many tokens there
are so far. This count also stays right if the server puts several tokens into one event. For
servers without these stats, each event with text counts as one token; the final usage tells
whether that was true.
"""

import json
import re
from collections.abc import Callable
from typing import Final

from loadgen.results.records import Record

MAX_EVENT_BYTES: Final = 1 << 28
"""One event may be as large as an answer; a server that sends no event end is broken. Chosen."""

# In generated text a quote is escaped, so neither pattern can match inside a JSON string.
_COMPLETION_TOKENS: Final = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')
_PROMPT_TOKENS: Final = re.compile(rb'"prompt_tokens"\s*:\s*(\d+)')
_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_USAGE: Final = b'"completion_tokens":'
_CHOICES: Final = b'"choices":'
_DIGITS: Final = re.compile(rb"\s*(\d+)")
_CHAT_OUTPUT: Final = ("content", "reasoning_content", "reasoning", "tool_calls")
_ERROR_EVENT: Final = re.compile(rb'^\s*\{\s*"(?:error"|object"\s*:\s*"error")')


class StreamReader:
    """Fills a record from the bytes of one streamed answer.

    Attributes:
        done: the server sent `[DONE]`.
        error: message of an error event, or of bytes that are no event stream; empty if none.
    """

    def __init__(self, record: Record, on_tokens: Callable[[float, int], None] | None) -> None:
        self._record = record
        self._on_tokens = on_tokens
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._continuous = False
        self.done = False
        self.error = ""

    def feed(self, data: bytes, now: float) -> None:
        """Take body bytes that arrived at `now`."""
        if self._parts:
            self._hold(data)
            if b"\n" not in data:
                return
            data = b"".join(self._parts)
            self._parts, self._held_bytes = [], 0
        if b"\r\n" in data:
            data = data.replace(b"\r\n", b"\n")
        position = 0
        while (end := data.find(b"\n\n", position)) >= 0:
            one_line = data.find(b"\n", position, end) < 0
            if not (one_line and self._common_event(data, position, end, now)):
                self._event(data[position:end], now)
            position = end + 2
        if position < len(data):
            self._hold(data[position:])

    def _hold(self, data: bytes) -> None:
        self._parts.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > MAX_EVENT_BYTES:
            self.error = f"an event longer than {MAX_EVENT_BYTES} bytes"
            self._parts, self._held_bytes = [], 0

    def document(self, body: bytes, now: float) -> None:
        """Take an answer that is one JSON document: it counts as all of its output at once."""
        prompt = _PROMPT_TOKENS.search(body)
        self._record.prompt_tokens = int(prompt.group(1)) if prompt else None
        self._count(max(1, self._record.wanted_output_tokens), now)

    def chunk(self, data: bytes, now: float) -> bool:
        """Count one event from the raw bytes of one whole HTTP chunk, the form of most arrivals.

        True if `data` was exactly that: a size line, one line of JSON with output and the tokens
        so far, and the line ends of event and chunk. False leaves everything to the readers of
        HTTP and of events; both ways give the same counts.
        """
        head = data.find(b"\r\n", 0, 10)
        end = len(data) - 4
        # The first line end after the size line is the event's own, so there is only one line.
        if head < 1 or data.find(b"\n", head + 2) != end or not data.endswith(b"\n\n\r\n"):
            return False
        try:
            if int(data[:head], 16) != end - head or self._parts:
                return False
        except ValueError:
            return False
        return self._common_event(data, head + 2, end, now)

    def _common_event(self, data: bytes, start: int, end: int, now: float) -> bool:
        """Count an event of the most common form: one line, with output and the tokens so far.

        False leaves the event to `_event`, which reads every form.
        """
        usage = data.rfind(_USAGE, start, end)
        # The search begins with a rare byte and is therefore a search for that byte.
        choice = data.find(b"[{", start, end)
        if usage < choice or choice < 0 or not data.endswith(_CHOICES, start, choice):
            return False
        total = _DIGITS.match(data, usage + len(_USAGE))
        if total is None or not data.startswith(b"data:", start):
            return False
        self._continuous = True
        # The same as `_count`, without the call: every chunk takes this path.
        record = self._record
        tokens = int(total[1]) - record.output_tokens
        if tokens > 0:
            record.output_tokens += tokens
            record.chunk_times.append(now)
            record.chunk_tokens.append(tokens)
            if self._on_tokens is not None:
                self._on_tokens(now, tokens)
        return True

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
    """1 for an event that carries output; 0 for a closing event with neither text nor more."""
    try:
        choices = json.loads(payload).get("choices") or []
    except (ValueError, AttributeError):
        return 0
    if not choices or not isinstance(choices[0], dict):
        return 0
    choice = choices[0]
    delta = choice.get("delta")
    if isinstance(delta, dict):
        # A chat answer begins with an event that only names the role.
        return 1 if any(delta.get(name) for name in _CHAT_OUTPUT) else 0
    return 1 if choice.get("text") or choice.get("finish_reason") is None else 0


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
