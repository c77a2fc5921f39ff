"""Reads HTTP byte by byte as a client without assumptions, and judges how an answer ended.

A bad answer is an AssertionError.
"""

import asyncio
import contextlib
import dataclasses
import enum
import json
from typing import Any

from tests.proxy.conftest import post
from tests.proxy.echo import full_text
from tests.proxy.virtual import RawClient

_DONE = "data: [DONE]"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came.

    Attributes:
        status: 0 when the connection ended before a head.
        complete: it ended as its framing says; else it was cut off.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    @property
    def code(self) -> str:
        """The error's code, or empty."""
        with contextlib.suppress(ValueError, LookupError, TypeError):
            return str(json.loads(self.body)["error"]["code"])
        return ""


class Client:
    """One connection at a time, kept while the other side keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._raw: RawClient | None = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._raw is not None:
            self._raw.leave()
            self._raw = None

    async def ask(self, prompt: str, *, chat: bool = False, stream: bool = False) -> Answer:
        """Send a request of generation, and read its answer to the end."""
        messages = [{"role": "user", "content": prompt}]
        body: dict[str, Any] = {"model": "m", "stream": stream, "max_tokens": 5}
        body |= {"messages": messages} if chat else {"prompt": prompt}
        if self._raw is None or self._raw.writer.is_closing():
            self._raw = await RawClient.to(self._port)
        self._raw.send(post(body, "/v1/chat/completions" if chat else "/v1/completions"))
        answer = await _read(self._raw.reader)
        if not answer.complete or answer.headers.get("connection", "").lower() == "close":
            self.__exit__()
        return answer


async def _read(reader: asyncio.StreamReader) -> Answer:
    """The next answer; what is there of it when the connection breaks."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return Answer(0, {}, b"", False)
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    body, complete = await _body(reader, headers)
    return Answer(int(first.split(" ")[1]), headers, body, complete)


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    try:
        if headers.get("transfer-encoding") == "chunked":
            while True:
                size = int(await reader.readuntil(b"\r\n"), 16)
                data = await reader.readexactly(size + 2)
                assert data.endswith(b"\r\n"), "a chunk is longer than it says"
                if size == 0:
                    return b"".join(parts), True
                parts.append(data[:-2])
        return await reader.readexactly(int(headers["content-length"])), True
    except asyncio.IncompleteReadError as error:
        return b"".join([*parts, error.partial]), False
    except ConnectionError:
        return b"".join(parts), False


class Verdict(enum.StrEnum):
    """The only three ways in which a request may end."""

    COMPLETE = "complete"
    """All of its own answer."""
    REFUSED = "refused"
    """An error with a status, in the shape of OpenAI's API."""
    BROKEN_OFF = "broken off"
    """A stream with a true beginning of its own answer, an error event and its proper end."""


def judge(answer: Answer, token: str, count: int, *, is_chat: bool) -> Verdict:
    """The verdict on one answer of an echo engine."""
    want = full_text(token, count)
    if answer.status != 200:
        _check_error(answer)
        return Verdict.REFUSED
    assert answer.complete, f"cut off without a word: {answer}"
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        choice = json.loads(answer.body)["choices"][0]
        text = choice["message"]["content"] if is_chat else choice["text"]
        assert text == want, f"not its own answer: {text[:200]!r} instead of {want[:200]!r}"
        return Verdict.COMPLETE
    text, error = _read_stream(answer.body, is_chat=is_chat)
    if error is None:
        assert text == want, f"truncated or mixed up: {text[:200]!r} instead of {want[:200]!r}"
        return Verdict.COMPLETE
    assert want.startswith(text), f"mixed up: {text[:200]!r} is no beginning of {want[:200]!r}"
    _check_error_object(error)
    return Verdict.BROKEN_OFF


def _read_stream(body: bytes, *, is_chat: bool) -> tuple[str, object | None]:
    """Text and error of a stream of events, which must be whole and end with `[DONE]`."""
    text = body.decode()
    assert text.endswith("\n\n"), f"ends inside an event: {text[-200:]!r}"
    events = text.split("\n\n")[:-1]
    assert events, "a stream without events"
    assert events[-1] == _DONE, f"no proper end: {events[-1][:200]!r}"
    said: list[str] = []
    error: object | None = None
    for event in events[:-1]:
        assert event.startswith("data: {"), f"no event: {event[:200]!r}"
        assert error is None, "content after an error event"
        payload = json.loads(event[6:])
        error = payload.get("error")
        for choice in payload.get("choices", ()):
            said.append(choice["delta"].get("content", "") if is_chat else choice["text"])
    return "".join(said), error


def _check_error(answer: Answer) -> None:
    """An error answer is complete, in the known shape, and can be found again in the logs."""
    assert answer.status >= 400, f"neither an answer nor an error: {answer}"
    assert answer.complete, f"an error that is cut off: {answer}"
    assert answer.headers.get("x-request-id"), "an error without a request id"
    _check_error_object(json.loads(answer.body)["error"])


def _check_error_object(error: Any) -> None:
    assert isinstance(error["message"], str)
    assert error["message"]
    assert {"type", "code", "param"} <= error.keys()
