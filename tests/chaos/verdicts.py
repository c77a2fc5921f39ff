"""Judges an answer from the view of its client; a bad answer is an AssertionError."""

import enum
import json

from tests.chaos.echo_engine import full_text
from tests.chaos.raw_client import Answer

_DONE = "data: [DONE]"


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
        check_error(answer)
        return Verdict.REFUSED
    assert answer.complete, f"cut off without a word: {answer}"
    if not answer.is_stream:
        choice = json.loads(answer.body)["choices"][0]
        text = choice["message"]["content"] if is_chat else choice["text"]
        assert text == want, f"not its own answer: {text[:200]!r} instead of {want[:200]!r}"
        return Verdict.COMPLETE
    text, error = read_stream(answer.body, is_chat=is_chat)
    if error is None:
        assert text == want, f"truncated or mixed up: {text[:200]!r} instead of {want[:200]!r}"
        return Verdict.COMPLETE
    assert want.startswith(text), f"mixed up: {text[:200]!r} is no beginning of {want[:200]!r}"
    check_error_object(error)
    return Verdict.BROKEN_OFF


def read_stream(body: bytes, *, is_chat: bool) -> tuple[str, object | None]:
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


def check_error(answer: Answer) -> None:
    """An error answer is complete, in the known shape, and can be found again in the logs."""
    assert answer.status >= 400, f"neither an answer nor an error: {answer}"
    assert answer.complete, f"an error that is cut off: {answer}"
    assert answer.headers.get("x-request-id"), "an error without a request id"
    check_error_object(json.loads(answer.body)["error"])


def check_error_object(error: object) -> None:
    assert isinstance(error, dict)
    assert isinstance(error["message"], str)
    assert error["message"]
    assert {"type", "code", "param"} <= error.keys()
